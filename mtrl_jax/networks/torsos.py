"""Torsos: from an observation ``{"vector": [..., N], "image": [..., H, W, C]}`` to features.

An image goes through one of four convolutional stacks (``image_stacks``), a vector through
an MLP (``mlp``); where there are both, their features are concatenated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import image_stacks, mlp, sequence_conv, shared_trunks
from mtrl_jax.types import Array

TORSOS = ("auto", "mlp", "minatar", "impala_shallow", "impala_deep", "nature")


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
            image = image_stacks.scale_image(obs["image"])
            if self.kind == "mlp":
                flat.append(image.reshape(*lead, -1))
            else:
                sizes = self.filters or image_stacks.FILTERS[self.kind]
                stack = image_stacks.STACKS[self.kind](
                    self.implementation,
                    self.norm,
                    self.dense,
                    sizes,
                    self.features or image_stacks.FEATURES[self.kind],
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
            sizes = self.hidden, self.activation, self.norm, self.dtype
            return mlp.MLP(*sizes, name="mlp")(x)
        assert task is not None
        trunk = shared_trunks.make(
            self.sharing,
            self.hidden,
            mlp.ACTIVATIONS[self.activation],
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
    smallest = image_stacks.SMALLEST[kind]
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
    if kind not in image_stacks.FILTERS and (filters or features):
        raise ValueError(
            f"filters, features: {filters} and {features} are of a torso that reads "
            f"images, here it is {kind!r}; leave them out, or give hidden"
        )
    layers = len(image_stacks.FILTERS.get(kind, ()))
    if filters and (len(filters) != layers or min(filters) < 1):
        raise ValueError(
            f"filters: got {filters}, the torso {kind!r} has {layers} layers; give as "
            f"many positive sizes, as {image_stacks.FILTERS[kind]}"
        )
    if features < 0:
        raise ValueError(f"features: got {features}, give 0 or a positive size")
    return dataclasses.replace(config, torso=kind)


def _auto(image: jax.ShapeDtypeStruct | None) -> str:
    if image is None or min(image.shape[:2]) < image_stacks.SMALLEST["minatar"]:
        return "mlp"
    if (
        image.shape[0] <= 16
        or min(image.shape[:2]) < image_stacks.SMALLEST["impala_shallow"]
    ):
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
