"""Curricula: environment params as a function of how the members are doing.

A ``Curriculum`` is pure functions, traced into the training step. Its state is a pytree
with a leading axis P, saved in checkpoints like any other. New params reach a slot at its
next reset (see ``slots.make``): an episode is never made harder half-way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs import dtypes
from mtrl_jax.envs.core import PureTask
from mtrl_jax.types import Array, TimeStep, Tree

# Levels that are checked at most; of more steps, so many evenly apart.
_CHECKED = 10_000


class Curriculum(NamedTuple):
    """``init() -> state``, leaves ``[P, ...]``;
    ``params(state)`` returns what ``Env.reset`` and ``step`` take, leaves ``[P, B, ...]``;
    ``observe(state, ts, values)`` returns the state after a step to ``ts``, given
    ``{"return": so far, MEASURE: ...}`` of each slot's episode, all ``[P, B]``;
    ``update(state, ts)`` returns the one that new params are from, at the end of an
    unroll: what begins later begins with these;
    ``metrics(state)`` returns what is shown of it, ``[P]``.
    """

    init: Callable[[], Tree]
    params: Callable[[Tree], Tree]
    observe: Callable[[Tree, TimeStep, dict[str, Array]], Tree]
    update: Callable[[Tree, TimeStep], Tree]
    metrics: Callable[[Tree], dict[str, Array]]


class Course(NamedTuple):
    """The way of one task of a mixture from ``start`` to its own params."""

    name: str  # of the task
    task: int  # its number, as in TimeStep.task
    part: int  # of the mixture's params
    rows: slice  # of the part's members or slots, those that play it
    members: slice  # of the population, those that play it
    start: Tree  # params of the easiest task
    measure: str  # "return", or a measure of its episodes
    threshold: float
    steps: int
    min_episodes: int


# Sums of float32 are known to such a share: a mean of the threshold itself passes.
_ROUNDED = 1e-6


class Levels(NamedTuple):
    """How far members are on R courses, and the episodes they are judged by so far."""

    level: Array  # [P, R] float32 in [0, 1]
    total: Array  # [P, B] float32, sum of the measure over the episodes that count
    episodes: Array  # [P, B] int32, their number
    stale: Array  # [P, B] bool, the episode began before the member was last judged


def make(
    params: tuple, batch: tuple[int, int], axis: int, courses: Sequence[Course]
) -> Curriculum:
    """Returns the curriculum of a mixture in which tasks get harder by success.

        level ← min(level + 1/steps, 1)          when the mean of ``measure`` over
        params = start + level·(params - start)  n·slots episodes is at least ``threshold``

    ``params`` are those of the mixture, one item a part, leaves [P, B, ...]; integers get
    the nearest. ``batch`` is (P, B); ``axis`` 0: parts lie along the population, 1: along
    the slots. Each member has a level of its own.

    A member is judged once each slot of the task has finished n of the episodes that it
    began since the last time, by these, the first n of every slot; n · slots is
    ``min_episodes``, rounded up. So a short episode counts as much as a long one, an
    episode of the level before not at all, and early failures are forgotten. The first
    that end are the shortest: where success is short, they are the successes.
    """
    tasks = jnp.asarray([course.task for course in courses])
    threshold = jnp.asarray([course.threshold for course in courses], jnp.float32)
    steps = jnp.asarray([course.steps for course in courses], jnp.float32)
    enough = jnp.asarray([course.min_episodes for course in courses], jnp.float32)

    def init() -> Levels:
        level = jnp.zeros((batch[0], len(courses)))
        none = jnp.zeros(batch, jnp.int32)
        return Levels(level, jnp.zeros(batch), none, jnp.zeros(batch, bool))

    def params_at(state: Levels) -> tuple:
        parts = list(params)
        for r, course in enumerate(courses):
            level = state.level[course.members, r]
            parts[course.part] = _moved(parts[course.part], course, level, axis)
        return tuple(parts)

    def places(ts: TimeStep) -> tuple[Array, Array, Array]:
        """Returns (who plays a course [P, B, R], its slots [P, R], n [P, R])."""
        plays = ts.task[..., None] == tasks[None, None]
        slots = jnp.sum(plays, axis=1)
        return plays, slots, jnp.ceil(enough[None] / jnp.maximum(slots, 1))

    def observe(state: Levels, ts: TimeStep, values: dict[str, Array]) -> Levels:
        plays, _, n = places(ts)
        measured = jnp.stack([values[course.measure] for course in courses], axis=-1)
        value = jnp.sum(jnp.where(plays, measured, 0.0), axis=-1)
        most = jnp.sum(jnp.where(plays, n[:, None], 0), axis=-1)
        stale = state.stale & ~ts.first
        counts = ts.last & ~stale & (state.episodes < most)
        total = state.total + jnp.where(counts, value, 0.0)
        return Levels(state.level, total, state.episodes + counts, stale)

    def update(state: Levels, ts: TimeStep) -> Levels:
        plays, slots, n = places(ts)
        others = jnp.iinfo(jnp.int32).max
        episodes = jnp.where(plays, state.episodes[..., None], others)
        total = jnp.sum(jnp.where(plays, state.total[..., None], 0.0), axis=1)
        judged = (slots > 0) & (jnp.min(episodes, axis=1) >= n)
        needed = threshold[None] * n * slots
        passed = judged & (total >= needed - _ROUNDED * jnp.abs(needed))
        # Rounded to whole steps, so that the last one ends at 1 exactly.
        done = jnp.round(state.level * steps[None]) + passed
        level = jnp.minimum(done / steps[None], 1.0)
        afresh = jnp.any(plays & judged[:, None], axis=-1)
        return _afresh(state._replace(level=level), afresh)

    def metrics(state: Levels) -> dict[str, Array]:
        everyone = jnp.full(batch[0], jnp.nan)
        return {
            f"level/{course.name}": everyone.at[course.members].set(
                state.level[course.members, r]
            )
            for r, course in enumerate(courses)
        }

    return Curriculum(init, params_at, observe, update, metrics)


def forget(state: Tree, members: Array) -> Tree:
    """Returns a curriculum's state in which ``members`` ``[P]`` are judged afresh.

    They keep their levels; what is no state of levels is as it was.
    """
    if not isinstance(state, Levels):
        return state
    return _afresh(state, jnp.broadcast_to(members[:, None], state.stale.shape))


def _afresh(state: Levels, slots: Array) -> Levels:
    """Returns the state without the episodes that ``slots`` [P, B] ended or are in."""
    return state._replace(
        total=jnp.where(slots, 0.0, state.total),
        episodes=jnp.where(slots, 0, state.episodes),
        stale=state.stale | slots,
    )


def start_of(task: PureTask, easy: PureTask, moved: Sequence[str]) -> Tree:
    """Returns the params of ``easy``, from which those of ``task`` can be reached.

    ``moved`` names the params that differ. Raises ValueError unless they are numbers among
    the params of ``task``, and the same in number.
    """
    own, start = dtypes.as_arrays(task.params), dtypes.as_arrays(easy.params)
    numbers = {name: x for name, x in _named(own).items() if _is_number(x)}
    for name in moved:
        if name not in numbers:
            known = ", ".join(numbers) or "none"
            raise ValueError(
                f"start.{name}: no number of {task.spec.name} that can change while it "
                f"is played (those are: {known})"
            )
        shapes = [x.shape for x in (_named(start)[name], numbers[name])]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"start.{name} has shape {list(shapes[0])}, the task's own "
                f"{list(shapes[1])}; give the same"
            )
    return start


def check_levels(task: PureTask, start: Tree, steps: int) -> None:
    """Raises ValueError unless each level from ``start`` to ``task`` can be played.

    Every param moves by itself: two ends that can be do not make what lies between so.
    """
    if task.check is None:
        return
    done = np.unique(np.linspace(0, steps, min(steps, _CHECKED) + 1).round())
    levels = (done / steps).astype(np.float32)
    own = dtypes.as_arrays(task.params)

    def at(level: Array) -> Tree:
        return jax.tree.map(lambda x, y: _between(x, y, level), own, start)

    every = jax.device_get(jax.jit(jax.vmap(at))(levels))
    for n, level in enumerate(levels):
        try:
            task.check(jax.tree.map(lambda x, n=n: x[n], every))
        except ValueError as error:
            raise ValueError(f"level {level:g}: {error}") from None


def _moved(part: Tree, course: Course, level: Array, axis: int) -> Tree:
    """Returns a part's params [P, B, ...] with those of one course at ``level`` [P]."""
    own_rows = (slice(None),) * axis + (course.rows,)

    def leaf(x: Array, start: Array) -> Array:
        if not _is_number(x):
            return x
        own = x[own_rows]
        share = level.reshape(-1, *(1,) * (own.ndim - 1))
        return x.at[own_rows].set(_between(own, start, share))

    return jax.tree.map(leaf, part, course.start)


def _between(own: Array, start: Array, share: Array) -> Array:
    """Returns start + share·(own - start) of one param, that of ``own`` where share is 1."""
    if not _is_number(own):
        return own
    first, last = (jnp.asarray(y, jnp.float32) for y in (start, own))
    first = jnp.broadcast_to(first, last.shape)
    value = first + share * (last - first)
    value = jnp.round(value) if jnp.issubdtype(own.dtype, jnp.integer) else value
    # Large integers are exact where they do not move.
    stays = (share >= 1.0) | (own == jnp.broadcast_to(start, own.shape))
    return jnp.where(stays, own, value.astype(own.dtype))


def _named(params: Tree) -> dict[str, Array]:
    paths, _ = jax.tree_util.tree_flatten_with_path(params)
    keystr = jax.tree_util.keystr
    return {keystr(path, simple=True, separator="."): x for path, x in paths}


def _is_number(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.number)
