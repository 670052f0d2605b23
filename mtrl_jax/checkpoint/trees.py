"""A tree as a checkpoint holds it: described, as a dict of arrays, with checksums.

Orbax is given the leaves by number; what tells one tree from another (names, shapes,
dtypes) and sound bits from damaged ones (a checksum per leaf) is written beside them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.types import Array, Tree


class Leaf(NamedTuple):
    """What a checkpoint says of an array beside its bits."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def describe(tree: Tree) -> list[Leaf]:
    """Returns the leaves' names, shapes and dtypes."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return [
        Leaf(jax.tree_util.keystr(path), tuple(np.shape(x)), str(_dtype(x)))
        for path, x in flat
    ]


def misfit(saved: list[Leaf], wanted: list[Leaf]) -> str:
    """Returns how the first leaf that differs does, as a predicate; "" if none does."""
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


def to_save(tree: Tree) -> dict[str, Any]:
    """Returns the leaves by number, without those of size 0 (orbax refuses them)."""
    leaves = jax.tree.leaves(tree)
    leaves = [np.asarray(x) if _is_host(x) else x for x in leaves]
    return {f"{i:05d}": x for i, x in enumerate(leaves) if 0 not in np.shape(x)}


def rebuilt(arrays: dict[str, Any], abstract: Tree) -> Tree:
    """Returns the tree of ``to_save``'s dict."""

    def leaf(i, x):
        return (
            arrays.get(f"{i:05d}")
            if 0 not in np.shape(x)
            else jnp.zeros(x.shape, x.dtype)
        )

    leaves, structure = jax.tree.flatten(abstract)
    return jax.tree.unflatten(structure, [leaf(i, x) for i, x in enumerate(leaves)])


def target(x: Any) -> Any:
    """Returns what orbax is told to restore a leaf as: NumPy, or where it lies."""
    if _is_host(x):
        return np.zeros(np.shape(x), _dtype(x))
    sharding = getattr(x, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(np.shape(x), _dtype(x), sharding=sharding)


def checksums(tree: Tree) -> list[int]:
    """Returns one uint32 per leaf: Σ_i (2i + 1) · bits_i mod 2³², computed on device.

    Integers add up to the same in any order, hence under any sharding. Every changed
    word changes the sum, as its weight is odd.
    """
    leaves = [x for x in jax.tree.leaves(tree) if 0 not in np.shape(x)]
    # As bytes, because jit would make 32 bits of the 64 that NumPy has.
    leaves = [_bytes(x) if _is_host(x) else x for x in leaves]
    return [int(x) for x in jax.device_get(_checksums_of(leaves))]


@jax.jit
def _checksums_of(leaves: list[Array]) -> list[Array]:
    return [_checksum(x) for x in leaves]


def _checksum(x: Array) -> Array:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag])
    if x.dtype == jnp.bool_:
        x = x.astype(jnp.uint8)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(x.dtype.itemsize, jnp.uint32)
    bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    # Weights from one iota per axis: flattening would gather a sharded array.
    weight = jnp.zeros(bits.shape, jnp.uint32)
    for axis, size in enumerate(bits.shape):
        weight = weight * jnp.uint32(size)
        weight += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
    return jnp.sum(bits * (2 * weight + 1), dtype=jnp.uint32)


def _dtype(x: Any) -> Any:
    return x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype


def _is_host(x: Any) -> bool:
    return isinstance(x, np.ndarray | np.generic | float | int | bool)


def _bytes(x: Any) -> np.ndarray:
    return np.frombuffer(np.ascontiguousarray(x).tobytes(), np.uint8)
