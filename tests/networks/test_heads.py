"""Policies: oracles from scipy, masks, temperature, finite gradients."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mtrl_jax import types
from mtrl_jax.networks import heads

N = 4000  # policies in a batch
DISCRETE = types.Discrete(5)
FACTORISED = types.Factorised((3, 2, 4))
BOX = types.Box((-2.0, 0.0, -1.0), (2.0, 1.0, 5.0))
SPACES = [DISCRETE, FACTORISED, BOX]
CENTRE, HALF = np.array([0.0, 0.5, 2.0]), np.array([2.0, 0.5, 3.0])


class Results(NamedTuple):
    """What a policy says, and the gradient of the sum of all of it."""

    action: jax.Array
    log_prob: jax.Array
    log_prob_again: jax.Array
    entropy: jax.Array
    kl: jax.Array
    mode: jax.Array
    grads: jax.Array


encode = jax.jit(heads.encode, static_argnums=0)


def _run(space, params, others, mask, temperature=1.0, action=None):
    """Returns the Results of ``N`` policies."""
    return jax.device_get(_compiled(space, params, others, mask, temperature, action))


@functools.partial(jax.jit, static_argnums=0)
def _compiled(space, params, others, mask, temperature, action):
    """Everything about ``N`` policies in one program: eager distrax compiles each op."""

    def total(params):
        dist = heads.policy(space, params, mask, temperature)
        other = heads.policy(space, others, mask, temperature)
        sampled, log_prob = dist.sample_and_log_prob(jax.random.key(9))
        sampled = sampled if action is None else action
        again = dist.log_prob(jax.lax.stop_gradient(sampled))
        entropy, kl, mode = dist.entropy(), dist.kl(other), dist.mode()
        loss = jnp.sum(again + entropy + kl)
        return loss, Results(sampled, log_prob, again, entropy, kl, mode, ())

    grads, results = jax.grad(total, has_aux=True)(params)
    return results._replace(grads=grads)


def _params(space, seed=0):
    shape = (N, heads.policy_params_size(space))
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _all_legal(space):
    return np.ones((N, types.action_mask_size(space)), bool)


def _some_illegal(space):
    """Forbids entries 0 and 4: in FACTORISED a choice of groups 0 and 1."""
    mask = _all_legal(space)
    mask[:, [0, 4 % types.action_mask_size(space)]] = False
    return mask


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _groups(space, x):
    sizes = (space.n,) if isinstance(space, types.Discrete) else space.sizes
    return np.split(np.asarray(x, np.float64), np.cumsum(sizes)[:-1], axis=-1)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("space", [DISCRETE, FACTORISED])
def test_categorical_policies_equal_scipy(space, temperature):
    """log_prob, entropy and KL are the sums over groups of scipy's."""
    params, others = _params(space), _params(space, seed=1)
    got = _run(space, params, others, _all_legal(space), temperature)
    p, q = (
        [_softmax(g / temperature) for g in _groups(space, x)] for x in (params, others)
    )
    entropy = sum(scipy.stats.entropy(g, axis=-1) for g in p)
    kl = sum(scipy.stats.entropy(g, h, axis=-1) for g, h in zip(p, q))
    np.testing.assert_allclose(got.entropy, entropy, rtol=1e-4)
    np.testing.assert_allclose(got.kl, kl, rtol=1e-3, atol=1e-5)
    columns, best = (np.asarray(x).reshape(N, -1) for x in (got.action, got.mode))
    log_prob = sum(np.log(g[np.arange(N), columns[:, i]]) for i, g in enumerate(p))
    np.testing.assert_allclose(got.log_prob, log_prob, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.log_prob_again, log_prob, rtol=1e-4, atol=1e-5)
    for i, g in enumerate(p):
        np.testing.assert_array_equal(best[:, i], g.argmax(-1))


def test_box_policy_equals_scipy_in_env_units():
    """Mean and std are scaled by midpoint and half range; densities are scipy's."""
    params, others = _params(BOX), _params(BOX, seed=1)
    got = _run(BOX, params, others, _all_legal(BOX), 0.7)
    mean, log_std = np.split(np.asarray(params, np.float64), 2, -1)
    normal = scipy.stats.norm(CENTRE + HALF * mean, HALF * np.exp(log_std) * 0.7)
    log_prob = normal.logpdf(got.action).sum(-1)
    np.testing.assert_allclose(got.log_prob, log_prob, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(got.log_prob_again, log_prob, rtol=1e-3, atol=1e-3)
    entropy = normal.entropy().sum(-1)
    np.testing.assert_allclose(got.entropy, entropy, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(got.mode, normal.mean(), rtol=1e-4, atol=1e-5)

    mean2, log_std2 = np.split(np.asarray(others, np.float64), 2, -1)
    s1, s2 = (HALF * np.exp(s) * 0.7 for s in (log_std, log_std2))
    kl = np.log(s2 / s1) + (s1**2 + (HALF * (mean - mean2)) ** 2) / (2 * s2**2) - 0.5
    np.testing.assert_allclose(got.kl, kl.sum(-1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("space", SPACES)
def test_samples_follow_the_policy(space):
    """Monte Carlo: the mean of -log_prob over samples of one policy is its entropy."""
    params = np.broadcast_to(_params(space)[:1], _params(space).shape)
    got = _run(space, params, params, _some_illegal(space))
    struct = types.action_shape(space)
    assert got.action.shape == (N, *struct.shape) and got.action.dtype == struct.dtype
    spread = np.std(got.log_prob) / N**0.5
    assert abs(np.mean(-got.log_prob) - got.entropy[0]) < 5 * spread
    np.testing.assert_allclose(got.kl, 0.0, atol=1e-6)


@pytest.mark.parametrize("space", [DISCRETE, FACTORISED])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_illegal_choices_are_never_made(space, temperature):
    """Neither sample nor mode picks a masked choice, even with the best logit."""
    mask = _some_illegal(space)
    params = np.where(mask, _params(space), np.float32(50.0))
    got = _run(space, params, params, mask, temperature)
    for action in (got.action, got.mode):
        assert not np.any((np.asarray(encode(space, action)) > 0) & ~mask)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gradients_are_finite_under_masks(space, scale):
    """log_prob, entropy and KL have finite values and gradients; masked ones get 0."""
    mask = _some_illegal(space)
    scale = 1.0 if isinstance(space, types.Box) else scale
    got = _run(space, scale * _params(space), scale * _params(space, seed=1), mask)
    for x in got:
        assert np.all(np.isfinite(x))
    dead = ~mask
    if isinstance(space, types.Box):
        dead = np.concatenate([dead, dead], axis=-1)
    np.testing.assert_array_equal(got.grads[dead], 0.0)
    assert np.any(got.grads != 0)


def test_a_masked_policy_is_the_policy_over_what_is_left():
    """Masking removes a choice and renormalises; a KL between two such is finite."""
    mask = _all_legal(DISCRETE)
    mask[:, 1::2] = False
    params, others = _params(DISCRETE), _params(DISCRETE, seed=1)
    got = _run(DISCRETE, params, others, mask)
    small = types.Discrete(3)
    left = _run(
        small, params[:, ::2], others[:, ::2], _all_legal(small), 1.0, got.action // 2
    )
    for name in ("entropy", "kl", "log_prob_again"):
        np.testing.assert_allclose(
            getattr(got, name), getattr(left, name), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("only", [(), (3,)])
def test_a_padded_group_adds_nothing(only):
    """A group with choice 0 alone, or none at all, is choice 0 with entropy 0."""
    mask = _all_legal(FACTORISED)
    mask[:, 3:5] = False
    mask[:, list(only)] = True
    params, others = _params(FACTORISED), _params(FACTORISED, seed=1)
    got = _run(FACTORISED, params, others, mask)
    np.testing.assert_array_equal(got.action[:, 1], 0)
    keep = [0, 1, 2, 5, 6, 7, 8]
    own = types.Factorised((3, 4))
    action = got.action[:, [0, 2]]
    left = _run(own, params[:, keep], others[:, keep], _all_legal(own), 1.0, action)
    for name in ("entropy", "kl", "log_prob_again"):
        np.testing.assert_allclose(
            getattr(got, name), getattr(left, name), rtol=1e-4, atol=1e-5
        )
    np.testing.assert_array_equal(got.grads[:, 3:5], 0.0)


def test_padded_box_dimensions_add_nothing_and_stay_in_the_middle():
    """A masked dimension has the midpoint as action and no density."""
    mask = _all_legal(BOX)
    mask[:, 2] = False
    params, others = _params(BOX), _params(BOX, seed=1)
    got = _run(BOX, params, others, mask)
    np.testing.assert_array_equal(got.action[:, 2], CENTRE[2])
    keep = [0, 1, 3, 4]
    small = types.Box(BOX.low[:2], BOX.high[:2])
    left = _run(
        small,
        params[:, keep],
        others[:, keep],
        _all_legal(small),
        1.0,
        got.action[:, :2],
    )
    for name in ("entropy", "kl", "log_prob_again"):
        np.testing.assert_allclose(
            getattr(got, name), getattr(left, name), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("space", SPACES)
def test_temperature_zero_is_greedy_when_traced(space):
    """One trace serves temperature 0 and others; at 0 the sample is the mode."""
    params, mask = _params(space), _some_illegal(space)
    greedy = _run(space, params, params, mask, 0.0)
    programs = _compiled._cache_size()
    np.testing.assert_array_equal(greedy.action, greedy.mode)
    for x in greedy:
        assert np.all(np.isfinite(x))
    if not isinstance(space, types.Box):
        np.testing.assert_array_equal(greedy.log_prob, 0.0)
        np.testing.assert_array_equal(greedy.entropy, 0.0)
    warm = _run(space, params, params, mask, 2.0)
    assert np.any(warm.action != warm.mode)
    assert np.all(np.isfinite(warm.entropy)) and _compiled._cache_size() == programs


def test_poisoned_logits_still_give_an_index():
    """NaN logits do not become action -1: the environment must survive the member."""
    params = np.full((N, 5), np.nan, np.float32)
    action = _run(DISCRETE, params, params, _all_legal(DISCRETE)).action
    assert np.all((action >= 0) & (action < 5))


def test_actions_are_encoded_by_group_or_scaled_to_the_bounds():
    """One-hot per group; a Box maps low to -1, high to 1 and clips beyond."""
    np.testing.assert_array_equal(encode(DISCRETE, np.array([3])), [[0, 0, 0, 1, 0]])
    np.testing.assert_array_equal(
        encode(FACTORISED, np.array([[2, 0, 1]])), [[0, 0, 1, 1, 0, 0, 1, 0, 0]]
    )
    np.testing.assert_allclose(
        encode(BOX, np.array([[-2.0, 1.0, 2.0], [9.0, 0.25, -4.0]])),
        [[-1, 1, 0], [1, -0.5, -1]],
    )


def test_dimensions_without_a_finite_range_are_in_units_of_one():
    """Infinite or equal bounds are read as midpoint 0 (or the bound) and half range 1."""
    space = types.Box((-float("inf"), 3.0), (float("inf"), 3.0))
    params = np.full((N, 4), 0.5, np.float32)
    got = _run(space, params, params, _all_legal(space))
    np.testing.assert_allclose(got.mode[0], [0.5, 3.5])
    assert np.all(np.isfinite(got.entropy)) and np.all(np.isfinite(got.log_prob))
