"""A run in progress: what it holds, and how it is saved.

A session is the state on the devices with what the loop needs around it: the compiled
programs, the writers, the counters. See ``opening`` for how it begins.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mtrl_jax import checkpoint, metrics
from mtrl_jax.config import loading
from mtrl_jax.engine import pbt
from mtrl_jax.training import (
    pace,
    progress,
    provenance,
    run_folder,
    saved_state,
    scheduler,
)
from mtrl_jax.training.program import Program, Recorder
from mtrl_jax.types import Tree


class Programs(NamedTuple):
    """The compiled functions of a run; see ``Program``."""

    chunk: Callable
    evaluate: Callable | None
    pbt_step: Callable | None


@dataclasses.dataclass
class Session:
    """A run in progress. ``update`` counts the updates every member has made."""

    config: Any  # ExperimentConfig, or a stage's settings
    folder: pathlib.Path
    program: Program
    programs: Programs
    manager: checkpoint.Manager
    writer: metrics.MetricsWriter
    bar: progress.Progress
    recorder: Recorder | None
    state: Any
    hparams: Tree
    pbt: pbt.PbtState
    scheduler: scheduler.Scheduler
    pace: pace.Pace
    update: int = 0
    restart: int = 0  # the update this process began at
    is_unchanged: bool = False  # restored, and no setting differs that results hang on
    counted: int = 0  # env steps of all members, of each until it was lost
    # The run was to end here, so a PBT round was left out that a longer one has.
    round_owed: bool = False
    lost: set[int] = dataclasses.field(default_factory=set)  # members that were noted
    saved: int | None = None  # the newest checkpoint that holds this run's state
    wall_s: float = 0.0  # of earlier processes
    # {module: SHA-256} of agents and environments from outside, as they were imported.
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    started: float = dataclasses.field(default_factory=time.monotonic)
    # Until so many programs were compiled a signal ends the process: nothing is to save.
    idle_until: float = -1

    @property
    def run_folder(self) -> pathlib.Path:
        """The folder to resume: of a stage, the run's that it is a part of."""
        return run_folder.whole(self.folder)


def save(session: Session) -> None:
    """Save the session, unless that is what the newest checkpoint holds.

    A program that is indivisible is saved at its beginning and end alone.
    """
    session.writer.flush()
    is_within = 0 < session.update < session.program.run_length.updates
    if session.saved == session.update or (session.program.indivisible and is_within):
        return
    saved = saved_state.Saved(session.state, session.hparams, session.pbt)
    meta = {
        "versions": provenance.versions(),
        "wall_s": session.wall_s + time.monotonic() - session.started,
        "config": loading.to_dict(session.config),
        "schedules": session.scheduler.state_dict(),
        "round_owed": session.round_owed,
        "sources": session.sources,
        "env_steps": session.counted,
        "slot_tasks": session.program.spec.slot_tasks,
    }
    checkpoint.save(
        session.manager,
        session.update,
        saved_state.without_world(saved, session.program.pure),
        meta,
        drop=saved_state.dropped(saved, session.config.checkpoint.replay),
    )
    session.saved = session.update
