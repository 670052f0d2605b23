"""A tree as a checkpoint holds it: its leaves by name, described.

What tells one tree from another (names, shapes, dtypes) is written beside the arrays.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.types import Tree


class Leaf(NamedTuple):
    """What a checkpoint says of an array beside its bits."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def named(tree: Tree) -> dict[str, Any]:
    """Returns {name: leaf} in the order of the leaves."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path): x for path, x in flat}


def describe(leaves: dict[str, Any]) -> list[Leaf]:
    """Returns the leaves' names, shapes and dtypes."""
    return [Leaf(n, tuple(np.shape(x)), str(dtype_of(x))) for n, x in leaves.items()]


def misfit(saved: list[Leaf], wanted: list[Leaf]) -> str:
    """Returns how the first leaf that differs does, as a predicate; "" if none does.

    >>> misfit([Leaf(".w", (2,), "float32")], [Leaf(".w", (3,), "float32")])
    'has state.w as float32(2,), this run as float32(3,)'
    """
    by_name = {x.name: x for x in wanted}
    names = {x.name for x in saved}
    for leaf in saved:
        if leaf.name not in by_name:
            return f"holds state{leaf.name}, which this run does not have"
        if leaf != by_name[leaf.name]:
            new = by_name[leaf.name]
            return (
                f"has state{leaf.name} as {leaf.dtype}{leaf.shape}, "
                f"this run as {new.dtype}{new.shape}"
            )
    for leaf in wanted:
        if leaf.name not in names:
            return f"has no state{leaf.name}"
    return ""


def without(tree: Tree, dropped: tuple[str, ...]) -> dict[str, Any]:
    """Returns {name: leaf} of what is not in the subtrees ``dropped``.

    A subtree is called by the fields, keys and indices that lead to it, "run.memory".
    """
    flat = jax.tree_util.tree_leaves_with_path(tree)

    def is_kept(path) -> bool:
        dotted = jax.tree_util.keystr(path, simple=True, separator=".")
        return not any(f"{dotted}.".startswith(f"{name}.") for name in dropped)

    return {jax.tree_util.keystr(path): x for path, x in flat if is_kept(path)}


def missing(tree: Tree) -> list[str]:
    """Returns the names of the leaves that ``restore`` could not give: dropped ones.

    In their place is a ``jax.ShapeDtypeStruct``.
    """
    found = named(tree).items()
    return [name for name, x in found if isinstance(x, jax.ShapeDtypeStruct)]


def abstract(tree: Tree) -> Tree:
    """Returns what ``restore`` needs to know of a tree: it keeps none of its arrays.

    ``jax.ShapeDtypeStruct`` with shardings; NumPy's leaves are NumPy's still, without
    memory of their own.
    """

    def of(x):
        if not is_host(x):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        return np.broadcast_to(np.zeros((), dtype_of(x)), np.shape(x))

    return jax.tree.map(of, tree)


def filled(like: Tree, leaves: dict[str, Any]) -> Tree:
    """Returns ``like`` with these leaves; what has no name among them is missing."""

    def leaf(path, x):
        found = leaves.get(jax.tree_util.keystr(path))
        return _struct(x) if found is None else found

    return jax.tree_util.tree_map_with_path(leaf, like)


def target(x: Any) -> Any:
    """Returns what a leaf is restored as: NumPy (its shape alone), or where it lies."""
    if is_host(x):
        return np.broadcast_to(np.zeros((), dtype_of(x)), np.shape(x))
    return _struct(x)


def bytes_of(tree: Tree) -> int:
    """Returns how many bytes the leaves hold together: arrays, or shapes and dtypes.

    >>> bytes_of({"obs": jax.ShapeDtypeStruct((8, 10), jnp.uint8), "at": np.int32(0)})
    84
    """
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(np.shape(x)) * dtype_of(x).itemsize for x in leaves)


def dtype_of(x: Any) -> Any:
    """Returns the dtype of an array, of its shape, or of a Python number."""
    return x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype


def is_key(x: Any) -> bool:
    """Returns whether a leaf is typed PRNG keys."""
    return jnp.issubdtype(dtype_of(x), jax.dtypes.prng_key)


def is_host(x: Any) -> bool:
    """Returns whether a leaf is NumPy's or Python's."""
    return isinstance(x, np.ndarray | np.generic | float | int | bool)


def _struct(x: Any) -> jax.ShapeDtypeStruct:
    place = getattr(x, "sharding", None)
    if place is None:
        place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(np.shape(x), dtype_of(x), sharding=place)
