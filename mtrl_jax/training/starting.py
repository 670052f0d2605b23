"""The start of a run, minutes of compilation: a signal finds nothing to be saved yet."""

from __future__ import annotations

import contextlib
import pathlib
import shlex
import sys
from collections.abc import Callable, Iterator

from mtrl_jax.training import run_folder, screen, signals

_ENDED = "ended at once: since it began nothing was trained; "


def ended(folder: pathlib.Path) -> str:
    """Returns what a signal says that ends a run, as it is written down, at its start."""
    whole = shlex.quote(str(run_folder.whole(folder)))
    return f"{_ENDED}go on with `mtrl resume {whole}`"


@contextlib.contextmanager
def interruptible(
    folder: pathlib.Path, *, is_new: bool, say: Callable[[str], None] | None = None
) -> Iterator[None]:
    """Returns a context in which the first signal ends the process, after ``say(line)``.

    Nothing may be written in it. What changes a run that is not new is not written down
    before it, either.
    """
    line = ended(folder) if is_new else f"{_ENDED}give the same command again"
    say = say or _print
    with signals.caught(lambda _: say(line), lambda: True):
        yield


def _print(line: str) -> None:
    print(line, file=screen.unfailing(sys.stderr), flush=True)
