"""Noise-annealed demonstrators: as noisy as they should be, at every point."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import random, types
from mtrl_jax.data import demonstrations, histories, rows
from mtrl_jax.envs import core, dark

EPISODES, LENGTH, ACTIONS, BEST = 20, 8, 5, 3


def clock():
    """Returns a task of episodes of LENGTH steps that shows nothing."""

    def reset(key, params):
        return jnp.int32(0), {"vector": jnp.zeros(1)}

    def step(key, time, action, params):
        done = time + 1 >= LENGTH
        return time + 1, {"vector": jnp.zeros(1)}, 0.0, False, done

    return core.task("clock", reset, step, types.Discrete(ACTIONS))


def collected(env, optimal, chunks, **options):
    demonstrator = demonstrations.make(env, optimal, **options)
    state = demonstrator.init(random.roots(0, env.batch[0]))
    chunk = jax.jit(demonstrator.chunk)
    for _ in range(chunks):
        state, steps = chunk(state)
        yield steps


def test_the_share_of_optimal_actions_is_one_minus_epsilon_and_a_bit():
    """1 - ε_h + ε_h/|A| in every episode h, within 3 sigma; ε from 1 to the floor."""
    env, floor = core.vectorise(clock(), (4, 64)), 0.2
    steps = EPISODES * (LENGTH + 1)
    ((ts, action),) = collected(
        env,
        lambda state: jnp.full(env.batch, BEST),
        1,
        episodes=EPISODES,
        steps_per_chunk=steps,
        floor=floor,
    )
    by_episode = np.asarray(action).reshape(EPISODES, LENGTH + 1, -1)[:, :LENGTH]
    assert np.asarray(ts.last[:-1]).reshape(EPISODES, LENGTH + 1, -1)[:, LENGTH].all()
    epsilon = 1 - (1 - floor) * np.minimum(np.arange(EPISODES) / 18, 1)
    assert epsilon[0] == 1 and np.allclose(epsilon[-2:], floor)
    share = np.mean(by_episode == BEST, axis=(1, 2))
    expected = 1 - epsilon + epsilon / ACTIONS
    sigma = np.sqrt(expected * (1 - expected) / by_episode[0].size)
    assert (np.abs(share - expected) < 3 * sigma).all()
    # The others are uniform: in the first episode everything is.
    seen = np.bincount(by_episode[0].ravel(), minlength=ACTIONS) / by_episode[0].size
    assert np.abs(seen - 0.2).max() < 3 * np.sqrt(0.16 / by_episode[0].size)


def test_illegal_actions_are_never_explored():
    """Noise is uniform over what is legal."""
    key, shape = jax.random.split(jax.random.key(0), 1), (1, 2000)
    legal = jnp.broadcast_to(jnp.array([True, False, True]), (*shape, 3))
    zeros = jnp.zeros(shape, jnp.int32)
    action = demonstrations.noisy(key, zeros, jnp.ones(shape), legal)
    share = np.bincount(np.asarray(action).ravel(), minlength=3) / 2000
    assert share[1] == 0 and abs(share[0] - 0.5) < 0.04


def test_histories_of_dark_rooms_go_from_random_to_optimal(tmp_path):
    """Demonstrator, writer and loader together: each history is one task's improvement."""
    task = dark.task("room", {"size": 5, "length": 10})
    goals = dark.tasks_of("room", {"size": 5, "length": 10})
    env = core.spread(task, goals, (25, 2))
    names = [str(goal) for goal in np.asarray(goals.goals)[:, 0] for _ in range(2)]
    writer = histories.Writer(tmp_path, env.spec, names, steps=10 * 11)
    for steps in collected(
        env,
        lambda state: dark.optimal_action(state.params, state.inner),
        4,
        episodes=10,
        steps_per_chunk=33,
    ):
        writer.write(steps)
    writer.close()
    data = histories.load(tmp_path)
    assert len(data.spec.tasks) == 25 and data.task[:4].tolist() == [0, 0, 1, 1]
    kept = rows.keep(data)
    assert (kept.counts == 100).all()
    rewards = np.take_along_axis(data.reward, kept.rows, axis=1)
    returns = rewards.reshape(50, 10, 10).sum(-1)
    goal = np.asarray(goals.goals)[:, 0].repeat(2, axis=0)
    distance = np.abs(goal - 2).sum(-1)
    optimal = 10 - np.maximum(distance - 1, 0)
    np.testing.assert_array_equal(returns[:, -1], optimal)
    assert returns[:, 0].mean() < 0.4 * optimal.mean()


def test_other_than_discrete_actions_are_refused():
    """Uniform noise over a box is another algorithm."""
    env = core.vectorise(clock(), (1, 1))
    box = env.spec._replace(action=types.Box((0.0,), (1.0,)))
    with pytest.raises(ValueError, match=r"Box actions, .* need Discrete"):
        demonstrations.make(
            env._replace(spec=box), lambda s: s, episodes=1, steps_per_chunk=1
        )
    with pytest.raises(ValueError, match="episodes=0"):
        demonstrations.make(env, lambda s: s, episodes=0, steps_per_chunk=1)
