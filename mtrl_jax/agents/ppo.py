"""Proximal policy optimisation.

Several passes of clipped policy-gradient steps over one batch of experience.

Ref: Schulman et al. 2017 (arXiv:1707.06347) with the details the field settled on:
generalised advantages, normalised per minibatch and task, gradients clipped by norm. Clipping the
value error is an option and off: the bound has the unit of returns, which differ by task.

Deviations: the rows of a long pass are ordered by an affine bijection of the index instead
of a full random permutation, which costs no sort (see common/minibatches.py). A recurrent network is
trained on whole unrolls, minibatches then being sets of slots.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.agents.common import (
    actor_critic_learner,
    combining,
    kickstarting,
    learning,
    minibatches,
    objective,
    optimiser,
    policy_learner,
    sharing,
    unrolls,
    value_scale,
)
from mtrl_jax.hparams import Amount, Limit, Share
from mtrl_jax.losses import policy_gradient
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.networks import heads
from mtrl_jax.types import Array, Tree

INFO = types.AgentInfo(
    "proximal policy optimisation (Schulman et al. 2017)",
    needs_extras=True,
    observe_action=unrolls.observe_action,
    idle=actor_critic_learner.idle,
    learns=unrolls.LEARNS,
)


@dataclasses.dataclass(frozen=True)
class Config(actor_critic_learner.Config):
    """What makes another program."""

    optimiser: str = "adam"
    epochs: int = 4
    minibatches: int = 4
    normalise_advantages: bool = True


class Clipped(NamedTuple):
    """Hyperparameters of the clipped surrogate and its targets."""

    lambda_: Share = 0.95
    clip_epsilon: Limit = 0.2
    clip_value: Limit = 0.0  # in units of (scaled) value; 0: the value is not clipped


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    optimiser: optimiser.Hparams = optimiser.Hparams(
        learning_rate=2.5e-4, adam_eps=1e-5, rmsprop_eps=1e-10
    )
    costs: objective.Costs = objective.Costs()
    returns: unrolls.Returns = unrolls.Returns()
    clipped: Clipped = Clipped()
    scale: value_scale.Hparams = value_scale.Hparams()
    combining: combining.Hparams = combining.Hparams()
    kickstarting: kickstarting.Hparams = kickstarting.Hparams()
    sharing: sharing.Hparams = sharing.Hparams()
    temperature: Amount = 1.0  # of acting; 0 is greedy


class Batch(NamedTuple):
    """Rows ``[N, L, ...]`` of one pass, N sequences of length L; of a loss ``[L, N]``."""

    ts: types.TimeStep
    prev_action: Array
    action: Array
    extras: unrolls.Extras
    targets: policy_gradient.Targets
    live: Array  # bool, False where the transition crosses into a new episode


def make(
    spec: types.EnvSpec,
    config: Config = Config(),
    auxiliaries: Sequence[objective.Auxiliary] = (),
) -> types.Agent:
    """Returns the PPO agent for environments of ``spec``.

    Metrics: ``loss, policy_loss, value_loss, entropy, approx_kl`` (Schulman's
    (ρ − 1) − log ρ), ``clip_fraction, grad_norm, learning_rate``, ``value_std`` with a value
    scale, and each auxiliary loss by its name, means over minibatches. The auxiliaries'
    batch is a Batch ``[L, N]``.

    Raises:
      ValueError: an unknown option, or sizes below 1; at trace time, a rollout whose
        rows do not divide into the minibatches.
    """
    made = actor_critic_learner.make(spec, config, auxiliaries)
    base = made.base

    def loss(params, stats, rows, key, hp):
        del key
        batch, core = rows
        batch = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), batch)  # [L, N]
        network = made.shared.learned(batch.ts.first.shape[1])
        out, _ = network.unroll(params, core, batch.ts, batch.prev_action)
        distribution = network.distribution(out.policy, batch.ts.action_mask)
        terms, metrics, after = surrogate(
            distribution,
            base.value(stats, out.value, batch.ts.task, hp),
            batch,
            hp,
            stats,
            base,
        )
        more = made.losses(
            params,
            out.features,
            batch,
            hp,
            policy=distribution,
            shown=batch.extras.teacher,
            action_mask=batch.ts.action_mask,
            live=batch.live,
            task=batch.ts.task,
        )
        present = base.combiner.present(batch.live, batch.ts.task)
        total, parts = objective.total(terms, hp.costs, more, present)
        metrics |= parts
        return total, learning.Aux(metrics, after, present, jnp.any(batch.live))

    def update(learner, rollout, key, hp, step):
        del step

        def rows(seen):
            return rows_of(made.shared, base, learner, seen, hp)

        return base.update(loss, rows, learner, rollout, key, hp)

    return types.Agent(made.init, made.carry, made.act, update)


def rows_of(
    shared: sharing.Sharing,
    base: policy_learner.PolicyLearner,
    learner: learning.Learner,
    rollout: types.Rollout,
    hp: Hparams,
) -> minibatches.Rows:
    """Returns the rows of a pass: (Batch, the core state each begins with).

    A row is the unroll of a slot where the network has a memory, else a single step; the
    targets are of the parameters before the first pass.
    """

    def value_of(value, task):
        return base.value(learner.stats, value, task, hp)

    network = shared.acting
    value = bootstrapped(network, learner.params, rollout, value_of)
    arrived = unrolls.arrivals(rollout, base.transform, hp.returns)

    def targets_of(*slot):
        return policy_gradient.gae(*slot, lambda_=hp.clipped.lambda_)

    targets = jax.vmap(targets_of, in_axes=1, out_axes=1)(
        value[:-1], value[1:], *arrived
    )
    batch = Batch(
        ts=jax.tree.map(lambda x: x[:-1], rollout.ts),
        prev_action=unrolls.previous_actions(rollout)[:-1],
        action=rollout.action,
        extras=rollout.extras,
        targets=targets,
        live=~arrived.first_t,
    )
    if network.recurrent:
        by_slot = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), batch)
        groups = shared.groups(rollout.ts.first.shape[1])
        return minibatches.leading((by_slot, rollout.carry.core), "slots", groups)
    single = jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), batch)
    groups = shared.groups(batch.live.size)
    return minibatches.leading((single, network.initial_state(0)), "steps", groups)


def bootstrapped(
    network: networks.Network,
    params: Tree,
    rollout: types.Rollout,
    value_of: Callable[[Array, Array], Array],
) -> Array:
    """Returns values ``[T + 1, B]``: T from acting, the last from the network.

    ``value_of(value, task)`` gives the network's in the unit of rewards.

    With a memory all are the network's: the last needs the unroll in any case.
    """
    prev_action = unrolls.previous_actions(rollout)
    if network.recurrent:
        out, _ = network.unroll(params, rollout.carry.core, rollout.ts, prev_action)
        return value_of(out.value, rollout.ts.task)
    last = jax.tree.map(lambda x: x[-1:], (rollout.ts, prev_action))
    out, _ = network.unroll(params, rollout.carry.core, *last)
    last_value = value_of(out.value, rollout.ts.task[-1:])
    return jnp.concatenate([rollout.extras.value, last_value])


def surrogate(
    distribution: heads.Policy,
    value: Array,
    batch: Batch,
    hp: Hparams,
    stats: Tree,
    base: policy_learner.PolicyLearner,
) -> tuple[objective.Terms, dict[str, Array], Tree]:
    """Returns (terms, metrics, statistics) of a minibatch ``[L, N]``.

    Surrogate, value error and entropy; advantages and the value error are divided by the
    scale of values after the minibatch. Those of ``normalise_advantages`` have mean 0 and
    variance 1 over the live steps of each task.
    """
    scale = base.scale
    log_ratio = distribution.log_prob(batch.action) - batch.extras.log_prob
    task = batch.ts.task
    new = scale.after(stats, batch.targets.value, batch.live, task, hp.scale)

    def divided(x: Array) -> Array:
        return scale.divided(new, x, task, hp.scale)

    advantage = divided(batch.targets.advantage)
    if base.normalise:
        advantage = policy_gradient.normalised(advantage, batch.live, task, scale.tasks)
    value_error = policy_gradient.clipped_value_error(
        scale.predicted(stats, new, value, task, hp.scale),
        scale.predicted(stats, new, batch.extras.value, task, hp.scale),
        divided(batch.targets.value),
        hp.clipped.clip_value,
    )
    epsilon = hp.clipped.clip_epsilon
    growth = jnp.expm1(log_ratio)  # ρ − 1
    terms, metrics = base.combiner.means(
        objective.Terms(
            policy_gradient.clipped_surrogate(log_ratio, advantage, epsilon),
            value_error,
            distribution.entropy(),
        ),
        {
            "approx_kl": growth - log_ratio,
            "clip_fraction": (jnp.abs(growth) > epsilon).astype(jnp.float32),
        },
        batch.live,
        task,
    )
    return terms, metrics | scale.metrics(new, task, batch.live, hp.scale), new
