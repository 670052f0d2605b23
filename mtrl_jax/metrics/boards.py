"""Rows for TensorBoard and Weights & Biases: numbers in place of populations."""

from __future__ import annotations

import math
import os
import pathlib
import uuid
import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from mtrl_jax.metrics import jsonl


def open_tensorboard(run: pathlib.Path, purge: int | None) -> Any:
    """Returns the writer of ``run/tensorboard``; steps from ``purge`` on are hidden."""
    import tensorboardX

    return tensorboardX.SummaryWriter(str(run / "tensorboard"), purge_step=purge)


WANDB_ID = "wandb_id"  # a file in the run folder


class WandbRun:
    """A W&B run that goes silent at its first failure: all it is given is on disk, too."""

    def __init__(self, opened: Any):
        self._opened = opened
        self.id = opened.id

    def log(self, row: Mapping[str, Any], step: int) -> None:
        """Show a row's numbers at a step."""
        self._call(lambda run: run.log(dict(row), step=step))

    def add_config(self, values: Mapping[str, Any]) -> None:
        """Show values as settings of the run."""
        self._call(lambda run: run.config.update(dict(values), allow_val_change=True))

    def finish(self, exit_code: int) -> None:
        """End the W&B run; it is marked as failed unless ``exit_code`` is 0."""
        self._call(lambda run: run.finish(exit_code=exit_code))

    def _call(self, call: Callable[[Any], None]) -> None:
        if self._opened is None:
            return
        try:
            call(self._opened)
        except Exception as error:
            self._opened = None
            warnings.warn(
                f"W&B gets no more of this run ({_said(error)}); what it misses is in the "
                "run folder",
                stacklevel=4,
            )


def open_wandb(arguments: Mapping[str, Any], run: str | os.PathLike) -> WandbRun:
    """Returns a W&B run that keeps its files in the run folder.

    A run folder has one W&B run, whose id ``keep_id`` wrote down: a resumed run goes on
    with it.

    Raises:
        ValueError: W&B is not installed.
        ConnectionError: it does not begin a run.
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
    try:
        return WandbRun(wandb.init(**{**given, **arguments}))
    except Exception as error:
        raise ConnectionError(
            f"logging.wandb: W&B does not begin ({_said(error)}); log in, set "
            "WANDB_MODE=offline, or leave it out"
        ) from error


def _said(error: Exception) -> str:
    """Returns the name of an error and the beginning of what it says, in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


def keep_id(opened: WandbRun, run: pathlib.Path) -> None:
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
