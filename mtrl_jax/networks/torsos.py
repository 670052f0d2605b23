"""Torsos: from an observation ``{"vector": [..., N], "image": [..., H, W, C]}`` to features.

An image goes through one of four convolutional stacks, a vector through an MLP; where
there are both, their features are concatenated. Biases start at zero; kernels are
orthogonal with gain √2, except in the residual network (flax's LeCun normal).

Refs: Mnih et al. 2015 (nature); Espeholt et al. 2018, arXiv:1802.01561, figure 3 (impala);
Young & Tian 2019, arXiv:1903.03176 (minatar).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import conv, initialisers, product, sequence_conv
from mtrl_jax.types import Array

TORSOS = ("auto", "mlp", "minatar", "impala_shallow", "impala_deep", "nature")
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}
# Smallest height and width whose last layer still has an output.
_SMALLEST = {"minatar": 3, "impala_shallow": 20, "impala_deep": 1, "nature": 36}

_orthogonal = initialisers.orthogonal(2**0.5)


class Torso(nn.Module):
    """Returns features [..., F] of an observation; ``kind`` is one that ``choose`` gave.

    ``side`` [..., S] (task, last action, last reward; S may be 0) joins the vector in
    front of the MLP; where there is no vector it joins the image's features, as in
    IMPALA.
    """

    kind: str
    hidden: tuple[int, ...]
    activation: str
    implementation: str = "auto"
    norm: bool = False  # a layer norm before each activation, not in impala_deep
    dense: bool = True  # the image's last layer; without it its features are maps
    sequence: tuple[int, ...] = ()  # at the front of the vector, see sequence_conv

    @nn.compact
    def __call__(self, obs: Mapping[str, Array], side: Array) -> Array:
        lead = side.shape[:-1]
        flat, features = [], []
        if "vector" in obs:
            flat.append(self._vector(obs["vector"].astype(jnp.float32)))
        if "image" in obs:
            image = scale_image(obs["image"])
            if self.kind == "mlp":
                flat.append(image.reshape(*lead, -1))
            else:
                stack = _STACKS[self.kind](
                    self.implementation, self.norm, self.dense, name=self.kind
                )
                features.append(stack(image))
        (flat or features).append(side)
        if flat:
            mlp = MLP(self.hidden, self.activation, self.norm, name="mlp")
            features.append(mlp(jnp.concatenate(flat, -1)))
        return jnp.concatenate(features, -1)

    def _vector(self, vector: Array) -> Array:
        if not self.sequence:
            return vector
        positions, channels = self.sequence
        return sequence_conv.SequenceConv(
            positions, channels, self.implementation, name="sequence"
        )(vector)


class MLP(nn.Module):
    """Returns [..., hidden[-1]]: dense layers, each followed by the activation."""

    hidden: tuple[int, ...]
    activation: str = "tanh"
    norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for size in self.hidden:
            x = ACTIVATIONS[self.activation](_normed(_dense(size)(x), self.norm))
        return x


class MinAtar(nn.Module):
    """Returns 128 features: 16 filters 3x3 VALID, one dense layer."""

    implementation: str = "auto"
    norm: bool = False
    dense: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return _convs_and_dense(self, x, ((16, 3, 1),), 128)


class ImpalaShallow(nn.Module):
    """Returns 256 features: 16 filters 8x8/4, 32 filters 4x4/2, one dense layer.

    VALID, with which the paper's 1.2 M parameters at 96 x 72 come out.
    """

    implementation: str = "auto"
    norm: bool = False
    dense: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        layers = ((16, 8, 4), (32, 4, 2))
        return _convs_and_dense(self, x, layers, 256)


class Nature(nn.Module):
    """Returns 512 features: 32 filters 8x8/4, 64 4x4/2, 64 3x3, one dense layer."""

    implementation: str = "auto"
    norm: bool = False
    dense: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        layers = ((32, 8, 4), (64, 4, 2), (64, 3, 1))
        return _convs_and_dense(self, x, layers, 512)


class ImpalaDeep(nn.Module):
    """Returns 256 features of the 15-layer residual network.

    Three sections of 16, 32 and 32 channels, each: 3x3 convolution, max-pool 3x3 stride
    2, two residual blocks.
    """

    implementation: str = "auto"
    norm: bool = False
    dense: bool = True
    channels: tuple[int, ...] = (16, 32, 32)
    blocks: int = 2

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for channels in self.channels:
            layer = functools.partial(
                conv.Conv, channels, (3, 3), implementation=self.implementation
            )
            x = conv.max_pool(layer()(x), implementation=self.implementation)
            for _ in range(self.blocks):
                x = x + layer()(jax.nn.relu(layer()(jax.nn.relu(x))))
        return _dense_relu(self, jax.nn.relu(x), 256)


_STACKS: dict[str, Any] = {
    "minatar": MinAtar,
    "impala_shallow": ImpalaShallow,
    "impala_deep": ImpalaDeep,
    "nature": Nature,
}


def choose(kind: str, obs: Mapping[str, jax.ShapeDtypeStruct]) -> str:
    """Returns the torso for observations of one slot, with "auto" resolved.

    auto: no image, or one under 3 pixels wide or high: mlp; one of height at most 16, or
    too small for the next: minatar; otherwise impala_shallow.
    Raises ValueError for an unknown torso or observation, a convolutional torso without
    an image or with one too small for it.
    """
    if kind not in TORSOS:
        raise ValueError(f"torso: {kind!r} is not known, use one of {TORSOS}")
    _check_obs(obs)
    image = obs.get("image")
    if kind == "auto":
        return _auto(image)
    if kind == "mlp":
        return kind
    if image is None:
        raise ValueError(
            f"torso: {kind!r} needs an image, the observation has only "
            f"{sorted(obs)}; use 'mlp' or 'auto'"
        )
    smallest = _SMALLEST[kind]
    if min(image.shape[:2]) < smallest:
        raise ValueError(
            f"torso: {kind!r} needs an image of at least {smallest}x{smallest}, got "
            f"{image.shape[0]}x{image.shape[1]}; use 'auto'"
        )
    return kind


def scale_image(image: Array) -> Array:
    """Returns a float32 image: uint8 divided by 255, anything else only cast."""
    scaled = image.astype(jnp.float32)
    return scaled / 255.0 if image.dtype == jnp.uint8 else scaled


def _auto(image: jax.ShapeDtypeStruct | None) -> str:
    if image is None or min(image.shape[:2]) < _SMALLEST["minatar"]:
        return "mlp"
    if image.shape[0] <= 16 or min(image.shape[:2]) < _SMALLEST["impala_shallow"]:
        return "minatar"
    return "impala_shallow"


def _check_obs(obs: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    unknown = sorted(set(obs) - {"vector", "image"})
    if unknown or not obs:
        raise ValueError(
            f"obs: got the leaves {sorted(obs)}; a torso reads 'vector' and/or 'image'"
        )
    if "image" in obs and len(obs["image"].shape) != 3:
        raise ValueError(
            f"obs: 'image' has shape {obs['image'].shape}, expected [H, W, C]"
        )


def _convs_and_dense(
    stack: Any, x: Array, layers: tuple[tuple[int, int, int], ...], size: int
) -> Array:
    """Applies (features, kernel, stride) VALID convolutions with ReLU and a dense layer."""
    for features, kernel, stride in layers:
        x = conv.Conv(
            features,
            (kernel, kernel),
            strides=stride,
            padding="VALID",
            kernel_init=_orthogonal,
            implementation=stack.implementation,
        )(x)
        x = jax.nn.relu(_normed(x, stack.norm))
    return _dense_relu(stack, x, size)


def _dense_relu(stack: Any, x: Array, size: int) -> Array:
    """Returns maps as features, through a dense layer unless ``stack`` has none."""
    x = x.reshape(*x.shape[:-3], -1)
    return jax.nn.relu(_normed(_dense(size)(x), stack.norm)) if stack.dense else x


def _normed(x: Array, norm: bool) -> Array:
    return nn.LayerNorm()(x) if norm else x


def _dense(size: int) -> nn.Dense:
    return nn.Dense(size, kernel_init=_orthogonal, dot_general=product.dot_general)
