"""Checksums of leaves: of small ones on the host, of large ones where they lie.

A program that sums every leaf of a state would be compiled for each kind of state, for
leaves that are read in no time. Large ones are summed in pieces of 16 MB.

One uint32 per leaf: Σ_i (2i + 1) · bits_i mod 2³² over its words. Integers add up to the
same in any order, hence under any sharding and in any pieces. Every changed word changes
the sum, as its weight is odd.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.checkpoint import trees
from mtrl_jax.types import Array

SMALL = 1 << 20  # bytes that are fetched
# Words of a piece, whose weights are 32 bits each: a CPU program holds them in memory.
WORDS = 4 << 20


def of_leaves(leaves: list[Any]) -> list[int]:
    """Returns one uint32 per leaf; none may be of size 0."""
    # As bytes, because jit would make 32 bits of the 64 that NumPy has.
    given = [_bytes(x) if trees.is_host(x) else _plain(x) for x in leaves]
    small = [x.nbytes <= SMALL and _is_here(x) for x in given]
    fetched = jax.device_get([x for x, is_small in zip(given, small) if is_small])
    large = [x for x, is_small in zip(given, small) if not is_small]
    summed = jax.device_get(_checksums_of(large)) if large else []
    found = {True: map(_checksum_on_host, fetched), False: map(int, summed)}
    return [next(found[is_small]) for is_small in small]


def _plain(x: Array) -> Array:
    """Returns a key's words, anything else as it is."""
    return jax.random.key_data(x) if trees.is_key(x) else x


def _is_here(x: Any) -> bool:
    """Returns True if this process can read all of ``x``."""
    return not isinstance(x, jax.Array) or x.is_fully_addressable


def _checksum_on_host(x: np.ndarray) -> int:
    """Returns what ``_checksum`` does."""
    if np.iscomplexobj(x):
        x = np.stack([x.real, x.imag])
    unsigned = {1: np.uint8, 2: np.uint16}.get(x.dtype.itemsize, np.uint32)
    bits = np.ascontiguousarray(x).reshape(-1).view(unsigned).astype(np.uint32)
    weight = 2 * np.arange(bits.size, dtype=np.uint32) + np.uint32(1)
    return int(np.sum(bits * weight, dtype=np.uint32))


@jax.jit
def _checksums_of(leaves: list[Array]) -> list[Array]:
    return [_checksum(x) for x in leaves]


def _checksum(x: Array) -> Array:
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        x = jnp.stack([x.real, x.imag])
    if x.size <= WORDS:
        return _sum(x, 0, 0, x.shape)
    axis = int(np.argmax(x.shape))
    rows = max(1, WORDS // (x.size // x.shape[axis]))
    full, rest = divmod(x.shape[axis], rows)

    def add(i, total: Array) -> Array:
        start = i * rows
        part = jax.lax.dynamic_slice_in_dim(x, start, rows, axis)
        return total + _sum(part, axis, start, x.shape)

    total = jax.lax.fori_loop(0, full, add, jnp.uint32(0))
    if not rest:
        return total
    last = jax.lax.slice_in_dim(x, full * rows, None, axis=axis)
    return total + _sum(last, axis, full * rows, x.shape)


def _sum(part: Array, axis: int, start: Any, shape: tuple[int, ...]) -> Array:
    """Returns the sum over a part of an array of ``shape``, from ``start`` on ``axis``."""
    if part.dtype == jnp.bool_:
        part = part.astype(jnp.uint8)
    unsigned = {1: jnp.uint8, 2: jnp.uint16}.get(part.dtype.itemsize, jnp.uint32)
    bits = jax.lax.bitcast_convert_type(part, unsigned).astype(jnp.uint32)
    # 64 bits are two words on an axis of their own.
    shape = (*shape, *bits.shape[part.ndim :])
    # Weights from one iota per axis: flattening would gather a sharded array.
    weight = jnp.zeros(bits.shape, jnp.uint32)
    for i, size in enumerate(shape):
        weight = weight * jnp.uint32(size)
        weight += jax.lax.broadcasted_iota(jnp.uint32, bits.shape, i)
        if i == axis:
            weight += jnp.uint32(start)
    return jnp.sum(bits * (2 * weight + 1), dtype=jnp.uint32)


def _bytes(x: Any) -> np.ndarray:
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)
