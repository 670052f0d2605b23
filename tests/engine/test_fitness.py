"""From returns to one score per member."""

import jax
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.engine import fitness, statistics
from mtrl_jax.engine.evaluate import Evaluation
from mtrl_jax.training import report


def spec(*scores):
    """An EnvSpec with one task per (random, reference) pair."""
    tasks = tuple(
        types.TaskSpec(f"t{i}", {}, types.Discrete(2), *pair)
        for i, pair in enumerate(scores)
    )
    return types.EnvSpec({}, types.Discrete(2), tasks)


TWO = spec((0.0, 10.0), (-20.0, 20.0))
# Two members, three slots; member 1 has not finished slot 1.
RETURNS = np.array([[5.0, 15.0, 40.0], [2.0, 10.0, -20.0]], np.float32)
TASK = np.array([[0, 0, 1], [0, 0, 1]])
COMPLETE = np.array([[True, True, True], [True, False, True]])
of_evaluation = jax.jit(fitness.of_evaluation, static_argnums=0)
of_training = jax.jit(fitness.of_training, static_argnums=0)


def evaluation(returns=RETURNS, complete=COMPLETE):
    return Evaluation(returns, np.ones_like(TASK), complete, TASK, {})


def training(returns=RETURNS, complete=COMPLETE):
    """The same episodes as rings of two, the second entry being stale."""
    recent = np.stack([returns, np.full_like(returns, 1e6)], -1)
    zeros = np.zeros_like(returns)
    return statistics.EpisodeStats(
        zeros, zeros, complete, recent, complete.astype(np.int32), {}
    )


def both(metric, *args):
    finite = np.array([True, False])
    judged = (
        of_evaluation(metric, evaluation(*args), finite),
        of_training(metric, training(*args), TASK, finite),
    )
    return jax.device_get(judged)


@pytest.mark.parametrize(
    ("name", "task", "score"),
    [
        # Task means: member 0: 10 and 40, member 1: 6 and -20.
        ("return", None, [25.0, -7.0]),
        ("normalised", None, [(1.0 + 1.5) / 2, (0.6 + 0.0) / 2]),
        ("capped", None, [1.0, 0.3]),
        ("return", "t1", [40.0, -20.0]),
        ("normalised", "t1", [1.5, 0.0]),
        ("capped", "t1", [1.0, 0.0]),
    ],
)
def test_scores_are_means_over_tasks_of_mapped_mean_returns(name, task, score):
    """Return, (return − random)/(reference − random), the same capped at 1, one task."""
    tested, trained = both(fitness.make_metric(TWO, name, task))
    for judged in (tested, trained):
        np.testing.assert_array_equal(judged.finite, [True, False])
    np.testing.assert_allclose(tested.score, score, rtol=1e-6)
    # Member 1 has a slot of task 0 without an episode.
    expected = score if task == "t1" else [score[0], np.nan]
    np.testing.assert_allclose(trained.score, expected, rtol=1e-6)


def test_the_number_of_episodes_is_that_of_the_task_with_fewest():
    """A score is as sure as its least known task that counts."""
    tested, trained = both(fitness.make_metric(TWO, "return"))
    np.testing.assert_array_equal(tested.episodes, [1, 1])  # Of the second task.
    np.testing.assert_array_equal(trained.episodes, [1, 0])
    tested, trained = both(fitness.make_metric(TWO, "return", "t0"))
    np.testing.assert_array_equal(tested.episodes, [2, 2])
    np.testing.assert_array_equal(trained.episodes, [2, 0])


def test_a_member_without_an_episode_of_a_task_has_no_score():
    """NaN rather than a number, unless the task does not count."""
    complete = COMPLETE & (np.arange(6).reshape(2, 3) != 2)
    _, judged = both(fitness.make_metric(TWO, "return"), RETURNS, complete)
    assert np.isnan(judged.score[0]) and judged.episodes[0] == 0
    for name in ("capped", "return"):
        metric = fitness.make_metric(TWO, name, "t0")
        for judged in both(metric, RETURNS, complete):
            assert np.isfinite(judged.score[0])


def test_a_member_with_a_task_of_its_own_is_judged_by_that():
    """population.axis=population: of the other tasks it has no slot, and no score."""
    task, finite = np.array([[0, 0, 0], [1, 1, 1]]), np.ones(2, bool)
    metric = fitness.make_metric(TWO, "normalised")
    played = evaluation()._replace(task=task)
    for judged in (
        of_training(metric, training(complete=np.ones_like(COMPLETE)), task, finite),
        of_evaluation(metric, played, finite),
    ):
        # Means of 20 of 0 to 10, of -8/3 of -20 to 20.
        np.testing.assert_allclose(judged.score, [2.0, 13 / 30], rtol=1e-6)
        np.testing.assert_array_equal(judged.episodes, [3, 3])
    metric = fitness.make_metric(TWO, "return", "t1")
    judged = of_training(metric, training(), task, finite)
    assert np.isnan(judged.score[0]) and judged.episodes[0] == 0


def test_a_member_that_lives_long_is_not_judged_by_its_failures():
    """Of evaluations that a limit cuts: 10 and 500 so far is better than 100 and 100."""
    returns = np.float32([[10.0, 500.0, 0.0], [100.0, 100.0, 0.0]])
    complete = np.array([[True, False, True], [True, True, True]])
    metric = fitness.make_metric(TWO, "return", "t0")
    found = of_evaluation(metric, evaluation(returns, complete), np.ones(2, bool))
    np.testing.assert_allclose(found.score, [255.0, 100.0])
    assert np.asarray(found.valid)[..., :2].all()


def _age(end, ages, window, slots=16):
    """Returns EpisodeStats of streams of episodes, judged at ``ages``; reward 1 a step."""
    lengths = np.diff(end, axis=-1, prepend=0)
    done = (end <= ages).sum(-1)
    recent = np.zeros((*done.shape, window))
    for place in range(window):
        # The latest episode that was written here.
        latest = done - 1 - (done - 1 - place) % window
        at = np.maximum(latest, 0)[..., None]
        recent[..., place] = np.take_along_axis(lengths, at, -1)[..., 0]
    zeros = np.zeros(done.shape, np.float32)
    counts = done.astype(np.int32)
    recent = recent.astype(np.float32)
    return statistics.EpisodeStats(zeros, zeros, zeros > 0, recent, counts, {})


def test_a_fresh_copy_is_judged_as_its_parent_is():
    """16 slots, window 2, an episode ends with 1/500 a step: a mean of 500 steps.

    Judged by whatever ended first, an identical child is below its parent in 100, 100
    and 95 of 100 draws after 500, 1000 and 2000 steps a slot.
    """
    rng = np.random.default_rng(0)
    draws, slots, window = 400, 16, 2
    metric = fitness.make_metric(spec((0.0, 1.0)), "return")
    child = rng.geometric(1 / 500, size=(draws, slots, 60)).cumsum(-1)
    parent = rng.geometric(1 / 500, size=(draws, slots, 120)).cumsum(-1)
    task, finite = np.zeros((draws, slots), int), np.ones(draws, bool)

    def score(end, age):
        stats = _age(end, age, window)
        return np.asarray(of_training(metric, stats, task, finite).score)

    first, of_parent = np.full(draws, np.nan), np.full(draws, np.nan)
    for age in range(500, 12_001, 500):
        new = np.isnan(first) & ~np.isnan(score(child, age))
        if age == 500:
            assert new.mean() < 0.02
        first[new] = score(child, age)[new]
        of_parent[new] = score(parent, 20_000 + age)[new]
    assert not np.isnan(first).any()
    # One standard error of a difference is 500 / sqrt(16) · sqrt(3 / 2) / sqrt(400) = 8.
    assert abs(first.mean() - of_parent.mean()) < 32
    assert 0.4 < (first < of_parent).mean() < 0.62


def test_samples_for_the_t_test_are_the_mapped_returns_of_tasks_that_count():
    """One sample an episode, on the scale of the score; the others are not valid."""
    metric = fitness.make_metric(TWO, "capped", "t0")
    for judged in both(metric, RETURNS, np.ones_like(COMPLETE)):
        assert judged.valid.shape[1] == 1
        samples, valid = judged.returns, judged.valid[:, 0]
        np.testing.assert_allclose(samples[0][valid[0]], [0.5, 1.5])
        np.testing.assert_allclose(samples[1][valid[1]], [0.2, 1.0], rtol=1e-6)
    for judged in both(fitness.make_metric(TWO, "return")):
        assert judged.valid.shape[1] == 2
        np.testing.assert_array_equal(judged.valid[0].sum(1), [2, 1])


def test_a_cap_is_of_the_mean_and_in_one_place():
    """Returns of 0 and 2 times the reference are a mean of 1, not 1/2."""
    returns = np.array([[0.0, 20.0, 20.0], [0.0, 20.0, 20.0]], np.float32)
    metric = fitness.make_metric(TWO, "capped")
    for judged in both(metric, returns, np.ones_like(COMPLETE)):
        np.testing.assert_allclose(judged.score, [1.0, 1.0])
        np.testing.assert_array_equal(judged.cap, [1.0, 1.0])
    np.testing.assert_allclose(report.scores(metric, np.array([[10.0, 20.0]])), [1.0])


def test_a_member_that_returns_nan_scores_nan():
    """A cap must not turn NaN into the best score there is."""
    returns = np.where(RETURNS == 5.0, np.nan, RETURNS)
    for judged in both(fitness.make_metric(TWO, "capped"), returns):
        assert np.isnan(judged.score[0])


def test_metrics_that_cannot_be_computed_are_refused():
    """An unknown task, and a normalised score without reference scores, by name."""
    with pytest.raises(ValueError, match=r"task='t9' is none of the tasks: t0, t1"):
        fitness.make_metric(TWO, "return", "t9")
    unscored = spec((0.0, 10.0), (None, None))
    with pytest.raises(ValueError, match="needs reference scores and t1 has none"):
        fitness.make_metric(unscored, "capped")
    for name, task in (("return", None), ("capped", "t0")):
        assert fitness.make_metric(unscored, name, task).weight[0] == 1.0


@pytest.mark.parametrize("reference", [3.0, 1.0])
def test_reference_scores_that_are_not_above_random_ones_are_refused(reference):
    """Normalised by 0 every score is infinite or NaN, by less the worst is the best."""
    with pytest.raises(ValueError, match=r"t0 has random and reference score 3\.0"):
        fitness.make_metric(spec((3.0, reference)), "normalised")


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
    success = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], np.float32)
    result = evaluation()._replace(info={"success": success})
    judged = jax.device_get(of_evaluation(metric, result, np.array([True, True])))
    # What member 1 has of slot 1, which it has not finished, counts, too.
    np.testing.assert_allclose(judged.score, [(0.5 + 1.0) / 2, (0.5 + 1.0) / 2])
    valid = judged.valid.any(1)
    np.testing.assert_array_equal(judged.returns[valid], [1, 0, 1, 0, 1, 1])
    half = TWO._replace(tasks=(tasks[0], TWO.tasks[1]))
    assert fitness.make_metric(half, "success", "t0").measure == "success"
    with pytest.raises(ValueError, match=r"'success' is none of return, norm.*capped$"):
        fitness.make_metric(half, "success")
