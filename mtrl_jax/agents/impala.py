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

INFO = types.AgentInfo(
    "V-trace actor-critic (Espeholt et al. 2018)",
    needs_extras=True,
    observe_action=unrolls.observe_action,
    idle=actor_critic_learner.idle,
    learns=unrolls.LEARNS,
)


@dataclasses.dataclass(frozen=True)
class Config(actor_critic_learner.Config):
    """What makes another program; the paper makes one pass."""


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

    Metrics: ``loss, policy_loss, value_loss, entropy, grad_norm, learning_rate, rho``
    (mean importance ratio), ``value`` (mean), ``value_std`` with a value scale, all means
    over live transitions, and each auxiliary loss by its name. The auxiliaries' batch is
    the rollout.

    Raises:
      ValueError: an unknown optimiser, reward transform or network option; at trace
        time, slots that do not divide into the minibatches.
    """
    made = actor_critic_learner.make(spec, config, auxiliaries)
    base = made.base

    def loss(params, stats, rollout, key, hp):
        del key
        ts = jax.tree.map(lambda x: x[:-1], rollout.ts._replace(obs=()))
        network = made.shared.learned(rollout.ts.first.shape[1])
        out = unrolls.outputs(network, params, rollout)

        def value_of(value):
            return base.value(stats, value, rollout.ts.task, hp)

        terms, metrics, after = vtrace.of_rollout(
            unrolls.evaluate(network, out, rollout, value_of),
            rollout,
            stats,
            hp,
            base,
        )
        more = made.losses(
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
        total, parts = objective.total(terms, hp.costs, more, present)
        return total, learning.Aux(metrics | parts, after, present)

    def slots(rollout):
        return minibatches.slots(rollout, made.shared.groups(rollout.ts.first.shape[1]))

    def update(learner, rollout, key, hp, step):
        del step
        return base.update(loss, slots, learner, rollout, key, hp)

    return types.Agent(made.init, made.carry, made.act, update)
