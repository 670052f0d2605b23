"""How agents explore: ε that falls, and choices that are uniform over a set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.hparams import Amount, Share
from mtrl_jax.types import ILLEGAL, Array, Key, Scalar


class Hparams(NamedTuple):
    """ε falls linearly from ``epsilon_start`` to ``epsilon_end``.

    It takes ``decay_updates`` updates; 0: it stays at the start. Both 0 is greedy.
    """

    epsilon_start: Share = 1.0
    epsilon_end: Share = 0.0
    decay_updates: Amount = 0.0


def uniform_from(among: Array, u: Array) -> Array:
    """Returns a member of each set, uniform where ``u`` is uniform on [0, 1); int32.

    ``among`` bool ``[..., A]`` has at least one member, ``u`` is ``[...]``. It counts
    in integers, so that no rounding lets a non-member through.
    """
    place = jnp.cumsum(among, axis=-1, dtype=jnp.int32)  # of a member, from 1
    size = place[..., -1]
    wanted = jnp.minimum((u * size).astype(jnp.int32), size - 1)
    return jnp.argmax(place > wanted[..., None], axis=-1).astype(jnp.int32)


def epsilon_greedy(
    key: Key, q: Array, legal: Array, epsilon: Scalar
) -> tuple[Array, Array, Array]:
    """Returns (action int32 [...], mask of the best [..., A], their value [...]).

    Each entry for itself: with probability ε uniform over the legal actions, else over
    those of the highest value; see ``greedy``, which takes the same ``q`` and ``legal``.

    >>> q, legal = jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])
    >>> [x.tolist() for x in epsilon_greedy(jax.random.key(0), q, legal, 0.0)]
    [1, [False, True, False], 3.0]
    """
    maximising, value = greedy(q, legal)
    u = jax.random.uniform(key, (2, *value.shape))
    among = jnp.where((u[0] < epsilon)[..., None], choosable(legal), maximising)
    return uniform_from(among, u[1]), maximising, value


def greedy(q: Array, legal: Array) -> tuple[Array, Array]:
    """Returns (mask of maximising legal actions [..., A], their value [...]).

    ``q`` and bool ``legal`` are ``[..., A]``. Where none is legal, as an episode's last
    step may have it, that is choice 0 and there is nothing to gain: 0.
    """
    highest = jnp.max(jnp.where(legal, q, ILLEGAL), axis=-1)
    maximising = choosable(legal & (q == highest[..., None]))
    return maximising, jnp.where(jnp.any(legal, axis=-1), highest, 0.0)


def choosable(among: Array) -> Array:
    """Returns bool ``among`` ``[..., A]``, with choice 0 in it where there is none."""
    zeroth = among[..., 0] | ~jnp.any(among, axis=-1)
    return jnp.asarray(among).at[..., 0].set(zeroth)


def entry(x: Array, action: Array) -> Array:
    """Returns the entry ``[...]`` of ``x`` ``[..., A]`` that each action names."""
    return jnp.take_along_axis(x, action[..., None], axis=-1)[..., 0]


def check_explores(given: Mapping[str, float], without: str = "") -> None:
    """Raises ValueError unless ε is above 0 at some time; what is not ``given`` may be.

    Of value learners, see ``q_learning.Exploration``; ``without`` says which noise of
    theirs there is not.
    """
    names = ("epsilon_start", "epsilon_end", "epsilon_updates")
    start, end, updates = (given.get(name, 1.0) for name in names)
    if start or (end and updates):
        return
    also = f"{without}, " if without else ""
    raise ValueError(
        f"epsilon_start={start:g} with {also}epsilon_end={end:g} and epsilon_updates="
        f"{updates:g}: it would never explore; give them as dqn has them (1.0, 0.05, 1000)"
    )


def epsilon_at(updates: Array, hp: Hparams) -> Array:
    """Returns ε after ``updates`` updates."""
    done = jnp.clip(updates / jnp.maximum(hp.decay_updates, 1.0), 0.0, 1.0)
    done = jnp.where(hp.decay_updates > 0, done, 0.0)
    return hp.epsilon_start + done * (hp.epsilon_end - hp.epsilon_start)


def number_of_actions(space: types.ActionSpace, agent: str) -> int:
    """Returns A of a discrete space; of any other raises ValueError."""
    if not isinstance(space, types.Discrete):
        raise ValueError(
            f"action: {agent} counts single choices and cannot act in {space}; "
            "give tasks with Discrete actions"
        )
    return space.n
