"""An actor that acts in imagination, and trajectories that it imagines.

Actions of choices are one-hot in imagination and pass the gradient of their
probabilities straight through; Box actions are reparametrised. The model that is imagined
with is a function of state and encoded action, whatever it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.networks import heads, layers
from mtrl_jax.networks.world_models import latents, rssm
from mtrl_jax.types import Array, Key, Scalar, Tree

GRADIENTS = ("auto", "reinforce", "dynamics", "mix")


class Actor(NamedTuple):
    """A policy on features, as functions of its parameters."""

    init: Callable[[Key], Tree]
    # (params, features, action_mask, temperature = 1) -> heads.Policy
    policy: Callable[..., heads.Policy]
    encode: Callable[[Array], Array]  # action -> [..., A]
    # (policy, key) -> (action, encoded with gradient)
    sample: Callable[[heads.Policy, Key], tuple[Array, Array]]


class Trajectories(NamedTuple):
    """N imagined trajectories of H steps."""

    features: Array  # [H + 1, N, F], of which the first was seen
    action: Array  # [H, N, ...]; entry k is chosen at state k


def actor(
    space: types.ActionSpace,
    config: rssm.RSSMConfig,
    hidden: tuple[int, ...],
    dtype: str,
) -> Actor:
    """Returns an MLP policy on the features of ``config``."""
    size = heads.policy_params_size(space)

    def init(key: Key) -> Tree:
        return layers.mlp_init(key, config.feature_size, hidden, size)

    def policy(
        params: Tree, features: Array, mask: Array, temperature: Scalar = 1.0
    ) -> heads.Policy:
        raw = layers.mlp(params, features, activation=config.activation, dtype=dtype)
        mask = jnp.broadcast_to(mask, (*features.shape[:-1], mask.shape[-1]))
        return heads.policy(space, _bounded(space, raw), mask, temperature)

    def encode(action: Array) -> Array:
        return heads.encode(space, action)

    def sample(policy: heads.Policy, key: Key) -> tuple[Array, Array]:
        if isinstance(policy, heads.Categoricals):
            action = _drawn(policy, key)
            return action, latents.straight_through(encode(action), policy.probs)
        action, _ = policy.sample_and_log_prob(key)
        return action, encode(action)

    return Actor(init, policy, encode, sample)


def imagine(
    actor: Actor,
    params: Tree,
    step: Callable[[rssm.State, Array, Key], rssm.State],
    start: rssm.State,
    mask: Array,
    key: Key,
    horizon: int,
    *,
    differentiated: bool,
) -> Trajectories:
    """Returns trajectories from ``start`` [N, ...], legal actions ``mask`` [N, M].

    The actor reads states without a gradient; with ``differentiated`` its actions pass
    one through the states that follow, otherwise nothing does.
    """
    if not differentiated:
        params = jax.lax.stop_gradient(params)

    def one(
        state: rssm.State, _: tuple[()], key: Key
    ) -> tuple[rssm.State, tuple[Array, Array]]:
        action_key, state_key = jax.random.split(key)
        x = rssm.features(state)
        policy = actor.policy(params, jax.lax.stop_gradient(x), mask)
        action, encoded = actor.sample(policy, action_key)
        return step(state, encoded, state_key), (x, action)

    last, (features, action) = rssm.unroll(one, start, (), key, horizon)
    features = jnp.concatenate([features, rssm.features(last)[None]])
    return Trajectories(features, action)


def actor_gradient(space: types.ActionSpace, kind: str) -> str:
    """Returns reinforce, dynamics or mix; ValueError for what is not known or not sound.

    auto: REINFORCE of choices, the dynamics' gradient of Box actions, as in the paper.
    """
    if kind not in GRADIENTS:
        raise ValueError(
            f"actor_gradient: {kind!r} is not known, use one of {GRADIENTS}"
        )
    is_box = isinstance(space, types.Box)
    if kind == "auto":
        return "dynamics" if is_box else "reinforce"
    if kind == "reinforce" and is_box:
        raise ValueError(
            "actor_gradient: 'reinforce' alone is not for Box actions in DreamerV2, use "
            "'dynamics', or 'mix'"
        )
    return kind


def _drawn(policy: heads.Categoricals, key: Key) -> Array:
    """Returns actions by inverting the cumulative probabilities, one number a group.

    What is drawn does not depend on illegal choices after the last legal one.
    """
    columns, start = [], 0
    for n, own in zip(policy.sizes, jax.random.split(key, len(policy.sizes))):
        reached = jnp.cumsum(policy.probs[..., start : start + n], axis=-1)
        u = jax.random.uniform(own, (*reached.shape[:-1], 1)) * reached[..., -1:]
        columns.append(jnp.sum(reached <= u, axis=-1, dtype=jnp.int32))
        start += n
    return columns[0] if policy.is_scalar else jnp.stack(columns, axis=-1)


def _bounded(space: types.ActionSpace, raw: Array) -> Array:
    """Returns a policy's parameters; of a Box the mean within ±1, the deviation in bounds."""
    if not isinstance(space, types.Box):
        return raw
    mean, std = jnp.split(raw, 2, axis=-1)
    std = latents.bounded_std(std)
    return jnp.concatenate([jnp.tanh(mean), jnp.log(std)], axis=-1)
