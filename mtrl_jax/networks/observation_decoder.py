"""Decoders of a world model: features to the means of pictures and vectors.

conv: a dense layer and transposed convolutions 5, 5, 6, 6, stride 2, of depth 4d, 2d, d and
the image's channels, 1 → 5 → 13 → 30 → 64. grid: an MLP and a transposed convolution 3×3.

What a decoder says is the mean of a Gaussian of unit variance; the error is summed over
pixels and entries, padding of smaller tasks left out.

Ref: Hafner et al. 2021 (arXiv:2010.02193), section 2 and the authors' program.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.networks import conv_transpose, layers
from mtrl_jax.networks import observation_config as common
from mtrl_jax.types import Array, Key, Tree

KERNELS = (5, 5, 6, 6)  # stride 2


def init(
    key: Key, config: common.ObservationConfig, obs: common.Shapes, features: int
) -> Tree:
    """Returns the decoder's parameters for features of a given length."""
    image_key, dense_key, vector_key = jax.random.split(key, 3)
    params: dict[str, Any] = {}
    if "image" in obs:
        height, width, channels = obs["image"].shape
        if config.image == "conv":
            top = 32 * config.depth
            params["dense"] = layers.dense_init(dense_key, features, top)
            depths = [top, 4 * config.depth, 2 * config.depth, config.depth, channels]
            params["conv"] = common.kernels(image_key, KERNELS, depths)
        elif config.image == "grid":
            flat = (height - 2) * (width - 2) * config.depth
            params["dense"] = layers.mlp_init(
                dense_key, features, (config.units, flat), norm=config.norm
            )
            params["conv"] = common.kernels(image_key, (3,), [config.depth, channels])
        else:
            params["image"] = layers.mlp_init(
                image_key, features, common.hidden(config),
                height * width * channels, norm=config.norm,
            )  # fmt: skip
    if "vector" in obs:
        size = obs["vector"].shape[0]
        params["vector"] = layers.mlp_init(
            vector_key, features, common.hidden(config), size, norm=config.norm
        )
    return params


def decode(
    params: Tree,
    config: common.ObservationConfig,
    obs: common.Shapes,
    features: Array,
    dtype: str,
) -> dict[str, Array]:
    """Returns the means of the leaves of ``obs``, float32, as ``targets`` scales them."""
    found = {}
    if "image" in obs:
        shape = obs["image"].shape
        if config.image == "conv":
            x = layers.dense(params["dense"], features, dtype)[..., None, None, :]
            x = _deconvolved(params["conv"], config, x, 2, dtype)
        elif config.image == "grid":
            x = common.mlp(params["dense"], config, features, dtype)
            x = x.reshape(*x.shape[:-1], shape[0] - 2, shape[1] - 2, config.depth)
            x = _deconvolved(params["conv"], config, x, 1, dtype)
        else:
            x = common.mlp(params["image"], config, features, dtype)
        found["image"] = x.reshape(*features.shape[:-1], *shape).astype(jnp.float32)
    if "vector" in obs:
        found["vector"] = common.mlp(params["vector"], config, features, dtype)
    return found


def targets(
    config: common.ObservationConfig, obs: Mapping[str, Array]
) -> dict[str, Array]:
    """Returns what ``decode`` should say of observations [..., *leaf]."""
    found = {}
    if "image" in obs:
        found["image"] = common.scale_image(obs["image"])
    if "vector" in obs:
        found["vector"] = common.scale_vector(config, obs["vector"])
    return found


def error(
    predicted: Mapping[str, Array],
    wanted: Mapping[str, Array],
    present: Mapping[str, Array],
    task: Array,
) -> Array:
    """Returns −log p up to a constant, ½ Σ (x − x̂)² over all leaves' entries, [...].

    ``present`` is what ``task_entries`` returned; ``task`` int32 [...].
    """
    total = jnp.zeros(task.shape)
    for name, mean in predicted.items():
        own = present[name][task] if len(present[name]) > 1 else present[name][0]
        own = own.reshape((1,) * (mean.ndim - own.ndim) + own.shape)
        square = jnp.square(mean - wanted[name]) * own
        total += 0.5 * jnp.sum(square, axis=tuple(range(task.ndim, mean.ndim)))
    return total


def task_entries(spec: types.EnvSpec) -> dict[str, Array]:
    """Returns, of each leaf [tasks, *leaf], 1 where a task has the entry, 0 its padding."""
    found = {}
    for name, shape in spec.obs.items():
        entries = np.zeros((len(spec.tasks), *shape.shape), np.float32)
        for i, task in enumerate(spec.tasks):
            if name in task.obs:
                own = tuple(slice(n) for n in task.obs[name].shape)
                entries[i][own] = 1.0
        found[name] = jnp.asarray(entries)
    return found


def _deconvolved(
    params: Tree, config: common.ObservationConfig, x: Array, stride: int, dtype: str
) -> Array:
    """Returns x after the transposed convolutions; the last has no activation."""
    for i, layer in enumerate(common.in_order(params)):
        if i:
            x = layers.ACTIVATIONS[config.activation](x)
        x = conv_transpose.conv_transpose2d(
            x.astype(dtype),
            layer["kernel"].astype(dtype),
            stride=stride,
            implementation=config.convolution,
        )
        x = x + layers.like(layer["bias"].astype(dtype), x)
    return x
