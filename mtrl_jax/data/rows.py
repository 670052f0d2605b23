"""Which rows of learning histories are learned from, worked out once on the host.

    reset rows      left out, so that an episode of l steps is l rows (see ``layout``)
    first_fraction  the beginning of a history alone: partial histories
    last_fraction   its end alone: what expert distillation learns from
    top_fraction    the best share of the complete episodes of each task
    expert_share    complete episodes of at least this share of their expert's return
    subsample       every k-th episode, so that what is learned improves k times as fast
    shuffled        whole episodes in random order: histories that do not get better

in this order; the rows that stay follow each other as if nothing had been between. How
good an episode is was found out in whole histories, see ``columns``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtrl_jax.data import columns
from mtrl_jax.data.histories import Histories


class Kept(NamedTuple):
    """Row ``rows[i, j]`` of history ``history[i]`` is its j-th, j < ``counts[i]``."""

    history: np.ndarray  # [H] int32
    rows: np.ndarray  # [H, M] int32; from counts on, the last one again
    counts: np.ndarray  # [H] int32, at least 1


def keep(
    data: Histories,
    *,
    only: Sequence[int] | None = None,
    first_fraction: float = 1.0,
    last_fraction: float = 1.0,
    top_fraction: float = 1.0,
    expert_share: float = 0.0,
    subsample: int = 1,
    shuffled: bool = False,
    resets: bool = False,
) -> Kept:
    """Returns the rows to learn from; a history of which none is left is left out.

    Args:
      data: as loaded.
      only: numbers of the histories to keep (of the training tasks, say); None: all.
      first_fraction, last_fraction: in (0, 1], of a history's steps, rounded up. At
        most one of them is below 1. An episode that is cut stays as far as it goes.
      top_fraction: in (0, 1]; below 1, see ``columns.top``.
      expert_share: in [0, 1]; above 0, see ``columns.expert``.
      subsample: k >= 1, episodes 0, k, 2k, ... of what these left.
      shuffled: the complete episodes of each history in an order of their own, the
        same at every call; what is cut or not over stays at its end of the history.
      resets: keep reset rows: windows are then the very rollouts of the source.

    Raises ValueError for a value that cannot be and where nothing is left.
    """
    for name, value in [
        ("first_fraction", first_fraction),
        ("last_fraction", last_fraction),
        ("top_fraction", top_fraction),
    ]:
        if not 0 < value <= 1:
            raise ValueError(f"{name}: {value} is no share; give one in (0, 1]")
    if first_fraction < 1 and last_fraction < 1:
        raise ValueError(
            f"first_fraction={first_fraction} and last_fraction={last_fraction}: "
            "give one of them"
        )
    if not 0 <= expert_share <= 1:
        raise ValueError(
            f"expert_share: {expert_share} is no share; give one in [0, 1], 0 for all"
        )
    if subsample < 1:
        raise ValueError(f"subsample: got {subsample}, give k >= 1, every k-th episode")
    number, steps = data.reset.shape
    history = np.arange(number) if only is None else np.asarray(only, np.int64)
    if history.size and not 0 <= np.min(history) <= np.max(history) < number:
        raise ValueError(f"only: {list(history)[:8]}; give numbers below {number}")
    start = steps - math.ceil(steps * last_fraction)
    stop = math.ceil(steps * first_fraction)
    cut = slice(start, stop)
    good = _good(data, top_fraction, expert_share)
    found = [
        start
        + _kept_of(
            data.first[n, cut], data.reset[n, cut], good[n][cut], subsample, resets
        )
        for n in history
    ]
    if shuffled:
        found = [_shuffled(data, int(n), rows) for n, rows in zip(history, found)]
    return _packed(history, found)


def _good(data: Histories, top_fraction: float, expert_share: float) -> np.ndarray:
    """Returns which rows are of episodes that the filters by return leave, [N, L]."""
    good = np.broadcast_to(True, data.reset.shape)
    if top_fraction < 1:
        good = good & columns.top(data, top_fraction)
    if expert_share > 0:
        good = good & columns.expert(data, expert_share)
    return good


def _kept_of(
    first: np.ndarray,
    reset: np.ndarray,
    good: np.ndarray,
    subsample: int,
    resets: bool,
) -> np.ndarray:
    """Returns the places kept among consecutive rows, in order.

    A reset row belongs to the episode that it ends; one that was cut off by a resume has
    none.
    """
    # Cut right before its reset row, an episode has no step here: it is not number 0.
    episode = np.cumsum(first) - bool(first[0]) - bool(reset[0])
    is_there = good & (episode >= 0)
    if not is_there.any():
        return np.flatnonzero(is_there)
    # Episodes that the filters left out are not counted.
    _, number = np.unique(episode[is_there], return_inverse=True)
    kept = is_there.copy()
    kept[is_there] = number % subsample == 0
    return np.flatnonzero(kept if resets else kept & ~reset)


def _shuffled(data: Histories, history: int, rows: np.ndarray) -> np.ndarray:
    """Returns ``rows`` [M] of a history with its complete episodes in random order."""
    if not rows.size:
        return rows
    number = columns.episodes(data, history).number[rows]
    parts = np.split(rows, np.flatnonzero(np.diff(number)) + 1)
    # A value must not be looked up beyond the end of what was cut.
    is_whole = [
        bool(data.first[history, x[0]] & data.last[history, x].any()) for x in parts
    ]
    places = np.flatnonzero(is_whole)
    order = np.arange(len(parts))
    order[places] = np.random.default_rng(int(history)).permutation(places)
    return np.concatenate([parts[i] for i in order])


def _packed(history: np.ndarray, found: list[np.ndarray]) -> Kept:
    pairs = [(n, rows) for n, rows in zip(history, found) if rows.size]
    if not pairs:
        raise ValueError(
            "only: no history with a step to learn from is left; keep more of them"
        )
    length = max(rows.size for _, rows in pairs)
    padded = [np.pad(rows, (0, length - rows.size), "edge") for _, rows in pairs]
    return Kept(
        np.asarray([n for n, _ in pairs], np.int32),
        np.asarray(padded, np.int32),
        np.asarray([rows.size for _, rows in pairs], np.int32),
    )
