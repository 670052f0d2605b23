"""Stacks that read images: the four convolutional networks of the field.

Biases start at zero; kernels are orthogonal with gain √2, except in the residual network
(flax's LeCun normal).

Refs: Mnih et al. 2015 (nature); Espeholt et al. 2018, arXiv:1802.01561, figure 3 (impala);
Young & Tian 2019, arXiv:1903.03176 (minatar).
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import conv, mlp
from mtrl_jax.types import Array

# The papers' sizes: filters of each layer (impala_deep: section), units of the last one.
FILTERS: dict[str, tuple[int, ...]] = {
    "minatar": (16,),
    "impala_shallow": (16, 32),
    "impala_deep": (16, 32, 32),
    "nature": (32, 64, 64),
}
FEATURES = {"minatar": 128, "impala_shallow": 256, "impala_deep": 256, "nature": 512}
# Smallest height and width whose last layer still has an output.
SMALLEST = {"minatar": 3, "impala_shallow": 20, "impala_deep": 1, "nature": 36}


class Stack(nn.Module):
    """What the networks have in common: features of maps, through a dense layer or not."""

    implementation: str
    norm: bool  # a layer norm before each activation
    dense: bool  # the last layer; without it features are maps
    filters: tuple[int, ...]
    features: int  # of the last layer
    dtype: str

    def _features(self, x: Array) -> Array:
        x = x.reshape(*x.shape[:-3], -1)
        if not self.dense:
            return x
        x = mlp.dense(self.features, self.dtype)(x)
        return jax.nn.relu(mlp.normed(x, self.norm))


class Convolutions(Stack):
    """Returns features [..., F] of VALID convolutions, each followed by a ReLU."""

    layers: tuple[tuple[int, int], ...]  # kernel and stride

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for features, (kernel, stride) in zip(self.filters, self.layers, strict=True):
            x = conv.Conv(
                features,
                (kernel, kernel),
                strides=stride,
                padding="VALID",
                kernel_init=mlp.ORTHOGONAL,
                implementation=self.implementation,
                dtype=self.dtype,
            )(x)
            x = jax.nn.relu(mlp.normed(x, self.norm))
        return self._features(x)


class Residual(Stack):
    """Returns features [..., F] of IMPALA's 15-layer network.

    A section for each of ``filters``: 3x3 convolution, max-pool 3x3 stride 2, two residual
    blocks. It has no layer norm between them.
    """

    blocks: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for channels in self.filters:
            layer = functools.partial(
                conv.Conv,
                channels,
                (3, 3),
                implementation=self.implementation,
                dtype=self.dtype,
            )
            x = conv.max_pool(layer()(x), implementation=self.implementation)
            for _ in range(self.blocks):
                x = x + layer()(jax.nn.relu(layer()(jax.nn.relu(x))))
        return self._features(jax.nn.relu(x))


# impala_shallow is VALID: 0.585 M parameters at 96 x 72, 1.12 M with LSTM and heads and
# 1.23 M with an LSTM for language as well, of which the paper says 1.2 M.
STACKS: dict[str, Any] = {
    "minatar": functools.partial(Convolutions, layers=((3, 1),)),
    "impala_shallow": functools.partial(Convolutions, layers=((8, 4), (4, 2))),
    "impala_deep": Residual,
    "nature": functools.partial(Convolutions, layers=((8, 4), (4, 2), (3, 1))),
}


def scale_image(image: Array) -> Array:
    """Returns a float32 image: uint8 divided by 255, anything else only cast."""
    scaled = image.astype(jnp.float32)
    return scaled / 255.0 if image.dtype == jnp.uint8 else scaled
