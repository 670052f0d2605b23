"""Optimisers built from traced numbers, against the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtrl_jax.agents import impala
from mtrl_jax.agents.common import optimiser


def hparams(**fields):
    base = {"learning_rate": 0.1, "max_grad_norm": 1e9}
    eps = {"adam_eps": 1e-3, "rmsprop_eps": 1e-3}
    hp = optimiser.Hparams(**(base | eps | fields))
    return jax.tree.map(jnp.float32, hp)


def steps(kind, hp, grads, steps_per_update=1):
    """Returns the parameter after each gradient, from 0."""
    optimise = optimiser.make(kind, hp, steps_per_update)
    x, found = jnp.zeros(2), []
    state = optimise.init(x)
    for grad in grads:
        updates, state = optimise.update(jnp.asarray(grad, jnp.float32), state)
        x = optax.apply_updates(x, updates)
        found.append(np.asarray(x))
    return np.stack(found)


GRADS = [[1.0, -2.0], [0.5, 0.0], [3.0, 1e-4]]


def test_an_optimiser_says_the_rate_of_its_next_step():
    """Linear in updates of two steps each; AdamW's after its warm-up half a cosine."""
    linear = optimiser.make("adam", hparams(decay_updates=2.0), 2)
    warm = optimiser.AdamwHparams(0.1, warmup_updates=2.0, decay_updates=4.0)
    for optimise, expected in (
        (linear, [0.1, 0.075, 0.05, 0.025, 0.0]),
        (optimiser.adamw(warm), [0.05, 0.1, 0.1, 0.05, 0.0]),
        (optimiser.make("rmsprop", hparams()), [0.1] * 5),
    ):
        state, rates = optimise.init(jnp.zeros(2)), []
        for _ in range(5):
            rates.append(optimise.rate(state))
            _, state = optimise.update(jnp.ones(2), state, jnp.zeros(2))
        np.testing.assert_allclose(rates, expected, atol=1e-7)


def test_rmsprop_decays_at_099_with_epsilon_inside_the_root():
    """x ← x − lr·g/√(n + ε), n ← 0.99 n + 0.01 g², from 100 ε, in float64."""
    x, n, expected = np.zeros(2), np.full(2, 0.1), []
    for g in np.array(GRADS):
        n = 0.99 * n + 0.01 * g**2
        x = x - 0.1 * g / np.sqrt(n + 1e-3)
        expected.append(x)
    np.testing.assert_allclose(steps("rmsprop", hparams(), GRADS), expected, rtol=1e-5)


def test_centred_rmsprop_is_dqns():
    """x ← x − lr·g/√(n − m² + ε), both decay at 0.95, from 0; in float64."""
    x, m, n, expected = np.zeros(2), np.zeros(2), np.zeros(2), []
    for g in np.array(GRADS):
        m, n = 0.95 * m + 0.05 * g, 0.95 * n + 0.05 * g**2
        x = x - 0.1 * g / np.sqrt(n - m**2 + 1e-3)
        expected.append(x)
    found = steps("rmsprop_centred", hparams(), GRADS)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_centred_rmsprop_is_finite_where_gradients_are_constant():
    """Their variance is 0: that rounding makes it negative, beyond eps, is no NaN."""
    optimise = optimiser.make("rmsprop_centred", hparams(rmsprop_eps=1e-10))
    grads = np.linspace(0.1, 1.0, 64, dtype=np.float32)

    def step(state, grads):
        changes, state = optimise.update(grads, state)
        return state, jnp.abs(changes)

    taken = jnp.broadcast_to(grads, (2000, 64))
    _, moved = jax.jit(lambda x: jax.lax.scan(step, optimise.init(x[0]), x))(taken)
    assert (np.asarray(moved) <= 1.01 * 0.1 * grads / 1e-5).all()


def test_impalas_defaults_make_the_authors_steps():
    """Theirs on the sum over N = 640 steps: norm 40, second moment from 1, ε 0.01."""
    sums = 640 * np.array([[0.03, -0.2], [0.5, 0.0], [0.01, 1e-4]])
    x, n, expected = np.zeros(2), np.ones(2), []
    for g in sums:
        g = g * min(1.0, 40.0 / np.linalg.norm(g))
        n = 0.99 * n + 0.01 * g**2
        x = x - 6e-4 * g / np.sqrt(n + 0.01)
        expected.append(x)
    hp = jax.tree.map(jnp.float32, impala.Hparams().optimiser)
    found = steps(impala.Config().optimiser, hp, sums / 640)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_adam_is_kingmas_and_bas():
    """Decays 0.9 and 0.999, bias corrected, epsilon outside the root."""
    x, m, n, expected = np.zeros(2), np.zeros(2), np.zeros(2), []
    for t, g in enumerate(np.array(GRADS), 1):
        m, n = 0.9 * m + 0.1 * g, 0.999 * n + 0.001 * g**2
        x = x - 0.1 * (m / (1 - 0.9**t)) / (np.sqrt(n / (1 - 0.999**t)) + 1e-3)
        expected.append(x)
    np.testing.assert_allclose(steps("adam", hparams(), GRADS), expected, rtol=1e-4)


@pytest.mark.parametrize("steps_per_update", [1, 2])
def test_the_learning_rate_falls_linearly_to_zero_in_agent_updates(steps_per_update):
    """Several optimiser steps per update are counted as one; 0 is constant."""
    grads = [[1.0, 1.0]] * (6 * steps_per_update)
    hp = hparams(decay_updates=4.0)
    moves = -np.diff(steps("adam", hp, grads, steps_per_update)[:, 0], prepend=0.0)
    left = np.arange(len(grads)) / steps_per_update
    np.testing.assert_allclose(moves, 0.1 * np.clip(1 - left / 4, 0, 1), atol=2e-4)
    constant = steps("adam", hparams(), grads, steps_per_update)[:, 0]
    np.testing.assert_allclose(-np.diff(constant), 0.1, atol=2e-4)


def test_gradients_are_clipped_by_their_global_norm():
    """A gradient of norm 5 under a bound of 1 is a fifth of itself, a small one itself."""
    clipped = steps("rmsprop", hparams(max_grad_norm=1.0), [[3.0, 4.0]])
    np.testing.assert_array_equal(clipped, steps("rmsprop", hparams(), [[0.6, 0.8]]))
    small = steps("rmsprop", hparams(max_grad_norm=1.0), [[0.3, 0.4]])
    np.testing.assert_array_equal(small, steps("rmsprop", hparams(), [[0.3, 0.4]]))


def test_networks_are_clipped_each_by_its_own_norm():
    """Two of norms 5 and 0.5, bound 2 / 2; what is for all tasks has norm 4, bound 2."""
    own = {"w": jnp.array([[3.0, 0.0], [0.3, 0.0]]), "b": jnp.array([4.0, 0.4])}
    grads = {"own": own, "prior": {"w": jnp.array([4.0])}}
    clipped = jax.jit(optimiser.clip_networks, static_argnums=(2, 3))
    found = clipped(grads, 2.0, (0.5, 0.5), ("prior",))
    wanted = {"w": [[0.6, 0.0], [0.3, 0.0]], "b": [0.8, 0.4]}
    for name, x in wanted.items():
        np.testing.assert_allclose(found["own"][name], x, rtol=1e-6)
    np.testing.assert_allclose(found["prior"]["w"], [2.0], rtol=1e-6)
    alone = clipped({"own": own}, 2.0, (0.5, 0.5), ("prior",))
    jax.tree.map(np.testing.assert_array_equal, alone["own"], found["own"])
    # Of a task with an eighth of the steps: an eighth of what it would be alone.
    shares = np.array([0.125, 0.875])
    unlike = {"own": {"w": 2.0 * np.eye(2) * shares[:, None]}}
    found = clipped(unlike, 0.5, tuple(shares), ())
    np.testing.assert_allclose(found["own"]["w"], 0.5 * np.eye(2) * shares[:, None])


@pytest.mark.parametrize("kind", optimiser.KINDS)
def test_each_kind_reads_its_own_eps(kind):
    """And not the other's."""
    plain = steps(kind, hparams(), GRADS)
    for name in ("adam_eps", "rmsprop_eps"):
        changed = steps(kind, hparams(**{name: 0.1}), GRADS)
        own = name.startswith(kind.removesuffix("_centred"))
        assert np.array_equal(plain, changed) != own


def test_an_unknown_optimiser_is_refused_by_name():
    """The error says what was given and what would work."""
    with pytest.raises(ValueError, match="optimiser: unknown 'sgd'; one of adam, rmsp"):
        optimiser.make("sgd", hparams())


def test_adamw_is_optax_with_a_warm_up_and_half_a_cosine():
    """Rates 1/2, 1, then (1 + cos)/2 down to 0; weights decay with the rate."""
    hp = optimiser.AdamwHparams(
        learning_rate=0.1,
        warmup_updates=2.0,
        decay_updates=6.0,
        weight_decay=0.3,
        max_grad_norm=1e9,
        adam_eps=1e-3,
    )
    rates = 0.1 * np.array([0.5, 1, 1, 0.853553, 0.5, 0.146447, 0, 0])
    oracle = optax.adamw(
        lambda count: jnp.asarray(rates)[count], b2=0.99, eps=1e-3, weight_decay=0.3
    )
    x = y = jnp.asarray([1.0, -2.0])
    mine, theirs = optimiser.adamw(hp).init(x), oracle.init(y)
    for i in range(8):
        grad = jnp.asarray(GRADS[i % 3], jnp.float32)
        change, mine = optimiser.adamw(hp).update(grad, mine, x)
        x = optax.apply_updates(x, change)
        change, theirs = oracle.update(grad, theirs, y)
        y = optax.apply_updates(y, change)
        np.testing.assert_allclose(x, y, rtol=1e-5)
    # A gradient of norm 5 under a bound of 1 is a fifth of itself.
    bounded = optimiser.adamw(hp._replace(max_grad_norm=1.0))
    pairs = ((bounded, [3.0, 4.0]), (optimiser.adamw(hp), [0.6, 0.8]))
    one, other = (kind.update(jnp.array(g), kind.init(y), y)[0] for kind, g in pairs)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    constant = hp._replace(decay_updates=0.0, warmup_updates=0.0)
    change, _ = optimiser.adamw(constant).update(grad, mine, x)
    assert float(jnp.abs(change).max()) > 0.01


def test_groups_of_parameters_have_an_optimiser_each():
    """Its own norm, its own state and, for the decay of weights, its own weights."""
    hp = optimiser.AdamwHparams(0.1, warmup_updates=0.0, weight_decay=0.3)
    groups = {"a": optimiser.adamw(hp), "b": optimiser.make("rmsprop", hparams())}
    params = {name: jnp.array([1.0, -2.0]) for name in groups}
    grads = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([0.5, 0.0])}
    together = optimiser.grouped(groups)
    state = together.init(params)
    for _ in range(2):
        changes, state = together.update(grads, state, params)
    for name, one in groups.items():
        own = one.init(params[name])
        for _ in range(2):
            change, own = one.update(grads[name], own, params[name])
        np.testing.assert_array_equal(changes[name], change)
        jax.tree.map(np.testing.assert_array_equal, state[name], own)
