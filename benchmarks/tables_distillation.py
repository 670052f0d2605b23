"""Tables of policy distillation: students, joint learners, own states, online."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from table_cells import NONE, Rows, has, interval, load, number, quantity


def pipeline() -> Rows:
    """Returns the table of a run of the whole config: teachers and students by game."""
    found = load("distillation_pipeline")
    own = found["pipeline"]
    made: Rows = [["game", "random", "teacher", "students", "share of the teacher's"]]
    for name, row in found["teachers"].items():
        returns = own["returns"][name]
        gain = row["return"] - row["random"]
        share = (sum(returns) / len(returns) - row["random"]) / gain
        cells = [number(row["random"]), number(row["return"])]
        cells += [", ".join(map(number, returns)), number(share)]
        made.append([name.rpartition("/")[2].removesuffix("-MinAtar"), *cells])
    score = interval(own["score"], own["low"], own["high"])
    return [*made, ["geometric mean", NONE, NONE, NONE, score]]


def students(name: str) -> Rows:
    """Returns the table of students: score and agreement by loss, a column a size."""
    rows = load(name)["rows"]
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    heads = []
    for size in sizes:
        own = next(row for row in rows if row["size"] == size)
        heads.append(f"{size}: {own['parameters'] / 1e3:.1f} k parameters")
    made: Rows = [["loss", *heads]]
    for loss, tau in dict.fromkeys((row["loss"], row["tau"]) for row in rows):
        cells = []
        for size in sizes:
            key = (size, loss, tau)
            own = [r for r in rows if (r["size"], r["loss"], r["tau"]) == key]
            cells.append(_cell(own[0]) if own else NONE)
        made.append([_label(loss, tau), *cells])
    return made


def population() -> Rows:
    """Returns the table of what a population of students costs beside one."""
    heads = ["ms an update", "over one", "processor ms", "over one"]
    made: Rows = [["size", "students", *heads]]
    for row in load("students")["rows"]:
        made.append(
            [
                row["size"],
                str(row["students"]),
                number(row["ms"]),
                f"{row['over one']:.2f} ×",
                number(row["CPU ms"]),
                f"{row['CPU over one']:.2f} ×",
            ]
        )
    return made


def joint() -> Rows:
    """Returns the table of joint learners beside the best student of every size."""
    return joint_of(load("distillation_middle"))


def joint_of(result: dict[str, Any]) -> Rows:
    """Returns the table of joint learners of a result; one without says so."""
    made: Rows = [["learner", "parameters", "env steps", "score"]]
    learners = result.get("joint", [])
    if not learners:
        return [*made, ["joint", "not run", NONE, NONE]]
    known = [row for row in result["rows"] if row["score"] is not None]
    for size in dict.fromkeys(row["size"] for row in known):
        students = [row for row in known if row["size"] == size]
        best = max(students, key=lambda row: row["score"])
        label = f"student, {_label(best['loss'], best['tau'])}"
        made.append(_line(label, best, NONE))
    for row in learners:
        label = f"joint {row['agent'].upper()}"
        made.append(_line(label, row, quantity(row["env_steps"])))
    return made


def states() -> Rows:
    """Returns the table of students that went on, by whose states."""
    return states_of(load("distillation_middle"))


def states_of(result: dict[str, Any]) -> Rows:
    """Returns the table of students' own states of a result; one without says so."""
    made: Rows = [["size", "own states", "the teachers' states"]]
    rows = result.get("states", [])
    for size in dict.fromkeys(row["size"] for row in rows):
        found = {row["states"]: row for row in rows if row["size"] == size}
        made.append([size, *(_cell(found[arm]) for arm in ("own", "more"))])
    return made if rows else [*made, [NONE, "not run", NONE]]


def online() -> Rows:
    """Returns the table of online distillation."""
    name = "distillation_online"
    return online_of(load(name) if has(name) else None)


def online_of(result: dict[str, Any] | None) -> Rows:
    """Returns the table of teachers and students of a result; of none it says so."""
    made: Rows = [["game", "teacher", "student", "deviation, student's / teacher's"]]
    if result is None:
        return [*made, [NONE, "not run", NONE, NONE]]
    for row in result["rows"]:
        returns = [number(row[who]) for who in ("teacher", "student")]
        ratio = interval(row.get("ratio"), row.get("low"), row.get("high"))
        made.append([row["game"], *returns, ratio])
    return made


def _line(label: str, row: dict, env_steps: str) -> list[str]:
    score = interval(row["score"], row["low"], row["high"])
    return [label, quantity(row["parameters"]), env_steps, score]


def _label(loss: str, tau: float | None) -> str:
    return f"KL, τ = {tau:g}" if tau else loss.upper()


def _cell(row: dict) -> str:
    score = interval(row["score"], row["low"], row["high"])
    return f"{score}; {100 * row['agreement']:.0f} %"


TABLES: dict[str, Callable[[], Rows]] = {
    "distillation_pipeline": pipeline,
    "distillation_students": functools.partial(students, "distillation"),
    "distillation_whole": functools.partial(students, "distillation_whole"),
    "distillation_middle": functools.partial(students, "distillation_middle"),
    "distillation_short": functools.partial(students, "distillation_short"),
    "distillation_joint": joint,
    "distillation_states": states,
    "distillation_online": online,
    "students": population,
}
