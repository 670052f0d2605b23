"""Parameters and moments as one vector inside an update's passes.

A gradient step of a small network is dozens of operations on dozens of small leaves, each
of which costs more to start than to compute. On one vector, clipping and the optimiser's
rule are a handful of operations. Leaves are laid out once before the passes and taken
apart once after them; in between the network reads slices.

Elementwise rules give the same numbers; a global norm is summed in another order.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from mtrl_jax.types import Array, Tree


class Layout(NamedTuple):
    """How trees of one structure lie in a vector.

    ``pack(tree)`` lays every subtree of that structure out, in whatever it is found (an
    optimiser's state); ``unpack(packed, like)`` gives the tree back, ``like`` having its
    structure. ``read(vector)`` returns the one subtree of a vector and ``lay(subtree)``
    its vector.
    """

    pack: Callable[[Tree], Tree]
    unpack: Callable[[Tree, Tree], Tree]
    read: Callable[[Array], Tree]
    lay: Callable[[Tree], Array]


def layout(params: Tree) -> Layout:
    """Returns the layout of trees like ``params``.

    A single leaf, or leaves of several dtypes, stay as they are.
    """
    leaves, structure = jax.tree.flatten(params)
    shapes = [x.shape for x in leaves]
    if len(leaves) < 2 or len({x.dtype for x in leaves}) > 1:
        return Layout(_same, lambda packed, like: packed, _same, _same)
    _, read = ravel_pytree(params)

    def is_one(x: Tree) -> bool:
        if not operator.eq(jax.tree.structure(x), structure):
            return False
        return [jnp.shape(leaf) for leaf in jax.tree.leaves(x)] == shapes

    def pack(tree: Tree) -> Tree:
        return jax.tree.map(lambda x: _lay(x) if is_one(x) else x, tree, is_leaf=is_one)

    def unpack(packed: Tree, like: Tree) -> Tree:
        return jax.tree.map(
            lambda x, y: read(y) if is_one(x) else y, like, packed, is_leaf=is_one
        )

    return Layout(pack, unpack, read, _lay)


def _lay(tree: Tree) -> Array:
    return ravel_pytree(tree)[0]


def _same(x: Tree) -> Tree:
    return x
