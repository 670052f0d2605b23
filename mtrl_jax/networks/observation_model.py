"""Encoders and decoders of a world model: pictures and vectors to an embedding and back.

conv (64×64 images): four convolutions 4×4, stride 2, VALID, of depth d, 2d, 4d, 8d, and a
dense layer with transposed convolutions 5, 5, 6, 6, stride 2, of 4d, 2d, d and the image's
channels: 64 → 31 → 14 → 6 → 2 and 1 → 5 → 13 → 30 → 64. d = 48 in the paper.
grid (small images as MinAtar's 10×10): one convolution 3×3 of depth d and a dense layer,
and back. mlp: the image as a vector. A vector goes through an MLP of its own.

uint8 is scaled to ±½, anything else only cast. What a decoder says is the mean of a
Gaussian of unit variance; the error is summed over pixels and entries, padding of smaller
tasks left out.

Ref: Hafner et al. 2021 (arXiv:2010.02193), section 2 and the authors' program.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.losses import symlog
from mtrl_jax.networks import conv, conv_transpose, layers
from mtrl_jax.types import Array, Key, Tree

IMAGES = ("auto", "conv", "grid", "mlp")
CONV_SIZE = 64  # height and width of what "conv" takes: what its decoder ends at
GRID_SIZES = (3, 32)  # smallest and largest height or width for "grid"
ENCODER = (4, 4, 4, 4)  # kernels, stride 2
DECODER = (5, 5, 6, 6)


@dataclasses.dataclass(frozen=True)
class ObservationConfig:
    """How observations are read and drawn; static."""

    image: str = "auto"  # conv, grid, mlp; auto: by the image's size
    depth: int = 48  # channels of the first convolution
    units: int = 400  # of the MLPs and of the grid's dense layers
    layers: int = 4  # of the MLPs
    activation: str = "elu"
    norm: str = "none"  # of the dense layers
    symlog: bool = False  # vectors are read and predicted as sign(x) log(1 + |x|)
    convolution: str = "auto"  # see conv.conv2d


Shapes = Mapping[str, jax.ShapeDtypeStruct]


def choose(config: ObservationConfig, obs: Shapes) -> ObservationConfig:
    """Returns the config with "auto" resolved for observations of one slot.

    Raises ValueError for an unknown leaf or option, or an image that it cannot take.
    """
    _check_fields(config, obs)
    if "image" not in obs:
        return config
    height, width, _ = obs["image"].shape
    kind, (least, most) = config.image, GRID_SIZES
    is_grid = least <= min(height, width) and max(height, width) <= most
    if kind == "auto":
        kind = "grid" if is_grid else "conv"
    if kind == "conv" and (height, width) != (CONV_SIZE, CONV_SIZE):
        raise ValueError(
            f"image: 'conv' takes {CONV_SIZE}x{CONV_SIZE}, got {height}x{width}; resize "
            "it in the task's options, or use 'mlp'"
        )
    if kind == "grid" and not is_grid:
        raise ValueError(
            f"image: 'grid' takes sides of {least} to {most}, got {height}x{width}; use "
            "'mlp'"
        )
    return dataclasses.replace(config, image=kind)


def embed_size(config: ObservationConfig, obs: Shapes) -> int:
    """Returns the length of an embedding; ``config`` is what ``choose`` returned."""
    size = config.units if _vector_size(config, obs) else 0
    if "image" in obs and config.image == "conv":
        side = CONV_SIZE
        for kernel in ENCODER:
            side = (side - kernel) // 2 + 1
        size += side * side * 8 * config.depth
    elif "image" in obs and config.image == "grid":
        size += config.units
    return size


def encoder_init(key: Key, config: ObservationConfig, obs: Shapes) -> Tree:
    """Returns the encoder's parameters."""
    image_key, dense_key, vector_key = jax.random.split(key, 3)
    params: dict[str, Any] = {}
    if "image" in obs and config.image == "conv":
        depths = [obs["image"].shape[-1], *(config.depth * 2**i for i in range(4))]
        params["conv"] = _kernels(image_key, ENCODER, depths)
    elif "image" in obs and config.image == "grid":
        height, width, channels = obs["image"].shape
        params["conv"] = _kernels(image_key, (3,), [channels, config.depth])
        flat = (height - 2) * (width - 2) * config.depth
        params["dense"] = layers.mlp_init(
            dense_key, flat, (config.units,), norm=config.norm
        )
    if size := _vector_size(config, obs):
        params["vector"] = layers.mlp_init(
            vector_key, size, _hidden(config), norm=config.norm
        )
    return params


def encode(
    params: Tree, config: ObservationConfig, obs: Mapping[str, Array], dtype: str
) -> Array:
    """Returns embeddings [..., embed_size]."""
    found, vectors = [], []
    if "image" in obs:
        x = scale_image(obs["image"]).astype(dtype)
        if config.image == "mlp":
            vectors.append(_flat(x))
        else:
            stride = 2 if config.image == "conv" else 1
            for layer in _ordered(params["conv"]):
                x = conv.conv2d(
                    x,
                    layer["kernel"].astype(dtype),
                    strides=stride,
                    padding="VALID",
                    implementation=config.convolution,
                )
                x = x + layers.like(layer["bias"].astype(dtype), x)
                x = layers.ACTIVATIONS[config.activation](x)
            x = _flat(x)
            if config.image == "grid":
                x = _mlp(params["dense"], config, x, dtype)
            found.append(x)
    if "vector" in obs:
        vectors.insert(0, _read_vector(config, obs["vector"]).astype(dtype))
    if vectors:
        x = jnp.concatenate(vectors, axis=-1)
        found.append(_mlp(params["vector"], config, x, dtype))
    return jnp.concatenate(found, axis=-1)


def decoder_init(
    key: Key, config: ObservationConfig, obs: Shapes, features: int
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
            params["conv"] = _kernels(image_key, DECODER, depths)
        elif config.image == "grid":
            flat = (height - 2) * (width - 2) * config.depth
            params["dense"] = layers.mlp_init(
                dense_key, features, (config.units, flat), norm=config.norm
            )
            params["conv"] = _kernels(image_key, (3,), [config.depth, channels])
        else:
            params["image"] = layers.mlp_init(
                image_key, features, _hidden(config),
                height * width * channels, norm=config.norm,
            )  # fmt: skip
    if "vector" in obs:
        size = obs["vector"].shape[0]
        params["vector"] = layers.mlp_init(
            vector_key, features, _hidden(config), size, norm=config.norm
        )
    return params


def decode(
    params: Tree, config: ObservationConfig, obs: Shapes, features: Array, dtype: str
) -> dict[str, Array]:
    """Returns the means of the leaves of ``obs``, float32, as ``targets`` scales them."""
    found = {}
    if "image" in obs:
        shape = obs["image"].shape
        if config.image == "conv":
            x = layers.dense(params["dense"], features, dtype)[..., None, None, :]
            x = _deconvolved(params["conv"], config, x, 2, dtype)
        elif config.image == "grid":
            x = _mlp(params["dense"], config, features, dtype)
            x = x.reshape(*x.shape[:-1], shape[0] - 2, shape[1] - 2, config.depth)
            x = _deconvolved(params["conv"], config, x, 1, dtype)
        else:
            x = _mlp(params["image"], config, features, dtype)
        found["image"] = x.reshape(*features.shape[:-1], *shape).astype(jnp.float32)
    if "vector" in obs:
        found["vector"] = _mlp(params["vector"], config, features, dtype)
    return found


def targets(config: ObservationConfig, obs: Mapping[str, Array]) -> dict[str, Array]:
    """Returns what ``decode`` should say of observations [..., *leaf]."""
    found = {}
    if "image" in obs:
        found["image"] = scale_image(obs["image"])
    if "vector" in obs:
        found["vector"] = _read_vector(config, obs["vector"])
    return found


def errors(
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


def scale_image(image: Array) -> Array:
    """Returns a float32 image: uint8 to ±½, anything else only cast."""
    scaled = image.astype(jnp.float32)
    return scaled / 255.0 - 0.5 if image.dtype == jnp.uint8 else scaled


def _deconvolved(
    params: Tree, config: ObservationConfig, x: Array, stride: int, dtype: str
) -> Array:
    """Returns x after the transposed convolutions; the last has no activation."""
    for i, layer in enumerate(_ordered(params)):
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


def _kernels(key: Key, sizes: tuple[int, ...], depths: list[int]) -> Tree:
    """Returns {i: {kernel [k, k, cin, cout], bias}} of square kernels."""
    keys = jax.random.split(key, len(sizes))
    return {
        str(i): {
            "kernel": layers.glorot(keys[i], (k, k, depths[i], depths[i + 1])),
            "bias": jnp.zeros(depths[i + 1]),
        }
        for i, k in enumerate(sizes)
    }


def _ordered(params: Tree) -> list[Tree]:
    return [params[str(i)] for i in range(len(params))]


def _mlp(params: Tree, config: ObservationConfig, x: Array, dtype: str) -> Array:
    return layers.mlp(
        params, x, activation=config.activation, norm_kind=config.norm, dtype=dtype
    )


def _hidden(config: ObservationConfig) -> tuple[int, ...]:
    return (config.units,) * config.layers


def _vector_size(config: ObservationConfig, obs: Shapes) -> int:
    """Returns the length of what the vector's MLP reads; 0 without one."""
    size = obs["vector"].shape[0] if "vector" in obs else 0
    if "image" in obs and config.image == "mlp":
        size += math.prod(obs["image"].shape)
    return size


def _read_vector(config: ObservationConfig, vector: Array) -> Array:
    vector = vector.astype(jnp.float32)
    return symlog.symlog(vector) if config.symlog else vector


def _flat(x: Array) -> Array:
    return x.reshape(*x.shape[:-3], -1)


def _check_fields(config: ObservationConfig, obs: Shapes) -> None:
    unknown = sorted(set(obs) - {"vector", "image"})
    if unknown or not obs:
        raise ValueError(
            f"obs: got the leaves {sorted(obs)}; a world model reads 'vector' and/or "
            "'image'"
        )
    for field, known in (
        ("image", IMAGES),
        ("activation", tuple(layers.ACTIVATIONS)),
        ("norm", layers.NORMS),
        ("convolution", conv.IMPLEMENTATIONS),
    ):
        if getattr(config, field) not in known:
            raise ValueError(
                f"{field}: {getattr(config, field)!r} is not known, use one of {known}"
            )
    for field in ("depth", "units", "layers"):
        if getattr(config, field) < 1:
            raise ValueError(f"{field}: got {getattr(config, field)}, give at least 1")
