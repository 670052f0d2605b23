"""Losses that distil a teacher's action values, or its policy, into a student.

``q`` are the teacher's values ``[A]``, ``logits`` the student's outputs ``[A]``, of one
state; actions that are not ``legal`` count for neither, and without a legal one every
loss is 0. The student is not divided by τ: unlike classes, values lie close to each other,
so the teacher is sharpened (τ = 0.01), and the student's logits are free to become as far
apart as that needs. A teacher that is a policy is distilled from its logits at τ = 1.

Ref: Rusu et al. 2016, "Policy Distillation" (arXiv:1511.06295), section 3; the last is
the feature regression of Parisotto et al. 2016, "Actor-Mimic" (arXiv:1511.06342), eq. 5.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mtrl_jax.types import ILLEGAL, Array, Scalar

LOSSES = ("kl", "nll", "mse")


def kl(q: Array, logits: Array, legal: Array, tau: Scalar) -> Array:
    """Returns KL(softmax(q / τ) ‖ softmax(logits)), ``[]``.

    Its gradient by the logits is softmax(logits) − softmax(q / τ). Finite however large
    q is against τ: the best action's value is taken off first.
    """
    log_p = _log_softmax(_above_best(q, legal) / tau, legal)
    log_q = _log_softmax(logits, legal)
    p = jnp.exp(log_p)
    return jnp.sum(jnp.where(legal & (p > 0), p * (log_p - log_q), 0.0))


def nll(q: Array, logits: Array, legal: Array) -> Array:
    """Returns −log softmax(logits)[argmax q], ``[]``: the limit of the KL for τ → 0."""
    chex.assert_rank([q, logits, legal], 1)
    best = jnp.argmax(jnp.where(legal, q, -jnp.inf))
    return jnp.where(jnp.any(legal), -_log_softmax(logits, legal)[best], 0.0)


def mse(q: Array, logits: Array, legal: Array) -> Array:
    """Returns Σ_a (q_a − logits_a)², ``[]``: the values themselves, without τ."""
    chex.assert_rank([q, logits, legal], 1)
    return jnp.sum(jnp.where(legal, jnp.square(logits - q), 0.0))


def loss(name: str, q: Array, logits: Array, legal: Array, tau: Scalar) -> Array:
    """Returns the loss called ``name``, ``[]``; only the KL reads τ.

    Raises:
      ValueError: none of LOSSES.
    """
    match name:
        case "kl":
            return kl(q, logits, legal, tau)
        case "nll":
            return nll(q, logits, legal)
        case "mse":
            return mse(q, logits, legal)
        case _:
            raise ValueError(f"loss: {name!r} is not known, use one of {LOSSES}")


def feature_regression(predicted: Array, features: Array) -> Array:
    """Returns ‖f(h_student) − h_teacher‖², ``[]``, of features ``[F]``."""
    chex.assert_equal_shape([predicted, features])
    return jnp.sum(jnp.square(predicted - jax.lax.stop_gradient(features)))


def _above_best(q: Array, legal: Array) -> Array:
    """Returns q − max_legal q, ``[A]``; of illegal actions 0."""
    chex.assert_equal_shape([q, legal])
    best = jnp.max(jnp.where(legal, q, -jnp.inf))
    return jax.lax.stop_gradient(jnp.where(legal, q - best, 0.0))


def _log_softmax(x: Array, legal: Array) -> Array:
    """Returns log-probabilities ``[A]``; of illegal actions large and negative."""
    chex.assert_equal_shape([x, legal])
    return jax.nn.log_softmax(jnp.where(legal, x, ILLEGAL))
