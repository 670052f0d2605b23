"""What the actor-critic agents share: acting with memory, and reading a rollout."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.types import Array, Key, Scalar, Tree

# The probe tasks that an actor-critic learns: all of them, memory with a recurrent core.
LEARNS = (
    "constant", "observation", "delayed", "action", "both", "masked", "memory",
    "action_factorised", "both_factorised", "action_box", "both_box", "both_image",
)  # fmt: skip


class Carry(NamedTuple):
    """What acting remembers of a slot."""

    core: Tree  # [B, ...] of the recurrent core, () without one
    action: Array  # [B, ...] the action that led to the next step


class Extras(NamedTuple):
    """What acting tells learning, ``[T, B]``."""

    log_prob: Array  # of the action under the policy that took it
    value: Array


class Learner(NamedTuple):
    """What PBT copies."""

    params: Tree
    opt: Tree
    updates: Array  # [] int32


class Evaluated(NamedTuple):
    """A rollout as the current parameters see it; ``T`` transitions."""

    log_prob: Array  # [T, B] of the actions taken
    entropy: Array  # [T, B]
    value: Array  # [T + 1, B]


def initial_carry(
    network: networks.Network, space: types.ActionSpace, batch: int
) -> Carry:
    """Returns the carry of ``batch`` fresh slots; ``first`` masks what is in it."""
    action = types.action_shape(space)
    return Carry(
        network.initial_state(batch), jnp.zeros((batch, *action.shape), action.dtype)
    )


def act(
    network: networks.Network,
    params: Tree,
    carry: Carry,
    ts: types.TimeStep,
    key: Key,
    temperature: Scalar,
) -> tuple[Array, Carry, Extras]:
    """Returns (action, carry, extras) for one step of ``[B]`` slots."""
    time = jax.tree.map(lambda x: x[None], (ts, carry.action))
    out, core = network.unroll(params, carry.core, *time)
    policy, value = jax.tree.map(lambda x: x[0], (out.policy, out.value))
    distribution = network.distribution(policy, ts.action_mask, temperature)
    action, log_prob = distribution.sample_and_log_prob(key)
    return action, Carry(core, action), Extras(log_prob, value)


def previous_actions(rollout: types.Rollout) -> Array:
    """Returns the action that led to each of the T + 1 steps."""
    return jnp.concatenate([rollout.carry.action[None], rollout.action])


def evaluate(
    network: networks.Network, params: Tree, rollout: types.Rollout
) -> Evaluated:
    """Returns log-probabilities, entropies and values of a rollout under ``params``."""
    out, _ = network.unroll(
        params, rollout.carry.core, rollout.ts, previous_actions(rollout)
    )
    policy, mask = jax.tree.map(lambda x: x[:-1], (out.policy, rollout.ts.action_mask))
    distribution = network.distribution(policy, mask)
    return Evaluated(
        distribution.log_prob(rollout.action), distribution.entropy(), out.value
    )


def arrivals(
    rollout: types.Rollout, reward_scale: Scalar, transform: Any, discount: Scalar
) -> tuple[Array, Array, Array]:
    """Returns (r_t, discount_t, first_t), ``[T, B]``: what each transition arrived at."""
    ts = jax.tree.map(lambda x: x[1:], rollout.ts._replace(obs=()))
    return transform(ts.reward * reward_scale), ts.discount * discount, ts.first
