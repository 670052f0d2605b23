"""Returns and lengths of episodes, counted per member and task inside the program.

Two views of the same episodes: sums over the current chunk (what is logged), and a ring
of each slot's latest returns since the member's weights were last replaced (what PBT
judges a member by; or of another measure of episodes in their place). A slot has its own
ring, so short episodes do not crowd out long ones and nothing has to be scattered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import errors, types
from mtrl_jax.types import Array


class EpisodeStats(NamedTuple):
    """K tasks, W returns kept per slot."""

    partial_return: Array  # [P, B] float32, of the episode in progress
    partial_length: Array  # [P, B] int32, in environment steps
    stale: Array  # [P, B] bool, the episode began before the member was replaced
    recent: Array  # [P, B, W] float32, a ring of returns
    recent_count: Array  # [P, B] int32, returns ever written to the ring
    chunk: dict[str, Array]  # [P, K] sums over the chunk's finished episodes


def init(env: types.Env, env_state: types.Tree, window: int) -> EpisodeStats:
    """Returns empty statistics; ``window`` is W, the returns kept per slot.

    Raises ValueError for a measure with the name of what is counted here.
    """
    members, slots = env.batch
    tasks, measures = len(env.spec.tasks), env.info(env_state)
    errors.check_measures(measures)
    names = ("episodes", "return", "length", *measures)
    return EpisodeStats(
        partial_return=jnp.zeros((members, slots), jnp.float32),
        partial_length=jnp.zeros((members, slots), jnp.int32),
        stale=jnp.zeros((members, slots), bool),
        recent=jnp.zeros((members, slots, window), jnp.float32),
        recent_count=jnp.zeros((members, slots), jnp.int32),
        chunk={name: jnp.zeros((members, tasks), jnp.float32) for name in names},
    )


def in_own_units(spec: types.EnvSpec, ts: types.TimeStep) -> types.TimeStep:
    """Returns ``ts`` ``[P, B]`` with rewards as the environments pay them.

    What agents see may be scaled, ``TaskSpec.reward_scale``; what is reported is not.
    """
    scales = [task.reward_scale for task in spec.tasks]
    if all(scale == 1.0 for scale in scales):
        return ts
    scale = jnp.asarray(scales, jnp.float32)[jnp.asarray(ts.task)]
    return ts._replace(reward=ts.reward / scale)


def start_chunk(stats: EpisodeStats) -> EpisodeStats:
    """Returns the statistics with the chunk's sums at zero."""
    return stats._replace(chunk=jax.tree.map(jnp.zeros_like, stats.chunk))


def update(
    stats: EpisodeStats,
    ts: types.TimeStep,
    info: dict[str, Array],
    judged: str = "return",
) -> EpisodeStats:
    """Returns the statistics after arriving at ``ts`` (``[P, B]``).

    ``judged`` is what goes to the ring: "return", or one of the measures ``info``.
    """
    total = jnp.where(ts.first, 0.0, stats.partial_return + ts.reward)
    length = jnp.where(ts.first, 0, stats.partial_length + 1)
    stale = stats.stale & ~ts.first

    # Sums of the chunk, per member and task.
    tasks = stats.chunk["return"].shape[1]
    ended = ts.last[..., None] & (ts.task[..., None] == jnp.arange(tasks)[None, None])
    values = {"episodes": jnp.ones_like(total), "return": total, "length": length}
    values |= info
    chunk = {
        name: old + jnp.sum(jnp.where(ended, values[name][..., None], 0.0), axis=1)
        for name, old in stats.chunk.items()
    }

    # The ring of the slot, unless the episode was begun by weights that are gone.
    write = ts.last & ~stale
    window = stats.recent.shape[-1]
    position = jnp.arange(window)[None, None] == stats.recent_count[..., None] % window
    recent = jnp.where(
        write[..., None] & position, values[judged][..., None], stats.recent
    )
    return EpisodeStats(total, length, stale, recent, stats.recent_count + write, chunk)


def forget(stats: EpisodeStats, replaced: Array) -> EpisodeStats:
    """Returns the statistics with empty rings for the members ``replaced`` ``[P]``.

    A child must not be judged by its predecessor's episodes, nor by the one in
    progress, which the predecessor began.
    """
    replaced = replaced[:, None]
    return stats._replace(
        stale=stats.stale | replaced,
        recent_count=jnp.where(replaced, 0, stats.recent_count),
    )


def restart_episodes(stats: EpisodeStats) -> EpisodeStats:
    """Returns the statistics for slots that all begin a new episode.

    For environments that cannot be restored: the episodes in progress are lost.
    """
    return stats._replace(
        partial_return=jnp.zeros_like(stats.partial_return),
        partial_length=jnp.zeros_like(stats.partial_length),
        stale=jnp.zeros_like(stats.stale),
    )


def moved(stats: EpisodeStats, was: Sequence[int], now: Sequence[int]) -> EpisodeStats:
    """Returns the statistics of slots in another order: the n-th of a task stays its n-th.

    Slot b had task ``was[b]`` and has ``now[b]``: a runner may lay them out task by task,
    or half of each task's after the other. Nothing moves where tasks have other numbers
    of slots.

    >>> recent = jnp.array([[[1.0], [2.0], [3.0], [4.0]]])  # P = 1, B = 4, W = 1
    >>> stats = EpisodeStats(*(jnp.zeros((1, 4)),) * 3, recent, jnp.zeros((1, 4)), {})
    >>> moved(stats, [0, 1, 0, 1], [0, 0, 1, 1]).recent.ravel().tolist()
    [1.0, 3.0, 2.0, 4.0]
    """
    if list(was) == list(now) or sorted(was) != sorted(now):
        return stats
    source = np.empty(len(now), np.int32)
    source[np.argsort(now, kind="stable")] = np.argsort(was, kind="stable")
    of_slots = jax.tree.map(
        lambda x: jax.device_put(x[:, source], x.sharding), stats._replace(chunk={})
    )
    return of_slots._replace(chunk=stats.chunk)


def balanced(stats: EpisodeStats, task: Array, tasks: int) -> Array:
    """Returns the entries of ``recent`` that a member may be judged by, ``[P, B, W]``.

    Every slot of a task counts with as many episodes as the slot with fewest has, its
    oldest in the ring; none does until each slot has finished one. Pooling what has ended
    so far would count the shortest episodes alone: in the first n steps after a copy only
    those of at most n steps end. The first episode of each slot is as long as any.

    ``task`` is ``[P, B]``.

    >>> recent = jnp.array([[[4.0, 5.0, 6.0], [7.0, 0.0, 0.0]]])  # P = 1, B = 2, W = 3
    >>> counts = jnp.array([[4, 1]])  # the first slot's ring begins at its second entry
    >>> stats = EpisodeStats((), (), (), recent, counts, {})
    >>> balanced(stats, jnp.zeros((1, 2), int), tasks=1).tolist()
    [[[False, True, False], [True, False, False]]]
    """
    window = stats.recent.shape[-1]
    kept = jnp.minimum(stats.recent_count, window)  # [P, B]
    mine = task[..., None] == jnp.arange(tasks)[None, None]  # [P, B, K]
    fewest = jnp.min(jnp.where(mine, kept[..., None], window), axis=1)  # [P, K]
    number = jnp.take_along_axis(fewest, task, axis=1)  # [P, B]
    # How many entries of the slot are older.
    turned = jnp.where(stats.recent_count > window, stats.recent_count % window, 0)
    age = (jnp.arange(window)[None, None] - turned[..., None]) % window
    return age < number[..., None]


def recent_mean(stats: EpisodeStats, task: Array, tasks: int) -> tuple[Array, Array]:
    """Returns (mean of the balanced recent returns, their number), both ``[P, K]``.

    ``task`` is ``[P, B]``. The mean is NaN where a slot of the task has no finished
    episode.
    """
    valid = balanced(stats, task, tasks)
    mine = task[..., None] == jnp.arange(tasks)[None, None]  # [P, B, K]
    sums = jnp.sum(jnp.where(valid, stats.recent, 0.0), axis=-1)[..., None]
    counts = jnp.sum(valid, axis=-1)[..., None]
    number = jnp.sum(jnp.where(mine, counts, 0), axis=1)
    total = jnp.sum(jnp.where(mine, sums, 0.0), axis=1)
    return total / number, number
