"""Rows for TensorBoard and Weights & Biases: numbers in place of populations."""

from __future__ import annotations

import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def open_tensorboard(run: pathlib.Path, purge: int | None) -> Any:
    """Returns the writer of ``run/tensorboard``; steps from ``purge`` on are hidden."""
    import tensorboardX

    return tensorboardX.SummaryWriter(str(run / "tensorboard"), purge_step=purge)


def open_wandb(arguments: Mapping[str, Any], run: str | os.PathLike) -> Any:
    """Returns a W&B run that keeps its files in the run folder.

    Raises:
        ValueError: W&B is not installed.
    """
    try:
        import wandb
    except ImportError:
        raise ValueError(
            "wandb is not installed; run: pip install mtrl-jax[wandb], or turn it off"
        ) from None
    return wandb.init(**{"dir": str(run), **arguments})


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """Returns what TensorBoard and W&B show of a row: numbers, not populations."""
    shown = {f"run/{name}": row[name] for name in ("steps_per_s", "compiles")}
    for group in ("returns", "evaluation"):
        for task, values in row.get(group, {}).items():
            shown[f"{group}/{task}/mean"] = _over(np.mean, values)
            shown[f"{group}/{task}/best"] = _over(np.max, values)
    for name, values in row["metrics"].items():
        shown[f"metrics/{name}"] = _over(np.mean, values)
    for name, values in row["hparams"].items():
        shown[f"hparams/{name}/median"] = _over(np.median, values)
        shown[f"hparams/{name}/min"] = _over(np.min, values)
        shown[f"hparams/{name}/max"] = _over(np.max, values)
    return {name: x for name, x in shown.items() if x is not None and x == x}


def _over(statistic: Callable[..., Any], values: list) -> float:
    known = [x for x in values if x is not None]
    return float(statistic(known)) if known else math.nan
