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

import jax

from mtrl_jax import types
from mtrl_jax.agents.common import (
    actor_critic_learner,
    combining,
    kickstarting,
    learning,
    minibatches,
    objective,
    optimiser,
    sharing,
    unrolls,
    value_scale,
    vtrace,
)
from mtrl_jax.hparams import Amount
from mtrl_jax.losses import rewards
from mtrl_jax.networks import network_config

INFO = types.AgentInfo(
    "V-trace actor-critic (Espeholt et al. 2018)",
    needs_extras=True,
    observe_action=unrolls.observe_action,
    idle=sharing.idle,
    learns=unrolls.LEARNS,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program: networks, optimiser, reward transform."""

    network: network_config.NetworkConfig = dataclasses.field(
        default_factory=network_config.NetworkConfig
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
    base = actor_critic_learner.make(spec, config, auxiliaries)
    transform = rewards.get(config.rewards)

    def loss(params, stats, rollout, key, hp):
        del key
        ts = jax.tree.map(lambda x: x[:-1], rollout.ts._replace(obs=()))
        network = base.shared.learned(rollout.ts.first.shape[1])
        out = unrolls.outputs(network, params, rollout)

        def value_of(value):
            return base.scale.value(stats, value, rollout.ts.task, hp.scale)

        terms, metrics, after = vtrace.of_rollout(
            unrolls.evaluate(network, out, rollout, value_of),
            rollout,
            stats,
            hp,
            base.scale,
            transform,
            normalise=config.normalise_advantages,
            combiner=base.combiner,
        )
        total, parts = base.total(
            terms,
            params,
            out.features,
            rollout,
            hp,
            policy=network.distribution(out.policy[:-1], ts.action_mask),
            shown=rollout.extras.teacher,
            action_mask=ts.action_mask,
            live=~rollout.ts.first[1:],
            task=ts.task,
        )
        present = base.combiner.present(~rollout.ts.first[1:], ts.task)
        return total, learning.Aux(metrics | parts, after, present)

    def slots(learner, rollout):
        del learner
        return minibatches.slots(rollout, base.shared.groups(rollout.ts.first.shape[1]))

    def update(learner, rollout, key, hp, step):
        del step
        return base.update(loss, slots, learner, rollout, key, hp)

    return types.Agent(base.init, base.carry, base.act, update)
