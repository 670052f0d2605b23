"""Learning histories without reinforcement learning: demonstrators less and less noisy.

    action = optimal with probability 1 - ε_h, else uniform over the legal actions
    ε_h    = 1 - (1 - floor) · min(h / (0.9 E), 1)        in episode h of E

Such a history gets better as a learner's does, from random to nearly optimal, and costs
nothing to make. Wherever the optimal action is known, it can take the place of a source.

Ref: Zisman et al. 2024, "Emergence of In-Context Reinforcement Learning from Noise
Distillation" (arXiv:2312.12275).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import random, types
from mtrl_jax.types import Array, Key, Scalar, Tree

_DECAY = 0.9  # share of the episodes in which ε falls


class State(NamedTuple):
    """Demonstrators at work."""

    env: Tree
    ts: types.TimeStep  # [P, B, ...]
    episode: Array  # [P, B] int32, h
    step: Array  # [] int32
    key: Key  # [P] root keys, constant


class Demonstrator(NamedTuple):
    """``init(key[P]) -> State``; ``chunk(state) -> (state, (ts, action))``; see make."""

    init: Callable[[Key], State]
    chunk: Callable[[State], tuple[State, tuple[types.TimeStep, Array]]]


def make(
    env: types.Env,
    optimal: Callable[[Tree], Array],
    *,
    episodes: int,
    steps_per_chunk: int,
    floor: Scalar = 0.0,
) -> Demonstrator:
    """Returns demonstrators for all slots of ``env``; neither function is jitted yet.

    A chunk is ``steps_per_chunk`` steps, ts [T + 1, P, B], as ``histories.Writer`` takes
    them.

    Args:
      env: with discrete actions.
      optimal: env state -> optimal actions [P, B] int32.
      episodes: E; after the E-th, ε stays at the floor.
      steps_per_chunk: T.
      floor: ε at the end, in [0, 1].

    Raises ValueError for actions that are not discrete and for no episodes.
    """
    if not isinstance(env.spec.action, types.Discrete):
        kind = type(env.spec.action).__name__
        raise ValueError(f"env: {kind} actions, demonstrators need Discrete ones")
    if episodes < 1 or steps_per_chunk < 1:
        raise ValueError(
            f"episodes={episodes}, steps_per_chunk={steps_per_chunk}: give at least 1"
        )

    def init(key: Key) -> State:
        env_state, ts = env.reset(random.at(key, 0, random.ENV), env.params)
        zero = jnp.zeros((), jnp.int32)
        return State(env_state, ts, jnp.zeros(env.batch, jnp.int32), zero, key)

    def act_and_step(state: State, _) -> tuple[State, tuple[types.TimeStep, Array]]:
        ts = state.ts
        epsilon = epsilon_at(state.episode, episodes, floor)
        key = random.at(state.key, state.step, random.ACT)
        action = noisy(key, optimal(state.env), epsilon, ts.action_mask)
        env_state, next_ts = env.step(state.env, action, env.params)
        # The episode is over once its reset has begun the next one.
        episode = state.episode + next_ts.first
        state = State(env_state, next_ts, episode, state.step + 1, state.key)
        return state, (ts, action)

    def chunk(state: State) -> tuple[State, tuple[types.TimeStep, Array]]:
        state, (ts, action) = jax.lax.scan(
            act_and_step, state, None, length=steps_per_chunk
        )
        ts = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), ts, state.ts)
        return state, (ts, action)

    return Demonstrator(init, chunk)


def epsilon_at(episode: Array, episodes: int, floor: Scalar) -> Array:
    """Returns ε_h of episode h of ``episodes``."""
    return 1.0 - (1.0 - floor) * jnp.minimum(episode / (_DECAY * episodes), 1.0)


def noisy(key: Key, action: Array, epsilon: Array, legal: Array) -> Array:
    """Returns ``action`` [P, B] with probability 1 - ε [P, B], else a legal one.

    ``key`` is [P]; ``legal`` [P, B, A].
    """

    def member(key, action, epsilon, legal):
        which, when = jax.random.split(key)
        logits = jnp.where(legal, 0.0, -jnp.inf)
        uniform = jax.random.categorical(which, logits)
        explores = jax.random.uniform(when, action.shape) < epsilon
        return jnp.where(explores, uniform, action).astype(jnp.int32)

    return jax.vmap(member)(key, action, epsilon, legal)
