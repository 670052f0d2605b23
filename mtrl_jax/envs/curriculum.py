"""Curricula: environment params as a function of how the members are doing.

A ``Curriculum`` is three pure functions, traced into the training step. Its state is a
pytree with a leading axis P, so PBT can copy and checkpoints can save it like any
other. New params reach a slot at its next reset (see ``core.vectorise``): an episode is
never made harder half-way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import errors, types
from mtrl_jax.types import Array, Tree


class Curriculum(NamedTuple):
    """``init() -> state``, leaves ``[P, ...]``;
    ``params(state)`` returns what ``Env.reset`` and ``step`` take, leaves ``[P, B, ...]``;
    ``update(state, returns, episodes)`` returns the next state from the sums of the
    episodes that ended since the last call, both ``[P, K]`` float32 for K tasks: the
    sum of their returns and their number (0 where none ended).

    Plain arrays, because the engine that counts them does not import this package.
    """

    init: Callable[[], Tree]
    params: Callable[[Tree], Tree]
    update: Callable[[Tree, Array, Array], Tree]


class LinearState(NamedTuple):
    """Difficulty and the episodes it was judged by so far; K tasks are not needed."""

    level: Array  # [P] float32 in [0, 1]
    returns: Array  # [P] sum since the level last changed
    episodes: Array  # [P] their number


def constant(params: Tree) -> Curriculum:
    """Returns the curriculum that never changes ``params``."""
    return Curriculum(
        init=lambda: (),
        params=lambda state: params,
        update=lambda state, returns, episodes: state,
    )


def linear(
    env: types.Env,
    field: str,
    *,
    low: float,
    high: float,
    threshold: float,
    steps: int = 10,
    min_episodes: int = 32,
    task: int = 0,
    members: slice = slice(None),
) -> Curriculum:
    """Returns the curriculum that moves one param from ``low`` to ``high`` by success.

        level ← min(level + 1/steps, 1)   when the mean return of ``task``, over at least
        param = low + level·(high - low)  ``min_episodes`` episodes at this level, is at
                                          least ``threshold``

    ``field`` names a leaf of ``env.params``, e.g. "length", or "1.length" for part 1 of
    a mixture; an integer leaf gets the nearest integer. Each member has a level of its
    own. In a mixture along the population axis, ``members`` are those that own the part.
    Episodes begun at the level before are counted too: keep ``min_episodes`` well above
    the number of slots where that matters. Raises ValueError for an unknown field or task
    and for sizes below 1.
    """
    _check(env, field, task, steps, min_episodes)

    def init() -> LinearState:
        return LinearState(*(jnp.zeros(env.batch[0], jnp.float32) for _ in range(3)))

    def params(state: LinearState) -> Tree:
        value = low + state.level * (high - low)
        return replace_leaf(env.params, field, value[members])

    def update(state: LinearState, returns: Array, episodes: Array) -> LinearState:
        total = state.returns + returns[:, task]
        number = state.episodes + episodes[:, task]
        judged = number >= min_episodes
        passed = judged & (total >= threshold * number)
        level = jnp.minimum(state.level + passed / steps, 1.0)
        # Judged by fresh episodes each time, so early failures are forgotten.
        return LinearState(
            level, jnp.where(judged, 0.0, total), jnp.where(judged, 0.0, number)
        )

    return Curriculum(init, params, update)


def leaf_names(params: Tree) -> list[str]:
    """Returns the names of all leaves, as ``linear`` takes them: "length", "1.length"."""
    paths, _ = jax.tree_util.tree_flatten_with_path(params)
    return [_name(path) for path, _ in paths]


def replace_leaf(params: Tree, field: str, value: Array) -> Tree:
    """Returns ``params`` with leaf ``field`` ``[P, B, ...]`` set to ``value`` ``[P]``.

    The dtype stays; integers get the nearest. Raises ValueError for an unknown field.
    """
    errors.check("field", field, leaf_names(params))

    def leaf(path, x):
        if _name(path) != field:
            return x
        rounded = jnp.round(value) if jnp.issubdtype(x.dtype, jnp.integer) else value
        column = rounded.reshape(-1, *(1,) * (x.ndim - 1))
        return jnp.broadcast_to(column, x.shape).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, params)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _check(
    env: types.Env, field: str, task: int, steps: int, min_episodes: int
) -> None:
    errors.check("field", field, leaf_names(env.params))
    if not 0 <= task < len(env.spec.tasks):
        raise ValueError(f"task: got {task}, give an index below {len(env.spec.tasks)}")
    for name, value in (("steps", steps), ("min_episodes", min_episodes)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, give at least 1")
