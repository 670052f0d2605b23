"""Teachers, their play, a student, its play: the config's stages, shrunk to two probes.

After them the student's own states, which the teachers label, and what it learns of these.
"""

import copy
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import running
import staged_runs

from mtrl_jax import config, errors, metrics
from mtrl_jax.data import histories
from mtrl_jax.experiments import build, kinds, reading
from mtrl_jax.training import run_folder

NAMES = ["teachers", "play", "student", "students_play", "states", "second"]
TASKS = "[{env: probe/both, slots: 4}, {env: probe/masked, slots: 4}]"
SHRUNK = [
    *(f"stages.{i}.tasks={TASKS}" for i in (0, 1, 3)),
    *(f"stages.{i}.logging.tensorboard=false" for i in range(4)),
    "stages.0.agent.config.network={torso: mlp, hidden: [16], layer_norm: true}",
    "stages.0.agent.config.minibatches=2",
    "stages.0.agent.hparams={learning_rate: 1.0e-2, epsilon_updates: 4}",
    "stages.0.population.size=2",
    # 6 updates, 12 and 20, in chunks that no other stage has; 4 episodes.
    "stages.0.training={env_steps: 192, unroll_length: 8, updates_per_chunk: 2}",
    "stages.0.evaluation={every_updates: 0, episodes: 4}",
    "stages.0.checkpoint.every_updates=2",
    "stages.1.training={env_steps: 192, unroll_length: 4, updates_per_chunk: 4}",
    "stages.1.evaluation.episodes=4",
    "stages.1.checkpoint.every_updates=4",
    "stages.2.agent.config.network={torso: mlp, hidden: [16], last_action_reward: false}",
    "stages.2.agent.hparams={learning_rate: 1.0e-2, tau: 0.01}",
    "stages.2.training={updates: 20, unroll_length: 1, batch: 32, updates_per_chunk: 5}",
    "stages.2.evaluation.every_updates=0",
    "stages.2.checkpoint.every_updates=5",
    "stages.3.evaluation={episodes: 2, episodes_per_chunk: 1, max_steps: 8}",
    "stages.3.checkpoint.every_updates=1",
]


STATES = {
    "name": "states",
    "kind": "collect",
    "of": "student",
    "watched_by": "teachers",
    "record": ["q"],
    "population": {"axis": "population"},
    "training": {"env_steps": 128, "unroll_length": 4, "updates_per_chunk": 2},
}


def settings(folder):
    """Returns the path of the shrunken config."""
    given = config.read_yaml(running.ROOT / "configs/policy_distillation_minatar.yaml")
    given = config.override(given, SHRUNK)
    _, play, student, _ = given["stages"]
    common = {name: play[name] for name in ("tasks", "evaluation", "logging")}
    second = {"name": "second", "data": "states", "init_from": "student"}
    second["training"] = {**student["training"], "updates": 5}
    given["stages"] += copy.deepcopy([{**common, **STATES}, {**student, **second}])
    return staged_runs.write(folder / "x.yaml", settings=given)


@pytest.fixture(name="whole", scope="module")
def _whole(tmp_path_factory, cached):
    folder = tmp_path_factory.mktemp("distillation")
    run = folder / "run"
    outcome = running.mtrl("train", settings(folder), "--run-dir", run)
    assert outcome.code == 0, outcome.err
    return run


def assert_same(run, whole):
    """Fails where two runs differ in a bit of state or of data."""
    for name in NAMES:
        assert running.bits(run, name) == running.bits(whole, name), name
    for name in ("play", "states"):
        for path in sorted((run / "stages" / name / "histories").glob("*.npy")):
            there = whole / "stages" / name / "histories" / path.name
            assert path.read_bytes() == there.read_bytes(), path.name
    assert metrics.read_summary(run)["complete"]


def test_a_student_of_two_teachers_has_a_head_of_each_ones_actions(whole):
    """Member k's play is history of task k, with a q of every padded action."""
    data = histories.load(whole / "stages/play/histories")
    assert [x.action.n for x in data.spec.tasks] == [2, 3]
    assert data.task.tolist() == [0] * 4 + [1] * 4
    assert data.recorded["q"].shape == (8, 48, 3)
    # What was played is legal, and mostly the best of what was recorded.
    assert np.take_along_axis(data.action_mask, data.action[..., None], 2).all()
    best = np.where(data.action_mask, data.recorded["q"], -np.inf).argmax(-1)
    assert 0.8 < (best == data.action).mean() <= 1.0
    named = running.bits(whole, "student")
    biases = {
        k: len(x) for k, x in named.items() if ".params['task_" in k and "bias" in k
    }
    # float32, of the config's five members.
    assert sorted(biases.values()) == [5 * 4 * 2, 5 * 4 * 3], biases


def test_the_student_agrees_more_with_its_teachers_as_it_learns(whole):
    """Its loss falls, and its plays are reported by game."""
    rows = running.rows(whole / "stages/student")
    losses = [np.mean(row["metrics"]["loss"]) for row in rows]
    agree = [np.mean(row["metrics"]["accuracy"]) for row in rows]
    assert losses[-1] < losses[0] and agree[-1] > 0.8
    summary = metrics.read_summary(whole / "stages/students_play")
    assert sorted(summary["tasks"]) == ["probe/both", "probe/masked"]


def test_teachers_label_what_the_student_does(whole):
    """Each game's teacher says its q of the states that the student came to."""
    data = histories.load(whole / "stages/states/histories")
    assert data.spec.tasks[1].action.n == 3 and data.task.tolist() == [0] * 4 + [1] * 4
    run = kinds.run_of(reading.load_config(whole), whole)
    stage = run.stage("teachers")
    with kinds.restored(run, stage) as (_, program, saved):
        agent = build.make_agent(stage, program.spec)
        learners, hp = jax.device_get((saved.run.learner, saved.hparams))
        ts = jax.tree.map(lambda x: x[0, :1], jax.device_get(saved.run.ts))

    @jax.jit
    def said(member, seen, legal):
        own = jax.tree.map(lambda x: jnp.asarray(x)[member], (learners, hp))
        now = ts._replace(obs={"vector": seen[None]}, action_mask=legal[None])
        return agent.act(own[0], (), now, jax.random.key(0), own[1])[2].q[0]

    for history, t in ((0, 0), (3, 5), (4, 2), (7, 7)):
        seen = data.obs["vector"][history, t], data.action_mask[history, t]
        q = said(data.task[history], *map(np.array, seen))
        np.testing.assert_allclose(
            data.recorded["q"][history, t], q, rtol=1e-5, atol=1e-6
        )
    own = metrics.read_summary(whole / "stages/second")
    assert own["totals"]["updates"] == 5


def test_a_stage_is_opened_with_what_it_is_made_of(tmp_path):
    """By its folder in the run, also what others watch; a copy alone has its line."""
    whole = config.load(settings(tmp_path))
    states = tmp_path / "run/stages/states"
    for folder, written in ((tmp_path / "run", whole), (states, whole.stages[4])):
        folder.mkdir(parents=True)
        run_folder.write_config(folder, written)
    run, stage = reading.with_environments(states)
    assert run.folder_of(stage) == states and stage.watched_by == "teachers"
    kinds.make_program(run, stage, -1, is_checked=True).close()
    alone = reading.with_environments(shutil.copytree(states, tmp_path / "alone"))
    with pytest.raises(errors.ConfigError, match=r"alone: .*'teachers'.*RUN/stages"):
        kinds.make_program(*alone, -1, is_checked=True)


def test_a_stage_that_is_watched_can_be_evaluated(whole):
    """By its folder, whose settings alone do not say what the watcher is."""
    outcome = running.mtrl("evaluate", whole / "stages/states", "--episodes", 2)
    assert outcome.code == 0, outcome.err
    assert "probe/masked" in outcome.out


@pytest.mark.slow
def test_stopped_in_every_stage_it_arrives_at_the_same_bits(whole, tmp_path, cached):
    """Once in each that lasts, always before the row of an update is written."""
    run = tmp_path / "run"
    running.mtrl_ending_at(4, "train", settings(tmp_path), "--run-dir", run)
    assert not (run / "stages/play").exists()
    running.mtrl_ending_at(8, "resume", run)
    assert not (run / "stages/student").exists()
    running.mtrl_ending_at(15, "resume", run)
    assert not (run / "stages/students_play").exists()
    running.mtrl_ending_at(6, "resume", run)
    assert (run / "stages/states").exists() and not (run / "stages/second").exists()
    assert running.mtrl("resume", run).code == 0
    assert_same(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "update"), [("teachers", 4), ("play", 8), ("student", 15), ("states", 4)]
)
def test_killed_in_any_stage_it_arrives_at_the_same_bits(
    whole, tmp_path, cached, stage, update
):
    """kill -9 while an update is being logged, then resumed."""
    run = shutil.copytree(whole, tmp_path / "run")
    staged_runs.without(run, *NAMES[NAMES.index(stage) :])
    stall = staged_runs.STALL.format(update=update, stage=stage)
    process = running.start("resume", run, cache=cached, before=stall)
    folder = staged_runs.stage_of(run, stage)
    before = {"teachers": 2, "play": 4, "student": 10, "states": 2}[stage]
    running.wait_for(process, lambda: running.newest_row(folder) == before)
    process.kill()
    assert running.ended(process).code == -signal.SIGKILL
    outcome = running.mtrl("resume", run)
    assert outcome.code == 0, outcome.err
    assert_same(run, whole)


BAD = [
    ("stages.1.record=[]", "stages.2 agent.config labels='q' nothing record: [q]"),
    ("stages.2.agent.config.labels=policy", "stages.2 labels='policy' recorded q"),
    ("stages.2.agent.hparams.tau=0", "stages.2 agent.hparams.tau 0 at least 1e-06"),
    ("stages.2.agent.hparams.tau=-1", "stages.2 agent.hparams.tau -1 at least"),
    ("stages.3.tasks=[{env: probe/masked}, {env: probe/both}]",
     "stages.3 tasks policy_distillation number 'student' probe/both, order"),
    ("stages.3.tasks=[{env: probe/both}]", "stages.3 tasks 'student' same options"),
    ("stages.0.agent={name: dqn, config: {learning_starts: 6}}"
     " stages.1.play={}",
     "stages.0 agent.config.learning_starts=6 6 updates at most 5"),
    ("stages.4.watched_by=nobody", "stages.4.watched_by 'nobody' teachers, play, student"),
    ("stages.4.of=null stages.4.agent={name: pqn}",
     "stages.4 watched_by='teachers' without of"),
    ("stages.4.record=[value_of]", "stages.4 record.0='value_of' pqn q, value"),
    ("stages.2.agent.config.head_hidden=-1", "stages.2 agent.config head_hidden -1"),
    ("stages.2.agent.config.network.filters=[8]", "stages.2 filters (8,) 'mlp' hidden"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "words"), BAD, ids=[case[0] for case in BAD])
def test_bad_stages_are_one_line_and_nothing_is_written(tmp_path, overrides, words):
    """The stage and field, what was given and what would work; no folder."""
    line = running.refusal(settings(tmp_path), overrides, tmp_path / "run")
    missing = [word for word in words.split() if word not in line]
    assert not missing, line


def test_a_watcher_of_other_actions_is_refused(tmp_path):
    """Its q would be of actions that the student does not have."""
    path = settings(tmp_path)
    given = config.read_yaml(path)
    tasks = [{"env": f"probe/{name}", "slots": 4} for name in ("both", "action")]
    others = {**given["stages"][0], "name": "others", "tasks": tasks}
    states = given["stages"][NAMES.index("states")]
    states["watched_by"] = "others"
    given["stages"].insert(0, others)
    path = staged_runs.write(tmp_path / "y.yaml", settings=given)
    outcome = running.mtrl("train", path, "--run-dir", tmp_path / "run")
    assert outcome.code == 2, outcome.err
    for word in ("stages.5", "'others'", "Discrete(n=3)", "same options"):
        assert word in outcome.error, outcome.error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stage", ["play", "states"])
def test_a_teacher_that_was_never_trained_says_nothing(whole, tmp_path, stage):
    """Neither plays it nor does it watch: one line that names its folder."""
    run = shutil.copytree(whole, tmp_path / "run")
    staged_runs.without(run, *NAMES[NAMES.index(stage) :])
    shutil.rmtree(run / "stages/teachers/checkpoints")
    outcome = running.mtrl("resume", run)
    assert outcome.code and "stages/teachers" in outcome.error
