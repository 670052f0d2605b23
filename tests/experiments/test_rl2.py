"""RL²: an ordinary recurrent agent that learns and is tested on trials."""

import numpy as np
import pytest
import running
import staged_runs

from mtrl_jax import config, envs, metrics
from mtrl_jax.experiments import episode_curves

CONFIG = running.ROOT / "configs" / "rl2_dark_room.yaml"
# Trials of 3 episodes of 4 steps to learn from, 2 chunks; of 5 on 9 - 7 = 2 new goals.
ROOM = {"size": 3, "length": 4, "start": [0, 0]}
SMALLER = [
    "stages.0.tasks.0.slots=8",
    "stages.0.agent.config.network.hidden=[8]",
    "stages.0.agent.config.network.core_size=8",
    "stages.0.training={env_steps: 416, unroll_length: 13, updates_per_chunk: 2}",
    "stages.0.evaluation={every_updates: 0, episodes: 2}",
    "stages.0.logging={tensorboard: false, plots: false}",
    "stages.1.logging={tensorboard: false, plots: false}",
    "stages.1.compare=[learned]",
    "stages.1.tasks.0.slots=2",
    "stages.1.evaluation={episodes: 5, episodes_per_chunk: 2}",
]
SMALLER += [
    f"stages.{i}.tasks.0.options.{name}={value}"
    for i in (0, 1)
    for name, value in {**ROOM, "trial": (3, 5)[i]}.items()
]


@pytest.fixture(name="run", scope="module")
def _run(tmp_path_factory):
    """A finished run of the shipped config on a room of 3 x 3."""
    folder = tmp_path_factory.mktemp("rl2") / "run"
    outcome = running.mtrl("train", CONFIG, *SMALLER, "--run-dir", folder)
    assert outcome.code == 0, outcome.err
    return folder


def test_returns_are_of_the_episodes_within_a_trial(run):
    """One each, between the scores of one; a trial of 5 is longer than those trained on."""
    summary = metrics.read_summary(staged_runs.stage_of(run, "in_context"))
    (task,) = summary["tasks"].values()
    plain = envs.pure_task("dark/room", {**ROOM, "tasks": "test"}).spec
    assert task["random_score"] == pytest.approx(plain.random_score)
    assert task["reference_score"] == pytest.approx(plain.reference_score)
    curve = task["in_context"]
    assert curve["unfinished"] == 0
    returns = np.asarray(curve["returns"])
    assert returns.shape == (1, 2, 5)
    assert returns.min() >= 0 and returns.max() <= ROOM["length"]
    rows = metrics.read_metrics(staged_runs.stage_of(run, "in_context"))
    lengths = rows.metrics["length/dark/room"]
    assert (lengths[np.isfinite(lengths)] == ROOM["length"]).all()


def test_a_curve_of_training_counts_a_trial_as_its_episodes(run):
    """By 26 steps a slot a chunk: two trials, six episodes, with their mean return."""
    (learned, _) = config.load(run / "config.yaml").stages
    folder = staged_runs.stage_of(run, "learned")
    curve = episode_curves.curve_of(folder, learned)
    np.testing.assert_allclose(curve["episode"], [6, 12])
    (returns,) = metrics.read_metrics(folder).returns.values()
    np.testing.assert_allclose(curve["mean"], returns[:, 0] / 3)
    beside = metrics.read_summary(staged_runs.stage_of(run, "in_context"))["compared"]
    assert beside["learned"]["mean"] == pytest.approx(curve["mean"])
