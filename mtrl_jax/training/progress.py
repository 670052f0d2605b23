"""The line a person watches while a run goes on."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping

import numpy as np

from mtrl_jax.training import screen


class Progress:
    """A live bar on a terminal, a line every ``every_s`` seconds elsewhere.

    ``label`` begins every line: the stage, where there are several. A screen that is
    gone costs nothing but the lines.
    """

    def __init__(self, updates: int, every_s: float = 10.0, label: str = ""):
        from rich import console, progress

        self._console = console.Console(
            file=screen.unfailing(sys.stderr), highlight=False, soft_wrap=True
        )
        self._updates = updates
        self._label = label and f"{label} "
        self._every_s = every_s
        self._last = -float("inf")
        self._tested = ""
        self._bar = progress.Progress(
            progress.BarColumn(20),
            progress.TextColumn("{task.description}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(f"{self._label}compiling", total=updates)
        self._bar.start()

    def update(
        self,
        update: int,
        steps: int,
        rate: float,
        left: float,
        returns: Mapping[str, np.ndarray],
        best: int,
        tested: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Show how far the run is, the population's steps and rate, returns or losses.

        ``left`` are the seconds to the end; NaN of either is a dash. ``best`` is the
        member with the best ``returns``, those of one chunk; which is best in the end is
        another question, see ``report.summary``. ``tested`` are the returns of an
        evaluation, shown until the next one with the steps it was made after.
        """
        if tested:
            self._tested = f"  evaluation at {si(steps)}: {_shown(tested)}"
        line = self._line(update, steps, rate, left, returns, best)
        self._bar.update(self._task, completed=update, description=line)
        now = time.monotonic()
        late = now - self._last >= self._every_s or update >= self._updates
        if not self._console.is_terminal and late:
            self._last = now
            self._console.print(line, markup=False)

    def note(self, text: str) -> None:
        """Print a line of its own above the live one."""
        self._console.print(text, markup=False)

    def last_words(self, text: str) -> None:
        """Print a line and end the live bar, of a process that ends here."""
        self.note(text)
        self.close()

    def close(self) -> None:
        """End the live bar."""
        self._bar.stop()

    @contextlib.contextmanager
    def closed_on_error(self) -> Iterator[None]:
        """End the live bar if what is done inside fails."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _line(self, update, steps, rate, left, returns, best) -> str:
        return (
            f"{self._label}{100 * min(update / self._updates, 1):3.0f}% "
            f"{si(steps)} steps  "
            f"{si(rate)}/s  ETA {duration(left)}  best now #{best}  {_shown(returns)}{self._tested}"
        )


def _scaled(x: float) -> tuple[str, str]:
    """Returns three digits and their unit."""
    if x != x:
        return "–", ""
    units = ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)
    for unit, one in units:
        if abs(x) >= 0.9995 * one:  # 999.7k is rounded to 1M.
            return f"{x / one:.3g}", unit
    return f"{x:.3g}", ""


def _shown(returns: Mapping[str, np.ndarray]) -> str:
    shown = [f"{short(name)} {_stat(values)}" for name, values in returns.items()]
    if len(shown) > 6:
        shown = [*shown[:5], f"… {len(shown) - 5} more tasks"]
    return "  ".join(shown)


def si(x: float) -> str:
    """Returns a number with k, M, G, T or P, three digits; NaN as a dash.

    >>> si(640), si(999_700), si(1.5e9), si(float("nan"))
    ('640', '1M', '1.5G', '–')
    """
    number, unit = _scaled(x)
    return f"{number}{unit}"


def size(count: float) -> str:
    """Returns so many bytes as text, in units of a thousand.

    >>> size(0), size(1234), size(68.7e9)
    ('0 B', '1.23 kB', '68.7 GB')
    """
    number, unit = _scaled(count)
    return f"{number} {unit}B"


def duration(seconds: float) -> str:
    """Returns seconds as 1h02m, 3m04s or 5s."""
    if seconds != seconds:
        return "–"
    s = round(seconds)
    if s >= 3600:
        return f"{s // 3600}h{s % 3600 // 60:02d}m"
    return f"{s // 60}m{s % 60:02d}s" if s >= 60 else f"{s}s"


def short(name: str) -> str:
    """Returns a task's name without its family."""
    return name.split("/", 1)[-1]


def _stat(values: np.ndarray) -> str:
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if not values.size:
        return "–"
    return f"{values.mean():.3g} (max {values.max():.3g})"
