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
    makers = {
        "returns.png": returns.of_run,
        "hyperparameters.png": hyperparameters.of_run,
        "metrics.png": measures.of_run,
        "tasks.png": tasks.of_run,
        "in_context.png": context_curves.of_run,
        "lineage.png": lineage.of_run,
    }
    with figures.own_settings():
        drawn = {name: of_run(data) for name, of_run in makers.items()}
        return [
            figures.save(f, folder / name) for name, f in drawn.items() if f is not None
        ]


def compare(runs: Sequence[str | os.PathLike], out: str | os.PathLike) -> pathlib.Path:
    """Returns ``out`` after drawing several runs into it, one panel per task.

    Each run is its median over members and the band from the 10th to the 90th
    percentile; a task is drawn for the runs that have it.

    Runs in folders of one name are called by what tells them apart. Runs without returns
    are compared by what they measured.

    Raises:
        ConfigError: ``out`` cannot be a picture.
        ValueError: no run is given, or one of them holds no metrics.
    """
    if not runs:
        raise ValueError("no run to compare; give at least one run folder")
    out = pathlib.Path(out)
    figures.check_out(out)
    loaded = [run_series.load(run) for run in runs]
    names = run_series.distinct_names(runs)
    with figures.own_settings():
        figure = returns.of_runs(
            [run._replace(name=name) for run, name in zip(loaded, names)]
        )
        return figures.save(figure, out)
