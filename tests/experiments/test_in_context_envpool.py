"""Frozen weights in context on environments outside the program, through the stages."""

import shutil

import numpy as np
import pytest
import running
import staged_runs
import tiny_settings

from mtrl_jax import metrics
from mtrl_jax.data import histories

CARTPOLE = {"env": "envpool/CartPole-v1", "options": {"max_steps": 4}, "slots": 2}
EPISODES, LONGEST = 3, 4
STAGES = {
    "stages": [
        {
            "name": "source",
            "kind": "collect",
            "tasks": [CARTPOLE],
            "agent": {"name": "impala", "config": {"network": {"hidden": [4]}}},
            "population": {"size": 2},
            "training": {"env_steps": 48, "unroll_length": 4, "updates_per_chunk": 2},
            "evaluation": {"every_updates": 0, "episodes": 1},
            "logging": tiny_settings.QUIET,
        },
        {
            "name": "model",
            "kind": "offline",
            "data": "source",
            "agent": {
                "name": "algorithm_distillation",
                "config": {
                    "transformer": {
                        "layers": 1, "width": 8, "heads": 2, "feedforward": 8,
                        "context": 12,
                    }
                },
            },
            "training": {
                "updates": 2, "unroll_length": 12, "batch": 2, "updates_per_chunk": 2
            },
            "evaluation": {"every_updates": 0},
            "logging": tiny_settings.QUIET,
        },
        {
            "name": "in_context",
            "kind": "evaluate",
            "of": "model",
            "tasks": [CARTPOLE, {**CARTPOLE, "env": "gymnax/CartPole-v1",
                                 "options": {"max_steps_in_episode": 4}}],
            "evaluation": {"episodes": EPISODES, "episodes_per_chunk": 1},
            "logging": tiny_settings.QUIET,
        },
    ]
}  # fmt: skip
STEPS = EPISODES * (LONGEST + 1)


@pytest.fixture(name="played", scope="module")
def _played(tmp_path_factory):
    """A run through all stages; do not change it."""
    run = tmp_path_factory.mktemp("played") / "run"
    settings = staged_runs.write(run.with_suffix(".yaml"), settings=STAGES)
    outcome = running.mtrl("train", settings, "--run-dir", run)
    assert outcome.code == 0, outcome.err
    return run


def test_what_is_collected_on_envpool_is_played_frozen_on_envpool(tmp_path):
    """The same learners, stage after stage: whole histories, then whole episodes."""
    source, _, frozen = STAGES["stages"]
    stages = {"stages": [source, {**frozen, "of": "source", "tasks": [CARTPOLE]}]}
    settings = staged_runs.write(tmp_path / "x.yaml", settings=stages)
    run = tmp_path / "run"
    outcome = running.mtrl("train", settings, "--run-dir", run)
    assert outcome.code == 0, outcome.err
    data = histories.load(staged_runs.stage_of(run, "source") / "histories")
    # 4 steps that pay 1 and a reset, again and again, of two members' two slots.
    assert len(data.reward) == 4
    step = np.broadcast_to(np.arange(data.reward.shape[1]), data.reward.shape)
    np.testing.assert_array_equal(data.first, step % (LONGEST + 1) == 0)
    np.testing.assert_array_equal(data.reset, step % (LONGEST + 1) == LONGEST)
    np.testing.assert_array_equal(data.reward, ~data.reset)
    summary = metrics.read_summary(staged_runs.stage_of(run, "in_context"))
    (task,) = summary["tasks"].values()
    assert task["in_context"]["unfinished"] == 0
    assert task["in_context"]["mean"] == [LONGEST] * EPISODES
    assert summary["parameters"]["before"] == summary["parameters"]["after"]


def test_every_episode_on_envpool_is_written_down(played):
    """Of both tasks, by member and slot; a pole falls in no four steps."""
    folder = staged_runs.stage_of(played, "in_context")
    summary = metrics.read_summary(folder)
    assert list(summary["tasks"]) == ["envpool/CartPole-v1", "gymnax/CartPole-v1"]
    for task in summary["tasks"].values():
        found = task["in_context"]
        assert found["unfinished"] == 0
        np.testing.assert_array_equal(found["mean"], [LONGEST] * EPISODES)
    assert summary["parameters"]["before"] == summary["parameters"]["after"]
    rows = running.rows(folder)
    assert [row["update"] for row in rows] == [5, 10, STEPS]


def test_one_that_was_stopped_is_played_again_from_the_first_episode(
    tmp_path, played, cached
):
    """Its rows and what it found out are those of one that was not."""
    run = tmp_path / "run"
    shutil.copytree(played, run)
    folder = staged_runs.stage_of(run, "in_context")
    staged_runs.without(run, "in_context")
    running.mtrl_ending_at(10, "resume", run)
    assert running.checkpoints(folder) == [0]
    outcome = running.mtrl("resume", run)
    assert outcome.code == 0 and "it is all played again" in outcome.err
    whole = staged_runs.stage_of(played, "in_context")
    assert running.rows(folder) == running.rows(whole)
    found, expected = (metrics.read_summary(x)["tasks"] for x in (folder, whole))
    assert found == expected
    assert running.checkpoints(folder) == [0, STEPS]


def test_a_prompt_is_refused_where_nobody_knows_what_is_best(tmp_path):
    """The environment is named, and those of which it is known."""
    settings = staged_runs.write(tmp_path / "x.yaml", settings=STAGES)
    run = tmp_path / "run"
    outcome = running.mtrl(
        "train", settings, "stages.2.prompt={episodes: 1}", "--run-dir", run
    )
    assert outcome.code == 2 and not run.exists()
    assert "envpool/CartPole-v1 no optimal action is known" in outcome.error
