"""Prompts: rows of another episode of the same history, before a window.

    end       the last rows of the episode, half of the prompts
    uniform   rows from anywhere in it, the other half

The episode is whole, of the rows kept, and is none of those that the window has a row
of. What it cost to get that far is not seen, what is done there is: so a sequence says
which task it is on, and how well its learner does there.

Ref: Reed et al. 2022, "A Generalist Agent" (arXiv:2205.06175), section 2.2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.data import columns
from mtrl_jax.data.histories import Histories
from mtrl_jax.data.rows import Kept
from mtrl_jax.types import Array, Key


class Whole(NamedTuple):
    """The whole episodes among the rows kept of H histories, at most E of each."""

    start: Any  # [H, E] int32, place of the first row; from counts on beyond any
    stop: Any  # [H, E] int32, place after the last one
    counts: Any  # [H] int32


class Drawn(NamedTuple):
    """A prompt for each window."""

    start: Array  # [B] int32, place of its first row
    rows: Array  # [B] int32, how many there are; 0: the history has no other episode


def whole(data: Histories, kept: Kept) -> Whole:
    """Returns the episodes of which every row but the reset is kept."""
    found = [
        _spans(data, int(n), rows[:count])
        for n, rows, count in zip(kept.history, kept.rows, kept.counts)
    ]
    most = max(1, max(len(spans) for spans in found))
    out = np.full((len(found), most, 2), np.iinfo(np.int32).max, np.int32)
    for i, spans in enumerate(found):
        out[i, : len(spans)] = spans
    return Whole(out[..., 0], out[..., 1], np.asarray([*map(len, found)], np.int32))


def draw(
    key: Key, known: Whole, history: Array, start: Array, length: int, rows: int
) -> Drawn:
    """Returns prompts of up to ``rows`` rows for the windows at (history, start), [B].

    Any other whole episode of the history is as likely. Of one with l rows, min(l,
    ``rows``) are taken.
    """
    which, where, what = jax.random.split(key, 3)
    begins, ends = known.start[history], known.stop[history]  # [B, E]
    # Those that overlap the window follow each other.
    before = jnp.sum(ends <= start[:, None], axis=-1)
    after = jnp.sum(begins < (start + length)[:, None], axis=-1)
    others = known.counts[history] - (after - before)
    chance = jax.random.uniform(which, history.shape)
    number = jnp.minimum((chance * others).astype(jnp.int32), others - 1)
    number = jnp.maximum(number, 0)
    number = jnp.where(number < before, number, number + after - before)
    index = jnp.minimum(number, begins.shape[1] - 1)[:, None]
    begin, end = (jnp.take_along_axis(x, index, axis=1)[:, 0] for x in (begins, ends))
    taken = jnp.minimum(end - begin, rows)
    spare = end - begin - taken
    chance = jax.random.uniform(where, history.shape)
    uniform = jnp.minimum((chance * (spare + 1)).astype(jnp.int32), spare)
    is_end = jax.random.bernoulli(what, 0.5, history.shape)
    exists = others > 0
    place = begin + jnp.where(is_end, spare, uniform)
    return Drawn(jnp.where(exists, place, 0), jnp.where(exists, taken, 0))


def _spans(data: Histories, history: int, rows: np.ndarray) -> np.ndarray:
    """Returns (start, stop) [E, 2] of a history's whole episodes among its kept rows."""
    found = columns.episodes(data, history)
    number = found.number[rows]
    is_reset = np.asarray(data.reset[history])
    size = np.bincount(found.number[~is_reset], minlength=len(found.start))
    has = np.bincount(number[~is_reset[rows]], minlength=len(found.start))
    is_whole = found.complete & (has == size) & (size > 0)
    episodes, start = np.unique(number, return_index=True)
    chosen = is_whole[episodes]
    spans = np.stack([start, start + size[episodes]], axis=1)
    # In the order of their rows, which is not that of time where episodes are shuffled.
    return spans[chosen][np.argsort(start[chosen])].astype(np.int32)
