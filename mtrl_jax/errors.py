"""What the kit raises for its user to read, and how such an error is worded.

A ``MtrlError`` is one line that names what was given and what would work; the command
``mtrl`` prints it without a traceback and ends with its ``exit_code``: 2 if nothing was
done, 1 if a run could not go on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import pathlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

# What a file or folder that only tries a place begins with; a kill may leave it.
PROBE = ".mtrl-probe-"
# What a run knows of episodes without being given it, and what it judges by.
_COUNTED = ("episodes", "return", "length", "normalised", "capped")


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
def within(where: str, section: Any = ()) -> Iterator[None]:
    """Put ``where`` before the ConfigErrors raised inside.

    ``section`` are the settings there, see ``at``.
    """
    try:
        yield
    except ConfigError as error:
        raise ConfigError(_placed(where, str(error), section)) from error


@contextlib.contextmanager
def at(field: str, section: Any = ()) -> Iterator[None]:
    """Turn the one-line errors of the parts into ConfigErrors that name the field.

    ``section`` are the settings there, a dataclass or pairs of (name, value): a line that
    begins with the name of one, or of one within a part of them, goes on with its path.
    """
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, ImportError, OSError) as error:
        line = " ".join(str(error).split())
        named = line if line.startswith(field) else _placed(field, line, section)
        raise ConfigError(named) from error


@contextlib.contextmanager
def part(name: str, section: Any) -> Iterator[None]:
    """Put ``name`` before the ValueErrors that begin with a field of ``section``."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        line = _on_path(str(error), section)
        if line is None:
            raise
        raise ValueError(f"{name}.{line}") from None


def names_field(line: str, section: Any) -> bool:
    """Returns whether a line begins with a setting of ``section``, see ``at``."""
    return _on_path(line, section) is not None


def _placed(field: str, line: str, section: Any) -> str:
    """Returns the line after ``field``, which it may go on from.

    >>> _placed("tasks.0", "env: no 'Pnog'", [("env", "gymnax/Pnog")])
    "tasks.0.env: no 'Pnog'"
    >>> _placed("tasks.0", "it has no such game", [("env", "gymnax/Pnog")])
    'tasks.0: it has no such game'
    """
    found = _on_path(line, section)
    return f"{field}: {line}" if found is None else f"{field}.{found}"


def _on_path(line: str, section: Any) -> str | None:
    """Returns the line with the path of the field that it begins with, None without one."""
    name, fields = re.match(r"\w+(?=[.:=,])", line), _fields(section)
    if name is None or name[0] in fields:
        return line if name else None
    for own, inner in fields.items():
        if dataclasses.is_dataclass(inner):
            found = _on_path(line, inner)
            if found is not None:
                return f"{own}.{found}"
    return None


def _fields(section: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(section):
        return {x.name: getattr(section, x.name) for x in dataclasses.fields(section)}
    return dict(section)


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


def check_measures(names: Iterable[str]) -> None:
    """Raises ValueError unless measures of episodes have names of their own."""
    for name in names:
        if name in _COUNTED:
            raise ValueError(
                f"info: no measure can be called {name!r}, which every run has of its "
                "episodes; give it another name"
            )


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
            hint = suggest(name, known, limit=len(known))
            if not hint.startswith(";"):  # Which has the list.
                hint += f" (allowed: {', '.join(known) or 'none'})"
            raise ValueError(f"options: {owner} has no option {name!r}{hint}")


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


def check_folder(option: str, folder: pathlib.Path) -> None:
    """Raises ConfigError unless files can be written in a folder, which may be absent."""
    folder = folder.absolute()
    there = next(x for x in (folder, *folder.parents) if os.path.lexists(x))
    if not there.is_dir():
        what = "a file" if there.exists() else "a link to nothing"
        raise ConfigError(f"{option}: {there} is {what}; give a folder")
    try:
        # Rights do not say enough: root has them all, also in /proc.
        with tempfile.TemporaryDirectory(prefix=PROBE, dir=there) as probe:
            inside = pathlib.Path(probe) / folder.relative_to(there)
            inside.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{option}: cannot be made in {there} ({error.strerror}); give another"
        ) from None


def check_file(option: str, path: pathlib.Path) -> None:
    """Raises ConfigError unless a file can be written, in a folder that may be absent."""
    if os.path.isdir(path):
        raise ConfigError(f"{option}: is a folder; give a file")
    is_there = os.path.exists(path)
    check_folder(option, path.absolute().parent if is_there else path)


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
