"""Mix&Match: a curriculum over agents, on the V-trace learner.

An ordered list of components, from easy to train to the one that is wanted, acts as one
mixture π_mm = Σ_i w_i π_i and learns by V-trace as one policy; beside that, every
component is matched to the easier ones:

    L = L_RL(π_mm, V_mm) + matching_cost · Σ_{i<j} w_ij KL(π_i ‖ π_j)

``alpha`` in [0, 1] says how far the control has moved from the first component (0) to
the last (1); PBT or a schedule moves it. With ``experts`` the first component is one per
task: in task i the mixture is of expert i and the last component.

Ref: Czarnecki et al. 2018, "Mix&Match: Agent Curricula for Reinforcement Learning"
(arXiv:1806.01780).

Deviations: the teacher of a matching term gets no gradient from it by default
(``teacher_learns``); the entropy bonus is that of the mixture, the paper does not say;
with more than two components ``alpha`` is a way along the list (losses/mixing.py); where
all actions of a component are illegal the others have its weight, and it teaches nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.agents.common import (
    combining,
    learning,
    minibatches,
    mixture_checks,
    mixture_control,
    objective,
    optimiser,
    policy_learner,
    policy_mixture,
    unrolls,
    value_scale,
    vtrace,
)
from mtrl_jax.agents.common.policy_mixture import Mixture, matching_loss
from mtrl_jax.hparams import Amount, Share
from mtrl_jax.losses import mixing, policy_gradient
from mtrl_jax.networks import components, subsets
from mtrl_jax.networks.components import Component
from mtrl_jax.types import Array, Tree


def idle(config: Config) -> dict[str, types.Idle]:
    """Returns the hyperparameters that the program of ``config`` does not read."""
    found = policy_learner.idle(config)
    if config.control == "slot" and not config.fades:
        found["alpha"] = types.Idle(None, "control=mixture, or fades=true")
    if len(config.components) == 1:
        both = types.Idle(None, "components of two or more")
        found |= {"alpha": both, "matching_cost": both}
    return found


INFO = types.AgentInfo(
    "agent curricula on V-trace (Czarnecki et al. 2018)",
    needs_extras=True,
    idle=idle,
    observe_action=unrolls.observe_action,
    learns=unrolls.LEARNS,
)


@dataclasses.dataclass(frozen=True)
class Config(policy_learner.WholeConfig):
    """What makes another program; the paper makes one pass.

    ``control``: who acts. "mixture" is the paper's. Ablations: "step" and "episode"
    draw one component for a step or an episode, which then acts and learns as if alone;
    "slot" gives every component an equal share of the slots for good ("no mixing").
    ``matching``: "adjacent" and "all" (see ``mixing.matching_weights``);
    "within_support", adjacent and on the easier component's actions alone; or
    "reversed", adjacent and KL(π_j ‖ π_i), of components with the same actions.
    ``fades``: whether matching ends as the control moves on, the paper's (1 − α); if not,
    the teachers of a component have 1 in all, to the end.
    ``own_values``: there is no V_mm. Every V_i is learned towards the V-trace targets that
    follow from itself, with the weight w_i that it has in V_mm, and is the baseline of
    its own policy's part of the gradient; see ``policy_mixture.vtrace_terms``. So what
    has no control learns nothing from reward, and at both ends of alpha it is the same.
    One discount is that of all; what acting notes down is the mixture's value still.
    """

    components: tuple[Component, ...] = (
        Component(),
        Component(),
    )
    share: tuple[str, ...] = ("torso", "core")  # see components.MODULES
    experts: bool = False  # the first component is one for each task
    control: str = "mixture"  # mixture, step, episode, slot
    matching: str = "adjacent"  # adjacent, all, within_support, reversed
    fades: bool = True  # matching, as the control moves on
    teacher_learns: bool = False  # from being matched
    own_values: bool = False  # each component's, in the place of their mixture


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    alpha: Share = 0.0  # 0: the first component alone, 1: the last alone
    matching_cost: Amount = 1.0
    optimiser: optimiser.Hparams = vtrace.OPTIMISER
    costs: objective.Costs = objective.Costs()
    returns: unrolls.Returns = unrolls.Returns()
    vtrace: vtrace.Hparams = vtrace.Hparams()
    scale: value_scale.Hparams = value_scale.Hparams()
    combining: combining.Hparams = combining.Hparams()
    temperature: Amount = 1.0  # of each component; 0: the mixture's mode, see there


class Carry(NamedTuple):
    """What acting remembers of a slot."""

    core: Tree  # {stream: [B, ...]}, a memory for each that there is
    action: Array  # [B, ...] the action that led to the next step
    choice: Array  # [B] int32, the component in control where it is drawn


class Extras(NamedTuple):
    """What acting notes down for the update, ``[T, B]``."""

    log_prob: Array  # of the action under what acted: the mixture, or its component
    value: Array
    choice: Array  # int32


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the Mix&Match agent for environments of ``spec``.

    Metrics: those of ``impala`` (entropy, rho and value of the mixture) and
    ``matching_loss`` (weighted, without its cost), ``kl`` (of the first component to the
    last, in task i of expert i), ``share`` (mean responsibility of the last component),
    ``action_entropy`` (of the actions taken, over all states, in nats; 0 for a Box).

    Raises:
      ValueError: an unknown option; components that cannot share or be matched.
    """
    mixture_checks.check(config, spec)
    listed = _listed(config, spec)
    base = policy_learner.make(spec, config, _value_heads(config, len(listed)))
    network = components.make(
        spec, config.network, listed, config.share, num_values=base.scale.num_values
    )
    mixture_checks.check_nested(network.parts, config.matching)
    control = mixture_control.Control(
        len(listed), config.control, config.experts, config.matching, config.fades
    )

    def init(key, hp):
        return base.init(network.init(key), hp)

    def carry(batch):
        action = types.action_shape(spec.action)
        return Carry(
            network.initial_state(batch),
            jnp.zeros((batch, *action.shape), action.dtype),
            # In turn, as the slots of a mixture's tasks lie side by side.
            jnp.arange(batch, dtype=jnp.int32) % len(listed),
        )

    def act(learner, carry, ts, key, hp):
        ts = base.seen(learner, ts)
        time = jax.tree.map(lambda x: x[None], (ts, carry.action))
        outputs, core = network.unroll(learner.params, carry.core, *time)
        outputs = jax.tree.map(lambda x: x[0], outputs)
        policies = functools.partial(network.policies, outputs, ts.action_mask)
        choice_key, action_key = jax.random.split(key)
        possible = network.possible(ts.action_mask)
        planned = control.planned(hp.alpha, ts.task, possible)
        drawn = Mixture(policies(), planned, spec.action).draw(choice_key)
        choice = control.choose(carry.choice, drawn, ts.first)
        weights = control.acting(planned, choice, possible)
        action, log_prob = policy_mixture.sample_and_log_prob(
            policies, weights, spec.action, hp.temperature, action_key
        )
        values = _values(outputs, base, learner.stats, ts.task, hp)
        value = mixing.mixed_value(control.baseline(planned, choice, possible), values)
        return action, Carry(core, action, choice), Extras(log_prob, value, choice)

    loss = make_loss(spec, config, network, control, base)

    def update(learner, rollout, key, hp, step):
        del step
        return base.update(loss, minibatches.slots, learner, rollout, key, hp)

    return types.Agent(init, carry, act, update)


def make_loss(
    spec: types.EnvSpec,
    config: Config,
    network: components.Networks,
    control: mixture_control.Control,
    base: policy_learner.PolicyLearner,
) -> learning.Loss:
    """Returns the loss of one rollout."""
    within = config.matching == "within_support"

    def loss(params, stats, rollout, key, hp):
        del key
        previous = unrolls.previous_actions(rollout)
        outputs, _ = network.unroll(params, rollout.carry.core, rollout.ts, previous)
        acting, task = jax.tree.map(
            lambda x: x[:-1], ((outputs, rollout.ts.action_mask), rollout.ts.task)
        )
        policies = network.policies(*acting)
        live = ~rollout.ts.first[1:]

        def mean(x: Array) -> Array:
            return policy_gradient.masked_mean(x, live)

        mixture, baseline, values = in_control(outputs, policies, stats, rollout, hp)
        terms, metrics, stats_after = policy_mixture.vtrace_terms(
            mixture, baseline, values, rollout, stats, hp, base, config.own_values
        )
        taught = acting if config.teacher_learns else jax.lax.stop_gradient(acting)
        teachers = network.policies(*taught)
        match = functools.partial(matching_loss, teachers, policies, within=within)
        possible = network.possible(rollout.ts.action_mask[:-1])
        weights = control.pairs(hp.alpha, task, possible)
        matched = match(weights, reverse=config.matching == "reversed")
        matching = base.combiner.mean(matched, live, task)
        cost = hp.matching_cost if control.components > 1 else 0.0
        more = {"matching_loss": objective.Weighted(cost, matching)}
        present = base.combiner.present(live, task)
        total, parts = objective.total(terms, hp.costs, more, present)
        log_probs = mixture.log_probs(rollout.action)
        share = mixing.responsibilities(mixture.weights, log_probs)
        beside = {
            "kl": mean(match(control.ends(task, possible))),
            "share": mean(share[..., -1]),
            "action_entropy": _taken_entropy(spec.action, rollout.action, live),
        }
        return total, learning.Aux(metrics | parts | beside, stats_after, present)

    def in_control(outputs, policies, stats, rollout, hp):
        """Returns (what acts now [T, B], the values' weights, values [T + 1, B, K])."""
        choice = rollout.extras.choice
        possible = network.possible(rollout.ts.action_mask)
        planned = control.planned(hp.alpha, rollout.ts.task, possible)
        weights = control.acting(planned[:-1], choice, possible[:-1])
        after = jnp.concatenate([choice, choice[-1:]])
        values = _values(outputs, base, stats, rollout.ts.task, hp)
        baseline = control.baseline(planned, after, possible)
        return Mixture(policies, weights, spec.action), baseline, values

    return loss


def _values(outputs, base, stats, task: Array, hp: Hparams) -> Array:
    """Returns the components' values in the unit of rewards, [..., K]."""
    each = [base.value(stats, out.value, task, hp) for out in outputs]
    return jnp.stack(each, axis=-1)


def _value_heads(config: Config, number: int) -> tuple[tuple[str, str], ...]:
    """Returns the paths of the value heads among the parameters."""
    if "value" in config.share:
        return (("value", "value"),)
    return tuple((f"value_{i}", "value") for i in range(number))


def _taken_entropy(space: types.ActionSpace, action: Array, live: Array) -> Array:
    """Returns the entropy of the joint actions taken on live steps, in nats."""
    if isinstance(space, types.Box):
        return jnp.zeros(())
    joint = math.prod(subsets.sizes(space))
    taken = subsets.number(space, action).reshape(-1)
    count = jnp.zeros(joint).at[taken].add(live.reshape(-1).astype(jnp.float32))
    p = count / jnp.maximum(jnp.sum(count), 1.0)
    return -jnp.sum(jnp.where(p > 0, p * jnp.log(jnp.where(p > 0, p, 1.0)), 0.0))


def _listed(config: Config, spec: types.EnvSpec) -> tuple:
    """Returns the components, the first once for each task where it is an expert."""
    if not config.experts:
        return config.components
    return (config.components[0],) * len(spec.tasks) + config.components[1:]
