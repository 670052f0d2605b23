"""A dense layer that explores: its weights have noise whose size is learned.

    y = x·(μ + scale · σ ∘ f(ε_in) f(ε_out)ᵀ) + b + scale · σ_b ∘ f(ε_out),
    f(x) = sgn(x) √|x|

Ref: Fortunato et al. 2018, "Noisy Networks for Exploration" (arXiv:1706.10295), factorised
noise. Learning has one noise for a whole batch, as there. Acting has one for each row, by
which slots explore independently: for one product more, ((x ∘ f(ε_in))·σ) ∘ f(ε_out),
and as many numbers to draw as there are inputs in a batch.
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import product
from mtrl_jax.types import Array, Key, Scalar

SIGMA = 0.5  # of a fresh layer, over the root of its inputs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Noise:
    """Where a network's noise comes from, and how much of it there is."""

    key: Key
    scale: Scalar = 1.0  # 0: the mean weights
    # Static: each row of a batch has noise of its own, or all have the same.
    each: bool = dataclasses.field(default=True, metadata={"static": True})


class NoisyDense(nn.Module):
    """Returns [..., size] of [..., inputs]; ``place`` tells the layers of a net apart."""

    size: int
    place: int

    @nn.compact
    def __call__(self, x: Array, noise: Noise) -> Array:
        inputs = x.shape[-1]
        bound = inputs**-0.5

        def uniform(key: Key, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        sigma = nn.initializers.constant(SIGMA * bound)
        kernel = self.param("kernel", uniform, (inputs, self.size))
        bias = self.param("bias", uniform, (self.size,))
        sigma_kernel = self.param("sigma_kernel", sigma, (inputs, self.size))
        sigma_bias = self.param("sigma_bias", sigma, (self.size,))
        key_in, key_out = jax.random.split(jax.random.fold_in(noise.key, self.place))
        rows = x.shape[:-1] if noise.each else ()
        f_in = _noise(key_in, (*rows, inputs))
        f_out = _noise(key_out, (*rows, self.size))

        def row(b: Array) -> Array:
            return b.reshape((1,) * (x.ndim - 1) + (-1,))

        if not noise.each:
            kernel = kernel + noise.scale * sigma_kernel * jnp.outer(f_in, f_out)
            bias = bias + noise.scale * sigma_bias * f_out
            return product.product(x, kernel) + row(bias)
        mean = product.product(x, kernel) + row(bias)
        spread = product.product(x * f_in, sigma_kernel) + row(sigma_bias)
        return mean + noise.scale * f_out * spread


def _noise(key: Key, shape: tuple[int, ...]) -> Array:
    """Returns f(ε) of ``shape``; drawn features first, so that more change none."""
    x = jnp.moveaxis(jax.random.normal(key, (shape[-1], *shape[:-1])), 0, -1)
    return jnp.sign(x) * jnp.sqrt(jnp.abs(x))
