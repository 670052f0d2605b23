"""Demonstrators: as noisy as they should be, at every point of a history."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import random, types
from mtrl_jax.agents import demonstrator
from mtrl_jax.agents.common import exploration
from mtrl_jax.engine import fused_runner
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.envs import core, expert_labels

EPISODES, LENGTH, ACTIONS, BEST = 20, 8, 5, 3
HALF = exploration.Hparams(epsilon_start=0.5, epsilon_end=0.5)


def clock():
    """Returns a task of episodes of LENGTH steps that shows nothing."""

    def reset(key, params):
        return jnp.int32(0), {"vector": jnp.zeros(1)}

    def step(key, time, action, params):
        done = time + 1 >= LENGTH
        return time + 1, {"vector": jnp.zeros(1)}, 0.0, False, done

    return core.task("clock", reset, step, types.Discrete(ACTIONS))


def played(batch, hp):
    """Returns the history [T, P, B] of EPISODES episodes, an update each, and metrics."""
    env = core.vectorise(clock(), batch)
    env = expert_labels.give(env, lambda _: jnp.full(batch, BEST))
    runner = fused_runner.make(
        demonstrator.make(env.spec),
        env,
        unroll_length=LENGTH + 1,
        updates_per_chunk=EPISODES,
        record=True,
    )
    hp = jax.tree.map(lambda x: jnp.full(batch[0], x, jnp.float32), hp)
    state = runner.init(random.roots(0, batch[0]), hp)
    _, out = jax.jit(runner.chunk)(state, hp)
    return jax.device_get((out.history, out.metrics))


def test_the_share_of_optimal_actions_is_one_minus_epsilon_and_a_bit():
    """1 - ε_h + ε_h/|A| in every episode h, within 3 sigma; ε from 1 to the floor."""
    floor = 0.2
    falling = exploration.Hparams(epsilon_end=floor, decay_updates=0.9 * EPISODES)
    hp = demonstrator.Hparams(falling)
    history, metrics = played((4, 64), hp)
    by_episode = history.action.reshape(EPISODES, LENGTH + 1, -1)[:, :LENGTH]
    resets = history.ts.last[:-1].reshape(EPISODES, LENGTH + 1, -1)
    assert resets[:, LENGTH].all() and not resets[:, :LENGTH].any()
    epsilon = 1 - (1 - floor) * np.minimum(np.arange(EPISODES) / 18, 1)
    assert epsilon[0] == 1 and np.allclose(epsilon[-2:], floor)
    share = np.mean(by_episode == BEST, axis=(1, 2))
    expected = 1 - epsilon + epsilon / ACTIONS
    sigma = np.sqrt(expected * (1 - expected) / by_episode[0].size)
    assert (np.abs(share - expected) < 3 * sigma).all()
    # The others are uniform: in the first episode everything is.
    seen = np.bincount(by_episode[0].ravel(), minlength=ACTIONS) / by_episode[0].size
    assert np.abs(seen - 0.2).max() < 3 * np.sqrt(0.16 / by_episode[0].size)
    # What it says of itself; the action into a reset does not count.
    np.testing.assert_allclose(metrics["epsilon"], epsilon.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["optimal"].mean(), share.mean(), rtol=1e-5)


def test_illegal_actions_are_never_explored_and_never_best():
    """Noise is uniform over what is legal; so is who is to do what is not."""
    shape = (2000,)
    legal = jnp.broadcast_to(jnp.array([True, False, True]), (*shape, 3))
    zeros = jnp.zeros(shape, jnp.int32)
    action = demonstrator.noisy(jax.random.key(0), zeros, 1.0, legal)
    share = np.bincount(np.asarray(action), minlength=3) / 2000
    assert share[1] == 0 and abs(share[0] - 0.5) < 0.04
    env = expert_labels.give(core.vectorise(clock(), (1, 2000)), lambda _: zeros)
    agent, hp = demonstrator.make(env.spec), demonstrator.Hparams(HALF)
    ts = jax.tree.map(lambda x: x[0], env.reset(random.roots(0, 1), env.params)[1])
    legal = jnp.broadcast_to(jnp.arange(ACTIONS) < 2, (2000, ACTIONS))
    for best, shares in ((1, [0.25, 0.75]), (4, [0.5, 0.5])):
        informed = ts._replace(
            obs={**ts.obs, types.OPTIMAL: jnp.full(2000, best)}, action_mask=legal
        )
        state = jax.jit(batch_draws(agent.init))(jax.random.key(1), hp)
        action, _, extras = agent.act(state, (), informed, jax.random.key(2), hp)
        found = np.bincount(np.asarray(action), minlength=ACTIONS) / 2000
        np.testing.assert_allclose(found, [*shares, 0, 0, 0], atol=0.04)
        probability = np.exp(np.asarray(extras.log_prob))
        np.testing.assert_allclose(probability, np.take(shares, action), rtol=1e-5)
    none = informed._replace(action_mask=jnp.zeros_like(legal))
    action, _, extras = agent.act(state, (), none, jax.random.key(2), hp)
    assert not action.any() and not extras.log_prob.any()


def test_the_uninformed_cannot_demonstrate():
    """The error says where it can be used."""
    env = core.vectorise(clock(), (1, 1))
    with pytest.raises(ValueError, match=r"obs: .*'optimal'.*kind collect"):
        demonstrator.make(env.spec)
