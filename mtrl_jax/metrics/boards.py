"""Rows for TensorBoard and Weights & Biases: numbers in place of populations."""

from __future__ import annotations

import math
import os
import pathlib
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from mtrl_jax.metrics import jsonl


def open_tensorboard(run: pathlib.Path, purge: int | None) -> Any:
    """Returns the writer of ``run/tensorboard``; steps from ``purge`` on are hidden."""
    import tensorboardX

    return tensorboardX.SummaryWriter(str(run / "tensorboard"), purge_step=purge)


WANDB_ID = "wandb_id"  # a file in the run folder


def open_wandb(arguments: Mapping[str, Any], run: str | os.PathLike) -> Any:
    """Returns a W&B run that keeps its files in the run folder.

    A run folder has one W&B run, whose id ``keep_id`` wrote down: a resumed run goes on
    with it.

    Raises:
        ValueError: W&B is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise ValueError(
            "wandb is not installed; run: pip install mtrl-jax[wandb], or turn it off"
        ) from None
    path = pathlib.Path(run) / WANDB_ID
    known = path.read_text(encoding="utf-8").strip() if path.exists() else ""
    given = {"dir": str(run), "id": known or uuid.uuid4().hex, "resume": "allow"}
    return wandb.init(**{**given, **arguments})


def keep_id(opened: Any, run: pathlib.Path) -> None:
    """Write down the id of a W&B run for those that resume the run in the folder."""
    jsonl.replace(run / WANDB_ID, f"{opened.id}\n".encode())


def constants(
    row: Mapping[str, Any], curves: Collection[str] | None
) -> dict[str, list]:
    """Returns the hyperparameters ``[P]`` of a row that nothing moves in the run."""
    if curves is None:
        return {}
    return {name: x for name, x in row["hparams"].items() if name not in curves}


def scalars(
    row: Mapping[str, Any], curves: Collection[str] | None = None
) -> dict[str, float]:
    """Returns what TensorBoard and W&B show of a row: numbers, not populations.

    Of hyperparameters those in ``curves``; None: all.
    """
    shown = {f"run/{name}": row[name] for name in ("steps_per_s", "compiles")}
    for group in ("returns", "evaluation"):
        for task, values in row.get(group, {}).items():
            shown[f"{group}/{task}/mean"] = _over(np.mean, values)
            shown[f"{group}/{task}/best"] = _over(np.max, values)
    for name, values in row["metrics"].items():
        shown[f"metrics/{name}"] = _over(np.mean, values)
    still = constants(row, curves)
    for name, values in row["hparams"].items():
        if name in still:
            continue
        shown[f"hparams/{name}/median"] = _over(np.median, values)
        shown[f"hparams/{name}/min"] = _over(np.min, values)
        shown[f"hparams/{name}/max"] = _over(np.max, values)
    return {name: x for name, x in shown.items() if x is not None and x == x}


def _over(statistic: Callable[..., Any], values: list) -> float:
    known = [x for x in values if x is not None]
    return float(statistic(known)) if known else math.nan
