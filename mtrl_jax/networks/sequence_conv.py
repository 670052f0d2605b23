"""A 1-D convolution over positions at the front of a vector, such as rays side by side.

    x [positions, channels] -> 32 filters of 5, stride 2 -> 32 filters of 3 -> flat

VALID, with ReLU after either. What follows in the vector (a body's own numbers) is not
convolved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import conv, initialisers
from mtrl_jax.types import Array

FILTERS = 32
_LAYERS = ((5, 2), (3, 1))  # (width, stride)
SMALLEST = 9  # positions, of which the second layer leaves one

_orthogonal = initialisers.orthogonal(2**0.5)


class SequenceConv(nn.Module):
    """Returns [..., F + D − positions · channels] of vectors [..., D]."""

    positions: int
    channels: int
    implementation: str = "auto"

    @nn.compact
    def __call__(self, vector: Array) -> Array:
        lead, size = vector.shape[:-1], self.positions * self.channels
        x = vector[..., :size].reshape(*lead, 1, self.positions, self.channels)
        for width, stride in _LAYERS:
            x = conv.Conv(
                FILTERS,
                (1, width),
                strides=(1, stride),
                padding="VALID",
                kernel_init=_orthogonal,
                implementation=self.implementation,
            )(x)
            x = jax.nn.relu(x)
        return jnp.concatenate([x.reshape(*lead, -1), vector[..., size:]], axis=-1)


def check(sequence: Sequence[int], obs: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    """Raises ValueError unless the vector of ``obs`` begins with such a sequence."""
    if not sequence:
        return
    if len(sequence) != 2 or sequence[0] < SMALLEST or sequence[1] < 1:
        raise ValueError(
            f"sequence: got {list(sequence)}, give [positions, channels] of at least "
            f"[{SMALLEST}, 1], or [] for none"
        )
    size = obs["vector"].shape[0] if "vector" in obs else 0
    if sequence[0] * sequence[1] > size:
        raise ValueError(
            f"sequence: {list(sequence)} are {sequence[0] * sequence[1]} numbers, and "
            f"the observation's vector has {size}; give fewer, or [] for none"
        )
