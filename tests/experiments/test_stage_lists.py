"""Lists of stages: mistakes in them, changes to them, and their program."""

import pathlib
import re
import shutil
import types
import zlib
from unittest import mock

import jax
import numpy as np
import pytest
import running
import staged_runs
import yaml

from mtrl_jax import config, errors, metrics, random
from mtrl_jax.engine import offline_runner, pbt
from mtrl_jax.experiments import (
    build,
    in_context,
    kinds,
    offline,
    reading,
    stages,
    task_families,
)
from mtrl_jax.training import run_folder
from mtrl_jax.types import TaskSpec

# Mistakes.

BAD = [
    ("stages=[]", "stages at least one"),
    ("stages=3", "stages 3 list"),
    ("tasks=[{env: probe/action}]", "tasks unknown stages.0.tasks"),
    ("seed=-1", "seed -1"),
    ("stages.0=4", "stages.0 4 mapping"),
    ("stages.0.kind=colect", "stages.0.kind 'colect' did you mean collect"),
    ("stages.0.kind=null", "stages.0.kind None unknown"),
    ("stages.1.kind=[offline]", "stages.1.kind ['offline'] unknown"),
    ("stages.2.compare=[{low: 1}]", "stages.2.compare {'low': 1} earlier stage source"),
    ("stages.0.name=a/b", "stages.0.name='a/b': letters, digits"),
    ("stages.1.name=source", "stages.1.name 'source' taken"),
    ("stages.0.dat=x", "stages.0.dat unknown"),
    ("stages.0.population.size=0", "stages.0.population.size 0 greater"),
    ("stages.0.agent.hparams.learning_rat=1", "stages.0.agent.hparams.learning_rat"),
    ("stages.0.tasks.0.options.siz=3", "stages.0 tasks.0 siz"),
    ("stages.2.tasks=[{env: envpool/CartPole-v1}]", "stages.2 tasks observe same options"),
    ("stages.0.training.runner=host", "stages.0 training.runner='host' fused"),
    ("stages.0.population.pbt={}", "stages.0.population.pbt collect one learner"),
    # Who names whom.
    ("stages.1.data=sauce", "stages.1.data 'sauce' no earlier collect source"),
    ("stages.1.data=in_context", "stages.1.data 'in_context' order source"),
    ("stages.1.data=model", "stages.1.data 'model' order source"),
    ("stages.1.data=./nowhere", "stages.1 data nowhere no dataset"),
    ("stages.2.of=in_context", "stages.2.of 'in_context' source, model"),
    ("stages.2.of=nobody", "stages.2.of 'nobody' source, model"),
    ("stages.2.compare=[model]", "stages.2.compare 'model' kind offline source"),
    ("stages.2.agent={name: ppo}", "stages.2.agent model leave it out"),
    ("stages.2.members=5", "stages.2.members 5 'model' 1 to 4"),
    ("stages.2.members=0", "stages.2.members 0 'model' 1 to 4"),
    ("stages.2.members=-1", "stages.2.members -1 'model' 1 to 4"),
    ("stages.2.members=5.0", "stages.2.members 5.0 'model' 1 to 4"),
    ("stages.2.members='2'", "stages.2.members '2' 'model' 1 to 4"),
    ("stages.2.members=[1]", "stages.2.members [1] 'model' 1 to 4"),
    ("stages.1.keep={subsample: 2147483648}",
     "stages.1.keep.subsample 2147483648 less than"),
    ("stages.2.evaluation.max_steps=2147483648",
     "stages.2.evaluation.max_steps 2147483648 less than"),
    ("stages.2.evaluation.max_steps=3",
     "stages.2 evaluation.max_steps=3 dark/room last steps not cut at least options"),
    # What does not fit.
    ("stages.1.agent={name: impala}", "stages.1 agent.name 'impala' dataset imitates"),
    ("stages.1.population.fitness.metric=los", "stages.1 'los' accuracy, loss"),
    ("stages.1.population.fitness.source=evaluation stages.1.evaluation.held_out=0",
     "stages.1 evaluation.held_out=0.0 share"),
    ("stages.1.population.pbt.exploit=t_test", "stages.1 exploit='t_test' truncation"),
    ("stages.1.evaluation.held_out=1.0", "stages.1.evaluation.held_out 1.0 less than"),
    ("stages.1.keep={first_fraction: 0.5, last_fraction: 0.5}", "stages.1 keep one"),
    ("stages.1.evaluation.held_out=0.99",
     "stages.1 evaluation.held_out=0.99 histories or tasks none left to train on"),
    ("stages.1.training.updates=0", "stages.1.training.updates 0 greater"),
    ("stages.1.population.size=100000000",
     "stages.1 population.size=100000000 room for population.size of at most"),
    ("stages.1.training.batch=2147483647",
     "stages.1 training.unroll_length 2147483647 windows at most 2147483647 together"),
    ("stages.1.training.unroll_length=30000000", "stages.1 population.size each needs"),
    ("stages.2.evaluation.hparams.learning_rate=0",
     "stages.2 evaluation.hparams.learning_rate=0: acting temperature"),
    ("stages.2.tasks.0.options.one_hot=false", "stages.2 tasks observe 'model' options"),
    ("stages.2.tasks=[{env: probe/action}]", "stages.2 tasks observe 'model'"),
    ("stages.2.evaluation.episodes=0", "stages.2.evaluation.episodes 0 greater"),
    ("stages.2.tasks.0.options.trial=3", "stages.2 evaluation.episodes=4 at most 3"),
    ("stages.2.evaluation.hparams.temp=0", "stages.2 evaluation.hparams.temp"),
    ("stages.2.prompt={episodes: 4}", "stages.2 prompt.episodes=4 fewer than 4"),
    ("stages.2.prompt={epsilon: 2}", "stages.2.prompt.epsilon 2 less than"),
    ("stages.2.prompt={}", "stages.2 prompt behaviour_cloning algorithm_distillation"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "words"), BAD, ids=[case[0] for case in BAD])
def test_a_bad_list_is_one_line_and_nothing_is_written(tmp_path, overrides, words):
    """The stage and field, what was given and what would work; no folder."""
    settings = staged_runs.write(tmp_path / "tiny.yaml")
    line = running.refusal(settings, overrides, tmp_path / "run")
    missing = [word for word in words.split() if word not in line]
    assert not missing, line


def test_histories_that_do_not_fit_the_disk_are_refused(tmp_path, monkeypatch):
    """Before anything is written, with both numbers."""
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(stages.shutil, "disk_usage", lambda _: usage)
    run = tmp_path / "run"
    outcome = running.mtrl(
        "train", staged_runs.write(tmp_path / "x.yaml"), "--run-dir", run
    )
    assert outcome.code == 2
    assert "1 kB free" in outcome.error and "histories" in outcome.error
    assert not run.exists()


@pytest.mark.parametrize(
    ("begun", "left"), [((), 2), (("one",), 1), (("one", "two"), 0)]
)
def test_histories_that_are_there_take_no_more_space(
    tmp_path, monkeypatch, begun, left
):
    """Those of a stage that has begun: all of them are laid out when it does."""
    made = [types.SimpleNamespace(name=name) for name in ("one", "two")]
    run = kinds.Run(tmp_path, tuple(made), is_plain=False)
    for name in begun:
        run.folder_of(name).mkdir(parents=True)
        (run.folder_of(name) / run_folder.CONFIG).touch()
    program = mock.Mock(record=mock.Mock(size=1000))
    monkeypatch.setattr(stages.kinds, "make_program", lambda *_, **__: program)
    monkeypatch.setattr(stages, "notices", mock.MagicMock())
    usage = shutil.disk_usage(tmp_path)
    for free in (999, 1000, 1999, 2000):
        own = usage._replace(free=free)
        monkeypatch.setattr(stages.shutil, "disk_usage", lambda _, own=own: own)
        if free >= 1000 * left:
            stages.check(run)
            continue
        with pytest.raises(errors.ConfigError, match="stages: histories will take"):
            stages.check(run)


def test_every_stage_has_a_seed_of_its_own_by_its_name():
    """Wherever it stands in the list; one that is given stays."""
    seeds = {}
    for seed in (0, 1):
        given = config.override(staged_runs.TINY, [f"seed={seed}", "stages.1.seed=5"])
        for stage in config.from_dict(given).stages:
            seeds[seed, stage.name] = stage.seed
    expected = {
        (seed, name): 5 if name == "model" else zlib.crc32(f"{seed}/{name}".encode())
        for seed in (0, 1)
        for name in staged_runs.NAMES
    }
    assert seeds == expected and len(set(seeds.values())) == 5


def test_learners_that_are_played_follow_no_schedule():
    """What moved them in their stage is over; of their members some may be left out."""
    schedule = "{max_grad_norm: {kind: linear, low: 0.5, high: 1.0}}"
    changes = [f"stages.1.agent.schedules={schedule}"]
    settings = config.from_dict(config.override(staged_runs.TINY, changes))
    learned, played = settings.stages[1:]
    assert learned.agent.schedules and learned.population.search
    assert (played.agent.schedules, played.population.search) == ({}, {})
    assert played.agent.hparams == learned.agent.hparams
    assert played.population.size == learned.population.size


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.0.agent.hparams.discount=0.5", "stages.0 'source' done"),
        ("stages.1.training.batch=8", "stages.1 training.batch 4 8 training.updates"),
        ("stages.1.evaluation.held_out=0.5", "stages.1 evaluation.held_out"),
        ("stages.1.training.updates=2", "stages.1 training.updates=2 8 done"),
        ("stages.2.name=other", "names"),
        ("seed=3", "seed 0 3"),
    ],
)
def test_what_a_stage_stands_on_cannot_be_changed(
    staged_copy, monkeypatch, override, words
):
    """Nothing of a stage that is done; of one that has begun, what a run can change."""
    shutil.rmtree(staged_runs.stage_of(staged_copy, "in_context"))
    (staged_runs.stage_of(staged_copy, "model") / "summary.json").unlink()
    before = (staged_copy / "config.yaml").read_text()
    outcome = running.mtrl("resume", staged_copy, override)
    assert outcome.code == 2
    missing = [word for word in words.split() if word not in outcome.error]
    assert not missing, outcome.error
    assert (staged_copy / "config.yaml").read_text() == before


def test_a_stage_can_be_made_longer_and_a_later_one_changed(staged_copy, cached):
    """More updates of a stage that has begun; anything of one that has not."""
    shutil.rmtree(staged_runs.stage_of(staged_copy, "in_context"))
    (staged_runs.stage_of(staged_copy, "model") / "summary.json").unlink()
    outcome = running.mtrl(
        "resume",
        staged_copy,
        "stages.1.training.updates=10",
        "stages.2.evaluation.episodes=2",
        "stages.2.seed=5",
    )
    assert outcome.code == 0, outcome.err
    assert running.rows(staged_runs.stage_of(staged_copy, "model"))[-1]["update"] == 10
    summary = metrics.read_summary(staged_runs.stage_of(staged_copy, "in_context"))
    assert len(summary["tasks"]["dark/room"]["in_context"]["mean"]) == 2


def test_a_run_of_an_older_version_lacks_what_has_come_since(staged_copy, cached):
    """Its settings are those they were made with: the defaults of now."""
    path = staged_copy / "config.yaml"
    written = yaml.safe_load(path.read_text())
    source, model, in_context = written["stages"]
    del source["labels"], model["agent"]["config"]["network"]["convolution"]
    del in_context["agent"]["config"]["network"]["convolution"]
    path.write_text(yaml.safe_dump(written))
    shutil.rmtree(staged_runs.stage_of(staged_copy, "in_context"))
    outcome = running.mtrl("resume", staged_copy)
    assert outcome.code == 0, outcome.err
    assert (staged_runs.stage_of(staged_copy, "in_context") / "summary.json").exists()


def test_the_first_members_can_be_tested_alone(staged):
    """Their weights and hyperparameters, and no others'; what is said is of them."""
    every = reading.load_config(staged)
    values = config.to_dict(every)
    for name in ("population", "agent"):
        del values["stages"][2][name]
    values["stages"][2]["members"] = 2
    weights, hparams, summaries = [], [], []
    for settings in (every, config.from_dict(values)):
        program = kinds.make_program(kinds.run_of(settings, staged), settings.stages[2])
        state = program.init(program.hparams)
        weights.append(jax.device_get(state.learner))
        hparams.append(jax.device_get(program.hparams))
        summaries.append(program.reporter.finish(state, None, {}, 0)[0])
    for all_, few in (weights, hparams):
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[:2], y), all_, few)
    assert [len(summary["score"]) for summary in summaries] == [4, 2]


def test_weights_that_moved_are_found_out(staged):
    """The hash at the end is held against the hash of what was read."""
    settings = reading.load_config(staged)
    program = kinds.make_program(kinds.run_of(settings, staged), settings.stages[2])
    state = program.init(program.hparams)
    summary, _ = program.reporter.finish(state, None, {}, 0)
    assert summary["parameters"]["after"] == in_context.fingerprint(state.learner)
    learner = state.learner._replace(updates=state.learner.updates + 1)
    moved = state._replace(learner=learner)
    with pytest.raises(errors.RunError, match="hashed"):
        program.reporter.finish(moved, None, {}, 0)


def test_a_dataset_that_is_gone_ends_the_run_in_one_line(staged_copy, cached):
    """Exit code 1 and the folder's name; what is there stays."""
    staged_runs.without(staged_copy, "model", "in_context")
    shutil.rmtree(staged_runs.stage_of(staged_copy, "source") / "histories")
    outcome = running.mtrl("resume", staged_copy)
    assert outcome.code == 1
    line = outcome.err.strip().splitlines()[-1]
    assert line.startswith("mtrl: ") and "holds no dataset" in line
    assert "Traceback" not in outcome.err


def test_a_stage_that_cannot_use_its_data_can_still_be_changed(staged_copy, cached):
    """Nothing of it is written: what was collected is not lost to it."""
    staged_runs.without(staged_copy, "model", "in_context")
    model = staged_runs.stage_of(staged_copy, "model")
    outcome = running.mtrl("resume", staged_copy, "stages.1.evaluation.held_out=0.99")
    assert outcome.code == 2 and "none is left to train on" in outcome.error
    assert not model.exists()
    changes = ("stages.1.evaluation.held_out=0.5", "stages.1.keep.top_fraction=1.0e-9")
    outcome = running.mtrl("resume", staged_copy, *changes)
    assert outcome.code == 1 and "keep more of them" in outcome.error
    changes = ("stages.1.evaluation.held_out=0.5", "stages.1.keep.top_fraction=1.0")
    outcome = running.mtrl("resume", staged_copy, *changes)
    assert outcome.code == 0, outcome.err
    assert run_folder.is_done(model)


# Pieces.


def test_the_list_that_is_shown_can_be_run():
    """What it shows is read, filled in and fits together."""
    blocks = re.findall(
        r"```yaml\n(.*?)```", (running.ROOT / "configs/README.md").read_text(), re.S
    )
    (shown,) = [block for block in blocks if "stages:" in block]
    settings = config.from_dict(yaml.safe_load(shown))
    stages.check(kinds.run_of(settings, pathlib.Path("nowhere")))
    assert [stage.name for stage in settings.stages] == staged_runs.NAMES


@pytest.mark.parametrize(
    ("task", "share", "number"),
    [([0, 1, 2, 0, 1, 2], 0.3, 2), ([0, 0, 0, 0], 0.5, 2), ([0, 1, 2], 0.0, 0)],
)
def test_whole_tasks_are_held_out(task, share, number):
    """No task on both sides; of a single task, histories; rounded up."""
    task = np.array(task)
    train, held_out = offline.split(task, share, seed=3)
    assert sorted([*train, *held_out]) == list(range(len(task)))
    assert len(held_out) == number
    if len(set(task)) > 1:
        assert not set(task[train]) & set(task[held_out])
    again = offline.split(task, share, seed=3)
    np.testing.assert_array_equal(again[1], held_out)


@pytest.mark.parametrize(
    ("source", "expected"), [("training", [0, 1, 0, 0]), ("evaluation", [1, 1, 2, 3])]
)
def test_the_highest_loss_is_replaced(source, expected):
    """Of the last chunk, or of what is held out; and one that is no number."""
    changes = [f"stages.1.population.fitness.source={source}"]
    settings = config.from_dict(config.override(staged_runs.TINY, changes)).stages[1]
    step, hp = (
        offline._make_pbt_step(settings),
        build.initial_hparams(settings, random.roots(0, 4)),
    )
    recent, tested = np.float32([1.0, 2.0, 3.0, np.nan]), np.float32([9, 1, 2, 3])
    learner = {"w": np.arange(4.0, dtype=np.float32)[:, None]}
    state = offline_runner.OfflineState(
        learner, recent, np.int32(4), random.roots(0, 4)
    )
    after, _, _, record = jax.jit(step)(state, hp, pbt.init(4), {"loss": tested})
    loss = recent if source == "training" else tested
    np.testing.assert_array_equal(record.score, -loss)
    assert record.source.tolist() == expected
    assert after.learner["w"][:, 0].tolist() == expected


def test_an_evaluation_is_as_long_as_its_longest_task():
    """Each episode with the step that resets, in whole chunks."""
    tasks = [_limited("a", 4), _limited("b", 9)]
    settings = config.from_dict(staged_runs.TINY).stages[2]

    def longest(limit, is_new=True, tasks=tasks):
        evaluation = settings.evaluation.model_copy(update={"max_steps": limit})
        own = settings.model_copy(update={"evaluation": evaluation})
        return in_context._longest(own, types.SimpleNamespace(tasks=tasks), is_new)

    # No episode is longer than its task's are.
    assert (longest(None), longest(9), longest(2**31 - 1)) == (9, 9, 9)
    with pytest.raises(errors.ConfigError, match="episodes of b may last 9 steps"):
        longest(8)
    assert longest(8, is_new=False) == 8
    endless = [_limited("a", None)]
    assert longest(7, tasks=endless) == 7
    with pytest.raises(errors.ConfigError, match="episodes of a may be of any length"):
        longest(None, tasks=endless)

    evaluation = {"episodes": 5, "episodes_per_chunk": 2}
    evaluation = settings.evaluation.model_copy(update=evaluation)
    own = settings.model_copy(update={"evaluation": evaluation})
    length = in_context._run_length(own, 3, 9)
    assert (length.updates, length.per_chunk, length.steps) == (3 * 2 * 10, 2 * 10, 3)
    with pytest.raises(
        errors.ConfigError, match=r"episodes=5: .*evaluation\.max_steps"
    ):
        in_context._run_length(own, 3, 2**31 - 1)


def test_no_trial_ends_within_an_evaluation():
    """What was found out in it would be lost; of trials of one episode there is nothing."""
    for trial, episodes, fits in ((1, 5, True), (5, 5, True), (4, 5, False)):
        spec = types.SimpleNamespace(tasks=[_limited("a", 4)._replace(trial=trial)])
        if fits:
            in_context._check_trials(spec, episodes)
            continue
        with pytest.raises(errors.ConfigError, match="give at most 4"):
            in_context._check_trials(spec, episodes)


def _limited(name, steps):
    return TaskSpec(name, {}, None, max_steps=steps)


def test_nothing_left_to_train_on_is_an_error():
    """A share that takes every task."""
    with pytest.raises(ValueError, match=r"evaluation\.held_out=0\.9"):
        offline.split(np.array([0, 1]), 0.9, seed=0)


@pytest.mark.parametrize("axis", ["slot", "population"])
def test_histories_of_single_tasks_are_named_by_their_slots(axis):
    """Member by member, slot by slot: the tasks that the environment says they play."""
    settings = config.from_dict(
        {
            **{
                k: staged_runs.TINY["stages"][0][k]
                for k in ("kind", "agent", "training")
            },
            "name": "x",
            "tasks": [
                {"env": f"probe/{name}", "slots": 2}
                for name in ("action", "masked", "action")
            ],
            "agent": {"name": "bandit"},
            "population": {"size": 3, "axis": axis},
        }
    )
    world, names, masks = task_families.collecting(settings)
    keys = random.roots(0, 3)
    _, ts = jax.jit(world.train.reset)(keys, world.train.params)
    played = [world.spec.tasks[k].name for k in np.asarray(ts.task).ravel()]
    assert names == played and masks
    # What is listed twice is two tasks.
    assert len(set(names)) == 3
