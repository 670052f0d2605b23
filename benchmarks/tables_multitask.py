"""Tables of the multi-task benchmark: one an experiment, of what has been run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from table_cells import NONE, Rows, find, has, interval, load, number, quantity

from mtrl_jax.metrics import estimates, transfer

Row = Mapping[str, Any]
Found = Sequence[Row]
LEARNED = 0.05  # of the distance between random play and the reference
SOLVED = 80  # percent of episodes


def of(experiment: str, make: Callable[[Found], Rows]) -> Rows:
    """Returns ``make`` of an experiment's rows, or a line that says it was not run."""
    name = f"multitask_{experiment}"
    if not has(name):
        return [["arm", "result"], ["all", "not run at length yet"]]
    return make(load(name)["rows"])


def kickstarting(rows: Found) -> Rows:
    """Returns area, final score, and steps to the score of the seed's own teacher."""
    made: Rows = [["arm", "area", "final [95 %]", "teacher's", "env steps to it"]]
    for row in rows:
        cells = [_name(row), number(row["area"]), _final(row)]
        made.append([*cells, number(float(np.mean(row["level"]))), _reached(row)])
    return made


def rare(rows: Found) -> Rows:
    """Returns area and final score by task, and steps to success where rewards are rare."""
    made: Rows = [
        ["task", "auxiliaries", "area", "final [95 %]", "env steps to 80 % success"]
    ]
    for row in rows:
        made.append(
            [
                _task(row),
                row["label"],
                number(row["area"]),
                _final(row),
                _reached(row) if "level" in row else NONE,
            ]
        )
    return made


def of_a_maze(rows: Found) -> Rows:
    """Returns area and final return with their intervals, and areas over the first's."""
    made: Rows = [["auxiliaries", "area [95 %]", "final [95 %]", "area over none's"]]
    for row in rows:
        area = interval(row["area"], *estimates.t_interval(row["area_seeds"]))
        above = [x["area"] - x["random"] for x in (row, rows[0])]
        made.append([row["label"], area, _final(row), f"{above[0] / above[1]:.2f} ×"])
    return made


def scales(rows: Found, arms: str = "combiner") -> Rows:
    """Returns the final score on each game, and of all the normalised scores."""
    tasks = _tasks(rows)
    heads = [task.rpartition("/")[2].removesuffix("-MinAtar") for task in tasks]
    made: Rows = [[arms, *heads, "normalised IQM [95 %]", "least"]]
    for arm, label in dict.fromkeys((row["arm"], row["label"]) for row in rows):
        own = [find(rows, arm=arm, label=label, task=task) for task in tasks]
        scores = np.stack([_normalised(row, "seeds") for row in own], axis=1)
        least = np.min(scores.mean(axis=0))
        cells = [number(row["final"]) for row in own]
        name = ", ".join(x for x in (arm, label) if x)
        made.append([name, *cells, _pooled(scores), f"{least:.3f}"])
    return made


def rooms(rows: Found) -> Rows:
    """Returns area and final score over all rooms and seeds, and the least room's."""
    tasks = _tasks(rows)
    made: Rows = [["arm", "area, IQM [95 %]", "final, IQM [95 %]", "least room, mean"]]
    for arm, label in dict.fromkeys((row["arm"], row["label"]) for row in rows):
        own = [find(rows, arm=arm, label=label, task=task) for task in tasks]
        area, final = (
            np.stack([row[name] for row in own], axis=1)
            for name in ("area_seeds", "seeds")
        )
        cells = [_pooled(area), _pooled(final), number(min(r["final"] for r in own))]
        made.append([_name(own[0]), *cells])
    return made


def mazes(rows: Found) -> Rows:
    """Returns normalised area and final score over all mazes and seeds, and each area."""
    tasks = _tasks(rows)
    numbers = [
        _task(find(rows, task=task, label=rows[0]["label"]))[-2:] for task in tasks
    ]
    made: Rows = [
        [
            "arm",
            "area, IQM [95 %]",
            "final, IQM [95 %]",
            f"area in {', '.join(numbers)}",
        ]
    ]
    for arm, label in dict.fromkeys((row["arm"], row["label"]) for row in rows):
        own = [find(rows, arm=arm, label=label, task=task) for task in tasks]
        area, final = (
            np.stack([_normalised(row, name) for row in own], axis=1)
            for name in ("area_seeds", "seeds")
        )
        each = ", ".join(number(row["area"]) for row in own)
        made.append([_name(own[0]), _pooled(area), _pooled(final), each])
    return made


def robots(rows: Found) -> Rows:
    """Returns the success, in percent, of each task and of the mean over tasks.

    The mean's interval is over seeds; a task counts as solved from ``SOLVED`` on.
    """
    tasks = _tasks(rows)
    heads = [
        _task(row).removesuffix("-v3") for row in rows if row["arm"] == _arms(rows)[0]
    ]
    made: Rows = [["network, value scale", "mean [95 %]", "solved", *heads]]
    for arm in _arms(rows):
        own = [find(rows, arm=arm, task=task) for task in tasks]
        success = 100 * np.stack([row["success"] for row in own], axis=1)
        means = success.mean(axis=1)
        low, high = estimates.t_interval(means)
        each = success.mean(axis=0)
        cells = [interval(means.mean(), low, high), str((each >= SOLVED).sum())]
        name = arm if arm.endswith("none") else f"{arm}, popart"
        made.append([name, *cells, *(f"{x:.0f}" for x in each)])
    return made


def costs() -> Rows:
    """Returns the table of what sharing costs a step, a column a width."""
    found = load("sharing_cost")["rows"]
    widths = list(dict.fromkeys(row["units"] for row in found))
    heads = [x for w in widths for x in (f"{w} units: parameters", "time, × [range]")]
    made: Rows = [["arm", *heads]]
    for arm in _arms(found):
        own = [find(found, arm=arm, units=units) for units in widths]
        cells = [
            cell
            for row in own
            for cell in (
                quantity(row["parameters"]),
                f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
            )
        ]
        made.append([arm, *cells])
    return made


def columns(rows: Found) -> Rows:
    """Returns the transfer score on each target, and the mean of them.

    The area over that of learning from scratch, both above a random policy's, with its
    stratified 95 % interval over the seeds of both. Targets that are not learned from
    scratch (``LEARNED`` of the reference's distance) have no place in the mean.
    """
    tasks = _tasks(rows)
    scratch = rows[0]["arm"]
    bases = [find(rows, arm=scratch, task=task) for task in tasks]
    learned = [_is_learned(base) for base in bases]
    heads = [f"{_task(base)}: score [95 %], final" for base in bases]
    made: Rows = [["arm", *heads, "mean [95 %]"]]
    for arm in _arms(rows):
        own = [find(rows, arm=arm, task=task) for task in tasks]
        pairs = list(zip(own, bases))
        cells = [f"{_transfer([x])}, {number(x[0]['final'])}" for x in pairs]
        counted = [x for x, counts in zip(pairs, learned) if counts]
        made.append([arm, *cells, _transfer(counted) if counted else NONE])
    return made


def _is_learned(row: Row) -> bool:
    gain = row["area"] - row["random"]
    return bool(gain >= LEARNED * (row["reference"] - row["random"]))


def _transfer(pairs: Sequence[tuple[Row, Row]]) -> str:
    """Returns the mean over targets of an arm's score, of (its row, scratch's)."""
    random = np.asarray([base["random"] for _, base in pairs])
    areas = [np.stack([row["area_seeds"] for row in x], axis=1) for x in zip(*pairs)]

    def scores(own: np.ndarray, base: np.ndarray) -> np.ndarray:
        return np.mean(
            [
                [
                    transfer.transfer_score([x], [y], z)
                    for x, y, z in zip(*means, random)
                ]
                for means in zip(own.mean(axis=1), base.mean(axis=1))
            ],
            axis=1,
        )

    (score,) = scores(*(x[None] for x in areas))
    if all(row is base for row, base in pairs):
        return f"{score:.2f}"
    low, high = estimates.stratified_interval(scores, *areas)
    return f"{score:.2f} [{low:.2f}, {high:.2f}]"


def sensitivities() -> Rows:
    """Returns the shares of the new column by target and layer, AFS and APS.

    The mean over seeds, with the lowest and the highest: shares lie at their ends, where
    an interval of the mean would not.
    """
    rows = load("progressive_sensitivity")["rows"]
    newest = max(row["column"] for row in rows)
    made: Rows = [
        ["target", "layer", "AFS, mean (seeds from, to)", "APS, mean (seeds from, to)"]
    ]
    for row in rows:
        if row["column"] == newest:
            cells = [_share(row, "afs"), _share(row, "aps")]
            made.append([_task(row), str(row["layer"]), *cells])
    return made


def _share(row: Row, name: str) -> str:
    seeds = row[f"{name}_seeds"]
    return f"{row[name]:.2f} ({min(seeds):.2f}, {max(seeds):.2f})"


def lags(rows: Found) -> Rows:
    """Returns area and final score of each correction, by lag and by replay."""
    arms = _arms(rows)
    made: Rows = [["correction, lag", *(f"{arm}: area, final [95 %]" for arm in arms)]]
    for label in dict.fromkeys(row["label"] for row in rows):
        own = [find(rows, arm=arm, label=label) for arm in arms]
        made.append([label, *(f"{number(r['area'])}, {_final(r)}" for r in own)])
    return made


def _arms(rows: Found) -> list[str]:
    return list(dict.fromkeys(row["arm"] for row in rows))


def _tasks(rows: Found) -> list[str]:
    return list(dict.fromkeys(row["task"] for row in rows))


def _name(row: Row) -> str:
    return f"{row['arm']} {row['label']}".strip()


def _task(row: Row) -> str:
    return row["task"].rpartition("/")[2].removesuffix("-MinAtar")


def _final(row: Row) -> str:
    return interval(row["final"], row["low"], row["high"])


def _normalised(row: Row, name: str) -> np.ndarray:
    low, high = row["random"], row["reference"]
    return (np.asarray(row[name]) - low) / (high - low)


def _pooled(scores: np.ndarray) -> str:
    """Returns the IQM of scores [seeds, tasks] with its interval."""
    low, high = estimates.stratified_interval(estimates.iqm_scores, scores)
    return f"{estimates.iqm(scores):.3f} [{low:.3f}, {high:.3f}]"


def _reached(row: Row) -> str:
    """Returns the median of steps over seeds; one that never got there is above all."""
    steps = [np.inf if x is None else x for x in row["reached"]]
    count = sum(x is not None for x in row["reached"])
    median = float(np.median(steps))
    text = quantity(median) if np.isfinite(median) else f"> {quantity(row['steps'])}"
    return f"{text} ({count} of {len(steps)} seeds)"


_MAKERS: dict[str, Callable[[Found], Rows]] = {
    "kickstarting": kickstarting,
    "combiners": scales,
    "sharing": rooms,
    "games": functools.partial(scales, arms="network, value scale"),
    "metaworld": robots,
    "distral": rooms,
    "mazes": mazes,
    "unreal": rare,
    "unreal_maze": of_a_maze,
    "progressive": columns,
    "vtrace_lag": lags,
}
TABLES: dict[str, Callable[[], Rows]] = {
    f"multitask_{name}": functools.partial(of, name, make)
    for name, make in _MAKERS.items()
} | {"progressive_sensitivity": sensitivities, "sharing_cost": costs}
