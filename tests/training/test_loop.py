"""What the loop writes down of a chunk and says to a signal, of a session made by hand."""

import contextlib
import math
import time
from types import SimpleNamespace
from typing import NamedTuple
from unittest import mock

import numpy as np
import pytest

from mtrl_jax.engine import fused_runner
from mtrl_jax.training import chunk_rows, loop, pace, program


class Hparams(NamedTuple):
    """One member's, or [P]."""

    rate: np.ndarray


def session(folder="x", update=0, **changes):
    """Returns a session of 20 updates, two a chunk, of 4 members and 16 steps each."""
    reporter = mock.Mock()
    reporter.row.side_effect = lambda output, test: {
        "metrics": {},
        "returns": {"a": np.ones(4)},
    }
    settings = SimpleNamespace(population=SimpleNamespace(pbt=None))
    made = SimpleNamespace(
        reporter=reporter,
        run_length=program.RunLength(20, 2, 16, 0, 0),
        batch=(4, 4),
        indivisible=False,
        spec=SimpleNamespace(tasks=()),
    )
    whole = dict(
        program=made, config=settings, scheduler=mock.Mock(), recorder=None,
        pace=pace.Pace(20), writer=mock.Mock(), bar=mock.Mock(), wall_s=100.0,
        started=time.monotonic(), counted=0, lost=set(), update=update,
        manager=SimpleNamespace(directory=folder), run_folder="runs/a b",
    )  # fmt: skip
    return SimpleNamespace(**(whole | changes))


def pending(update, began, finite=(True, True, False, True)):
    output = fused_runner.ChunkOutput({}, {}, np.array(finite))
    times = pace.Chunk(began, began + 2.0)
    return chunk_rows.Pending(update, output, Hparams(np.full(4, 0.5)), times)


@pytest.mark.parametrize(
    ("signal", "error", "had_ended", "code", "done"),
    [
        (None, None, False, 0, ["finish"]),
        (None, None, True, 0, []),
        (15, None, False, 143, ["save", "wait"]),
        (2, None, True, 130, ["save", "wait"]),
        (None, KeyError("x"), False, 1, []),
    ],
)
def test_a_run_ends_with_the_code_of_how_it_ended(
    monkeypatch, signal, error, had_ended, code, done
):
    """What is logged elsewhere has it too; files are closed whatever happened."""
    calls = []
    one = session(update=14, recorder=mock.Mock())
    one.config.logging = SimpleNamespace(plots=False)

    @contextlib.contextmanager
    def caught(*_):
        yield [] if signal is None else [signal]

    monkeypatch.setattr(loop.signals, "caught", caught)
    monkeypatch.setattr(loop, "_loop", mock.Mock(side_effect=error))
    monkeypatch.setattr(loop, "_had_ended", lambda _: had_ended)
    monkeypatch.setattr(loop, "_finish", lambda *_: calls.append("finish"))
    monkeypatch.setattr(loop, "save", lambda _: calls.append("save"))
    monkeypatch.setattr(loop.checkpoint, "wait", lambda _: calls.append("wait"))
    if error is None:
        assert loop.run(one) == code
    else:
        with pytest.raises(KeyError):
            loop.run(one)
    assert calls == done
    one.writer.close.assert_called_once_with(code)
    one.bar.close.assert_called_once_with()
    one.recorder.close.assert_called_once_with()


def test_a_row_counts_the_steps_of_members_that_are_not_lost():
    """By the seconds that the device worked; steps of a member are as if none was."""
    one = session()
    for update, began in ((2, 0.0), (4, 7.0)):
        chunk_rows.write(one, pending(update, began))
    row = one.writer.write.call_args.kwargs
    assert (row["update"], row["env_steps"], row["lost"]) == (4, 64, [2])
    assert row["steps_per_s"] == 2 * 16 * 3 / 2.0
    assert 100.0 <= row["wall_s"] < 160.0
    np.testing.assert_array_equal(row["hparams"]["rate"], 0.5)
    assert one.counted == 2 * (2 * 16 * 3)
    # A plateau follows what members are judged by, no row.
    update, output = one.scheduler.observe.call_args.args
    assert update == 4
    np.testing.assert_array_equal(output.finite, [True, True, False, True])
    shown = one.bar.update.call_args.args
    assert shown[:3] == (4, one.counted, 48.0)
    # A loss is said once.
    (note,) = [call.args[0] for call in one.bar.note.call_args_list]
    assert "member 2 is not finite at update 2" in note


def test_a_row_before_the_first_chunk_counts_nothing():
    """It has a test alone, and no time that the device worked."""
    one = session()
    chunk_rows.write(
        one, chunk_rows.Pending(0, None, Hparams(np.ones(4)), None, "test")
    )
    row = one.writer.write.call_args.kwargs
    assert (row["env_steps"], row["lost"], one.counted) == (0, [], 0)
    assert math.isnan(row["steps_per_s"])
    chunk_rows.write(one, None)
    assert one.writer.write.call_count == 1


def test_a_round_says_who_was_replaced_because_it_was_lost():
    """Not who is lost and stays, as where no member is finite, nor who was only worse."""
    one, score = session(), np.arange(4.0)
    source = np.array([0, 3, 2, 0])
    record = program.RoundRecord(
        score, score, np.array([True, False, False, True]), source, source,
        Hparams(np.full(4, 0.1)), Hparams(np.full(4, 0.2)),
    )  # fmt: skip
    chunk_rows.write_round(one, 8, record)
    (note,) = [call.args[0] for call in one.bar.note.call_args_list]
    assert (
        note == "member 1 is not finite at update 8; it goes on as a copy of member 3"
    )
    row = one.writer.write_lineage.call_args.kwargs
    assert row["hparams_before"]["rate"][0] == 0.1
    assert row["hparams_after"]["rate"][0] == 0.2


@pytest.mark.parametrize(
    ("n", "update", "indivisible", "words"),
    [
        (1, 14, False, "the chunk up to update 14 is finished (one takes 2s) and saved; a "
         "second signal ends at once and loses what follows checkpoint 8"),
        (2, 14, False, "ended at once: what follows checkpoint 8 is lost, about 6 updates"),
        (1, 20, False, "all training is saved by then"),
        (1, 14, True, "nothing is kept, go on with `mtrl resume 'runs/a b'` begins again"),
    ],
)  # fmt: skip
def test_a_signal_is_answered_with_what_it_costs(
    tmp_path, n, update, indivisible, words
):
    """The newest checkpoint that has its name is what is kept."""
    for name in ("4", "8", "12.orbax-checkpoint-tmp", "superseded"):
        (tmp_path / name).mkdir()
    one = session(tmp_path, update)
    one.program.indivisible = indivisible
    one.pace.seconds_of(pace.Chunk(0.0, 2.0))
    said = loop.answer(one, n)
    assert words in said
    if n > 1:
        assert said.endswith("; go on with `mtrl resume 'runs/a b'`")
