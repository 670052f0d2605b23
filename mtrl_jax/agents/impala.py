"""V-trace actor-critic (IMPALA).

The learner is given unrolls that its own, slightly older policies collected and corrects
for their age with truncated importance weights.

Ref: Espeholt et al. 2018, "IMPALA: Scalable Distributed Deep-RL with Importance Weighted
Actor-Learner Architectures" (arXiv:1802.01561).

Deviations from the paper: losses are means over live steps instead of sums over time and
batch, so that a setting carries over between batch sizes. A sum over N = T·B steps with
RMSProp epsilon e (inside the square root, as in the authors' program) and gradient-norm
bound g is, here, epsilon √e/N and bound g/N: the paper's Atari values 0.01 and 40 at
N = 640 are 1.6e-4 and 0.0625.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import types
from mtrl_jax.agents import actor_critic, optimiser
from mtrl_jax.losses import policy_gradient, rewards
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.types import Array, Scalar


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program: networks, optimiser, reward transform."""

    network: networks.NetworkConfig = dataclasses.field(
        default_factory=networks.NetworkConfig
    )
    optimiser: str = "rmsprop"  # see agents/optimiser.py
    rewards: str = "none"  # see losses/rewards.py


class Hparams(NamedTuple):
    """What PBT may perturb; every field is traced."""

    learning_rate: Scalar = 6e-4
    decay_updates: Scalar = 0.0  # linear decay to 0 over this many updates, 0: constant
    entropy_cost: Scalar = 0.01
    value_cost: Scalar = 0.5
    discount: Scalar = 0.99
    lambda_: Scalar = 1.0
    clip_rho: Scalar = 1.0
    clip_pg_rho: Scalar = 1.0
    reward_scale: Scalar = 1.0  # before the transform
    max_grad_norm: Scalar = 0.5
    epsilon: Scalar = 1.6e-4  # of the optimiser
    temperature: Scalar = 1.0  # of acting; 0 is greedy


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the V-trace agent for environments of ``spec``.

    Metrics: ``loss, policy_loss, value_loss, entropy, grad_norm, rho`` (mean importance
    ratio), ``value`` (mean), all means over live transitions.

    Raises:
      ValueError: an unknown optimiser, reward transform or network option.
    """
    optimiser.check(config.optimiser)
    network = networks.make(spec, config.network)
    transform = rewards.get(config.rewards)

    def init(key, hp):
        params = network.init(key)
        opt = optimiser.make(config.optimiser, hp).init(params)
        learner = actor_critic.Learner(params, opt, jnp.zeros((), jnp.int32))
        return types.AgentState(learner, local=())

    def carry(batch):
        return actor_critic.initial_carry(network, spec.action, batch)

    def act(state, carry, ts, key, hp):
        return actor_critic.act(
            network, state.learner.params, carry, ts, key, hp.temperature
        )

    def update(state, rollout, key, hp):
        del key  # The update is deterministic.
        learner = state.learner
        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (_, metrics), grads = grad_fn(learner.params, rollout, hp)
        updates, opt = optimiser.make(config.optimiser, hp).update(grads, learner.opt)
        params = optax.apply_updates(learner.params, updates)
        metrics["grad_norm"] = optax.tree.norm(grads)
        learner = actor_critic.Learner(params, opt, learner.updates + 1)
        return types.AgentState(learner, state.local), metrics

    def loss_fn(params, rollout: types.Rollout, hp: Hparams):
        now = actor_critic.evaluate(network, params, rollout)
        r_t, discount_t, first_t = actor_critic.arrivals(
            rollout, hp.reward_scale, transform, hp.discount
        )
        rho_tm1 = jnp.exp(now.log_prob - rollout.extras.log_prob)

        # Targets of every slot; no gradient flows through them.
        def targets_of(*slot):
            return policy_gradient.vtrace(
                *slot,
                lambda_=hp.lambda_,
                clip_rho=hp.clip_rho,
                clip_pg_rho=hp.clip_pg_rho,
            )

        v_tm1, v_t = now.value[:-1], now.value[1:]
        targets = jax.vmap(targets_of, in_axes=1, out_axes=1)(
            *jax.lax.stop_gradient((v_tm1, v_t, r_t, discount_t, rho_tm1)), first_t
        )
        live = ~first_t

        def mean(x: Array) -> Array:
            return policy_gradient.masked_mean(x, live)

        policy_loss = mean(-targets.advantage * now.log_prob)
        value_loss = mean(0.5 * jnp.square(targets.value - v_tm1))
        entropy = mean(now.entropy)
        loss = policy_loss + hp.value_cost * value_loss - hp.entropy_cost * entropy
        return loss, {
            "loss": loss,
            "policy_loss": policy_loss,
            "value_loss": value_loss,
            "entropy": entropy,
            "rho": mean(rho_tm1),
            "value": mean(v_tm1),
        }

    return types.Agent(init, carry, act, update)
