"""Rates and times left, from clocks that the tests set."""

import math
import time

import numpy as np
import pytest
import running

from mtrl_jax import metrics
from mtrl_jax.training import pace


def test_a_chunk_counts_from_when_the_device_was_free():
    """Queued behind another it has not begun when it was called."""
    p = pace.Pace(100)
    assert p.seconds_of(pace.Chunk(0.0, ended=2.0)) == 2.0
    # Called at 0.1, while the first was at work.
    assert p.seconds_of(pace.Chunk(0.1, ended=5.0)) == 3.0
    p.ready(9.0)  # An evaluation.
    assert p.seconds_of(pace.Chunk(5.1, ended=11.0)) == 2.0
    assert p.typical_seconds() == 2.0


@pytest.mark.parametrize("compiled", [False, True])
def test_what_a_call_tells_of_its_chunk(compiled):
    """A host's chunk lasts as long as its call; compiling is no part of any."""
    p = pace.Pace(100)
    queued = pace.called(0.0, 7.0, done=False, compiled=compiled)
    queued.seen(False, 8.0)
    queued.seen(True, 9.0)
    queued.seen(True, 10.0)
    assert p.seconds_of(queued) == (2.0 if compiled else 9.0)
    done = pace.called(10.0, 13.0, done=True, compiled=compiled)
    done.seen(True, 50.0)
    seconds = p.seconds_of(done)
    assert math.isnan(seconds) if compiled else seconds == 3.0


def test_a_row_that_is_late_does_not_move_the_rate():
    """Every fourth row waits for a checkpoint of 10 s: all chunks took 1 s."""
    p, now, seconds = pace.Pace(10**6), 0.0, []
    for i in range(40):
        began, now = now, now + 1.0
        seconds.append(p.seconds_of(pace.Chunk(began, now)))
        if i % 4 == 3:
            now += 10.0  # Nothing is on the device.
    assert seconds == pytest.approx([1.0] * 40)


def test_what_is_left_is_smooth_and_right():
    """It counts what is done beside training, and one slow row does not throw it."""
    p, now, left = pace.Pace(1000), 0.0, []
    for update in range(1, 501):
        now += 1.0 + (10.0 if update % 10 == 0 else 0.0)  # 2 s an update.
        p.row(now, update)
        left.append(p.seconds_left() / (1000 - update))
    assert math.isnan(left[0])
    assert left[40:] == pytest.approx([2.0] * 460, rel=0.25)
    assert left[200:] == pytest.approx([2.0] * 300, rel=0.06)


def test_what_is_left_follows_a_change_that_lasts():
    """Of the second half of the rows; past the end of a run nothing is left."""
    p, now = pace.Pace(1000), 0.0
    for update in range(1, 401):
        now += 1.0 if update <= 200 else 3.0
        p.row(now, update)
    assert p.seconds_left() == pytest.approx(3.0 * 600, rel=0.01)
    p.row(now + 3.0, 1002)
    assert p.seconds_left() == 0.0
    p = pace.Pace(10)
    for now in (1.0, 2.0):  # Of one update, as after a test.
        p.row(now, 4)
    assert math.isnan(p.seconds_left())


def test_the_rows_of_a_run_have_the_devices_rate(tmp_path, cached, monkeypatch):
    """Slow checkpoints and tests between chunks leave it where it is: a real run."""
    from mtrl_jax import checkpoint

    save = checkpoint.save

    def slow(*arguments, **named):
        time.sleep(0.4)
        save(*arguments, **named)

    monkeypatch.setattr(checkpoint, "save", slow)
    settings = "training.env_steps=256", "checkpoint.every_updates=4"
    running.train(tmp_path / "run", *settings, "population.pbt=null")
    rates = metrics.read_metrics(tmp_path / "run").steps_per_s
    known = rates[np.isfinite(rates)]
    # Of a chunk of a millisecond that was done during its call not all is known.
    assert len(known) > len(rates) / 2
    # A chunk of 128 steps takes milliseconds; by the clock between rows, 0.4 s.
    assert known.min() > 128 / 0.2
