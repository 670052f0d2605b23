"""What an evaluate stage says of its episodes: curves, prompts, rewards of steps."""

import contextlib
from types import SimpleNamespace

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest
import tiny_settings

from mtrl_jax import config, errors, metrics, random, types
from mtrl_jax.config import agent_settings, stage_schema
from mtrl_jax.experiments import (
    build,
    episode_curves,
    in_context,
    task_families,
)
from mtrl_jax.metrics import estimates
from mtrl_jax.plots import context_curves, run_series

P, N, E = 2, 3, 20


def spec_of(names):
    """Returns a spec of tasks of which only the names matter."""
    space = types.Discrete(2)
    tasks = tuple(types.TaskSpec(name, {}, space, 0.0, 10.0) for name in names)
    return types.EnvSpec({}, space, tasks)


def summary(returns, rewards=(), watched=0, names=("a/x",), number=N):
    """Returns the summary of as many slots of each name, task by task."""
    slots = returns.shape[1] // len(names)
    task = np.repeat(np.arange(len(names)), slots)[None].repeat(len(returns), 0)
    numbers = [number] * len(names)
    return episode_curves.summarise(
        spec_of(names), returns, rewards, task, numbers, watched
    )


def test_the_score_is_of_episodes_that_the_agent_played():
    """The last tenth, and where nearly all were watched, the rest."""
    returns = np.broadcast_to(np.arange(E, dtype=float), (P, N, E))
    curve = summary(returns)["tasks"]["a/x"]["in_context"]
    assert "prompt" not in curve and "rewards" not in curve
    assert summary(returns)["score"] == pytest.approx([18.5] * P)
    most = summary(returns, watched=19)
    assert most["score"] == pytest.approx([19] * P)
    assert most["tasks"]["a/x"]["in_context"]["prompt"] == 19


def test_slots_have_the_tasks_of_an_entry_in_turn():
    """Slot b plays task b mod N, and what is not certain is of the tasks, not the slots.

    Of one task it is of the members, whose slots have the same weights.
    """
    of_slot = np.array([0.0, 10.0, 20.0, 2.0, 12.0, 22.0])
    returns = np.stack([of_slot, of_slot + 6])[..., None]
    family = summary(returns)["tasks"]["a/x"]["in_context"]
    expected = [[1.0, 11.0, 21.0], [7.0, 17.0, 27.0]]
    np.testing.assert_allclose(family["returns"][..., 0], expected)
    interval = estimates.mean_interval([4.0, 14.0, 24.0])
    np.testing.assert_allclose(family["interval"], [interval])
    single = summary(returns, number=1)["tasks"]["a/x"]["in_context"]
    interval = estimates.mean_interval(returns.mean((1, 2)))
    np.testing.assert_allclose(single["interval"], [interval])
    alone = summary(returns[:1], number=1)["tasks"]["a/x"]["in_context"]
    interval = estimates.mean_interval(of_slot)
    np.testing.assert_allclose(alone["interval"], [interval])


def test_a_score_is_the_mean_of_tasks_and_the_highest_is_best():
    """However many slots an entry has; what did not end counts for nothing, and is said."""
    returns = np.zeros((P, 2 * N, E))
    returns[0, :N, -2:], returns[1, N:, -2:] = 1.0, 3.0
    returns[1, 0, -1] = np.nan
    found = summary(returns, names=("a/x", "a/y"))
    assert found["score"] == pytest.approx([0.05, 0.15]) and found["best_member"] == 1
    unfinished = [x["in_context"]["unfinished"] for x in found["tasks"].values()]
    assert unfinished == [1, 0]


def test_no_task_decides_a_score_by_the_size_of_its_returns():
    """Normalised where all tasks have scores; of one task, or without, as it is."""
    spec = spec_of(("a/x", "a/y"))
    large = spec.tasks[1]._replace(reference_score=1000.0)
    means = np.array([[10.0, 0.0], [0.0, 900.0]])
    both = spec._replace(tasks=(spec.tasks[0], large))
    np.testing.assert_allclose(episode_curves.scores(both, means), [0.5, 0.45])
    unknown = both._replace(tasks=(both.tasks[0], large._replace(random_score=None)))
    np.testing.assert_allclose(episode_curves.scores(unknown, means), [5.0, 450.0])
    one = spec_of(("a/x",))
    np.testing.assert_allclose(episode_curves.scores(one, means[:, :1]), [10.0, 0.0])


def test_a_lost_member_has_no_part_in_an_evaluation():
    """What weights that are not finite did is neither in a curve nor the best."""
    stage = _prompted_stage(None)
    spec = task_families.testing(stage).spec
    learner = {"w": np.float32([[np.nan], [1.0]])}
    returns = np.float32([[[9.0] * 3] * 3, [[1.0, 2.0, 3.0]] * 3])
    ts = SimpleNamespace(task=np.zeros((P, 3), int))
    state = SimpleNamespace(learner=learner, returns=returns, rewards=(), ts=ts)
    before = in_context.fingerprint(learner)
    reporter = in_context._reporter(stage, spec, before, dict)
    found, _ = reporter.finish(state, None, {}, 0)
    np.testing.assert_array_equal(found["score"], [np.nan, 3.0])
    assert found["best_member"] == 1
    (task,) = found["tasks"].values()
    np.testing.assert_array_equal(task["in_context"]["mean"], [1.0, 2.0, 3.0])
    rows = {"a": np.array([1.0, 2.0]), "b": np.array([5.0, 1.0])}
    assert reporter.best({"returns": rows}) == 0


def test_the_table_tells_the_demonstration_from_what_came_after():
    """First is the first own episode; what was watched is said, and how much it earned."""
    returns = np.broadcast_to(np.arange(E, dtype=float), (P, N, E))
    (line,) = episode_curves.table(summary(returns, watched=4)).splitlines()[1:]
    assert line.split()[1:3] == ["4.000", "19.000"]
    assert line.endswith("after 20 episodes, 4 of them watched (1.500)")
    one = episode_curves.table(summary(returns[..., :1]))
    assert one.endswith("after 1 episode")


def test_rewards_of_one_episode_are_means_over_slots_as_far_as_any_went():
    """By task; an episode that is over earns nothing, one that is not yet is not known."""
    rewards = np.full((1, 4, 5), np.nan)
    rewards[0, 0, :3], rewards[0, 1, :2], rewards[0, 2:, :4] = 1.0, 0.0, 3.0
    names = ("a/x", "a/y")
    tasks = summary(rewards[..., :1], rewards, names=names, number=2)["tasks"]
    found = [tasks[name]["in_context"]["rewards"].tolist() for name in names]
    assert found == [[0.5, 0.5, 0.5], [3.0] * 4]
    steps = [tasks[name]["in_context"]["steps"] for name in names]
    assert steps == [[2, 3], [4, 4]]
    cut = rewards[..., :1].copy()
    cut[0, 1] = np.nan
    going = summary(cut, rewards, names=names, number=2)["tasks"]["a/x"]["in_context"]
    assert going["rewards"].tolist() == [0.5, 0.5, 1.0]


def test_an_episode_that_did_not_end_leaves_a_gap_in_the_curve(tmp_path):
    """JSON has no NaN: what comes back as null is a gap, in the mean over tasks too."""
    returns = np.ones((P, 2 * N, 4))
    returns[:, :N, 3] = np.nan
    metrics.write_summary(tmp_path, summary(returns, names=("a/x", "a/y")))
    curve = episode_curves.curve_of(tmp_path, SimpleNamespace(kind="evaluate"))
    assert curve["mean"][:3] == [1.0] * 3 and np.isnan(curve["mean"][3])
    assert curve["tasks"]["a/y"] == [1.0] * 4 and np.isnan(curve["tasks"]["a/x"][3])


@pytest.mark.parametrize("axis", ["slot", "population"])
def test_a_training_curve_counts_the_episodes_of_a_slot(tmp_path, axis):
    """Ten steps and a reset each; of members with a task each, the slots of one task.

    The environments are not made: they may be endless (a bandit for each episode).
    """
    tasks = [{"env": "bandit/uniform", "slots": 2}, {"env": "bandit/odd", "slots": 2}]
    slots = 4 if axis == "slot" else 2
    row = dict(wall_s=1.0, steps_per_s=1.0, compiles=1, hparams={})
    with contextlib.closing(metrics.MetricsWriter(tmp_path)) as writer:
        for update in (1, 2, 3):
            writer.write(
                update=update,
                env_steps=update * 22 * slots,
                returns={"a": np.ones(2), "b": np.full(2, 3.0)},
                metrics={f"length/{name}": np.full(2, 10.0) for name in ("a", "b")},
                **row,
            )
    stage = config.from_dict(
        {
            "name": "x",
            "kind": "online",
            "tasks": tasks,
            "agent": {"name": "bandit"},
            "population": {"size": 2, "axis": axis},
        }
    )
    curve = episode_curves.curve_of(tmp_path, stage)
    np.testing.assert_allclose(curve["episode"], [2.0, 4.0, 6.0])
    np.testing.assert_allclose(curve["mean"], 2.0)
    assert curve["tasks"] == {"a": [1.0] * 3, "b": [3.0] * 3}


@pytest.mark.parametrize(("episodes", "axis"), [(20, "episode"), (1, "step")])
def test_one_episode_is_drawn_by_its_steps_and_several_by_themselves(episodes, axis):
    """What was watched is shaded; the stage beside it is drawn where it has as much."""
    returns = np.random.default_rng(0).uniform(0, 10, (P, N, episodes))
    rewards = () if episodes > 1 else np.ones((P, N, 40))
    watched = 3 if episodes > 1 else 0
    tasks = summary(returns, rewards, watched)["tasks"]
    longer = episodes + 2 * (episodes > 1)
    beside = {"episode": list(range(1, longer + 1)), "mean": [1.0] * longer}
    if episodes == 1:
        beside["rewards"] = {"a/x": [0.5] * 40, "another": [0.1] * 40}
    run = run_series.Run("x", None, [], None, {}, tasks, 0, {"other": beside})
    figure = context_curves.of_run(run)
    (panel,) = figure.axes
    assert figure._supxlabel.get_text() == axis
    handles, labels = panel.get_legend_handles_labels()
    lines = dict(zip(labels, handles))
    assert ("watched" in lines) == bool(watched)
    assert {"in context", "other", "random", "reference"} <= set(lines)
    assert panel.get_xlim() == (0, longer if episodes > 1 else 40)
    if episodes > 1:
        several = beside | {"tasks": {"a/x": [7.0] * longer, "a/y": [0.0] * longer}}
        own = context_curves.of_run(run._replace(compared={"other": several}))
        (drawn,) = [x for x in own.axes[0].lines if x.get_label() == "other"]
        np.testing.assert_array_equal(drawn.get_ydata(), 7.0)
        band = next(x for x in panel.collections if x.get_label() == "95 % interval")
        places, ends = band.get_paths()[0].vertices.T
        drawn = [ends[places == i + 1] for i in range(episodes)]
        interval = [(x.min(), x.max()) for x in drawn]
        np.testing.assert_allclose(interval, tasks["a/x"]["in_context"]["interval"])
        (span,) = [x for x in panel.patches if x.get_label() == "watched"]
        assert (span.get_x(), span.get_width()) == (0.5, watched)
    if episodes == 1:
        np.testing.assert_allclose(lines["in context"].get_ydata(), 1.0)
        # Means of two throws, in their middle.
        np.testing.assert_allclose(
            lines["in context"].get_xdata()[[0, -1]], [1.5, 39.5]
        )
        np.testing.assert_allclose(lines["other"].get_ydata(), 0.5)
        np.testing.assert_allclose(lines["reference"].get_ydata(), 10 / 40)
        tasks["a/x"]["in_context"]["steps"] = [30, 40]
        (other,) = context_curves.of_run(run).axes
        drawn = other.get_legend_handles_labels()[1]
        assert "in context" in drawn and "reference" not in drawn
        plt.close(other.figure)
    plt.close(figure)


def test_a_demonstration_without_noise_is_optimal_and_ends_when_it_is_over():
    """Watched episodes earn the reference score in every slot, later ones do not."""
    stage = _prompted_stage({"episodes": 2, "epsilon": 0.0})
    spec = task_families.testing(stage).spec
    program = in_context.make_program(stage, spec, _fresh(stage, spec))
    state, _ = program.chunk(program.init(program.hparams), program.hparams)
    returns = np.asarray(state.returns)
    assert returns.shape == (2, 3, 3) and np.isfinite(returns).all()
    optimal = spec.tasks[0].reference_score
    np.testing.assert_allclose(returns[..., :2].mean((0, 1)), optimal, rtol=1e-6)
    assert returns[..., 2].mean() < 0.9 * optimal


def test_what_cannot_be_demonstrated_is_refused_in_one_line():
    """Where nobody knows the best action, and where episodes are trials."""
    for task, words in (
        ({"env": "probe/action"}, "tasks.0.env: of probe/action"),
        ({"env": "dark/room", "options": {"trial": 3}}, "trial"),
    ):
        stage = _prompted_stage({}, task)
        with pytest.raises(errors.ConfigError, match=words):
            in_context.make_program(stage, task_families.testing(stage).spec, None)


def _prompted_stage(prompt, task=None):
    """Returns an evaluate stage of a tiny transformer, three episodes in one chunk."""
    room = {"options": {"tasks": "test", "size": 4, "length": 8, "start": [0, 0]}}
    transformer = {"layers": 1, "width": 8, "heads": 2, "feedforward": 8, "context": 4}
    return stage_schema.EvaluateStage(
        name="x",
        kind="evaluate",
        of="y",
        tasks=[task or {"env": "dark/room", **room}],
        prompt=prompt,
        evaluation={"episodes": 3, "episodes_per_chunk": 3},
        agent={
            "name": "algorithm_distillation",
            "config": {"transformer": transformer},
        },
        population={"size": 2},
        logging=tiny_settings.QUIET,
    )


def _fresh(stage, spec):
    """Returns (learners, hyperparameters) of the stage's members, untrained."""
    agent = agent_settings.module(stage).make(spec, agent_settings.config(stage))
    keys = random.roots(0, stage.population.size)
    hp = build.initial_hparams(stage, keys)
    return jax.jit(jax.vmap(agent.init))(keys, hp), hp
