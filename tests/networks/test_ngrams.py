"""N-gram heads: golden matches, and the same in a whole history as step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_steps

from mtrl_jax import types
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks import (
    attention_windows,
    ngrams,
    outlook,
    transformer,
)

T, B, CONTEXT = 12, 2, 7
OBS = {"vector": jax.ShapeDtypeStruct((2,), jnp.float32)}
ACTIONS = types.Discrete(3)
SPEC = types.EnvSpec(OBS, ACTIONS, (types.TaskSpec("task", OBS, ACTIONS),))
RETURNS = outlook.Outlook(bins=5)


def matches(n, states, done=(), window=100):
    """Returns the steps that each of a history reads, as sets; their shares are equal."""
    length = len(states)
    done = np.isin(np.arange(length), done)
    rows = ngrams.Rows(
        jnp.asarray(states, jnp.uint32)[None],
        jnp.asarray(done)[None],
        jnp.arange(length)[None] > 0,
    )
    place = jnp.arange(length)[None]
    allowed = jnp.tril(jnp.ones((1, length, length), bool))
    sight = attention_windows.Sight(allowed, place, place, None)
    shares = np.asarray(ngrams.in_sequence(n, rows, None, sight, 1, window))[0]
    found = [set(np.flatnonzero(row)) for row in shares]
    expected = [np.isin(np.arange(length), list(x)) / max(len(x), 1) for x in found]
    np.testing.assert_allclose(shares, expected, rtol=1e-6)
    return found


def test_matches_are_those_of_the_sheet():
    """j follows a step that is as this one, and is before it; rows sum to 1 or 0."""
    states = [1, 2, 3, 1, 2, 4, 1, 2]
    none = set()
    expected = [none, none, none, {1}, {2}, none, {1, 4}, {2, 5}]
    assert matches(1, states) == expected
    expected = [none, none, none, none, {2}, none, none, {2, 5}]
    assert matches(2, states) == expected
    assert matches(1, [5, 5, 5, 5]) == [none, none, {1}, {1, 2}]


def test_names_of_states_mean_nothing_and_the_ends_of_episodes_do():
    """Renamed, the same; two steps with an end between them match no two without."""
    states = np.array([1, 2, 3, 1, 2, 4, 1, 2])
    for n in (1, 2, 3):
        assert matches(n, states) == matches(n, 7 * states + 5)
    assert matches(2, states, done=[1])[7] == {5}
    assert matches(2, states, done=[1, 4])[7] == set()
    assert matches(2, states, done=[1, 4, 7])[7] == {2, 5}
    # Of one step it makes no difference.
    assert matches(1, states, done=[1])[7] == {2, 5}
    # All that a match is made of lies in the window.
    assert matches(1, states, window=7)[7] == {2, 5}
    assert matches(1, states, window=6)[7] == {5}


def test_hashes_tell_observations_apart_and_0_from_nothing_else():
    """Every leaf and place counts; 0 is -0."""
    grid = jnp.stack(jnp.meshgrid(jnp.arange(60.0), jnp.arange(60.0)), axis=-1)
    assert len(np.unique(ngrams.hashes({"vector": grid}))) == 3600
    pair = jnp.asarray([[[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]]])
    one, same, other = np.asarray(ngrams.hashes({"vector": pair}))[0]
    assert one == same != other
    image = jnp.zeros((1, 1, 4, 4, 1), jnp.uint8)
    both = ngrams.hashes({"image": image, "vector": pair[:, :1]})
    assert both[0, 0] not in (one, ngrams.hashes({"image": image})[0, 0])


@functools.cache
def made(ngram, acting, given=None):
    """Returns (params, unroll, act) of a network whose heads are sharp."""
    config = transformer.TransformerConfig(
        layers=2, width=8, heads=2, feedforward=8, context=CONTEXT, ngram=ngram,
        acting=acting,
    )  # fmt: skip
    net = transformer.make(SPEC, config, given)
    params = jax.jit(batch_draws(net.init))(jax.random.key(0))
    sharp = {"policy": 100.0, "ngram": 10.0} if ngram else {"policy": 100.0}
    sharper = {
        name: jax.tree.map(lambda x, by=by: by * x, params[name])
        for name, by in sharp.items()
    }
    params = {**params, **sharper}

    def act(params, steps, gate):
        def one(cache, now):
            begins, now = now.begins, now._replace(begins=None)
            cache = net.forget(cache, begins, jnp.zeros(B, jnp.int32))
            out, cache = net.step(params, cache, now, None, gate)
            return cache, out

        return jax.lax.scan(one, net.initial_cache(B), steps)[1]

    def unroll(params, steps, gate, alone=None):
        return net.unroll(params, steps, alone=alone, gate=gate)

    return params, jax.jit(unroll), jax.jit(act)


def history(seed=0, states=3):
    """Returns Steps [T, B] that come back to a few states, some of them padding."""
    rng = np.random.default_rng(seed)
    known = rng.normal(size=(states, 2))
    live = rng.random((T, B)) < 0.8
    steps = token_steps.of(
        {"vector": jnp.asarray(known[rng.integers(0, states, (T, B))], jnp.float32)},
        jnp.asarray(rng.integers(0, ACTIONS.n, (T, B)), jnp.int32),
        jnp.asarray(rng.normal(size=(T, B)), jnp.float32),
        jnp.asarray(rng.random((T, B)) < 0.3),
        jnp.asarray(live),
    )
    to_go = jnp.asarray(rng.integers(0, 5, (T, B)), jnp.float32)
    known = np.maximum.accumulate(np.concatenate([live[:1] * 0, live[:-1]])) > 0
    return steps._replace(
        has_prev=jnp.asarray(known),
        return_to_go=to_go,
        return_known=jnp.ones((T, B)),
        begins=jnp.zeros((T, B), bool),
    )


def last_of_each_window(unroll, params, steps):
    """Returns what is said at each step by the whole of what it sees."""
    said = []
    for t in range(T):
        # The newest CONTEXT live steps; those before are padding.
        live = np.asarray(steps.live)
        age = np.cumsum(live[: t + 1][::-1], axis=0)[::-1]
        seen = np.zeros_like(live)
        seen[: t + 1] = live[: t + 1] & (age <= CONTEXT)
        cut = steps._replace(live=jnp.asarray(seen))
        said.append(unroll(params, cut, None)[t])
    return np.stack(said)


@pytest.mark.parametrize(("ngram", "given"), [(1, None), (2, RETURNS)])
def test_a_cached_step_says_what_the_whole_history_does(ngram, given):
    """With padding anywhere, before and after the oldest step falls out of the ring."""
    params, unroll, act = made(ngram, "cache", given)
    steps = history()
    whole, acted = unroll(params, steps, None), act(params, steps, None)
    if given is not None:
        whole, acted = whole.action, acted.action
    live = np.asarray(steps.live)
    np.testing.assert_allclose(acted[live], whole[live], atol=1e-4)
    off = unroll(params, steps, jnp.float32(0.0))
    off = off if given is None else off.action
    # The head has something to read and is heard.
    assert np.abs(off - whole)[-3:].max() > 1e-3


def test_a_recomputed_step_says_what_its_window_alone_does():
    """What a match is made of that fell out of the window is no match."""
    params, unroll, act = made(1, "recompute")
    steps = history(1)
    acted, live = act(params, steps, None), np.asarray(steps.live)
    expected = last_of_each_window(unroll, params, steps)
    np.testing.assert_allclose(acted[live], expected[live], atol=1e-4)


def test_alone_an_episode_finds_nothing_in_others():
    """What was forgotten when acting is in another segment when training."""
    params, unroll, act = made(1, "cache")
    steps = history()
    begins = jnp.zeros((T, B), bool).at[jnp.array([0, 5])].set(True)
    live = jnp.ones((T, B), bool)
    steps = steps._replace(
        begins=begins, live=live, has_prev=jnp.ones((T, B), bool) & ~begins
    )
    told = unroll(params, steps, None, jnp.asarray(True))
    np.testing.assert_allclose(act(params, steps, None), told, atol=1e-4)
    later = unroll(params, jax.tree.map(lambda x: x[5:], steps), None)
    np.testing.assert_allclose(told[5:], later, atol=1e-4)


def test_gated_to_0_it_is_the_transformer_without_a_head():
    """To the bit; so is its gradient, and a half is in between."""
    params, unroll, _ = made(1, "cache")
    _, plain, _ = made(0, "cache")
    steps = history()
    rest = {name: leaf for name, leaf in params.items() if name != "ngram"}
    off, whole = unroll(params, steps, jnp.float32(0.0)), unroll(params, steps, None)
    np.testing.assert_array_equal(off, plain(rest, steps, None))
    half = unroll(params, steps, jnp.float32(0.5))
    assert np.abs(half - off).max() > 1e-3 and np.abs(half - whole).max() > 1e-3
    moved = jax.grad(lambda p: jnp.sum(unroll(p, steps, jnp.float32(0.0)) ** 2))(params)
    assert not any(np.any(x) for x in jax.tree.leaves(moved["ngram"]))


def test_states_that_are_all_new_are_read_by_w1_alone():
    """W2 is then of no account; where states come back it is."""
    params, unroll, _ = made(1, "cache")
    other = dict(params["ngram"])
    other["found"] = jax.tree.map(lambda x: -x, other["found"])
    changed = {**params, "ngram": other}
    new, old = history(states=500), history()
    same = np.unique(np.asarray(new.obs["vector"])[:, 0, 0]).size
    assert same == T
    first = jax.tree.map(lambda x: x[:, :1], new)
    np.testing.assert_array_equal(
        unroll(params, first, None), unroll(changed, first, None)
    )
    assert np.abs(unroll(params, old, None) - unroll(changed, old, None)).max() > 1e-3
