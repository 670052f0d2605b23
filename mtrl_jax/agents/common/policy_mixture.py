"""A mixture of policies as one policy: what acts, and what is learned from, in Mix&Match.

    π_mm(a|s) = Σ_i w_i π_i(a|s)

Ref: Czarnecki et al. 2018 (arXiv:1806.01780), eq. 1 and section 3.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.agents.common import (
    combining,
    objective,
    policy_learner,
    unrolls,
    vtrace,
)
from mtrl_jax.losses import mixing
from mtrl_jax.networks import heads, subsets
from mtrl_jax.types import Array, Key, Scalar, Tree


@dataclasses.dataclass(frozen=True)
class Mixture:
    """K policies over one space with weights [..., K]; ``[...]`` as the policies'."""

    policies: Sequence[heads.Policy]
    weights: Array
    space: types.ActionSpace

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Returns (action, log π_mm(action)): a component is drawn, then its action.

        The log-probability is the mixture's, whichever component it was.
        """
        choice_key, action_key = jax.random.split(key)
        choice = self.draw(choice_key)
        keys = jax.random.split(action_key, len(self.policies))
        drawn = [p.sample_and_log_prob(k)[0] for p, k in zip(self.policies, keys)]
        action = drawn[0]
        for i, own in enumerate(drawn[1:], start=1):
            mine = (choice == i).reshape(choice.shape + (1,) * (own.ndim - choice.ndim))
            action = jnp.where(mine, own, action)
        return action, self.log_prob(action)

    def mode(self) -> Array:
        """Returns the most probable action; for choices only.

        Outside the support of the others the mixture is w_K π_K: nothing there is more
        probable than the last policy's own mode.
        """
        own = self.policies[-1].mode()
        if len(self.policies) == 1:
            return own
        rows = self._support()
        log_probs = jnp.stack([p.log_prob_of(rows) for p in self.policies], axis=-1)
        weights = jnp.broadcast_to(self.weights[..., None, :], log_probs.shape)
        log_mm = mixing.log_mixture(weights, log_probs)
        listed = jnp.asarray(rows)[jnp.argmax(log_mm, axis=-1)]
        listed = listed[..., 0] if isinstance(self.space, types.Discrete) else listed
        beyond = self.log_prob(own) > jnp.max(log_mm, axis=-1)
        beyond = beyond.reshape(beyond.shape + (1,) * (own.ndim - beyond.ndim))
        return jnp.where(beyond, own, listed)

    def draw(self, key: Key) -> Array:
        """Returns components int32 [...], drawn with the weights."""
        active = self.weights > 0
        log_w = jnp.log(jnp.where(active, self.weights, 1.0))
        return jax.random.categorical(key, jnp.where(active, log_w, -jnp.inf))

    def log_probs(self, action: Array) -> Array:
        """Returns log π_i(action) of every component, [..., K]."""
        return jnp.stack([p.log_prob(action) for p in self.policies], axis=-1)

    def log_prob(self, action: Array) -> Array:
        """Returns log π_mm(action)."""
        return mixing.log_mixture(self.weights, self.log_probs(action))

    def entropy(self) -> Array:
        """Returns the entropy of the mixture in nats.

        Exact for choices. Deviation for real-valued actions, where there is no closed
        form: the lower bound Σ_i w_i H(π_i).
        """
        if isinstance(self.space, types.Box):
            each = jnp.stack([p.entropy() for p in self.policies], axis=-1)
            return jnp.sum(self.weights * each, axis=-1)
        if len(self.policies) == 1:
            return self.policies[0].entropy()
        actions = self._support()
        log_probs = jnp.stack([p.log_prob_of(actions) for p in self.policies], axis=-1)
        return mixing.entropy(self.weights, log_probs, self.policies[-1].entropy())

    def _support(self) -> np.ndarray:
        """Returns joint actions [n, G] that hold the support of all policies but the last."""
        small = [p for p in self.policies[:-1] if isinstance(p, subsets.Embedded)]
        if not small or len(small) < len(self.policies) - 1:
            return subsets.every_action(self.space)
        return np.unique(np.concatenate([p.rows for p in small]), axis=0)


def sample_and_log_prob(
    policies: Callable[[Scalar], Sequence[heads.Policy]],
    weights: Array,
    space: types.ActionSpace,
    temperature: Scalar,
    key: Key,
) -> tuple[Array, Array]:
    """Returns (action, log-probability) of the mixture of ``policies(temperature)``.

    At 0 it is the mode of the mixture as it is, for certain: the modes of its policies,
    drawn by their weights, can all be others. Deviation for real-valued actions, where
    that mode has no closed form: the mean of a policy drawn by the weights.
    """
    tempered = Mixture(policies(temperature), weights, space)
    action, log_prob = tempered.sample_and_log_prob(key)
    if isinstance(space, types.Box):
        return action, log_prob
    is_greedy = jnp.asarray(temperature) <= 0
    mode = Mixture(policies(1.0), weights, space).mode()
    return jnp.where(is_greedy, mode, action), jnp.where(is_greedy, 0.0, log_prob)


def vtrace_terms(
    mixture: Mixture,
    baseline: Array,
    values: Array,
    rollout: types.Rollout,
    stats: Tree,
    hp: Any,
    base: policy_learner.PolicyLearner,
    own: bool = False,
) -> tuple[objective.Terms, dict[str, Array], Tree]:
    """Returns what ``vtrace.of_rollout`` does of a mixture in control.

    The value is V_mm = Σ_i w_i V_i with the weights ``baseline`` [T + 1, B, K] of
    ``values`` [T + 1, B, K]. With ``own`` there is none, and each V_i has V-trace's
    targets v_i and advantages A_i by itself, of the same steps and ratios:

        policy  −Σ_i r_i ρ A_i log π_i        value  Σ_i w_i ½ (v_i − V_i)²

    with the responsibilities r. A baseline of each policy's own leaves the policy
    gradient without bias. Where all weight is on one component it is the mixture's.
    """
    log_probs = mixture.log_probs(rollout.action)
    entropy = mixture.entropy()
    if not own:
        log_prob = mixing.log_mixture(mixture.weights, log_probs)
        value = mixing.mixed_value(baseline, values)
        now = unrolls.Evaluated(log_prob, entropy, value)
        return vtrace.of_rollout(now, rollout, stats, hp, base)

    unweighed = dataclasses.replace(base, combiner=combining.BySteps())

    def of_component(log_prob, value):
        now = unrolls.Evaluated(log_prob, entropy, value)
        return vtrace.of_rollout(now, rollout, stats, hp, unweighed)[:2]

    of_all = jax.vmap(of_component, in_axes=-1, out_axes=-1)
    log_prob = mixing.log_mixture_by_policy(mixture.weights, log_probs)
    each, metrics = of_all(log_prob, values)
    share = mixing.responsibilities(mixture.weights, jax.lax.stop_gradient(log_probs))
    weights, task = baseline[:-1], rollout.ts.task[:-1]
    terms = objective.Terms(
        policy_loss=jnp.sum(share * each.policy_loss, axis=-1),
        value_loss=jnp.sum(weights * each.value_loss, axis=-1),
        entropy=entropy,
    )
    measured = {
        "rho": metrics["rho"][..., -1],
        "value": jnp.sum(weights * metrics["value"], axis=-1),
    }
    live = ~rollout.ts.first[1:]
    return *base.combiner.means(terms, measured, live, task), stats


def matching_loss(
    teachers: Sequence[heads.Policy],
    students: Sequence[heads.Policy],
    weights: dict[tuple[int, int], Array],
    within: bool = False,
    reverse: bool = False,
) -> Array:
    """Returns L_mm = Σ_ij w_ij KL(π_i ‖ π_j), [...]; i teaches j.

    ``within`` compares on the teacher's actions only, π_j renormalised there:
    what the student does with other actions costs nothing ("Masked KL").
    ``reverse`` is KL(π_j ‖ π_i), the student's to the same teacher: it seeks a mode, and
    is for policies that can do the same actions alone.
    """

    def divergence(teacher, student):
        if within and isinstance(teacher, subsets.Embedded):
            actions = teacher.actions
            log_q = mixing.restricted(student.log_prob_of(actions))
            return mixing.kl(teacher.log_prob_of(actions), log_q)
        return student.kl(teacher) if reverse else teacher.kl(student)

    terms = [w * divergence(teachers[i], students[j]) for (i, j), w in weights.items()]
    return functools.reduce(jnp.add, terms, jnp.zeros_like(students[-1].entropy()))
