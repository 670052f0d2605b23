"""The loop on the host: from a session's first chunk to its summary.

The loop starts a chunk and, while the device works on it, writes down what the chunk
before it brought. Tests, PBT and checkpoints happen between chunks, in this order, and
everything is compiled before the first chunk.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mtrl_jax import checkpoint, errors, hparams, metrics
from mtrl_jax.engine import fused_runner
from mtrl_jax.training import pace, progress, report, signals
from mtrl_jax.training.program import RoundRecord
from mtrl_jax.training.session import Session, save
from mtrl_jax.types import Tree


class Pending(NamedTuple):
    """A chunk whose numbers may still be on their way from the device."""

    update: int
    output: fused_runner.ChunkOutput | None  # None before the first chunk
    hparams: Tree  # the chunk was trained with
    times: pace.Chunk | None
    evaluation: Any = None
    record: RoundRecord | None = None


def run(session: Session) -> int:
    """Returns the exit code after training to the end or to a signal."""
    code = 1  # of a run that an error ends
    try:
        with signals.caught(lambda n: session.bar.note(answer(session, n))) as caught:
            _loop(session, caught)
            if caught:
                save(session)
                checkpoint.wait(session.manager)
                session.bar.note(
                    f"stopped at update {session.update}; go on with "
                    f"`{_resume(session)}`"
                )
            else:
                _finish(session)
        code = 128 + caught[0] if caught else 0
        return code
    finally:
        session.bar.close()
        session.writer.close(code)
        if session.recorder is not None:
            session.recorder.close()
        problem = report.draw(session.folder)
        if problem:
            session.bar.note(problem)


def _loop(session: Session, caught: list[int]) -> None:
    settings, length = session.config.population, session.program.run_length
    source = settings.fitness.source
    pending = None
    if session.round_owed and session.update < length.updates:
        _owed_round(session, source)
    if session.update < length.updates and length.test_every:
        # Of a resumed run the result is dropped: nothing is compiled later on.
        test = _test(session)
        if session.update == 0:
            pending = Pending(0, None, session.hparams, None, test)
    while session.update < length.updates and not caught:
        before = session.update
        session.hparams = session.scheduler.apply(session.hparams, before)
        used = session.hparams
        session.update += length.per_chunk
        if pending is not None and pending.times is not None:
            pending.times.seen(_is_done(pending.output), time.monotonic())
        output, times = _chunk(session, used)
        _write(session, pending)
        due = _due(before, session.update)
        round_due = settings.pbt and due(settings.pbt.interval)
        by_test = round_due and source == "evaluation"
        tested = by_test or due(length.test_every)
        test = None
        if tested:
            # The chunk's time ends here, and the next one's begins after the test.
            _seconds(session, output, times)
            test = jax.block_until_ready(_test(session))
            session.pace.ready(time.monotonic())
        record = None
        # None after the last update: what is measured in the end is what was trained.
        session.round_owed = bool(round_due) and session.update >= length.updates
        if round_due and not session.round_owed:
            record = _round(session, test if by_test else None)
        pending = Pending(session.update, output, used, times, test, record)
        if due(length.save_every):
            _write(session, pending)
            pending = None
            save(session)
    _write(session, pending)


def _chunk(session: Session, hp: Tree) -> tuple[fused_runner.ChunkOutput, pace.Chunk]:
    """Returns what a chunk, begun now, will have brought, and its times."""
    before, compiled = time.monotonic(), _compilations()
    session.state, output = session.programs.chunk(session.state, hp)
    done, compiled = _is_done(output), _compilations() > compiled
    return output, pace.called(before, time.monotonic(), done=done, compiled=compiled)


def _is_done(output: Any) -> bool:
    return all(x.is_ready() for x in jax.tree.leaves(output) if hasattr(x, "is_ready"))


def _seconds(session: Session, output: Any, times: pace.Chunk | None) -> float:
    """Returns for how long the device worked on a chunk, once it is done."""
    if times is None:
        return math.nan
    jax.block_until_ready(output)
    times.seen(True, time.monotonic())
    return session.pace.seconds_of(times)


def _test(session: Session) -> Any:
    if session.programs.evaluate is None:
        return None
    return session.programs.evaluate(session.state, session.hparams)


def _round(session: Session, test: Any) -> RoundRecord:
    assert session.programs.pbt_round is not None
    session.state, session.hparams, session.pbt, record = session.programs.pbt_round(
        session.state, session.hparams, session.pbt, test
    )
    return record


def _owed_round(session: Session, source: str) -> None:
    """Make the round that was left out where the run, now longer, had its end."""
    test = _test(session) if source == "evaluation" else None
    _write_round(session, session.update, jax.device_get(_round(session, test)))
    session.round_owed = False


def _write(session: Session, pending: Pending | None) -> None:
    """Write a chunk's row, once the device has it, and stop a run that is lost."""
    if pending is None:
        return
    reporter, per_update = session.program.reporter, session.program.run_length.steps
    members = session.program.batch[0]
    seconds = _seconds(session, pending.output, pending.times)
    pending = jax.device_get(pending._replace(times=None))
    now = time.monotonic()
    row = reporter.row(pending.output, pending.evaluation)
    metric = session.program.metric
    judged = row["returns"] if metric is None else report.judged(metric, row)
    session.scheduler.observe(pending.update, judged)
    if session.recorder is not None and pending.output is not None:
        session.recorder.write(pending.output.history, pending.update)
    trained = session.program.run_length.per_chunk * per_update * members
    rate = trained / seconds
    session.pace.row(now, pending.update)
    session.writer.write(
        update=pending.update,
        env_steps=pending.update * per_update,
        wall_s=round(session.wall_s + now - session.started, 3),
        steps_per_s=round(rate, 1),
        compiles=_compilations(),
        hparams=hparams.flatten(pending.hparams),
        lost=report.lost(pending.output),
        **row,
    )
    if pending.record is not None:
        _write_round(session, pending.update, pending.record)
    session.bar.update(
        pending.update * per_update * members,
        trained / session.pace.typical_seconds(),
        session.pace.seconds_left(),
        reporter.shown(row),
        reporter.best(row),
        row.get("evaluation"),
    )
    _check_finite(session, pending)


def _write_round(session: Session, update: int, record: RoundRecord) -> None:
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


def _check_finite(session: Session, pending: Pending) -> None:
    """Raises RunError unless a member is finite; notes each that is lost, once."""
    lost = set(report.lost(pending.output))
    if len(lost) == session.program.batch[0]:
        kept = checkpoint.latest_step(session.manager)
        raise errors.RunError(
            f"no member is finite at update {pending.update}: the run stops "
            f"(checkpoint {kept} is kept); lower the learning rate, or look for rewards "
            "and observations that are not finite"
        )
    settings = session.config.population.pbt
    if settings is None or settings.exploit == "none":
        for member in sorted(lost - session.lost):
            session.bar.note(
                f"member {member} is not finite at update {pending.update}: it is lost, "
                "the others go on"
            )
        session.lost |= lost


def _finish(session: Session) -> None:
    """Save, test every member once more and write the summary."""
    save(session)
    if session.programs.evaluate is not None:
        session.bar.note("final evaluation …")
    result = jax.device_get(_test(session))
    checkpoint.wait(session.manager)
    totals = {
        "updates": session.update,
        "env_steps_per_member": session.update * session.program.run_length.steps,
        "population": session.program.batch[0],
        "wall_s": session.wall_s + time.monotonic() - session.started,
    }
    summary, text = session.program.reporter.finish(
        session.state, result, totals, session.restart
    )
    metrics.write_summary(session.folder, summary)
    session.bar.note(text)


def _due(before: int, after: int) -> Callable[[int], bool]:
    """Returns whether a multiple of ``every`` lies in (before, after]; 0: never."""
    return lambda every: every > 0 and after // every > before // every


def answer(session: Session, n: int) -> str:
    """Returns what the n-th signal does and what it costs."""
    kept = checkpoint.newest_whole(session.manager)
    resume = f"go on with `{_resume(session)}`"
    if n > 1:
        return (
            f"ended at once: what follows checkpoint {kept} is lost, about "
            f"{max(session.update - (kept or 0), 0)} updates; {resume}"
        )
    if session.update >= session.program.run_length.updates:
        return "stopping after the last results; all training is saved by then"
    if session.program.indivisible:
        return f"stopping after this chunk: nothing is kept, {resume} begins again"
    usual = session.pace.typical_seconds()
    takes = "" if math.isnan(usual) else f" (one takes {progress.duration(usual)})"
    return (
        f"stopping: the chunk up to update {session.update} is finished{takes} and saved; a "
        f"second signal ends at once and loses what follows checkpoint {kept}"
    )


def _resume(session: Session) -> str:
    return f"mtrl resume {shlex.quote(str(session.run_folder))}"


def _count_compilations() -> Callable[[], int]:
    """Returns a function that says how many programs XLA has compiled since this call."""
    seen = []

    def count(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(count)
    return lambda: len(seen)


_compilations = _count_compilations()
