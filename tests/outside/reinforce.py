"""REINFORCE (Williams 1992); of a rollout those steps count whose episode ends in it."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import rlax

from mtrl_jax import types
from mtrl_jax.agents.common import learning, optimiser, unrolls
from mtrl_jax.losses.policy_gradient import masked_mean
from mtrl_jax.networks import actor_critic

INFO = types.AgentInfo(
    "REINFORCE with the mean as baseline (Williams 1992)", idle=optimiser.idle
)
SMALL = actor_critic.NetworkConfig(hidden=(32,))


@dataclasses.dataclass(frozen=True)
class Config:
    network: actor_critic.NetworkConfig = SMALL
    optimiser: str = "adam"


class Hparams(NamedTuple):
    step: optimiser.Hparams = optimiser.Hparams(learning_rate=1e-2)
    returns: unrolls.Returns = unrolls.Returns()
    temperature: float = 1.0  # of acting; 0 is greedy


def make(spec, config):
    network = actor_critic.make(spec, config.network)

    def init(key, hp):
        opt = optimiser.make(config.optimiser, hp.step)
        return learning.init(network.init(key), opt)

    def act(learner, carry, ts, key, hp):
        return unrolls.act(network, learner.params, carry, ts, key, hp.temperature)

    def loss(params, stats, rollout, key, hp):
        r_t, discount_t, first_t = unrolls.arrivals(rollout, lambda r: r, hp.returns)
        discount_t = jnp.where(first_t, 0.0, discount_t)
        g_tm1 = jax.vmap(rlax.discounted_returns, 1, 1)(r_t, discount_t, 0.0 * r_t)
        ended = jax.lax.cummax(rollout.ts.last[1:].astype(int), reverse=True) > 0
        live, out = ended & ~first_t, unrolls.outputs(network, params, rollout)
        log_prob = unrolls.evaluate(network, out, rollout).log_prob
        total = -masked_mean((g_tm1 - masked_mean(g_tm1, live)) * log_prob, live)
        return total, learning.Aux({"loss": total}, stats)

    def update(learner, rollout, key, hp, step):
        opt = optimiser.make(config.optimiser, hp.step)
        return *learning.update(loss, opt, learner, rollout, key, hp), ()

    def carry(batch):
        return unrolls.initial_carry(network, spec.action, batch)

    return types.Agent(init, carry, act, update)
