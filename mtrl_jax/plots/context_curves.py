"""Return per episode of weights that do not change: is it learning, and how fast?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mtrl_jax.plots import figures, run_series


def of_run(run: run_series.Run) -> Any:
    """Returns the figure of a finished evaluate stage, one panel a task; else None.

    The mean over slots with its 95 % interval, a random policy's and the reference score,
    and the curves of the stages it is compared with, of the same task where they have it, by
    episodes played; those that the
    agent only watched are shaded. Where there is but one episode, the reward of its steps
    takes the place of the return; scores are shared out to steps if all have as many.
    """
    tested = {k: t["in_context"] for k, t in run.tasks.items() if "in_context" in t}
    if not tested:
        return None
    by_step = all("rewards" in curve for curve in tested.values())
    draw = _steps if by_step else _episodes
    figure, panels = figures.panels_of(len(tested))
    with figures.style():
        longest = max(
            draw(panel, name, curve, run)
            for panel, (name, curve) in zip(panels, tested.items())
        )
        names = ("step", "reward") if by_step else ("episode", "return")
        figures.label(figure, panels, longest, *names)
        figures.shared_legend(figure, panels)
    return figure


def _episodes(
    panel: Any, name: str, curve: Mapping[str, Any], run: run_series.Run
) -> float:
    """Returns the last episode after drawing the return of each."""
    mean, interval = _floats(curve["mean"]), _floats(curve["interval"])
    episode = np.arange(1, len(mean) + 1)
    panel.fill_between(
        episode,
        *interval.T,
        color=figures.MEDIAN,
        alpha=0.18,
        lw=0,
        label="95 % interval",
    )
    panel.plot(episode, mean, color=figures.MEDIAN, label="in context")
    if curve.get("prompt"):
        watched = (0.5, curve["prompt"] + 0.5)
        panel.axvspan(*watched, color=figures.BEST, alpha=0.25, lw=0, label="watched")
    ends = [episode[-1]]
    for other, beside, colour in _compared(run):
        if len(beside["episode"]) > 1:
            ends.append(beside["episode"][-1])
            own = beside.get("tasks", {}).get(name, beside["mean"])
            values = _floats(own)
            panel.plot(beside["episode"], values, color=colour, ls="--", label=other)
    _scores(panel, run.tasks[name], 1)
    panel.set_title(name)
    return max(ends)


def _steps(
    panel: Any, name: str, curve: Mapping[str, Any], run: run_series.Run
) -> float:
    """Returns the last step after drawing the reward of each, and the return."""
    rewards = _floats(curve["rewards"])
    panel.plot(*_smooth(rewards), color=figures.MEDIAN, label="in context")
    for other, beside, colour in _compared(run):
        if name in beside.get("rewards", {}):
            values = _smooth(_floats(beside["rewards"][name]))
            panel.plot(*values, color=colour, ls="--", label=other)
    fewest, most = curve.get("steps", (len(rewards),) * 2)
    if fewest == most:
        _scores(panel, run.tasks[name], most)
    (mean,), ((low, high),) = _floats(curve["mean"]), _floats(curve["interval"])
    spread = f" [{low:.3g}, {high:.3g}]" if np.isfinite(low) else ""
    panel.set_title(f"{name}\nreturn {mean:.3g}{spread}")
    return len(rewards)


def _compared(run: run_series.Run) -> list[tuple[str, Mapping[str, Any], Any]]:
    # The first of the fixed ten is much like the curve's own.
    colours = figures.colours(len(run.compared) + 1)[1:]
    return [
        (name, x, colour) for (name, x), colour in zip(run.compared.items(), colours)
    ]


def _scores(panel: Any, task: Mapping[str, Any], steps: int) -> None:
    """Draw a random policy's and the reference score, each shared out to steps."""
    for name, key, dashes in (
        ("random", "random_score", (2, 2)),
        ("reference", "reference_score", (6, 2)),
    ):
        if task.get(key) is not None:
            value, colour = task[key] / steps, figures.REFERENCE
            panel.axhline(value, color=colour, lw=1, dashes=dashes, label=name)


def _smooth(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps from 1, means over 5 % of them): a step is one throw a slot."""
    width = max(1, len(values) // 20)
    mean = np.convolve(values, np.ones(width) / width, "valid")
    return np.arange(len(mean)) + (width + 1) / 2, mean


def _floats(values: Any) -> np.ndarray:
    """Returns the array of numbers of which null is NaN."""
    return np.asarray(values, object).astype(float)
