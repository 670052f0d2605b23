"""The final evaluation as bars, one group a task: is one agent good at all of them?"""

from __future__ import annotations

from typing import Any

import numpy as np

from mtrl_jax.plots import figures, run_series


def of_run(run: run_series.Run) -> Any:
    """Returns the figure of a finished run on several tasks, else None.

    Bars are the members' mean score of a task, the dots the members, the diamond the
    best one. Where a task has reference scores it is normalised: 0 random, 1 reference.
    """
    tested = {name: task for name, task in run.tasks.items() if task.get("members")}
    if len(tested) < 2:
        return None
    normalised = all(_scale(task) is not None for task in tested.values())
    figure, (panel,) = figures.panels_of(1)
    figure.set_size_inches(max(4.6, 1.3 * len(tested) + 1.5), 3.4)
    with figures.style():
        for at, task in enumerate(tested.values()):
            _bar(panel, at, task, run.best, normalised)
        names = [name.split("/")[-1] for name in tested]
        panel.set_xticks(range(len(tested)), names, rotation=20, ha="right")
        panel.set_xlim(-0.5, len(tested) - 0.5)
        panel.axhline(0.0, color=figures.REFERENCE, lw=0.8)
        figure.supylabel("normalised score" if normalised else "return", fontsize=9)
        figures.shared_legend(figure, [panel])
    return figure


def _bar(panel: Any, at: int, task: Any, best: int, normalised: bool) -> None:
    means = np.asarray([member["mean"] for member in task["members"]], float)
    if not np.isfinite(means).any():
        # An empty place would read as a score of 0.
        where = {"transform": panel.get_xaxis_transform(), "rotation": 90}
        style = {"ha": "center", "va": "bottom", "color": figures.REFERENCE}
        panel.text(at, 0.03, "no value", fontsize=8, **where, **style)
        return
    if normalised:
        low, high = _scale(task)  # type: ignore[misc]
        means = (means - low) / (high - low)
    panel.bar(
        at, np.nanmean(means), width=0.6, color=figures.MEDIAN, alpha=0.35, label="mean"
    )
    spread = at + np.linspace(-0.2, 0.2, len(means)) if len(means) > 1 else [at]
    panel.plot(spread, means, ".", color=figures.MEDIAN, label="members")
    members = [member["member"] for member in task["members"]]
    if len(means) > 1 and best in members:
        panel.plot(
            spread[members.index(best)],
            means[members.index(best)],
            "D",
            ms=5,
            color=figures.BEST,
            label=f"best member ({best})",
        )


def _scale(task: Any) -> tuple[float, float] | None:
    """Returns (random, reference) scores, None if the task has no two."""
    low, high = task.get("random_score"), task.get("reference_score")
    if low is None or high is None or not high > low:
        return None
    return float(low), float(high)
