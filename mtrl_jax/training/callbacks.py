"""What ends a run whose own Python code, called back by a program, raises.

An environment may call Python from its compiled step (``jax.pure_callback``). Where a
member's slots lie on one of several devices, an error there leaves the others waiting for
that one, and XLA ends the process a minute later with a page of addresses. So the process
ends at once, with the line that says what was raised and where: as after kill -9 there is
nothing to be lost, rows and checkpoints are on disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

from mtrl_jax import plugins

# JAX reports the error here, in the thread that called, before it raises it.
_LOGGER = "jax._src.callback"


@contextlib.contextmanager
def ending_on_error(
    say: Callable[[str], None], end: Callable[[int], None] = os._exit
) -> Iterator[None]:
    """Within it, an error in a callback ends the process with 1, after ``say(line)``.

    Of the command alone: a program that calls it from Python has its errors back.
    """
    logger, ending = logging.getLogger(_LOGGER), _Ending(say, end)
    logger.addFilter(ending)
    try:
        yield
    finally:
        logger.removeFilter(ending)


class _Ending(NamedTuple):
    """A filter of log records that acts on an error."""

    say: Callable[[str], None]
    end: Callable[[int], None]

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether the record is to be logged."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return True
        self.say(
            f"an environment, or other code that the program calls, raised "
            f"{plugins.reason(error)}; what is saved of the run is kept, mend it and go "
            "on with `mtrl resume`"
        )
        self.end(1)
        return False
