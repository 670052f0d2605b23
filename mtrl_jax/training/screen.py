"""Output that may fail for good without anybody noticing but the screen.

A run's results are in its folder. What it prints on the way is for a person who may have
closed the terminal, filled the disk of a log, or ended the reader of a pipe.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any


class Unfailing:
    """A text stream that goes silent at its first failure; nothing raises after it."""

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        """Returns the length of the text, written or not."""
        try:
            self._stream.write(text)
        except (OSError, ValueError):  # ValueError: it was closed.
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, if that is possible."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._give_up()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _give_up(self) -> None:
        """Lead the stream to nowhere, with what it still holds in its buffer."""
        failed = self._stream
        self._stream = open(os.devnull, "w")  # noqa: SIM115
        # Else Python fails at its end, with what is left in the buffer.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(self._stream.fileno(), failed.fileno())


def unfailing(stream: Any) -> Any:
    """Returns the stream, None of a process without one, as one that never fails."""
    if isinstance(stream, Unfailing):
        return stream
    return Unfailing(open(os.devnull, "w") if stream is None else stream)


@contextlib.contextmanager
def outlived() -> Iterator[None]:
    """Let what is done inside outlive its terminal, its log and its pipe.

    A terminal that is closed sends SIGHUP, which is not for a run: ``kill`` (SIGTERM)
    ends one.
    """
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(unfailing, streams)
    ours = threading.current_thread() is threading.main_thread()
    hang_up = getattr(signal, "SIGHUP", None) if ours else None
    old = hang_up and signal.signal(hang_up, signal.SIG_IGN)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = streams
        if hang_up:
            signal.signal(hang_up, old)
