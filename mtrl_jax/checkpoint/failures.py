"""What goes wrong with a checkpoint, in one line."""

from __future__ import annotations

import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from mtrl_jax import errors


class one_line:
    """Turns whatever is raised inside into a CheckpointError of one line."""

    def __init__(self, what: str):
        self._what = what

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if isinstance(error, Exception) and not isinstance(
            error, errors.CheckpointError
        ):
            self.clean()
            raise errors.CheckpointError(
                f"{self._what}: {first_line(error)}"
            ) from error
        return False

    def clean(self):
        pass


def first_line(error: BaseException) -> str:
    """Returns what went wrong, without tensorstore's tale of where."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code is not None:
        return os.strerror(int(code[1]))
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}".rstrip(": ")


def quieten() -> None:
    """Drop orbax's log lines, and what its writers print after a save has failed.

    It logs a page of tracebacks for what is raised as one CheckpointError. Files whose
    writing ends later than that find the save's event loop closed, and say so in a
    traceback each.
    """
    logging.getLogger("absl").addFilter(_is_not_orbax)
    if not isinstance(sys.unraisablehook, _TooLate):
        hook: Any = _TooLate(sys.unraisablehook)
        sys.unraisablehook = hook


class _TooLate(NamedTuple):
    """An unraisablehook that leaves out what comes too late for a save that has failed."""

    show: Callable[[Any], Any]

    def __call__(self, unraisable: Any) -> None:
        error = unraisable.exc_value
        if not (
            isinstance(error, RuntimeError) and "Event loop is closed" in str(error)
        ):
            self.show(unraisable)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in pathlib.Path(record.pathname).parts
