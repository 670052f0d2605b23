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

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import types
from mtrl_jax.agents import actor_critic, optimiser
from mtrl_jax.losses import policy_gradient
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.types import Array, Scalar, Tree

INFO = types.AgentInfo("imitation of a dataset's actions (Pomerleau 1991)")


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program: network and optimiser."""

    network: networks.NetworkConfig = dataclasses.field(
        default_factory=networks.NetworkConfig
    )
    optimiser: str = "adam"  # see agents/optimiser.py


class Hparams(NamedTuple):
    """What PBT may perturb; every field is traced."""

    learning_rate: Scalar = 1e-3
    decay_updates: Scalar = 0.0  # linear decay to 0 over this many updates, 0: constant
    max_grad_norm: Scalar = 1.0
    epsilon: Scalar = 1e-8  # of the optimiser
    temperature: Scalar = 1.0  # of acting; 0 is greedy


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the cloning agent for environments of ``spec``.

    It needs no extras of who acted. Metrics: ``loss`` (nats a step), ``entropy``,
    ``grad_norm`` and, of choices, ``accuracy`` (the most probable action is the data's),
    means over live transitions.

    Raises:
      ValueError: an unknown optimiser or network option.
    """
    optimiser.check(config.optimiser)
    network = networks.make(spec, config.network)

    def init(key, hp):
        params = network.init(key)
        opt = optimiser.make(config.optimiser, hp).init(params)
        return actor_critic.Learner(params, opt, jnp.zeros((), jnp.int32))

    def carry(batch):
        return actor_critic.initial_carry(network, spec.action, batch)

    def act(learner, carry, ts, key, hp):
        action, carry, extras = actor_critic.act(
            network, learner.params, carry, ts, key, hp.temperature
        )
        return action, carry, extras.log_prob

    def update(learner, rollout, key, hp, step):
        del key, step  # The update is deterministic.
        params, opt, updates = learner
        (_, metrics), grads = jax.value_and_grad(loss, argnums=1, has_aux=True)(
            network, params, rollout
        )
        metrics["grad_norm"] = optax.tree.norm(grads)
        changes, opt = optimiser.make(config.optimiser, hp).update(grads, opt)
        params = optax.apply_updates(params, changes)
        learner = actor_critic.Learner(params, opt, updates + 1)
        return learner, metrics, ()

    return types.Agent(init, carry, act, update)


def loss(
    network: networks.Network, params: Tree, rollout: types.Rollout
) -> tuple[Array, dict[str, Array]]:
    """Returns (loss, metrics): mean -log π of the data's actions over live steps."""
    out, _ = network.unroll(
        params, rollout.carry.core, rollout.ts, actor_critic.previous_actions(rollout)
    )
    policy, mask = jax.tree.map(lambda x: x[:-1], (out.policy, rollout.ts.action_mask))
    distribution = network.distribution(policy, mask)
    # The action that was sent into a reset was nobody's choice, and a dataset says which
    # steps there are.
    ends = rollout.ts.last[:-1] & ~rollout.ts.first[:-1]
    live = ~ends & getattr(rollout.extras, "live", True)

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
