"""What is written down of a chunk, once the device has it: a row, a round, a lost member."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mtrl_jax import checkpoint, errors, hparams, types
from mtrl_jax.engine import fused_runner
from mtrl_jax.training import pace, report
from mtrl_jax.training.program import RoundRecord
from mtrl_jax.training.session import Session
from mtrl_jax.types import Tree


class Pending(NamedTuple):
    """A chunk whose numbers may still be on their way from the device."""

    update: int
    output: fused_runner.ChunkOutput | None  # None before the first chunk
    hparams: Tree  # the chunk was trained with
    times: pace.Chunk | None
    evaluation: Any = None
    record: RoundRecord | None = None


def write(session: Session, pending: Pending | None) -> None:
    """Write a chunk's row, once the device has it, and stop a run that is lost."""
    if pending is None:
        return
    reporter, per_update = session.program.reporter, session.program.run_length.steps
    members = session.program.batch[0]
    seconds = seconds_of(session, pending.output, pending.times)
    pending = jax.device_get(pending._replace(times=None))
    now = time.monotonic()
    row = reporter.row(pending.output, pending.evaluation)
    session.scheduler.observe(pending.update, pending.output)
    if session.recorder is not None and pending.output is not None:
        session.recorder.write(pending.output.history, pending.update)
    lost = report.lost(pending.output)
    # The slots of members that are lost are stepped with the others', for nothing.
    chunk = session.program.run_length.per_chunk * per_update * (members - len(lost))
    if pending.output is not None:
        session.counted += chunk
    session.pace.row(now, pending.update)
    session.writer.write(
        update=pending.update,
        env_steps=pending.update * per_update,
        wall_s=round(session.wall_s + now - session.started, 3),
        steps_per_s=round(chunk / seconds, 1),
        compiles=compilations(),
        hparams=hparams.flatten(pending.hparams),
        lost=lost,
        **row,
    )
    if pending.record is not None:
        write_round(session, pending.update, pending.record)
    session.bar.update(
        pending.update,
        session.counted,
        chunk / session.pace.typical_seconds(),
        session.pace.seconds_left(),
        reporter.shown(row),
        reporter.best(row),
        row.get("evaluation"),
    )
    _check_finite(session, pending)


def write_round(session: Session, update: int, record: RoundRecord) -> None:
    """Write a PBT round, and say which members it replaced because they were lost."""
    session.writer.write_lineage(
        update=update,
        score=record.score,
        source=record.source,
        ancestor=record.ancestor,
        hparams_before=hparams.flatten(record.before),
        hparams_after=hparams.flatten(record.after),
    )
    for member in np.flatnonzero(~record.finite):
        if record.source[member] != member:
            session.bar.note(
                f"member {member} is not finite at update {update}; it goes on as a "
                f"copy of member {record.source[member]}"
            )


def seconds_of(session: Session, output: Any, times: pace.Chunk | None) -> float:
    """Returns for how long the device worked on a chunk, once it is done."""
    if times is None:
        return math.nan
    jax.block_until_ready(output)
    times.seen(True, time.monotonic())
    return session.pace.seconds_of(times)


def _check_finite(session: Session, pending: Pending) -> None:
    """Raises RunError unless a member is finite; notes each that is lost, once."""
    output, spec = pending.output, session.program.spec
    lost = set(report.lost(output))
    if output is not None and len(lost) == session.program.batch[0]:
        kept = checkpoint.latest_step(session.manager)
        raise errors.RunError(
            f"no member is finite at update {pending.update}: the run stops "
            f"(checkpoint {kept} is kept); {advice(spec, output)}"
        )
    settings = session.config.population.pbt
    if settings is None or settings.exploit == "none":
        for member in sorted(lost - session.lost):
            session.bar.note(
                f"member {member} is not finite at update {pending.update}: it is lost, "
                "the others go on"
            )
        session.lost |= lost


def advice(spec: types.EnvSpec, output: fused_runner.ChunkOutput) -> str:
    """Returns what to do about a chunk that left no finite weights.

    Rewards that are not finite are named: no learning rate helps against them.
    """
    returns = np.asarray(output.episodes.get("return", np.zeros((1, len(spec.tasks)))))
    broken = np.flatnonzero(~np.isfinite(returns).all(0))
    if broken.size:
        names = ", ".join(spec.tasks[k].name for k in broken)
        return f"rewards of {names} are not finite: look there first"
    return (
        "lower the learning rate, or look for rewards and observations that are not "
        "finite"
    )


def _count_compilations() -> Callable[[], int]:
    """Returns a function that says how many programs XLA has compiled since this call."""
    seen = []

    def count(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(count)
    return lambda: len(seen)


compilations = _count_compilations()
