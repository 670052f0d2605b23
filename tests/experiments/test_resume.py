"""Ending a run in every way and going on with it: the bits of the uninterrupted run."""

import signal
import subprocess

import numpy as np
import pytest
import running
import yaml

from mtrl_jax import checkpoint, metrics
from mtrl_jax.config import resuming
from mtrl_jax.experiments import reading

# Orbax leaves futures behind where a read of damaged files failed.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)

# A process that stands still instead of logging an update, so that it is killed there.
_STALL = """
import time
from mtrl_jax import metrics
from mtrl_jax.config import resuming
write = metrics.MetricsWriter.write
def stall(self, **row):
    if row["update"] == {update}:
        time.sleep(1e6)
    write(self, **row)
metrics.MetricsWriter.write = stall
"""


class Ended(Exception):
    """Stands for the end of the process in tests that stay in one."""


@pytest.fixture
def interrupt(cached):
    """Returns a function that runs a command which ends before it logs ``update``."""
    return running.mtrl_ending_at


@pytest.fixture
def copy(tmp_path, finished):
    """A copy of the finished run that may be changed."""
    subprocess.run(["cp", "-r", finished, tmp_path / "run"], check=True)
    return tmp_path / "run"


# Killed runs.


@pytest.mark.parametrize(
    "compiles", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_a_killed_run_has_the_bits_of_the_uninterrupted_one(
    tmp_path, finished, cached, compiles
):
    """kill -9 with rows beyond a checkpoint, resume in a new process: nothing differs.

    Also where the process that goes on compiles everything itself.
    """
    run, stall = tmp_path / "run", _STALL.format(update=20)
    settings = running.write(tmp_path / "tiny.yaml")
    process = running.start(
        "train", settings, "--run-dir", run, cache=cached, before=stall
    )
    running.wait_for(process, lambda: running.newest_row(run) == 18)
    running.wait_for(process, lambda: running.checkpoints(run)[-1] == 12)
    process.kill()
    assert running.ended(process).code == -signal.SIGKILL
    # And what a kill in the middle of a row leaves.
    with open(run / "metrics.jsonl", "ab") as file:
        file.write(b'{"update": 20, "env_st')

    keeps = None if compiles else cached
    outcome = running.ended(running.start("resume", run, cache=keeps))
    assert outcome.code == 0, outcome.err
    running.assert_same(run, finished)
    assert len(running.compiles(run, after=12)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("update", [2, 26])
def test_a_run_that_ends_anywhere_goes_on_from_there(
    tmp_path, finished, interrupt, update
):
    """After its first row and after PBT rounds alike, and no program is compiled late."""
    run, settings = tmp_path / "run", running.write(tmp_path / "tiny.yaml")
    interrupt(update, "train", settings, "--run-dir", run)
    saved = running.checkpoints(run)[-1]
    outcome = running.mtrl("resume", run)
    assert outcome.code == 0, outcome.err
    running.assert_same(run, finished)
    assert len(running.compiles(run, after=saved)) == 1


@pytest.mark.slow
def test_a_run_without_its_first_checkpoint_begins_again(
    tmp_path, finished, cached, monkeypatch
):
    """A run that was killed while it compiled can be gone on with all the same."""
    run, settings = tmp_path / "run", running.write(tmp_path / "tiny.yaml")

    def end(*_, **__):
        raise Ended

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", end)
        with pytest.raises(Ended):
            running.mtrl("train", settings, "--run-dir", run)
    assert running.checkpoints(run) == []
    assert running.mtrl("resume", run).code == 0
    running.assert_same(run, finished)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    copy, finished, cached
):
    """The resumed run says which one is damaged and arrives at the same bits."""
    newest, before = running.checkpoints(copy)[:-3:-1]
    for path in (copy / "checkpoints" / str(newest)).rglob("*"):
        if path.is_file() and "state" in path.parts:
            path.write_bytes(path.read_bytes()[:20])
    outcome = running.mtrl("resume", copy)
    assert outcome.code == 0
    lines = [line for line in outcome.err.splitlines() if "damaged" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"mtrl: checkpoint {newest} is damaged")
    assert lines[0].endswith(f"going back to {before}")
    running.assert_same(copy, finished)


# Signals.


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_a_signal_ends_a_run_that_can_be_gone_on_with(tmp_path, cached, number, code):
    """SIGTERM and Ctrl-C save, draw and say how to go on; 143 and 130 are the codes."""
    run = tmp_path / "run"
    far = ("training.env_steps=1_000_000_000", "logging.plots=true")
    settings = running.write(tmp_path / "tiny.yaml", *far)
    process = running.start("train", settings, "--run-dir", run, cache=cached)
    running.wait_for(process, lambda: running.newest_row(run) >= 4)
    process.send_signal(number)
    outcome = running.ended(process)
    assert outcome.code == code, outcome.err
    assert f"mtrl resume {run}" in outcome.err
    assert "Traceback" not in outcome.err
    last = running.rows(run)[-1]["update"]
    assert running.checkpoints(run)[-1] == last
    assert list((run / "plots").glob("*.png"))

    length = f"training.env_steps={(last + 6) * running.STEPS}"
    assert running.mtrl("resume", run, length, "logging.plots=false").code == 0
    updates = [row["update"] for row in running.rows(run)]
    assert updates == list(range(0, last + 7, 2))
    assert metrics.read_summary(run)["totals"]["updates"] == last + 6


# Changes.


def test_the_results_of_a_run_that_had_ended_are_kept(copy, cached):
    """Nothing is measured again, unless of a setting that results hang on."""
    summary = metrics.read_summary(copy)
    metrics.write_summary(copy, summary | {"measured": "then"})
    for unchanged in ((), ("checkpoint.keep=2",)):
        outcome = running.mtrl("resume", copy, *unchanged)
        assert outcome.code == 0, outcome.err
        assert f"had ended at update {running.UPDATES}" in outcome.err
        assert metrics.read_summary(copy)["measured"] == "then"
    assert running.mtrl("resume", copy, "agent.hparams.entropy_cost=0.5").code == 0
    assert metrics.read_summary(copy) == summary | {
        "totals": metrics.read_summary(copy)["totals"]
    }


def test_a_finished_run_can_be_made_longer(tmp_path, copy, cached):
    """More env_steps give what a run of that length from the start gives."""
    length = f"training.env_steps={(running.UPDATES + 12) * running.STEPS}"
    outcome = running.mtrl("resume", copy, length)
    assert outcome.code == 0
    assert "training.env_steps: 640 is now 832" in outcome.err
    running.train(tmp_path / "whole", length)
    running.assert_same(copy, tmp_path / "whole")
    assert reading.load_config(copy).training.env_steps == 832


def test_a_run_is_not_made_shorter_than_it_is(copy, cached):
    """What was trained is not undone: the line says how far it is; nothing changes."""
    before = (copy / "config.yaml").read_text()
    outcome = running.mtrl("resume", copy, f"training.env_steps={2 * running.STEPS}")
    assert outcome.code == 2
    done = f"{running.UPDATES} updates are done, and these are 2"
    assert f"training.env_steps={2 * running.STEPS}: {done}" in outcome.error
    assert (copy / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    "override",
    [
        "training.unroll_length=8",
        "population.size=8",
        "agent.config.network.hidden=[16]",
        "tasks.0.slots=4",
        "seed=1",
    ],
)
def test_a_static_setting_cannot_be_changed(copy, override):
    """A change that needs another program or state is refused by name; nothing changes."""
    before = (copy / "config.yaml").read_text()
    name, _, value = override.partition("=")
    outcome = running.mtrl("resume", copy, override)
    assert outcome.code == 2
    assert name in outcome.error
    assert value.strip("[]") in outcome.error
    assert "agent.hparams" in outcome.error  # what may be changed
    assert (copy / "config.yaml").read_text() == before


def test_an_edited_config_is_held_against_the_checkpoint(copy, cached):
    """A static setting that was changed in config.yaml itself is refused by name.

    Also where arrays of the checkpoint would no longer fit.
    """
    path = copy / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("unroll_length: 4", "unroll_length: 8"))
    outcome = running.mtrl("resume", copy)
    assert outcome.code == 2
    assert "training.unroll_length: the run has 4, 8 given" in outcome.error
    edited = yaml.safe_load(text)
    (hidden,) = edited["agent"]["config"]["network"]["hidden"]
    edited["agent"]["config"]["network"]["hidden"] = [16]
    path.write_text(yaml.safe_dump(edited))
    outcome = running.mtrl("resume", copy)
    assert outcome.code == 2
    name = "agent.config.network.hidden.0"
    assert f"{name}: the run has {hidden}, 16 given" in outcome.error


def test_a_changed_hyperparameter_is_logged_and_survives_a_kill(copy, interrupt):
    """It is set for all members; a kill before the next checkpoint does not lose it."""
    length = f"training.env_steps={(running.UPDATES + 8) * running.STEPS}"
    change = "agent.hparams.entropy_cost=0.5"
    interrupt(running.UPDATES + 6, "resume", copy, change, length)
    assert reading.load_config(copy).agent.hparams["entropy_cost"] == 0.5
    assert running.checkpoints(copy)[-1] == running.UPDATES

    outcome = running.mtrl("resume", copy)
    assert outcome.code == 0
    assert "agent.hparams.entropy_cost: 0.01 is now 0.5" in outcome.err
    logged = metrics.read_metrics(copy)
    cost = logged.hparams["entropy_cost"]
    np.testing.assert_array_equal(
        cost[logged.update > running.UPDATES], np.float32(0.5)
    )
    np.testing.assert_array_equal(
        cost[logged.update <= running.UPDATES], np.float32(0.01)
    )


def test_every_kind_of_setting_in_the_message_can_be_changed(copy, cached):
    """One setting of each entry of RESUMABLE, changed at once, and each has its effect."""
    before, last = reading.load_config(copy), running.UPDATES + 8
    changes = {
        "agent.hparams.discount": 0.5,
        "training.env_steps": last * running.STEPS,
        "evaluation.episodes": 7,
        "checkpoint.keep": 1,
        "logging.tensorboard": True,
    }
    assert {name.rpartition(".")[0] for name in changes} <= {
        *resuming.RESUMABLE,
        "training",
    }
    assert len(changes) == len(resuming.RESUMABLE)
    given = [f"{name}={value}" for name, value in changes.items()]
    outcome = running.mtrl("resume", copy, *given)
    assert outcome.code == 0, outcome.err
    after = reading.load_config(copy)
    assert set(resuming.differences(before, after)) == set(changes)
    logged = metrics.read_metrics(copy)
    assert logged.update[-1] == last
    np.testing.assert_array_equal(logged.hparams["discount"][-1], np.float32(0.5))
    for task in metrics.read_summary(copy)["tasks"].values():
        assert {m["episodes"] + m["unfinished"] for m in task["members"]} == {7}
    assert running.checkpoints(copy) == [last]
    assert list((copy / "tensorboard").glob("events.*"))
