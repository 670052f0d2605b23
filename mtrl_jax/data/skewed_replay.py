"""Drawing short windows before a reward, as often with one as without, task by task.

    P(task) even over those seen,   P(reward ≠ 0 | task) = 1/2,   then uniform

Of a task that has shown rewards of one kind only these are drawn. A window is named by
the row that the reward came with, its *end*; no transition in it leads into a reset.

Ref: Jaderberg et al. 2017 (arXiv:1611.05397), section 3.2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mtrl_jax.data import replay_ring
from mtrl_jax.types import Array, Key


def ends(first: Array, ring: replay_ring.Ring, steps: int, before: int = 0) -> Array:
    """Returns bool [L, B]: where a window of ``steps`` rows of one episode ends.

    Before it there are so many rows more, of whatever episode.
    """
    length = first.shape[0]
    row = jnp.arange(length)
    age = (ring.head - row) % ring.length
    whole = (row < ring.length) & (age <= ring.stored - steps - before)
    crosses = jnp.zeros_like(first)
    for back in range(steps - 1):
        crosses |= first[(row - back) % ring.length]
    return whole[:, None] & ~crosses


def weights(valid: Array, reward: Array, task: Array, tasks: int) -> Array:
    """Returns what each end weighs, ``[L, B]``, so that classes and tasks are even."""
    own = (task[None] == jnp.arange(tasks)[:, None, None]) & valid[None]
    classes = jnp.stack([own & (reward == 0)[None], own & (reward != 0)[None]])
    number = jnp.sum(classes, axis=(2, 3), keepdims=True)  # [2, tasks, 1, 1]
    kinds = jnp.sum(number > 0, axis=0, keepdims=True)
    share = 1.0 / jnp.maximum(number * kinds, 1)
    return jnp.sum(jnp.where(classes, share, 0.0), axis=(0, 1))


def draw(key: Key, weights: Array, number: int) -> tuple[Array, Array, Array]:
    """Returns (end, slot, live) ``[number]`` by weights ``[L, B]``.

    Nothing is live where all weights are 0. Costs a sum over the rows, no sort.
    """
    flat = weights.reshape(-1)
    heap = jnp.cumsum(flat)
    total = heap[-1]
    # Strictly below the total, so that no row of weight 0 at the end is found.
    at = jax.random.uniform(key, (number,)) * total * (1.0 - 1e-6)
    place = jnp.searchsorted(heap, at, side="right")
    place = jnp.minimum(place, len(flat) - 1)
    live = (total > 0) & (flat[place] > 0)
    return place // weights.shape[1], place % weights.shape[1], live
