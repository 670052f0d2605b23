"""The stochastic part of a world model's state: categoricals or a Gaussian.

A latent is given by raw parameters, cast to float32 before anything is computed:

categorical: ``latents`` variables of ``classes`` classes each. The sample is one-hot and
passes the gradient of the probabilities straight through,

    z = onehot(sample) + p − sg(p),      p = (1 − u) softmax(logits) + u / classes

with u (``unimix``) 0 in DreamerV2 and 0.01 in DreamerV3.

gaussian: mean and standard deviation 2 σ(raw / 2) + 0.1 of ``latents`` numbers, sampled
by reparametrisation (the continuous latents of the ablation).

Divergences and entropies are sums over the variables.

Ref: Hafner et al. 2021 (arXiv:2010.02193), section 2 and algorithm 1.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from mtrl_jax import errors
from mtrl_jax.types import Array, Key, Scalar

KINDS = ("categorical", "gaussian")
MIN_STD = 0.1


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """Kind and sizes; ``classes`` is not read for a Gaussian."""

    kind: str = "categorical"
    latents: int = 32
    classes: int = 32

    @property
    def size(self) -> int:
        """Returns the length of a flat sample."""
        return self.latents * (self.classes if self.kind == "categorical" else 1)

    @property
    def raw_size(self) -> int:
        """Returns how many raw parameters there are."""
        return self.size if self.kind == "categorical" else 2 * self.latents


def sample(config: LatentConfig, key: Key, raw: Array, unimix: Scalar) -> Array:
    """Returns a flat sample [..., size] that gradients pass through."""
    if config.kind == "gaussian":
        mean, std = _mean_std(raw)
        return mean + std * jax.random.normal(key, mean.shape)
    log_p = _log_probs(config, raw, unimix)
    hot = jax.nn.one_hot(jax.random.categorical(key, log_p), config.classes)
    return straight_through(hot, jnp.exp(log_p)).reshape(*raw.shape[:-1], -1)


def straight_through(hot: Array, probs: Array) -> Array:
    """Returns ``hot`` with the gradient of ``probs``; both [..., classes].

    The difference is formed first: it is exactly 0, so that the value is one-hot.

    >>> hot, probs = jnp.array([0.0, 1.0]), jnp.array([0.3, 0.7])
    >>> print(straight_through(hot, probs))
    [0. 1.]
    >>> print(jax.grad(lambda p: straight_through(hot, p)[0])(probs))
    [1. 0.]
    """
    return hot + (probs - jax.lax.stop_gradient(probs))


def kl(config: LatentConfig, q: Array, p: Array, unimix: Scalar) -> Array:
    """Returns KL(q ‖ p) [...] in nats of two sets of raw parameters [..., raw_size]."""
    if config.kind == "gaussian":
        (mean_q, std_q), (mean_p, std_p) = _mean_std(q), _mean_std(p)
        ratio = jnp.square(std_q / std_p)
        shift = jnp.square((mean_q - mean_p) / std_p)
        return 0.5 * jnp.sum(ratio + shift - 1.0 - jnp.log(ratio), axis=-1)
    log_q, log_p = (_log_probs(config, x, unimix) for x in (q, p))
    return jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=(-2, -1))


def entropy(config: LatentConfig, raw: Array, unimix: Scalar) -> Array:
    """Returns the entropy [...] in nats."""
    if config.kind == "gaussian":
        _, std = _mean_std(raw)
        return jnp.sum(jnp.log(std) + 0.5 * jnp.log(2 * jnp.pi * jnp.e), axis=-1)
    log_p = _log_probs(config, raw, unimix)
    return -jnp.sum(jnp.exp(log_p) * log_p, axis=(-2, -1))


def check(config: LatentConfig) -> None:
    """Raises ValueError unless the kind is known and there is something to choose."""
    errors.check_choices(config, {"kind": KINDS})
    errors.check_sizes(config, ("latents",))
    if config.kind == "categorical" and config.classes < 2:
        raise ValueError(f"classes: got {config.classes}, give at least 2")


def _log_probs(config: LatentConfig, raw: Array, unimix: Scalar) -> Array:
    """Returns log-probabilities [..., latents, classes] of the mixed categoricals."""
    logits = raw.astype(jnp.float32)
    logits = logits.reshape(*raw.shape[:-1], config.latents, config.classes)
    log_p = jax.nn.log_softmax(logits)
    unimix = jnp.asarray(unimix, jnp.float32)
    uniform = jnp.full_like(log_p, -jnp.log(config.classes)) + _rank(
        jnp.log(unimix), log_p
    )
    return jnp.logaddexp(log_p + _rank(jnp.log1p(-unimix), log_p), uniform)


def _rank(x: Array, like: Array) -> Array:
    return x.reshape((1,) * like.ndim)


def _mean_std(raw: Array) -> tuple[Array, Array]:
    mean, std = jnp.split(raw.astype(jnp.float32), 2, axis=-1)
    return mean, 2.0 * jax.nn.sigmoid(std / 2.0) + MIN_STD
