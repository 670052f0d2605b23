"""A run whose checkpoints leave the replay out: small, and it says what it goes on with."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import running
import yaml

import mtrl_jax
from mtrl_jax import checkpoint, config
from mtrl_jax.checkpoint import pieces
from mtrl_jax.experiments import kinds
from mtrl_jax.training import opening, run_folder, saved_state, session

pytestmark = pytest.mark.usefixtures("cached")
STARTS = 4  # updates before the first that learns
SETTINGS = {
    "tasks": [{"env": "probe/both", "slots": 4}],
    "agent": {
        "name": "rainbow",
        "config": {
            "network": {"hidden": [8]},
            "capacity": 256,
            "batch": 8,
            "learning_starts": STARTS,
        },
    },
    "population": {"size": 2},
    "training": {"env_steps": 320, "unroll_length": 4, "updates_per_chunk": 2},
    "evaluation": {"every_updates": 0, "episodes": 4},
    "checkpoint": {"every_updates": 12, "replay": "drop"},
    "logging": {"tensorboard": False, "plots": False},
}


@pytest.fixture(name="stopped", scope="module")
def _stopped(tmp_path_factory):
    """A run that ended after update 12 of 20, where its checkpoint is."""
    folder = tmp_path_factory.mktemp("dropped")
    (folder / "own.yaml").write_text(yaml.safe_dump(SETTINGS))
    running.mtrl_ending_at(
        14, "train", folder / "own.yaml", "--run-dir", folder / "run"
    )
    return folder / "run"


def test_what_is_saved_without_a_replay_is_restored_with_an_empty_one(tmp_path, capsys):
    """Of a memory that was full; what was learned comes back bit for bit."""
    settings = config.from_dict(SETTINGS)
    program = kinds.make_program(kinds.run_of(settings, tmp_path), settings)
    manager = checkpoint.open_manager(tmp_path / "checkpoints", 3)
    with contextlib.closing(program), contextlib.closing(manager.orbax):
        begun = opening.begin(settings, tmp_path, program, manager)
        empty = jax.device_get(begun.state.memory)
        begun.state = begun.state._replace(
            memory=jax.tree.map(jnp.ones_like, begun.state.memory),
            step=jax.device_put(jnp.full_like(begun.state.step, 12)),
        )
        begun.update = 12
        session.save(begun)
        resumed = opening.resume(settings, tmp_path, program, manager)
    run_folder.write_config(tmp_path, settings)
    assert mtrl_jax.load(tmp_path).update == 12
    assert resumed.update == 12 and int(resumed.state.emptied) == 12
    assert_equal(resumed.state.memory, empty)
    assert_equal(resumed.state.learner, begun.state.learner)
    assert capsys.readouterr().err.count("checkpoint 12 has no replay") == 1


def test_it_goes_on_from_empty_and_says_so(stopped):
    """One line; nothing is learned until the replay has what a new run waits for."""
    with read(stopped) as (update, _, saved):
        missing = checkpoint.missing(saved)
        assert update == 12
        assert missing and all(name.startswith(".run.memory") for name in missing)
        before = saved.run.learner.params
        capacity = checkpoint.bytes_of(saved.run.memory)
        assert capacity > 2 * 256 * 4
    outcome = running.mtrl("resume", stopped)
    assert outcome.code == 0, outcome.err
    said = outcome.out + outcome.err
    assert said.count("checkpoint 12 has no replay") == 1
    loss = {row["update"]: row["metrics"]["loss"] for row in running.rows(stopped)}
    learned = [update for update, x in loss.items() if np.any(np.abs(x) > 0)]
    # Rows are of two updates each.
    assert learned == [6, 8, 10, 12, 18, 20]
    with read(stopped) as (update, _, saved):
        assert update == 20 and int(saved.run.emptied) == 12
        after = saved.run.learner.params
        assert any(
            np.any(x != y) for x, y in zip(*map(jax.tree.leaves, (before, after)))
        )


@pytest.mark.parametrize("command", ["evaluate", "render", "load"])
def test_what_needs_no_replay_reads_it(stopped, command, tmp_path):
    """An evaluation, a film, a policy in Python, beside a run that may go on."""
    if command == "load":
        assert mtrl_jax.load(stopped).members == 2
        return
    how = ["--episodes", 2, "--json"]
    if command == "render":
        how = ["--steps", 2, "--out", tmp_path / "played.gif"]
    outcome = running.mtrl(command, stopped, *how)
    assert outcome.code == 0, outcome.err


def test_what_needs_no_replay_leaves_it_on_disk(tmp_path, monkeypatch):
    """All that acts restores the learners alone; what goes on reads every piece."""
    monkeypatch.setattr(pieces, "LARGE", 1024)
    settings = config.from_dict(
        config.override(SETTINGS, ["agent.name=dqn", "checkpoint.replay=keep"])
    )
    run = kinds.run_of(settings, tmp_path)
    program = kinds.make_program(run, settings)
    saved = saved_state.Saved(
        program.init(program.hparams), program.hparams, program.lineage
    )
    manager = checkpoint.open_manager(tmp_path / "checkpoints", 3)
    checkpoint.save(manager, 0, saved, {})
    checkpoint.wait(manager)
    seen, real = [], pieces.read
    monkeypatch.setattr(
        pieces, "read", lambda *args: seen.append(args[2].shape) or real(*args)
    )
    with kinds.restored(run, settings) as (_, _, found):
        missing = checkpoint.missing(found)
    of_learners = len(seen)
    assert missing and all(name.startswith(".run.memory") for name in missing)
    same = (found.run.learner, found.hparams), (saved.run.learner, saved.hparams)
    jax.tree.map(np.testing.assert_array_equal, *same)
    assert not checkpoint.missing(opening.read(program, manager)[1])
    assert len(seen) == 2 * of_learners + len(missing)
    checkpoint.close(manager)
    program.close()


def assert_equal(tree, other):
    """Fails where two trees differ in a bit."""
    for x, y in zip(*map(jax.tree.leaves, (tree, other)), strict=True):
        np.testing.assert_array_equal(x, y)


@contextlib.contextmanager
def read(folder):
    """Returns (update, program, saved), restored without a first state."""
    settings = config.load(folder / "config.yaml")
    program = kinds.make_program(kinds.run_of(settings, folder), settings)
    manager = checkpoint.open_manager(folder / "checkpoints", 3, read_only=True)
    try:
        update, saved, _ = opening.read(program._replace(init=None), manager)
        yield update, program, saved
    finally:
        checkpoint.close(manager)
        program.close()
