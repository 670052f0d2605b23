"""Tables of policy distillation: students by loss, temperature and size."""

from __future__ import annotations

from collections.abc import Callable

from table_cells import NONE, Rows, interval, load, number


def teachers() -> Rows:
    """Returns the table of what the teachers play."""
    found = load("distillation")["teachers"]
    made: Rows = [["game", "random", "teacher"]]
    for name, row in found.items():
        game = name.rpartition("/")[2].removesuffix("-MinAtar")
        made.append([game, number(row["random"]), number(row["return"])])
    return made


def students() -> Rows:
    """Returns the table of students: score and agreement by loss, a column a size."""
    rows = load("distillation")["rows"]
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
        label = f"KL, τ = {tau:g}" if tau else loss.upper()
        made.append([label, *cells])
    return made


def _cell(row: dict) -> str:
    score = interval(row["score"], row["low"], row["high"])
    return f"{score}; {100 * row['agreement']:.0f} %"


TABLES: dict[str, Callable[[], Rows]] = {
    "distillation_teachers": teachers,
    "distillation_students": students,
}
