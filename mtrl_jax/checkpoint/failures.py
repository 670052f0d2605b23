"""What goes wrong with a checkpoint, in one line."""

from __future__ import annotations

import errno
import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from mtrl_jax import errors

# What keeps a process from files that may be sound: rights, its limits, the file system.
_MACHINE = {
    getattr(errno, name)
    for name in (
        *("EACCES", "EPERM", "EMFILE", "ENFILE", "ENOMEM"),
        *("ESTALE", "ENOTCONN", "ETIMEDOUT"),
    )
}


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
    code = _os_code(error)
    if code is not None and not isinstance(error, OSError):
        return os.strerror(code)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160] if lines else ''}".rstrip(": ")


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether the host or a device has no memory left."""
    on_device = isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    return isinstance(error, MemoryError) or on_device


def of_machine(error: BaseException) -> BaseException | None:
    """Returns what says that files could not be read, rather than that they are damaged.

    It may be what ``error`` was raised from; None where nothing says so.
    """
    found: BaseException | None = error
    while found is not None:
        if is_out_of_memory(found) or _os_code(found) in _MACHINE:
            return found
        found = found.__cause__ or found.__context__
    return None


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


def _os_code(error: BaseException) -> int | None:
    """Returns the number of the system's error, which tensorstore has in its text."""
    if isinstance(error, OSError):
        return error.errno
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return None if code is None else int(code[1])


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in pathlib.Path(record.pathname).parts
