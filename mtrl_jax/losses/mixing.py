"""Mixing K policies into one that acts, and matching the wanted one to the easy ones.

The policies are ordered from the easiest to train (1) to the one that is wanted (K); the
weights w of the mixture lie on the simplex. Everything is done with log-probabilities,
so that an action that is impossible for one policy, or a policy of weight 0, is harmless
in value and in gradient. The last axis of ``weights``, ``log_probs`` and ``values`` is
K; leading axes are free.

Ref: Czarnecki et al. 2018, "Mix&Match: Agent Curricula for Reinforcement Learning"
(arXiv:1806.01780). Its experiments use K = 2 and speak of pairs i < j in general; the
two general forms below (``FORMS``) are ours and both become the paper's at K = 2.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mtrl_jax.types import Array, Scalar

# The log-probability of what cannot happen: finite, so that 0 times it is 0.
IMPOSSIBLE = -1e30
FORMS = ("adjacent", "all")


def path_weights(alpha: Scalar, policies: int) -> Array:
    """Returns weights [K] on the way from policy 1 (alpha = 0) to policy K (alpha = 1).

    w_i = max(0, 1 − |(K − 1) α − (i − 1)|): at K = 2 it is (1 − α, α) as in the paper,
    beyond that the way leads past every policy in order and mixes two neighbours at a
    time. ``alpha`` outside [0, 1] counts as the nearer end.
    """
    if policies == 1:
        return jnp.ones(1)
    place = jnp.clip(alpha, 0.0, 1.0) * (policies - 1)
    return jnp.maximum(0.0, 1.0 - jnp.abs(place - jnp.arange(policies)))


def task_weights(alpha: Scalar, task: Array, experts: int) -> Array:
    """Returns weights [..., experts + 1]: 1 − α on the task's own expert, α on the last.

    ``task`` [...] int. The experts of other tasks have weight 0.
    """
    alpha = jnp.clip(alpha, 0.0, 1.0)
    own = (1.0 - alpha) * jax.nn.one_hot(task, experts)
    return jnp.concatenate([own, jnp.full((*task.shape, 1), alpha)], axis=-1)


def within_possible(weights: Array, possible: Array) -> Array:
    """Returns the weights [..., K] without the policies that can do nothing here.

    ``possible`` bool [..., K]. What they had goes to the others in proportion; where the
    others had nothing, to all of them alike. Where nothing is possible, and where all
    is, the weights stay as they are.
    """
    kept = jnp.where(possible, weights, 0.0)
    total = jnp.sum(kept, axis=-1, keepdims=True)
    alike = possible / jnp.maximum(jnp.sum(possible, axis=-1, keepdims=True), 1)
    kept = jnp.where(total > 0, kept / jnp.where(total > 0, total, 1.0), alike)
    is_limited = jnp.any(possible, axis=-1) & ~jnp.all(possible, axis=-1)
    return jnp.where(is_limited[..., None], kept, weights)


def log_mixture(weights: Array, log_probs: Array) -> Array:
    """Returns log π_mm = log Σ_i w_i π_i, [...] of ``log_probs`` [..., K] of one action.

    ∇ log π_mm = Σ_i r_i ∇ log π_i with the ``responsibilities`` r: a policy of weight 0
    gets no gradient at all. IMPOSSIBLE where no policy of the mixture can do it.
    """
    return jax.nn.logsumexp(_terms(weights, log_probs), axis=-1)


def responsibilities(weights: Array, log_probs: Array) -> Array:
    """Returns r_i = w_i π_i / π_mm, [..., K]: who the action is due to."""
    return jax.nn.softmax(_terms(weights, log_probs), axis=-1)


def log_mixture_by_policy(weights: Array, log_probs: Array) -> Array:
    """Returns log π_mm K times, [..., K]; the gradient of the i-th is ∇ log π_i.

    For policies with an advantage A_i each: Σ_i r_i A_i of it has the gradient
    Σ_i r_i A_i ∇ log π_i, ``log_mixture``'s where all advantages are the same.
    """
    log_mm = jax.lax.stop_gradient(log_mixture(weights, log_probs))
    own = jnp.maximum(log_probs, IMPOSSIBLE)
    return log_mm[..., None] + (own - jax.lax.stop_gradient(own))


def mixed_value(weights: Array, values: Array) -> Array:
    """Returns V_mm = Σ_i w_i V_i, [...]: the baseline of the mixture."""
    chex.assert_equal_shape([weights, values])
    return jnp.sum(weights * values, axis=-1)


def matching_weights(weights: Array, form: str) -> dict[tuple[int, int], Array]:
    """Returns {(i, j): w_ij [...]} with i < j, from 0, of L_mm = Σ w_ij KL(π_i ‖ π_j).

    adjacent: w_{i,i+1} = Σ_{k≤i} w_k, the weight that has not yet passed to j.
    all:      w_ij = w_i / Σ_{k≤j} w_k: j is distilled from the mixture of all up to it;
              the gradient is that of Σ_j CE(sg[π_mm^{≤j}], π_j).

    Both are (1 − α) KL(π_1 ‖ π_2) at K = 2, and vanish where all weight is on K: the
    wanted policy may then leave the others behind. Raises ValueError for another form.
    """
    policies = weights.shape[-1]
    so_far = jnp.cumsum(weights, axis=-1)
    if form == "adjacent":
        return {(i, i + 1): so_far[..., i] for i in range(policies - 1)}
    if form != "all":
        raise ValueError(f"matching: {form!r} is not known, use one of {FORMS}")
    share = weights[..., None, :] / jnp.maximum(so_far[..., :, None], 1e-12)
    pairs = ((i, j) for j in range(policies) for i in range(j))
    return {(i, j): share[..., j, i] for i, j in pairs}


def kl(log_p: Array, log_q: Array) -> Array:
    """Returns KL(p ‖ q) = Σ_a p(a) (log p(a) − log q(a)), [...], over the last axis.

    The axis has to hold all of p's support; q may have mass elsewhere. For a small
    action set p inside a large one, its own n actions are enough.
    """
    chex.assert_equal_shape([log_p, log_q])
    log_p, log_q = jnp.maximum(log_p, IMPOSSIBLE), jnp.maximum(log_q, IMPOSSIBLE)
    p = jnp.exp(log_p)
    return jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0.0), axis=-1)


def restricted(log_q: Array) -> Array:
    """Returns q renormalised to the actions of the last axis, as log-probabilities.

    >>> print(jnp.exp(restricted(jnp.log(jnp.array([0.1, 0.3])))))
    [0.25 0.75]
    """
    return jax.nn.log_softmax(jnp.maximum(log_q, IMPOSSIBLE), axis=-1)


def entropy(weights: Array, log_probs: Array, widest: Array) -> Array:
    """Returns the entropy of the mixture in nats, [...].

    H = − Σ_{a∈S} π_mm log π_mm + w_K [H(π_K) + Σ_S π_K log π_K]
                                − w_K (1 − Σ_S π_K) log w_K

    ``log_probs`` [..., n, K] are those of the n actions S that hold the support of every
    policy but the last; outside S the mixture is w_K π_K alone, whose share is known
    from its entropy ``widest`` [...]. Exact, without enumerating all actions.
    """
    log_mm = log_mixture(_like(weights, log_probs), log_probs)
    inside = -jnp.sum(jnp.exp(log_mm) * log_mm, axis=-1)
    w, last = weights[..., -1], log_probs[..., -1]
    log_w = jnp.log(jnp.where(w > 0, w, 1.0))
    p = jnp.exp(last)
    rest = jnp.maximum(widest + jnp.sum(p * last, axis=-1), 0.0)
    mass = jnp.maximum(1.0 - jnp.sum(p, axis=-1), 0.0)
    return inside + w * (rest - mass * log_w)


def _terms(weights: Array, log_probs: Array) -> Array:
    chex.assert_equal_shape([weights, log_probs])
    active = weights > 0
    log_w = jnp.log(jnp.where(active, weights, 1.0))
    return jnp.where(active, log_w + jnp.maximum(log_probs, IMPOSSIBLE), IMPOSSIBLE)


def _like(weights: Array, log_probs: Array) -> Array:
    return jnp.broadcast_to(weights[..., None, :], log_probs.shape)
