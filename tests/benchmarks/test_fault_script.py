"""A short version of benchmarks/faults.py: nothing lost, no traceback."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest
import tiny_settings

_FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"
NONE = {"lost": 0, "tracebacks": 0, "partial": 0}


@pytest.fixture(name="scripts", scope="module")
def _scripts():
    """The modules of the script."""
    sys.path.insert(0, str(_FOLDER))
    try:
        import faults
        import faults_configs
        import faults_runs

        yield faults, faults_runs, faults_configs
    finally:
        sys.path.remove(str(_FOLDER))


@pytest.fixture(name="lab")
def _lab(scripts, tmp_path, cached):
    """Returns a function of settings: where runs of theirs are started as processes."""
    del scripts
    import faults_processes
    import faults_runs

    # What forks them is started once a session, and keeps the flags it has then.
    with faults_processes.started(cached, os.environ["XLA_FLAGS"]):
        yield lambda settings: faults_runs.Lab(tmp_path, {"online": settings})


def test_careless_settings_are_accepted_or_one_line(scripts, tmp_path):
    """Of either kind of experiment, without anything written or ended."""
    faults, *_ = scripts
    assert faults.total_of(faults.careless(24, tmp_path)) == {"tried": 24, **NONE}


def test_a_killed_run_ends_as_one_left_alone(scripts, lab, finished):
    """At a random row of it, resumed in another process."""
    faults, runs, _ = scripts
    made = lab(tiny_settings.ONLINE)
    made.know("online", finished, (0.0, 1.0))
    tried = runs.stopped(made, "online", 2, [signal.SIGKILL])
    assert faults.total_of([tried]) == {"tried": 1, **NONE}


@pytest.mark.slow
def test_a_killed_and_a_damaged_run_end_as_one_left_alone(scripts, lab, tmp_path):
    """The same rows, results and pictures; and what differs is seen."""
    faults, runs, configs = scripts
    made = lab(configs.ONLINE)
    for seed in (0, 1):
        tried = runs.stopped(made, "online", seed, [signal.SIGKILL])
        assert faults.total_of([tried]) == {"tried": 1, **NONE}
    tried = runs.damaged(made, "online", 0)
    assert faults.total_of([tried]) == {"tried": 1, **NONE}
    whole = made.whole("online")
    subprocess.run(["cp", "-r", whole, tmp_path / "other"], check=True)
    assert made.is_same("online", tmp_path / "other")
    rows = tmp_path / "other" / "metrics.jsonl"
    rows.write_bytes(b"".join(rows.read_bytes().splitlines(keepends=True)[:-1]))
    assert not made.is_same("online", tmp_path / "other")
