"""Rows of time steps in a ring [L, B, size]: what is written where, and read back.

The position depends on the update alone, so that it is the same for all members and the
ring is written in place under scan, vmap and donation.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.data import frame_stacks
from mtrl_jax.types import Array, Tree


class Row(NamedTuple):
    """One time step and the action taken there; ``[...]`` are the leading axes."""

    obs: Tree
    action: Array  # [..., *action]
    reward: Array  # [...] of arriving here
    discount: Array  # [...] 0 iff terminal
    first: Array  # [...] bool
    task: Array  # [...] int32
    action_mask: Array  # [..., M] bool


class Ring(NamedTuple):
    """What of L rows is in use after update ``step``."""

    length: int  # L, a multiple of the unroll
    stored: Array  # [] int32 rows written
    head: Array  # [] int32 the newest


def row_shapes(spec: types.EnvSpec, frames: int = 1) -> Row:
    """Returns the ShapeDtypeStructs of one row as it is stored."""
    obs = dict(spec.obs)
    if frames > 1:
        obs["image"] = jax.eval_shape(
            lambda x: frame_stacks.newest(x, frames), obs["image"]
        )

    def leaf(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype)

    mask = types.action_mask_size(spec.action)
    return Row(
        obs,
        action=types.action_shape(spec.action),  # type: ignore[arg-type]
        reward=leaf(jnp.float32),
        discount=leaf(jnp.float32),
        first=leaf(jnp.bool_),
        task=leaf(jnp.int32),
        action_mask=leaf(jnp.bool_, mask),
    )


def rows_of(rollout: types.Rollout, frames: int = 1) -> Row:
    """Returns the rows ``[T, B, ...]`` of a rollout; its newest step waits an update.

    An action that is not finite is 0: rows outlive the policy that was broken.
    """
    ts = jax.tree.map(lambda x: x[:-1], rollout.ts)
    obs = dict(ts.obs)
    if frames > 1:
        obs["image"] = frame_stacks.newest(obs["image"], frames)
    return Row(
        obs,
        jnp.nan_to_num(rollout.action, posinf=0.0, neginf=0.0),
        ts.reward,
        ts.discount,
        ts.first,
        ts.task,
        ts.action_mask,
    )


def written(length: int, unroll: int, step: Array) -> Ring:
    """Returns the Ring after update ``step`` (from 0) has written its T rows."""
    fits = length // unroll
    stored = jnp.minimum(step, fits - 1) * unroll + unroll
    return Ring(length, stored, (step % fits) * unroll + unroll - 1)


def write(rows: Row, new: Row, length: int, step: Array) -> Row:
    """Returns the rows with ``new`` [T, B, ...] at (step mod L/T) · T."""
    unroll = new.first.shape[0]
    at = (step % (length // unroll)) * unroll

    def put(old: Array, x: Array) -> Array:
        x = x.reshape(unroll, *old.shape[1:]).astype(old.dtype)
        return jax.lax.dynamic_update_slice_in_dim(old, x, at, 0)

    return jax.tree.map(put, rows, new)


def read(
    rows: Row, shapes: Row, length: int, end: Array, slot: Array, width: int
) -> Row:
    """Returns the windows ``[K, width, N, ...]`` that end at ``end`` [K, N]."""
    back = jnp.arange(width - 1, -1, -1, dtype=end.dtype)
    at = (end[:, None, :] - back[None, :, None]) % length
    slot = jnp.broadcast_to(slot[:, None, :], at.shape)
    return jax.tree.map(
        lambda x, shape: x[at, slot].reshape(*at.shape, *shape.shape), rows, shapes
    )


def time_steps(rows: Row) -> tuple[types.TimeStep, Array]:
    """Returns (TimeStep ``[S, N]``, the action before each) of windows ``[S + 1, N]``.

    The first row only tells what led to the second; ``last`` is not known.
    """
    previous, rows = rows.action[:-1], jax.tree.map(lambda x: x[1:], rows)
    ts = types.TimeStep(
        rows.obs,
        rows.reward,
        rows.discount,
        rows.first,
        jnp.zeros_like(rows.first),
        rows.task,
        rows.action_mask,
    )
    return ts, previous


def flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of an item as it is stored: one axis, none of a scalar."""
    return (math.prod(shape),) if shape else ()


def usable(rows: int, unroll: int) -> int:
    """Returns L: the rows of a slot that whole unrolls fill.

    >>> usable(rows=10, unroll=4)
    8
    """
    return rows // unroll * unroll
