"""Acting with a network that may have a memory, and reading what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.hparams import Real, Share
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.types import Array, Key, Scalar, Tree

# The probe tasks that an actor-critic learns: all of them, memory with a recurrent core.
LEARNS = (
    "constant", "observation", "delayed", "action", "both", "masked", "memory",
    "action_factorised", "both_factorised", "action_box", "both_box", "both_image",
)  # fmt: skip


class Returns(NamedTuple):
    """What is summed up: hyperparameters of the return."""

    discount: Share = 0.99
    reward_scale: Real = 1.0  # before the transform


class Carry(NamedTuple):
    """What acting remembers of a slot."""

    core: Tree  # {stream: [B, ...]} of the network's memories
    action: Array  # [B, ...] the action that led to the next step
    teacher: Tree = ()  # what the core is to the agent, to its teacher


class Extras(NamedTuple):
    """What acting notes down for the update, ``[T, B]``."""

    log_prob: Array  # of the action under the policy that took it
    value: Array
    # [T, B, policy_params_size] raw, before the temperature: a label for a student.
    policy: Array | None = None
    teacher: Tree = ()  # raw parameters of the teacher's policy, [T, B, ...]


class Evaluated(NamedTuple):
    """A rollout as the current parameters see it; ``T`` transitions."""

    log_prob: Array  # [T, B] of the actions taken
    entropy: Array  # [T, B]
    value: Array  # [T + 1, B]


class Arrivals(NamedTuple):
    """What each transition arrived at, ``[T, B]``."""

    r_t: Array  # scaled, then transformed
    discount_t: Array
    first_t: Array  # bool


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
    value_of: Callable[[Array], Array] = lambda value: value,
) -> tuple[Array, Carry, Extras]:
    """Returns (action, carry, extras) for one step of ``[B]`` slots.

    ``value_of`` gives the value in the unit of rewards, of the network's.
    """
    time = jax.tree.map(lambda x: x[None], (ts, carry.action))
    out, core = network.unroll(params, carry.core, *time)
    policy, value = jax.tree.map(lambda x: x[0], (out.policy, out.value))
    distribution = network.distribution(policy, ts.action_mask, temperature)
    action, log_prob = distribution.sample_and_log_prob(key)
    return action, Carry(core, action), Extras(log_prob, value_of(value), policy)


def observe_action(carry: Carry, ts: types.TimeStep, action: Array) -> Carry:
    """Returns the carry as if ``act`` had chosen ``action``; all are [B]."""
    del ts
    return carry._replace(action=action)


def previous_actions(rollout: types.Rollout) -> Array:
    """Returns the action that led to each of the T + 1 steps.

    To the first: that of the carry, or of the row before it, where a dataset says it.
    """
    known = getattr(rollout.extras, "prev_action", None)
    before = rollout.carry.action if known is None else known[0]
    return jnp.concatenate([before[None], rollout.action])


def outputs(
    network: networks.Network, params: Tree, rollout: types.Rollout
) -> networks.PolicyValue:
    """Returns what the network says of each of the T + 1 steps."""
    return network.unroll(
        params, rollout.carry.core, rollout.ts, previous_actions(rollout)
    )[0]


def evaluate(
    network: networks.Network,
    out: networks.PolicyValue,
    rollout: types.Rollout,
    value_of: Callable[[Array], Array] = lambda value: value,
) -> Evaluated:
    """Returns log-probabilities, entropies and values of the ``outputs`` of a rollout."""
    policy, mask = jax.tree.map(lambda x: x[:-1], (out.policy, rollout.ts.action_mask))
    distribution = network.distribution(policy, mask)
    return Evaluated(
        distribution.log_prob(rollout.action),
        distribution.entropy(),
        value_of(out.value),
    )


def chosen_from(rollout: types.Rollout) -> Array:
    """Returns the steps ``[T, B]`` that an action was chosen from, where data say so.

    Not those that ended an episode, whose action was sent into the reset, nor those
    beyond the end of a dataset's history.
    """
    ends = rollout.ts.last[:-1] & ~rollout.ts.first[:-1]
    return ~ends & getattr(rollout.extras, "live", True)


def arrivals(
    rollout: types.Rollout, transform: Callable[[Array], Array], hp: Returns
) -> Arrivals:
    """Returns rewards, discounts and first steps as the return counts them."""
    return arrived_at(rollout.ts, transform, hp)


def arrived_at(
    ts: types.TimeStep, transform: Callable[[Array], Array], hp: Returns
) -> Arrivals:
    """Returns what each transition of time steps ``[T + 1, B]`` arrived at."""
    ts = jax.tree.map(lambda x: x[1:], ts._replace(obs=()))
    return Arrivals(
        transform(ts.reward * hp.reward_scale), ts.discount * hp.discount, ts.first
    )
