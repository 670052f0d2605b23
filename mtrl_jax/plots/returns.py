"""Returns over env steps, one panel per task: of a run's members, or of several runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtrl_jax.plots import figures, run_series


def of_run(run: run_series.Run) -> Any:
    """Returns the figure of one run: members' spread, median, best member and scores.

    None where there are no returns: it learned from a dataset.
    """
    if not run.rows.returns:
        return None
    P = next(iter(run.rows.returns.values())).shape[1]
    figure, panels = figures.panels_of(len(run.rows.returns))
    with figures.style():
        for panel, task in zip(panels, run.rows.returns):
            steps, returns = run_series.curve(run.rows, task)
            if P > 1:
                _band(panel, steps, returns, figures.MEDIAN, 0.18, "members, 10–90 %")
                _extremes(panel, steps, returns)
                median = np.nanmedian(returns, axis=1)
                panel.plot(steps, median, color=figures.MEDIAN, label="median")
            name = f"best member ({run.best})" if P > 1 else "return"
            shown = figures.line_of(len(steps))
            panel.plot(
                steps, returns[:, run.best], color=figures.BEST, label=name, **shown
            )
            _scores(panel, run.tasks.get(task, {}))
            panel.set_title(task)
        figures.label(
            figure, panels, run.rows.env_steps[-1], "env steps per member", "return"
        )
        figures.shared_legend(figure, panels)
    return figure


def of_runs(compared: Sequence[run_series.Run]) -> Any:
    """Returns the figure of several runs: the median and band of each in its colour."""
    tasks = list(dict.fromkeys(task for run in compared for task in run.rows.returns))
    figure, panels = figures.panels_of(len(tasks))
    colours = figures.colours(len(compared))
    with figures.style():
        for panel, task in zip(panels, tasks):
            for run, colour in zip(compared, colours):
                if task in run.rows.returns:
                    steps, returns = run_series.curve(run.rows, task)
                    _band(panel, steps, returns, colour, 0.15)
                    median = np.nanmedian(returns, axis=1)
                    panel.plot(steps, median, color=colour, label=run.name)
            _scores(panel, _known(compared, task))
            panel.set_title(task)
        limit = max(run.rows.env_steps[-1] for run in compared)
        figures.label(
            figure, panels, limit, "env steps per member", "return (median, 10–90 %)"
        )
        figures.shared_legend(figure, panels)
    return figure


def _band(panel, steps, returns, colour, alpha, label=None) -> None:
    if len(steps):
        low, high = np.nanpercentile(returns, [10, 90], axis=1)
        panel.fill_between(
            steps, low, high, color=colour, alpha=alpha, lw=0, label=label
        )


def _extremes(panel, steps, returns) -> None:
    if len(steps):
        low, high = np.nanmin(returns, axis=1), np.nanmax(returns, axis=1)
        panel.fill_between(
            steps, low, high, color=figures.MEDIAN, alpha=0.08, lw=0, label="min–max"
        )


def _scores(panel, known: Mapping[str, Any]) -> None:
    for name, dashes in (("random", (2, 2)), ("reference", (6, 2))):
        score = known.get(f"{name}_score")
        if score is not None and math.isfinite(score):
            panel.axhline(
                score,
                color=figures.REFERENCE,
                lw=1,
                dashes=dashes,
                label=f"{name} score",
            )


def _known(compared: Sequence[run_series.Run], task: str) -> Mapping[str, Any]:
    return next((run.tasks[task] for run in compared if task in run.tasks), {})
