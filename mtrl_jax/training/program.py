"""What a run is made of: compiled functions, how long it is, what is written of it.

Every kind of run (online, collect, offline, evaluate) is one Program; the loop and the
session know nothing else of it.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mtrl_jax import types
from mtrl_jax.engine import fitness, pbt
from mtrl_jax.types import Array, Tree


class RunLength(NamedTuple):
    """How long a run is and when what is due; the loop counts in updates."""

    updates: int  # of the run, whole chunks
    per_chunk: int  # updates
    steps: int  # of one member in one update
    test_every: int  # updates; 0: at the end alone
    save_every: int

    def is_due(self, every: int, update: int) -> bool:
        """Returns whether a multiple of ``every`` lies in the chunk that ends at ``update``.

        Of 0 none does.
        """
        return every > 0 and update // every > (update - self.per_chunk) // every


class Recorder(NamedTuple):
    """Where the steps of a run go; ``write(history, update)`` after each chunk.

    ``history`` is ChunkOutput.history of the chunk that ended at ``update``. When it
    returns they are on disk for good, so a checkpoint that follows is never ahead.
    """

    write: Callable[[types.Rollout, int], None]
    close: Callable[[], None]


class Recording(NamedTuple):
    """A recorder to be opened in a run's folder at an update, and what to say before."""

    announcement: str
    size: int  # bytes on disk
    open: Callable[[pathlib.Path, int], Recorder]
    extras: Callable[[Tree], Tree]  # of what acting notes down, what is recorded


class Reporter(NamedTuple):
    """``row(output, evaluation)`` gives metrics, returns and maybe evaluation of a row.

    ``shown(row)`` is what the progress line shows, ``best(row)`` the member it names.
    ``begin()`` is the summary of a run that has begun. ``finish(state, evaluation,
    totals, restart)`` gives (summary, lines of text) of one that has ended; ``restart``
    is the update that its last process began at.
    """

    row: Callable[[Any, Any], dict[str, Any]]
    shown: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    best: Callable[[Mapping[str, Any]], int]
    begin: Callable[[], dict[str, Any]]
    finish: Callable[[Any, Any, Mapping[str, Any], int], tuple[dict[str, Any], str]]


class RoundRecord(NamedTuple):
    """What a PBT round saw and decided, all ``[P]``."""

    score: Array
    episodes: Array
    finite: Array
    source: Array
    ancestor: Array
    before: Tree  # hyperparameters
    after: Tree


class Program(NamedTuple):
    """What a run is made of; functions compile when first called.

    Where a run has no environments to be tested in, ``evaluate`` measures something
    else, or is None, and there is no ``metric`` of returns.
    """

    spec: types.EnvSpec
    agent: types.Agent
    batch: tuple[int, int]  # (P, B)
    pure: bool
    run_length: RunLength
    reporter: Reporter
    hparams: Tree  # [P] initial values, on their devices
    lineage: pbt.PbtState  # of generation 0, on its devices
    init: Callable[[Tree], Any]
    # What ``init`` returns as jax.ShapeDtypeStructs with shardings; nothing is allocated.
    # None where environments outside the program decide.
    shapes: Callable[[Tree], Any] | None
    chunk: Callable[[Any, Tree], tuple]
    evaluate: Callable[[Any, Tree], Any] | None
    pbt_step: Callable[..., tuple] | None
    metric: fitness.Metric | None
    close: Callable[[], None]
    memory: Callable[[], str]  # a line of the bytes that it takes
    record: Recording | None = None
    # What a new run takes from another stage: its (state, hparams) as they were made ->
    # as it begins with them. A run that is resumed has them in its checkpoint.
    inherit: Callable[[Any, Tree], tuple[Any, Tree]] | None = None
    # What was stopped before its end is done again from the beginning: it is saved there
    # and when it has ended alone.
    indivisible: bool = False
    # Reads what the first chunk needs. Raises RunError where that cannot be: before
    # anything of the run is written, so that it may still be changed.
    prepare: Callable[[], None] = lambda: None
    remarks: tuple[str, ...] = ()  # lines to begin with
    # {name: SHA-256} of the data that it learns from; they may move, not change.
    sources: Callable[[], Mapping[str, str]] = dict
