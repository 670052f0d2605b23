"""How agents without a network choose: uniformly from a set of actions."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.types import Array


def uniform_from(among: Array, u: Array) -> Array:
    """Returns a member of each set, uniform where ``u`` is uniform on [0, 1); int32.

    ``among`` bool ``[..., A]`` has at least one member, ``u`` is ``[...]``. It counts
    in integers, so that no rounding lets a non-member through.
    """
    place = jnp.cumsum(among, axis=-1, dtype=jnp.int32)  # of a member, from 1
    size = place[..., -1]
    wanted = jnp.minimum((u * size).astype(jnp.int32), size - 1)
    return jnp.argmax(place > wanted[..., None], axis=-1).astype(jnp.int32)


def best(score: Array, allowed: Array) -> tuple[Array, Array]:
    """Returns (ties, highest): who has the highest score among the allowed, and that.

    ``score`` and bool ``allowed`` are ``[..., A]``, ``ties`` too, ``highest`` ``[...]``.
    """
    highest = jnp.max(jnp.where(allowed, score, -jnp.inf), axis=-1)
    return allowed & (score == highest[..., None]), highest


def entry(x: Array, action: Array) -> Array:
    """Returns the entry ``[...]`` of ``x`` ``[..., A]`` that each action names."""
    return jnp.take_along_axis(x, action[..., None], axis=-1)[..., 0]


def epsilon_at(updates: Array, hp: Any) -> Array:
    """Returns ε after ``updates`` updates; ``hp`` as in tabular.Hparams."""
    done = jnp.clip(updates / jnp.maximum(hp.decay_updates, 1.0), 0.0, 1.0)
    done = jnp.where(hp.decay_updates > 0, done, 0.0)
    return hp.epsilon_start + done * (hp.epsilon_end - hp.epsilon_start)


def number_of_actions(space: types.ActionSpace, agent: str) -> int:
    """Returns A of a discrete space.

    Raises:
      ValueError: any other space.
    """
    if not isinstance(space, types.Discrete):
        raise ValueError(
            f"action: {agent} counts single choices and cannot act in {space}; "
            "give tasks with Discrete actions"
        )
    return space.n
