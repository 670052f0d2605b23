"""From returns to one score per member."""

import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.engine import fitness, statistics
from mtrl_jax.engine.evaluate import Evaluation


def spec(*scores):
    """An EnvSpec with one task per (random, reference) pair."""
    tasks = tuple(
        types.TaskSpec(f"t{i}", {}, types.Discrete(2), *pair)
        for i, pair in enumerate(scores)
    )
    return types.EnvSpec({}, types.Discrete(2), tasks)


TWO = spec((0.0, 10.0), (-20.0, 20.0))
# Two members, three slots; member 1 has not finished slot 1.
RETURNS = jnp.array([[5.0, 15.0, 40.0], [2.0, 99.0, -20.0]])
TASK = jnp.array([[0, 0, 1], [0, 0, 1]])
COMPLETE = jnp.array([[True, True, True], [True, False, True]])


def evaluation(returns=RETURNS, complete=COMPLETE):
    return Evaluation(returns, jnp.ones_like(TASK), complete, TASK, {})


def training(returns=RETURNS, complete=COMPLETE):
    """The same episodes as rings of two, the second entry being stale."""
    recent = jnp.stack([returns, jnp.full_like(returns, 1e6)], -1)
    zeros = jnp.zeros_like(returns)
    return statistics.EpisodeStats(
        zeros, zeros, complete, recent, complete.astype(jnp.int32), {}
    )


def both(metric, *args):
    finite = jnp.array([True, False])
    return (
        fitness.of_evaluation(metric, evaluation(*args), finite),
        fitness.of_training(metric, training(*args), TASK, finite),
    )


@pytest.mark.parametrize(
    ("name", "task", "score"),
    [
        # Task means: member 0: 10 and 40, member 1: 2 and -20.
        ("return", None, [25.0, -9.0]),
        ("normalised", None, [(1.0 + 1.5) / 2, (0.2 + 0.0) / 2]),
        ("capped", None, [1.0, 0.1]),
        ("return", "t1", [40.0, -20.0]),
        ("normalised", "t1", [1.5, 0.0]),
        ("capped", "t1", [1.0, 0.0]),
    ],
)
def test_scores_are_means_over_tasks_of_mapped_mean_returns(name, task, score):
    """Return, (return − random)/(reference − random), the same capped at 1, one task."""
    for judged in both(fitness.make_metric(TWO, name, task)):
        np.testing.assert_allclose(judged.score, score, rtol=1e-6)
        np.testing.assert_array_equal(judged.finite, [True, False])


def test_the_number_of_episodes_is_that_of_the_task_with_fewest():
    """A score is as sure as its least known task that counts."""
    for judged in both(fitness.make_metric(TWO, "return")):
        np.testing.assert_array_equal(judged.episodes, [1, 1])
    for judged in both(fitness.make_metric(TWO, "return", "t0")):
        np.testing.assert_array_equal(judged.episodes, [2, 1])


def test_a_member_without_an_episode_of_a_task_has_no_score():
    """NaN rather than a number, unless the task does not count."""
    complete = COMPLETE.at[0, 2].set(False)
    for judged in both(fitness.make_metric(TWO, "return"), RETURNS, complete):
        np.testing.assert_array_equal(np.isnan(judged.score), [True, False])
        np.testing.assert_array_equal(judged.episodes, [0, 1])
    for name in ("capped", "return"):
        metric = fitness.make_metric(TWO, name, "t0")
        for judged in both(metric, RETURNS, complete):
            assert np.isfinite(judged.score).all()


def test_samples_for_the_t_test_are_the_mapped_returns_of_tasks_that_count():
    """One sample an episode, on the scale of the score; the others are not valid."""
    metric = fitness.make_metric(TWO, "capped", "t0")
    for judged in both(metric):
        samples, valid = np.asarray(judged.returns), np.asarray(judged.valid)
        np.testing.assert_allclose(samples[0][valid[0]], [0.5, 1.0])
        np.testing.assert_allclose(samples[1][valid[1]], [0.2])


def test_a_member_that_returns_nan_scores_nan():
    """A cap must not turn NaN into the best score there is."""
    returns = RETURNS.at[0, 0].set(jnp.nan)
    for judged in both(fitness.make_metric(TWO, "capped"), returns):
        np.testing.assert_array_equal(np.isnan(judged.score), [True, False])


def test_metrics_that_cannot_be_computed_are_refused():
    """An unknown task, and a normalised score without reference scores, by name."""
    with pytest.raises(ValueError, match=r"task='t9' is none of the tasks: t0, t1"):
        fitness.make_metric(TWO, "return", "t9")
    unscored = spec((0.0, 10.0), (None, None))
    with pytest.raises(ValueError, match="needs reference scores and t1 has none"):
        fitness.make_metric(unscored, "capped")
    for name, task in (("return", None), ("capped", "t0")):
        assert fitness.make_metric(unscored, name, task).weight[0] == 1.0


def test_reference_scores_that_do_not_differ_are_refused():
    """Normalising by 0 would make every score infinite or NaN."""
    with pytest.raises(ValueError, match=r"t0 has random and reference score 3\.0"):
        fitness.make_metric(spec((3.0, 3.0)), "normalised")


def test_a_metric_of_another_name_is_refused():
    """Not silently taken for the normalised score."""
    with pytest.raises(
        ValueError, match=r"metric='median'.*return, normalised, capped"
    ):
        fitness.make_metric(TWO, "median")


def test_a_measure_of_the_environments_can_be_the_metric():
    """Success as it is, weighted as returns are; only where all tasks that count have it."""
    tasks = tuple(task._replace(measures=("success",)) for task in TWO.tasks)
    metric = fitness.make_metric(TWO._replace(tasks=tasks), "success")
    success = jnp.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    result = evaluation()._replace(info={"success": success})
    judged = fitness.of_evaluation(metric, result, jnp.array([True, True]))
    # Member 1 has not finished slot 1.
    np.testing.assert_allclose(judged.score, [(0.5 + 1.0) / 2, (0.0 + 1.0) / 2])
    np.testing.assert_array_equal(judged.returns[judged.valid], [1, 0, 1, 0, 1])
    half = TWO._replace(tasks=(tasks[0], TWO.tasks[1]))
    assert fitness.make_metric(half, "success", "t0").measure == "success"
    with pytest.raises(ValueError, match=r"'success' is none of return, norm.*capped$"):
        fitness.make_metric(half, "success")
