"""Tokens and predictions of what is to come: returns, outcomes, values.

A return is a token of its own, after the observation: it is predicted at the observation,
before it is seen, and the action is predicted at its token. It counts in ``bins`` steps
from ``low`` to ``high``:

    bin(R) = floor((R - low) / (high - low) (bins - 1)), of R clipped to [low, high]

and is read as the one-hot of its bin beside its place in the range; one that is not known
(``known`` 0) as a vector that is learned, and in between as a mixture of the two. With
``ranges`` every task has a low and high of its own, and its returns are counted as if they
were ``scaled`` to the common ones: κ then asks as much of a game of small scores.

Inference of an expert's return, of P(R | history):

    P(expert | R) ∝ exp(κ x),  x = (R - low) / (high - low)
    R ~ softmax(log P(R | history) + κ x)

Refs: Chen et al. 2021 (arXiv:2106.01345); Lee et al. 2022, "Multi-Game Decision
Transformers" (arXiv:2205.15241), section 4.3, κ = 10 with -20 to 100 in 121 bins.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.types import Array, Key, Scalar

REWARDS = 3  # classes: the sign of a reward


@dataclasses.dataclass(frozen=True)
class Outlook:
    """Which tokens and heads there are beside the action's; every field is static."""

    bins: int = 0  # of returns; 0: no token of a return
    low: float = 0.0
    high: float = 20.0
    # (low, high) of each task, in the order of the tasks; (): those above for all.
    ranges: tuple[tuple[float, float], ...] = ()
    # Of an episode, each with a vector that is added to its tokens; later ones have the
    # last; 0: none.
    steps: int = 0
    rewards: bool = False  # also predict the sign of the reward that follows
    vectors: bool = False  # also predict the vector that is observed next
    values: bool = False  # also predict the value of each action, and of the state


class Outputs(NamedTuple):
    """The predictions of a step; None of what there is no head for."""

    action: Array  # [T, B, M] logits
    returns: Array | None = None  # [T, B, bins] logits, before the return is seen
    reward: Array | None = None  # [T, B, 3] logits of the sign, given the action
    next_vector: Array | None = None  # [T, B, N] given the action
    values: Array | None = None  # [T, B, M] of actions
    value: Array | None = None  # [T, B] of the state


def check(config: Outlook) -> None:
    """Raises ValueError unless returns can be counted so."""
    if config.bins < 0 or config.bins == 1:
        raise ValueError(
            f"bins: {config.bins} values of a return; use 2 or more, or 0 for no token"
        )
    if config.steps < 0:
        raise ValueError(f"steps: {config.steps} of an episode; use 1 or more, or 0")
    _check_range("", config.low, config.high)
    for k, (low, high) in enumerate(config.ranges):
        _check_range(f"ranges.{k}: ", low, high)


def _check_range(where: str, low: float, high: float) -> None:
    """Raises ValueError unless ``low`` is below ``high`` in float32."""
    if not np.isfinite(np.asarray([low, high], np.float32)).all():
        raise ValueError(
            f"{where}low: {low}, high: {high}: give numbers that are finite in float32"
        )
    if not np.float32(low) < np.float32(high):
        raise ValueError(f"{where}low: {low} is not below high: {high} (in float32)")


def scaled(config: Outlook, returns: Array, task: Array) -> Array:
    """Returns ``returns`` [...] of tasks [...] on the scale that all are counted on.

    That is low + (R - low_k) / (high_k - low_k) (high - low) of task k; without ranges R.
    """
    if not config.ranges:
        return returns
    low, high = jnp.asarray(config.ranges, jnp.float32).T
    share = (returns - low[task]) / (high - low)[task]
    return config.low + share * (config.high - config.low)


def bin_of(config: Outlook, returns: Array) -> Array:
    """Returns the bin of each return, int32 [...]."""
    share = _share(config, returns)
    # A return that is a bin's own must not fall below it by rounding.
    return jnp.floor(share * (config.bins - 1) + 1e-4).astype(jnp.int32)


def return_of(config: Outlook, index: Array) -> Array:
    """Returns the lowest return of each bin, float32 [...]."""
    step = (config.high - config.low) / (config.bins - 1)
    return config.low + step * index.astype(jnp.float32)


def features(config: Outlook, returns: Array) -> Array:
    """Returns what is read of a return, [..., bins + 1]."""
    hot = jax.nn.one_hot(bin_of(config, returns), config.bins)
    return jnp.concatenate([hot, _share(config, returns)[..., None]], axis=-1)


def tilted(logits: Array, kappa: Scalar) -> Array:
    """Returns the logits [..., bins] of an expert's return."""
    share = jnp.linspace(0.0, 1.0, logits.shape[-1], dtype=logits.dtype)
    return logits + kappa * jnp.broadcast_to(share, logits.shape)


def sample(config: Outlook, key: Key, logits: Array, kappa: Scalar) -> Array:
    """Returns an expert's returns [...], drawn from the logits of the data's."""
    return return_of(config, jax.random.categorical(key, tilted(logits, kappa)))


def _share(config: Outlook, returns: Array) -> Array:
    clipped = jnp.clip(returns, config.low, config.high)
    return (clipped - config.low) / (config.high - config.low)
