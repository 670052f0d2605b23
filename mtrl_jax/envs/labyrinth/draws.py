"""Random words of a whole episode's start, a row for each of its uses.

A compiler makes every draw a loop of its own and unrolls those over a few words: the keys
and words of one map were most of what a training program compiled. Here one loop over the
rows holds one fold of a key and one draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.types import Array, Key

Path = tuple[int, ...]


def words(keys: Key, paths: Sequence[Path], number: int) -> Array:
    """Returns random words uint32 [K, number], row k by ``keys[k]`` and its path.

    On a path (i, j) the key is ``fold_in(fold_in(key, i), j)``, which is
    ``split(split(key, n)[i], m)[j]`` as well. A row's first n words are those of
    ``jax.random.bits(key, (n,))``.
    """
    depth = max(map(len, paths))
    # -1: the path has ended.
    padded = np.asarray([(*path, *[-1] * (depth - len(path))) for path in paths])

    def row(given):
        data, path = given

        def fold(i, data):
            key = jax.random.wrap_key_data(data)
            folded = jax.random.key_data(jax.random.fold_in(key, path[i]))
            return jnp.where(path[i] < 0, data, folded)

        data = jax.lax.fori_loop(0, depth, fold, data)
        return jax.random.bits(jax.random.wrap_key_data(data), (number,))

    return jax.lax.map(row, (jax.random.key_data(keys), jnp.asarray(padded, jnp.int32)))


def uniform(words: Array) -> Array:
    """Returns numbers in [0, 1) from words, those of ``jax.random.uniform``."""
    return (words >> 9).astype(jnp.float32) * jnp.float32(2**-23)
