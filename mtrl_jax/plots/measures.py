"""What training measured over env steps: losses, entropies, ratios, one panel each."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtrl_jax.plots import figures, run_series


def of_run(run: run_series.Run) -> Any:
    """Returns the figure: the members' spread, median and best member of every metric.

    None where the run measured nothing. Smoothed over 1 % of the run.
    """
    names = [n for n, x in run.rows.metrics.items() if np.isfinite(x).any()]
    if not names:
        return None
    figure, panels = figures.panels_of(len(names))
    with figures.style():
        for panel, name in zip(panels, names):
            # What weights that are not finite measure counts for nothing.
            values = run.rows.metrics[name]
            _measure(panel, run, np.where(run.rows.lost, np.nan, values))
            lost = run_series.lost_at(run.rows)
            figures.mark_lost(panel, lost, run.rows.env_steps)
            panel.set_title(_title(name))
        what = run_series.steps_name(run.rows)
        figures.label(figure, panels, run.rows.env_steps[-1], what, "")
        figures.shared_legend(figure, panels)
    return figure


def _title(name: str) -> str:
    """Returns a title that fits a panel: of a task, its own name below the measure's."""
    parts = name.split("/")
    return name if len(parts) == 1 else f"{parts[0]}\n{parts[-1]}"


def _measure(panel: Any, run: run_series.Run, values: np.ndarray) -> None:
    steps, values = run_series.smoothed(run.rows.env_steps, values)
    if not len(steps):
        return
    if values.shape[1] > 1:
        low, high = np.nanmin(values, axis=1), np.nanmax(values, axis=1)
        panel.fill_between(
            steps, low, high, color=figures.MEDIAN, alpha=0.15, lw=0, label="min–max"
        )
        panel.plot(
            steps, np.nanmedian(values, axis=1), color=figures.MEDIAN, label="median"
        )
    name = f"best member ({run.best})" if values.shape[1] > 1 else "value"
    shown = figures.line_of(len(steps))
    panel.plot(steps, values[:, run.best], color=figures.BEST, label=name, **shown)
