"""Torsos: from an observation ``{"vector": [..., N], "image": [..., H, W, C]}`` to features.

An image goes through one of four convolutional stacks, a vector through an MLP; where
there are both, their features are concatenated. Biases start at zero; kernels are
orthogonal with gain √2, except in the residual network (flax's LeCun normal).

Refs: Mnih et al. 2015 (nature); Espeholt et al. 2018, arXiv:1802.01561, figure 3 (impala);
Young & Tian 2019, arXiv:1903.03176 (minatar).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import (
    conv,
    initialisers,
    product,
    sequence_conv,
    shared_trunks,
)
from mtrl_jax.types import Array

TORSOS = ("auto", "mlp", "minatar", "impala_shallow", "impala_deep", "nature")
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
}
# The papers' sizes: filters of each layer (impala_deep: section), units of the last one.
FILTERS: dict[str, tuple[int, ...]] = {
    "minatar": (16,),
    "impala_shallow": (16, 32),
    "impala_deep": (16, 32, 32),
    "nature": (32, 64, 64),
}
FEATURES = {"minatar": 128, "impala_shallow": 256, "impala_deep": 256, "nature": 512}
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
    filters: tuple[int, ...] = ()  # of the image's layers or sections; (): the paper's
    features: int = 0  # of the image's last layer; 0: the paper's
    sharing: str = "hard"  # or a trunk in the MLP's place, see shared_trunks
    tasks: int = 1
    experts: int = 1
    modules: int = 1  # of a layer
    sequence: tuple[int, ...] = ()  # at the front of the vector, see sequence_conv
    # Of the image's layers and of the MLP; parameters and features are float32.
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, obs: Mapping[str, Array], side: Array, task: Array | None = None
    ) -> Array:
        lead = side.shape[:-1]
        flat, features = [], []
        if "vector" in obs:
            flat.append(self._vector(obs["vector"].astype(jnp.float32)))
        if "image" in obs:
            image = scale_image(obs["image"])
            if self.kind == "mlp":
                flat.append(image.reshape(*lead, -1))
            else:
                sizes = self.filters or FILTERS[self.kind]
                stack = _STACKS[self.kind](
                    self.implementation,
                    self.norm,
                    self.dense,
                    sizes,
                    self.features or FEATURES[self.kind],
                    self.dtype,
                    name=self.kind,
                )
                features.append(stack(image))
        (flat or features).append(side)
        if flat:
            features.append(self._trunk(jnp.concatenate(flat, -1), task))
        return jnp.concatenate([x.astype(jnp.float32) for x in features], -1)

    def _trunk(self, x: Array, task: Array | None) -> Array:
        if self.sharing == "hard":
            mlp = MLP(self.hidden, self.activation, self.norm, self.dtype, name="mlp")
            return mlp(x)
        assert task is not None
        trunk = shared_trunks.make(
            self.sharing,
            self.hidden,
            ACTIVATIONS[self.activation],
            self.tasks,
            experts=self.experts,
            modules=self.modules,
        )
        return trunk(x, task)

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
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for size in self.hidden:
            y = _dense(size, self.dtype)(x)
            x = ACTIVATIONS[self.activation](_normed(y, self.norm))
        return x


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


def joins_features(kind: str, obs: Mapping[str, Any]) -> bool:
    """Returns whether the side inputs are features as they are: no MLP reads them."""
    return kind != "mlp" and "vector" not in obs


def resolved(config: Any, obs: Mapping[str, jax.ShapeDtypeStruct]) -> Any:
    """Returns a network's settings with the torso for these observations chosen.

    Raises:
      ValueError: as ``choose``; ``filters`` or ``features`` that the torso cannot have.
    """
    kind, filters, features = (
        choose(config.torso, obs),
        config.filters,
        config.features,
    )
    if kind not in FILTERS and (filters or features):
        raise ValueError(
            f"filters, features: {filters} and {features} are of a torso that reads "
            f"images, here it is {kind!r}; leave them out, or give hidden"
        )
    layers = len(FILTERS.get(kind, ()))
    if filters and (len(filters) != layers or min(filters) < 1):
        raise ValueError(
            f"filters: got {filters}, the torso {kind!r} has {layers} layers; give as "
            f"many positive sizes, as {FILTERS[kind]}"
        )
    if features < 0:
        raise ValueError(f"features: got {features}, give 0 or a positive size")
    return dataclasses.replace(config, torso=kind)


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
    stack: Any, x: Array, layers: tuple[tuple[int, int], ...]
) -> Array:
    """Returns features of (kernel, stride) VALID convolutions, ReLU and a dense layer."""
    for features, (kernel, stride) in zip(stack.filters, layers, strict=True):
        x = conv.Conv(
            features,
            (kernel, kernel),
            strides=stride,
            padding="VALID",
            kernel_init=_orthogonal,
            implementation=stack.implementation,
            dtype=stack.dtype,
        )(x)
        x = jax.nn.relu(_normed(x, stack.norm))
    return _dense_relu(stack, x)


def _dense_relu(stack: Any, x: Array) -> Array:
    """Returns maps as features, through a dense layer unless ``stack`` has none."""
    x = x.reshape(*x.shape[:-3], -1)
    if not stack.dense:
        return x
    return jax.nn.relu(_normed(_dense(stack.features, stack.dtype)(x), stack.norm))


def _normed(x: Array, norm: bool) -> Array:
    return nn.LayerNorm()(x) if norm else x


def _dense(size: int, dtype: str) -> nn.Dense:
    return nn.Dense(
        size,
        dtype=dtype,
        kernel_init=_orthogonal,
        dot_general=product.dot_general,
    )
