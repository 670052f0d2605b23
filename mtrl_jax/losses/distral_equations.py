"""Distral: task policies π_i around a distilled policy π_0, trained together.

    J = Σ_i E_{π_i} Σ_t γ^t [ r_i + (α/β) log π_0(a_t|s_t) − (1/β) log π_i(a_t|s_t) ]

α in [0, 1] and β > 0 are the two numbers: c_KL = α/β weighs the KL from π_i to π_0,
c_Ent = (1 − α)/β the entropy. α = 0: no transfer, entropy alone. α = 1: KL alone.

Functions are of one step's actions ``[..., A]``; the caller masks illegal actions by
their logits. Everything is traced.

Ref: Teh et al. 2017 (arXiv:1707.04175), equations 1-9.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mtrl_jax.types import Array, Scalar


def soft_value(q: Array, prior_log_prob: Array, alpha: Scalar, beta: Scalar) -> Array:
    """Returns V [...] = (1/β) log Σ_a π_0(a)^α exp(β q(a)), of ``q`` [..., A]."""
    return jax.nn.logsumexp(alpha * prior_log_prob + beta * q, axis=-1) / beta


def log_policy(q: Array, prior_log_prob: Array, alpha: Scalar, beta: Scalar) -> Array:
    """Returns log π_i [..., A] = α log π_0 + β (q − V), the best policy for ``q``.

    With ``q`` the output f of a task's own column and log π_0 = log softmax(h) it is
    log softmax(α h + β f): the parameterisation of two columns.
    """
    return jax.nn.log_softmax(alpha * prior_log_prob + beta * q, axis=-1)


def shaped_reward(
    r_t: Array,
    log_prob: Array,
    prior_log_prob: Array,
    alpha: Scalar,
    beta: Scalar,
) -> Array:
    """Returns r + (α/β) log π_0(a) − (1/β) log π_i(a) of the action taken, ``[...]``.

    No gradient passes: what an action is worth is data to a policy gradient.
    """
    shaped = r_t + (alpha * prior_log_prob - log_prob) / beta
    return jax.lax.stop_gradient(shaped)


def regulariser(
    log_policy: Array, prior_log_policy: Array, alpha: Scalar, beta: Scalar
) -> Array:
    """Returns Σ_a π_i(a) [(α/β) log π_0(a) − (1/β) log π_i(a)], ``[...]``.

    The expectation of what ``shaped_reward`` adds at a step, with gradients by π_i and
    π_0: the low-variance form of the step's own term. The agent has it from the entropy
    and the KL that its heads give; this is the equation that tests hold it to.
    """
    probs = jnp.exp(log_policy)
    inside = jnp.where(probs > 0, alpha * prior_log_policy - log_policy, 0.0)
    return jnp.sum(probs * inside, axis=-1) / beta
