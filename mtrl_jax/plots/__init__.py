"""Pictures of a run, from the files in its folder alone.

    returns.png          one panel per task: the population's spread, its median and the
                         best member over env steps, with the random and reference scores
    hyperparameters.png  one panel per searched hyperparameter: every member's schedule
    metrics.png          one panel per measure of training: losses, entropies, ...
    tasks.png            the final evaluation, a bar a task
    in_context.png       of an evaluate stage, the return per episode of frozen weights
    lineage.png          who copied whom, coloured by the ancestor in generation 0

A folder without any PBT round has no lineage.png, one without a search or schedule no
hyperparameters.png, one of a single task or without its evaluation no tasks.png, one
that learned from a dataset no returns.png.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

from mtrl_jax.plots import (
    context_curves,
    figures,
    hyperparameters,
    lineage,
    measures,
    returns,
    run_series,
    tasks,
)


def draw(run: str | os.PathLike) -> list[pathlib.Path]:
    """Returns the pictures written to ``run/plots``.

    Raises:
        ValueError: the folder holds no metrics.
    """
    data = run_series.load(run)
    folder = pathlib.Path(run) / "plots"
    folder.mkdir(exist_ok=True)
    drawn = {
        "returns.png": returns.of_run(data),
        "hyperparameters.png": hyperparameters.of_run(data),
        "metrics.png": measures.of_run(data),
        "tasks.png": tasks.of_run(data),
        "in_context.png": context_curves.of_run(data),
        "lineage.png": lineage.of_run(data),
    }
    return [
        figures.save(f, folder / name) for name, f in drawn.items() if f is not None
    ]


def compare(runs: Sequence[str | os.PathLike], out: str | os.PathLike) -> pathlib.Path:
    """Returns ``out`` after drawing several runs into it, one panel per task.

    Each run is its median over members and the band from the 10th to the 90th
    percentile; a task is drawn for the runs that have it.

    Raises:
        ValueError: no run is given, or one of them holds no metrics.
    """
    if not runs:
        raise ValueError("no run to compare; give at least one run folder")
    figure = returns.of_runs([run_series.load(run) for run in runs])
    return figures.save(figure, pathlib.Path(out))
