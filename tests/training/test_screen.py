"""Runs outlive their screen, and answer a signal whatever they are doing."""

import contextlib
import io
import os
import signal
import subprocess
import sys
from unittest import mock

import pytest
import running

from mtrl_jax import cli, metrics
from mtrl_jax.training import screen


class Broken(io.StringIO):
    """A stream that takes the first line and fails from then on."""

    def write(self, text):
        if "\n" in self.getvalue():
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_stream_goes_silent_at_its_first_failure():
    """Nothing raises after it; what was written before is there."""
    broken = Broken()
    stream = screen.unfailing(broken)
    assert screen.unfailing(stream) is stream
    for _ in range(3):
        print("line", file=stream, flush=True)
    assert broken.getvalue() == "line\n"
    closed = io.StringIO()
    closed.close()
    print("line", file=screen.unfailing(closed), flush=True)
    print("line", file=screen.unfailing(None), flush=True)


def test_what_a_full_device_left_in_a_buffer_fails_nobody_later():
    """Python writes it out when it ends, and would end with another exit code."""
    with open("/dev/full", "w") as full:
        print("line", file=screen.unfailing(full), flush=True)
        leads_to = os.fstat(full.fileno()).st_rdev
    assert leads_to == os.stat(os.devnull).st_rdev


def test_streams_and_hang_up_are_as_before_afterwards():
    """While it lasts SIGHUP is nobody's business."""
    streams, handler = (sys.stdout, sys.stderr), signal.getsignal(signal.SIGHUP)
    with screen.outlived():
        assert isinstance(sys.stderr, screen.Unfailing)
        os.kill(os.getpid(), signal.SIGHUP)
    assert (sys.stdout, sys.stderr) == streams
    assert signal.getsignal(signal.SIGHUP) == handler


def test_a_run_ends_well_on_full_screens(tmp_path, cached):
    """stdout and stderr on a full device: exit code 0, every row and the summary."""
    changes = ("training.env_steps=64", "logging.plots=true")
    settings, run = running.write(tmp_path / "tiny.yaml", *changes), tmp_path / "run"
    argv = ["mtrl", "train", str(settings), "--run-dir", str(run)]
    with (
        open("/dev/full", "w", buffering=1) as full,
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(full),
        contextlib.redirect_stderr(full),
        pytest.raises(SystemExit) as left,
    ):
        cli.main()
    assert not left.value.code
    _assert_whole(run, 4)
    assert list((run / "plots").glob("*.png"))


def _assert_whole(run, updates):
    assert running.newest_row(run) == updates
    assert metrics.read_summary(run)["totals"]["updates"] == updates


def test_a_run_outlives_its_terminal(tmp_path, cached):
    """Closed half-way: SIGHUP and a dead screen cost nothing."""
    updates = 400
    settings = running.write(
        tmp_path / "tiny.yaml", f"training.env_steps={updates * running.STEPS}"
    )
    run = tmp_path / "run"
    process, terminal = running.start_in_terminal(
        "train", settings, "--run-dir", run, cache=cached
    )
    running.watch(terminal, lambda: running.newest_row(run) >= 4)
    assert running.newest_row(run) < updates
    os.close(terminal)
    assert process.wait(300) == 0
    _assert_whole(run, updates)


@pytest.mark.slow
def test_ctrl_c_with_a_reader_that_is_gone_saves_the_run(tmp_path, cached):
    """`2>&1 | tee log` and Ctrl-C: tee is dead first; saved all the same, code 130."""
    far = ("training.env_steps=1_000_000_000", "checkpoint.every_updates=1_000_000")
    settings, run = running.write(tmp_path / "tiny.yaml", *far), tmp_path / "run"
    process = running.start("train", settings, "--run-dir", run, cache=cached)
    running.wait_for(process, lambda: running.newest_row(run) >= 4)
    process.stdout.close()
    process.stderr.close()
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130
    assert running.checkpoints(run)[-1] == running.newest_row(run) >= 4


# A chunk that takes for ever: a call that does not come back to Python.
_BUSY = """
import hashlib
from mtrl_jax.training import signals
with signals.caught(lambda n: print("answer", n, flush=True)):
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000_000)
"""


@contextlib.contextmanager
def started(code):
    """The process that runs ``code``, gone in the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=running.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_signals_are_answered_at_once(number, code):
    """The first and the second are answered during the chunk; the second ends it."""
    with started(_BUSY) as process:
        for line in ("busy", "answer 1", "answer 2"):
            assert process.stdout.readline() == f"{line}\n"
            if line != "answer 2":
                process.send_signal(number)
        assert process.wait(30) == code


def test_a_signal_that_finds_nothing_to_save_ends_the_process():
    """The first one, with its code, and not before it was answered."""
    code = _BUSY.replace("flush=True)):", "flush=True), lambda: True):", 1)
    with started(code) as process:
        assert process.stdout.readline() == "busy\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "answer 0\n"
        assert process.wait(30) == 130


# The function that a run calls first of those that it compiles, for ever.
_COMPILING = """
import hashlib
from mtrl_jax.training import {module}

def busy(*_):
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000_000)

{module}.{name} = busy
"""


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("loop", "_chunk"),
        pytest.param("loop", "_test", marks=pytest.mark.slow),
        pytest.param("opening", "_compiled", marks=pytest.mark.slow),
    ],
)
def test_while_programs_compile_a_signal_ends_the_run_at_once(
    tmp_path, cached, finished, module, name
):
    """Nothing was trained; the run goes on to the bits of one that was not stopped."""
    settings, run = running.write(tmp_path / "tiny.yaml"), tmp_path / "run"
    before = _COMPILING.format(module=module, name=name)
    process = running.start(
        "train", settings, "--run-dir", run, cache=cached, before=before
    )
    assert process.stdout.readline() == "busy\n"
    process.send_signal(signal.SIGTERM)
    outcome = running.ended(process, 60)
    assert outcome.code == 143
    assert f"nothing was trained; go on with `mtrl resume {run}`" in outcome.err
    assert running.mtrl("resume", run).code == 0
    running.assert_same(run, finished)


def test_a_signal_says_what_happens_and_what_it_may_cost(tmp_path, cached, monkeypatch):
    """First: finished and saved. Second: what is lost, and how to go on."""
    from mtrl_jax.training import loop

    settings, run = running.write(tmp_path / "tiny.yaml"), tmp_path / "a run"
    answers = []

    def record(session):
        session.update = 30
        answers.extend(loop.answer(session, n) for n in (1, 2))
        return 0

    monkeypatch.setattr(loop, "run", record)
    assert running.mtrl("train", settings, "--run-dir", run).code == 0
    first, second = answers
    assert "update 30" in first and "checkpoint 0" in first
    assert "checkpoint 0 is lost" in second and "30 updates" in second
    assert f"mtrl resume '{run}'" in second
