"""Random numbers of a whole episode's start, drawn at once.

A compiler turns every draw into a loop of its own, of some thousand instructions; over
small squares it unrolls it, and a map drawn in seven parts took most of the time that a
training program compiled. So all keys draw their words together, in long rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mtrl_jax.types import Array, Key


def words(keys: Key, number: int) -> Array:
    """Returns random words uint32 [K, number] of keys [K].

    The first n of a row are those of ``jax.random.bits(key, (n,))``.
    """
    return jax.vmap(lambda key: jax.random.bits(key, (number,)))(keys)


def uniform(words: Array) -> Array:
    """Returns numbers in [0, 1) from words, those of ``jax.random.uniform``."""
    return (words >> 9).astype(jnp.float32) * jnp.float32(2**-23)
