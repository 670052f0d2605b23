"""Targets of action values: hand-sized numbers, float64 loops, and invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.losses import value_learning

Z = value_learning.support(-10.0, 10.0, 51)


@pytest.mark.parametrize(
    ("first", "discount", "expected"),
    [
        # r1 + γ r2 + γ² r3, γ³.
        ([0, 0, 0], [1, 1, 1], (1 + 1 + 1, 0.125, 3)),
        # Terminal at step 2, then a reset: nothing is added beyond.
        ([0, 0, 1], [1, 0, 1], (1 + 1, 0.0, 2)),
        # Truncated at step 2: bootstrapped from there.
        ([0, 0, 1], [1, 1, 1], (1 + 1, 0.25, 2)),
        ([0, 1, 0], [1, 1, 1], (1, 0.5, 1)),
        ([0, 1, 1], [0, 1, 1], (1, 0.0, 1)),
        # A transition into a reset is none.
        ([1, 0, 0], [1, 1, 1], (0, 1.0, 0)),
    ],
)
def test_n_step_returns_end_with_the_episode(first, discount, expected):
    """γ = ½ and rewards 1, 2, 4: each term is 1."""
    made = value_learning.n_step(
        jnp.array([1.0, 2.0, 4.0]),
        jnp.array(discount, jnp.float32),
        jnp.array(first, bool),
        0.5,
    )
    np.testing.assert_allclose(made, expected)


def test_n_step_of_random_streams_is_the_loop():
    rng = np.random.default_rng(0)
    for _ in range(50):
        n = 5
        first = np.r_[False, rng.random(n - 1) < 0.3]
        discount = (rng.random(n) < 0.8).astype(np.float32)
        reward = rng.normal(size=n).astype(np.float32)
        total, factor, steps = 0.0, 1.0, 0
        for r, d, is_first in zip(reward, discount, first):
            if is_first:
                break
            total += factor * r
            factor *= 0.9 * d
            steps += 1
        made = value_learning.n_step(*map(jnp.asarray, (reward, discount, first)), 0.9)
        np.testing.assert_allclose(made, (total, factor, steps), rtol=1e-5, atol=1e-6)


def test_the_gradient_of_an_error_is_clipped_per_sample():
    """To [−1, 1] if it is Huber's, and none of it flows into the target."""

    def gradients(loss, q):
        def of_error(q, v):
            one = jnp.ones(())
            return loss(value_learning.td_error(q, one, 0.5 * one, v))

        return jax.grad(of_error, (0, 1))(jnp.float32(q), jnp.float32(2.0))

    for q, clipped, whole in ((5.0, 1.0, 3.0), (-9.0, -1.0, -11.0), (2.25, 0.25, 0.25)):
        for loss, by_q in (
            (value_learning.huber, clipped),
            (value_learning.squared, whole),
        ):
            found = gradients(loss, q)
            np.testing.assert_allclose(found, (by_q, 0.0), rtol=1e-6)


def test_the_best_action_is_legal():
    q = jnp.array([[3.0, 9.0, 3.0], [-1e9, 0.0, -1e9]])
    legal = jnp.array([[True, False, True], [True, False, False]])
    np.testing.assert_array_equal(value_learning.best(q, legal), [0, 0])


def test_a_projection_keeps_mass_and_mean():
    """Where the support is not exceeded; beyond, all mass is at its end."""
    p = jax.nn.softmax(jax.random.normal(jax.random.key(0), (51,)) * 2)
    logits, same = jnp.log(p), jnp.zeros(51)

    def projected(r, discount):
        gradient = jax.grad(
            lambda x: value_learning.categorical_td(x, r, discount, logits, Z)[0]
        )(same)
        return 1 / 51 - gradient

    for r, discount in ((1.0, 0.5), (0.123, 0.7), (-2.0, 0.0)):
        target = projected(r, discount)
        np.testing.assert_allclose(target.sum(), 1, rtol=1e-5)
        np.testing.assert_allclose(
            target @ Z, r + discount * (p @ Z), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_allclose(projected(99.0, 1.0)[-1], 1, rtol=1e-5)
    # r = 0.1 of atoms 0.4 apart: three quarters at 0, one at 0.4.
    np.testing.assert_allclose(projected(0.1, 0.0)[25:27], [0.75, 0.25], atol=1e-5)


def test_a_categorical_error_is_a_divergence():
    """0 where nothing is to be learned; else cross-entropy less the target's entropy."""
    logits = jax.random.normal(jax.random.key(1), (51,))
    loss, kl = value_learning.categorical_td(logits, 0.0, 1.0, logits, Z)
    p = jax.nn.softmax(logits)
    np.testing.assert_allclose(kl, 0, atol=1e-5)
    np.testing.assert_allclose(loss, -jnp.sum(p * jnp.log(p)), rtol=1e-5)
    assert value_learning.categorical_td(jnp.zeros(51), 0.0, 1.0, logits, Z)[1] > 0.1
    # None of it flows into the target.
    both = jax.grad(lambda *x: sum(value_learning.categorical_td(*x)), 3)
    slope = jax.jit(both)(jnp.zeros(51), 0.0, 1.0, logits, Z)
    np.testing.assert_array_equal(slope, 0.0)


def test_quantiles_settle_at_the_quantiles():
    """Gradient descent on {0, 1, 2, 9} ends near the targets' own sorted values."""
    target = jnp.array([9.0, 0.0, 2.0, 1.0])
    loss = lambda x: value_learning.quantile_td(x, 0.0, 1.0, target)  # noqa: E731
    step = jax.jit(lambda x: x - 0.02 * jax.grad(loss)(x))
    x = jnp.array([0.1, 0.2, 0.3, 0.4])
    for _ in range(4000):
        x = step(x)
    # Huber draws them inwards by less than 1.
    np.testing.assert_allclose(x, [0, 1, 2, 9], atol=0.8)
    assert (jnp.diff(x) > 0.3).all()


def test_a_quantile_loss_is_its_sum_over_pairs():
    """Σ_i mean_j |τ_i − 1{u < 0}| H(u), H Huber's; none of it flows into the target."""
    theta, after = np.float32([0.1, 2.0, -1.0]), np.float32([3.0, 0.2, -0.5])
    loss = jax.value_and_grad(value_learning.quantile_td, (0, 3))
    found, (_, by_after) = jax.jit(loss)(theta, 0.5, 0.9, after)
    u = 0.5 + 0.9 * np.float64(after)[None] - np.float64(theta)[:, None]
    assert (np.abs(u) > 1).any() and (np.abs(u) < 1).any()
    huber = np.where(np.abs(u) < 1, 0.5 * u**2, np.abs(u) - 0.5)
    weight = np.abs(np.array([[1 / 6], [1 / 2], [5 / 6]]) - (u < 0))
    np.testing.assert_allclose(found, (weight * huber).mean(1).sum(), rtol=1e-6)
    np.testing.assert_array_equal(by_after, 0.0)


def test_priorities_are_powers_of_errors():
    made = value_learning.priority(jnp.array([-4.0, 0.0, 9.0]), 0.5)
    np.testing.assert_allclose(made, [2.0, 1e-3, 3.0], rtol=1e-5)
    np.testing.assert_allclose(value_learning.priority(jnp.array([0.3]), 0.0), 1.0)
