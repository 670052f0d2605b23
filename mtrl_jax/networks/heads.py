"""Heads: from a network's raw parameters to a policy over each kind of action space.

Parameters, not distributions, cross jit and vmap boundaries; ``policy`` is called where
the distribution is used. ``distrax`` does the arithmetic and is imported there too,
because it loads TensorFlow Probability.

Illegal choices get a logit that is large and finite: their probability is exactly 0, and
entropy, divergence and all gradients stay finite. Temperature divides logits (and
multiplies standard deviations); at 0 the policy is greedy. It may be traced.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.types import ILLEGAL, Array, Key, Scalar


class Policy(Protocol):
    """A distribution over actions; every result has the leading axes ``[...]``.

    ``kl(other)`` is KL(self || other). ``log_prob_of`` is for choices only: [..., m] of
    static joint actions [m, G].
    """

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]: ...
    def log_prob(self, action: Array) -> Array: ...
    def log_prob_of(self, actions: np.ndarray) -> Array: ...
    def entropy(self) -> Array: ...
    def mode(self) -> Array: ...
    def kl(self, other) -> Array: ...


def policy_params_size(space: types.ActionSpace) -> int:
    """Returns how many numbers parametrise a policy: the logits; mean and log std."""
    size = types.action_mask_size(space)
    return 2 * size if isinstance(space, types.Box) else size


def policy(
    space: types.ActionSpace,
    params: Array,
    action_mask: Array,
    temperature: Scalar = 1.0,
) -> Policy:
    """Returns the policy with raw ``params`` [..., policy_params_size(space)].

    ``action_mask`` [..., M] as in ``types.TimeStep``; a group of choices that is masked
    altogether has its choice 0 and no entropy.
    """
    match space:
        case types.Discrete(n):
            tempered = _tempered(params, action_mask, temperature)
            return Categoricals(tempered, (n,), is_scalar=True)
        case types.Factorised(sizes):
            groups = zip(_split(params, sizes), _split(action_mask, sizes))
            logits = [_tempered(x, legal, temperature) for x, legal in groups]
            return Categoricals(jnp.concatenate(logits, axis=-1), sizes)
        case types.Box():
            return _gaussian(space, params, action_mask, temperature)


def encode(space: types.ActionSpace, action: Array) -> Array:
    """Returns an action as network input [..., M]: one-hot per group, or scaled to ±1.

    A Box action outside its bounds is clipped first, as the environment does.
    """
    match space:
        case types.Discrete(n):
            return jax.nn.one_hot(action, n)
        case types.Factorised(sizes):
            hot = [jax.nn.one_hot(action[..., i], n) for i, n in enumerate(sizes)]
            return jnp.concatenate(hot, axis=-1)
        case types.Box():
            centre, half = (_like(x, action) for x in _centre_and_half(space))
            return jnp.clip((action - centre) / half, -1.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Categoricals:
    """Independent categorical groups; a scalar action is that of a single group."""

    logits: Array  # [..., sum(sizes)], masked
    sizes: tuple[int, ...]
    is_scalar: bool = False

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Returns (action, log_prob)."""
        groups = _split(self.logits, self.sizes)
        keys = [key] if len(groups) == 1 else jax.random.split(key, len(groups))
        # Unlike distrax's, an index also where logits are not finite.
        draws = [jax.random.categorical(k, group) for k, group in zip(keys, groups)]
        action = self._join([draw.astype(jnp.int32) for draw in draws])
        return action, self.log_prob(action)

    def log_prob(self, action: Array) -> Array:
        """Returns the sum over groups of log p(choice)."""
        columns = [action] if self.is_scalar else jnp.moveaxis(action, -1, 0)
        return sum(g.log_prob(a) for g, a in zip(self._groups(), columns))

    def log_prob_of(self, actions: np.ndarray) -> Array:
        """Returns log-probabilities [..., m] of static joint ``actions`` [m, G].

        A product with a matrix of zeros and ones: no gather, so no scatter backwards.
        """
        hot = [
            np.eye(n, dtype=np.float32)[actions[:, g]] for g, n in enumerate(self.sizes)
        ]
        return self._log_p @ jnp.asarray(np.concatenate(hot, axis=-1).T)

    def entropy(self) -> Array:
        """Returns the sum of the groups' entropies in nats."""
        log_p = self._log_p
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

    def mode(self) -> Array:
        """Returns the most probable action."""
        return self._join([group.mode() for group in self._groups()])

    def kl(self, other: Categoricals) -> Array:
        """Returns KL(self || other); both have the same legal choices."""
        pairs = zip(self._groups(), other._groups())
        return sum(mine.kl_divergence(theirs) for mine, theirs in pairs)

    @property
    def probs(self) -> Array:
        """Returns the probability of every choice, [..., sum(sizes)]."""
        return jnp.exp(self._log_p)

    @property
    def _log_p(self) -> Array:
        """Log-probabilities of every choice, [..., sum(sizes)]."""
        # distrax has normalised the logits; its own entropy would do so once more.
        return jnp.concatenate([g.logits for g in self._groups()], axis=-1)

    def _groups(self) -> list:
        import distrax

        parts = _split(self.logits, self.sizes)
        return [distrax.Categorical(part, dtype=jnp.int32) for part in parts]

    def _join(self, columns: list[Array]) -> Array:
        return columns[0] if self.is_scalar else jnp.stack(columns, axis=-1)


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """A diagonal Gaussian in the environment's units, not clipped to the bounds.

    Dimensions whose mask is False contribute nothing; their action is the midpoint.
    Greedy (temperature 0), the sample is the mean; a point has no density, so that
    log-probability, entropy and divergence are those of temperature 1.
    """

    mean: Array  # [..., D]
    std: Array  # [..., D]
    live: Array  # [..., D] bool
    is_greedy: Array  # [] bool

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Returns (action, log_prob)."""
        action = jnp.where(self.live, self._normal().sample(seed=key), self.mean)
        action = jnp.where(self.is_greedy, self.mean, action)
        return action, self.log_prob(action)

    def log_prob(self, action: Array) -> Array:
        """Returns the log-density."""
        return self._sum(self._normal().log_prob(action))

    def log_prob_of(self, actions: np.ndarray) -> Array:
        """Raises ValueError: real-valued actions cannot be listed."""
        raise ValueError("log_prob_of: a Gaussian has no list of actions")

    def entropy(self) -> Array:
        """Returns the differential entropy in nats."""
        return self._sum(self._normal().entropy())

    def mode(self) -> Array:
        """Returns the mean."""
        return self.mean

    def kl(self, other: Gaussian) -> Array:
        """Returns KL(self || other)."""
        return self._sum(self._normal().kl_divergence(other._normal()))

    def _normal(self):
        import distrax

        return distrax.Normal(self.mean, self.std)

    def _sum(self, x: Array) -> Array:
        return jnp.sum(jnp.where(self.live, x, 0.0), axis=-1)


def _tempered(logits: Array, legal: Array, temperature: Scalar) -> Array:
    """Returns the logits of one group, masked and divided by the temperature."""
    choice = jnp.arange(logits.shape[-1])
    is_zeroth = _like(choice == 0, logits)
    legal = legal | (~jnp.any(legal, axis=-1, keepdims=True) & is_zeroth)
    logits = jnp.where(legal, logits, ILLEGAL)
    temperature = jnp.asarray(temperature, logits.dtype)
    is_best = _like(choice, logits) == jnp.argmax(logits, axis=-1, keepdims=True)
    greedy = jnp.where(is_best, 0.0, ILLEGAL)
    soft = jnp.where(
        legal, logits / jnp.where(temperature > 0, temperature, 1.0), ILLEGAL
    )
    return jnp.where(temperature > 0, soft, greedy)


def _gaussian(
    space: types.Box, params: Array, action_mask: Array, temperature: Scalar
) -> Gaussian:
    mean, log_std = jnp.split(params, 2, axis=-1)
    centre, half = (_like(x, mean) for x in _centre_and_half(space))
    temperature = jnp.asarray(temperature, mean.dtype)
    is_greedy = temperature <= 0
    std = jnp.exp(log_std) * half * jnp.where(is_greedy, 1.0, temperature)
    # Values in dead dimensions are constants: no gradient, nothing to overflow.
    mean = jnp.where(action_mask, centre + half * mean, centre)
    return Gaussian(mean, jnp.where(action_mask, std, 1.0), action_mask, is_greedy)


def _centre_and_half(space: types.Box) -> tuple[np.ndarray, np.ndarray]:
    """Returns midpoint and half range; 0 and 1 for a dimension that has no finite range."""
    low, high = (np.asarray(x, np.float32) for x in (space.low, space.high))
    has_range = np.isfinite(high) & np.isfinite(low)
    low, high = np.where(has_range, low, -1.0), np.where(has_range, high, 1.0)
    half = (high - low) / 2
    return (high + low) / 2, np.where(half > 0, half, 1.0)


def _split(x: Array, sizes: tuple[int, ...]) -> list[Array]:
    return jnp.split(x, np.cumsum(sizes)[:-1].tolist(), axis=-1)


def _like(x, like: Array) -> Array:
    """Returns ``x`` [D] with the rank of ``like`` [..., D]."""
    return jnp.asarray(x).reshape((1,) * (like.ndim - 1) + (-1,))
