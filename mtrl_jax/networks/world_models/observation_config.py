"""How a world model reads and draws observations: settings, and what both sides share.

conv takes 64×64 images; grid small ones as MinAtar's 10×10; mlp reads any image as a
vector. uint8 is scaled to ±½, anything else only cast.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import errors
from mtrl_jax.losses import symlog
from mtrl_jax.networks import conv, layers
from mtrl_jax.types import Array, Key, Tree

IMAGES = ("auto", "conv", "grid", "mlp")
LIKELIHOODS = ("gaussian", "bernoulli")
CONV_SIZE = 64  # height and width of what "conv" takes: what its decoder ends at
GRID_SIZES = (3, 32)  # smallest and largest height or width for "grid"

Shapes = Mapping[str, jax.ShapeDtypeStruct]


@dataclasses.dataclass(frozen=True)
class ObservationConfig:
    """How observations are read and drawn; static."""

    image: str = "auto"  # conv, grid, mlp; auto: by the image's size
    # gaussian of unit variance, or bernoulli of every number: for planes of 0 and 1.
    likelihood: str = "gaussian"
    depth: int = 48  # channels of the first convolution
    units: int = 400  # of the MLPs and of the grid's dense layers
    layers: int = 4  # of the MLPs
    activation: str = "elu"
    norm: str = "none"  # of the dense layers
    symlog: bool = False  # vectors are read and predicted as sign(x) log(1 + |x|)
    convolution: str = "auto"  # auto, matmul, lax; see conv.conv2d


def choose(config: ObservationConfig, obs: Shapes) -> ObservationConfig:
    """Returns the config with "auto" resolved for observations of one slot.

    Raises ValueError for an unknown leaf or option, or an image that it cannot take.
    """
    _check(config, obs)
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


def has_planes(config: ObservationConfig) -> bool:
    """Returns whether images are computed on as planes, see ``plane_conv``."""
    return config.image == "conv" and conv.chosen(config.convolution) == "matmul"


def scale_image(image: Array) -> Array:
    """Returns a float32 image: uint8 to ±½, anything else only cast."""
    scaled = image.astype(jnp.float32)
    return scaled / 255.0 - 0.5 if image.dtype == jnp.uint8 else scaled


def unscale_image(image: Array, dtype: Any) -> Array:
    """Returns an image as ``scale_image`` made it of ``dtype``, between 0 and 1 again."""
    return image + 0.5 if dtype == jnp.uint8 else image


def scale_vector(config: ObservationConfig, vector: Array) -> Array:
    """Returns a float32 vector, in symlog if the config says so."""
    vector = vector.astype(jnp.float32)
    return symlog.symlog(vector) if config.symlog else vector


def hidden(config: ObservationConfig) -> tuple[int, ...]:
    """Returns the sizes of the MLPs' layers."""
    return (config.units,) * config.layers


def mlp(params: Tree, config: ObservationConfig, x: Array, dtype: str) -> Array:
    """Returns ``layers.mlp`` with the config's activation and norm."""
    return layers.mlp(
        params, x, activation=config.activation, norm_kind=config.norm, dtype=dtype
    )


def kernels(key: Key, sizes: tuple[int, ...], depths: list[int]) -> Tree:
    """Returns {i: {kernel [k, k, cin, cout], bias}} of square kernels."""
    keys = jax.random.split(key, len(sizes))
    return {
        str(i): {
            "kernel": layers.glorot(keys[i], (k, k, depths[i], depths[i + 1])),
            "bias": jnp.zeros(depths[i + 1]),
        }
        for i, k in enumerate(sizes)
    }


def in_order(params: Tree) -> list[Tree]:
    """Returns the layers that ``kernels`` made, first to last."""
    return [params[str(i)] for i in range(len(params))]


def _check(config: ObservationConfig, obs: Shapes) -> None:
    unknown = sorted(set(obs) - {"vector", "image"})
    if unknown or not obs:
        raise ValueError(
            f"obs: got the leaves {sorted(obs)}; a world model reads 'vector' and/or "
            "'image'"
        )
    errors.check_choices(
        config,
        {
            "image": IMAGES,
            "likelihood": LIKELIHOODS,
            "activation": tuple(layers.ACTIVATIONS),
            "norm": layers.NORMS,
            "convolution": conv.IMPLEMENTATIONS,
        },
    )
    if config.likelihood == "bernoulli":
        _check_bernoulli(obs)
    errors.check_sizes(config, ("depth", "units", "layers"))


def _check_bernoulli(obs: Shapes) -> None:
    dtype = obs["image"].dtype if "image" in obs else None
    if dtype not in (jnp.bool_, jnp.uint8):
        has = "no image" if dtype is None else f"images of {dtype}"
        raise ValueError(
            f"likelihood: 'bernoulli' is of images of bool or uint8, got {has}; use "
            "'gaussian'"
        )
