"""Operations on whole pytrees that the engine needs; nothing here knows what is in them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from mtrl_jax.types import Array, Tree

# Mesh axes: of the devices that share the members, and one member's slots.
MEMBER_AXIS, SLOT_AXIS = "pop", "slot"


def where(condition: Array, on_true: Tree, on_false: Tree) -> Tree:
    """Returns a tree that takes each leaf's leading entries where ``condition`` is True.

    ``condition`` has the leading axes ``[...]`` that every leaf starts with.
    """

    def select(x, y):
        shape = condition.shape + (1,) * (jnp.ndim(x) - condition.ndim)
        return jnp.where(condition.reshape(shape), x, y)

    return jax.tree.map(select, on_true, on_false)


# What is jitted here is one program for a whole tree where it is called outside of one.
@functools.partial(jax.jit, static_argnames="axis", inline=True)
def take(tree: Tree, index: Array, axis: int = 0) -> Tree:
    """Returns the tree with every leaf indexed along ``axis``."""
    return jax.tree.map(lambda x: jnp.take(x, index, axis=axis), tree)


def concatenate(trees: Sequence[Tree], axis: int = 0) -> Tree:
    """Returns one tree with the leaves of all joined along ``axis``."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *xs: jnp.concatenate(xs, axis), *trees)


def stack(trees: Sequence[Tree], axis: int = 0) -> Tree:
    """Returns one tree with the leaves of all stacked along a new ``axis``."""
    return jax.tree.map(lambda *xs: jnp.stack(xs, axis), *trees)


def slice_axis(tree: Tree, start: int, stop: int, axis: int) -> Tree:
    """Returns ``leaf[start:stop]`` along ``axis`` of every leaf (static bounds)."""
    return jax.tree.map(lambda x: jax.lax.slice_in_dim(x, start, stop, axis=axis), tree)


def shard(tree: Tree, axis: int = 0) -> Tree:
    """Returns the tree, its values as they were, ``axis`` split over a member's devices.

    It is for what is put together from all slots, such as the rows of a minibatch: left
    to itself the compiler has every device that shares the member work on all of them.
    A leaf whose size does not divide, or that is on one device, stays as it is.
    """
    devices = dict(jax.sharding.get_abstract_mesh().shape).get(SLOT_AXIS, 1)

    def split(x: Array) -> Array:
        if devices == 1 or x.shape[axis] % devices:
            return x
        spec: list[Any] = [PartitionSpec.UNCONSTRAINED] * x.ndim
        spec[axis] = SLOT_AXIS
        return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec))

    return jax.tree.map(split, tree)


def apart(function: Callable, *arguments: Tree) -> Tree:
    """Returns ``function(*arguments)``, computed by each device of its members alone.

    Every leaf of the arguments and of the result starts with the members P. It is for
    what asks something of all rows before it works, such as whether any slot is to be
    reset: asked of all devices, they would wait for each other at every step. Without
    such devices, or where P does not divide, it is a plain call.
    """
    mesh = jax.sharding.get_abstract_mesh()
    devices = dict(mesh.shape).get(MEMBER_AXIS, 1)
    if devices == 1 or any(x.shape[0] % devices for x in jax.tree.leaves(arguments)):
        return function(*arguments)
    own = PartitionSpec(MEMBER_AXIS)
    return jax.shard_map(
        function, mesh=mesh, in_specs=own, out_specs=own, axis_names={MEMBER_AXIS},
        check_vma=False,
    )(*arguments)  # fmt: skip


def copy(tree: Tree) -> Tree:
    """Returns the tree with fresh buffers, so that donating one cannot free the other."""
    return jax.tree.map(jnp.copy, tree)


@functools.partial(jax.jit, static_argnames="axes", inline=True)
def all_finite(tree: Tree, axes: int = 0) -> Array:
    """Returns whether every float leaf is finite, reduced over all but ``axes`` axes."""
    leaves = jax.tree.leaves(tree)
    # Without any float leaf the others, always finite, say which shape True has.
    leaves = [x for x in leaves if _is_float(x)] or leaves
    flags = [jnp.all(jnp.isfinite(x), axis=tuple(range(axes, x.ndim))) for x in leaves]
    return jnp.all(jnp.stack(flags), axis=0)


def _is_float(x: Array) -> bool:
    return jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)
