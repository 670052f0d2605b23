"""Distral's equations: golden values, its identities, and the two rooms solved exactly."""

import importlib.util
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mtrl_jax.losses import distral_equations as distral

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"
PRIOR = np.log(np.float32([0.7, 0.2, 0.1]))

soft_value = jax.jit(distral.soft_value)
log_policy_of = jax.jit(distral.log_policy)
regulariser = jax.jit(distral.regulariser)


def _log_softmax(x):
    return scipy.special.log_softmax(x, axis=-1)


def _normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _draw(seed=0, actions=5):
    """A prior's log-probabilities and values [4, A], with α and β."""
    prior, q = _normal(seed, 2, 4, actions)
    return _log_softmax(2 * prior), q, 0.3, 4.0


def test_golden_values():
    """π_0 = [.7, .2, .1], f = [0, 1, 0], α = .5, β = 1."""
    q = np.array([0.0, 1.0, 0.0])
    value = soft_value(q, PRIOR, 0.5, 1.0)
    np.testing.assert_allclose(value, 0.862274, atol=1e-6)
    policy = np.exp(log_policy_of(q, PRIOR, 0.5, 1.0))
    np.testing.assert_allclose(policy, [0.353239, 0.513250, 0.133512], atol=1e-6)


def test_the_best_policy_is_a_distribution_and_its_value_what_it_earns():
    """Σ_a π_0^α e^{β(q − V)} = 1, and V = E_π[q + (α/β) log π_0 − (1/β) log π]."""
    prior, q, alpha, beta = _draw()
    value = np.asarray(soft_value(q, prior, alpha, beta))
    by_definition = alpha * prior + beta * (q - value[:, None])
    np.testing.assert_allclose(np.exp(by_definition).sum(-1), 1.0, rtol=1e-5)
    log_policy = log_policy_of(q, prior, alpha, beta)
    np.testing.assert_allclose(log_policy, by_definition, rtol=1e-5, atol=1e-5)
    earned = np.sum(np.exp(log_policy) * q, -1)
    earned += np.asarray(regulariser(log_policy, prior, alpha, beta))
    np.testing.assert_allclose(earned, value, rtol=1e-5, atol=1e-6)


def test_a_soft_backup_brings_values_together():
    """|V(q) − V(q')| ≤ max |q − q'|, so γ times it is a contraction; equal for a shift."""
    prior, q, alpha, beta = _draw()
    for seed, scale in enumerate((0.1, 1.0, 30.0)):
        other = q + scale * _normal(seed, *q.shape)
        found = [np.asarray(soft_value(x, prior, alpha, beta)) for x in (q, other)]
        gap = np.max(np.abs(q - other), axis=-1)
        assert np.all(np.abs(found[0] - found[1]) <= gap * (1 + 1e-5))
    shifted = soft_value(q + 2.0, prior, alpha, beta)
    np.testing.assert_allclose(shifted, found[0] + 2.0, rtol=1e-5)


def test_two_columns_add_their_logits():
    """softmax(α h + β f), h unnormalised; f = 0 and α = 1 give π_0."""
    _, f, alpha, beta = _draw()
    h = _normal(9, *f.shape)
    got = log_policy_of(f, _log_softmax(h), alpha, beta)
    expected = _log_softmax(alpha * h + beta * f)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    same = log_policy_of(np.zeros_like(f), _log_softmax(h), 1.0, beta)
    np.testing.assert_allclose(same, _log_softmax(h), rtol=1e-5, atol=1e-6)


def test_the_shaped_reward_is_the_sample_of_the_regulariser():
    """Its mean over actions of π_i is r plus the regulariser; no gradient passes."""
    prior, q, alpha, beta = _draw()
    log_policy = np.asarray(log_policy_of(q, prior, alpha, beta))

    def shaped(log_policy):
        each = distral.shaped_reward(0.7, log_policy, prior, alpha, beta)
        return each.sum(), each

    both = jax.jit(jax.grad(shaped, has_aux=True))
    slope, each = map(np.asarray, both(log_policy))
    mean = np.sum(np.exp(log_policy) * each, -1)
    expected = 0.7 + np.asarray(regulariser(log_policy, prior, alpha, beta))
    np.testing.assert_allclose(mean, expected, rtol=1e-5)
    split = alpha / beta * (log_policy - prior) + (1 - alpha) / beta * log_policy
    np.testing.assert_allclose(each, 0.7 - split, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(slope, 0.0)


def test_the_ends_of_alpha():
    """α = 0: π_0 has no say and no gradient. α = 1 and π_0 = π_i: nothing is added."""
    prior, q, _, beta = _draw()
    other = np.roll(prior, 1, axis=-1)
    for function in (soft_value, log_policy_of):
        np.testing.assert_array_equal(
            function(q, prior, 0.0, beta), function(q, other, 0.0, beta)
        )
    policy = log_policy_of(q, prior, 0.0, beta)
    slope = jax.grad(lambda p: distral.regulariser(policy, p, 0.0, beta).sum())
    np.testing.assert_array_equal(jax.jit(slope)(prior), 0.0)
    np.testing.assert_allclose(regulariser(prior, prior, 1.0, beta), 0.0, atol=1e-6)
    hard = soft_value(q, prior, 0.0, 1e3)
    np.testing.assert_allclose(hard, q.max(-1), atol=2e-3)


def test_the_distilled_policy_rests_at_the_mean_of_the_tasks():
    """By π_0's logits the regulariser is stationary at mean_i π_i, and nowhere else."""
    tasks = _log_softmax(2 * _normal(3, 3, 5))

    @jax.jit
    @jax.grad
    def slope(h):
        prior = jnp.broadcast_to(jax.nn.log_softmax(h), tasks.shape)
        return -distral.regulariser(tasks, prior, 0.5, 2.0).mean()

    mean = np.log(np.exp(tasks).mean(0))
    np.testing.assert_allclose(slope(mean), 0.0, atol=1e-6)
    assert np.abs(slope(tasks[0])).max() > 1e-3


def test_an_action_that_cannot_be_chosen_leaves_no_nan():
    """Masked logits: values and gradients are finite."""
    masked = np.array([1.0, 0.0, -1e30])

    def value(h, f):
        prior = jax.nn.log_softmax(jnp.where(masked > -1, h, -1e30))
        q = jnp.where(masked > -1, f, -1e30)
        log_policy = distral.log_policy(q, prior, 0.5, 2.0)
        return distral.regulariser(log_policy, prior, 0.5, 2.0) + distral.soft_value(
            q, prior, 0.5, 2.0
        )

    value_and_slopes = jax.jit(jax.value_and_grad(value, argnums=(0, 1)))
    out = value_and_slopes(np.zeros(3), np.zeros(3))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(out))


def _two_rooms():
    name = "two_rooms"
    if name not in sys.modules:
        sys.path.insert(0, str(BENCHMARKS))
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
        sys.path.remove(str(BENCHMARKS))
    return sys.modules[name]


def test_two_rooms_are_solved_as_the_sheet_says():
    """β = 50, α = .5: what π_0 does in the corridor and the returns, within 0.03; the
    objective never falls."""
    rooms = _two_rooms()
    goals = rooms.draw_goals(rooms.make_rooms(), seed=0)
    plain, knowing = (rooms.solve(goals, 0.5, 50.0, memory) for memory in (False, True))
    row = rooms.row_of(plain, knowing, 50.0, 0.5)
    got = [row[name] for name in ("left", "right", "onward", "return")]
    np.testing.assert_allclose(
        [*got, row["return, memory"]], rooms.EXPECTED[50.0, 0.5], atol=0.03
    )
    for objective in (plain.objective, knowing.objective):
        # Float32 and sweeps that end at a limit: it falls by 6e-6 at most.
        assert np.all(np.diff(objective) > -2e-5) and objective[-1] > objective[0] + 0.1


@pytest.mark.parametrize("alpha", [pytest.param(0.0, marks=pytest.mark.slow), 0.5])
def test_relabelled_tasks_leave_the_distilled_policy(alpha):
    """π_0 does not know which task is which; each task keeps its own policy."""
    rooms = _two_rooms()
    goals = rooms.draw_goals(rooms.make_rooms(), seed=1)
    order = np.arange(len(goals))[::-1]
    one = rooms.solve(goals, alpha, 50.0, memory=False)
    other = rooms.solve(goals[order], alpha, 50.0, memory=False)
    np.testing.assert_allclose(one.prior, other.prior, atol=1e-3)
    np.testing.assert_allclose(one.policies[order], other.policies, atol=1e-3)
