"""V-trace actor-critic (IMPALA).

The learner is given unrolls that its own, slightly older policies collected and corrects
for their age with truncated importance weights.

Ref: Espeholt et al. 2018, "IMPALA: Scalable Distributed Deep-RL with Importance Weighted
Actor-Learner Architectures" (arXiv:1802.01561).

Deviations from the paper: losses are means over live steps instead of sums over time and
batch, so that a setting carries over between batch sizes. A sum over N = T·B steps with
RMSProp epsilon e and gradient-norm bound g is, here, rmsprop_eps e/N² and bound g/N. The
defaults are the paper's for Atari (0.01 and 40 at N = 640), for RMSProp.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from mtrl_jax import types
from mtrl_jax.agents.common import (
    combining,
    learning,
    minibatches,
    objective,
    observation_scale,
    optimiser,
    unrolls,
    value_scale,
    vtrace,
)
from mtrl_jax.hparams import Amount
from mtrl_jax.losses import rewards
from mtrl_jax.networks import actor_critic as networks

INFO = types.AgentInfo(
    "V-trace actor-critic (Espeholt et al. 2018)",
    needs_extras=True,
    observe_action=unrolls.observe_action,
    learns=unrolls.LEARNS,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program: networks, optimiser, reward transform."""

    network: networks.NetworkConfig = dataclasses.field(
        default_factory=networks.NetworkConfig
    )
    optimiser: str = "rmsprop"  # see agents/common/optimiser.py
    rewards: str = "none"  # see losses/rewards.py
    epochs: int = 1  # passes over a rollout; the paper makes one
    minibatches: int = 1  # groups of slots a pass is made in
    normalise_advantages: bool = False  # by task, as PPO does; the paper not
    value_scale: str = "none"  # see agents/common/value_scale.py
    value_statistics: str = "mean"  # see losses/popart.py, MODES
    value_debias: bool = False  # of the initial statistics
    normalise_observations: bool = False  # see agents/common/observation_scale.py
    combiner: str = "mean"  # of the tasks' gradients, see agents/common/combining.py


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    optimiser: optimiser.Hparams = vtrace.OPTIMISER
    costs: objective.Costs = objective.Costs()
    returns: unrolls.Returns = unrolls.Returns()
    vtrace: vtrace.Hparams = vtrace.Hparams()
    scale: value_scale.Hparams = value_scale.Hparams()
    combining: combining.Hparams = combining.Hparams()
    temperature: Amount = 1.0  # of acting; 0 is greedy


def make(
    spec: types.EnvSpec,
    config: Config = Config(),
    auxiliaries: Sequence[objective.Auxiliary] = (),
) -> types.Agent:
    """Returns the V-trace agent for environments of ``spec``.

    Metrics: ``loss, policy_loss, value_loss, entropy, grad_norm, rho`` (mean importance
    ratio), ``value`` (mean), ``value_std`` with a value scale, all means over live transitions, and each auxiliary loss by
    its name. The auxiliaries' batch is the rollout.

    Raises:
      ValueError: an unknown optimiser, reward transform or network option; at trace
        time, slots that do not divide into the minibatches.
    """
    learning.check(config)
    scale = value_scale.make(config, len(spec.tasks))
    normaliser = observation_scale.make(spec, config.normalise_observations)
    combiner = combining.make(config.combiner, spec)
    network = networks.make(spec, config.network, num_values=scale.num_values)
    transform = rewards.get(config.rewards)

    def optimise(hp):
        steps = config.epochs * config.minibatches
        return optimiser.make(config.optimiser, hp.optimiser, steps)

    def init(key, hp):
        params = objective.add_heads(network.init(key), auxiliaries, key)
        observations = normaliser.init()
        return learning.init(params, optimise(hp), scale.init(), observations)

    def carry(batch):
        return unrolls.initial_carry(network, spec.action, batch)

    def act(learner, carry, ts, key, hp):
        def value_of(value):
            return scale.value(learner.stats, value, ts.task, hp.scale)

        ts = normaliser.apply(learner.observations, ts)
        return unrolls.act(
            network, learner.params, carry, ts, key, hp.temperature, value_of
        )

    def loss(params, stats, rollout, key, hp):
        del key
        out = unrolls.outputs(network, params, rollout)

        def value_of(value):
            return scale.value(stats, value, rollout.ts.task, hp.scale)

        terms, metrics, stats_after = vtrace.terms(
            unrolls.evaluate(network, out, rollout, value_of),
            rollout.extras.log_prob,
            unrolls.arrivals(rollout, transform, hp.returns),
            hp.vtrace,
            task=rollout.ts.task[:-1],
            scale=scale,
            stats=stats,
            of_scale=hp.scale,
            normalise=config.normalise_advantages,
            combiner=combiner,
        )
        more = objective.auxiliary_losses(
            auxiliaries, params, out.features, rollout, hp
        )
        total, parts = objective.total(terms, hp.costs, more)
        return total, learning.Aux(metrics | parts, stats_after)

    def update(learner, rollout, key, hp, step):
        del step
        seen = rollout._replace(ts=normaliser.apply(learner.observations, rollout.ts))
        learner, metrics = learning.passes(
            loss,
            optimise(hp),
            learner,
            minibatches.slots(seen),
            key,
            hp,
            epochs=config.epochs,
            minibatches=config.minibatches,
            preserve=scale.preserve,
            combiner=combiner,
        )
        observations = normaliser.after(learner.observations, rollout)
        return learner._replace(observations=observations), metrics, ()

    return types.Agent(init, carry, act, update)
