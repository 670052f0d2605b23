"""Behaviour cloning: the policy under which the data's actions are most probable.

    loss = - mean over live steps of  log π(a_t | o_t, memory)

Actions are all it learns from; rewards and values have no part in it. It is as good as
who acted in the data, so it is for the offline runner: run online it imitates itself. A
network without a core and without ``last_action_reward`` is cloning in the narrow sense;
with either it sees the history of its window.

Ref: Pomerleau 1991, "Efficient Training of Artificial Neural Networks for Autonomous
Navigation". The network's value head is there and is not trained.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.agents.common import learning, optimiser, unrolls
from mtrl_jax.hparams import Amount
from mtrl_jax.losses import policy_gradient
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.networks import network_config
from mtrl_jax.types import Array, Tree

INFO = types.AgentInfo(
    "imitation of a dataset's actions (Pomerleau 1991)", idle=optimiser.idle
)


@dataclasses.dataclass(frozen=True)
class Config(network_config.Config):
    """What makes another program: network and optimiser."""

    optimiser: str = "adam"  # adam, rmsprop, rmsprop_centred


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    optimiser: optimiser.Hparams = optimiser.Hparams(max_grad_norm=1.0)
    temperature: Amount = 1.0  # of acting; 0 is greedy


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the cloning agent for environments of ``spec``.

    It needs no extras of who acted. Metrics: ``loss`` (nats a step), ``entropy``,
    ``grad_norm, learning_rate`` and, of choices, ``accuracy`` (the most probable action
    is the data's), means over live transitions.

    Raises:
      ValueError: an unknown optimiser or network option.
    """
    optimiser.check(config.optimiser)
    network = networks.make(spec, config.network)

    def optimise(hp):
        return optimiser.make(config.optimiser, hp.optimiser)

    def init(key, hp):
        return learning.init(network.init(key), optimise(hp))

    def carry(batch):
        return unrolls.initial_carry(network, spec.action, batch)

    def act(learner, carry, ts, key, hp):
        action, carry, extras = unrolls.act(
            network, learner.params, carry, ts, key, hp.temperature
        )
        return action, carry, extras.log_prob

    def cloning_loss(params, stats, rollout, key, hp):
        del key, hp
        nats, metrics = loss(network, params, rollout)
        return nats, learning.Aux(metrics, stats)

    def update(learner, rollout, key, hp, step):
        del step
        learner, metrics = learning.update(
            cloning_loss, optimise(hp), learner, rollout, key, hp
        )
        return learner, metrics, ()

    return types.Agent(init, carry, act, update)


def loss(
    network: networks.Network, params: Tree, rollout: types.Rollout
) -> tuple[Array, dict[str, Array]]:
    """Returns (loss, metrics): mean -log π of the data's actions over live steps."""
    out = unrolls.outputs(network, params, rollout)
    policy, mask = out.policy[:-1], rollout.ts.action_mask[:-1]
    distribution = network.distribution(policy, mask)
    live = unrolls.chosen_from(rollout)

    def mean(x: Array) -> Array:
        return policy_gradient.masked_mean(x, live)

    nats = mean(-distribution.log_prob(rollout.action))
    metrics = {"loss": nats, "entropy": mean(distribution.entropy())}
    if jnp.issubdtype(rollout.action.dtype, jnp.integer):
        same = distribution.mode() == rollout.action
        # Of a factorised action, all choices.
        same = same.reshape(*live.shape, -1).all(axis=-1)
        metrics["accuracy"] = mean(same.astype(jnp.float32))
    return nats, metrics
