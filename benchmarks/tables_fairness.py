"""Tables of PopArt on games of several scales, and of PBT beside random search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from table_cells import NONE, Rows, find, interval, load, number, ratio


def popart() -> Rows:
    """Returns each arm's score a game and its least, over the oracle's scaling."""
    found = load("popart")
    rows, least = found["rows"], found["least"]
    games = list(dict.fromkeys(row["game"] for row in rows))
    made: Rows = [["rewards, value", *games, "least, 1 the oracle's"]]
    for run, arm in dict.fromkeys((row["run"], row["arm"]) for row in rows):
        own = [find(rows, run=run, arm=arm, game=game) for game in games]
        cells = [interval(x["mean"], x["low"], x["high"]) for x in own]
        last = [x for x in least if (x["run"], x["arm"]) == (run, arm)]
        worst = f"{ratio(last[0]['score'])} ({last[0]['game']})" if last else NONE
        made.append([f"{run}, {arm}", *cells, worst])
    return made


def pbt_breakout() -> Rows:
    """Returns the best and the median member's score of each arm, by repeat."""
    found = load("pbt_breakout")
    names = {"pbt": "PBT", "search": "random search", "fixed": "fixed values"}
    heads = ["best member, IQM", "its repeats", "median member, IQM"]
    made: Rows = [["", *heads]]
    for row in found["arms"]:
        own = [x["best"] for x in found["rows"] if x["arm"] == row["arm"]]
        repeats = ", ".join(map(number, own))
        cells = [number(row["best"]), repeats, number(row["median"])]
        made.append([names[row["arm"]], *cells])
    return made


def labyrinth_12() -> Rows:
    """Returns each level's return and normalised mean by arm, and the capped mean of all."""
    rows = load("labyrinth_12")["rows"]
    arms = {
        "together-none": "one agent",
        "together-popart": "one agent, PopArt",
        "apart": "an agent each",
    }
    known = {row["arm"] for row in rows}
    arms = {arm: text for arm, text in arms.items() if arm in known}
    made: Rows = [["level", *(f"{text}: return, normalised" for text in arms.values())]]
    for level in dict.fromkeys(row["level"] for row in rows):
        cells = [_level(find(rows, arm=arm, level=level)) for arm in arms]
        name = "**capped mean of all**" if level == "ALL" else f"`{level}`"
        made.append([name, *cells])
    return made


def _level(row: Any) -> str:
    score = interval(row["normalised"], row["low"], row["high"])
    return score if row["return"] is None else f"{number(row['return'])}, {score}"


TABLES: dict[str, Callable[[], Rows]] = {
    "popart": popart,
    "pbt_breakout": pbt_breakout,
    "labyrinth_12": labyrinth_12,
}
