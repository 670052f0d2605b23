"""Symmetric logarithms and two-hot targets: scalars of any size, learned as classes.

    symlog(x) = sign(x) log(1 + |x|),   symexp its inverse

A scalar is predicted as a categorical over ``BINS`` values, symexp of as many spaced
evenly from −20 to 20. Its target puts the probability on the two neighbouring values, so
that their mean is the scalar; a mixture of targets then has the mixture's mean.

Ref: Hafner et al. 2023, "Mastering diverse domains through world models"
(arXiv:2301.04104). An option of the world model, off in DreamerV2.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.types import Array

BINS = 255
LIMIT = 20.0  # in symlog
_HALF = np.expm1(np.linspace(0.0, LIMIT, BINS // 2 + 1))
VALUES = np.concatenate([-_HALF[:0:-1], _HALF]).astype(np.float32)


def symlog(x: Array) -> Array:
    """Returns sign(x) log(1 + |x|)."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def two_hot(x: Array) -> Array:
    """Returns the probabilities [..., BINS] whose mean is x, two of them not 0.

    Beyond the outermost bin the whole probability is on that.
    """
    place = (symlog(x) + LIMIT) * (BINS - 1) / (2 * LIMIT)
    below = jnp.clip(place.astype(jnp.int32), 0, BINS - 2)
    low, high = (jnp.asarray(VALUES)[at] for at in (below, below + 1))
    above = jnp.clip((x - low) / (high - low), 0.0, 1.0)[..., None]
    on = functools.partial(jax.nn.one_hot, num_classes=BINS)
    return (1.0 - above) * on(below) + above * on(below + 1)


def mean(logits: Array) -> Array:
    """Returns the bins' mean Σ p VALUES [...], logits [..., BINS].

    Opposite bins are added in pairs, so that equal logits give exactly 0.
    """
    p = jax.nn.softmax(logits)
    half = BINS // 2
    balance = p[..., half + 1 :] - p[..., :half][..., ::-1]
    return jnp.dot(balance, VALUES[half + 1 :], precision=jax.lax.Precision.HIGHEST)


def cross_entropy(logits: Array, x: Array) -> Array:
    """Returns −Σ two_hot(x) log p [...]; ``x`` [...] is not differentiated.

    Of equal logits it is the log of their number, whatever x is.

    >>> f"{cross_entropy(jnp.zeros(255), jnp.array(3.0)):.3f}"
    '5.541'
    """
    target = jax.lax.stop_gradient(two_hot(x))
    return -jnp.sum(target * jax.nn.log_softmax(logits), axis=-1)
