"""Stages that begin with the learners of another, and those that play them, frozen."""

import contextlib
import copy
import shutil
import signal

import jax
import numpy as np
import pytest
import running
import staged_runs
import tiny_settings
import yaml

from mtrl_jax import config, envs, metrics
from mtrl_jax.agents import impala
from mtrl_jax.data import histories, windows
from mtrl_jax.experiments import build, collect, kinds, reading

TASKS = [{"env": "probe/action", "slots": 2}]
TRAINING = {"env_steps": 48, "unroll_length": 4, "updates_per_chunk": 2}
ONLINE = {
    "kind": "online",
    "tasks": TASKS,
    "agent": running.TINY["agent"],
    "population": {
        "size": 2,
        "search": {"learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}},
    },
    "training": TRAINING,
    "evaluation": {"every_updates": 0, "episodes": 2},
    "checkpoint": {"every_updates": 2, "keep": 9},
    "logging": tiny_settings.QUIET,
}
TEACHER = {
    "name": "teacher",
    "kind": "collect",
    "of": "first",
    "play": {"epsilon": 0.5, "hparams": {"temperature": 0.0}},
    "record": ["value", "log_prob"],
    **{x: ONLINE[x] for x in ("tasks", "training", "evaluation", "logging")},
    "checkpoint": {"every_updates": 4},
}
CLONE = {
    "name": "clone",
    "kind": "offline",
    "data": "teacher",
    "agent": staged_runs.TINY["stages"][1]["agent"],
    "training": {"updates": 2, "unroll_length": 4, "batch": 2, "updates_per_chunk": 2},
    "logging": tiny_settings.QUIET,
}
# 6 updates of 8 steps; of 3 members that begin with the 2 of before, or are taught by
# them; frozen; imitated.
LEARNERS = {
    "stages": [
        {"name": "first", **ONLINE},
        TEACHER,
        CLONE,
        {
            "name": "second",
            **ONLINE,
            "init_from": "first",
            "population": {"size": 3},
            "training": {**TRAINING, "env_steps": 32},
        },
        {
            "name": "taught",
            **ONLINE,
            "teacher": "first",
            "population": {
                "size": 3,
                "search": {"teacher_cost": {"low": 0.1, "high": 2.0, "log": True}},
            },
            "training": {**TRAINING, "env_steps": 16},
        },
    ]
}
NAMES = ["first", "teacher", "clone", "second", "taught"]


@pytest.fixture(name="whole", scope="module")
def _whole(tmp_path_factory, cached):
    folder = tmp_path_factory.mktemp("learners") / "run"
    settings = staged_runs.write(folder.with_name("x.yaml"), settings=LEARNERS)
    outcome = running.mtrl("train", settings, "--run-dir", folder)
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture(name="copied")
def _copied(tmp_path, whole):
    return shutil.copytree(whole, tmp_path / "run")


def _learners(run, stage):
    bits = running.bits(run, stage)
    return {k: x for k, x in bits.items() if k.startswith(".run.learner")}


def _members(bits, number):
    """Returns each learner's own part of its leaves' bytes."""
    return [
        {
            k: x[i * len(x) // number : (i + 1) * len(x) // number]
            for k, x in bits.items()
        }
        for i in range(number)
    ]


def test_a_stage_begins_with_the_learners_of_another(copied):
    """Bit for bit, optimiser and counters too; more members take turns."""
    given = _members(_learners(copied, "first"), 2)
    for update in running.checkpoints(staged_runs.stage_of(copied, "second")):
        if update:
            name = f"checkpoints/{update}"
            shutil.rmtree(staged_runs.stage_of(copied, "second") / name)
    begun = running.bits(copied, "second")
    assert begun["update"] == b"0"
    learners = {k: x for k, x in begun.items() if k.startswith(".run.learner")}
    assert _members(learners, 3) == [given[0], given[1], given[0]]
    assert given[0] != given[1]


def test_a_stage_is_taught_by_the_frozen_learners_of_another(whole):
    """Their parameters, bit for bit, after training too; its own network begins anew."""
    bits = running.bits(whole, "first")
    given = {
        k.removeprefix(".run.learner.params"): x
        for k, x in bits.items()
        if k.startswith(".run.learner.params")
    }
    kept = {
        k.removeprefix(".run.learner.frozen['params']"): x
        for k, x in running.bits(whole, "taught").items()
        if k.startswith(".run.learner.frozen['params']")
    }
    teachers = _members(given, 2)
    assert given and _members(kept, 3) == [teachers[0], teachers[1], teachers[0]]
    rows = metrics.read_metrics(staged_runs.stage_of(whole, "taught"))
    assert (rows.metrics["teacher_kl"] > 0).all()


@pytest.mark.parametrize("changes", [{}, {"teacher": "first"}], ids=["alone", "taught"])
@pytest.mark.parametrize("source", ["first", "taught"])
def test_who_was_taught_may_go_on_alone_and_be_taught_later(copied, source, changes):
    """Its own weights and optimiser are gone on with, its teacher is the stage's own."""
    more = {"name": "more", **ONLINE, "init_from": source, **changes}
    run = kinds.run_of(
        config.from_dict({"stages": [*LEARNERS["stages"], more]}), copied
    )
    with contextlib.closing(kinds.make_program(run, run.stages[-1])) as program:
        fresh, hp = program.init(program.hparams), program.hparams
        begun = program.inherit(fresh, hp)[0].learner
    given = kinds.weights_of(run, run.stage(source), 2)[0]
    jax.tree.map(
        np.testing.assert_array_equal,
        begun._replace(frozen=()),
        given._replace(frozen=()),
    )
    assert bool(begun.frozen) == bool(changes)


@pytest.mark.parametrize("kind", ["collect", "evaluate"])
def test_a_student_may_be_played(kind):
    """Its teacher comes with its weights: none is to be named."""
    play = {"name": "play", "kind": kind, "of": "taught", "tasks": TASKS}
    stages = [*LEARNERS["stages"], play]
    made = config.from_dict({"stages": stages}).stages[-1]
    assert made.agent.config["teacher"] is not None


def test_what_a_stage_began_with_is_read_once(copied, whole, cached):
    """Stopped later, it goes on without the other's checkpoints, and with its bits."""
    staged_runs.without(copied, "second")
    running.mtrl_ending_at(2, "resume", copied)
    assert running.checkpoints(staged_runs.stage_of(copied, "second"))
    shutil.rmtree(staged_runs.stage_of(copied, "first") / "checkpoints")
    outcome = running.mtrl("resume", copied)
    assert outcome.code == 0, outcome.err
    own, other = (staged_runs.stage_of(run, "second") for run in (copied, whole))
    assert running.rows(own) == running.rows(other)
    assert running.bits(copied, "second") == running.bits(whole, "second")


def test_frozen_learners_play_and_stay(whole):
    """Nothing is learned, hyperparameters are theirs but for what play says."""
    assert _learners(whole, "teacher") == _learners(whole, "first")
    own, theirs = (running.bits(whole, name) for name in ("teacher", "first"))
    rates = [k for k in own if "learning_rate" in k and k.startswith(".hparams")]
    assert rates and own[rates[0]] == theirs[rates[0]]
    (temperature,) = (k for k in own if k.endswith("temperature"))
    assert own[temperature] == np.zeros(2, np.float32).tobytes()
    summary = metrics.read_summary(whole)
    assert summary["complete"]


def test_what_acting_noted_down_is_on_disk_and_in_windows(whole):
    """By name, at the step it belongs to: the learner's own value of the observation."""
    data = histories.load(staged_runs.stage_of(whole, "teacher") / "histories")
    assert set(data.recorded) == {"value", "log_prob"}
    run = kinds.run_of(reading.load_config(whole), whole)
    stage = run.stage("teacher")
    with kinds.restored(run, stage) as (_, program, saved):
        first = jax.jit(lambda tree: jax.tree.map(lambda x: x[0], tree))
        learner, hp, ts = first((saved.run.learner, saved.hparams, saved.run.ts))
        agent = build.make_agent(stage, program.spec)
    act, carry = jax.jit(agent.act), agent.carry(1)
    ts = jax.tree.map(lambda x: x[:1], ts)
    for t in range(10):
        ts = ts._replace(
            obs={k: x[0, t : t + 1] for k, x in data.obs.items()},
            first=data.first[0, t : t + 1],
            reward=data.reward[0, t - 1 : t] if t else np.zeros(1, np.float32),
        )
        _, carry, extras = act(learner, carry, ts, jax.random.key(0), hp)
        np.testing.assert_allclose(data.recorded["value"][0, t], extras.value[0], 1e-5)
        carry = impala.INFO.observe_action(carry, ts, data.action[0, t : t + 1])
    # Greedy was the choice, random every other action: both are in the data.
    assert np.allclose(data.recorded["log_prob"], 0.0, atol=1e-5)
    assert len(np.unique(data.action)) == 2
    sample = jax.jit(windows.sample, static_argnums=(2, 3))
    drawn = sample(jax.random.key(1), windows.put(data), 3, 4)
    assert {k: x.shape for k, x in drawn.extras.recorded.items()} == {
        "value": (4, 3),
        "log_prob": (4, 3),
    }


@pytest.mark.slow
def test_a_killed_teacher_writes_the_same_bytes(copied, whole, cached):
    """kill -9 with steps on disk beyond the checkpoint: every file is the same."""
    staged_runs.without(copied, *NAMES[1:])
    stall = staged_runs.STALL.format(update=6, stage="teacher")
    process = running.start("resume", copied, cache=cached, before=stall)
    folder = staged_runs.stage_of(copied, "teacher")
    running.wait_for(process, lambda: running.newest_row(folder) == 4)
    running.wait_for(process, lambda: staged_runs.steps_on_disk(folder) == 24)
    process.kill()
    assert running.ended(process).code == -signal.SIGKILL
    assert running.checkpoints(folder)[-1] < 6
    outcome = running.mtrl("resume", copied)
    assert outcome.code == 0, outcome.err
    files = sorted((folder / "histories").glob("*.npy"))
    assert {path.stem for path in files} >= {"recorded.value", "recorded.log_prob"}
    for path in files:
        other = staged_runs.stage_of(whole, "teacher") / "histories" / path.name
        assert path.read_bytes() == other.read_bytes(), path.name
    assert running.bits(copied, "clone") == running.bits(whole, "clone")


@pytest.mark.slow
def test_a_teacher_on_envpool_goes_on_at_fresh_episodes(tmp_path, cached):
    """What the checkpoint counts on stays, what follows is made by new episodes."""
    tasks = [{"env": "envpool/CartPole-v1", "slots": 2}]
    settings = copy.deepcopy(LEARNERS)
    first, teacher = settings["stages"] = settings["stages"][:2]
    first.update(tasks=tasks, training={**TRAINING, "env_steps": 16})
    teacher.update(tasks=tasks, checkpoint={"every_updates": 2})
    run = tmp_path / "run"
    settings = staged_runs.write(tmp_path / "x.yaml", settings=settings)
    running.mtrl_ending_at(4, "train", settings, "--run-dir", run)
    folder = staged_runs.stage_of(run, "teacher")
    assert running.checkpoints(folder)[-1] == 2
    assert staged_runs.steps_on_disk(folder) == 16
    with pytest.warns(UserWarning, match="16 of 24"):
        before = histories.load(folder / "histories", partial=True)
    kept = {
        name: np.array(getattr(before, name)[:, :8]) for name in ("action", "first")
    }
    seen = np.array(before.obs["vector"][:, 8])
    assert running.mtrl("resume", run).code == 0
    data = histories.load(folder / "histories")
    for name, rows in kept.items():
        np.testing.assert_array_equal(getattr(data, name)[:, :8], rows)
    # Other seeds, at their first step; the episodes before are cut off.
    assert data.first[:, 8].all() and not np.array_equal(data.obs["vector"][:, 8], seen)
    assert data.reward.shape == (4, 24) and metrics.read_summary(run)["complete"]


def test_the_settings_written_down_are_read_back(whole):
    """Agents and sizes are filled in, and agree with what filled them."""
    settings = config.load(whole / "config.yaml")
    assert config.from_dict(yaml.safe_load(config.dump(settings))) == settings
    teacher = settings.stages[1]
    assert teacher.agent.name == "impala" and teacher.population.size == 2


BAD = [
    ("stages.3.init_from=nobody", "stages.3.init_from 'nobody' first teacher"),
    ("stages.0.init_from=second", "stages.0.init_from 'second' order"),
    ("stages.3.agent.name=ppo", "stages.3 init_from='first' impala ppo"),
    ("stages.4.teacher=nobody", "stages.4.teacher 'nobody' first second"),
    ("stages.4.teacher=null stages.4.agent.config.teacher={}",
     "stages.4 agent.config.teacher NAME"),
    ("stages.4.agent.config.teacher.network.hidden=[9]",
     "stages.4.agent.config.teacher 'first' leave"),
    ("stages.4.agent={name: dqn}", "stages.4 agent.config.teacher unknown"),
    ("stages.1.of=clone", "stages.1.of 'clone' order first"),
    ("stages.1.agent={name: ppo}", "stages.1.agent first play.hparams"),
    ("stages.1.init_from=first", "stages.1 init_from of one"),
    ("stages.1.record=[q_values]", "stages.1 record.0='q_values' log_prob, value"),
    ("stages.1.play.epsilon=2", "stages.1.play.epsilon 2 less"),
    ("stages.1.play.hparams.temperatur=2", "play.hparams.temperatur temperature"),
    ("stages.1.of=null", "stages.1 play of agent.hparams"),
    ("stages.1.tasks.0.env=probe/memory", "stages.1 tasks observe 'first'"),
    ("stages.1.population.search={learning_rate: {low: 1e-3, high: 1e-2}}",
     "stages.1 population.search 'first'"),
    ("stages.0.agent.config.network.task_embedding=true"
     " stages.0.tasks=[{env: probe/action},{env: probe/constant}]"
     " stages.1.tasks=[{env: probe/constant},{env: probe/action}]",
     "stages.1 tasks impala number 'first' action, probe/constant order"),
]  # fmt: skip


# Of a list of two stages, the first and a named one.
BAD_PAIRS = [
    ("second", "stages.1.agent.config.network.hidden=[9]",
     "stages.1 init_from='first' float32[8 float32[9 here .params"),
    ("second", "stages.1.tasks.0.env=probe/memory",
     "stages.1 init_from='first' leaf .params"),
    ("taught", "stages.1.tasks.0.env=probe/memory", "stages.1 tasks observe 'first'"),
    ("second", "stages.0.agent={name: progressive}"
     " stages.1.agent={name: progressive, config: {columns: 3}}",
     "stages.1 init_from='first' columns 3 1 2 add"),
    ("teacher", "stages.0.agent={name: dreamer_v2, config: {replay: {prefill: 8}}}"
     " stages.0.population={size: 2}", "stages.1 play.epsilon=0.5 remembers temperature"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "words"), BAD, ids=[case[0] for case in BAD])
def test_a_bad_list_is_one_line_and_nothing_is_written(tmp_path, overrides, words):
    """The stage and field, what was given and what would work; no folder."""
    _refused(tmp_path, LEARNERS, overrides, words)


@pytest.mark.parametrize(("name", "overrides", "words"), BAD_PAIRS)
def test_what_does_not_fit_the_first_stage_is_refused(tmp_path, name, overrides, words):
    """Leaves of another shape, observations, columns, actions of others: a line each."""
    stages = [x for x in LEARNERS["stages"] if x["name"] in ("first", name)]
    _refused(tmp_path, {"stages": stages}, overrides, words)


def test_a_mixture_that_remembers_its_actions_may_play_others():
    """It observes which they were, as impala does."""
    mixture = {"name": "mix_and_match", "config": {"components": [{}, {}]}}
    stages = copy.deepcopy(LEARNERS["stages"][:2])
    stages[0]["agent"] = mixture
    stage = config.from_dict({"stages": stages}).stages[1]
    assert stage.play.epsilon > 0
    collect.make_agent(stage, envs.make("probe/action", (1, 2)).spec)


def _refused(tmp_path, settings, overrides, words):
    settings = staged_runs.write(tmp_path / "x.yaml", settings=copy.deepcopy(settings))
    line = running.refusal(settings, overrides, tmp_path / "run")
    missing = [word for word in words.split() if word not in line]
    assert not missing, line
