"""What the kit raises for its user to read, and how such an error is worded.

A ``MtrlError`` is one line that names what was given and what would work; the command
``mtrl`` prints it without a traceback and ends with its ``exit_code``: 2 if nothing was
done, 1 if a run could not go on.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


class MtrlError(Exception):
    """An error that is the user's to read, in one line."""

    exit_code = 1


class ConfigError(MtrlError, ValueError):
    """A setting that cannot work."""

    exit_code = 2


class RenamedError(ValueError):
    """A setting by the name that it had in an earlier version."""


class RunLockedError(MtrlError, RuntimeError):
    """A run that another process is working on."""

    exit_code = 2


class RunError(MtrlError, RuntimeError):
    """A run that cannot go on."""


class CheckpointError(MtrlError, RuntimeError):
    """A checkpoint that cannot be saved or restored."""


class DatasetError(MtrlError, RuntimeError):
    """A dataset that is missing, damaged or of something else."""


@contextlib.contextmanager
def within(where: str) -> Iterator[None]:
    """Put ``where`` before the ConfigErrors raised inside."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


@contextlib.contextmanager
def at(field: str) -> Iterator[None]:
    """Turn the one-line errors of the parts into ConfigErrors that name the field."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, ImportError, OSError) as error:
        line = " ".join(str(error).split())
        named = line if line.startswith(field) else f"{field}: {line}"
        raise ConfigError(named) from error


def is_of_renamed(error: BaseException | None) -> bool:
    """Returns whether an error, or one that it was raised for, is a RenamedError."""
    while error is not None and not isinstance(error, RenamedError):
        error = error.__context__
    return error is not None


def check(field: str, name: str, known: Iterable[str]) -> None:
    """Raises ValueError unless ``name`` is among ``known``: did you mean ...?"""
    known = list(known)
    if name not in known:
        raise ValueError(f"{field}: no {name!r}{suggest(name, known)}")


def check_choices(config: Any, known: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError unless each field {name: its choices} is one of its choices."""
    for field, choices in known.items():
        value = getattr(config, field)
        if value not in choices:
            raise ValueError(f"{field}: {value!r} is not known, use one of {choices}")


def check_sizes(config: Any, fields: Iterable[str]) -> None:
    """Raises ValueError unless all ``fields`` are at least 1; names the first below."""
    for field in fields:
        value = getattr(config, field)
        if value < 1:
            raise ValueError(f"{field}: got {value}, give at least 1")


def check_options(owner: str, options: Iterable[str], known: Sequence[str]) -> None:
    """Raises ValueError unless ``owner`` has all ``options``; names the first it has not."""
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


def number(field: str, value: Any, low: float, high: float) -> float:
    """Returns ``value``, or raises ValueError if it is no number from low to high."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ValueError(
            f"{field}: got {value!r}, give a number from {low:g} to {high:g}"
        )
    return float(value)
