"""How the tests of environments play them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import random, types


def uniform(space, steps, batch, seed):
    """Random actions ``[T, P, B, ...]``; those of a slot do not depend on the batch."""
    shape = types.action_shape(space).shape
    draws = np.random.default_rng(seed).random((steps, 8, 64, *shape), np.float32)
    draws = draws[:, : batch[0], : batch[1]]
    if isinstance(space, types.Box):
        low, high = np.float32(space.low), np.float32(space.high)
        return low + draws * (high - low)
    sizes = np.array(space.sizes if shape else space.n)
    return (draws * sizes).astype(np.int32)


def player(env, steps, policy=None):
    """Returns ``run(seed, params, actions)`` -> (time steps ``[T+1, P, B, ...]``,
    actions taken, infos), compiled once.

    ``policy(ts, t)`` gives the action; without one they are ``actions``, by default
    uniform.
    """

    @jax.jit
    def rollout(seed, params, actions):
        roots = random.roots(seed, env.batch[0])
        state, first = env.reset(random.at(roots, 0, random.ENV), params)

        def step(carry, scanned):
            (state, ts), (t, action) = carry, scanned
            action = policy(ts, t) if policy else action
            state, ts = env.step(state, action, params)
            return (state, ts), (ts, action, env.info(state))

        scanned = (jnp.arange(steps), actions)
        _, (rest, taken, infos) = jax.lax.scan(step, (state, first), scanned)
        join = lambda x, y: jnp.concatenate([x[None], y])  # noqa: E731
        return jax.tree.map(join, first, rest), taken, infos

    def run(seed=0, params=None, actions=None):
        if actions is None:
            actions = uniform(env.spec.action, steps, env.batch, seed)
        params = env.params if params is None else params
        return jax.device_get(rollout(seed, params, actions))

    return run


@pytest.fixture(name="player", scope="session")
def _player():
    return player


@pytest.fixture(name="play", scope="session")
def _play():
    """``play(env, steps, seed, params, policy)``: as player, run once."""
    return lambda env, steps, seed=0, params=None, policy=None: player(
        env, steps, policy
    )(seed, params)
