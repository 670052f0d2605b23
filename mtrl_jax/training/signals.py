"""Ctrl-C and SIGTERM: answered at once, obeyed at the end of a chunk.

Python runs a handler only between its own instructions, which a chunk on the device, or
the compilation of one, can hold up for minutes. The answer comes from a thread, which the
signal wakes by a pipe; where there is nothing to save it ends the process as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

_OURS = (signal.SIGINT, signal.SIGTERM)
# How long the main thread has to obey a second signal by itself.
_PATIENCE_S = 2.0


@contextlib.contextmanager
def caught(
    answer: Callable[[int], None], is_idle: Callable[[], bool] = lambda: False
) -> Iterator[list[int]]:
    """Returns a list that SIGINT and SIGTERM add themselves to, the first time only.

    ``answer(n)`` is called in a thread, at once, when the n-th comes. The second ends
    the process, whatever it is doing, with 128 + its number; so does the first while
    there is nothing to save, ``is_idle()``, after ``answer(0)``. A Python that a person
    types into gets a KeyboardInterrupt and goes on.
    """
    signals: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    old = {number: signal.getsignal(number) for number in _OURS}

    def handle(number: int, _: object) -> None:
        first, typed = not signals, is_idle() and _is_interactive()
        if first:
            signals.append(number)
        if number == signal.SIGINT and (typed or not first):
            raise KeyboardInterrupt

    left = threading.Event()
    with _woken(lambda number, n: _answered(answer, is_idle, number, n, left)):
        for number in _OURS:
            signal.signal(number, handle)
        try:
            yield signals
        finally:
            left.set()
            for number, handler in old.items():
                signal.signal(number, handler)


def _answered(
    answer: Callable[[int], None],
    is_idle: Callable[[], bool],
    number: int,
    n: int,
    left: threading.Event,
) -> None:
    """Answer the n-th signal; end the process at the second, or with nothing to save."""
    at_once = n == 1 and is_idle() and not _is_interactive()
    answer(0 if at_once else n)
    if not at_once and (n < 2 or _is_interactive()):
        return
    if at_once or number == signal.SIGTERM or not left.wait(_PATIENCE_S):
        sys.stderr.flush()
        os._exit(128 + number)


@contextlib.contextmanager
def _woken(act: Callable[[int, int], None]) -> Iterator[None]:
    """Call ``act(number, n)`` in a thread at the n-th of our signals."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    old = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        n = 0
        while byte := os.read(reader, 1):
            if byte[0] in _OURS:
                n += 1
                act(byte[0], n)

    thread = threading.Thread(target=watch, name="signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old)
        os.close(writer)  # Ends the thread.
        thread.join()
        os.close(reader)


def _is_interactive() -> bool:
    return hasattr(sys, "ps1") or "ipykernel" in sys.modules
