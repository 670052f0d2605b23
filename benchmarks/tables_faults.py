"""The table of faults: what was done to runs, and what was lost."""

from __future__ import annotations

from table_cells import Rows, load

_COUNTED = ("tried", "lost", "tracebacks", "partial")


def faults() -> Rows:
    """Returns the counts of every part by where it happened, and their sum."""
    header = ["fault", "where", "tries", "lost", "tracebacks", "partial folders"]
    found = load("faults")["faults"]
    places = [
        (part, where, counts)
        for part, by_place in found.items()
        for where, counts in by_place.items()
    ]
    total = {key: sum(counts[key] for *_, counts in places) for key in _COUNTED}
    return [header] + [
        [part, where, *(str(counts[key]) for key in _COUNTED)]
        for part, where, counts in [*places, ("all", "", total)]
    ]


TABLES = {"faults": faults}
