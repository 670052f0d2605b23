"""Dense layers one after the other, as torsos end in or consist of."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import initialisers, product
from mtrl_jax.types import Array

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}
ORTHOGONAL = initialisers.orthogonal(2**0.5)


class MLP(nn.Module):
    """Returns [..., hidden[-1]]: dense layers, each followed by the activation."""

    hidden: tuple[int, ...]
    activation: str = "tanh"
    norm: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for size in self.hidden:
            y = dense(size, self.dtype)(x)
            x = ACTIVATIONS[self.activation](normed(y, self.norm))
        return x


def normed(x: Array, norm: bool) -> Array:
    """Returns ``x`` [..., F], with a layer norm if there is one."""
    return nn.LayerNorm()(x) if norm else x


def dense(size: int, dtype: str) -> nn.Dense:
    """Returns an orthogonal dense layer."""
    return nn.Dense(
        size,
        dtype=dtype,
        kernel_init=ORTHOGONAL,
        dot_general=product.dot_general,
    )
