"""Actions under other numbers: a permutation of the choices, one for each sequence.

    a' = σ(a),    legal'[σ(a)] = legal[a]

σ permutes within each group of a factorised action. Where every window of a history has
its own σ nothing is learned of what action 2 does: that has to be found out in context,
whatever the numbers are. Acting by an agent so trained, a slot has one σ for good.

It is the augmentation by action sets of Sinii et al. 2024, "In-Context Reinforcement
Learning for Variable Action Spaces" (arXiv:2312.13327), which draws vectors in the place
of numbers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.types import Array, Key, Scalar


def own(space: types.ActionSpace, batch: int) -> Array:
    """Returns σ [B, M] int32 under which every choice keeps its number."""
    size = types.action_mask_size(space)
    return jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (batch, size))


def draw(key: Key, space: types.ActionSpace, batch: int, share: Scalar) -> Array:
    """Returns σ [B, M] int32: uniform for a ``share`` of the sequences, else ``own``.

    M counts the choices of all groups one after the other, as ``action_mask`` does.
    """
    which, what = jax.random.split(key)
    group = np.repeat(np.arange(len(_sizes(space))), _sizes(space))
    chance = jax.random.uniform(what, (batch, len(group)))
    # By group first: what is sorted stays in its own.
    drawn = jnp.argsort(jnp.asarray(group, jnp.float32)[None] + chance, axis=-1)
    is_drawn = jax.random.uniform(which, (batch, 1)) < share
    return jnp.where(is_drawn, drawn.astype(jnp.int32), own(space, batch))


def renamed(space: types.ActionSpace, names: Array, action: Array) -> Array:
    """Returns σ(a) of actions [..., B] (of Factorised: [..., B, G]); ``names`` [B, M]."""
    is_single = isinstance(space, types.Discrete)
    start = np.cumsum((0, *_sizes(space)[:-1])).astype(np.int32)
    groups = action[..., None] if is_single else action
    start = start.reshape((1,) * (groups.ndim - 1) + (-1,))
    found = _taken(names, groups + start) - start
    return found[..., 0] if is_single else found


def restored(space: types.ActionSpace, names: Array, action: Array) -> Array:
    """Returns the actions whose ``renamed`` is ``action``."""
    return renamed(space, _inverse(names), action)


def legal(space: types.ActionSpace, names: Array, action_mask: Array) -> Array:
    """Returns the masks [..., B, M] under the new names.

    A group that is masked altogether has its choice 0 (see ``heads.policy``), which the
    mask allows under its new name.
    """
    ends = np.cumsum(_sizes(space))[:-1].tolist()
    groups = [_chosen(group) for group in jnp.split(action_mask, ends, axis=-1)]
    index = jnp.broadcast_to(_inverse(names), action_mask.shape)
    return _taken(jnp.concatenate(groups, axis=-1), index)


def of_rollout(
    space: types.ActionSpace, names: Array, rollout: types.Rollout
) -> types.Rollout:
    """Returns the rollout [T, B] in which actions and masks have their new names."""
    mask = legal(space, names, rollout.ts.action_mask)
    return rollout._replace(
        action=renamed(space, names, rollout.action),
        ts=rollout.ts._replace(action_mask=mask),
    )


def _chosen(group: Array) -> Array:
    """Returns the mask [..., n] of a group, its choice 0 where there is no other."""
    zeroth = group[..., :1] | ~jnp.any(group, axis=-1, keepdims=True)
    return jnp.concatenate([zeroth, group[..., 1:]], axis=-1)


def _inverse(names: Array) -> Array:
    return jnp.argsort(names, axis=-1)


def _taken(x: Array, index: Array) -> Array:
    """Returns the entries of x [..., B, M] at ``index`` [..., B, G]; axes broadcast."""
    shape = (*index.shape[:-1], x.shape[-1])
    return jnp.take_along_axis(jnp.broadcast_to(x, shape), index, axis=-1)


def _sizes(space: types.ActionSpace) -> tuple[int, ...]:
    """Returns the number of choices of each group."""
    match space:
        case types.Discrete(n):
            return (n,)
        case types.Factorised(sizes):
            return tuple(sizes)
        case _:
            raise ValueError(
                f"action: {space} has no choices to permute; use Discrete or Factorised"
            )
