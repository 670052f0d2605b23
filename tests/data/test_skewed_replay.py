"""Windows before a reward, drawn evenly by class and task, within one episode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.data import replay_ring, skewed_replay

KEY = jax.random.key(0)
L, B, STEPS = 40, 6, 4


def test_no_window_leads_into_a_reset_or_out_of_what_is_stored():
    """Rows end − 3 … end are of one episode, written, and not overwritten."""
    first = jax.random.bernoulli(KEY, 0.15, (L + 3, B))
    for step in (0, 2, 9, 13):
        ring = replay_ring.written(L, 4, jnp.int32(step))
        valid = np.asarray(skewed_replay.ends(first, ring, STEPS, before=1))
        head, stored = int(ring.head), int(ring.stored)
        for row in range(L + 3):
            age = (head - row) % L
            fits = row < L and age + STEPS + 1 <= stored
            inside = [(row - back) % L for back in range(STEPS - 1)]
            same = ~np.asarray(first)[inside].any(0)
            np.testing.assert_array_equal(valid[row], fits & same)


@pytest.mark.parametrize("density", [0.01, 0.5])
def test_half_of_what_is_drawn_has_a_reward_in_every_task(density):
    """Whatever the rewards' frequency; tasks are even, too, within 4 deviations."""
    keys = jax.random.split(KEY, 3)
    rows = 400
    task = jnp.broadcast_to(jnp.array([0, 0, 0, 0, 0, 1]), (rows, B))
    # Task 1 is dense: it would give most of the rewards.
    share = jnp.where(task == 1, 0.9, density)
    reward = jax.random.bernoulli(keys[0], share).astype(jnp.float32)
    valid = jax.random.bernoulli(keys[1], 0.7, (rows, B))
    weights = skewed_replay.weights(valid, -reward, task, 3)
    np.testing.assert_allclose(weights.sum(), 2.0, rtol=1e-4)
    number = 4000
    end, slot, live = skewed_replay.draw(keys[2], weights, number)
    assert live.all() and np.asarray(valid)[end, slot].all()
    drawn_task, drawn = (np.asarray(x)[end, slot] for x in (task, reward))
    for k in (0, 1):
        of = drawn_task == k
        np.testing.assert_allclose(of.mean(), 0.5, atol=4 * 0.5 / number**0.5)
        np.testing.assert_allclose(
            drawn[of].mean(), 0.5, atol=4 * 0.5 / of.sum() ** 0.5
        )


def test_without_rewards_zeros_are_drawn_and_of_nothing_nothing_is_live():
    """One class has the whole weight; with no valid window no draw counts."""
    valid = jnp.ones((5, 2), bool).at[0].set(False)
    zeros = jnp.zeros((5, 2))
    task = jnp.zeros((5, 2), jnp.int32)
    weights = skewed_replay.weights(valid, zeros, task, 1)
    np.testing.assert_allclose(weights[1:], 1 / 8, rtol=1e-6)
    end, _, live = skewed_replay.draw(KEY, weights, 50)
    assert live.all() and (end > 0).all()
    nothing = skewed_replay.weights(~jnp.ones_like(valid), zeros, task, 1)
    assert not skewed_replay.draw(KEY, nothing, 5)[2].any()
