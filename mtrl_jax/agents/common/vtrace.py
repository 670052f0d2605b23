"""The terms of V-trace's loss.

What policy acts is not its business: it is given the log-probabilities, entropies and
values of a rollout. IMPALA's is one network; Mix&Match's is a mixture of several.

Ref: Espeholt et al. 2018 (arXiv:1802.01561), section 4.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.agents.common import (
    combining,
    objective,
    optimiser,
    policy_learner,
    unrolls,
    value_scale,
)
from mtrl_jax.hparams import Limit, Share
from mtrl_jax.losses import policy_gradient
from mtrl_jax.types import Array, Tree

# The paper's for Atari, where a loss is a sum over 640 steps: rate 6e-4, norm 40,
# RMSProp's eps 0.01.
OPTIMISER = optimiser.Hparams(
    learning_rate=6e-4,
    max_grad_norm=40 / 640,
    adam_eps=1.6e-4,
    rmsprop_eps=0.01 / 640**2,
)


class Beside(NamedTuple):
    """Rewards beside the task's, of which a step's own have their gradient elsewhere."""

    r_t: Array  # [T, B] in the unit that is learned in
    # [T + 1, B] of them alone, in that unit; None: they are in the task's.
    value: Array | None = None


class Hparams(NamedTuple):
    """Of V-trace."""

    lambda_: Share = 1.0
    clip_rho: Limit = 1.0
    clip_pg_rho: Limit = 1.0
    clip_epsilon: Limit = 0.0  # PPO's bound on the ratio, for several epochs; 0: none


def of_rollout(
    now: unrolls.Evaluated,
    rollout: types.Rollout,
    stats: Tree,
    hp: Any,
    base: policy_learner.PolicyLearner,
) -> tuple[objective.Terms, dict[str, Array], Tree]:
    """Returns the ``terms`` of a rollout that noted down its log-probabilities.

    ``hp`` is an agent's Hparams with the groups ``returns, vtrace`` and ``scale``,
    ``base`` has its options.
    """
    return terms(
        now,
        rollout.extras.log_prob,
        unrolls.arrivals(rollout, base.transform, hp.returns),
        hp.vtrace,
        task=rollout.ts.task[:-1],
        scale=base.scale,
        stats=stats,
        of_scale=hp.scale,
        normalise=base.normalise,
        combiner=base.combiner,
    )


def terms(
    now: unrolls.Evaluated,
    log_mu: Array,
    arrived: unrolls.Arrivals,
    hp: Hparams,
    *,
    task: Array,
    scale: value_scale.Scale,
    stats: Tree,
    of_scale: value_scale.Hparams,
    normalise: bool = False,
    beside: Beside | None = None,
    combiner: combining.Combining = combining.MEAN,
) -> tuple[objective.Terms, dict[str, Array], Tree]:
    """Returns (terms, metrics, statistics): policy gradient, value error and entropy of live steps.

    mean(−ρ A log π(a)), mean(½ (v − V)²) and mean(H), with V-trace's advantages A, their
    weights ρ and targets v; A and v − V are divided by the scale of values after the
    batch. ``log_mu`` [T, B] are the behaviour's log-probabilities, ``task`` [T, B].
    ``beside`` counts in the targets and not in the step's own advantage; with values of
    its own it is learned beside the rest, and no part of what the scale follows.
    ``normalise`` gives the live advantages of each task mean 0 and variance 1;
    ``clip_epsilon`` above 0 takes out the steps whose policy has moved that far already.
    Both come before the weights, which would otherwise change what is near the mean, and
    the sign that trust depends on. ``combiner`` says whether the terms are split by task.
    The metrics are ``rho`` and ``value``, means over live steps.
    """
    log_ratio = now.log_prob - log_mu
    rho_tm1 = jnp.exp(log_ratio)

    joined, first_t = arrived, arrived.first_t
    if beside is not None and beside.value is None:
        joined = arrived._replace(r_t=arrived.r_t + beside.r_t)
    v_tm1 = now.value[:-1]
    targets = _targets(now.value, joined, rho_tm1, hp)

    new = scale.after(stats, targets.value, ~first_t, task, of_scale)
    advantage = scale.divided(new, targets.advantage, task, of_scale)
    target = scale.divided(new, targets.value, task, of_scale)
    predicted = scale.predicted(stats, new, v_tm1, task, of_scale)
    error = 0.5 * jnp.square(target - predicted)
    if beside is not None:
        advantage = advantage - beside.r_t
    if beside is not None and beside.value is not None:
        own = _targets(beside.value, arrived._replace(r_t=beside.r_t), rho_tm1, hp)
        advantage = advantage + own.advantage
        error = error + 0.5 * jnp.square(own.value - beside.value[:-1])
    if normalise:
        advantage = policy_gradient.normalised(advantage, ~first_t, task, scale.tasks)
    trusted = policy_gradient.within_trust(log_ratio, advantage, hp.clip_epsilon)
    advantage = targets.weight * advantage

    found, metrics = combiner.means(
        objective.Terms(
            policy_loss=jnp.where(trusted, -advantage * now.log_prob, 0.0),
            value_loss=error,
            entropy=now.entropy,
        ),
        {"rho": rho_tm1, "value": v_tm1},
        ~first_t,
        task,
    )
    return found, metrics | scale.metrics(new, task, ~first_t, of_scale), new


def _targets(
    value: Array, arrived: unrolls.Arrivals, rho_tm1: Array, hp: Hparams
) -> policy_gradient.WeightedTargets:
    """Returns the targets ``[T, B]`` of values ``[T + 1, B]``, without gradient."""

    def of_slot(*slot):
        return policy_gradient.vtrace(
            *slot,
            lambda_=hp.lambda_,
            clip_rho=hp.clip_rho,
            clip_pg_rho=hp.clip_pg_rho,
        )

    r_t, discount_t, first_t = arrived
    given = (value[:-1], value[1:], r_t, discount_t, rho_tm1)
    return jax.vmap(of_slot, in_axes=1, out_axes=1)(
        *jax.lax.stop_gradient(given), first_t
    )
