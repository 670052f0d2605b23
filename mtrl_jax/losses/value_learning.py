"""Targets and errors of learning action values: n-step, double, categorical, quantile.

The functions take one window ``[n]`` or one pair of steps; the caller vmaps. Illegal
actions are never the best one of a state.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from mtrl_jax.types import ILLEGAL, Array, Scalar


class NStep(NamedTuple):
    """What n transitions of one episode add up to, ``[]``."""

    r_t: Array  # Σ_j γ^{j−1} r_j up to step m
    discount_t: Array  # of the value at step m
    steps: Array  # int32 m: the transitions that are the episode's, at most n


def n_step(r_t: Array, discount_t: Array, first_t: Array, gamma: Scalar) -> NStep:
    """Returns the n-step transition from ``[n]`` rewards, discounts and first steps.

    G = Σ_{j ≤ m} (Π_{i < j} γ d_i) r_j and Π_{i ≤ m} γ d_i, where m counts the steps
    before the first that begins an episode: nothing is added up across a reset, and a
    truncated episode is bootstrapped from its last step.

    Ref: Sutton 1988; Hessel et al. 2018 (arXiv:1710.02298), section 2.
    """
    chex.assert_rank([r_t, discount_t, first_t], 1)
    alive = jnp.cumsum(first_t.astype(jnp.int32)) == 0
    through = jnp.where(alive, gamma * discount_t, 1.0)
    before = jnp.concatenate([jnp.ones(1), jnp.cumprod(through)[:-1]])
    total = jnp.sum(jnp.where(alive, before * r_t, 0.0))
    steps = jnp.sum(alive.astype(jnp.int32))
    return NStep(total, jnp.prod(through), steps)


def best(q: Array, legal: Array) -> Array:
    """Returns the legal action of the highest value, int32 ``[...]``, the first of equals."""
    chex.assert_equal_shape([q, legal])
    return jnp.argmax(jnp.where(legal, q, ILLEGAL), axis=-1).astype(jnp.int32)


def td_error(q_tm1: Array, r_t: Array, discount_t: Array, value_t: Array) -> Array:
    """Returns r + γ·v − q, ``[...]``, q of the action taken; none of it flows into v.

    Ref: Mnih et al. 2015; van Hasselt et al. 2016 (arXiv:1509.06461) where ``value_t``
    is one network's value of the action that another one chose.
    """
    chex.assert_equal_shape([q_tm1, r_t, discount_t, value_t])
    return jax.lax.stop_gradient(r_t + discount_t * value_t) - q_tm1


def huber(error: Array) -> Array:
    """Returns ½ x² within ±1 and |x| − ½ beyond: the gradient is x clipped to [−1, 1].

    Ref: Mnih et al. 2015, Methods ("clip the error term"); computed by optax.
    """
    return optax.huber_loss(error)


def squared(error: Array) -> Array:
    """Returns ½ x²: the gradient is x, however large."""
    return 0.5 * jnp.square(error)


def support(v_min: Scalar, v_max: Scalar, atoms: int) -> Array:
    """Returns ``[atoms]`` values, evenly spaced from v_min to v_max."""
    return v_min + (v_max - v_min) * jnp.linspace(0.0, 1.0, atoms)


def categorical_td(
    logits_tm1: Array, r_t: Array, discount_t: Array, logits_t: Array, z: Array
) -> tuple[Array, Array]:
    """Returns (cross-entropy, KL) of the projected target and q, ``[]``.

    Target: the distribution r + γ Z with p = softmax(``logits_t``) [atoms], projected on
    the support ``z`` [atoms]; q = softmax(``logits_tm1``). They differ by the target's
    entropy, which has no gradient: the first is the loss, the second the priority.

    Ref: Bellemare et al. 2017 (arXiv:1707.06887), algorithm 1; Hessel et al. 2018, eq. 3.
    The projection is rlax's.
    """
    import rlax

    chex.assert_rank([logits_tm1, logits_t, z], 1)
    target = rlax.categorical_l2_project(
        r_t + discount_t * z, jax.nn.softmax(logits_t), z
    )
    target = jax.lax.stop_gradient(target)
    loss = -jnp.sum(target * jax.nn.log_softmax(logits_tm1))
    entropy = -jnp.sum(jax.scipy.special.xlogy(target, target))
    return loss, jnp.maximum(jax.lax.stop_gradient(loss) - entropy, 0.0)


def quantile_td(
    quantiles_tm1: Array, r_t: Array, discount_t: Array, quantiles_t: Array
) -> Array:
    """Returns the quantile Huber loss, ``[]``, of two sets of quantiles ``[N]``.

    Σ_i mean_j |τ_i − 1{u_ij < 0}| · H(u_ij) with u_ij = r + γ θ'_j − θ_i and midpoints
    τ_i = (2i + 1) / 2N.

    Ref: Dabney et al. 2018, "Distributional Reinforcement Learning with Quantile
    Regression" (arXiv:1710.10044), eq. 10; computed by rlax.
    """
    import rlax

    chex.assert_rank([quantiles_tm1, quantiles_t], 1)
    number = quantiles_tm1.shape[0]
    tau = (jnp.arange(number) + 0.5) / number
    target = r_t + discount_t * quantiles_t
    return rlax.quantile_regression_loss(
        quantiles_tm1, tau, jax.lax.stop_gradient(target), huber_param=1.0
    )


def priority(error: Array, exponent: Scalar) -> Array:
    """Returns (|error| + 1e-6)^exponent, ``[...]``: proportional priorities.

    Ref: Schaul et al. 2016 (arXiv:1511.05952), section 3.3.
    """
    return (jnp.abs(error) + 1e-6) ** exponent
