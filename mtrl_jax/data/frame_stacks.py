"""Stacks of frames, stored as single frames and put together again when they are read.

Before an episode's first step there is nothing to see: its first frame is repeated, as
the Arcade Learning Environment's usual wrappers and envpool do it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.types import Array


def newest(image: Array, depth: int) -> Array:
    """Returns the newest frame ``[..., H, W, C / depth]`` of a stack ``[..., H, W, C]``.

    >>> newest(jnp.arange(4).reshape(1, 1, 4), depth=4).tolist()
    [[[3]]]
    """
    return image[..., -(image.shape[-1] // depth) :]


def stack(frames: Array, first: Array, depth: int) -> Array:
    """Returns the stacks ``[T − depth + 1, N, H, W, depth · c]`` of frames [T, N, H, W, c].

    Row i shows frames i … i + depth − 1, none from before the newest ``first`` [T, N]
    up to there: where it would, that episode's first frame.
    """
    steps, batch = first.shape
    time = jnp.arange(steps)
    start = jax.lax.cummax(jnp.where(first, time[:, None], 0), axis=0)[depth - 1 :]
    shown = time[: steps - depth + 1, None] + jnp.arange(depth)[None]  # [T', depth]
    at = jnp.maximum(shown[:, :, None], start[:, None])  # [T', depth, N]
    slot = jnp.broadcast_to(jnp.arange(batch)[None, None], at.shape)
    found = jnp.moveaxis(frames[at, slot], 1, -2)  # [T', N, H, W, depth, c]
    return found.reshape(*found.shape[:-2], -1)


def check(spec: types.EnvSpec, depth: int) -> None:
    """Raises ValueError unless every image of ``spec`` can be a stack of ``depth`` frames.

    Where a task says of how many its image is, of those: stacks of fewer or more are not
    put together again from the newest of them. Tasks' images have to have the same
    channels: a padded one's newest are not its last.
    """
    image = spec.obs.get("image")
    if image is None:
        raise ValueError(
            f"frames: {depth} given, but there is no image that is a stack; give 1"
        )
    frames = {
        task.name: task.frames
        for task in spec.tasks
        if "image" in task.obs and task.frames is not None
    }
    for name, number in frames.items():
        if number != depth:
            what = f"stacks {number}" if number > 1 else "is no stack"
            works = number if len(set(frames.values())) == 1 else 1
            raise ValueError(
                f"frames: {depth}, but the image of {name} {what}; give {works}"
            )
    if image.shape[-1] % depth:
        raise ValueError(
            f"frames: {depth} does not divide the {image.shape[-1]} channels of the "
            "image; give the length of the environment's frame stack, or 1"
        )
    channels = {
        task.name: task.obs["image"].shape[-1]
        for task in spec.tasks
        if "image" in task.obs
    }
    if len(set(channels.values())) > 1:
        raise ValueError(
            f"frames: {depth} frames of images with unlike channels {channels}; give 1, "
            "or tasks whose images have the same"
        )
