"""The orthogonal initialiser, without LAPACK.

jax's ``orthogonal`` calls a QR per matrix. A population of networks makes many at once,
and on CPU the LAPACK calls then fight for threads: initialising 8 Nature networks on 2
busy cores took from 10 s to minutes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mtrl_jax.types import Array, Key


def orthogonal(gain: float = 1.0) -> Callable[..., Array]:
    """Returns an initialiser of uniformly random orthogonal matrices times ``gain``.

    A kernel [..., inputs, outputs] is seen as the matrix [(... inputs), outputs]; its
    columns, or its rows if there are fewer, are orthonormal. The matrix is the product
    of Householder reflections of Gaussian vectors.

    Ref: Stewart 1980, "The efficient generation of random orthogonal matrices".
    """

    def init(key: Key, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
        rows, columns = math.prod(shape[:-1]), shape[-1]
        tall = _tall(key, max(rows, columns), min(rows, columns))
        matrix = tall if rows >= columns else tall.T
        return (gain * matrix).reshape(shape).astype(dtype)

    return init


# Jitted, it is traced once for a shape, however often a network is.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _tall(key: Key, rows: int, columns: int) -> Array:
    """Returns a uniformly random [rows, columns] with orthonormal columns.

    H_0 H_1 ... I D, where H_i reflects coordinates i, i + 1, ... so that e_i goes to a
    uniformly random direction, up to the sign that D restores.
    """
    vectors = jax.random.normal(key, (columns, rows))
    index = jnp.arange(columns)
    vectors = jnp.where(jnp.arange(rows)[None, :] >= index[:, None], vectors, 0.0)
    first = vectors[index, index]
    sign = jnp.where(first < 0, -1.0, 1.0)
    norm = jnp.linalg.norm(vectors, axis=-1)
    vectors = vectors.at[index, index].add(sign * norm)
    vectors = vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)

    def reflect(matrix, vector):
        return matrix - 2.0 * vector[:, None] * (vector @ matrix)[None, :], None

    matrix = jnp.eye(rows, columns) * -sign[None, :]
    return jax.lax.scan(reflect, matrix, vectors, reverse=True)[0]
