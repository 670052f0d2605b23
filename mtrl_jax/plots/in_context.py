"""Return per episode of weights that do not change: is it learning, and how fast?"""

from __future__ import annotations

from typing import Any

import numpy as np

from mtrl_jax.plots import figures, runs


def of_run(run: runs.Run) -> Any:
    """Returns the figure of a finished evaluate stage, one panel a task; else None.

    The mean over slots with its 95 % interval, the scores of a random and of the best
    policy, and the curves of the stages it is compared with, by episodes played.
    """
    tested = {k: t["in_context"] for k, t in run.tasks.items() if "in_context" in t}
    if not tested:
        return None
    figure, panels = figures.panels_of(len(tested))
    longest = 1.0
    # The first of the fixed ten is much like the curve's own.
    colours = figures.colours(len(run.compared) + 1)[1:]
    with figures.style():
        for panel, (name, curve) in zip(panels, tested.items()):
            longest = max(longest, _curve(panel, curve))
            for (other, beside), colour in zip(run.compared.items(), colours):
                longest = max(longest, beside["episode"][-1])
                values = _floats(beside["mean"])
                panel.plot(
                    beside["episode"], values, color=colour, ls="--", label=other
                )
            _scores(panel, run.tasks[name])
            panel.set_title(name)
        figures.label(figure, panels, longest, "episode", "return")
        figures.shared_legend(figure, panels)
    return figure


def _curve(panel: Any, curve: Any) -> int:
    mean, interval = _floats(curve["mean"]), _floats(curve["interval"])
    episode = np.arange(1, len(mean) + 1)
    panel.fill_between(
        episode, *interval.T, color=figures.MEDIAN, alpha=0.18, lw=0, label="95 %"
    )
    marker = "." if len(mean) == 1 else None
    panel.plot(episode, mean, marker=marker, color=figures.MEDIAN, label="in context")
    return len(mean)


def _scores(panel: Any, task: Any) -> None:
    for name, key, dashes in (
        ("random", "random_score", (2, 2)),
        ("optimal", "reference_score", (6, 2)),
    ):
        if task.get(key) is not None:
            panel.axhline(
                task[key], color=figures.REFERENCE, lw=1, dashes=dashes, label=name
            )


def _floats(values: Any) -> np.ndarray:
    """Returns the array of numbers of which null is NaN."""
    return np.asarray(values, object).astype(float)
