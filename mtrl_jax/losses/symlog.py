"""Symmetric logarithms and two-hot targets: scalars of any size, learned as classes.

    symlog(x) = sign(x) log(1 + |x|),   symexp its inverse

A scalar is predicted as a categorical over ``BINS`` values spaced evenly in symlog from
−20 to 20. Its target puts the probability on the two neighbouring values, in proportion.

Ref: Hafner et al. 2023, "Mastering diverse domains through world models"
(arXiv:2301.04104). An option of the world model, off in DreamerV2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mtrl_jax.types import Array

BINS = 255
LIMIT = 20.0  # in symlog


def symlog(x: Array) -> Array:
    """Returns sign(x) log(1 + |x|)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Array) -> Array:
    """Returns sign(x) (exp |x| − 1)."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


def two_hot(x: Array) -> Array:
    """Returns the probabilities [..., BINS] whose mean is symlog(x), two of them not 0.

    Beyond the outermost bin the whole probability is on that.
    """
    place = (symlog(x) + LIMIT) * (BINS - 1) / (2 * LIMIT)
    place = jnp.clip(place, 0.0, BINS - 1.0)
    bins = jnp.arange(BINS, dtype=jnp.float32).reshape((1,) * x.ndim + (-1,))
    return jnp.maximum(1.0 - jnp.abs(place[..., None] - bins), 0.0)


def mean(logits: Array) -> Array:
    """Returns symexp of the bins' mean in symlog [...], logits [..., BINS].

    Opposite bins are added in pairs, so that equal logits give exactly 0.
    """
    p = jax.nn.softmax(logits)
    half = BINS // 2
    bins = jnp.linspace(0.0, LIMIT, half + 1)[1:].reshape(
        (1,) * (logits.ndim - 1) + (-1,)
    )
    balance = p[..., half + 1 :] - p[..., :half][..., ::-1]
    return symexp(jnp.sum(balance * bins, axis=-1))


def cross_entropy(logits: Array, x: Array) -> Array:
    """Returns −Σ two_hot(x) log p [...]; ``x`` [...] is not differentiated.

    Of equal logits it is the log of their number, whatever x is.

    >>> f"{cross_entropy(jnp.zeros(255), jnp.array(3.0)):.3f}"
    '5.541'
    """
    target = jax.lax.stop_gradient(two_hot(x))
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
