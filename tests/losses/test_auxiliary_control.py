"""Pseudo-rewards of cells and the n-step Q loss that learns to make them."""

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.losses import auxiliary_control as control

KEY = jax.random.key(0)
X = jax.random.uniform(KEY, (3, 84, 84, 3))


def changes(x, cell=4):
    """Returns the pseudo-rewards of two images."""
    return np.asarray(control.cell_changes(jnp.stack(x), cell)[0]).reshape(-1)


def test_the_same_image_is_no_change_and_a_brighter_one_is_one_everywhere():
    """0 of the same; δ in all 441 cells of 84 x 84 (the middle 80 x 80 has 400)."""
    assert (changes([X[0], X[0]]) == 0).all()
    found = changes([X[0], X[0] + 0.25])
    assert found.shape == (441,)
    np.testing.assert_allclose(found, 0.25, rtol=1e-5)
    middle = control.cell_changes(X[:2, 2:-2, 2:-2], 4)
    assert middle.shape == (1, 400)


def test_one_pixel_changes_one_cell():
    """By |δ| / (4 · 4 · C); a cell's width further it is the next cell."""
    for row, column, cell in ((0, 0, 0), (0, 4, 1), (5, 83, 41), (83, 83, 440)):
        other = X[0].at[row, column, 1].add(-0.48)
        found = changes([X[0], other])
        assert np.flatnonzero(found > 1e-6).tolist() == [cell]
        np.testing.assert_allclose(found[cell], 0.48 / 48, rtol=1e-3)


def test_cells_are_of_the_middle_of_an_image_that_they_do_not_divide():
    """6 x 7 pixels have one cell of 4 x 4, with one row and column before it."""
    other = jnp.zeros((6, 7, 1)).at[1:5, 1:5].set(0.5)
    np.testing.assert_array_equal(changes([jnp.zeros((6, 7, 1)), other]), [0.5])


def test_a_vector_has_cells_of_its_numbers():
    """The last cell may have fewer, and counts its own."""
    x = jnp.array([[0.0, 0.0, 0.0, 0.0, 0.0], [1.0, 3.0, 0.0, 0.0, -5.0]])
    np.testing.assert_allclose(control.cell_changes(x, 2), [[2.0, 0.0, 5.0]])


def test_advantages_have_no_mean_over_legal_actions():
    """mean_a (Q − V) = 0 in every cell, illegal actions left out."""
    value = jax.random.normal(KEY, (2, 5))
    advantage = jax.random.normal(jax.random.key(1), (2, 5, 3))
    legal = jnp.array([[True, True, True], [True, False, True]])
    q = control.dueling(value, advantage, legal)
    above = np.asarray(q - value[..., None])
    np.testing.assert_allclose(above[0].mean(-1), 0.0, atol=1e-6)
    np.testing.assert_allclose(above[1][:, [0, 2]].mean(-1), 0.0, atol=1e-6)


def test_a_constant_value_that_rewards_sustain_has_no_error():
    """Q = c and pseudo-rewards (1 − γ) c: the loss is 0, whatever was done."""
    q, c = jnp.full((7, 2, 3), 2.0), jnp.full((6, 2), 0.2)
    action = jax.random.randint(KEY, (6,), 0, 3)
    live = jnp.ones(6)
    errors = control.control_errors(
        q, action, jnp.ones((7, 3), bool), c, live, live < 0, 0.9
    )
    np.testing.assert_allclose(errors, 0.0, atol=1e-5)


def test_targets_are_the_recursion_of_each_episode():
    """A terminal bootstraps from 0, a cut from the last step's best legal action."""
    keys = jax.random.split(KEY, 3)
    q = jax.random.normal(keys[0], (7, 2, 3))
    # Where it is bootstrapped from, what is not legal would be best.
    q = q.at[4, :, 0].add(9.0).at[6, :, 2].add(9.0)
    c = jax.random.uniform(keys[1], (6, 2))
    action = jax.random.randint(keys[2], (6,), 0, 2)
    legal = jnp.ones((7, 3), bool).at[4, 0].set(False).at[6, 2].set(False)
    # Arriving at 2 is terminal, 3 is the first of another; 5 is first after a cut at 4.
    continues = jnp.array([1.0, 0.0, 1.0, 1.0, 1.0, 1.0])
    first = jnp.array([False, False, True, False, True, False])
    found = control.control_errors(q, action, legal, c, continues, first, 0.9)
    q, c = np.asarray(q, np.float64), np.asarray(c, np.float64)
    best = q.max(-1)
    best[4], best[6] = q[4, :, 1:].max(-1), q[6, :, :2].max(-1)
    target = np.zeros((6, 2))
    target[1] = c[1]
    target[0] = c[0] + 0.9 * target[1]
    target[3] = c[3] + 0.9 * best[4]
    target[5] = c[5] + 0.9 * best[6]
    for t in (0, 1, 3, 5):
        np.testing.assert_allclose(
            found[t], target[t] - q[t, :, int(action[t])], rtol=1e-4, atol=1e-5
        )
    np.testing.assert_array_equal(found[np.array([2, 4])], 0.0)
    # And no gradient flows into the targets.
    slope = jax.grad(
        lambda q: jnp.sum(
            control.control_errors(q, action, legal, c, continues, first, 0.9)
        )
    )(jnp.asarray(q, jnp.float32))
    assert slope[6].sum() == 0 and slope[2].sum() == 0
