"""An agent that plays and learns nothing: a teacher, or a source of histories."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.types import Array, Key, Tree


def make(
    agent: types.Agent,
    space: types.ActionSpace,
    epsilon: float = 0.0,
    observe_action: Callable[[Tree, types.TimeStep, Array], Tree] | None = None,
) -> types.Agent:
    """Returns ``agent`` with an update that changes nothing and has no metrics.

    With probability ``epsilon`` a slot's action is uniform over the legal ones; what
    acting notes down is of the action that the agent chose itself. ``observe_action``
    (see AgentInfo) gives the carry after the action that was played; without it the
    agent must be one whose actions do not depend on its carry.
    """

    def act(learner, carry, ts, key, hp):
        own_key, when_key, which_key = jax.random.split(key, 3)
        chosen, after, extras = agent.act(learner, carry, ts, own_key, hp)
        explores = jax.random.uniform(when_key, ts.first.shape) < epsilon
        other = uniform(which_key, space, ts.action_mask)
        explores = explores.reshape(explores.shape + (1,) * (chosen.ndim - 1))
        action = jnp.where(explores, other, chosen)
        if observe_action is not None:
            after = observe_action(after, ts, action)
        return action, after, extras

    def update(learner, batch, key, hp, step):
        return learner, {}, ()

    return agent._replace(act=act if epsilon else agent.act, update=update, replay=None)


def uniform(key: Key, space: types.ActionSpace, legal: Array) -> Array:
    """Returns uniform legal actions ``[B, ...]``; ``legal`` is ``[B, M]``.

    Of a box, over all of it; from -1 to 1 in a dimension without bounds.
    """

    def draw(key: Key, legal: Array) -> Array:
        logits = jnp.where(legal, 0.0, -jnp.inf)
        return jax.random.categorical(key, logits).astype(jnp.int32)

    match space:
        case types.Discrete(_):
            return draw(key, legal)
        case types.Factorised(sizes):
            ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
            parts = [legal[:, end - n : end] for n, end in zip(sizes, ends)]
            keys = jax.random.split(key, len(sizes))
            return jnp.stack([draw(*x) for x in zip(keys, parts)], axis=-1)
        case types.Box(low, high):
            bounded = np.isfinite(low) & np.isfinite(high)
            least = jnp.asarray(np.where(bounded, low, -1.0), jnp.float32)[None]
            most = jnp.asarray(np.where(bounded, high, 1.0), jnp.float32)[None]
            u = jax.random.uniform(key, (legal.shape[0], len(low)), jnp.float32)
            return least + (most - least) * u
