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
    kickstarting,
    learning,
    minibatches,
    objective,
    observation_scale,
    optimiser,
    sharing,
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
    distance: str = "l2"  # between networks of the tasks, see losses/soft_sharing.py
    # Whom to be kickstarted by, see agents/common/kickstarting.py.
    teacher: kickstarting.Teacher | None = None


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    optimiser: optimiser.Hparams = vtrace.OPTIMISER
    costs: objective.Costs = objective.Costs()
    returns: unrolls.Returns = unrolls.Returns()
    vtrace: vtrace.Hparams = vtrace.Hparams()
    scale: value_scale.Hparams = value_scale.Hparams()
    combining: combining.Hparams = combining.Hparams()
    kickstarting: kickstarting.Hparams = kickstarting.Hparams()
    sharing: sharing.Hparams = sharing.Hparams()
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
    steps, is_soft = (
        config.epochs * config.minibatches,
        config.network.sharing == "soft",
    )
    scale = value_scale.make(config, len(spec.tasks), stacked=is_soft)
    normaliser = observation_scale.make(spec, config.normalise_observations)
    combiner = combining.make(config.combiner, spec)
    teacher = kickstarting.make(config.teacher, spec)
    shared = sharing.make(
        spec, config.network, config.distance, steps, num_values=scale.num_values
    )
    network = shared.acting
    transform = rewards.get(config.rewards)

    def optimise(hp):
        return optimiser.make(config.optimiser, hp.optimiser, steps)

    def init(key, hp):
        params = objective.add_heads(network.init(key), auxiliaries, key)
        return learning.init(
            params, optimise(hp), scale.init(), normaliser.init(), teacher.init(key)
        )

    def carry(batch):
        fresh = unrolls.initial_carry(network, spec.action, batch)
        return fresh._replace(teacher=teacher.initial_state(batch))

    def act(learner, carry, ts, key, hp):
        def value_of(value):
            return scale.value(learner.stats, value, ts.task, hp.scale)

        shown, memory = teacher.shown(learner.frozen, carry.teacher, ts, carry.action)
        ts = normaliser.apply(learner.observations, ts)
        action, after, extras = unrolls.act(
            network, learner.params, carry, ts, key, hp.temperature, value_of
        )
        return action, after._replace(teacher=memory), extras._replace(teacher=shown)

    def loss(params, stats, rollout, key, hp):
        del key
        network = shared.learned(rollout.ts.first.shape[1])
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
        policy, mask = out.policy[:-1], rollout.ts.action_mask[:-1]
        more |= shared.losses(params, hp.sharing)
        more |= teacher.losses(
            network.distribution(policy, mask),
            rollout.extras.teacher,
            mask,
            ~rollout.ts.first[1:],
            rollout.ts.task[:-1],
            hp.kickstarting,
            combiner,
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
            minibatches.slots(seen, shared.groups(rollout.ts.first.shape[1])),
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
