"""The terms of DreamerV2 against hand-sized numbers and what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.losses import dreamer, symlog

R = np.float32([1.0, 0.0, 2.0])
V = np.float32([1.0, 1.5, -0.5])  # v_1 … v_3

lambda_returns = jax.jit(dreamer.lambda_returns)
behaviour = jax.jit(dreamer.behaviour)


def test_lambda_returns_are_the_golden_ones():
    found = lambda_returns(R, np.full(3, 0.9), V, 0.95)
    np.testing.assert_allclose(found, [2.235801, 1.392750, 1.55], 1e-6)


def test_lambda_0_looks_one_step_ahead():
    found = lambda_returns(R, np.full(3, 0.9), V, 0.0)
    np.testing.assert_allclose(found, R + 0.9 * V, 1e-6)


def test_lambda_1_sums_up_and_bootstraps_at_the_end():
    found = lambda_returns(R, np.full(3, 0.9), V, 1.0)
    last = 2.0 + 0.9 * -0.5
    np.testing.assert_allclose(found, [1 + 0.81 * last, 0.9 * last, last], 1e-6)


def test_discount_0_leaves_the_reward():
    found = lambda_returns(R, np.zeros(3), V, 0.95)
    np.testing.assert_array_equal(found, R)


def test_weights_fall_and_are_0_after_an_end():
    discount = np.array([0.9, 0.5, 0.0, 1.0, 0.9])
    found = np.asarray(jax.jit(dreamer.discount_weights)(discount))
    np.testing.assert_allclose(found, [1, 0.9, 0.45, 0, 0], 1e-6)
    assert (np.diff(found) <= 0).all()


def imagined(steps=4):
    """Predictions of H = ``steps`` at two trajectories."""
    rng, shape = np.random.default_rng(0), (steps + 1, 2)
    drawn = rng.normal(size=shape), rng.random(shape), rng.normal(size=shape)
    return dreamer.Imagined(*np.float32(drawn))


def test_an_action_is_judged_by_the_target_of_the_state_it_leads_to():
    """Index by index in plain Python: target k + 1, baseline k, weight k."""
    x = imagined()
    found = jax.tree.map(np.asarray, behaviour(x, 0.7))
    reward, discount, value = x
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


def test_gradients_pass_through_targets_alone():
    """Weights and advantages are data: dynamics teach the actor through V, once."""

    def parts(x):
        return jax.tree.map(jnp.sum, dreamer.behaviour(x, 0.7)._asdict())

    slopes = jax.device_get(jax.jit(jax.jacrev(parts))(imagined()))
    for name, slope in slopes.items():
        moves = [bool(np.any(x)) for x in slope]
        assert moves == [name == "target"] * 3, name


def test_the_actor_loss_is_the_sum_of_its_three_terms():
    found = jax.tree.map(np.asarray, behaviour(imagined(), 0.95))
    log_p, entropy = -np.ones((3, 2)), 2.0 * np.ones((3, 2))

    @jax.jit
    def loss(rho, eta):
        return dreamer.actor_loss(
            log_p, entropy, found, reinforce=rho, entropy_cost=eta
        )

    w = found.weight[:-1]
    np.testing.assert_allclose(loss(1.0, 0.0), np.mean(w * found.advantage), 1e-5)
    np.testing.assert_allclose(loss(0.0, 0.0), -np.mean(w * found.target[1:]), 1e-5)
    bonus = np.subtract(loss(1.0, 0.5), loss(1.0, 0.0))
    np.testing.assert_allclose(bonus, -np.mean(w), 1e-4)


def test_reinforce_does_nothing_where_the_target_is_the_baseline():
    """No gradient at all of log π: the advantage is 0 and is not differentiated."""
    found = behaviour(imagined(), 0.95)._replace(advantage=np.zeros((3, 2)))

    def loss(log_p):
        return dreamer.actor_loss(
            log_p, 0 * log_p, found, reinforce=1.0, entropy_cost=0.0
        )

    assert not np.asarray(jax.jit(jax.grad(loss))(np.ones((3, 2)))).any()


def test_the_range_of_returns_is_between_two_percentiles():
    target = np.float32(np.random.default_rng(0).permutation(41)).reshape(1, 41)
    found = jax.jit(dreamer.return_range)
    assert float(found(target, np.ones(41, bool))) == pytest.approx(38.0 - 2.0)
    both = np.concatenate([target, 100.0 * target], axis=1)
    mine = np.arange(82) < 41
    assert float(found(both, mine)) == pytest.approx(36.0)
    assert float(found(both, ~mine)) == pytest.approx(3600.0)
    assert np.isnan(found(both, mine & ~mine))


@pytest.mark.parametrize("free_each", [False, True])
def test_balancing_splits_the_gradient_and_keeps_the_value(free_each):
    """α to the prior's side, 1 − α to the posterior's; free nats stop both."""
    kl = np.array([[0.5, 3.0]])

    @jax.jit
    def loss(to_prior, to_posterior, balance, free):
        return dreamer.balanced_kl(
            to_prior, to_posterior, balance, free, free_each=free_each
        )

    slopes = jax.jit(jax.grad(loss, (0, 1)))
    for balance in (0.8, 0.5):
        np.testing.assert_allclose(loss(kl, kl, balance, 0.0), 1.75, 1e-6)
        prior, posterior = slopes(kl, kl, balance, 0.0)
        np.testing.assert_allclose(prior, np.full((1, 2), balance / 2), 1e-6)
        np.testing.assert_allclose(posterior, np.full((1, 2), (1 - balance) / 2), 1e-6)
    # One nat is free: of the mean 1.75, or of each step.
    assert float(loss(kl, kl, 0.8, 1.0)) == pytest.approx(2.0 if free_each else 1.75)
    under, _ = slopes(kl, kl, 0.8, 1.0)
    assert (np.asarray(under) > 0).tolist() == [[not free_each, True]]


def test_gradients_pass_in_part():
    value_and_slope = jax.jit(jax.value_and_grad(dreamer.gradient_share))
    for share in (0.0, 0.25, 1.0):
        value, slope = map(float, value_and_slope(3.0, share))
        assert value == 3.0 and slope == pytest.approx(share)


def test_the_discount_is_a_soft_label():
    """The likelihood is best at the mean γ, not at 1; and finite at any logit."""
    error = jax.jit(jax.value_and_grad(dreamer.bernoulli_error))
    _, slope = error(np.log(0.99 / 0.01), 0.99)
    assert abs(float(slope)) < 1e-6
    assert np.isfinite(error(np.float64(1e4), 0.0)[0])


@pytest.mark.parametrize("x", [0.0, 0.3, 1.0])
def test_a_bernoullis_error_is_its_two_logarithms(x):
    """And its gradient p − x, at logits of any size."""
    logit = np.array([-90.0, -20.0, -1.5, -1e-4, 0.0, 1e-4, 2.0, 20.0, 90.0])
    log_p, log_q = -np.logaddexp(0.0, -logit), -np.logaddexp(0.0, logit)
    each = jax.jit(jax.vmap(jax.value_and_grad(dreamer.bernoulli_error), (0, None)))
    found, slope = each(logit.astype(np.float32), np.float32(x))
    np.testing.assert_allclose(found, -(x * log_p + (1 - x) * log_q), 1e-6, 1e-9)
    np.testing.assert_allclose(slope, np.exp(log_p) - x, 1e-5, 1e-7)


@jax.jit
def _two_hot(x):
    """Returns the target of x, symlog(x), and the target's mean."""
    p = symlog.two_hot(x)
    return p, symlog.symlog(x), symlog.mean(jnp.log(p))


@pytest.mark.parametrize("x", [0.0, 0.3, -7.0, 1e4, -1e6])
def test_two_hot_targets_say_the_number(x):
    """The mean of the target is x; two neighbours, sum 1."""
    p, small, mean = map(np.asarray, _two_hot(x))
    grid = np.linspace(-20, 20, 255)
    bins = np.sign(grid) * np.expm1(np.abs(grid))
    assert (p > 0).sum() <= 2 and p.sum() == pytest.approx(1.0, abs=1e-6)
    assert np.ptp(np.nonzero(p)[0]) <= 1
    np.testing.assert_allclose((p * bins).sum(), x, 1e-5, 1e-6)
    np.testing.assert_allclose(small, np.sign(x) * np.log1p(np.abs(x)), 1e-6)
    assert mean == pytest.approx(x, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("size", [1.0, 10.0, 1000.0])
def test_a_mixture_of_two_hot_targets_has_the_mixtures_mean(size, share):
    """What chance pays now and then is worth that share of it, however large it is."""
    mixed = (1 - share) * _two_hot(0.0)[0] + share * _two_hot(size)[0]
    found = jax.jit(symlog.mean)(jnp.log(mixed))
    assert found == pytest.approx(share * size, rel=1e-5)


@pytest.mark.parametrize(("x", "place"), [(1e12, 254), (-1e12, 0)])
def test_a_number_beyond_the_bins_is_the_last_of_them(x, place):
    """The whole probability is on it."""
    np.testing.assert_array_equal(_two_hot(x)[0], np.eye(255)[place])


def test_nothing_flows_into_the_number_that_is_learned():
    slope = jax.jit(jax.grad(symlog.cross_entropy, argnums=1))
    assert slope(np.arange(255.0), 1.3) == 0.0


def test_equal_logits_are_exactly_0():
    mean = jax.jit(symlog.mean)
    assert mean(np.zeros((2, symlog.BINS))).tolist() == [0.0, 0.0]
