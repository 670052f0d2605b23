"""The pictures of benchmarks/sequence_policies.py."""

from __future__ import annotations

import pathlib
import re
import textwrap
from typing import Any

import common
import numpy as np
import tables_sequence

Row = dict[str, Any]


FEW = 8  # lines
# What the pictures call an arm.
NAMES = {
    **tables_sequence.VALUES,
    **tables_sequence.NGRAM,
    **tables_sequence.PERMUTED,
    **tables_sequence.PLANNING,
    "ad": "Algorithm Distillation",
    "ed*": "expert distillation, five times the histories",
    "bc": "behaviour cloning",
    "data": "the data",
    "top_bc": "cloning the best",
    "top_bc_25": "cloning the best quarter",
    "top_bc_50": "cloning the best half",
    "dt": "Decision Transformer",
    "mgdt": "Multi-Game DT, κ = 10",
    **{f"mgdt_{kappa}": f"Multi-Game DT, κ = {kappa}" for kappa in (0, 2, 5, 10, 20)},
    "gato": "Gato",
    "many": "10,000 tasks",
    "few": "64 tasks",
}
# And a goal, by what its tag looks like.
_GOALS = {
    r"(\d)_(\d)": r"goal (\1, \2)",
    r"(\d)(\d)(\d)(\d)": r"key (\1, \2), door (\3, \4)",
    r"(\d+)": r"histories of each goal: \1",
    r"known": "goals of training",
    r"": "new goals",
}


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
            f"{title}: {in_words(goal)}": [row for row in rows if row["goal"] == goal]
            for goal in goals
        }
    with common.figure(path, list(panels), (7, 5)) as axes:
        for ax, own in zip(axes, panels.values()):
            plot(ax, own)
            if not ax.get_legend_handles_labels()[0]:
                continue  # Of these arms there is nothing to draw.
            if len(ax.lines) <= FEW:
                ax.legend(fontsize="small")
            elif ax is axes[-1]:  # more than a corner has room for, once
                ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def in_words(goal: str) -> str:
    """Returns what the pictures call a goal, a game or what was learned from."""
    for tag, words in _GOALS.items():
        if found := re.fullmatch(tag, goal):
            return found.expand(words)
    return (tables_sequence.DATA | tables_sequence.NUMBERS).get(goal, goal)


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
        name = f"{NAMES[arm]}, {in_words(goal)}" if several else in_words(goal)
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
    width = 0.8 / max(len(goals), 3)
    for i, goal in enumerate(goals):
        own = [row for row in rows if row["goal"] == goal]
        at = np.asarray([names.index(row["arm"]) for row in own])
        place = at + (i - (len(goals) - 1) / 2) * width
        heights = [row[what] for row in own]
        ax.bar(place, heights, 0.9 * width, label=in_words(goal))
        if what == "mean":
            for x, row in zip(place, own):
                ax.plot([x] * len(row["seeds"]), row["seeds"], ".", color="black")
    shown = [textwrap.fill(NAMES[name], 14) for name in names]
    slanted = {"rotation": 45, "ha": "right"} if len(names) > FEW else {}
    ax.set_xticks(range(len(names)), shown, fontsize="small", **slanted)


def _by_episode(ax: Any, rows: list[Row]) -> None:
    for row in rows:
        episode = row["prompt"] + 1 + np.arange(len(row["curve"]))
        style = ("-", "--", ":")[len(ax.lines) // 10 % 3]  # there are ten colours
        (line,) = ax.plot(episode, row["curve"], style, label=NAMES[row["arm"]])
        if row["prompt"]:
            shown = range(1, row["prompt"] + 1)
            ax.plot(shown, [row["demo"]] * len(shown), "o", color=line.get_color())
    ax.set(xlabel="episode", ylabel="return")
