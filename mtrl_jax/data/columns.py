"""Columns of learning histories that only whole ones can tell, worked out before any cut.

    return_to_go   R_t = r_t + r_{t+1} + ... to the end of the episode, undiscounted
    episode_step   steps of the episode before this one: 0, 1, 2, ...
    return_rank    share of the task's complete episodes that return no more, in (0, 1];
                   ties are broken at random, not by time
    complete       the episode has its first and its last step

Of an episode that is not complete nobody knows what was to come: its return to go is 0
and its rank is 0, and neither means anything. A reset row belongs to the episode that it
ends; nothing is to come of it.

Two filters choose whole episodes by their return. ``top`` keeps the best share of each
task's. ``expert`` keeps those of at least a share of the expert return, the largest mean
of W successive episodes of a history.

Refs: Chen et al. 2021, "Decision Transformer" (arXiv:2106.01345); Reed et al. 2022, "A
Generalist Agent" (arXiv:2205.06175), W = min(1000, 0.1 N) of N episodes.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax.data.histories import Histories

_WINDOW, _SHARE_OF_WINDOW = 1000, 0.1


class Columns(NamedTuple):
    """What is known of a row of a history beside what is stored."""

    return_to_go: Any  # [N, L] float32, rewards still to come in the episode
    episode_step: Any  # [N, L] int32
    return_rank: Any  # [N, L] float32, of its episode among those of its task
    complete: Any  # [N, L] bool, its episode is whole


class Episodes(NamedTuple):
    """The episodes of one history, in order of time."""

    number: np.ndarray  # [L] int32, the episode of each row
    start: np.ndarray  # [E] int32, its first row
    returns: np.ndarray  # [E] float64
    complete: np.ndarray  # [E] bool


def zeros(shape: tuple[int, ...]) -> Columns:
    """Returns columns of zeros, in which nothing is known."""
    return Columns(
        np.zeros(shape, np.float32),
        np.zeros(shape, np.int32),
        np.zeros(shape, np.float32),
        np.zeros(shape, bool),
    )


def of(data: Histories) -> Columns:
    """Returns the columns [N, L] of whole histories."""
    shape = data.reward.shape
    made = zeros(shape)
    ranks = _ranks(data)
    for n in range(shape[0]):
        found = episodes(data, n)
        complete = found.complete[found.number]
        made.return_to_go[n] = np.where(complete, _to_go(data.reward[n], found), 0)
        made.episode_step[n] = np.arange(shape[1]) - found.start[found.number]
        made.return_rank[n] = ranks[n][found.number]
        made.complete[n] = complete
    return made


def episodes(data: Histories, history: int) -> Episodes:
    """Returns the episodes of one history."""
    first, last = (np.asarray(x[history]) for x in (data.first, data.last))
    begins = first.copy()
    begins[0] = True
    number = np.cumsum(begins).astype(np.int32) - 1
    start = np.flatnonzero(begins)
    total = np.add.reduceat(np.asarray(data.reward[history], np.float64), start)
    ends = np.logical_or.reduceat(last, start)
    return Episodes(number, start.astype(np.int32), total, ends & first[start])


def top(data: Histories, share: float) -> list[np.ndarray]:
    """Returns for each history which rows [L] bool are of the best episodes of its task.

    Of the task's E complete episodes the ``ceil(share E)`` of highest rank.
    """
    ranks = _ranks(data)
    kept = []
    for n, rank in enumerate(ranks):
        found = episodes(data, n)
        # Ranks are multiples of 1 / E, rounded.
        best = found.complete & (rank > 1 - share + 1e-6)
        kept.append(best[found.number])
    return kept


def expert(data: Histories, share: float) -> list[np.ndarray]:
    """Returns for each history which rows [L] bool are of its episodes as an expert's.

    Complete episodes of at least ``share`` of the history's expert return R: R - (1 -
    share) |R| and more.
    """
    kept = []
    for n in range(len(data.task)):
        found = episodes(data, n)
        best = found.complete.copy()
        if best.any():
            known = expert_return(found.returns[found.complete])
            best &= found.returns >= known - (1 - share) * abs(known)
        kept.append(best[found.number])
    return kept


def expert_return(returns: np.ndarray) -> float:
    """Returns the largest mean of W successive returns [E], E at least 1.

    W = min(1000, 0.1 E), at least 1.
    """
    window = max(1, min(_WINDOW, math.floor(_SHARE_OF_WINDOW * len(returns))))
    sums = np.cumsum(np.concatenate([[0.0], returns]))
    return float(np.max(sums[window:] - sums[:-window]) / window)


def _to_go(reward: np.ndarray, found: Episodes) -> np.ndarray:
    """Returns the rewards still to come in the episode of each row, [L] float64."""
    before = np.cumsum(np.concatenate([[0.0], np.asarray(reward, np.float64)]))
    begun = before[found.start] + found.returns
    return begun[found.number] - before[:-1]


def _ranks(data: Histories) -> list[np.ndarray]:
    """Returns the rank of each episode, [E] float32 of every history."""
    found = [episodes(data, n) for n in range(len(data.task))]
    ranks = [np.zeros(len(x.start), np.float32) for x in found]
    for task in np.unique(data.task):
        own = np.flatnonzero(data.task == task)
        known = [np.flatnonzero(found[n].complete) for n in own]
        returns = np.concatenate([found[n].returns[e] for n, e in zip(own, known)])
        chance = np.random.default_rng(int(task)).random(len(returns))
        order = np.lexsort((chance, returns))
        rank = np.empty(len(returns), np.float32)
        rank[order] = np.arange(1, len(returns) + 1) / max(len(returns), 1)
        parts = np.split(rank, np.cumsum([len(e) for e in known])[:-1])
        for n, e, part in zip(own, known, parts):
            ranks[n][e] = part
    return ranks
