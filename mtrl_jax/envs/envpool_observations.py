"""What a pool shows, as the observation dict of the kit, in numpy and in the program.

Arrays of bytes with three axes are images, channels last. MiniGrid's cells become bool
planes and its instruction bits. Everything else is one float32 vector, its leaves in
the sorted order of their names; small integers are one-hot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from mtrl_jax.envs import envpool_families as families
from mtrl_jax.envs import envpool_pool

# MiniGrid's cells: kinds of object, colours, states of a door.
_MINIGRID_PLANES = (11, 6, 3)
# A discrete observation with more values than this is taken as a number.
_ONE_HOT_LIMIT = 1024


class Leaf(NamedTuple):
    """One array of the pool that becomes part of the observation."""

    key: str
    part: str  # "image" or "vector"
    encode: Callable[[Any, Any], Any]  # (x [N, ...], xp) -> [N, n] or [N, H, W, C]


def leaves(pool: envpool_pool.Pool, specs: dict[str, Any]) -> tuple[Leaf, ...]:
    """Returns the Leafs of a pool in sorted order; ``specs`` are its arrays' specs."""
    keys = sorted(key for key in specs if key == "obs" or key.startswith("obs:"))
    result = []
    for key in keys:
        if key == "obs:mission" and not pool.options["mission"]:
            continue
        result.append(_leaf(key, pool.family, specs[key]))
    return tuple(result)


def observe(
    leaves: tuple[Leaf, ...], raw: dict[str, Any], batch: tuple[int, int], xp: Any
) -> dict[str, Any]:
    """Returns the observation dict ``[P, B, ...]``: images apart, the rest one vector."""
    parts: dict[str, list[Any]] = {}
    for leaf in leaves:
        parts.setdefault(leaf.part, []).append(leaf.encode(raw[leaf.key], xp))
    return {
        part: xp.concatenate(arrays, axis=-1).reshape(
            *batch, *arrays[0].shape[1:-1], -1
        )
        for part, arrays in parts.items()
    }


def structs(
    leaves: tuple[Leaf, ...], specs: dict[str, Any]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of one slot's observation."""
    raw = {leaf.key: _blank(specs[leaf.key]) for leaf in leaves}
    return {
        part: jax.ShapeDtypeStruct(x.shape[2:], x.dtype)
        for part, x in observe(leaves, raw, (1, 1), np).items()
    }


def _blank(spec: Any) -> np.ndarray:
    shape = tuple(n for n in spec.shape if n != -1)
    return np.zeros((1, *shape), spec.dtype)


def _leaf(key: str, family: str, spec: Any) -> Leaf:
    shape = tuple(n for n in spec.shape if n != -1)
    kind = np.dtype(spec.dtype).kind
    if family == "minigrid" and key == "obs:image":
        return Leaf(key, "image", _grid_planes)
    if family == "minigrid" and key == "obs:mission":
        return Leaf(key, "vector", _character_bits)
    if kind == "u" and len(shape) == 3:
        last = families.FAMILIES[family].channels_first
        return Leaf(key, "image", _channels_last if last else _unchanged)
    low, high = np.min(spec.minimum), np.max(spec.maximum)
    if kind == "i" and high - low < _ONE_HOT_LIMIT:
        return Leaf(key, "vector", _one_hot(int(low), int(high)))
    return Leaf(key, "vector", _flat)


def _unchanged(x: Any, xp: Any) -> Any:
    return x


def _channels_last(x: Any, xp: Any) -> Any:
    return xp.transpose(x, (0, 2, 3, 1))


def _flat(x: Any, xp: Any) -> Any:
    return x.reshape(x.shape[0], -1).astype(xp.float32)


def _equal_to_each(x: Any, values: range, xp: Any) -> Any:
    """Returns ``x == v`` for every v on a new last axis."""
    choices = xp.asarray(values, x.dtype).reshape((1,) * x.ndim + (len(values),))
    return x[..., None] == choices


def _one_hot(low: int, high: int) -> Callable[[Any, Any], Any]:
    values = range(low, high + 1)
    return lambda x, xp: _flat(_equal_to_each(x, values, xp), xp)


def _grid_planes(x: Any, xp: Any) -> Any:
    """Returns bool planes ``[N, H, W, 20]``: object, colour and state of every cell."""
    planes = [
        _equal_to_each(x[..., i], range(n), xp) for i, n in enumerate(_MINIGRID_PLANES)
    ]
    return xp.concatenate(planes, axis=-1)


def _character_bits(x: Any, xp: Any) -> Any:
    """Returns 5 bits per character of an instruction, ``[N, 5 L]``; no text is 0.

    The low bits of a letter are its place in the alphabet, a blank is 0, and a comma,
    which would be taken for an l, becomes 31.
    """
    code = xp.where(x == ord(","), 31, x & 31).astype(xp.uint8)
    bits = [(code >> i) & 1 for i in range(5)]
    return _flat(xp.stack(bits, axis=-1), xp)
