"""tasks.N.curriculum: a run whose tasks get harder, through its config."""

import types

import numpy as np
import pytest
import running
import staged_runs

from mtrl_jax import config, errors, metrics
from mtrl_jax.engine import fitness, fused_runner, statistics
from mtrl_jax.envs.curriculum import Levels
from mtrl_jax.experiments import (
    curricula,
    environments,
    online,
    selection,
    task_families,
)
from mtrl_jax.types import Agent, TimeStep

# Reward 1 whatever is done, at the end of ever longer episodes: all pass at once.
# 5 members live on one device of 8: programs of several are compiled for longer.
CHANGES = [
    "population.size=5",
    "tasks.0={env: probe/delayed, slots: 2, options: {length: 4}}",
    "tasks.0.curriculum={start: {length: 1}, threshold: 0.5, steps: 6, min_episodes: 9}",
    "population.fitness.source=evaluation",
]
LEVEL = "level/probe/delayed"


@pytest.fixture(name="harder", scope="module")
def _harder(tmp_path_factory):
    """A run from the first to the last update; do not change it."""
    folder = tmp_path_factory.mktemp("harder") / "run"
    running.train(folder, *CHANGES)
    return folder


def test_episodes_grow_as_the_level_does(harder):
    """Rows have each member's level; the other task has none."""
    logged = metrics.read_metrics(harder)
    level = logged.metrics[LEVEL][1:]
    assert "level/probe/memory" not in logged.metrics
    assert level[0].max() < 1 and (level[-1] == 1).all()
    assert (np.diff(level, axis=0) >= 0).all()
    length = logged.metrics["length/probe/delayed"][1:]
    np.testing.assert_array_equal(length[0], 1)
    np.testing.assert_array_equal(length[-1], 4)
    # An episode lasts its level's length, rounded; one chunk may end some of two levels.
    wanted = 1 + 3 * level
    assert (length <= np.ceil(wanted)).all()


def test_members_are_tested_on_the_task_itself(harder):
    """Evaluations are of the options as they are, from the first on."""
    settings = config.load(harder / "config.yaml")
    world = environments.make_world(settings, "seed")
    assert (world.test.params[0].length == 4).all()
    course = curricula.make(settings, world)
    assert (course.params(course.init())[0].length == 1).all()


@pytest.mark.parametrize(("levels", "known"), [((1, 1), True), ((0.5, 1), False)])
def test_members_at_different_levels_are_not_compared_by_training(levels, known):
    """An easier level pays more: which member is best is then left to the evaluation."""
    zeros = np.zeros((2, 1), np.float32)
    recent = np.float32([[[9.0]], [[6.0]]])
    stats = statistics.EpisodeStats(
        zeros, zeros, zeros > 0, recent, np.ones((2, 1), np.int32), {}
    )
    course = Levels(np.float32(levels)[:, None], zeros, zeros, zeros > 0)
    task = types.SimpleNamespace(task=np.zeros((2, 1), np.int32))
    state = types.SimpleNamespace(stats=stats, ts=task, curriculum=course)
    metric = fitness.Metric((0.0,), (1.0,), np.inf, (1.0,))
    score, _ = selection.recent_score(metric, state)
    expected = [9.0, 6.0] if known else [np.nan, np.nan]
    np.testing.assert_array_equal(score, expected)


def _passed(course, state, played, task):
    """Returns a state after five episodes of every slot, good ones of ``task`` alone."""
    ends = np.ones(played.shape, bool)
    ts = TimeStep({}, *[ends] * 4, played, ends)
    for _ in range(5):
        state = course.observe(state, ts, {"return": np.float32(played == task)})
    return course.update(state, ts)


def test_a_copy_is_judged_by_its_own_episodes(monkeypatch):
    """A round of PBT leaves levels where they are, and forgets the weights it replaced."""
    settings = config.from_dict(config.override(running.TINY, CHANGES))
    monkeypatch.setattr(selection, "pbt_step_of", lambda *given: given[-1])
    agent = Agent(print, lambda batch: np.zeros(batch), print, print)
    spec = types.SimpleNamespace(tasks=())
    reset = selection.make_pbt_step(settings, agent, spec, (2, 1), None)
    ones, none = np.ones((2, 1), np.float32), np.zeros((2, 1), bool)
    stats = statistics.EpisodeStats(ones, ones, none, ones[..., None], ones, {})
    run = fused_runner.RunState._make([()] * len(fused_runner.RunState._fields))
    run = run._replace(
        carry=ones, stats=stats, curriculum=Levels(ones, ones, ones, none)
    )
    replaced = np.array([True, False])
    found = reset(run, replaced, ~none[:, 0]).curriculum
    np.testing.assert_array_equal(found.level, ones)
    for left in (found.total, found.episodes, ~found.stale):
        np.testing.assert_array_equal(left[:, 0], [0, 1])


@pytest.mark.parametrize(
    ("axis", "easy"),
    [("slot", [[8, 8, 1, 1]] * 6), ("population", [[8] * 2] * 2 + [[1] * 2] * 2)],
)
def test_a_later_task_gets_harder_by_its_own_episodes(axis, easy):
    """And no other task's slots, or members."""
    delayed = {"env": "probe/delayed", "slots": 2}
    course = {"start": {"length": 1}, "threshold": 0.5, "steps": 2, "min_episodes": 9}
    given = running.TINY | {
        "tasks": [
            {"env": "probe/memory", "slots": 2},
            {**delayed, "options": {"length": 8}},
            {**delayed, "options": {"length": 5}, "curriculum": course},
        ],
        "population": {"size": 6, "axis": axis},
    }
    settings = config.from_dict(given)
    made = curricula.make(settings, environments.make_world(settings, "seed"))
    state, harder = made.init(), np.where(np.array(easy) == 1, 3, easy)
    # The task of each slot [P, B].
    played = np.array([[0, 0, 1, 1, 2, 2]] * 6)
    if axis == "population":
        played = np.repeat(np.array([0, 0, 1, 1, 2, 2])[:, None], 2, axis=1)
    for task, expected in ((1, easy), (2, harder)):
        state = _passed(made, state, played, task)
        lengths = [part.length for part in made.params(state)[1:]]
        found = np.concatenate(lengths, int(axis == "slot"))
        np.testing.assert_array_equal(found, expected)
    shown = made.metrics(state)[f"{LEVEL}#2"]
    plays = np.arange(6) >= (0 if axis == "slot" else 4)
    np.testing.assert_array_equal(shown, np.where(plays, 0.5, np.nan))
    # Levels of Labyrinth share a part: where in which one rows are.
    assert curricula._place(slice(0, 2), [2, 5]) == (0, slice(0, 2))
    assert curricula._place(slice(4, 6), [2, 5]) == (1, slice(2, 4))


@pytest.mark.slow
def test_a_resumed_run_has_the_levels_of_the_uninterrupted_one(
    tmp_path, harder, cached
):
    """Levels, and the episodes they are judged by, are in the checkpoint."""
    run = tmp_path / "run"
    settings = running.write(run.with_suffix(".yaml"), *CHANGES)
    running.mtrl_ending_at(16, "train", settings, "--run-dir", run)
    saved = running.checkpoints(run)
    assert saved and 0 < saved[-1] < 16
    outcome = running.mtrl("resume", run)
    assert outcome.code == 0, outcome.err
    running.assert_same(run, harder)


def test_another_curriculum_is_refused_when_resuming(harder):
    """It is a part of the task, which a run keeps."""
    outcome = running.mtrl("resume", harder, "tasks.0.curriculum.threshold=0.9")
    assert outcome.code == 2
    assert "tasks.0.curriculum.threshold" in outcome.error


def _refused(*changes):
    with pytest.raises(errors.ConfigError) as refused:
        settings = config.from_dict(config.override(running.TINY, [*CHANGES, *changes]))
        online.make_program(settings)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("start={lenght: 1}", "has no option 'lenght', did you mean length"),
        ("start={length: 0}", "options.length: got 0"),
        ("start={}", "tasks.0.curriculum.start"),
        ("steps=0", "tasks.0.curriculum.steps"),
        ("min_episodes=0", "tasks.0.curriculum.min_episodes"),
        ("threshold=high", "tasks.0.curriculum.threshold"),
        ("metric=sucess", "metric: no 'sucess'"),
        ("levels=3", "tasks.0.curriculum.levels"),
        ("start={wrappers: {frame_stack: 2}}", "start.wrappers: no number of"),
    ],
)
def test_a_curriculum_that_cannot_be_is_one_line(change, said):
    """The field, what was given and what would work."""
    message = _refused(f"tasks.0.curriculum.{change}")
    assert "tasks.0.curriculum" in message and said in message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["population.fitness.source=training"], "give source=evaluation"),
        (["training.runner=host"], "no level moves; give training.runner=fused"),
        (
            ["tasks.0.env=envpool/CartPole-v1", "tasks.0.options={}"],
            "envpool/CartPole-v1 runs outside the program, where no level moves",
        ),
    ],
)
def test_where_no_level_moves_none_is_promised(changes, said):
    """Other runners and environments, and PBT that compares different levels."""
    assert said in _refused(*changes)


def test_levels_between_two_that_can_be_played_are_checked():
    """Before a run begins; there the agent would walk out of the map."""
    message = _refused(
        "tasks.0={env: labyrinth/explore_object_locations_small, slots: 2}",
        "tasks.0.options={rooms: 8, pitch: 2}",
        "tasks.0.curriculum={start: {rooms: 2, pitch: 10}, threshold: 0.5}",
    )
    assert message.startswith("tasks.0.curriculum: level 0.1: options.rooms=3")


@pytest.mark.parametrize("stage", [0, 2])
def test_stages_other_than_online_refuse_it(stage):
    """Histories, and tests in context, are of one task for good."""
    change = f"stages.{stage}.tasks.0.curriculum={{start: {{size: 2}}, threshold: 1.0}}"
    settings = config.from_dict(config.override(staged_runs.TINY, [change]))
    with pytest.raises(errors.ConfigError, match=r"tasks\.0.*curriculum with kind="):
        task_families.entries(settings.stages[stage])
