"""Distral: task policies around a distilled policy, on the V-trace learner.

    J = Σ_i E_{π_i} Σ_t [ r_i + (α/β) log π_0(a_t|s_t) − (1/β) log π_i(a_t|s_t) ]

Every task has its own policy π_i and value; π_0 is one for all. The KL from π_i to π_0
weighs α/β, the entropy of π_i (1 − α)/β: both numbers are traced. The seven variants of
the paper are these and a choice of columns (agents/common/policy_columns.py), h being
π_0's network and f_i a task's:

    columns    π_i ∝             α = 0            α = 1       between
    one        exp f_i           A3C              KL_1col     KL+ent_1col
    two        exp(α h + f_i)    A3C              KL_2col     KL+ent_2col
    added      exp(h + f_i)      A3C_2col: not distilled, entropy 1/β whatever α
    shared     exp h             A3C_multitask: one network, likewise

A task's network runs on its own slots alone where these are static, minibatches have the
same share of every task, and gradients are clipped network by network: at α = 0 tasks are
independent, but for the number of live steps, which is common: where another task has more
resets in a batch, one's own steps count for more.

The step's own part of the sum, Σ_a π_i [(α/β) log π_0 − (1/β) log π_i], is differentiated
as it stands, by π_i and by π_0 (which is the distillation); what follows it is in the
V-trace targets of the values, and in the advantages. Under ``value_scale`` β is in the
unit that values are learned in, and so means the same in every task. The sums of what is
regularised have a value of their own there: the unit is that of rewards alone, which it
would be fed back into.

Ref: Teh et al. 2017, "Distral: Robust multitask reinforcement learning"
(arXiv:1707.04175), equations 1-9 and section 4.

Deviations: a task's column outputs f_i = β · (the paper's), so that a policy moves at the
same rate and keeps its place when β changes; no γ^t before a step's gradient; V-trace
instead of n-step returns.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.agents.common import (
    exploration,
    learning,
    minibatches,
    objective,
    optimiser,
    policy_columns,
    policy_learner,
    unrolls,
    value_scale,
    vtrace,
)
from mtrl_jax.hparams import Amount, Divisor, Share
from mtrl_jax.losses import policy_gradient
from mtrl_jax.networks import heads, network_config
from mtrl_jax.types import Scalar


def idle(config: Config) -> dict[str, types.Idle]:
    """Returns the hyperparameters that the program of ``config`` does not read."""
    found = policy_learner.idle(config)
    if config.columns not in policy_columns.DISTILLED:
        found["alpha"] = types.Idle(None, "columns=two or one")
    if config.columns == "shared":
        found["distilled"] = types.Idle(None, "columns=two, one or added")
    return found


INFO = types.AgentInfo(
    "task policies around a distilled one (Teh et al. 2017)",
    needs_extras=True,
    idle=idle,
    observe_action=unrolls.observe_action,
    actions=(types.Discrete, types.Factorised),
    learns=("observation", "action", "both", "masked", "memory", "both_factorised"),
    fewest_tasks=2,
)


@dataclasses.dataclass(frozen=True)
class Config(learning.Config, policy_learner.Config, network_config.Config):
    """What makes another program; the network is that of π_0 and of each task."""

    columns: str = "two"  # one, two, added, shared


class Transfer(NamedTuple):
    """Distral's two numbers, and who acts."""

    alpha: Share = 0.5  # 0: entropy alone, 1: KL alone
    beta: Divisor = 100.0  # inverse weight of both
    distilled: Share = 0.0  # from 0.5 on π_0 acts in place of π_i, for tests


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    transfer: Transfer = Transfer()
    optimiser: optimiser.Hparams = vtrace.OPTIMISER
    value_cost: Amount = 0.5
    returns: unrolls.Returns = unrolls.Returns()
    vtrace: vtrace.Hparams = vtrace.Hparams()
    scale: value_scale.Hparams = value_scale.Hparams()
    temperature: Amount = 1.0  # of acting; 0 is greedy


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the Distral agent for environments of ``spec``.

    Metrics: ``loss, policy_loss, value_loss, entropy`` (of π_i), ``kl`` (from π_i to
    π_0), ``regulariser``, ``grad_norm, learning_rate, rho``, ``value`` (mean; regularised
    without a value scale), ``value_std`` with one; means over live transitions.

    Raises:
      ValueError: an unknown option, or a Box; slots of a task that do not divide into
        the minibatches.
    """
    _check(spec)
    is_shared = config.columns == "shared"
    path = ("prior" if is_shared else "own", "value")
    # A value of rewards, and with a scale one of what is regularised.
    values = 1 if config.value_scale == "none" else 2
    stacked = not is_shared
    base = policy_learner.make(
        spec, config, (path,), values=values, stacked=stacked, apart=("prior",)
    )
    acting = columns_of(spec, config, base)
    # The slots of a minibatch are in another order.
    learned = acting
    if spec.slot_tasks and config.epochs * config.minibatches > 1:
        ordered = minibatches.grouped(spec.slot_tasks, config.minibatches)
        learned = columns_of(spec._replace(slot_tasks=ordered), config, base)

    def init(key, hp):
        return base.init(acting.init(key), hp)

    def carry(batch):
        action = types.action_shape(spec.action)
        zeros = jnp.zeros((batch, *action.shape), action.dtype)
        return unrolls.Carry(acting.initial_state(batch), zeros)

    def act(learner, carry, ts, key, hp):
        now, previous = jax.tree.map(lambda x: x[None], (ts, carry.action))
        alpha = coupling(config, hp)
        out, memories = acting.unroll(learner.params, carry.core, now, previous, alpha)
        out = jax.tree.map(lambda x: x[0], out)
        logits = out.logits
        if not is_shared:
            is_own = hp.transfer.distilled < 0.5
            logits = jnp.where(is_own, logits, out.prior_logits)
        policy = heads.policy(spec.action, logits, ts.action_mask, hp.temperature)
        action, log_prob = policy.sample_and_log_prob(key)
        value = base.value(learner.stats, out.value, ts.task, hp)
        after = unrolls.Carry(memories, action)
        return action, after, unrolls.Extras(log_prob, value, logits)

    loss = make_loss(spec, config, learned, base)

    def slots(rollout):
        return minibatches.slots(rollout, spec.slot_tasks)

    def update(learner, rollout, key, hp, step):
        del step
        return base.update(loss, slots, learner, rollout, key, hp)

    return types.Agent(init, carry, act, update)


def make_loss(
    spec: types.EnvSpec,
    config: Config,
    columns: policy_columns.Columns,
    base: policy_learner.PolicyLearner,
) -> learning.Loss:
    """Returns the loss of one rollout."""
    scale = base.scale

    def loss(params, stats, rollout, key, hp):
        del key
        previous = unrolls.previous_actions(rollout)
        memories = rollout.carry.core
        alpha, beta = coupling(config, hp), hp.transfer.beta
        out, _ = columns.unroll(params, memories, rollout.ts, previous, alpha)
        value = base.value(stats, out.value, rollout.ts.task, hp)
        mask, task = rollout.ts.action_mask[:-1], rollout.ts.task[:-1]
        policy = heads.policy(spec.action, out.logits[:-1], mask)
        prior = heads.policy(spec.action, out.prior_logits[:-1], mask)
        log_prob = policy.log_prob(rollout.action)
        sampled = alpha * prior.log_prob(rollout.action) - log_prob
        of_sampled = None
        if scale.num_values:
            place = len(spec.tasks) + rollout.ts.task
            of_sampled = exploration.entry(out.value, place)
        arrived = unrolls.arrivals(rollout, base.transform, hp.returns)
        terms, metrics, stats_after = vtrace.terms(
            unrolls.Evaluated(log_prob, policy.entropy(), value),
            rollout.extras.log_prob,
            arrived,
            hp.vtrace,
            task=task,
            scale=scale,
            stats=stats,
            of_scale=hp.scale,
            beside=vtrace.Beside(jax.lax.stop_gradient(sampled / beta), of_sampled),
        )
        kl = policy_gradient.masked_mean(policy.kl(prior), ~arrived.first_t)
        regulariser = ((1.0 - alpha) * terms.entropy - alpha * kl) / beta
        more = {"regulariser": objective.Weighted(-1.0, regulariser)}
        # The entropy is in the regulariser.
        costs = objective.Costs(entropy_cost=0.0, value_cost=hp.value_cost)
        total, parts = objective.total(terms, costs, more)
        return total, learning.Aux(metrics | parts | {"kl": kl}, stats_after)

    return loss


def coupling(config: Config, hp: Hparams) -> Scalar:
    """Returns α of the objective; 0 of columns that are not distilled."""
    return hp.transfer.alpha if config.columns in policy_columns.DISTILLED else 0.0


def columns_of(
    spec: types.EnvSpec, config: Config, base: policy_learner.PolicyLearner
) -> policy_columns.Columns:
    """Returns the networks of an agent's ``config`` for slots in the order of ``spec``."""
    values = base.scale.num_values
    return policy_columns.make(spec, config.network, config.columns, num_values=values)


def _check(spec: types.EnvSpec) -> None:
    """Raises ValueError unless the action space has logits."""
    if isinstance(spec.action, types.Box):
        raise ValueError(
            "action: distral adds the logits of its columns; give tasks with Discrete or "
            f"Factorised actions, not {spec.action}"
        )
