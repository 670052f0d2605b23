"""Experience replay: a ring of time steps that stays with its member, written in place.

A row is one time step of one slot. Windows of ``steps`` rows are drawn, each named by its
newest row, its *end*, and read backwards:

    rows  (end − width + 1 … end) mod L,      width = steps + frames − 1

so that the newest rows, rows of a reset and stacks of frames have one rule: the end's age
leaves room for the window, and no *transition* leads into a row that is an episode's
first (next-step autoreset: the action taken before it was ignored). What lies further on
in a window may cross an episode's end; ``first`` says where.

The memory is written before it is read, at a position that depends on the update alone
and is the same for all members: nothing of it is copied under scan, vmap and donation.

Refs: Lin 1992; Mnih et al. 2015; priorities: Schaul et al. 2016 (arXiv:1511.05952), see
``data/replay_priorities.py``.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import errors, types
from mtrl_jax.data import frame_stacks, replay_priorities, replay_ring
from mtrl_jax.types import Array, Key, Tree

_MOST = 2**31 - 2  # places that int32 counts
TRIES = 2  # of drawing a valid window uniformly; then it is not live


@dataclasses.dataclass(frozen=True)
class Config:
    """What is kept and what an update draws; static."""

    capacity: int = 100_000  # rows of a member, over all its slots
    batch: int = 32  # windows of one gradient step
    batches: int = 1  # gradient steps of an update, drawn for at once
    steps: int = 2  # rows of a window: n + 1 for n-step transitions
    # The first step of a window must not lead into a reset; False: any window will do.
    transitions: bool = True
    frames: int = 1  # an image is a stack of so many frames; the newest is stored
    prioritised: bool = False

    @property
    def width(self) -> int:
        """Returns the rows that a window is read from."""
        return self.steps + self.frames - 1


class Memory(NamedTuple):
    """One member's ring: time step t of slot b lies at [t mod L, b]."""

    rows: replay_ring.Row  # leaves [L, B, size], items flat; [L, B] of scalars
    priorities: Any  # Priorities of the windows by end · B + slot; () if uniform


class Drawn(NamedTuple):
    """K batches of N windows."""

    rows: replay_ring.Row  # [K, steps, N, ...]
    live: Array  # [K, N] bool, False: nothing valid was there to be drawn
    importance: (
        Array  # [K, N] min p / p over the batch, not yet raised to β; 1: uniform
    )
    place: Array  # [K, N] int32, end · B + slot


class Feedback(NamedTuple):
    """New priorities of what was drawn; ``priority`` is already raised to its power."""

    place: Array  # [K, N]
    live: Array  # [K, N]
    priority: Array  # [K, N]


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Replay:
    """Returns the Replay of agents on environments of ``spec``; it draws ``Drawn``.

    Its feedback is a ``Feedback`` where it is prioritised; elsewhere it is not read.

    Raises:
      ValueError: a size below 1, fewer than two steps of a transition, frames that the
        image is no stack of; at trace time, a capacity below a window and an unroll,
        priorities without feedback.
    """
    _check(spec, config)
    shapes = replay_ring.row_shapes(spec, config.frames)

    def init(slots: int) -> Memory:
        length = config.capacity // slots

        def empty(x: jax.ShapeDtypeStruct) -> Array:
            return jnp.zeros((length, slots, *replay_ring.flat(x.shape)), x.dtype)

        ends = length * slots
        ranked = replay_priorities.init(ends) if config.prioritised else ()
        return Memory(jax.tree.map(empty, shapes), ranked)

    def observe(
        memory: Memory, rollout: types.Rollout, key: Key, hp: Tree, step: Array
    ) -> tuple[Memory, Drawn]:
        del hp
        unroll, slots = rollout.ts.reward[1:].shape
        length = replay_ring.usable(memory.rows.first.shape[0], unroll)
        _check_fits(config, length, unroll, slots)
        rows = replay_ring.write(
            memory.rows, replay_ring.rows_of(rollout, config.frames), length, step
        )
        ring = replay_ring.written(length, unroll, step)
        ranked = memory.priorities
        if config.prioritised:
            ranked = _enter(ranked, rows.first, ring, unroll, config)
            end, slot, live, importance = _prioritised(key, ranked, slots, config)
        else:
            end, slot, live = uniform(key, rows.first, ring, config)
            importance = jnp.ones(live.shape)
        windows = replay_ring.read(rows, shapes, ring.length, end, slot, config.width)
        windows = _unstacked(windows, config.frames)
        drawn = Drawn(windows, live, importance, end * slots + slot)
        return Memory(rows, ranked), drawn

    def feedback(memory: Memory, found: Feedback) -> Memory:
        if not config.prioritised:
            return memory
        if not isinstance(found, Feedback):
            raise ValueError(
                "prioritised: the agent's update gave no new priorities; return a "
                "replay.Feedback as its feedback, or draw uniformly (prioritised=False)"
            )
        flat = (x.reshape(-1) for x in found)
        return memory._replace(
            priorities=replay_priorities.feedback(memory.priorities, *flat)
        )

    return types.Replay(init, observe, feedback)


def bytes_of(replay: types.Replay, slots: int) -> int:
    """Returns the bytes of one member's memory; nothing is allocated."""
    leaves = jax.tree.leaves(jax.eval_shape(lambda: replay.init(slots)))
    return sum(x.size * x.dtype.itemsize for x in leaves)


def uniform(
    key: Key, first: Array, ring: replay_ring.Ring, config: Config
) -> tuple[Array, Array, Array]:
    """Returns (end, slot, live) ``[K, N]``, every valid window equally likely.

    ``first`` [L, B]. Each has TRIES tries, of which the first valid one counts.
    """
    age_key, slot_key = jax.random.split(key)
    shape = (TRIES, config.batches, config.batch)
    ends = ring.stored - config.width + 1
    age = jax.random.randint(age_key, shape, 0, jnp.maximum(ends, 1))
    slot = jax.random.randint(slot_key, shape, 0, first.shape[1])
    end = (ring.head - age) % ring.length
    valid = (ends > 0) & _begins(first, ring.length, end, slot, config)
    pick = jnp.argmax(valid, axis=0)[None]

    def picked(x: Array) -> Array:
        return jnp.take_along_axis(x, pick, axis=0)[0]

    return picked(end), picked(slot), picked(valid)


def _begins(
    first: Array, length: int, end: Array, slot: Array, config: Config
) -> Array:
    """Returns whether the step after a window's first is no episode's first."""
    if not config.transitions:
        return jnp.ones(end.shape, bool)
    return ~first[(end - config.steps + 2) % length, slot]


def _enter(
    ranked: replay_priorities.Priorities,
    first: Array,
    ring: replay_ring.Ring,
    unroll: int,
    config: Config,
) -> replay_priorities.Priorities:
    """Returns the priorities with the T new ends at the highest so far.

    0 where a window is not valid: it leads into a reset, or lacks rows before it. The
    ends after the head that have lost a row of theirs are 0, too.
    """
    lost = config.width - 1
    slots = first.shape[1]
    order = jnp.arange(unroll + lost)
    end = (ring.head + 1 - unroll + order) % ring.length
    age = (unroll - 1) - order
    whole = (age >= 0) & (age <= ring.stored - config.width)
    at, slot = jnp.meshgrid(end, jnp.arange(slots), indexing="ij")
    valid = whole[:, None] & _begins(first, ring.length, at, slot, config)
    place = at * slots + slot
    return replay_priorities.enter(ranked, place.reshape(-1), valid.reshape(-1))


def _prioritised(
    key: Key, ranked: replay_priorities.Priorities, slots: int, config: Config
) -> tuple[Array, Array, Array, Array]:
    """Returns (end, slot, live, importance) ``[K, N]``; strata are dealt in turn."""
    count = config.batches * config.batch
    found = replay_priorities.draw(ranked, key, count)
    place, priority, live = (
        x.reshape(config.batch, config.batches).T
        for x in (found.place, found.priority, found.live)
    )
    least = jnp.min(jnp.where(live, priority, jnp.inf), axis=1, keepdims=True)
    importance = jnp.where(live, least / jnp.where(live, priority, 1.0), 0.0)
    return place // slots, place % slots, live, importance


def _unstacked(windows: replay_ring.Row, frames: int) -> replay_ring.Row:
    """Returns windows ``[K, steps, N, ...]`` with stacks of frames rebuilt."""
    if frames == 1:
        return windows
    images = jax.vmap(lambda x, first: frame_stacks.stack(x, first, frames))(
        windows.obs["image"], windows.first
    )
    short = jax.tree.map(lambda x: x[:, frames - 1 :], windows)
    return short._replace(obs=short.obs | {"image": images})


def _check(spec: types.EnvSpec, config: Config) -> None:
    """Raises ValueError unless sizes are positive and the image is a stack of frames."""
    errors.check_sizes(config, ("capacity", "batch", "batches", "steps", "frames"))
    if config.capacity > _MOST:
        raise ValueError(f"capacity: got {config.capacity}, give at most {_MOST}")
    if config.transitions and config.steps < 2:
        raise ValueError(f"steps: {config.steps} is no transition, give at least 2")
    if config.frames > 1:
        frame_stacks.check(spec, config.frames)


def _check_fits(config: Config, length: int, unroll: int, slots: int) -> None:
    """Raises ValueError unless a window fits beside the unroll that is being written."""
    needed = unroll + config.width - 1
    if length >= needed:
        return
    least = math.ceil(needed / unroll) * unroll * slots
    raise ValueError(
        f"capacity: {config.capacity} rows are {length} whole steps of {slots} slots; a "
        f"window of {config.width} and an unroll of {unroll} need at least {least}"
    )
