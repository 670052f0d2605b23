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


class MinAtar(nn.Module):
    """Returns 128 features: 16 filters 3x3 VALID, one dense layer."""

    implementation: str
    norm: bool
    dense: bool
    filters: tuple[int, ...]
    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return _convs_and_dense(self, x, ((3, 1),))


class ImpalaShallow(nn.Module):
    """Returns 256 features: 16 filters 8x8/4, 32 filters 4x4/2, one dense layer.

    VALID, with which the paper's 1.2 M parameters at 96 x 72 come out.
    """

    implementation: str
    norm: bool
    dense: bool
    filters: tuple[int, ...]
    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return _convs_and_dense(self, x, ((8, 4), (4, 2)))


class Nature(nn.Module):
    """Returns 512 features: 32 filters 8x8/4, 64 4x4/2, 64 3x3, one dense layer."""

    implementation: str
    norm: bool
    dense: bool
    filters: tuple[int, ...]
    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return _convs_and_dense(self, x, ((8, 4), (4, 2), (3, 1)))


class ImpalaDeep(nn.Module):
    """Returns 256 features of the 15-layer residual network.

    Three sections of 16, 32 and 32 channels, each: 3x3 convolution, max-pool 3x3 stride
    2, two residual blocks.
    """

    implementation: str
    norm: bool
    dense: bool
    filters: tuple[int, ...]
    features: int
    dtype: str
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
        return _dense_relu(self, jax.nn.relu(x))


STACKS: dict[str, Any] = {
    "minatar": MinAtar,
    "impala_shallow": ImpalaShallow,
    "impala_deep": ImpalaDeep,
    "nature": Nature,
}


def scale_image(image: Array) -> Array:
    """Returns a float32 image: uint8 divided by 255, anything else only cast."""
    scaled = image.astype(jnp.float32)
    return scaled / 255.0 if image.dtype == jnp.uint8 else scaled


def _convs_and_dense(
    stack: Any, x: Array, layers: tuple[tuple[int, int], ...]
) -> Array:
    """Returns features of (kernel, stride) VALID convolutions, ReLU and a dense layer."""
    for features, (kernel, stride) in zip(stack.filters, layers, strict=True):
        x = conv.Conv(
            features,
            (kernel, kernel),
            strides=stride,
            padding="VALID",
            kernel_init=mlp.ORTHOGONAL,
            implementation=stack.implementation,
            dtype=stack.dtype,
        )(x)
        x = jax.nn.relu(mlp.normed(x, stack.norm))
    return _dense_relu(stack, x)


def _dense_relu(stack: Any, x: Array) -> Array:
    """Returns maps as features, through a dense layer unless ``stack`` has none."""
    x = x.reshape(*x.shape[:-3], -1)
    if not stack.dense:
        return x
    return jax.nn.relu(
        mlp.normed(mlp.dense(stack.features, stack.dtype)(x), stack.norm)
    )
