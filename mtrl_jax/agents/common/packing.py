"""Rows of a batch in as few arrays as possible, so that a minibatch is one or two gathers.

On an accelerator a gather has a price of its own that does not depend on how much a small
leaf holds. What is small in a row, a reward or an action, lies side by side with its like:
floats in one array, indices and flags, as int32, in another. Images stay what they are.

On CPUs leaves are taken one by one: a gather is fused there with what reads it, and rows
that lie side by side have to be taken apart again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from mtrl_jax.types import Array, Tree

# Numbers a row. More, and what a gather costs is the copying.
_SMALL = 64
_KINDS: Mapping[str, str] = {
    "float32": "float32", "int32": "int32", "bool": "int32", "uint8": "int32",
}  # fmt: skip


def taker(
    tree: Tree, axes: int, is_packed: bool | None = None
) -> Callable[[Array], Tree]:
    """Returns ``take(index)``, the rows ``index`` along the last of ``axes`` leading axes.

    ``is_packed`` None: on accelerators.
    """
    if is_packed is None:
        is_packed = jax.default_backend() != "cpu"
    before = (slice(None),) * (axes - 1)
    if not is_packed:
        return lambda index: jax.tree.map(lambda x: x[(*before, index)], tree)
    arrays, unpack = pack(tree, axes)
    return lambda index: unpack([x[(*before, index)] for x in arrays])


def pack(tree: Tree, axes: int) -> tuple[list[Array], Callable[[list[Array]], Tree]]:
    """Returns (arrays, unpack) of a tree whose leaves ``[*rows, ...]`` have ``axes`` in rows.

    ``unpack`` gives the tree back from arrays whose leading axes may have other sizes.
    Values, dtypes and trailing shapes are as they were.
    """
    leaves, structure = jax.tree.flatten(tree)
    groups = _groups(leaves, axes)
    arrays = [_side_by_side([leaves[i] for i in group], axes) for group in groups]

    def unpack(arrays: list[Array]) -> Tree:
        found: list[Array] = [arrays[0]] * len(leaves)
        for group, array in zip(groups, arrays):
            parts = _apart(array, [leaves[i] for i in group], axes)
            for i, part in zip(group, parts):
                found[i] = part
        return jax.tree.unflatten(structure, found)

    return arrays, unpack


def _groups(leaves: list[Array], axes: int) -> list[list[int]]:
    """Returns the indices of the leaves that share an array."""
    shared: dict[str, list[int]] = {}
    alone = []
    for i, x in enumerate(leaves):
        kind = _KINDS.get(str(x.dtype))
        if kind is None or _size(x, axes) > _SMALL:
            alone.append([i])
        else:
            shared.setdefault(kind, []).append(i)
    return [*shared.values(), *alone]


def _side_by_side(leaves: list[Array], axes: int) -> Array:
    if len(leaves) == 1:
        return leaves[0]
    kind = _KINDS[str(leaves[0].dtype)]
    flat = [x.reshape(*x.shape[:axes], _size(x, axes)).astype(kind) for x in leaves]
    return jnp.concatenate(flat, axis=-1)


def _apart(array: Array, like: list[Array], axes: int) -> list[Array]:
    if len(like) == 1:
        return [array]
    parts, start = [], 0
    for x in like:
        stop = start + _size(x, axes)
        part = array[..., start:stop].reshape(*array.shape[:axes], *x.shape[axes:])
        parts.append(part.astype(x.dtype))
        start = stop
    return parts


def _size(x: Array, axes: int) -> int:
    return math.prod(x.shape[axes:])
