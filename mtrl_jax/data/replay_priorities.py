"""Priorities to draw by: sums of blocks of 32, level over level, until at most 512 are left.

A draw walks down: a block with the probability of its sum, then one inside it. Sums of
touched blocks are computed anew, never corrected by differences, so that they cannot
drift; a level is one array, so that all are written in place.

Ref: Schaul et al. 2016, "Prioritized Experience Replay" (arXiv:1511.05952), section 3.3
and appendix B.2.1 (a binary tree there).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.types import Array, Key

BLOCK = 32
TOP = 512
# A place that no level has, nor its parents: what is written there is dropped.
NOWHERE = 2**31 - 1
# Sums of as many as int32 can count stay finite.
LARGEST = 1e20


class Priorities(NamedTuple):
    """Priorities of N places."""

    levels: tuple[Array, ...]  # float32, the places' own first; all but the last padded
    highest: Array  # [] the highest so far, that new places get


class Found(NamedTuple):
    """What was drawn, ``[M]``."""

    place: Array  # int32
    priority: Array  # > 0 where live
    live: Array  # bool, False where all priorities are 0


def init(places: int) -> Priorities:
    """Returns priorities of 0 for all places."""
    sizes = [places]
    while sizes[-1] > TOP:
        sizes.append(-(-sizes[-1] // BLOCK))
    padded = [-(-size // BLOCK) * BLOCK for size in sizes]
    return Priorities(tuple(jnp.zeros(size) for size in padded), jnp.ones(()))


def enter(p: Priorities, place: Array, valid: Array) -> Priorities:
    """Returns p with new places ``[M]``, all different: the highest so far, or 0."""
    value = jnp.where(valid, p.highest, 0.0)
    own = p.levels[0].at[place].set(value)
    return p._replace(levels=_summed((own, *p.levels[1:]), place))


def feedback(p: Priorities, place: Array, live: Array, priority: Array) -> Priorities:
    """Returns p with the priorities ``[M]`` of live places set.

    Of a place that is there twice the larger counts, so that their order does not. What
    is no number, infinite or negative counts as the highest so far.
    """
    good = jnp.isfinite(priority) & (priority >= 0)
    value = jnp.where(good, jnp.minimum(priority, LARGEST), p.highest)
    place = jnp.where(live, place, NOWHERE)
    own = p.levels[0].at[place].set(0.0, mode="drop")
    own = own.at[place].max(value, mode="drop")
    highest = jnp.max(jnp.where(live, value, 0.0), initial=0.0)
    return Priorities(
        _summed((own, *p.levels[1:]), place), jnp.maximum(p.highest, highest)
    )


def draw(p: Priorities, key: Key, count: int) -> Found:
    """Returns ``count`` places, each with probability p_i / Σ p, stratified.

    Draw i falls into the i-th of ``count`` equal shares of the sum.
    """
    keys = jax.random.split(key, len(p.levels))
    u = (jnp.arange(count) + jax.random.uniform(keys[0], (count,))) / count
    top = jnp.broadcast_to(p.levels[-1][None], (count, p.levels[-1].size))
    place = _pick(top, u)
    for level, key in zip(reversed(p.levels[:-1]), keys[1:], strict=True):
        within = _pick(
            level.reshape(-1, BLOCK)[place], jax.random.uniform(key, (count,))
        )
        place = place * BLOCK + within
    priority = p.levels[0][place]
    return Found(place, priority, priority > 0)


def _summed(levels: tuple[Array, ...], place: Array) -> tuple[Array, ...]:
    """Returns the levels with the sums over ``place`` [M] computed anew."""
    made = [levels[0]]
    for level in levels[1:]:
        place = jnp.where(place == NOWHERE, NOWHERE, place // BLOCK)
        sums = jnp.sum(made[-1].reshape(-1, BLOCK).at[place].get(mode="clip"), axis=-1)
        made.append(level.at[place].set(sums, mode="drop"))
    return tuple(made)


def _pick(weights: Array, u: Array) -> Array:
    """Returns for each row of ``weights`` [M, n] the entry that u of its sum falls on.

    Never one of weight 0 where another is there, whatever sums round to.
    """
    so_far = jnp.cumsum(weights, axis=-1)
    hit = (weights > 0) & (so_far > (u * so_far[:, -1])[:, None])
    found = jnp.where(jnp.any(hit, -1), jnp.argmax(hit, -1), jnp.argmax(weights, -1))
    return found.astype(jnp.int32)
