"""Actions of one space inside another: what a mixture pads, unpads and masks.

Also the last gate before an environment: whatever a policy sends (NaN, infinities, an
index out of range) becomes a legal value of the space, because a poisoned environment
state would outlive the policy that poisoned it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.types import Array, Key


def check(space: Any) -> None:
    """Raises ValueError unless ``space`` is an action space with something to choose."""
    match space:
        case types.Discrete(n):
            sizes: Any = (n,)
        case types.Factorised(sizes):
            pass
        case types.Box(low, high):
            return _check_bounds(space, low, high)
        case _:
            raise ValueError(
                f"action: got {space!r}, give a types.Discrete, Factorised or Box"
            )
    whole = isinstance(sizes, tuple) and all(
        isinstance(size, (int, np.integer)) and not isinstance(size, bool)
        for size in sizes
    )
    if not whole or not sizes or min(sizes) < 1:
        raise ValueError(f"action: got {space}, give integers of at least 1")


def _check_bounds(space: types.Box, low: Any, high: Any) -> None:
    both = (low, high)
    is_vector = all(isinstance(x, tuple) for x in both) and len(low) == len(high) > 0
    if not is_vector or not all(x < y for x, y in zip(low, high)):
        raise ValueError(
            f"action: got {space}, give two tuples of as many numbers, each of low below "
            "that of high"
        )


def sanitise(space: types.ActionSpace, action: Array, batch: tuple[int, ...]) -> Array:
    """Returns ``action`` ``[*batch, ...]`` in the space: clipped, NaN replaced by 0.

    Raises ValueError for a wrong shape or a float where an index is expected.

    >>> sanitise(types.Factorised((2, 3)), np.array([[-1, 7]]), (1,)).tolist()
    [[0, 2]]
    """
    struct = types.action_shape(space)
    action = jnp.asarray(action)
    shape = (*batch, *struct.shape)
    is_index = struct.dtype == jnp.int32
    wrong_kind = is_index and not jnp.issubdtype(action.dtype, jnp.integer)
    if action.shape != shape or wrong_kind:
        raise ValueError(
            f"action: got {action.dtype}{list(action.shape)}, "
            f"{space} in a batch of {tuple(batch)} takes {struct.dtype}{list(shape)}"
        )
    match space:
        case types.Discrete(n):
            return jnp.clip(action, 0, n - 1).astype(jnp.int32)
        case types.Factorised(sizes):
            highest = _like(np.asarray(sizes, np.int32) - 1, action)
            return jnp.clip(action, 0, highest).astype(jnp.int32)
        case types.Box(low, high):
            action = jnp.nan_to_num(action.astype(jnp.float32))
            return jnp.clip(action, _bound(low, action), _bound(high, action))


def sample(space: types.ActionSpace, key: Key, batch: tuple[int, ...]) -> Array:
    """Returns uniform actions ``[*batch, ...]``; an unbounded Box dimension gets [-1, 1]."""
    match space:
        case types.Discrete(n):
            return jax.random.randint(key, batch, 0, n)
        case types.Factorised(sizes):
            highest = np.broadcast_to(np.asarray(sizes), (*batch, len(sizes)))
            return jax.random.randint(key, highest.shape, 0, highest)
        case types.Box(low, high):
            bounded = np.isfinite(low) & np.isfinite(high)
            shape = (*batch, len(low))
            return jax.random.uniform(
                key,
                shape,
                minval=np.broadcast_to(np.where(bounded, low, -1.0), shape),
                maxval=np.broadcast_to(np.where(bounded, high, 1.0), shape),
            )


def combine(spaces: Sequence[types.ActionSpace]) -> types.ActionSpace:
    """Returns the smallest space that every one of ``spaces`` is embedded in.

    All Discrete: the largest n. Discrete with Factorised: Factorised, where Discrete(n)
    is one group. All Box: the most dimensions, each with the widest bounds.
    Raises ValueError for indices mixed with reals.
    """
    boxes = [space for space in spaces if isinstance(space, types.Box)]
    if len(boxes) == len(spaces):
        return types.Box(
            tuple(map(min, _columns([space.low for space in boxes]))),
            tuple(map(max, _columns([space.high for space in boxes]))),
        )
    if boxes:
        names = sorted({type(space).__name__ for space in spaces})
        raise ValueError(
            f"tasks: one agent cannot act in {' and '.join(names)} at once; "
            "mix discrete and factorised tasks, or Box tasks among themselves"
        )
    sizes = tuple(map(max, _columns([types.groups(space) for space in spaces])))
    if all(isinstance(space, types.Discrete) for space in spaces):
        return types.Discrete(sizes[0])
    return types.Factorised(sizes)


def common_sets(tasks: Sequence[types.TaskSpec]) -> dict[str, types.ActionSet]:
    """Returns the named action sets that all tasks have, alike and in the same space."""
    first = tasks[0]
    return {
        name: rows
        for name, rows in first.action_sets.items()
        if all(t.action == first.action for t in tasks)
        and all(t.action_sets.get(name) == rows for t in tasks)
    }


def unpad(space: types.ActionSpace, own: types.ActionSpace, action: Array) -> Array:
    """Returns the task's own action from one of the combined ``space`` (``[...]``).

    Indices and dimensions that the task does not have are dropped. A Box dimension
    whose finite bounds differ from the combined ones is rescaled linearly, so that the
    ends of the policy's range reach the ends of the task's.
    """
    match space, own:
        case types.Factorised(), types.Discrete():
            return action[..., 0]
        case types.Factorised(), types.Factorised(sizes):
            return action[..., : len(sizes)]
        case types.Box(), types.Box():
            return _rescale(space, own, action[..., : len(own.low)])
    return action


def all_legal(space: types.ActionSpace) -> tuple[bool, ...]:
    """Returns the mask [M] of a space all of whose actions are legal."""
    return (True,) * types.action_mask_size(space)


def pad_mask(space: types.ActionSpace, own: types.ActionSpace, mask: Array) -> Array:
    """Returns the mask of the combined ``space`` from the task's own (``[..., M]``).

    What the task does not have is False, except choice 0 of a group it does not have:
    a group needs one legal choice, and a group with one adds nothing to log-probability
    or entropy.
    """
    if not isinstance(space, types.Factorised):
        return _pad_last(mask, types.action_mask_size(space))
    parts, start = [], 0
    own_groups = types.groups(own)
    for i, size in enumerate(space.sizes):
        if i < len(own_groups):
            parts.append(_pad_last(mask[..., start : start + own_groups[i]], size))
            start += own_groups[i]
        else:
            only_first = jnp.arange(size) == 0
            parts.append(jnp.broadcast_to(only_first, (*mask.shape[:-1], size)))
    return jnp.concatenate(parts, axis=-1)


def _rescale(space: types.Box, own: types.Box, action: Array) -> Array:
    n = len(own.low)
    ends = np.asarray(
        [space.low[:n], space.high[:n], own.low, own.high], dtype=np.float32
    )
    low, high, to_low, to_high = ends
    differ = (low != to_low) | (high != to_high)
    change = differ & np.isfinite(ends).all(axis=0) & (high > low)
    if not change.any():
        return action
    # Dimensions that are not rescaled keep their action bit for bit.
    none = np.asarray([[0], [1], [0], [1]], np.float32)
    low, high, to_low, to_high = np.where(change[None], ends, none)
    scale = (to_high - to_low) / (high - low)
    shift = to_low - low * scale
    moved = action * _like(scale, action) + _like(shift, action)
    return jnp.where(_like(change, action), moved, action)


def _columns(rows: Sequence[tuple]) -> list[list]:
    return [
        [row[i] for row in rows if i < len(row)] for i in range(max(map(len, rows)))
    ]


def _pad_last(x: Array, size: int) -> Array:
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, size - x.shape[-1])])


def _bound(values: tuple[float, ...], like: Array) -> Array:
    return _like(np.asarray(values, np.float32), like)


def _like(x: np.ndarray, like: Array) -> Array:
    """Returns ``x`` with the rank of ``like``: rank promotion may be an error."""
    return jnp.asarray(x).reshape((1,) * (like.ndim - x.ndim) + x.shape)
