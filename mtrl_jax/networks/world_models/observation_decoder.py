"""Decoders of a world model: features to distributions of pictures and vectors.

conv: a dense layer and transposed convolutions 5, 5, 6, 6, stride 2, of depth 4d, 2d, d and
the image's channels, 1 → 5 → 13 → 30 → 64. grid: an MLP and a transposed convolution 3×3.

What a decoder says is the mean of a Gaussian of unit variance, or, of images with the
``likelihood`` "bernoulli", the logit of each number's probability of being 1 (uint8 is a
soft label). A Gaussian asks at most ½ nat for a figure of one cell that is not drawn, a
Bernoulli the logarithm of how rare it is. Errors are summed over pixels and entries,
padding of smaller tasks left out.

Ref: Hafner et al. 2021 (arXiv:2010.02193), section 2 and the authors' program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.losses import dreamer
from mtrl_jax.networks import conv_transpose, layers
from mtrl_jax.networks.world_models import observation_config as common
from mtrl_jax.networks.world_models import plane_conv
from mtrl_jax.types import Array, Key, Tree

KERNELS = (5, 5, 6, 6)  # stride 2
RARE = 0.02  # of planes of 0 and 1, before anything is learned


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
        if config.likelihood == "bernoulli" and obs["image"].dtype == jnp.bool_:
            _begin_empty(params)
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
    """Returns the parameters of the distributions of the leaves of ``obs``, float32."""
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


def means(
    config: common.ObservationConfig, obs: common.Shapes, decoded: Mapping[str, Array]
) -> dict[str, Array]:
    """Returns the means of what was decoded, float32; an image's as between 0 and 1.

    ``obs`` are the observations of one slot; vectors are as the config scales them.
    """
    found = dict(decoded)
    if "image" in found and config.likelihood == "bernoulli":
        found["image"] = jax.nn.sigmoid(found["image"])
    elif "image" in found:
        found["image"] = common.unscale_image(found["image"], obs["image"].dtype)
    return found


def error(
    config: common.ObservationConfig,
    decoded: Mapping[str, Array],
    obs: Mapping[str, Array],
    present: Mapping[str, np.ndarray],
    task: Array,
) -> Array:
    """Returns −log p(obs) up to a constant, summed over all leaves' entries, [...].

    ``obs`` leaves are [..., *leaf]; ``present`` is what ``task_entries`` returned;
    ``task`` int32 [...].
    """
    total = jnp.zeros(task.shape)
    for name, raw in decoded.items():
        x, known = obs[name], jnp.asarray(present[name])
        if name == "image" and common.has_planes(config):
            total += _plane_error(config, raw, x, known, task)
            continue
        # Flat: a loop over an innermost axis of few channels is not vectorised.
        raw, x = (leaf.reshape(*task.shape, -1) for leaf in (raw, x))
        known = known.reshape(len(known), -1)
        own = known[task] if len(known) > 1 else layers.like(known[0], raw)
        total += jnp.sum(_entry_errors(config, name, raw, x) * own, axis=-1)
    return total


def task_entries(spec: types.EnvSpec) -> dict[str, np.ndarray]:
    """Returns, of each leaf [tasks, *leaf], 1 where a task has the entry, 0 its padding."""
    found = {}
    for name, shape in spec.obs.items():
        entries = np.zeros((len(spec.tasks), *shape.shape), np.float32)
        for i, task in enumerate(spec.tasks):
            if name in task.obs:
                own = tuple(slice(n) for n in task.obs[name].shape)
                entries[i][own] = 1.0
        found[name] = entries
    return found


def _begin_empty(params: dict[str, Any]) -> None:
    """Let the last bias say that a cell is ``RARE``: Adam takes long to get there."""
    is_mlp = "conv" not in params
    last = params["image"]["out"] if is_mlp else common.in_order(params["conv"])[-1]
    last["bias"] = jnp.full_like(last["bias"], math.log(RARE / (1.0 - RARE)))


def _plane_error(
    config: common.ObservationConfig,
    raw: Array,
    image: Array,
    known: Array,
    task: Array,
) -> Array:
    """Returns ``error`` of an image, computed where the decoder's planes lie."""
    raw, known = plane_conv.of_images(raw), plane_conv.of_images(known)
    own = known[..., task.reshape(-1)] if known.shape[-1] > 1 else known
    entries = _entry_errors(config, "image", raw, plane_conv.of_pixels(image)) * own
    return jnp.sum(entries, axis=(0, 1, 2)).reshape(task.shape)


def _entry_errors(
    config: common.ObservationConfig, name: str, raw: Array, x: Array
) -> Array:
    """Returns −log p of each entry of a leaf, up to a constant."""
    if name != "image":
        return dreamer.squared_error(raw, common.scale_vector(config, x))
    scaled = common.scale_image(x)
    if config.likelihood == "bernoulli":
        return dreamer.bernoulli_error(raw, common.unscale_image(scaled, x.dtype))
    return dreamer.squared_error(raw, scaled)


def _deconvolved(
    params: Tree, config: common.ObservationConfig, x: Array, stride: int, dtype: str
) -> Array:
    """Returns x after the transposed convolutions; the last has no activation."""
    has_planes = common.has_planes(config)
    if has_planes:
        x = plane_conv.of_images(x)
    for i, layer in enumerate(common.in_order(params)):
        kernel, bias = layer["kernel"].astype(dtype), layer["bias"].astype(dtype)
        if i:
            x = layers.ACTIVATIONS[config.activation](x)
        if has_planes:
            x = plane_conv.conv_transpose2d(x, kernel, stride)
            x = x + bias[:, None, None, None]
            continue
        x = conv_transpose.conv_transpose2d(
            x.astype(dtype), kernel, stride=stride, implementation=config.convolution
        )
        x = x + layers.like(bias, x)
    return plane_conv.images(x) if has_planes else x
