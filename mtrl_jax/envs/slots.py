"""The slots of a batch ``[P, B]``: each plays episode after episode by itself.

What ``core`` makes environments with. A slot has a key for good; step t of its life draws
from ``fold_in`` of that with t, and so nothing but a counter is carried.
"""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import random, tree, types
from mtrl_jax.envs import actions, dtypes, observations
from mtrl_jax.types import Array, Key, Tree

if TYPE_CHECKING:
    from mtrl_jax.envs.core import PureTask

# In the place of the number of a draw: no slot ever comes to its 2^32nd step.
_DEALING = 2**32 - 1
# Folded into a step's key: a task that splits that key itself gets fold_in of 0, 1, ...
_RENEWING = 2**32 - 1


class EnvState(NamedTuple):
    """The state of a vectorised task; every leaf starts with ``[P, B]``."""

    key: Key  # constant for the life of the slot
    draws: Array  # uint32, keys drawn so far
    last: Array  # bool, the next step resets this slot
    params: Tree  # of the episode in progress
    inner: Tree  # the task's own state


def make(
    task: PureTask,
    spec: types.EnvSpec,
    batch: tuple[int, int],
    default: Tree,
    task_id: Array,
    first_slot: int,
) -> types.Env:
    """Returns the Env of ``batch`` slots that play ``task`` by ``default`` params [P, B].

    ``task_id`` [P, B] is what they say in ``TimeStep.task``; slot b draws from
    ``fold_in(key[p], first_slot + b)``.
    """
    reset_slots, step_slots, renew_slots = (
        jax.vmap(jax.vmap(slot)) for slot in dtypes.fixed(task)
    )

    def reset(key: Key, params: Tree) -> tuple[EnvState, types.TimeStep]:
        slots = first_slot + jnp.arange(batch[1])
        keys = random.fold(key[:, None], slots[None])
        # A copy, because the runner donates its state and keeps Env.params.
        params = tree.copy(_dealt(task, keys, jnp.uint32(0), like(params, default)))
        # Copied as well: a task may return its params or state as something else.
        inner, obs = tree.copy(reset_slots(random.fold(keys, 0), params))
        obs = _seen(task, inner, obs, params)
        state = EnvState(
            keys, jnp.ones(batch, jnp.uint32), jnp.zeros(batch, bool), params, inner
        )
        reward, discount = jnp.zeros(batch), jnp.ones(batch)
        first = jnp.ones(batch, bool)
        return state, _timestep(task, task_id, state, obs, reward, discount, first)

    # One reset is compiled for both, which may be the largest part of a program.
    def restart_or_renew(keys: Key, params: Tree, first: Array, inner: Tree) -> tuple:
        renewing = random.fold(keys, jnp.uint32(_RENEWING))
        begun = reset_slots(jnp.where(first, keys, renewing), params)
        return tree.where(first, begun, renew_slots(inner, begun, params))

    def step(
        state: EnvState, action: Array, params: Tree
    ) -> tuple[EnvState, types.TimeStep]:
        action = actions.sanitise(task.spec.action, action, batch)
        keys = random.fold(state.key, state.draws)
        inner, obs, reward, terminated, truncated = step_slots(
            keys, state.inner, action, state.params
        )
        first = state.last
        pending: Array = first
        if task.wants_renewal is not None:
            pending = first | jax.vmap(jax.vmap(task.wants_renewal))(inner)
        given = (first, keys, state.key, state.draws, like(params, default))

        # The keys of resetting slots are used twice, but their step is thrown away.
        def begin(pending: Array, given: tuple, current: tuple) -> tuple:
            first, keys, slot_keys, draws, params = given
            inner, obs, own = current
            own = tree.where(first, _dealt(task, slot_keys, draws, params), own)
            make: Callable = reset_slots
            args: tuple = (keys, own)
            if task.wants_renewal is not None:
                make, args = restart_or_renew, (*args, first, inner)
            new = _replace(pending, make, args, (inner, obs), task.group)
            return (*new, own)

        inner, obs, current = _where_any(
            pending, begin, given, (inner, obs, state.params)
        )
        obs = _seen(task, inner, obs, current)
        last = (terminated | truncated) & ~first
        state = EnvState(state.key, state.draws + 1, last, current, inner)
        reward = jnp.where(first, 0.0, reward)
        discount = jnp.where(terminated & ~first, 0.0, 1.0)
        return state, _timestep(task, task_id, state, obs, reward, discount, first)

    def info(state: EnvState) -> dict[str, Array]:
        if task.info is None:
            return {}
        measures = jax.vmap(jax.vmap(task.info))(state.inner, state.params)
        return {name: x.astype(jnp.float32) for name, x in measures.items()}

    return types.Env(spec, batch, reset, step, default, pure=True, info=info)


def _dealt(task: PureTask, slot_keys: Key, draws: Array, params: Tree) -> Tree:
    """Returns the params of the episodes that begin at these draws."""
    if task.deal is None:
        return params
    dealing = jnp.uint32(_DEALING)
    root = random.fold(slot_keys, dealing)
    of_slot, of_episode = random.fold(root, dealing), random.fold(root, draws)
    drawn = jax.vmap(jax.vmap(task.deal))(of_slot, of_episode, params)
    return like(drawn, params)


def _seen(task: PureTask, inner: Tree, obs: Tree, params: Tree) -> Tree:
    """Returns the observations of states: ``obs``, unless the task has ``observe``."""
    observe = task.observe
    if observe is None:
        return obs

    def slot(state, params):
        return observations.canonical(observe(state, params))

    return jax.vmap(jax.vmap(slot))(inner, params)


def _timestep(
    task: PureTask,
    task_id: Array,
    state: EnvState,
    obs: Tree,
    reward: Array,
    discount: Array,
    first: Array,
) -> types.TimeStep:
    return types.TimeStep(
        obs=obs,
        reward=reward.astype(jnp.float32),
        discount=discount.astype(jnp.float32),
        first=first,
        # Not the state's own buffer: a runner may donate both.
        last=jnp.copy(state.last),
        task=jnp.copy(task_id),
        action_mask=_mask(task, state),
    )


def _mask(task: PureTask, state: EnvState) -> Array:
    if task.action_mask is None:
        size = types.action_mask_size(task.spec.action)
        return jnp.ones((*state.last.shape, size), bool)
    return jax.vmap(jax.vmap(task.action_mask))(state.inner, state.params)


def renderer(
    tasks: Sequence[PureTask], sizes: Sequence[int], dim: int
) -> Callable[[EnvState, int, int], Any]:
    """Returns Env.render: that of the task that owns the slot."""
    ends = list(itertools.accumulate(sizes))

    def render(state: EnvState, member: int, slot: int) -> Any:
        draw = tasks[bisect.bisect_right(ends, (member, slot)[dim])].render
        if draw is None:
            return None
        one = (state.inner, state.params)
        return draw(*jax.tree.map(lambda x: x[member, slot], one))

    return render


def _where_any(pending: Array, change: Callable, given: tuple, current: Tree) -> Tree:
    """Returns ``change(pending, given, current)``, ``current`` where nothing is pending.

    Steps in which nothing is do not pay for it: the predicate is unbatched, one for each
    device of the members.
    """

    def one(pending: Array, given: tuple, current: Tree) -> Tree:
        return jax.lax.cond(
            jnp.any(pending),
            lambda current: change(pending, given, current),
            lambda current: current,
            current,
        )

    return tree.apart(one, pending, given, current)


def _replace(
    pending: Array, make: Callable, args: tuple, current: Tree, group: int | None
) -> Tree:
    """Returns ``current`` with ``make(*args)`` in the pending slots ``[P, B]``.

    With a group, only pending slots are made, that many of every member at a time.
    """
    if group is None or group >= pending.shape[1]:
        return tree.where(pending, make(*args), current)
    return _in_groups(pending, make, args, current, group)


def _in_groups(
    pending: Array, make: Callable, args: tuple, current: Tree, group: int
) -> Tree:
    """Returns what ``_replace`` does, ``group`` slots of every member at a time."""

    @jax.vmap
    def place(x, index, y):
        # Where fewer are pending than fit, the index is out of bounds and dropped.
        return x.at[index].set(y, mode="drop")

    def some(carry):
        pending, current = carry
        index = jax.vmap(lambda p: _first_true(p, group))(pending)
        picked = jax.tree.map(jax.vmap(lambda x, i: x[i]), args, _each(args, index))
        current = jax.tree.map(place, current, _each(current, index), make(*picked))
        return place(pending, index, jnp.zeros(index.shape, bool)), current

    return jax.lax.while_loop(lambda c: jnp.any(c[0]), some, (pending, current))[1]


def _first_true(x: Array, number: int) -> Array:
    """Returns the indices [number] of the first True of ``x``, its size beyond the last.

    As ``jnp.nonzero``, without a histogram.
    """
    return jnp.sum(jnp.cumsum(x)[None] <= jnp.arange(number)[:, None], axis=1)


def _each(tree_: Tree, x: Array) -> Tree:
    """Returns a tree like ``tree_`` with ``x`` at every leaf."""
    return jax.tree.map(lambda _: x, tree_)


def broadcast(params: Tree, batch: tuple[int, ...]) -> Tree:
    """Returns ``params`` with the leading axes ``batch``."""
    return _broadcast(dtypes.as_arrays(params), batch)


@functools.partial(jax.jit, static_argnums=1)
def _broadcast(params: Tree, batch: tuple[int, ...]) -> Tree:
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (*batch, *x.shape)), params)


def like(params: Tree, default: Tree) -> Tree:
    """Returns ``params`` with the types of ``default``; ValueError if shapes differ."""

    def leaf(path, like, x):
        x = jnp.asarray(x)
        if x.shape != like.shape:
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            raise ValueError(
                f"params: {name} is {list(x.shape)}, this Env takes {list(like.shape)}"
            )
        return dtypes.astype(x, like.dtype)

    return jax.tree_util.tree_map_with_path(leaf, default, params)
