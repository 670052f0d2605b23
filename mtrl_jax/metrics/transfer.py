"""What was gained by having learned before: scores of curves, and of what they rest on.

Ref: Rusu et al. 2016, "Progressive Neural Networks" (arXiv:1606.04671), section 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def transfer_score(
    curve: Sequence[float], baseline: Sequence[float], random: float = 0.0
) -> float:
    """Returns the area under a curve of returns over that of learning from scratch.

    Both are at the same, even steps. ``random``, what a random policy gets, is taken off
    first: returns below 0 would turn the ratio's sign.

    Raises:
      ValueError: curves of unlike lengths, or a baseline no better than a random policy.
    """
    gained, scratch = (np.asarray(x, np.float64) - random for x in (curve, baseline))
    if gained.shape != scratch.shape or gained.ndim != 1:
        raise ValueError(
            f"curve: got {gained.shape}, the baseline {scratch.shape}; give both at the "
            "same steps"
        )
    area = scratch.mean()
    if area <= 0:
        raise ValueError(
            f"baseline: its mean {area + random:g} is no better than random {random:g}; "
            "no ratio to it means anything"
        )
    return float(gained.mean() / area)


def forgetting(own: float, end: float, random: float = 0.0) -> float:
    """Returns (score after its own training − score at the end) / the first.

    ``random``, what a random policy gets, is taken off first, as in ``transfer_score``.

    Raises:
      ValueError: a task that was learned no better than by a random policy.
    """
    if own <= random:
        raise ValueError(
            f"own: {own:g} is no better than random {random:g}; there is nothing to "
            "forget"
        )
    return (own - end) / (own - random)


def precision_at_half(deviations: Sequence[float], scores: Sequence[float]) -> float:
    """Returns 1/σ² of the noise that halves a score; 0 where none does.

    ``scores[0]`` is that of σ = 0, σ rises; between two the score goes linearly in σ. A
    score that is not above 0 to begin with has no half: that is 0, too.

    Raises:
      ValueError: the first deviation is not 0, or they do not rise.
    """
    sigma, score = (np.asarray(x, np.float64) for x in (deviations, scores))
    if sigma[0] != 0 or (np.diff(sigma) <= 0).any():
        raise ValueError(
            f"deviations: got {sigma.tolist()}, give 0 and then rising ones"
        )
    half = score[0] / 2
    below = np.flatnonzero(score <= half)
    if score[0] <= 0 or not len(below):
        return 0.0
    i = int(below[0])
    share = (score[i - 1] - half) / (score[i - 1] - score[i])
    return float(1.0 / (sigma[i - 1] + share * (sigma[i] - sigma[i - 1])) ** 2)


def sensitivity_shares(precisions: np.ndarray) -> np.ndarray:
    """Returns ``[columns, layers]`` of precisions, each over the sum over the columns.

    The average perturbation sensitivity. A layer that no column's noise harms is all 0.
    """
    total = precisions.sum(axis=0, keepdims=True)
    return np.divide(
        precisions, total, out=np.zeros_like(precisions, np.float64), where=total > 0
    )
