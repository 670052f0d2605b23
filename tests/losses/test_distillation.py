"""Distillation losses: section 7 of Rusu et al.'s invariants, and golden numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.losses import distillation

Q = jnp.array([1.00, 1.01, 0.99, 0.50])
S = jnp.array([0.3, -1.2, 2.0, 0.1])
ALL = jnp.ones(4, bool)


@pytest.mark.parametrize(
    ("tau", "expected"),
    [
        (1.0, [0.277, 0.280, 0.275, 0.168]),
        (0.1, [0.331, 0.366, 0.300, 0.002]),
        (0.01, [0.245, 0.665, 0.090, 0.000]),
    ],
)
def test_the_gradient_is_the_difference_of_the_policies(tau, expected):
    """softmax(logits) − softmax(q / τ), the teacher's part at golden values."""
    gradient = jax.grad(distillation.kl, 1)(Q, S, ALL, tau)
    np.testing.assert_allclose(jax.nn.softmax(S) - gradient, expected, atol=6e-4)
    np.testing.assert_allclose(gradient.sum(), 0, atol=1e-6)


def test_kl_is_zero_only_for_the_teachers_policy():
    for tau in (1.0, 0.01):
        np.testing.assert_allclose(distillation.kl(Q, Q / tau, ALL, tau), 0, atol=1e-5)
        assert distillation.kl(Q, S, ALL, tau) > 0.1
    pairs = jax.random.normal(jax.random.key(0), (2, 64, 4))
    some = jax.vmap(lambda q, s: distillation.kl(q, s, ALL, 0.1))(*pairs)
    assert (some > -1e-6).all() and some.max() > 1
    # The student is not divided by τ: only at 1 are the teacher's values a solution.
    np.testing.assert_allclose(distillation.kl(Q, Q, ALL, 1.0), 0, atol=1e-6)
    assert distillation.kl(Q, Q, ALL, 0.01) > 0.1


def test_kl_and_nll_do_not_see_a_constant_and_mse_does():
    for shift_q, shift_s in ((7.0, 0.0), (0.0, -3.0)):
        q, s = Q + shift_q, S + shift_s
        for tau in (1.0, 0.1):
            np.testing.assert_allclose(
                distillation.kl(q, s, ALL, tau),
                distillation.kl(Q, S, ALL, tau),
                rtol=1e-4,
            )
        np.testing.assert_allclose(
            distillation.nll(q, s, ALL), distillation.nll(Q, S, ALL), rtol=1e-5
        )
        assert abs(distillation.mse(q, s, ALL) - distillation.mse(Q, S, ALL)) > 1


def test_kl_becomes_nll_as_tau_falls():
    """Gradients at τ = 1e-6, to 1e-6."""
    sharp = jax.grad(distillation.kl, 1)(Q, S, ALL, 1e-6)
    np.testing.assert_allclose(
        sharp, jax.grad(distillation.nll, 1)(Q, S, ALL), atol=1e-6
    )


@pytest.mark.parametrize("scale", [1e4, -1e4])
@pytest.mark.parametrize("tau", [1e-3, 1.0])
def test_losses_and_gradients_are_finite_at_large_values(scale, tau):
    for name in distillation.LOSSES:
        for q, s in ((scale * Q, S), (Q, scale * S), (scale * Q, -scale * S)):
            value, gradient = jax.value_and_grad(
                lambda s, name=name, q=q: distillation.loss(name, q, s, ALL, tau)
            )(s)
            assert np.isfinite(value) and np.isfinite(gradient).all(), name


@pytest.mark.parametrize("name", distillation.LOSSES)
def test_order_of_actions_does_not_matter_and_illegal_ones_do_not_count(name):
    order = jnp.array([2, 0, 3, 1])
    both = [
        distillation.loss(name, x(Q), x(S), ALL, 0.1)
        for x in (lambda x: x, lambda x: x[order])
    ]
    np.testing.assert_allclose(*both, rtol=1e-5)
    # Of another game's actions neither values nor gradients.
    legal = jnp.array([True, True, True, False])
    for bad in (1e9, -1e9):
        q, s = Q.at[3].set(bad), S.at[3].set(-bad)
        value, gradient = jax.value_and_grad(
            lambda s, q=q: distillation.loss(name, q, s, legal, 0.1)
        )(s)
        expected = distillation.loss(name, Q[:3], S[:3], ALL[:3], 0.1)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        assert gradient[3] == 0
    # Where a game has none of them: a group of choices that is not its own.
    nothing = jax.value_and_grad(
        lambda s: distillation.loss(name, Q, s, jnp.zeros(4, bool), 0.1)
    )(S)
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), nothing)


def test_nothing_is_asked_of_the_teacher():
    """No gradient flows into its values or features."""
    for name in ("kl", "nll"):
        gradient = jax.grad(lambda q, n=name: distillation.loss(n, q, S, ALL, 0.1))(Q)
        np.testing.assert_array_equal(gradient, 0)
    teacher = jax.grad(distillation.feature_regression, 1)(S, Q)
    np.testing.assert_array_equal(teacher, 0)
    np.testing.assert_allclose(
        distillation.feature_regression(S, Q), np.sum((S - Q) ** 2), rtol=1e-6
    )


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="loss: 'ce' is not known"):
        distillation.loss("ce", Q, S, ALL, 1.0)
