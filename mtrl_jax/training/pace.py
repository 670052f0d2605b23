"""How fast a run is, and how long it will still take.

A chunk's rate is its steps by the time the device worked on it, not by the time between
two rows: rows are written late where a checkpoint, an evaluation or a disk came between.
What is left is foretold from the wall clock, over all that a run does beside training.
"""

from __future__ import annotations

import collections
import dataclasses
import math
import statistics


@dataclasses.dataclass
class Chunk:
    """When the device can have begun a chunk, and had done it; NaN: not known (yet)."""

    began: float
    ended: float = math.nan
    seconds: float | None = None  # of work

    def seen(self, is_done: bool, now: float) -> None:
        """Take in that the chunk is done by now, if it is and that is new."""
        if is_done and math.isnan(self.ended):
            self.ended = now


def called(before: float, after: float, *, done: bool, compiled: bool) -> Chunk:
    """Returns the times of a chunk whose call took from ``before`` to ``after``.

    A call that compiles says little: the device began at its end, and where it was done
    by then, for how long is unknown.
    """
    if done:
        return Chunk(math.nan if compiled else before, after)
    return Chunk(after if compiled else before)


class Pace:
    """The times of a run's chunks, from this process's first on."""

    def __init__(self, updates: int):
        self._updates = updates  # of the run
        self._free = -math.inf  # when the device had done all that it was last given
        self._seconds: collections.deque[float] = collections.deque(maxlen=15)
        self._rows: collections.deque[tuple[float, int]] = collections.deque(maxlen=512)

    def seconds_of(self, chunk: Chunk) -> float:
        """Returns for how long the device worked on a chunk that is done.

        It works on one thing after the other: not before the last one was ready. NaN of
        a chunk that nobody saw begin or end. Chunks are asked for in their order.
        """
        if chunk.seconds is None:
            seconds = chunk.ended - max(chunk.began, self._free)
            self.ready(chunk.ended)
            known = math.isfinite(chunk.began) and seconds > 0
            chunk.seconds = seconds if known else math.nan
            if known:
                self._seconds.append(seconds)
        return chunk.seconds

    def ready(self, now: float) -> None:
        """Take in that the device has just done something: a chunk, a test."""
        self._free = max(self._free, now)

    def typical_seconds(self) -> float:
        """Returns the median time of the last chunks, NaN before the first."""
        return statistics.median(self._seconds) if self._seconds else math.nan

    def row(self, now: float, update: int) -> None:
        """Take in that the row of ``update`` is being written."""
        self._rows.append((now, update))

    def seconds_left(self) -> float:
        """Returns how long the run will take from the last row on.

        From the second half of the rows so far (of at most 512): one slow chunk hardly
        moves it, a lasting change does. NaN before there are two.
        """
        if len(self._rows) < 2:
            return math.nan
        then, old = self._rows[(len(self._rows) - 1) // 2]
        now, new = self._rows[-1]
        if new == old:
            return math.nan
        return max(self._updates - new, 0) * (now - then) / (new - old)
