"""A run in progress: what it holds, how it begins or goes on, and how it is saved.

A session is the state on the devices with what the loop needs around it: the compiled
programs, the writers, the counters. It begins at update 0 or at a checkpoint, and every
checkpoint is enough to go on from: ``begin`` saves the first before there is a row.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import build, checkpoint, metrics, progress, report, scheduling
from mtrl_jax import config as config_lib
from mtrl_jax.config import schema
from mtrl_jax.engine import fused_runner, pbt, statistics
from mtrl_jax.types import Tree


class RunError(RuntimeError):
    """A run that cannot go on; the message is one line for the user."""


class Saved(NamedTuple):
    """What a checkpoint holds."""

    run: fused_runner.RunState
    hparams: Tree
    pbt: pbt.PbtState


class Programs(NamedTuple):
    """The compiled functions of a run; see build.Pieces."""

    chunk: Callable
    evaluate: Callable
    pbt_round: Callable | None


@dataclasses.dataclass
class Session:
    """A run in progress. ``update`` counts the updates every member has made."""

    config: schema.ExperimentConfig
    folder: pathlib.Path
    pieces: build.Pieces
    programs: Programs
    manager: checkpoint.Manager
    writer: metrics.MetricsWriter
    bar: progress.Progress
    state: fused_runner.RunState
    hparams: Tree
    pbt: pbt.PbtState
    scheduler: scheduling.Scheduler
    update: int = 0
    restart: int = 0  # the update this process began at
    saved: int | None = None  # the newest checkpoint that holds this run's state
    wall_s: float = 0.0  # of earlier processes
    started: float = dataclasses.field(default_factory=time.monotonic)
    logged: tuple[float, int] = (0.0, 0)  # when, up to which update


def begin(
    config: schema.ExperimentConfig,
    folder: pathlib.Path,
    pieces: build.Pieces,
    manager: checkpoint.Manager,
    *,
    resume_after: int | None = None,
) -> Session:
    """Returns the session of a run at update 0, its programs compiled, saved.

    ``resume_after`` is the update of the rows to keep: None in a new folder, -1 if none.
    """
    fresh = Saved(pieces.init(pieces.hparams), pieces.hparams, pieces.lineage)
    session = _open(config, folder, pieces, manager, fresh, resume_after=resume_after)
    # Complete before the first row: rows without a checkpoint are of no run.
    save(session)
    checkpoint.wait(manager)
    return session


def go_on(
    config: schema.ExperimentConfig,
    folder: pathlib.Path,
    pieces: build.Pieces,
    manager: checkpoint.Manager,
) -> Session:
    """Returns the session of a saved run at its newest sound checkpoint.

    Raises:
      ConfigError: ``config`` needs another program or state than the checkpoint's own.
      CheckpointError: there is no sound checkpoint.
    """
    update, saved, meta = read(pieces, manager)
    # Against the checkpoint's own settings: a process that was killed may have written
    # down a change that no checkpoint has seen.
    was = config_lib.from_dict(meta["config"], where=f"checkpoint {update}")
    changed = config_lib.check_resumable(was, config)
    hparams = _with_changes(saved.hparams, changed, pieces.hparams)
    session = _open(
        config,
        folder,
        pieces,
        manager,
        saved._replace(hparams=hparams),
        # The row of update 0 is written again.
        resume_after=update or -1,
        update=update,
        meta=meta,
    )
    session.saved = update
    for name, (old, new) in changed.items():
        session.bar.note(f"{name}: {old!r} is now {new!r}")
    if not pieces.pure:
        session.bar.note("the environments cannot be restored: new episodes begin")
    return session


def read(
    pieces: build.Pieces, manager: checkpoint.Manager
) -> tuple[int, Saved, dict[str, Any]]:
    """Returns (update, saved, meta) of the newest sound checkpoint.

    A world that is outside the program was not saved: it is at fresh episodes.

    Raises:
      CheckpointError: there is none, or it does not fit the pieces.
    """
    fresh = pieces.init(pieces.hparams)
    like = Saved(fresh, pieces.hparams, pieces.lineage)
    update, saved, meta = checkpoint.restore(manager, _without_world(like, pieces.pure))
    return update, _with_world(saved, fresh, pieces.pure), meta


def save(session: Session) -> None:
    """Saves the session, unless that is what the newest checkpoint holds."""
    session.writer.flush()
    if session.saved == session.update:
        return
    saved = Saved(session.state, session.hparams, session.pbt)
    meta = {
        "versions": report.versions(),
        "wall_s": session.wall_s + time.monotonic() - session.started,
        "config": config_lib.to_dict(session.config),
        "schedules": session.scheduler.memory(),
    }
    checkpoint.save(
        session.manager,
        session.update,
        _without_world(saved, session.pieces.pure),
        meta,
    )
    session.saved = session.update


def total_updates(config: schema.ExperimentConfig, slots: int) -> int:
    """Returns the updates of a run: ``env_steps`` per member, up to whole chunks."""
    t = config.training
    chunk = t.updates_per_chunk * t.unroll_length * slots
    return math.ceil(t.env_steps / chunk) * t.updates_per_chunk


def _open(
    config, folder, pieces, manager, saved, *, resume_after, update=0, meta=None
) -> Session:
    """Returns the session that begins with ``saved``, its programs compiled."""
    meta = meta or {"wall_s": 0.0}
    members, slots = pieces.batch
    updates = total_updates(config, slots)
    steps = updates * config.training.unroll_length * slots * members
    session = Session(
        config=config,
        folder=folder,
        pieces=pieces,
        programs=_compiled(pieces, saved, config),
        manager=manager,
        writer=metrics.MetricsWriter(
            folder,
            resume_after=resume_after,
            tensorboard=config.logging.tensorboard,
            wandb={"project": config.logging.wandb} if config.logging.wandb else None,
        ),
        bar=progress.Progress(steps),
        state=saved.run,
        hparams=saved.hparams,
        pbt=saved.pbt,
        scheduler=scheduling.make(config, pieces, updates, meta.get("schedules")),
        update=update,
        restart=update,
        wall_s=meta["wall_s"],
    )
    session.logged = (session.started, session.update)
    return session


def _compiled(pieces, saved: Saved, config) -> Programs:
    """Returns the run's functions; PBT's is compiled now, others when first called."""
    if pieces.pbt_round is None:
        return Programs(pieces.chunk, pieces.evaluate, None)
    state, hparams, lineage = saved
    layout = jax.tree.map(lambda x: x.sharding, (state, hparams, lineage))
    test = None
    if config.population.fitness.source == "evaluation":
        test = pieces.evaluate(state, hparams)
    jitted = jax.jit(pieces.pbt_round, donate_argnums=0, out_shardings=(*layout, None))
    return Programs(
        pieces.chunk,
        pieces.evaluate,
        jitted.lower(state, hparams, lineage, test).compile(),
    )


def _with_changes(hparams: Tree, changed: dict[str, tuple], like: Tree) -> Tree:
    """Returns the hyperparameters with what was changed set for all members."""
    given = {n.removeprefix("agent.hparams."): new for n, (_, new) in changed.items()}
    own = {n: v for n, v in given.items() if n in hparams._fields}
    hparams = hparams._replace(
        **{n: jnp.full_like(getattr(hparams, n), v) for n, v in own.items()}
    )
    return jax.tree.map(lambda new, x: jax.device_put(new, x.sharding), hparams, like)


def _without_world(saved: Saved, pure: bool) -> Saved:
    """Returns what can be written to disk: a world outside the program cannot."""
    if pure:
        return saved
    nothing: Any = ()
    return saved._replace(
        run=saved.run._replace(env=nothing, ts=nothing, carry=nothing)
    )


def _with_world(saved: Saved, fresh: fused_runner.RunState, pure: bool) -> Saved:
    """Returns the restored state; where the world was not saved, at fresh episodes."""
    if pure:
        return saved
    return saved._replace(
        run=saved.run._replace(
            env=fresh.env,
            ts=fresh.ts,
            carry=fresh.carry,
            stats=statistics.restart_episodes(saved.run.stats),
        )
    )
