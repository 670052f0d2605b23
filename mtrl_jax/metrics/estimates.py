"""What a sample says of what it was drawn from: robust means, bootstrap intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np


def iqm(x: Any) -> float:
    """Returns the interquartile mean: of what is left without a quarter on each side.

    Ref: Agarwal et al. 2021 (arXiv:2108.13264).
    """
    import scipy.stats

    return float(scipy.stats.trim_mean(np.asarray(x, np.float64), 0.25, axis=None))


def bootstrap_interval(
    x: Any,
    *,
    statistic: Callable[..., Any] = np.mean,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Returns (low, high), the percentile bootstrap interval of a statistic of ``x``.

    NaN entries are left out. A single or constant sample gives itself twice, an empty
    one (NaN, NaN). The same ``seed`` gives the same interval.
    """
    import scipy.stats

    x = np.asarray(x, np.float64).ravel()
    x = x[~np.isnan(x)]
    if x.size == 0:
        return math.nan, math.nan
    if np.all(x == x[0]):
        return float(statistic(x)), float(statistic(x))
    interval = scipy.stats.bootstrap(
        (x,),
        statistic,
        confidence_level=confidence,
        n_resamples=resamples,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(interval.low), float(interval.high)
