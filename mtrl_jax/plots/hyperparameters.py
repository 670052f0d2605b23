"""Hyperparameters over env steps: every member's values, a mark where it was copied.

The line of a member that is lost ends with a cross.

What a schedule of the config moves is one line: the members are alike. Where a learning
rate decays beneath what it is set to, the rate in effect is dashed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mtrl_jax.plots import figures, run_series


def of_run(run: run_series.Run) -> Any:
    """Returns the figure, one panel per hyperparameter; None where none moves."""
    names = run_series.searched(run)
    if not names:
        return None
    figure, panels = figures.panels_of(len(names))
    with figures.style():
        for panel, name in zip(panels, names):
            if name in run.schedules:
                _scheduled(panel, run, name)
            else:
                _members(panel, run, name)
            _in_effect(panel, run, name)
            scale = run_series.scale_of(run, name)
            figures.scale(panel, scale)
            if scale == "log":
                _of_members(panel, run.rows.hparams[name])
            panel.set_title(name)
        what = run_series.steps_name(run.rows)
        figures.label(figure, panels, run.rows.env_steps[-1], what, "value")
        figures.shared_legend(figure, panels)
    return figure


def _scheduled(panel: Any, run: run_series.Run, name: str) -> None:
    style = {"color": figures.MEDIAN, "label": "schedule, all members"}
    _steps(panel, run.rows.env_steps, run.rows.hparams[name][:, 0], style)


def _members(panel: Any, run: run_series.Run, name: str) -> None:
    steps, values = run.rows.env_steps, run.rows.hparams[name]
    P = values.shape[1]
    lost = run_series.lost_at(run.rows)
    for i in range(P):
        best = i == run.best and P > 1
        style: dict[str, Any] = {"color": figures.BEST, "zorder": 3, "linewidth": 1.8}
        if not best:
            style = {
                "color": figures.MEDIAN,
                "alpha": max(0.2, 0.7 - 0.02 * P),
                "linewidth": 1,
            }
        label = (
            f"best member ({i})"
            if best
            else "members"
            if i == (run.best == 0)
            else None
        )
        until = lost.get(i, len(steps) - 1) + 1
        _steps(panel, steps[:until], values[:until, i], {**style, "label": label})
    marks = [
        (row["update"], row["hparams_after"][name][i])
        for row in run.rounds
        for i in np.flatnonzero(row["source"].astype(int) != np.arange(P))
        if name in row["hparams_after"]
    ]
    if marks:
        update, after = np.array(marks).T
        at = np.interp(update, run.rows.update, steps)
        panel.plot(
            at, after, "o", ms=2.6, color="k", alpha=0.6, mew=0, label="copy", zorder=4
        )
    figures.mark_lost(panel, lost, steps, values)


def _in_effect(panel: Any, run: run_series.Run, name: str) -> None:
    """Draw what training measured of a value that decays, of the best member."""
    if name in run.rows.metrics:
        values = run.rows.metrics[name][:, run.best]
        style: dict[str, Any] = {"ls": "--", "lw": 1, "color": "k", "zorder": 4}
        several = run.rows.hparams[name].shape[1] > 1
        label = f"in effect, best member ({run.best})" if several else "in effect"
        panel.plot(run.rows.env_steps, values, label=label, **style)


def _of_members(panel: Any, values: np.ndarray) -> None:
    """Limit a logarithmic axis to the members' values.

    A rate in effect decays beneath them, to nothing at last, and would take all the room.
    """
    known = values[np.isfinite(values) & (values > 0)]
    low, high = known.min(), known.max()
    margin = max((high / low) ** 0.08, 1.2)
    panel.set_ylim(low / margin, high * margin)


def _steps(
    panel: Any, steps: np.ndarray, values: np.ndarray, style: dict[str, Any]
) -> None:
    # A row holds what its chunk was trained with: the value up to there.
    panel.step(np.append(0, steps), np.append(values[:1], values), where="pre", **style)
