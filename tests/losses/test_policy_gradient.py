"""V-trace, advantages and clipped losses against golden numbers and brute force."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.losses import policy_gradient

# The sheet's example, derived by hand: specs/impala_vtrace.md, section 2.
RATIO = np.array([0.5, 2.0, 1.0, 0.25], np.float32)
DISCOUNT = np.array([0.9, 0.9, 0.0, 0.9], np.float32)
REWARD = np.array([1.0, 0.0, 2.0, -1.0], np.float32)
VALUE = np.array([0.5, 1.0, 1.5, -0.5], np.float32)
BOOTSTRAP = np.float32(0.8)


class Stream(NamedTuple):
    """One slot's transitions, in the order vtrace takes them; all ``[T]``."""

    v_tm1: np.ndarray
    v_t: np.ndarray
    r_t: np.ndarray
    discount_t: np.ndarray
    rho_tm1: np.ndarray
    first_t: np.ndarray


vtrace = jax.jit(policy_gradient.vtrace)
gae = jax.jit(policy_gradient.gae)
normalised = jax.jit(policy_gradient.normalised, static_argnums=3)


@pytest.mark.parametrize(
    ("ratio", "clip", "value", "advantage"),
    [
        (RATIO, 1.0, [1.56, 1.8, 2.0, -0.445], [1.06, 0.8, 0.5, 0.055]),
        (RATIO, 2.0, [1.7175, 2.15, 2.0, -0.445], [1.2175, 1.6, 0.5, 0.055]),
        (np.ones(4), 1.0, [2.62, 1.8, 2.0, -0.28], [2.12, 0.8, 0.5, 0.22]),
    ],
    ids=["clip_1", "clip_2", "on_policy"],
)
def test_vtrace_gives_the_golden_vectors(ratio, clip, value, advantage):
    """Targets and advantages of the hand-computed example, with ρ̄ = ρ̄_pg = 1 and 2."""
    stream = Stream(
        VALUE,
        np.append(VALUE[1:], BOOTSTRAP),
        REWARD,
        DISCOUNT,
        np.asarray(ratio, np.float32),
        np.zeros(4, bool),
    )
    out = vtrace(*stream, clip_rho=clip, clip_pg_rho=clip)
    np.testing.assert_allclose(out.value, value, atol=1e-6)
    weighted = np.multiply(out.weight, out.advantage)
    np.testing.assert_allclose(weighted, advantage, atol=1e-6)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "hp",
    [
        {},
        {"lambda_": 0.7},
        {"clip_rho": 3.0, "clip_pg_rho": 1.0},
        {"clip_rho": 0.5, "clip_pg_rho": 2.0, "lambda_": 0.9},
    ],
    ids=["default", "lambda", "wide", "narrow"],
)
def test_vtrace_is_its_definition_episode_by_episode(hp, seed):
    """Recursion over a stream = the O(T²) double sum over each of its episodes."""
    stream = random_stream(seed)
    out = jax.tree.map(np.asarray, vtrace(*stream, **hp))
    for part in episodes(stream):
        value, advantage = vtrace_oracle(cut(stream, part), **hp)
        np.testing.assert_allclose(out.value[part], value, atol=2e-5)
        weighted = (out.weight * out.advantage)[part]
        np.testing.assert_allclose(weighted, advantage, atol=2e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lambda_", [0.0, 0.9, 1.0])
def test_gae_is_its_definition_episode_by_episode(lambda_, seed):
    """Also where an episode was truncated: its last value is bootstrapped from."""
    stream = random_stream(seed)
    out = jax.tree.map(np.asarray, gae(*without_ratio(stream), lambda_=lambda_))
    for part in episodes(stream):
        own = cut(stream, part)
        advantage = gae_oracle(own, lambda_)
        np.testing.assert_allclose(out.advantage[part], advantage, atol=2e-5)
        np.testing.assert_allclose(out.value[part], advantage + own.v_tm1, atol=2e-5)


def test_a_truncated_episode_is_bootstrapped_and_a_terminal_one_is_not():
    """Discount 1 at the last step uses V of the final observation, discount 0 does not."""
    v_tm1, v_t = np.array([0.0, 5.0, 0.0]), np.array([5.0, 0.0, 7.0])
    r_t, first_t = np.array([1.0, 0.0, 1.0]), np.array([False, True, False])
    for discount, expected in ((1.0, 6.0), (0.0, 1.0)):
        discount_t = np.array([discount, 1.0, 0.0])
        by_gae = gae(v_tm1, v_t, r_t, discount_t, first_t, lambda_=1.0)
        by_vtrace = vtrace(v_tm1, v_t, r_t, discount_t, np.ones(3), first_t)
        for found in (by_gae, by_vtrace):
            np.testing.assert_allclose(np.asarray(found.value)[0], expected, atol=1e-6)


@pytest.mark.parametrize("loss", ["vtrace", "gae"])
def test_two_episodes_in_one_stream_are_two_calls(loss):
    """The crossing is neutral: each episode gets the targets it has on its own."""
    stream = random_stream(9)
    whole = call(loss, stream)
    parts = list(episodes(stream))
    assert len(parts) >= 3
    for part in parts:
        own = call(loss, cut(stream, part))
        for x, y in zip(whole, own):
            np.testing.assert_allclose(x[part], y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", ["vtrace", "gae"])
def test_what_comes_after_an_episode_never_changes_what_came_before(loss):
    """The trace is cut at a terminal step and at the crossing that follows."""
    stream = random_stream(3)
    end = next(episodes(stream)).stop
    later = np.arange(len(stream.r_t)) >= end
    noise = np.random.default_rng(0).normal(size=later.shape).astype(np.float32)
    changed = stream._replace(
        v_tm1=np.where(later, noise, stream.v_tm1),
        v_t=np.where(later, 3 * noise, stream.v_t),
        r_t=np.where(later, 100 * noise, stream.r_t),
        rho_tm1=np.where(later, np.abs(noise), stream.rho_tm1),
    )
    for x, y in zip(call(loss, stream), call(loss, changed)):
        np.testing.assert_array_equal(x[:end], y[:end])
        assert not np.allclose(x[end:], y[end:])


def test_on_policy_vtrace_is_the_n_step_return():
    """λ = 1 and ratios of 1: v_s = Σ γ^k r + γ^n V, with zeros among the discounts."""
    stream = random_stream(1)
    stream = stream._replace(
        rho_tm1=np.ones_like(stream.r_t), first_t=np.zeros_like(stream.first_t)
    )
    returns, total = [], np.float64(stream.v_t[-1])
    for r, discount in zip(stream.r_t[::-1], stream.discount_t[::-1]):
        total = r + discount * total
        returns.append(total)
    out = vtrace(*chained(stream))
    np.testing.assert_allclose(out.value, returns[::-1], atol=2e-5)


@pytest.mark.parametrize("lambda_", [0.3, 0.95])
def test_on_policy_vtrace_and_gae_are_the_lambda_return(lambda_):
    """G_t = r + γ((1 − λ)V + λ G_{t+1}), computed by its own recursion."""
    stream = random_stream(2)
    stream = chained(stream)._replace(
        rho_tm1=np.ones_like(stream.r_t), first_t=np.zeros_like(stream.first_t)
    )
    returns, total = [], np.float64(stream.v_t[-1])
    for r, discount, v in zip(
        stream.r_t[::-1], stream.discount_t[::-1], stream.v_t[::-1]
    ):
        total = r + discount * ((1 - lambda_) * v + lambda_ * total)
        returns.append(total)
    for out in (
        vtrace(*stream, lambda_=lambda_),
        gae(*without_ratio(stream), lambda_=lambda_),
    ):
        np.testing.assert_allclose(out.value, returns[::-1], atol=2e-5)


def test_ratios_clipped_at_zero_leave_the_values_as_they_are():
    """ρ̄ = 0 ⇒ v = V; with λ = 0 the target is one clipped temporal difference."""
    s = random_stream(5)
    np.testing.assert_array_equal(vtrace(*s, clip_rho=0.0).value, s.v_tm1)
    rho = np.where(s.first_t, 0.0, np.minimum(s.rho_tm1, 1.0))
    one_step = s.v_tm1 + rho * (s.r_t + s.discount_t * s.v_t - s.v_tm1)
    np.testing.assert_allclose(vtrace(*s, lambda_=0.0).value, one_step, atol=1e-5)


@pytest.mark.parametrize("loss", ["vtrace", "gae"])
def test_true_values_are_left_alone(loss):
    """Where V is right, the targets are V and there is no advantage, at any ratio."""
    s = random_stream(4)
    v_tm1 = np.float32(s.r_t + s.discount_t * s.v_t)
    exact = s._replace(v_tm1=np.where(s.first_t, s.v_tm1, v_tm1))
    # The values of one stream have to agree, so make them so from the end on.
    for t in reversed(range(len(s.r_t) - 1)):
        exact.v_t[t] = exact.v_tm1[t + 1]
        if not s.first_t[t]:
            exact.v_tm1[t] = s.r_t[t] + s.discount_t[t] * exact.v_t[t]
    out = call(loss, exact)
    np.testing.assert_allclose(out.value, exact.v_tm1, atol=1e-4)
    np.testing.assert_allclose(out.advantage, 0.0, atol=1e-4)


@pytest.mark.parametrize("loss", ["vtrace", "gae"])
def test_rewards_and_values_times_k_give_targets_times_k(loss):
    """Nothing in the targets has a unit of its own."""
    s, k = random_stream(6), np.float32(4.0)
    scaled = call(loss, s._replace(v_tm1=k * s.v_tm1, v_t=k * s.v_t, r_t=k * s.r_t))
    for x, y in zip(call(loss, s), scaled):
        np.testing.assert_allclose(k * x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("loss", ["vtrace", "gae"])
def test_a_constant_on_every_value_leaves_the_advantages(loss):
    """V + C with r + C(1 − γ) is the same problem: only the targets move, by C."""
    s, c = random_stream(7), np.float32(2.0)
    r_t = s.r_t + c * (1 - s.discount_t)
    shifted = call(loss, s._replace(v_tm1=s.v_tm1 + c, v_t=s.v_t + c, r_t=r_t))
    out = call(loss, s)
    np.testing.assert_allclose(out.advantage, shifted.advantage, atol=2e-5)
    np.testing.assert_allclose(out.value + c, shifted.value, atol=2e-5)


def test_clipping_only_shortens_corrections_of_one_sign():
    """|v − V| at ρ̄ = 1 is at most that of ratios of 1 where all errors are positive."""
    s = random_stream(8)
    s = s._replace(r_t=np.abs(s.r_t) + 20, first_t=np.zeros_like(s.first_t))
    clipped = np.asarray(vtrace(*s).value)
    free = np.asarray(vtrace(*s._replace(rho_tm1=np.ones_like(s.r_t))).value)
    assert (clipped - s.v_tm1 <= free - s.v_tm1 + 1e-5).all()


@pytest.mark.parametrize("clip_rho", [0.5, 1.0, 2.0, 100.0])
def test_the_vtrace_operator_converges_to_the_clipped_policys_values(clip_rho):
    """On a random MDP the fixed point is V of π_ρ̄ ∝ min(ρ̄ μ, π), for two-step traces."""
    rng = np.random.default_rng(0)
    states, actions, gamma = 4, 3, 0.9
    pi, mu = rng.dirichlet(np.ones(actions), (2, states))
    move = rng.dirichlet(np.ones(states), (states, actions))
    reward = rng.normal(size=(states, actions, states))
    target = np.minimum(clip_rho * mu, pi)
    target /= target.sum(1, keepdims=True)
    kernel = np.einsum("xa,xay->xy", target, move)
    expected = np.linalg.solve(
        np.eye(states) - gamma * kernel,
        np.einsum("xa,xay,xay->x", target, move, reward),
    )
    # Every two-step stream and its probability under mu.
    x, a, y, b, z = (
        i.ravel()
        for i in np.indices((states, actions, states, actions, states), sparse=False)
    )
    weight = mu[x, a] * move[x, a, y] * mu[y, b] * move[y, b, z]
    ratio = np.stack([(pi / mu)[x, a], (pi / mu)[y, b]], 1).astype(np.float32)
    r_t = np.stack([reward[x, a, y], reward[y, b, z]], 1).astype(np.float32)
    discount_t, first_t = np.full_like(r_t, gamma), np.zeros(r_t.shape, bool)

    @jax.jit
    def operator(value):
        v_tm1, v_t = (jnp.stack([value[i], value[j]], 1) for i, j in ((x, y), (y, z)))
        out = jax.vmap(
            lambda *s: policy_gradient.vtrace(*s, clip_rho=clip_rho, clip_pg_rho=1.0)
        )(v_tm1, v_t, r_t, discount_t, ratio, first_t)
        return jax.ops.segment_sum(
            weight.astype(np.float32) * out.value[:, 0], x, states
        )

    value = jax.lax.fori_loop(0, 400, lambda _, v: operator(v), jnp.zeros(states))
    np.testing.assert_allclose(value, expected, atol=1e-4)


@pytest.mark.parametrize("loss", ["vtrace", "gae"])
def test_no_gradient_flows_through_targets(loss):
    """A value head must not chase its own target, nor a policy its advantage."""
    s = random_stream(0)
    arrays = {k: v for k, v in s._asdict().items() if v.dtype == np.float32}

    def total(arrays):
        out = targets(loss, s._replace(**arrays))
        return jnp.sum(out.value) + jnp.sum(out.advantage)

    for name, gradient in jax.jit(jax.grad(total))(arrays).items():
        np.testing.assert_array_equal(gradient, 0.0, err_msg=name)


@pytest.mark.parametrize("loss", ["vtrace", "gae"])
def test_a_batch_is_a_loop_over_streams(loss):
    """vmap over slots changes nothing."""
    streams = [random_stream(seed) for seed in range(3)]
    batch = Stream(*(np.stack(x, 1) for x in zip(*streams)))
    batched = jax.vmap(functools.partial(targets, loss), in_axes=1, out_axes=1)
    together = jax.tree.map(np.asarray, jax.jit(batched)(batch))
    for i, stream in enumerate(streams):
        for x, y in zip(together, call(loss, stream)):
            np.testing.assert_allclose(x[:, i], y, rtol=1e-6, atol=1e-6)


def test_targets_of_the_wrong_rank_are_refused():
    """Losses take one stream; a batch by accident would be summed over time."""
    s = Stream(*(x[:, None] for x in random_stream(0)))
    with pytest.raises(AssertionError, match="rank"):
        policy_gradient.vtrace(*s)
    with pytest.raises(AssertionError, match="rank"):
        policy_gradient.gae(*without_ratio(s))


def test_the_clipped_surrogate_is_the_papers_figure():
    """−min(ρA, clip(ρ)A): flat above 1 + ε for gains, below 1 − ε for losses."""
    ratio = np.float32([0.5, 0.79, 1.0, 1.21, 2.0])

    def surrogate(log_ratio, advantage):
        return policy_gradient.clipped_surrogate(log_ratio, advantage, 0.2)

    losses = jax.jit(jax.vmap(surrogate, (0, None)))
    slopes = jax.jit(jax.vmap(jax.grad(surrogate), (0, None)))
    for advantage, loss, slope in (
        (3.0, [-1.5, -2.37, -3.0, -3.6, -3.6], [1, 1, 1, 0, 0]),
        (-3.0, [2.4, 2.4, 3.0, 3.63, 6.0], [0, 0, 1, 1, 1]),
    ):
        out = losses(np.log(ratio), advantage)
        np.testing.assert_allclose(out, loss, rtol=1e-5)
        grads = slopes(np.log(ratio), advantage)
        np.testing.assert_allclose(
            grads, -advantage * ratio * np.array(slope), rtol=1e-5
        )


def test_the_clipped_value_error_never_rewards_a_jump():
    """½·max of free and clipped error: no gradient once past ε in the right direction."""

    @jax.jit
    def error(value, epsilon=0.2):
        old, target = jnp.full_like(value, 1.0), jnp.full_like(value, 2.0)
        return policy_gradient.clipped_value_error(value, old, target, epsilon)

    value = np.float32([0.5, 1.0, 1.1, 1.5])
    np.testing.assert_allclose(error(value), [1.125, 0.5, 0.405, 0.32], rtol=1e-6)
    slopes = jax.jit(jax.vmap(jax.grad(error)))(value)
    np.testing.assert_allclose(slopes, [-1.5, -1.0, -0.9, 0.0], rtol=1e-6)
    free = 0.5 * np.square(value - 2.0)
    for off in (0.0, np.inf):
        np.testing.assert_allclose(error(value, off), free, rtol=1e-6)
    assert (np.asarray(error(value)) >= free - 1e-6).all()


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (policy_gradient.clipped_surrogate, [(3,), (1,)]),
        (policy_gradient.within_trust, [(3,), ()]),
        (policy_gradient.clipped_value_error, [(3,), (3,), (1,)]),
    ],
)
def test_clipped_losses_refuse_what_would_be_broadcast(loss, shapes):
    """One advantage for all steps is a mistake, not a shape."""
    with pytest.raises(AssertionError, match="shape"):
        jax.eval_shape(loss, *map(jnp.zeros, shapes), 0.2)


def test_the_clipped_losses_are_finite_at_extreme_ratios():
    """A ratio that overflows times no advantage is no loss, not NaN."""
    log_ratio = np.array([200.0, -200.0, 200.0, 200.0])
    advantage = np.float32([0.0, 0.0, 1.0, 0.0])

    def total(x):
        return jnp.sum(policy_gradient.clipped_surrogate(x, advantage, 0.2))

    value, gradient = jax.jit(jax.value_and_grad(total))(log_ratio)
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_masked_mean_ignores_what_is_not_live():
    """Also NaN there, also when nothing is live, where it is 0."""
    mean = jax.jit(jax.value_and_grad(policy_gradient.masked_mean))
    x = np.array([[1.0, np.nan], [3.0, np.inf]])
    live = np.array([[True, False], [True, False]])
    value, gradient = mean(x, live)
    assert float(value) == 2.0
    np.testing.assert_array_equal(gradient, [[0.5, 0.0], [0.5, 0.0]])
    assert float(mean(x, np.zeros_like(live))[0]) == 0.0
    means = jax.jit(policy_gradient.masked_means)
    assert means({"x": x}, live)["x"] == 2.0
    assert means({"x": x}, np.zeros_like(live))["x"] == 0.0


def random_stream(seed, steps=17):
    """Episodes of random length, some terminal, some truncated, with their crossings.

    The crossing is what a runner makes of it: reward 0, discount 1, any ratio.
    """
    rng = np.random.default_rng(seed)
    values = rng.normal(size=steps + 1)
    ended = np.zeros(steps + 1, bool)
    ended[[3, 8, 13]] = True
    terminal = ended & (np.arange(steps + 1) != 8)
    first_t = ended[:-1]
    reward = rng.normal(size=steps)
    discount = np.where(terminal[1:], 0.0, 0.9)
    return Stream(
        *(x.astype(np.float32) for x in (values[:-1], values[1:])),
        np.where(first_t, 0.0, reward).astype(np.float32),
        np.where(first_t, 0.9, discount).astype(np.float32),
        np.exp(rng.normal(size=steps)).astype(np.float32),
        first_t,
    )


def episodes(stream):
    """Yields the slices of transitions that belong to one episode."""
    start = 0
    for crossing in [*np.flatnonzero(stream.first_t), len(stream.first_t)]:
        if crossing > start:
            yield slice(start, int(crossing))
        start = int(crossing) + 1


def cut(stream, part):
    return Stream(*(x[part] for x in stream))


def chained(stream):
    """Returns the stream with v_t the next v_tm1, which crossings may have broken."""
    return stream._replace(v_t=np.append(stream.v_tm1[1:], stream.v_t[-1]))


def without_ratio(stream):
    return (*stream[:4], stream.first_t)


@functools.partial(jax.jit, static_argnums=0)
def targets(loss, stream):
    if loss == "vtrace":
        out = policy_gradient.vtrace(*stream)
        return policy_gradient.Targets(out.value, out.weight * out.advantage)
    return policy_gradient.gae(*without_ratio(stream), lambda_=0.8)


def call(loss, stream):
    return jax.tree.map(np.asarray, targets(loss, stream))


def vtrace_oracle(s, lambda_=1.0, clip_rho=1.0, clip_pg_rho=1.0):
    """The double sum of the paper in float64, for one episode without crossings."""
    v_tm1, v_t, r_t, discount_t, ratio = (np.float64(x) for x in s[:5])
    rho, c = np.minimum(ratio, clip_rho), lambda_ * np.minimum(ratio, 1.0)
    delta = rho * (r_t + discount_t * v_t - v_tm1)
    steps = len(r_t)
    value = np.array(
        [
            v_tm1[t]
            + sum(np.prod(discount_t[t:k] * c[t:k]) * delta[k] for k in range(t, steps))
            for t in range(steps)
        ]
    )
    # Where lambda < 1 the advantage's bootstrap mixes v_{s+1} and V in the same way.
    after = np.append(lambda_ * value[1:] + (1 - lambda_) * v_t[:-1], v_t[-1])
    advantage = np.minimum(ratio, clip_pg_rho) * (r_t + discount_t * after - v_tm1)
    return value, advantage


def gae_oracle(s, lambda_):
    """Σ_l (γλ)^l δ_{t+l} in float64, for one episode without crossings."""
    v_tm1, v_t, r_t, discount_t = (np.float64(x) for x in s[:4])
    delta, steps = r_t + discount_t * v_t - v_tm1, len(r_t)
    return np.array(
        [
            sum(np.prod(discount_t[t:k] * lambda_) * delta[k] for k in range(t, steps))
            for t in range(steps)
        ]
    )


def test_normalised_advantages_ignore_scale_and_dead_steps():
    """Mean 0 and variance 1 over live steps, whatever the reward's unit; 0 stays 0."""
    live, task = np.array([True, True, False, True]), np.zeros(4, np.int32)
    advantage = np.array([1.0, -2.0, 1e6, 4.0])
    found = np.asarray(normalised(advantage, live, task, 1))[live]
    np.testing.assert_allclose([found.mean(), found.std()], [0.0, 1.0], atol=1e-6)
    scaled = normalised(100.0 * advantage, live, task, 1)
    np.testing.assert_allclose(np.asarray(scaled)[live], found, rtol=1e-5)
    nothing = normalised(np.zeros(4), live, task, 1)
    np.testing.assert_array_equal(nothing, 0.0)


def test_each_task_has_its_advantages_normalised_on_its_own():
    """A loud task takes nothing from a quiet one; a task without live steps is left."""
    task = np.array([0, 1, 0, 1, 0, 1, 2], np.int32)
    live = np.array([True, True, True, True, True, False, False])
    advantage = np.array([1.0, 100.0, 3.0, 300.0, 5.0, 7e5, 9.0])
    found = np.asarray(normalised(advantage, live, task, 4))
    std = np.sqrt(8 / 3)
    expected = [-2 / std, -1.0, 0.0, 1.0, 2 / std]
    np.testing.assert_allclose(found[:5], expected, atol=1e-6)
    for own in (0, 1):
        mine = task == own
        alone = normalised(advantage[mine], live[mine], np.zeros(3, np.int32), 1)
        np.testing.assert_allclose(found[mine], alone, rtol=1e-6)
    task_means = jax.jit(policy_gradient.task_means, static_argnums=3)
    means = task_means(advantage, live, task, 4)
    np.testing.assert_allclose(means, [3.0, 200.0, 0.0, 0.0])


def test_trusted_steps_are_those_with_a_gradient_in_the_clipped_surrogate():
    """Beyond 1 ± ε in the advantage's direction there is none; ε = 0 trusts all."""
    log_ratio, advantage = (
        x.ravel()
        for x in np.meshgrid(
            np.append(np.linspace(-0.9, 0.9, 19), [-9.0, 1.5]),
            np.array([-2.0, -0.1, 0.1, 3.0]),
        )
    )
    surrogate = policy_gradient.clipped_surrogate
    slope = jax.jit(jax.vmap(jax.grad(surrogate), (0, 0, None)))

    @jax.jit
    def found(epsilon):
        return policy_gradient.within_trust(log_ratio, advantage, epsilon)

    # From 1 on there is no lower bound: no ratio is below 0.
    for epsilon in (0.05, 0.2, 0.5, 1.0, 1.5):
        expected = np.asarray(slope(log_ratio, advantage, epsilon)) != 0
        assert expected.any() and not expected.all()
        np.testing.assert_array_equal(found(epsilon), expected)
    assert np.asarray(found(0.0)).all()
