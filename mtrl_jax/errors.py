"""Errors for names that do not exist, with the nearest that do, and for numbers."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


def check(field: str, name: str, known: Iterable[str]) -> None:
    """Raises ValueError if ``name`` is not among ``known``: did you mean ...?"""
    known = list(known)
    if name not in known:
        raise ValueError(f"{field}: no {name!r}{suggest(name, known)}")


def check_options(owner: str, options: Iterable[str], known: Sequence[str]) -> None:
    """Raises ValueError for the first option that ``owner`` does not have."""
    for name in options:
        if name not in known:
            allowed = ", ".join(known) or "none"
            raise ValueError(
                f"options: {owner} has no option {name!r}"
                f"{suggest(name, known)} (allowed: {allowed})"
            )


def suggest(name: str, known: Iterable[str], limit: int = 20) -> str:
    """Returns ", did you mean ..." or, if nothing is near, "; there is" a short list.

    Upper and lower case are the same; "" if nothing is known.
    """
    known = list(known)
    lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(str(name).lower(), lower, n=3)
    if near:
        return f", did you mean {' or '.join(lower[k] for k in near)}?"
    if not known:
        return ""
    return (
        f"; there is {', '.join(known[:limit])}{', ...' if len(known) > limit else ''}"
    )


def integer(field: str, value: Any, low: int, high: int) -> int:
    """Returns ``value``, or raises ValueError if it is no integer from low to high."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not low <= value <= high:
        raise ValueError(
            f"{field}: got {value!r}, give an integer from {low} to {high}"
        )
    return value
