"""Steps as a set: what a query sees of transitions, whose order makes no difference."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_steps

from mtrl_jax import types
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks.transformers import transformer

T, B, N, CONTEXT = 6, 2, 3, 4
CONFIG = transformer.TransformerConfig(
    layers=2, width=8, heads=2, feedforward=12, positions="none", encoding="set"
)


def spec_of(space, obs):
    return types.EnvSpec(obs, space, (types.TaskSpec("task", obs, space),))


@functools.cache
def made(context=CONTEXT, **changes):
    """Returns (unroll, act), jitted functions of steps, of one and the same network."""
    obs = {"vector": jax.ShapeDtypeStruct((N,), jnp.float32)}
    config = dataclasses.replace(CONFIG, context=context, **changes)
    net = transformer.make(spec_of(types.Discrete(4), obs), config)
    params = jax.jit(batch_draws(net.init))(jax.random.key(0))
    # Large enough for logits to tell inputs apart.
    params = {**params, "policy": jax.tree.map(lambda x: 100.0 * x, params["policy"])}

    def act(steps):
        def one(cache, now):
            logits, cache = net.step(params, cache, now)
            return cache, logits

        return jax.lax.scan(one, net.initial_cache(B), steps)[1]

    return jax.jit(functools.partial(net.unroll, params)), jax.jit(act)


def history(seed=0, length=T):
    """Returns random Steps [length, B]."""
    rng = np.random.default_rng(seed)
    shape = (length, B)
    return token_steps.of(
        {"vector": jnp.asarray(rng.normal(size=(*shape, N)), jnp.float32)},
        jnp.asarray(rng.integers(0, 4, shape), jnp.int32),
        jnp.asarray(rng.normal(size=shape), jnp.float32),
        jnp.asarray(rng.random(shape) < 0.3),
    )


@pytest.mark.parametrize(("encoding", "differs"), [("set", False), ("step", True)])
def test_in_which_order_transitions_came_changes_nothing_that_is_said_after_them(
    encoding, differs
):
    """Rows are a transition and the observation after it: permuted but for the last
    one, they leave what is said there, through all layers; a sequence does not."""
    unroll, _ = made(context=T, encoding=encoding)
    steps, order = history(), np.asarray([0, 3, 1, 4, 2, 5])
    permuted = jax.tree.map(lambda x: x[order], steps)
    before, after = (np.asarray(unroll(x)) for x in (steps, permuted))
    assert bool(np.abs(before[-1] - after[-1]).max() > 1e-3) == differs
    # The others saw other transitions.
    assert np.abs(before[2:-1] - after[2:-1]).max() > 1e-3


def test_a_query_sees_itself_and_the_transitions_before_it_and_nothing_else():
    """Of row 2: its observation reaches row 2 as a query, and later ones only within a
    transition; what was done there, rows from 3 on; nothing reaches an earlier row."""
    unroll, _ = made(context=T)
    steps = history()

    def affected(rows, **changed):
        other = steps._replace(**{k: v.at[rows].add(1) for k, v in changed.items()})
        return np.abs(unroll(other) - unroll(steps)).max(axis=(1, 2)) > 1e-5

    own = {"vector": steps.obs["vector"].at[2].add(1.0)}
    seen = np.abs(unroll(steps._replace(obs=own)) - unroll(steps)).max((1, 2)) > 1e-5
    # As what came of row 1, unless that ended an episode in all slots.
    assert not steps.prev_done[2].all()
    np.testing.assert_array_equal(seen, np.arange(T) >= 2)
    ended = steps._replace(prev_done=steps.prev_done.at[2].set(True))
    cut = np.abs(unroll(ended._replace(obs=own)) - unroll(ended)).max((1, 2)) > 1e-5
    np.testing.assert_array_equal(cut, np.arange(T) == 2)
    for field in ("prev_reward", "prev_action"):
        seen = affected(3, **{field: getattr(steps, field)})
        np.testing.assert_array_equal(seen, np.arange(T) >= 3, err_msg=field)
    before = {"vector": steps.prev_obs["vector"].at[3].add(1.0)}
    moved = steps._replace(prev_obs=before)
    seen = np.abs(unroll(moved) - unroll(steps)).max((1, 2)) > 1e-5
    np.testing.assert_array_equal(seen, np.arange(T) >= 3)


@pytest.mark.parametrize("layers", [1, 3])
def test_cached_acting_is_recomputed_acting_and_both_are_training(layers):
    """Nothing is read through the layers: a cache reaches no further than its window."""
    steps = history()
    unroll, cached = made(layers=layers)
    _, recomputed = made(layers=layers, acting="recompute")
    whole = unroll(steps)
    np.testing.assert_allclose(cached(steps), whole, atol=1e-4)
    np.testing.assert_allclose(recomputed(steps), whole, atol=1e-4)
    # What has fallen out of the window had been seen.
    longer, _ = made(context=T, layers=layers)
    assert np.abs(longer(steps)[-1] - whole[-1]).max() > 1e-3


@pytest.mark.parametrize("acting", ["cache", "recompute"])
def test_padding_is_as_if_absent(acting):
    """Also past eviction: a slot with padding in between is the slot without."""
    unroll, act = made(acting=acting, context=3)
    steps, noise = history(length=4), history(seed=1)
    where = jnp.asarray([0, 2, 4, 5])
    padded = jax.tree.map(lambda x, y: y.at[where].set(x), steps, noise)
    padded = padded._replace(live=jnp.zeros((T, B), bool).at[where].set(True))
    for run in (unroll, act):
        np.testing.assert_allclose(run(padded)[where], run(steps), atol=1e-4)


def test_every_parameter_is_learnt_from_images_and_factorised_actions():
    """The transition reads both observations with the torso of the query."""
    obs = {"image": jax.ShapeDtypeStruct((5, 5, 2), jnp.uint8)}
    net = transformer.make(spec_of(types.Factorised((3, 2)), obs), CONFIG)
    rng = np.random.default_rng(0)
    steps = history()._replace(
        **{
            name: {"image": jnp.asarray(rng.integers(0, 255, (T, B, 5, 5, 2)), "uint8")}
            for name in ("obs", "prev_obs")
        },
        prev_action=jnp.asarray(rng.integers(0, 2, (T, B, 2)), jnp.int32),
    )
    params = jax.jit(batch_draws(net.init))(jax.random.key(0))

    def loss(params):
        return jnp.sum(jnp.square(net.unroll(params, steps)))

    for path, leaf in jax.tree_util.tree_leaves_with_path(
        jax.jit(jax.grad(loss))(params)
    ):
        # A key's bias moves all logits of a query alike, which softmax ignores.
        assert np.abs(leaf).max() > 1e-12, jax.tree_util.keystr(path)
    assert "torso" in params["tokens"] and "transition" in params["tokens"]


def test_a_set_has_no_positions_and_needs_the_observation_before():
    """One line that names the field."""
    with pytest.raises(ValueError, match=r"^positions: 'rotary' with encoding 'set'"):
        made(positions="rotary")
    unroll, _ = made()
    with pytest.raises(ValueError, match=r"^prev_obs: None"):
        unroll(history()._replace(prev_obs=None))
