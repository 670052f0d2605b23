"""Returns over env steps, one panel per task: of a run's members, or of several runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mtrl_jax.plots import figures, run_series


def of_run(run: run_series.Run) -> Any:
    """Returns the figure of one run: members' spread, median, best member and scores.

    Lines are training, dots the evaluations between chunks. None where there is neither:
    it learned from a dataset.
    """
    tasks = run_series.tasks_of(run.rows)
    if not tasks:
        return None
    figure, panels = figures.panels_of(len(tasks))
    with figures.style():
        for panel, task in zip(panels, tasks):
            _training(panel, run, task)
            _evaluation(panel, run, task)
            _scores(panel, run.tasks.get(task, {}))
            lost = run_series.lost_at(run.rows)
            figures.mark_lost(panel, lost, run.rows.env_steps)
            panel.set_title(task)
        limit = run.rows.env_steps[-1]
        figures.label(figure, panels, limit, "env steps per member", "return")
        figures.shared_legend(figure, panels)
    return figure


def of_runs(compared: Sequence[run_series.Run]) -> Any:
    """Returns the figure of several runs: the median and band of each in its colour.

    Of runs that learned from datasets alone, what they measured in place of returns;
    beside others such a run has nothing to show, and the legend says so.
    """
    tasks = _common(run_series.tasks_of(run.rows) for run in compared)
    names = tasks or _common(run.rows.metrics for run in compared)
    if not names:
        raise ValueError("the runs measured nothing that could be compared")
    figure, panels = figures.panels_of(len(names))
    colours = figures.colours(len(compared))
    with figures.style():
        for panel, name in zip(panels, names):
            for run, colour in zip(compared, colours):
                _compared(panel, run, name, colour, bool(tasks))
            _scores(panel, _known(compared, name))
            panel.set_title(name)
        shown = [run for run in compared if run_series.tasks_of(run.rows) or not tasks]
        for name in [run.name for run in compared if not any(run is x for x in shown)]:
            panels[0].plot([], [], " ", label=f"{name}: no returns")
        limit = max(run.rows.env_steps[-1] for run in shown)
        y = f"{'return' if tasks else 'value'} (median, 10–90 %)"
        x = run_series.steps_name(shown[0].rows)
        figures.label(figure, panels, limit, x, y)
        figures.shared_legend(figure, panels)
    return figure


def _training(panel, run: run_series.Run, task: str) -> None:
    steps, returns = run_series.curve(run.rows, task)
    if not len(steps):
        return
    P, shown = returns.shape[1], figures.line_of(len(steps))
    if P > 1:
        _band(panel, steps, returns, figures.MEDIAN, 0.18, f"{run.by}, 10–90 %")
        _extremes(panel, steps, returns, f"{run.by}, min–max")
        median, label = np.nanmedian(returns, axis=1), f"{run.by}, median"
        panel.plot(steps, median, color=figures.MEDIAN, label=label, **shown)
    name = f"{run.by}, best member ({run.best})" if P > 1 else run.by
    panel.plot(steps, returns[:, run.best], color=figures.BEST, label=name, **shown)


def _evaluation(panel, run: run_series.Run, task: str) -> None:
    steps, returns = run_series.tested(run.rows, task)
    if not len(steps):
        return
    style: dict[str, Any] = {"clip_on": False, "ms": 4, "lw": 0.8, "ls": ":"}
    P = returns.shape[1]
    name = "evaluation, median" if P > 1 else "evaluation"
    median = np.nanmedian(returns, axis=1)
    panel.plot(steps, median, "o", color=figures.TESTED, label=name, **style)
    if P > 1:
        name = f"evaluation, best member ({run.best})"
        best = returns[:, run.best]
        panel.plot(steps, best, "D", color=figures.BEST, label=name, **style)


def _compared(panel, run: run_series.Run, name: str, colour, returns: bool) -> None:
    if not returns:
        values = run.rows.metrics.get(name)
        if values is None:
            return
        steps, values = run_series.smoothed(run.rows.env_steps, values)
    else:
        steps, values = run_series.curve(run.rows, name)
    if len(steps):
        _band(panel, steps, values, colour, 0.15)
        median = np.nanmedian(values, axis=1)
        what = f"{run.name}, {run.by}" if returns else run.name
        panel.plot(
            steps, median, color=colour, label=what, **figures.line_of(len(steps))
        )
    steps, values = run_series.tested(run.rows, name)
    if returns and len(steps):
        median, what = np.nanmedian(values, axis=1), f"{run.name}, evaluation"
        style: dict[str, Any] = {"clip_on": False, "ms": 4, "lw": 0.8, "ls": ":"}
        panel.plot(steps, median, "o", color=colour, label=what, **style)


def _common(groups: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group))


def _band(panel, steps, returns, colour, alpha, label=None) -> None:
    if len(steps):
        low, high = np.nanpercentile(returns, [10, 90], axis=1)
        panel.fill_between(
            steps, low, high, color=colour, alpha=alpha, lw=0, label=label
        )


def _extremes(panel, steps, returns, label) -> None:
    if len(steps):
        low, high = np.nanmin(returns, axis=1), np.nanmax(returns, axis=1)
        panel.fill_between(
            steps,
            low,
            high,
            color=figures.MEDIAN,
            alpha=0.08,
            lw=0,
            label=label,
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
