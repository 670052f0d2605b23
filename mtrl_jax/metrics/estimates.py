"""What a sample says of what it was drawn from: means, intervals, comparisons.

A seed is one sample; members that copy each other's weights are one together. Percentiles
of a bootstrap over three seeds are their smallest and largest and cover the mean in three
cases of four: few seeds have Student's t.

Ref: Agarwal et al. 2021 (arXiv:2108.13264) for scores of R runs on K tasks, ``[R, K]``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

# A quarter is left out on each side of an interquartile mean.
QUARTER = 0.25
# From so many samples on the bootstrap's percentiles cover what they should.
MANY = 30


def iqm(x: Any) -> float:
    """Returns the interquartile mean: of what is left without a quarter on each side.

    NaN of nothing, and with an entry that is NaN: it has no place in the order.
    """
    import scipy.stats

    x = np.asarray(x, np.float64)
    if x.size == 0 or np.isnan(x).any():
        return math.nan
    with np.errstate(invalid="ignore"):  # inf - inf is no number
        return float(scipy.stats.trim_mean(x, QUARTER, axis=None))


def t_interval(
    x: Any,
    *,
    trim: float = 0.0,
    confidence: float = 0.95,
    scale: tuple[Callable[[Any], Any], Callable[[Any], Any]] | None = None,
) -> tuple[float, float]:
    """Returns (low, high), Student's t interval of the mean of ``x``.

    With a share ``trim`` left out on each side it is Tukey and McLaughlin's, of the mean
    of the rest: m ± t(n − 2g − 1) s_w / ((1 − 2 g/n) √n) with g = ⌊trim n⌋ and the
    winsorised deviation s_w. ``scale`` is (function, inverse) to a scale on which x is
    closer to normal (``(np.log, np.exp)``): the interval is then of what the inverse
    makes of the mean there.

    NaN entries are left out. A single sample, like none, says nothing: (NaN, NaN); nor
    do samples that are infinite, or have no place on the scale (log of 0).
    """
    import scipy.special  # scipy.stats is slow to import

    x = np.asarray(x, np.float64).ravel()
    x = x[~np.isnan(x)]
    if x.size < 2:
        return math.nan, math.nan
    forward, inverse = scale or (np.asarray, np.asarray)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = np.sort(forward(x))
    if not np.isfinite(x).all():
        return math.nan, math.nan
    n, g = x.size, int(trim * x.size)
    kept = x[g : n - g]
    deviation = np.clip(x, kept[0], kept[-1]).std(ddof=1)
    error = deviation / ((len(kept) / n) * math.sqrt(n))
    reach = scipy.special.stdtrit(len(kept) - 1, (1 + confidence) / 2) * error
    mean = kept.mean()
    return float(inverse(mean - reach)), float(inverse(mean + reach))


def mean_interval(x: Any, *, confidence: float = 0.95) -> tuple[float, float]:
    """Returns (low, high) of the mean: Student's t of few samples, a bootstrap of many."""
    known = int(np.sum(~np.isnan(np.asarray(x, np.float64))))
    interval = bootstrap_interval if known >= MANY else t_interval
    return interval(x, confidence=confidence)


# Numbers of resamples that are held at once; the interval is the same whatever it is.
_AT_ONCE = 2_000_000


def bootstrap_interval(
    x: Any,
    *,
    statistic: Callable[..., Any] = np.mean,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns (low, high), the percentile bootstrap interval of a statistic of ``x``.

    For samples of ``MANY`` and more. NaN entries are left out. A single or constant
    sample gives itself twice; an empty one, or one with an infinite entry, (NaN, NaN). The
    same ``seed`` gives the same interval.
    """
    import scipy.stats

    x = np.asarray(x, np.float64).ravel()
    x = x[~np.isnan(x)]
    if x.size == 0 or not np.isfinite(x).all():
        return math.nan, math.nan
    if np.all(x == x[0]):
        return float(statistic(x)), float(statistic(x))
    interval = scipy.stats.bootstrap(
        (x,),
        statistic,
        confidence_level=confidence,
        n_resamples=resamples,
        batch=max(1, _AT_ONCE // x.size),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def stratified_interval(
    statistic: Callable[..., np.ndarray],
    *groups: Any,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns (low, high), a stratified bootstrap interval: runs are drawn by task.

    ``statistic`` maps arrays ``[S, R, K]``, one for each of ``groups`` ``[R, K]``, to
    ``[S]``: ``iqm_scores``, ``improvement``, a mean. Percentiles are moved
    outward by √(R / (R − 1)) t / z, Student's quantile of K (R − 1) degrees of freedom
    over the normal one: resampled runs deviate less than runs, the more so the fewer.
    (NaN, NaN) of a single run.
    """
    import scipy.stats

    arrays = [np.asarray(group, np.float64) for group in groups]
    runs, tasks = min(len(x) for x in arrays), arrays[0].shape[1]
    if runs < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    drawn = []
    for x in arrays:
        chosen = rng.integers(0, len(x), (resamples, *x.shape))
        drawn.append(np.take_along_axis(x[None], chosen, axis=1))
    share = (1 + confidence) / 2
    low, high = np.quantile(statistic(*drawn), [1 - share, share])
    value = float(statistic(*(x[None] for x in arrays))[0])
    student = scipy.stats.t.ppf(share, tasks * (runs - 1))
    wider = math.sqrt(runs / (runs - 1)) * student / scipy.stats.norm.ppf(share)
    return value - wider * (value - float(low)), value + wider * (float(high) - value)


def iqm_scores(x: np.ndarray) -> np.ndarray:
    """Returns [S], the interquartile means of scores ``[S, R, K]``, all tasks pooled."""
    import scipy.stats

    return scipy.stats.trim_mean(x.reshape(len(x), -1), QUARTER, axis=1)


def improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns [S], P(X > Y) + P(X = Y) / 2 of runs of ``[S, R, K]`` and ``[S, Q, K]``.

    Mean over tasks of the share of pairs in which the run of ``x`` is better. NaN with a
    run that has no score: it is neither better nor worse.
    """
    return np.heaviside(x[:, :, None] - y[:, None], 0.5).mean(axis=(1, 2, 3))


def performance_profile(scores: Any, thresholds: Any) -> np.ndarray:
    """Returns [N], the share of scores ``[R, K]`` above each of ``thresholds`` ``[N]``.

    NaN with a run that has no score.
    """
    scores = np.asarray(scores, np.float64).ravel()
    above = scores[None] - np.asarray(thresholds, np.float64)[:, None]
    return np.heaviside(above, 0.0).mean(axis=1)
