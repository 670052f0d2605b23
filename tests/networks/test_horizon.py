"""A horizon is a shorter context: the same in acting and training, of each member's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_steps

from mtrl_jax import types
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks.transformers import transformer

T, B, N, ACTIONS = 7, 2, 3, 4
HORIZONS = (1, 2, 3, T, T + 3)
ENCODINGS = ("step", "triple")


@functools.cache
def made(encoding="step", positions="rotary", acting="recompute", context=T):
    """Returns (unroll, act), jitted functions of steps and a horizon (or None).

    ``act`` takes also how many of the first steps [B] are a prompt.
    """
    obs, space = (
        {"vector": jax.ShapeDtypeStruct((N,), jnp.float32)},
        types.Discrete(ACTIONS),
    )
    spec = types.EnvSpec(obs, space, (types.TaskSpec("task", obs, space),))
    config = transformer.TransformerConfig(
        layers=2,
        width=8,
        heads=2,
        feedforward=12,
        context=context,
        encoding=encoding,
        positions=positions,
        acting=acting,
    )
    net = transformer.make(spec, config)
    params = jax.jit(batch_draws(net.init))(jax.random.key(0))
    # Large enough for logits to tell inputs apart.
    params = {**params, "policy": jax.tree.map(lambda x: 100.0 * x, params["policy"])}

    def act(steps, horizon, kept=None):
        def one(cache, now):
            logits, cache = net.step(params, cache, now, horizon, kept=kept)
            return cache, logits

        return jax.lax.scan(one, net.initial_cache(B), steps)[1]

    def unroll(steps, horizon, window=None):
        return net.unroll(params, steps, horizon=horizon, window=window)

    return jax.jit(unroll, static_argnames="window"), jax.jit(act)


def history(seed=0):
    """Returns random Steps [T, B]; all are live, and say so."""
    rng = np.random.default_rng(seed)
    return token_steps.of(
        {"vector": jnp.asarray(rng.normal(size=(T, B, N)), jnp.float32)},
        jnp.asarray(rng.integers(0, ACTIONS, (T, B)), jnp.int32),
        jnp.asarray(rng.normal(size=(T, B)), jnp.float32),
        jnp.asarray(rng.random((T, B)) < 0.3),
        jnp.ones((T, B), bool),
    )


def alone(steps, begin, end):
    """Returns Steps of which those of [begin, end) are a history, the others padding."""
    row = jnp.arange(T)[:, None]
    live = jnp.broadcast_to((row >= begin) & (row < end), (T, B))
    return steps._replace(live=live, has_prev=steps.has_prev & (row > begin))


@pytest.mark.parametrize(
    ("encoding", "positions"),
    [("step", "rotary"), ("triple", "rotary"), ("step", "learned")],
)
def test_acting_says_what_training_says_of_the_last_steps_alone(encoding, positions):
    """For each horizon and step: of a history that begins so many steps before; and of a
    history that is cut in pieces, at the end of each and all along the first."""
    unroll, act = made(encoding, positions)
    steps = history()
    for horizon in HORIZONS:
        acted, cut = act(steps, horizon), unroll(steps, horizon)
        for t in range(T):
            begin = max(0, t + 1 - horizon)
            expected = unroll(alone(steps, begin, t + 1), None)[t]
            np.testing.assert_allclose(acted[t], expected, atol=1e-4)
            piece = alone(steps, t - t % horizon, T)
            np.testing.assert_allclose(cut[t], unroll(piece, None)[t], atol=1e-4)
            if t < horizon or t % horizon == horizon - 1:
                np.testing.assert_allclose(acted[t], cut[t], atol=1e-4)


@pytest.mark.parametrize(
    ("encoding", "acting"),
    [("step", "cache"), ("step", "recompute"), ("triple", "recompute")],
)
def test_a_horizon_of_the_context_changes_nothing(encoding, acting):
    """Bit for bit, in training and in acting, with that horizon or a longer one; also
    of a history that is longer."""
    unroll, act = made(encoding, acting=acting, context=4)
    steps = history()
    for run in (unroll, act):
        for horizon in (4, 5, 2**20):
            np.testing.assert_array_equal(run(steps, horizon), run(steps, None))
        assert np.abs(run(steps, 2) - run(steps, None)).max() > 1e-3


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_horizon_of_one_step_is_memoryless_and_of_two_is_not(encoding):
    """Whatever was before: the observation alone, and what the next step knows of it."""
    unroll, act = made(encoding)
    steps, other = history(), history(seed=1)
    changed = jax.tree.map(lambda x, y: y.at[4:].set(x[4:]), steps, other)
    for run in (unroll, act):
        seen = [np.asarray(run(x, 1)) for x in (steps, changed)]
        np.testing.assert_array_equal(seen[0][4:], seen[1][4:])
        assert np.abs(seen[0][:4] - seen[1][:4]).max() > 1e-3
    seen = [np.asarray(act(x, 2)) for x in (steps, changed)]
    np.testing.assert_array_equal(seen[0][5:], seen[1][5:])
    assert np.abs(seen[0][4] - seen[1][4]).max() > 1e-3


def test_padding_counts_in_no_horizon():
    """Pieces are of live steps, wherever the others stand."""
    unroll, _ = made()
    where = jnp.asarray([0, 2, 3, 5, 6])
    steps, noise = history(), history(seed=1)
    short = alone(steps, 0, 5)
    padded = jax.tree.map(lambda x, y: y.at[where].set(x[:5]), steps, noise)
    live = jnp.zeros((T, B), bool).at[where].set(True)
    for horizon in (2, 3):
        np.testing.assert_allclose(
            unroll(padded._replace(live=live), horizon)[where],
            unroll(short, horizon)[:5],
            atol=1e-5,
        )


def test_a_cache_sees_a_horizon_back_in_every_layer():
    """It is the banded forward of a window of that many steps."""
    unroll, act = made(acting="cache", context=4)
    steps = history()
    for horizon in (1, 3):
        banded = unroll(steps, None, window=horizon)
        np.testing.assert_allclose(act(steps, horizon), banded, atol=1e-4)


@pytest.mark.parametrize("acting", ["cache", "recompute"])
def test_what_follows_a_prompt_that_fell_out_is_no_prompt(acting):
    """Two of seven steps were one; of the last four, all that is left, two are seen."""
    _, act = made(acting=acting, context=4)
    steps, kept = history(), jnp.full(B, 2)
    obs = {"vector": steps.obs["vector"].at[3].add(1.0)}
    moved = np.abs(act(steps, 1, kept) - act(steps._replace(obs=obs), 1, kept))
    assert (moved.max((1, 2)) > 1e-3).tolist() == [t == 3 for t in range(T)]


def test_members_with_horizons_of_their_own_are_their_solo_runs():
    """One program for all; another horizon is no other program."""
    steps, horizons = history(), jnp.asarray([1, 3, T])
    for run in made():
        together = jax.jit(jax.vmap(run, (None, 0)))(steps, horizons)
        run(steps, horizons[0])
        programs = run._cache_size()
        for horizon, logits in zip(horizons, together):
            np.testing.assert_allclose(run(steps, horizon), logits, atol=1e-5)
        assert run._cache_size() == programs
        assert np.abs(together[0] - together[1]).max() > 1e-3
