"""Encoders of a world model: pictures and vectors to one embedding.

conv: four convolutions 4×4, stride 2, VALID, of depth d, 2d, 4d, 8d, 64 → 31 → 14 → 6 → 2;
d = 48 in the paper. grid: one convolution 3×3 of depth d and a dense layer. mlp: the image
as a vector, together with the vector if there is one; a vector has an MLP of its own.

Ref: Hafner et al. 2021 (arXiv:2010.02193), section 2 and the authors' program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax.networks import conv, layers
from mtrl_jax.networks.world_models import observation_config as common
from mtrl_jax.networks.world_models import plane_conv
from mtrl_jax.types import Array, Key, Tree

KERNELS = (4, 4, 4, 4)  # stride 2


def size(config: common.ObservationConfig, obs: common.Shapes) -> int:
    """Returns the length of an embedding; ``config`` is what ``choose`` returned."""
    size = config.units if _vector_size(config, obs) else 0
    if "image" in obs and config.image == "conv":
        side = common.CONV_SIZE
        for kernel in KERNELS:
            side = (side - kernel) // 2 + 1
        size += side * side * 8 * config.depth
    elif "image" in obs and config.image == "grid":
        size += config.units
    return size


def init(key: Key, config: common.ObservationConfig, obs: common.Shapes) -> Tree:
    """Returns the encoder's parameters."""
    image_key, dense_key, vector_key = jax.random.split(key, 3)
    params: dict[str, Any] = {}
    if "image" in obs and config.image == "conv":
        depths = [obs["image"].shape[-1], *(config.depth * 2**i for i in range(4))]
        params["conv"] = common.kernels(image_key, KERNELS, depths)
    elif "image" in obs and config.image == "grid":
        height, width, channels = obs["image"].shape
        params["conv"] = common.kernels(image_key, (3,), [channels, config.depth])
        flat = (height - 2) * (width - 2) * config.depth
        params["dense"] = layers.mlp_init(
            dense_key, flat, (config.units,), norm=config.norm
        )
    if size := _vector_size(config, obs):
        params["vector"] = layers.mlp_init(
            vector_key, size, common.hidden(config), norm=config.norm
        )
    return params


def encode(
    params: Tree, config: common.ObservationConfig, obs: Mapping[str, Array], dtype: str
) -> Array:
    """Returns embeddings [..., embed_size]."""
    found, vectors = [], []
    if "image" in obs:
        if config.image == "mlp":
            vectors.append(_flat(common.scale_image(obs["image"]).astype(dtype)))
        else:
            x = _convolved(params["conv"], config, obs["image"], dtype)
            if config.image == "grid":
                x = common.mlp(params["dense"], config, x, dtype)
            found.append(x)
    if "vector" in obs:
        vectors.insert(0, common.scale_vector(config, obs["vector"]).astype(dtype))
    if vectors:
        x = jnp.concatenate(vectors, axis=-1)
        found.append(common.mlp(params["vector"], config, x, dtype))
    return jnp.concatenate(found, axis=-1)


def _convolved(
    params: Tree, config: common.ObservationConfig, x: Array, dtype: str
) -> Array:
    """Returns x [..., H, W, C] after the convolutions and their activations, flat."""
    stride, lead = 2 if config.image == "conv" else 1, x.shape[:-3]
    has_planes = common.has_planes(config)
    if has_planes:
        x = plane_conv.of_pixels(x)
    x = common.scale_image(x).astype(dtype)
    for layer in common.in_order(params):
        kernel, bias = layer["kernel"].astype(dtype), layer["bias"].astype(dtype)
        if has_planes:
            x = plane_conv.conv2d(x, kernel, stride) + bias[:, None, None, None]
        else:
            x = conv.conv2d(
                x, kernel, strides=stride, padding="VALID",
                implementation=config.convolution,
            )  # fmt: skip
            x = x + layers.like(bias, x)
        x = layers.ACTIVATIONS[config.activation](x)
    return plane_conv.images(x).reshape(*lead, -1) if has_planes else _flat(x)


def _vector_size(config: common.ObservationConfig, obs: common.Shapes) -> int:
    """Returns the length of what the vector's MLP reads; 0 without one."""
    size = obs["vector"].shape[0] if "vector" in obs else 0
    if "image" in obs and config.image == "mlp":
        size += math.prod(obs["image"].shape)
    return size


def _flat(x: Array) -> Array:
    return x.reshape(*x.shape[:-3], -1)
