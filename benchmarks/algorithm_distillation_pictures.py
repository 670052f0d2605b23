"""The pictures of benchmarks/algorithm_distillation.py: returns by episode, or bars."""

from __future__ import annotations

import pathlib
from typing import Any

import common
import numpy as np

Row = dict[str, Any]
_SWEPT = ("context_", "goals_", "subsample_")


def draw(rows: list[Row], source: Row | None, path: pathlib.Path) -> None:
    """Draw all arms: curves where there are episodes to follow.

    Arms of one episode have bars instead and, beside them, what a step pays at each
    time of the episode.
    """
    if len(rows[0]["mean"]) > 1:
        draw_episodes(rows, source, path)
    else:
        draw_steps(rows, path)


def draw_episodes(rows: list[Row], source: Row | None, path: pathlib.Path) -> None:
    """Draw the return per episode.

    Arms with a prompt have a panel of their own, and so have those of other contexts and
    data, beside the first arm.
    """
    prompted = [row for row in rows if row["prompt"]]
    swept = [row for row in rows if row["arm"].startswith(_SWEPT)]
    others = [row for row in rows if row not in (*prompted, *swept)]
    panels = {"return on tasks never trained on": others or swept}
    if swept and others:
        panels["the same with other contexts and data"] = [others[0], *swept]
    if prompted:
        panels["the same after watching (dotted) a noisy demonstrator"] = prompted
    with common.figure(path, list(panels), (7, 5)) as axes:
        for ax, shown in zip(axes, panels.values()):
            for row in shown:
                _episodes(ax, row)
            if source and shown is not prompted:
                label = "source (own tasks)"
                ax.plot(source["episode"], source["mean"], "k--", label=label)
            for name, dashes in (("random", (2, 2)), ("optimal", (6, 2))):
                value = rows[0][f"{name}_score"]
                ax.axhline(value, color="grey", dashes=dashes, label=name)
            ax.set(xlabel="episode", ylabel="return")
            ax.legend()


def draw_steps(rows: list[Row], path: pathlib.Path) -> None:
    """Draw returns as bars, a group a task, and rewards by time."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    titles = [
        "return on tasks never trained on",
        *(f"reward of a step, {t}" for t in tasks),
    ]
    with common.figure(path, titles, (6, 4.5)) as (bars, *times):
        for i, arm in enumerate(arms):
            mine = {row["task"]: row for row in rows if row["arm"] == arm}
            place = np.arange(len(tasks)) + (i - (len(arms) - 1) / 2) * 0.8 / len(arms)
            last = np.asarray([mine[t]["last"] for t in tasks])
            ends = np.asarray([[mine[t]["low"], mine[t]["high"]] for t in tasks]).T
            bars.bar(place, last, 0.8 / len(arms), label=arm, yerr=np.abs(ends - last))
            for ax, task in zip(times, tasks):
                rewards = mine[task]["rewards"]
                if rewards:
                    ax.plot(*_smooth(np.asarray(rewards, float)), label=arm)
        steps = next(len(row["rewards"] or [1]) for row in rows)
        for k, task in enumerate(tasks):
            row = next(row for row in rows if row["task"] == task)
            for name, dashes in (("random", (2, 2)), ("optimal", (6, 2))):
                label = name if k == 0 else None
                value, style = row[f"{name}_score"], {"color": "grey", "dashes": dashes}
                bars.plot([k - 0.45, k + 0.45], [value] * 2, **style)
                times[k].axhline(value / steps, **style, label=label)
            times[k].set(xlabel="step", ylabel="reward", ylim=(0, 1))
        bars.set_xticks(range(len(tasks)), tasks)
        bars.set(ylabel="return")
        times[0].legend(loc="lower right")


def _episodes(ax: Any, row: Row) -> None:
    episode, mean = np.asarray(row["episode"]), np.asarray(row["mean"], float)
    low, high = np.asarray(row["interval"], float).T
    own = slice(row["prompt"], None)
    (line,) = ax.plot(episode[own], mean[own], label=row["arm"])
    colour = line.get_color()
    ax.fill_between(episode[own], low[own], high[own], alpha=0.15, color=colour)
    if row["prompt"]:
        watched = slice(0, row["prompt"] + 1)
        ax.plot(episode[watched], mean[watched], ":", marker=".", color=colour)


def _smooth(values: np.ndarray, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps, mean of ``width`` neighbouring values)."""
    middle = np.convolve(values, np.ones(width) / width, "valid")
    return np.arange(len(middle)) + (width + 1) / 2, middle
