"""Histories as a transformer reads them, from transitions one after the other."""

import chex
import jax
import jax.numpy as jnp

from mtrl_jax.networks.transformers import history_tokens


def of(obs, action, reward, done, live=None):
    """Returns the Steps [T, B] of transitions (o_t, a_t, r_t, done_t), each [T, B].

    Nothing is before the first.
    """
    chex.assert_rank([reward, done], 2)
    chex.assert_equal_shape_prefix([reward, done, action, *jax.tree.leaves(obs)], 2)

    def before(x):
        return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])

    known = jnp.ones(reward.shape, bool) if live is None else live
    return history_tokens.Steps(
        obs,
        before(action),
        before(reward),
        before(done),
        before(known),
        live,
        jax.tree.map(before, obs),
    )
