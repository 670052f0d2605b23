"""What goes wrong with a checkpoint, in one line."""

from __future__ import annotations

import logging
import os
import pathlib
import re

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
    """Drop orbax's log lines.

    It logs a page of tracebacks for what is raised as one CheckpointError.
    """
    logging.getLogger("absl").addFilter(_is_not_orbax)


def _is_not_orbax(record: logging.LogRecord) -> bool:
    return "orbax" not in pathlib.Path(record.pathname).parts
