"""Tables of sequence policies on more data and games, with n-gram heads, with values."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from table_cells import NONE, Rows, find, has, interval, load, number, quantity

from mtrl_jax.metrics import estimates

Found = Mapping[str, Any]
_TASKS = {"many": "10,000", "few": "64"}
GAMES = {
    **{f"mgdt_{kappa}": f"MGDT, κ = {kappa}" for kappa in (0, 2, 5, 10, 20)},
    "dt": "DT, asked for the highest",
    "bc": "cloning",
    "top_bc": "cloning the best tenth",
    "top_bc_25": "cloning the best quarter",
    "top_bc_50": "cloning the best half",
}
_FOUR = ("Breakout", "SpaceInvaders", "Freeway", "Asterix")
_SCORE = "mean score"  # 0 random play, 1 the reference
_MEMBERS = ("mgdt_10", "bc", "top_bc")  # of the config's population, in its order
NGRAM = {"ad": "AD", "ngram": "AD with an n-gram head"}
VALUES = {
    "ad": "imitation (AD)",
    "dqn": "TD",
    "dqn_beyond": "TD, beyond an episode's end",
    "cql": "CQL",
    "cql_beyond": "CQL, beyond an episode's end",
    "iql": "IQL, acting by its values",
    "iql_policy": "IQL, acting by its policy",
}
VALUES |= {
    f"{kind}_soft": f"{VALUES[kind]}, drawn at temperature 0.1"
    for kind in ("dqn", "dqn_beyond", "cql", "cql_beyond", "iql")
}
PERMUTED = {"ad": "AD", "permuted": "AD of permuted actions"}
NUMBERS = {"own": "actions as they are", "permuted": "actions permuted"}
PLANNING = {
    "ad": "AD",
    "outcomes": "AD that predicts what actions lead to",
    "dicp": "the same, planning",
}
ENOUGH = 12.0  # return of an episode
DATA = {
    "whole": "whole",
    "first_30": "the first 30 %",
    "half_noise": "50 % noise",
    "shuffled": "episodes shuffled",
}


def of(experiment: str, make: Callable[[Found], Rows]) -> Rows:
    """Returns ``make`` of an experiment's JSON, or a line that says it was not run."""
    name = f"sequence_policies_{experiment}"
    if not has(name):
        return [["arm", "result"], ["all", "not run at length yet"]]
    return make(load(name))


def many_tasks(found: Found) -> Rows:
    """Returns returns in rooms with walls never seen, by the tasks of training."""
    head = ["tasks to train on", "first ten", "last ten", "all [95 %]", "histories"]
    made: Rows = [[*head, "collected, steps/s", "trained, steps/s"]]
    for arm, label in _TASKS.items():
        row = find(found["arms"], arm=arm)
        source, model = (
            find(found["data"], stage=f"{kind}_{arm}") for kind in ("source", "model")
        )
        size = f"{number(source['histories'])}, {quantity(source['bytes'])}B"
        cells = [number(row["first"]), number(row["last"]), _spread(row), size]
        rates = [_rate(stage["steps_per_s"]) for stage in (source, model)]
        made.append([label, *cells, *rates])
    return made


def by_goal(
    found: Found,
    *,
    labels: Mapping[str, str],
    cell: Callable[[Mapping[str, Any]], str],
    head: Callable[[str], str],
) -> Rows:
    """Returns a table of the arms that there are, a column for each goal."""
    rows = found["arms"]
    goals = list(dict.fromkeys(row["goal"] for row in rows))
    made: Rows = [["", *map(head, goals)]]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        ran = {row["goal"]: cell(row) for row in rows if row["arm"] == arm}
        made.append([labels[arm], *(ran.get(goal, NONE) for goal in goals)])
    return made


def planning(found: Found) -> Rows:
    """Returns the table of who plans and who does not, and how soon they are there."""
    made: Rows = [
        ["", "first ten", "last ten", "all [95 %]", f"episodes to {ENOUGH:.0f}"]
    ]
    for row in found["arms"]:
        ends = [number(row["first"]), number(row["last"])]
        soon = episodes_to(row["curve"])
        cells = [*ends, _spread(row), NONE if soon is None else str(soon)]
        made.append([PLANNING[row["arm"]], *cells])
    return made


def episodes_to(curve: Sequence[float], enough: float = ENOUGH) -> int | None:
    """Returns the first episode whose return, the mean with its neighbours', is enough."""
    mean = np.convolve(curve, np.ones(3) / 3, "valid")
    reached = np.flatnonzero(mean >= enough)
    return int(reached[0]) + 2 if len(reached) else None


def games(found: Found) -> Rows:
    """Returns the table of returns of a model a game, and its scores' mean."""
    head, *made = by_goal(found, labels=GAMES, cell=_spread, head=str)
    names = {label: arm for arm, label in GAMES.items()}
    for line in made:
        own = [row for row in found["arms"] if row["arm"] == names[line[0]]]
        of_all = NONE not in line
        line.append(_score(own, [row["mean"] for row in own]) if of_all else NONE)
    return [[*head, _SCORE], *made]


def one_model() -> Rows:
    """Returns the table of returns of one model for four games, and its scores' mean."""
    tasks = load("minatar_mgdt/summary")["tasks"]
    made: Rows = [["", *_FOUR, _SCORE]]
    for kind, arm in enumerate(_MEMBERS):
        cells, means = [], []
        for game in _FOUR:
            found = tasks[f"gymnax/{game}-MinAtar"]["in_context"]["returns"]
            # Member m is of kind m mod 3, one a seed.
            own = [
                statistics.fmean(x for row in member for x in row)
                for member in found[kind :: len(_MEMBERS)]
            ]
            low, high = estimates.t_interval(np.asarray(own))
            means.append(statistics.fmean(own))
            cells.append(interval(means[-1], low, high))
        scale = [tasks[f"gymnax/{game}-MinAtar"] for game in _FOUR]
        made.append([GAMES[arm], *cells, _score(scale, means)])
    return made


def _score(scales: Sequence[Mapping[str, Any]], means: Sequence[float]) -> str:
    """Returns the mean over games of (score - random) / (reference - random)."""
    made = []
    for scale, mean in zip(scales, means, strict=True):
        reference = scale.get("reference_score", scale.get("optimal_score"))
        made.append(
            (mean - scale["random_score"]) / (reference - scale["random_score"])
        )
    return f"{statistics.fmean(made):.3f}"


def _ends(row: Mapping[str, Any]) -> str:
    return f"{number(row['first'])} → {number(row['last'])}"


def _spread(row: Mapping[str, Any]) -> str:
    return interval(row["mean"], row["low"], row["high"])


def _rate(rate: float | None) -> str:
    return NONE if rate is None else quantity(rate)


_MADE: dict[str, Callable[[Found], Rows]] = {
    "many_tasks": many_tasks,
    "minatar": games,
    "ngram": functools.partial(
        by_goal, labels=NGRAM, cell=_ends, head="{} of each goal".format
    ),
    "q_objective": functools.partial(
        by_goal, labels=VALUES, cell=_ends, head=DATA.__getitem__
    ),
    "planning": planning,
    "permuted": functools.partial(
        by_goal, labels=PERMUTED, cell=_ends, head=NUMBERS.__getitem__
    ),
}
TABLES: dict[str, Callable[[], Rows]] = {
    f"sequence_policies_{name}": functools.partial(of, name, make)
    for name, make in _MADE.items()
}
TABLES["sequence_policies_one_model"] = one_model
