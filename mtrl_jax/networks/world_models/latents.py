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
    probs = _probs(config, raw, unimix)
    hot = jax.nn.one_hot(_drawn(key, probs), config.classes)
    return straight_through(hot, probs).reshape(*raw.shape[:-1], -1)


@jax.custom_jvp
def straight_through(hot: Array, probs: Array) -> Array:
    """Returns ``hot`` with the gradient of ``probs``; both [..., classes].

    >>> hot, probs = jnp.array([0.0, 1.0]), jnp.array([0.3, 0.7])
    >>> print(straight_through(hot, probs))
    [0. 1.]
    >>> print(jax.grad(lambda p: straight_through(hot, p)[0])(probs))
    [1. 0.]
    """
    return hot


straight_through.defjvp(lambda values, tangents: (values[0], tangents[0] + tangents[1]))


def kl(config: LatentConfig, q: Array, p: Array, unimix: Scalar) -> Array:
    """Returns KL(q ‖ p) [...] in nats of two sets of raw parameters [..., raw_size]."""
    if config.kind == "gaussian":
        (mean_q, std_q), (mean_p, std_p) = _mean_std(q), _mean_std(p)
        ratio = jnp.square(std_q / std_p)
        shift = jnp.square((mean_q - mean_p) / std_p)
        return 0.5 * jnp.sum(ratio + shift - 1.0 - jnp.log(ratio), axis=-1)
    log_q, log_p = (_log_probs(config, x, unimix) for x in (q, p))
    return jnp.sum(_probs(config, q, unimix) * (log_q - log_p), axis=(-2, -1))


def entropy(config: LatentConfig, raw: Array, unimix: Scalar) -> Array:
    """Returns the entropy [...] in nats."""
    if config.kind == "gaussian":
        _, std = _mean_std(raw)
        return jnp.sum(jnp.log(std) + 0.5 * jnp.log(2 * jnp.pi * jnp.e), axis=-1)
    log_p = _log_probs(config, raw, unimix)
    return -jnp.sum(_probs(config, raw, unimix) * log_p, axis=(-2, -1))


def bounded_std(raw: Array) -> Array:
    """Returns 2 σ(raw / 2) + 0.1, a standard deviation between 0.1 and 2.1."""
    return 2.0 * jax.nn.sigmoid(raw / 2.0) + 0.1


def check(config: LatentConfig) -> None:
    """Raises ValueError unless the kind is known and there is something to choose."""
    errors.check_choices(config, {"kind": KINDS})
    errors.check_sizes(config, ("latents",))
    if config.kind == "categorical" and config.classes < 2:
        raise ValueError(f"classes: got {config.classes}, give at least 2")


def _drawn(key: Key, probs: Array) -> Array:
    """Returns the classes that ``jax.random.categorical`` draws of log p, [...].

    argmax (log p − log E) is argmin E / p, E exponential: one logarithm a class, not two.
    """
    least = jnp.finfo(probs.dtype).tiny
    waits = -jnp.log(jax.random.uniform(key, probs.shape, minval=least))
    return jnp.argmin(waits / probs, axis=-1)


def _probs(config: LatentConfig, raw: Array, unimix: Scalar) -> Array:
    """Returns probabilities [..., latents, classes] of the mixed categoricals."""
    p = jax.nn.softmax(_logits(config, raw))
    unimix = _rank(unimix, p)
    return (1.0 - unimix) * p + unimix / config.classes


def _log_probs(config: LatentConfig, raw: Array, unimix: Scalar) -> Array:
    """Returns their logarithms, finite also where a probability is rounded to 0."""
    p = _probs(config, raw, unimix)
    is_mixed = _rank(unimix, p) > 0
    mixed = jnp.log(jnp.where(is_mixed, p, 1.0))
    return jnp.where(is_mixed, mixed, jax.nn.log_softmax(_logits(config, raw)))


def _logits(config: LatentConfig, raw: Array) -> Array:
    logits = raw.astype(jnp.float32)
    return logits.reshape(*raw.shape[:-1], config.latents, config.classes)


def _rank(x: Scalar, like: Array) -> Array:
    return jnp.asarray(x, jnp.float32).reshape((1,) * like.ndim)


def _mean_std(raw: Array) -> tuple[Array, Array]:
    mean, std = jnp.split(raw.astype(jnp.float32), 2, axis=-1)
    return mean, bounded_std(std)
