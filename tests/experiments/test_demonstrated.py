"""Histories without reinforcement learning: a collect stage whose agent sees what is best."""

import jax
import numpy as np
import pytest
import running
import staged_runs

from mtrl_jax import config, errors, metrics, random
from mtrl_jax.config import stage_schema
from mtrl_jax.data import histories
from mtrl_jax.envs import dark
from mtrl_jax.experiments import kinds, offline, task_families

# 12 episodes of 4 steps and a reset, an update each.
SOURCE = (
    "stages.0.agent={name: demonstrator, hparams: {decay_updates: 10}}",
    "stages.0.training={env_steps: 60, unroll_length: 5, updates_per_chunk: 2}",
    "stages.0.checkpoint.every_updates=4",
)
ALONE = {"stages": staged_runs.TINY["stages"][:1]}


def written(path, *changes):
    """Returns the path of a config whose only stage is a demonstrator's."""
    return staged_runs.write(path, *SOURCE, *changes, settings=ALONE)


@pytest.fixture(name="demonstrated", scope="module")
def _demonstrated(tmp_path_factory):
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("demonstrated")
    outcome = running.mtrl(
        "train", written(folder / "x.yaml"), "--run-dir", folder / "run"
    )
    assert outcome.code == 0, outcome.err
    return folder / "run"


def test_demonstrations_are_histories_like_any_other(demonstrated):
    """Same files, same split by task, from noise to the optimum, and no labels in them."""
    folder = staged_runs.stage_of(demonstrated, "source")
    data = histories.load(folder / "histories")
    assert data.reward.shape == (3, 60) and data.task.tolist() == [0, 1, 0]
    assert set(data.obs) == set(data.spec.obs) == {"vector"}
    assert (data.first == (np.arange(60) % 5 == 0)).all()
    settings = config.load(demonstrated / "config.yaml")
    (stage,) = settings.stages
    program = kinds.make_program(kinds.run_of(settings, demonstrated), stage)
    assert program.spec.obs.keys() == {"vector", "optimal"}
    assert offline.contents_in(folder / "histories").spec == data.spec
    goals = np.asarray(task_families.entries(stage)[0].many.goals)[data.task, 0]
    optimum = 4 - np.maximum(goals.sum(-1) - 1, 0)
    last = data.reward.reshape(3, 12, 5)[:, -1].sum(-1)
    np.testing.assert_array_equal(last, optimum)
    # A test at the end has no noise left.
    members = metrics.read_summary(folder)["tasks"]["dark/room"]["members"]
    np.testing.assert_array_equal([member["mean"] for member in members], optimum)
    noise = metrics.read_metrics(folder).metrics["epsilon"][:, 0]
    np.testing.assert_allclose(noise, [0.95, 0.75, 0.55, 0.35, 0.15, 0], atol=1e-6)


@pytest.mark.slow
def test_demonstrations_go_on_where_they_were_stopped(
    tmp_path, demonstrated, monkeypatch
):
    """Ended beyond a checkpoint and resumed: the same bytes."""

    class Ended(Exception):
        pass

    write_row = metrics.MetricsWriter.write

    def end(self, **row):
        if row["update"] == 6:
            raise Ended
        write_row(self, **row)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(metrics.MetricsWriter, "write", end)
        with pytest.raises(Ended):
            running.mtrl("train", written(tmp_path / "x.yaml"), "--run-dir", run)
    own, other = (staged_runs.stage_of(x, "source") for x in (run, demonstrated))
    assert running.checkpoints(own)[-1] == 4
    assert staged_runs.steps_on_disk(own) == 30  # Ahead of the checkpoint.
    assert running.mtrl("resume", run).code == 0
    for path in sorted(other.glob("histories/*.npy")):
        assert path.read_bytes() == (own / "histories" / path.name).read_bytes()
    assert running.rows(own) == running.rows(other)


def test_what_is_best_can_be_written_down_as_a_label_and_learned_from(tmp_path):
    """Of every step; the agent that learns to predict it sees it in no observation, and
    plays where nobody says what it is."""
    learner = (
        "stages.1.agent={name: algorithm_distillation, config: {target: optimal, "
        "transformer: {layers: 1, width: 8, heads: 1, feedforward: 8, context: 5, "
        "encoding: set, positions: none}}}",
        "stages.1.population={size: 2}",
    )
    labelled = staged_runs.write(
        tmp_path / "x.yaml", *SOURCE, *learner, "stages.0.labels=true"
    )
    run = tmp_path / "run"
    outcome = running.mtrl("train", labelled, "--run-dir", run)
    assert outcome.code == 0, outcome.err
    data = histories.load(staged_runs.stage_of(run, "source") / "histories")
    assert set(data.obs) == {"vector", "optimal"}
    # Without noise, as in the last two episodes, the best is what is done.
    done = slice(50, 60)
    live = ~data.reset[:, done]
    best = np.asarray(data.obs["optimal"])[:, done]
    np.testing.assert_array_equal(best[live], data.action[:, done][live])
    assert (data.obs["optimal"][:, :5] != data.action[:, :5]).any()
    tested = metrics.read_summary(staged_runs.stage_of(run, "in_context"))
    assert set(tested["tasks"]) == {"dark/room"}
    plain = staged_runs.write(tmp_path / "y.yaml", *SOURCE, *learner)
    refused = running.mtrl("train", plain, "--run-dir", tmp_path / "other")
    assert refused.code == 2 and not (tmp_path / "other").exists()
    assert "stages.1.agent.config.target: 'optimal', but nothing" in refused.error
    learning = "stages.0.agent={name: tabular}"
    alone = written(tmp_path / "z.yaml", learning, "stages.0.labels=true")
    refused = running.mtrl("train", alone, "--run-dir", tmp_path / "other")
    assert refused.code == 2 and not (tmp_path / "other").exists()
    assert "labels=True" in refused.error and "demonstrator" in refused.error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("stages.0.tasks=[{env: probe/action}]", "stages.0 tasks.0 optimal dark"),
        ("stages.0.tasks.0.options.trial=2", "stages.0 tasks.0.options.trial=2 leave"),
        ("stages.0.kind=online", "stages.0 agent.config obs optimal collect"),
    ],
)
def test_where_nobody_knows_what_is_best_there_are_no_demonstrations(
    tmp_path, change, words
):
    """One line, before anything is written."""
    run = tmp_path / "run"
    outcome = running.mtrl(
        "train", written(tmp_path / "x.yaml", change), "--run-dir", run
    )
    assert outcome.code == 2 and not run.exists()
    missing = [word for word in words.split() if word not in outcome.error]
    assert not missing, outcome.error


def test_a_demonstrator_can_be_watched_on_other_tasks():
    """An evaluate stage of one tells it what is best there; of no other agent."""
    values = {
        "name": "x",
        "kind": "evaluate",
        "of": "source",
        "tasks": [
            {"env": "dark/room", "options": {"tasks": "test", "size": 4}},
            {"env": "dark/room", "options": {"tasks": "test", "size": 4, "length": 9}},
        ],
        "population": {"size": 1},
    }
    seen = {
        name: task_families.testing(
            stage_schema.EvaluateStage(**values, agent={"name": name})
        ).spec.obs.keys()
        for name in ("demonstrator", "tabular")
    }
    assert seen["demonstrator"] - seen["tabular"] == {"optimal"}


def test_a_task_that_stands_for_itself_alone_is_demonstrated(monkeypatch):
    """A family may know what is best and have no tasks to spread; of one entry."""
    monkeypatch.setattr(dark, "tasks_of", lambda name, options: None)
    room = {"env": "dark/room", "slots": 2, "options": {"size": 3, "goal": [2, 1]}}

    def collecting(*tasks):
        given = {"name": "x", "kind": "collect", "agent": {"name": "demonstrator"}}
        stage = stage_schema.CollectStage(**given, tasks=tasks)
        return task_families.collecting(stage)

    world, names, _ = collecting(room)
    key = jax.eval_shape(lambda: random.roots(0, 1))
    _, ts = jax.eval_shape(world.train.reset, key, world.train.params)
    assert ts.obs["optimal"].shape == world.batch == (1, 2)
    assert len(names) == 2 and "optimal" in world.test.spec.obs
    with pytest.raises(
        errors.ConfigError, match="tasks: 2 given, and demonstrator sees"
    ):
        collecting(room, room)
