"""Windows before a reward, drawn evenly by class and task, within one episode."""

import jax
import numpy as np
import pytest

from mtrl_jax.data import replay_ring, skewed_replay

KEY = jax.random.key(0)
L, B, STEPS = 40, 6, 4

weigh = jax.jit(skewed_replay.weights, static_argnums=3)
draw = jax.jit(skewed_replay.draw, static_argnums=2)


def test_no_window_leads_into_a_reset_or_out_of_what_is_stored():
    """Rows end − 3 … end are of one episode, written, and not overwritten."""
    first = np.random.default_rng(0).random((L + 3, B)) < 0.15

    @jax.jit
    def found(first, step):
        ring = replay_ring.written(L, 4, step)
        return ring, skewed_replay.ends(first, ring, STEPS, before=1)

    for step in (0, 2, 9, 13):
        ring, valid = jax.tree.map(np.asarray, found(first, np.int32(step)))
        head, stored = int(ring.head), int(ring.stored)
        for row in range(L + 3):
            age = (head - row) % L
            fits = row < L and age + STEPS + 1 <= stored
            inside = [(row - back) % L for back in range(STEPS - 1)]
            same = ~first[inside].any(0)
            np.testing.assert_array_equal(valid[row], fits & same)


@pytest.mark.parametrize("density", [0.01, 0.5])
def test_half_of_what_is_drawn_has_a_reward_in_every_task(density):
    """Whatever the rewards' frequency; tasks are even, too, within 4 deviations."""
    rng, rows = np.random.default_rng(0), 400
    task = np.broadcast_to(np.array([0, 0, 0, 0, 0, 1]), (rows, B))
    # Task 1 is dense: it would give most of the rewards.
    share = np.where(task == 1, 0.9, density)
    reward = np.float32(rng.random((rows, B)) < share)
    valid = rng.random((rows, B)) < 0.7
    weights = np.asarray(weigh(valid, -reward, task, 3))
    np.testing.assert_allclose(weights.sum(), 2.0, rtol=1e-4)
    number = 4000
    end, slot, live = map(np.asarray, draw(KEY, weights, number))
    assert live.all() and valid[end, slot].all()
    drawn_task, drawn = task[end, slot], reward[end, slot]
    for k in (0, 1):
        of = drawn_task == k
        np.testing.assert_allclose(of.mean(), 0.5, atol=4 * 0.5 / number**0.5)
        np.testing.assert_allclose(
            drawn[of].mean(), 0.5, atol=4 * 0.5 / of.sum() ** 0.5
        )


def test_without_rewards_zeros_are_drawn_and_of_nothing_nothing_is_live():
    """One class has the whole weight; with no valid window no draw counts."""
    valid = np.ones((5, 2), bool)
    valid[0] = False
    zeros = np.zeros((5, 2), np.float32)
    task = np.zeros((5, 2), np.int32)
    weights = np.asarray(weigh(valid, zeros, task, 1))
    np.testing.assert_allclose(weights[1:], 1 / 8, rtol=1e-6)
    end, _, live = map(np.asarray, draw(KEY, weights, 50))
    assert live.all() and (end > 0).all()
    nothing = weigh(np.zeros_like(valid), zeros, task, 1)
    assert not np.asarray(draw(KEY, nothing, 50)[2]).any()
