"""Numbers as tokens: 1024 bins of what μ-law companding makes of them, or of [-1, 1].

    mu_law    F(x) = sgn(x) ln(|x| μ + 1) / ln(M μ + 1), μ = 100, M = 256, for numbers
              without a bound; F(x) is clipped to [-1, 1]
    bounded   numbers of [-1, 1] as they are
    bin       k = floor((F(x) + 1) 512), at most 1023; its centre is (2k + 1) / 1024 - 1

Which one is chosen once for all numbers: decided number by number it would not be monotone.

Ref: Reed et al. 2022, "A Generalist Agent" (arXiv:2205.06175), appendix B; there bins
are tokens from 32000 on, after those of text.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from mtrl_jax.types import Array

BINS = 1024
KINDS = ("none", "mu_law", "bounded")
_MU, _MOST = 100.0, 256.0


def encode(kind: str, x: Array) -> Array:
    """Returns the bin of each number, int32 [...]."""
    x = jnp.asarray(x, jnp.float32)
    if kind == "mu_law":
        most = jnp.log1p(jnp.float32(_MOST * _MU))
        x = jnp.sign(x) * jnp.log1p(jnp.abs(x) * _MU) / most
    place = jnp.floor((jnp.clip(x, -1.0, 1.0) + 1.0) * (BINS / 2))
    return jnp.minimum(place, BINS - 1).astype(jnp.int32)


class Numbers(nn.Module):
    """Returns [..., N size] of numbers [..., N]: what is learned of the bin of each.

    One table for all of them; where a number stands says which one it is.
    """

    kind: str
    size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        index = encode(self.kind, x)
        scale = nn.initializers.normal(1.0)
        table = self.param("table", scale, (BINS, self.size))
        found = jnp.take(table, index, axis=0)
        return found.reshape(*x.shape[:-1], -1)


def observation(kind: str, size: int, obs: dict[str, Array]) -> dict[str, Array]:
    """Returns an observation whose vector, if it has one, is read as tokens.

    For use within a compact module.
    """
    if kind == "none" or "vector" not in obs:
        return obs
    return {**obs, "vector": Numbers(kind, size, name="numbers")(obs["vector"])}
