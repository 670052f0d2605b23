"""Estimates: intervals that cover what they say, means and comparisons by hand."""

import math

import numpy as np
import pytest
import scipy.stats

from mtrl_jax.metrics import estimates


def _coverage(interval, samples, truth=0.0):
    bounds = [interval(x) for x in samples]
    return np.mean([low <= truth <= high for low, high in bounds])


def test_resamples_are_held_a_few_at_a_time_and_say_the_same(monkeypatch):
    """A test of a million episodes must not fill the memory after the training."""
    x = np.random.default_rng(0).normal(size=100)
    most = []

    def mean(x, axis=None):
        most.append(x.size)
        return np.mean(x, axis=axis)

    whole = estimates.bootstrap_interval(x, statistic=mean)
    assert max(most) == 100 * 2000
    most.clear()
    monkeypatch.setattr(estimates, "_AT_ONCE", 1_000)
    assert estimates.bootstrap_interval(x, statistic=mean) == whole
    assert max(most) <= 1_000


def mean_scores(x):
    """Returns [S], the means of scores [S, R, K]."""
    return x.mean(axis=(1, 2))


def _normal(n, *shape):
    return np.random.default_rng(n).normal(size=shape)


@pytest.mark.parametrize("trim", [0.0, estimates.QUARTER])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_t_interval_covers_the_mean_of_few_seeds(n, trim):
    """95 % of normal samples, with and without the outer quarters."""
    samples = _normal(n, 1000, n)
    covered = _coverage(lambda x: estimates.t_interval(x, trim=trim), samples)
    assert 0.92 <= covered <= 0.98


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("statistic", [mean_scores, estimates.iqm_scores])
def test_a_stratified_interval_covers_scores_of_few_runs(n, statistic):
    """Runs on four tasks whose means differ are drawn anew within each task."""
    offset = np.array([-0.3, -0.1, 0.1, 0.3])
    samples = _normal(n, 400, n, 4) + offset

    def interval(x):
        return estimates.stratified_interval(statistic, x, resamples=300)

    assert 0.92 <= _coverage(interval, samples) <= 0.98


def test_an_interval_of_the_probability_of_improvement_covers_a_half():
    """Of two equal agents, five runs on four tasks each."""
    pairs = _normal(0, 400, 2, 5, 4)

    def interval(pair):
        return estimates.stratified_interval(
            estimates.improvement, *pair, resamples=300
        )

    assert 0.92 <= _coverage(interval, pairs, 0.5) <= 0.98


def test_three_seeds_are_not_smallest_and_largest():
    """A percentile bootstrap of three covers in three cases of four."""
    samples = _normal(1, 200, 3)
    covered = _coverage(
        lambda x: estimates.bootstrap_interval(x, resamples=200), samples
    )
    assert covered < 0.85


def test_a_t_interval_is_scipys():
    """Without trimming; on another scale it is the inverse of the interval there."""
    x = np.array([1.0, 4.0, 2.5, 3.0])
    known = scipy.stats.ttest_1samp(x, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(estimates.t_interval(x), known)
    logs = scipy.stats.ttest_1samp(np.log(x), 0.0).confidence_interval(0.95)
    found = estimates.t_interval(x, scale=(np.log, np.exp))
    np.testing.assert_allclose(found, np.exp(logs))


def test_a_trimmed_interval_by_hand():
    """Of 0, 2, 3, 4, 100: mean 3, winsorised 2, 2, 3, 4, 4 of deviation 1."""
    reach = scipy.stats.t.ppf(0.975, 2) / (0.6 * math.sqrt(5))
    found = estimates.t_interval([100.0, 0, 3, 2, 4], trim=0.25)
    np.testing.assert_allclose(found, (3 - reach, 3 + reach))


def test_the_interquartile_mean_ignores_the_quarters():
    """IQM of 1..8 with an outlier is the mean of the middle four."""
    assert estimates.iqm([1, 2, 3, 4, 5, 6, 7, 1000]) == 4.5
    assert estimates.iqm(np.arange(8).reshape(2, 4)) == 3.5
    scores = np.arange(16.0).reshape(2, 2, 4)
    np.testing.assert_array_equal(estimates.iqm_scores(scores), [3.5, 11.5])


def test_the_probability_of_improvement_counts_pairs_within_tasks():
    """Three of four pairs are better in the first task, half of one in the second."""
    x, y = np.array([[[3.0, 5.0], [1.0, 5.0]]]), np.array([[[0.0, 5.0], [2.0, 9.0]]])
    assert estimates.improvement(x, y)[0] == pytest.approx((0.75 + 0.25) / 2)
    assert estimates.improvement(x, x)[0] == 0.5


def test_a_performance_profile_is_the_share_above():
    """It falls from 1 to 0; equal to the threshold is not above."""
    found = estimates.performance_profile([[0.0, 1.0], [2.0, 3.0]], [-1, 0, 1.5, 3])
    np.testing.assert_array_equal(found, [1.0, 0.75, 0.5, 0.0])


def test_a_run_without_a_score_makes_no_comparison():
    """It was below every threshold, and neither better nor worse than another run."""
    x, y = np.array([[1.0], [np.nan]]), np.zeros((2, 1))
    for found in (
        estimates.iqm_scores(x[None]),
        estimates.improvement(x[None], y[None]),
        estimates.improvement(y[None], x[None]),
        estimates.performance_profile(x, [0.0]),
        estimates.stratified_interval(estimates.improvement, x, y),
    ):
        assert np.isnan(found).all()


def test_bootstrap_intervals_cover_the_mean():
    """95 % of intervals hold the true mean; the same seed gives the same interval."""
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(100, 40))
    covered = _coverage(
        lambda x: estimates.bootstrap_interval(x, resamples=400), samples
    )
    assert covered >= 0.86
    x = rng.normal(size=40)
    interval = estimates.bootstrap_interval(x)
    assert interval == estimates.bootstrap_interval(x) == estimates.mean_interval(x)
    assert estimates.bootstrap_interval(x, confidence=0.5)[0] > interval[0]
    low, high = estimates.bootstrap_interval(x, statistic=np.median)
    assert low <= np.median(x) <= high
    assert estimates.mean_interval(x[:5]) == estimates.t_interval(x[:5])
    assert estimates.mean_interval(x[:30]) == estimates.bootstrap_interval(x[:30])
    # What is unknown is no sample.
    known = np.append(x[:29], [np.nan] * 11)
    assert estimates.mean_interval(known) == estimates.t_interval(x[:29])


def test_what_is_infinite_or_has_no_place_on_a_scale_has_no_interval():
    """Without a warning; a mean without a quarter on each side may still be finite."""
    logs = (np.log, np.exp)
    for interval in (
        estimates.t_interval([1.0, 2.0, np.inf]),
        estimates.mean_interval([np.inf] * 3),
        estimates.bootstrap_interval([1.0, -np.inf, np.inf]),
        estimates.t_interval([1.0, 2.0, 0.0], scale=logs),
        estimates.t_interval([1.0, 2.0, -1.0], scale=logs),
    ):
        assert all(math.isnan(x) for x in interval)
    assert estimates.t_interval([1.0, 2.0, 4.0], scale=logs)[0] > 0
    assert estimates.iqm([1.0, 2.0, 3.0, np.inf]) == 2.5
    for x in ([], [1.0, np.nan], [np.inf, -np.inf]):
        assert math.isnan(estimates.iqm(x))


def test_intervals_of_few_or_equal_samples():
    """Equal samples have a point; one sample, or one run, says nothing of others."""
    assert estimates.bootstrap_interval([3.0]) == (3.0, 3.0)
    assert estimates.bootstrap_interval([2.0, 2.0, np.nan]) == (2.0, 2.0)
    assert estimates.t_interval([2.0, 2.0, np.nan]) == (2.0, 2.0)
    one_run = estimates.stratified_interval(mean_scores, np.ones((1, 3)))
    other = estimates.stratified_interval(
        estimates.improvement, np.ones((2, 3)), np.ones((1, 3))
    )
    for interval in (
        estimates.bootstrap_interval([np.nan]),
        estimates.t_interval([3.0]),
        estimates.mean_interval([]),
        one_run,
        other,
    ):
        assert all(math.isnan(x) for x in interval)
