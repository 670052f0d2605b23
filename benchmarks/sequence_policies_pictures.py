"""The pictures of benchmarks/sequence_policies.py."""

from __future__ import annotations

import pathlib
from typing import Any

import common
import numpy as np

Row = dict[str, Any]


FEW = 8  # lines


def draw(experiment: str, rows: list[Row], path: pathlib.Path) -> None:
    """Draw what was got by what was asked for or shown, by arm, or by episode.

    By episode each goal has a panel, where there are several.
    """
    title, plot = {
        "return_control": ("return by the return asked for", _by_asked),
        "prompt": ("return by the return shown", _by_shown),
        "credit": ("doors opened after random episodes of the same task", _by_success),
        "minatar": ("return after histories of PPO on the same game", _by_return),
    }.get(experiment, ("return on goals never trained on", _by_episode))
    panels = {title: rows}
    goals = list(dict.fromkeys(row["goal"] for row in rows))
    if plot is _by_episode and "" not in goals:
        panels = {
            f"{title}: {goal}": [row for row in rows if row["goal"] == goal]
            for goal in goals
        }
    with common.figure(path, list(panels), (7, 5)) as axes:
        for ax, own in zip(axes, panels.values()):
            plot(ax, own)
            if len(ax.lines) > FEW:  # more than a corner has room for
                ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
            else:
                ax.legend(fontsize="small")


def _by_asked(ax: Any, rows: list[Row]) -> None:
    _against(ax, rows, "asked", "asked for")


def _by_shown(ax: Any, rows: list[Row]) -> None:
    _against(ax, rows, "demo", "shown")


def _against(ax: Any, rows: list[Row], what: str, label: str) -> None:
    rows = [row for row in rows if row[what] is not None]
    several = len({row["arm"] for row in rows}) > 1
    for arm, goal in dict.fromkeys((row["arm"], row["goal"]) for row in rows):
        mine = [row for row in rows if (row["arm"], row["goal"]) == (arm, goal)]
        mine = sorted(mine, key=lambda row: row[what])
        x, y = [row[what] for row in mine], [row["mean"] for row in mine]
        name = f"{arm if several else ''} {goal or 'new'}".strip()
        (line,) = ax.plot(x, y, "o-", label=name)
        for seed in zip(*(row["seeds"] for row in mine)):
            ax.plot(x, seed, ".", color=line.get_color(), alpha=0.5)
    ax.axline((0, 0), slope=1, color="grey", dashes=(2, 2))
    ax.set(xlabel=f"return {label}", ylabel="return")


def _by_success(ax: Any, rows: list[Row]) -> None:
    _by_arm(ax, rows, "success")
    ax.set(ylabel="share of episodes", ylim=(0, 1))


def _by_return(ax: Any, rows: list[Row]) -> None:
    _by_arm(ax, rows, "mean")
    ax.set(ylabel="return")


def _by_arm(ax: Any, rows: list[Row], what: str) -> None:
    names = list(dict.fromkeys(row["arm"] for row in rows))
    goals = list(dict.fromkeys(row["goal"] for row in rows))
    for i, goal in enumerate(goals):
        own = {row["arm"]: row for row in rows if row["goal"] == goal}
        place = np.arange(len(names)) + (i - (len(goals) - 1) / 2) * 0.25
        ax.bar(place, [own[name][what] for name in names], 0.22, label=goal)
        if what == "mean":
            for x, name in zip(place, names):
                seeds = own[name]["seeds"]
                ax.plot([x] * len(seeds), seeds, ".", color="black")
    ax.set_xticks(range(len(names)), names)


def _by_episode(ax: Any, rows: list[Row]) -> None:
    for row in rows:
        episode = row["prompt"] + 1 + np.arange(len(row["curve"]))
        style = ("-", "--", ":")[len(ax.lines) // 10 % 3]  # there are ten colours
        (line,) = ax.plot(episode, row["curve"], style, label=row["arm"])
        if row["prompt"]:
            shown = range(1, row["prompt"] + 1)
            ax.plot(shown, [row["demo"]] * len(shown), "o", color=line.get_color())
    ax.set(xlabel="episode", ylabel="return")
