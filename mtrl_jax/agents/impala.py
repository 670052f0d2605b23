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

from mtrl_jax import types
from mtrl_jax.agents import actor_critic, optimiser, vtrace
from mtrl_jax.losses import rewards
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.types import Scalar

INFO = types.AgentInfo(
    "V-trace actor-critic (Espeholt et al. 2018)",
    needs_extras=True,
    learns=actor_critic.LEARNS,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program: networks, optimiser, reward transform."""

    network: networks.NetworkConfig = dataclasses.field(
        default_factory=networks.NetworkConfig
    )
    optimiser: str = "rmsprop"  # see agents/optimiser.py
    rewards: str = "none"  # see losses/rewards.py
    epochs: int = 1  # passes over a rollout; the paper makes one
    minibatches: int = 1  # groups of slots a pass is made in
    normalise_advantages: bool = False  # over a minibatch, as PPO does; the paper not


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
    clip_epsilon: Scalar = 0.0  # PPO's bound on the ratio, for several epochs; 0: none
    reward_scale: Scalar = 1.0  # before the transform
    max_grad_norm: Scalar = 0.5
    epsilon: Scalar = 1.6e-4  # of the optimiser
    temperature: Scalar = 1.0  # of acting; 0 is greedy


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the V-trace agent for environments of ``spec``.

    Metrics: ``loss, policy_loss, value_loss, entropy, grad_norm, rho`` (mean importance
    ratio), ``value`` (mean), all means over live transitions.

    Raises:
      ValueError: an unknown optimiser, reward transform or network option; at trace
        time, slots that do not divide into the minibatches.
    """
    optimiser.check_passes(config)
    network = networks.make(spec, config.network)
    transform = rewards.get(config.rewards)

    def init(key, hp):
        return vtrace.init(network.init(key), config, hp)

    def carry(batch):
        return actor_critic.initial_carry(network, spec.action, batch)

    def act(learner, carry, ts, key, hp):
        return actor_critic.act(network, learner.params, carry, ts, key, hp.temperature)

    def loss_fn(params, rollout, hp):
        now = actor_critic.evaluate(network, params, rollout)
        return vtrace.loss(now, rollout, transform, hp, config.normalise_advantages)

    def update(learner, rollout, key, hp, step):
        del step
        return vtrace.update(loss_fn, config, learner, rollout, key, hp)

    return types.Agent(init, carry, act, update)
