"""What the tables of the pages are made of: results from disk, numbers as text, rows."""

from __future__ import annotations

import functools
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

RESULTS = pathlib.Path(__file__).parent / "results"
Rows = list[list[str]]  # the first is the header
NONE = "–"


@functools.cache
def load(name: str) -> Any:
    """Returns the content of ``results/NAME.json``."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def has(name: str) -> bool:
    """Returns whether there is a ``results/NAME.json``."""
    return (RESULTS / f"{name}.json").exists()


def find(rows: Iterable[Mapping[str, Any]], **where: Any) -> Mapping[str, Any]:
    """Returns the one row that has these values.

    Raises:
      LookupError: none or several have.
    """
    found = [row for row in rows if all(row[key] == x for key, x in where.items())]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows have {where}")
    return found[0]


def number(value: float | None) -> str:
    """Returns three significant digits, or all of a larger number's; – of None.

    >>> number(-0.25781), number(11), number(13602.9), number(0)
    ('−0.258', '11.0', '13,603', '0')
    """
    if value is None:
        return NONE
    if value == 0:
        return "0"
    text = f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")


def quantity(value: float) -> str:
    """Returns a number with k or M, to three significant digits.

    >>> quantity(223610), quantity(2393241), quantity(887.1)
    ('224 k', '2.39 M', '887')
    """
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{number(value / size)} {unit}"
    return number(value)


def ratio(value: float | None) -> str:
    """Returns two decimals; – of None."""
    return NONE if value is None else f"{value:.2f}".replace("-", "−")


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """Returns ``value [low, high]``; the value alone where there is no interval."""
    if low is None or high is None:
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def markdown(rows: Rows) -> str:
    """Returns the table as Markdown, a line each."""
    header, *body = rows
    lines = [header, ["---"] * len(header), *body]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
