"""The loop on the host: from a session's first chunk to its summary.

The loop starts a chunk and, while the device works on it, writes down what the chunk
before it brought. Tests, PBT and checkpoints happen between chunks, in this order, and
everything is compiled before the first chunk.
"""

from __future__ import annotations

import functools
import math
import shlex
import time
from typing import Any

import jax

from mtrl_jax import checkpoint, metrics
from mtrl_jax.engine import fused_runner
from mtrl_jax.training import (
    chunk_rows,
    pace,
    progress,
    report,
    signals,
    starting,
)
from mtrl_jax.training.program import RoundRecord
from mtrl_jax.training.session import Session, save
from mtrl_jax.types import Tree


def run(session: Session) -> int:
    """Returns the exit code after training to the end or to a signal."""
    code = 1  # of a run that an error ends
    try:
        with signals.caught(
            lambda n: _say(session, n), lambda: _is_idle(session)
        ) as caught:
            test = _loop(session, caught)
            if caught:
                save(session)
                checkpoint.wait(session.manager)
                session.bar.note(
                    f"stopped at update {session.update}; go on with "
                    f"`{_resume(session)}`"
                )
            elif _had_ended(session):
                session.bar.note(
                    f"the run had ended at update {session.update}: its results are kept"
                )
            else:
                _finish(session, test)
        code = 128 + caught[0] if caught else 0
        return code
    finally:
        session.bar.close()
        session.writer.close(code)
        if session.recorder is not None:
            session.recorder.close()
        if session.config.logging.plots and (problem := report.draw(session.folder)):
            session.bar.note(problem)


def _loop(session: Session, caught: list[int]) -> Any:
    """Returns the test of the weights that the last chunk left, None if there was none."""
    settings, length = session.config.population, session.program.run_length
    source = settings.fitness.source
    pending = test = None
    if session.round_owed and session.update < length.updates:
        _owed_round(session, source)
    if session.update < length.updates and length.test_every:
        # Of a resumed run the result is dropped: nothing is compiled later on.
        session.idle_until = math.inf
        test = _test(session)
        session.idle_until = -1
        if session.update == 0:
            pending = chunk_rows.Pending(0, None, session.hparams, None, test)
        test = None
    while session.update < length.updates and not caught:
        before = session.update
        session.hparams = session.scheduler.apply(session.hparams, before)
        used = session.hparams
        session.update += length.per_chunk
        if pending is not None and pending.times is not None:
            pending.times.seen(_is_done(pending.output), time.monotonic())
        if before == session.restart:
            session.idle_until = chunk_rows.compilations()
        output, times = _chunk(session, used)
        session.idle_until = -1
        chunk_rows.write(session, pending)
        due = functools.partial(length.is_due, update=session.update)
        round_due = settings.pbt and due(settings.pbt.interval)
        by_test = round_due and source == "evaluation"
        tested = by_test or due(length.test_every)
        test = None
        if tested:
            # The chunk's time ends here, and the next one's begins after the test.
            chunk_rows.seconds_of(session, output, times)
            test = jax.block_until_ready(_test(session))
            session.pace.ready(time.monotonic())
        record = None
        # None after the last update: what is measured in the end is what was trained.
        session.round_owed = bool(round_due) and session.update >= length.updates
        if round_due and not session.round_owed:
            record = _round(session, test if by_test else None)
        pending = chunk_rows.Pending(session.update, output, used, times, test, record)
        if due(length.save_every):
            chunk_rows.write(session, pending)
            pending = None
            save(session)
    chunk_rows.write(session, pending)
    return test


def _chunk(session: Session, hp: Tree) -> tuple[fused_runner.ChunkOutput, pace.Chunk]:
    """Returns what a chunk, begun now, will have brought, and its times."""
    before, compiled = time.monotonic(), chunk_rows.compilations()
    session.state, output = session.programs.chunk(session.state, hp)
    done, compiled = _is_done(output), chunk_rows.compilations() > compiled
    return output, pace.called(before, time.monotonic(), done=done, compiled=compiled)


def _is_done(output: Any) -> bool:
    return all(x.is_ready() for x in jax.tree.leaves(output) if hasattr(x, "is_ready"))


def _test(session: Session) -> Any:
    if session.programs.evaluate is None:
        return None
    return session.programs.evaluate(session.state, session.hparams)


def _round(session: Session, test: Any) -> RoundRecord:
    assert session.programs.pbt_step is not None
    session.state, session.hparams, session.pbt, record = session.programs.pbt_step(
        session.state, session.hparams, session.pbt, test
    )
    return record


def _owed_round(session: Session, source: str) -> None:
    """Make the round that was left out where the run, now longer, had its end."""
    test = _test(session) if source == "evaluation" else None
    chunk_rows.write_round(
        session, session.update, jax.device_get(_round(session, test))
    )
    session.round_owed = False


def _had_ended(session: Session) -> bool:
    """Returns whether summary and last test are of this very state, unchanged since.

    Environments that cannot be restored would play other episodes for it now. The test is
    gone if the run was to be longer and did not come to it.
    """
    totals = metrics.read_summary(session.folder).get("totals", {})
    measured_at = totals.get("updates")
    is_of_this = session.is_unchanged and session.restart == session.update
    is_tested = session.programs.evaluate is None or metrics.is_tested(session.folder)
    return is_of_this and session.update == measured_at and is_tested


def _finish(session: Session, test: Any) -> None:
    """Save, test every member if the last chunk was not followed by a ``test``, sum up."""
    save(session)
    if test is None and session.programs.evaluate is not None:
        session.bar.note("final evaluation …")
        test = _test(session)
    result = jax.device_get(test)
    checkpoint.wait(session.manager)
    if result is not None:
        row = session.program.reporter.row(None, result)
        session.writer.add_test(session.update, row["metrics"], row.get("evaluation"))
    totals = {
        "updates": session.update,
        "env_steps": session.counted,
        "env_steps_per_member": session.update * session.program.run_length.steps,
        "population": session.program.batch[0],
        "wall_s": session.wall_s + time.monotonic() - session.started,
    }
    summary, text = session.program.reporter.finish(
        session.state, result, totals, session.restart
    )
    metrics.write_summary(session.folder, summary)
    session.bar.note(text)


def _is_idle(session: Session) -> bool:
    """Returns whether this process has not trained yet, and does not at this moment."""
    return chunk_rows.compilations() <= session.idle_until


def _say(session: Session, n: int) -> None:
    if n:
        session.bar.note(answer(session, n))
    else:
        session.bar.last_words(starting.ended(session.folder))


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
