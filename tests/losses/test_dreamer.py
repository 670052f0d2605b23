"""The terms of DreamerV2 against hand-sized numbers and what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.losses import dreamer, symlog

R = jnp.array([1.0, 0.0, 2.0])
V = jnp.array([1.0, 1.5, -0.5])  # v_1 … v_3


def test_lambda_returns_are_the_golden_ones():
    found = dreamer.lambda_returns(R, jnp.full(3, 0.9), V, 0.95)
    np.testing.assert_allclose(found, [2.235801, 1.392750, 1.55], 1e-6)


def test_lambda_0_looks_one_step_ahead():
    found = dreamer.lambda_returns(R, jnp.full(3, 0.9), V, 0.0)
    np.testing.assert_allclose(found, R + 0.9 * V, 1e-6)


def test_lambda_1_sums_up_and_bootstraps_at_the_end():
    found = dreamer.lambda_returns(R, jnp.full(3, 0.9), V, 1.0)
    last = 2.0 + 0.9 * -0.5
    np.testing.assert_allclose(found, [1 + 0.81 * last, 0.9 * last, last], 1e-6)


def test_discount_0_leaves_the_reward():
    found = dreamer.lambda_returns(R, jnp.zeros(3), V, 0.95)
    np.testing.assert_array_equal(found, R)


def test_weights_fall_and_are_0_after_an_end():
    discount = jnp.array([0.9, 0.5, 0.0, 1.0, 0.9])
    found = np.asarray(dreamer.discount_weights(discount))
    np.testing.assert_allclose(found, [1, 0.9, 0.45, 0, 0], 1e-6)
    assert (np.diff(found) <= 0).all()


def imagined(steps=4):
    """Predictions of H = ``steps`` at two trajectories."""
    keys = jax.random.split(jax.random.key(0), 3)
    reward, value = (jax.random.normal(k, (steps + 1, 2)) for k in keys[:2])
    return dreamer.Imagined(reward, jax.random.uniform(keys[2], (steps + 1, 2)), value)


def test_an_action_is_judged_by_the_target_of_the_state_it_leads_to():
    """Index by index in plain Python: target k + 1, baseline k, weight k."""
    x = imagined()
    found = dreamer.behaviour(x, 0.7)
    reward, discount, value = (np.asarray(leaf) for leaf in x)
    later, target = value[4], {}
    for k in (3, 2, 1, 0):
        later = reward[k] + discount[k] * (0.3 * value[k + 1] + 0.7 * later)
        target[k] = later
    assert found.target.shape == found.weight.shape == (4, 2)
    assert found.advantage.shape == (3, 2)
    weight = np.ones(2)
    for k in range(4):
        np.testing.assert_allclose(found.target[k], target[k], 1e-5)
        np.testing.assert_allclose(found.weight[k], weight, 1e-5)
        weight = weight * discount[k]
        if k < 3:
            np.testing.assert_allclose(
                found.advantage[k], target[k + 1] - value[k], 1e-4, 1e-6
            )


def test_the_actor_loss_is_the_sum_of_its_three_terms():
    found = dreamer.behaviour(imagined(), 0.95)
    log_p, entropy = -jnp.ones((3, 2)), 2.0 * jnp.ones((3, 2))
    live = jnp.ones(2)

    def loss(rho, eta):
        return dreamer.actor_loss(
            log_p, entropy, found, live, reinforce=rho, entropy_cost=eta
        )

    w = found.weight[:-1]
    np.testing.assert_allclose(loss(1.0, 0.0), jnp.mean(w * found.advantage), 1e-5)
    np.testing.assert_allclose(loss(0.0, 0.0), -jnp.mean(w * found.target[1:]), 1e-5)
    np.testing.assert_allclose(loss(1.0, 0.5) - loss(1.0, 0.0), -jnp.mean(w), 1e-4)


def test_reinforce_does_nothing_where_the_target_is_the_baseline():
    """No gradient at all of log π: the advantage is 0 and is not differentiated."""
    found = dreamer.behaviour(imagined(), 0.95)
    found = found._replace(advantage=jnp.zeros((3, 2)))

    def loss(log_p):
        return dreamer.actor_loss(
            log_p, 0 * log_p, found, jnp.ones(2), reinforce=1.0, entropy_cost=0.0
        )

    assert not np.asarray(jax.grad(loss)(jnp.ones((3, 2)))).any()


def test_trajectories_that_are_not_live_count_in_no_loss():
    found = dreamer.behaviour(imagined(), 0.95)
    one = jax.tree.map(lambda x: x[:, :1], found)
    live = jnp.array([1.0, 0.0])
    error = jnp.arange(8.0).reshape(4, 2)
    np.testing.assert_allclose(
        dreamer.critic_loss(error, found, live),
        dreamer.critic_loss(error[:, :1], one, jnp.ones(1)),
        1e-6,
    )
    target = jnp.array([[0.0, 50.0], [10.0, -50.0]])
    np.testing.assert_allclose(dreamer.return_range(target, live), 9.0, 1e-5)
    assert dreamer.return_range(target, jnp.zeros(2)) == 0.0


@pytest.mark.parametrize("free_each", [False, True])
def test_balancing_splits_the_gradient_and_keeps_the_value(free_each):
    """0.8 to the prior's side, 0.2 to the posterior's; free nats stop both."""
    kl, live = jnp.array([[0.5, 3.0]]), jnp.ones((1, 2))

    def loss(to_prior, to_posterior, free):
        return dreamer.balanced_kl(
            to_prior, to_posterior, 0.8, free, live, free_each=free_each
        )

    np.testing.assert_allclose(loss(kl, kl, 0.0), 1.75, 1e-6)
    prior, posterior = jax.grad(loss, (0, 1))(kl, kl, 0.0)
    np.testing.assert_allclose(prior, jnp.full((1, 2), 0.4), 1e-6)
    np.testing.assert_allclose(posterior, jnp.full((1, 2), 0.1), 1e-6)
    # One nat is free: of the mean 1.75, or of each step.
    assert loss(kl, kl, 1.0) == pytest.approx(2.0 if free_each else 1.75)
    under = jax.grad(loss)(kl, kl, 1.0)
    assert (np.asarray(under) > 0).tolist() == [[not free_each, True]]


def test_gradients_pass_in_part():
    for share in (0.0, 0.25, 1.0):
        value, slope = jax.value_and_grad(dreamer.gradient_share)(3.0, share)
        assert value == 3.0 and slope == pytest.approx(share)


def test_the_discount_is_a_soft_label():
    """The likelihood is best at the mean γ, not at 1; and finite at any logit."""
    logit = jnp.log(0.99 / 0.01)
    slope = jax.grad(dreamer.bernoulli_error)(logit, 0.99)
    assert abs(slope) < 1e-6
    assert np.isfinite(dreamer.bernoulli_error(jnp.array(1e4), 0.0))


@pytest.mark.parametrize("x", [0.0, 0.3, -7.0, 1e4, -1e6])
def test_two_hot_targets_say_the_number(x):
    """The mean of the target in symlog is symlog(x); two neighbours, sum 1."""
    p = symlog.two_hot(jnp.array(x))
    bins = np.linspace(-20, 20, 255)
    assert (np.asarray(p) > 0).sum() <= 2 and p.sum() == pytest.approx(1.0, abs=1e-4)
    np.testing.assert_allclose(
        (np.asarray(p) * bins).sum(), symlog.symlog(x), 1e-3, 1e-4
    )
    np.testing.assert_allclose(symlog.symexp(symlog.symlog(jnp.array(x))), x, 1e-4)
    assert symlog.mean(jnp.log(p + 1e-12)) == pytest.approx(x, rel=2e-3, abs=1e-4)


def test_equal_logits_are_exactly_0():
    assert symlog.mean(jnp.zeros((2, symlog.BINS))).tolist() == [0.0, 0.0]
