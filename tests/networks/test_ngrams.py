"""N-gram heads: golden matches, and the same in a whole history as step by step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import token_steps

from mtrl_jax import types
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks.transformers import (
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
hashes = jax.jit(ngrams.hashes)
of = jax.jit(token_steps.of)


@functools.partial(jax.jit, static_argnums=(0, 3))
def shares_of(n, states, done, window):
    """Returns which steps [T, T] each of a history reads, and how much of each."""
    length = len(states)
    place = jnp.arange(length)[None]
    rows = ngrams.Rows(states[None], done[None], place > 0)
    allowed = jnp.tril(jnp.ones((1, length, length), bool))
    sight = attention_windows.Sight(allowed, place, place, None)
    return ngrams.in_sequence(n, rows, None, sight, 1, window)[0]


def matches(n, states, done=(), window=100):
    """Returns the steps that each of a history reads, as sets; their shares are equal."""
    length = len(states)
    done = np.isin(np.arange(length), done)
    shares = np.asarray(shares_of(n, np.asarray(states, np.uint32), done, window))
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
    grid = np.stack(np.meshgrid(np.arange(60.0), np.arange(60.0)), axis=-1)
    assert len(np.unique(hashes({"vector": grid}))) == 3600
    pair = np.array([[[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]]])
    one, same, other = np.asarray(hashes({"vector": pair}))[0]
    assert one == same != other
    image = np.zeros((1, 1, 4, 4, 1), np.uint8)
    both = np.asarray(hashes({"image": image, "vector": pair[:, :1]}))
    assert both[0, 0] not in (one, np.asarray(hashes({"image": image}))[0, 0])
    # The same numbers at the same places of another leaf are something else.
    a, b = pair[:, :1], pair[:, 2:]
    assert hashes({"a": a, "b": b}) != hashes({"a": b, "b": a})


@functools.cache
def made(ngram, acting, given=None):
    """Returns (params, unroll, act) of a network whose heads are sharp."""
    config = transformer.TransformerConfig(
        layers=2, width=8, heads=2, feedforward=8, context=CONTEXT, ngram=ngram,
        acting=acting,
    )  # fmt: skip
    net = transformer.make(SPEC, config, given)
    params = jax.device_get(jax.jit(batch_draws(net.init))(jax.random.key(0)))
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
    steps = of(
        {"vector": known[rng.integers(0, states, (T, B))].astype(np.float32)},
        rng.integers(0, ACTIONS.n, (T, B)).astype(np.int32),
        rng.normal(size=(T, B)).astype(np.float32),
        rng.random((T, B)) < 0.3,
        live,
    )
    to_go = rng.integers(0, 5, (T, B)).astype(np.float32)
    known = np.maximum.accumulate(np.concatenate([live[:1] * 0, live[:-1]])) > 0
    return jax.device_get(steps)._replace(
        has_prev=known,
        return_to_go=to_go,
        return_known=np.ones((T, B), np.float32),
        begins=np.zeros((T, B), bool),
    )


def last_of_each_window(unroll, params, steps):
    """Returns what is said at each step by the whole of what it sees."""
    said = []
    for t in range(T):
        # The newest CONTEXT live steps; those before are padding, and unread.
        live, known = steps.live, steps.has_prev.copy()
        age = np.cumsum(live[: t + 1][::-1], axis=0)[::-1]
        seen = np.zeros_like(live)
        seen[: t + 1] = live[: t + 1] & (age <= CONTEXT)
        known[: t + 1] &= age < CONTEXT
        cut = steps._replace(live=seen, has_prev=known)
        said.append(np.asarray(unroll(params, cut, None))[t])
    return np.stack(said)


@pytest.mark.parametrize(("ngram", "given"), [(1, None), (2, RETURNS)])
def test_a_cached_step_says_what_the_whole_history_does(ngram, given):
    """With padding anywhere, before and after the oldest step falls out of the ring."""
    params, unroll, act = made(ngram, "cache", given)
    steps = history()
    whole, acted = unroll(params, steps, None), act(params, steps, None)
    off = unroll(params, steps, np.float32(0.0))
    if given is not None:
        whole, acted, off = whole.action, acted.action, off.action
    whole, acted, off = jax.device_get((whole, acted, off))
    np.testing.assert_allclose(acted[steps.live], whole[steps.live], atol=1e-4)
    # The head has something to read and changes what is said.
    assert np.abs(off - whole)[-3:].max() > 1e-3


def test_a_recomputed_step_says_what_its_window_alone_does():
    """What a match is made of that fell out of the window is no match."""
    params, unroll, act = made(1, "recompute")
    steps = history(1)
    acted, live = np.asarray(act(params, steps, None)), steps.live
    expected = last_of_each_window(unroll, params, steps)
    np.testing.assert_allclose(acted[live], expected[live], atol=1e-4)


def test_alone_an_episode_finds_nothing_in_others():
    """What was forgotten when acting is in another segment when training."""
    params, unroll, act = made(1, "cache")
    steps = history()
    begins = np.isin(np.arange(T), [0, 5])[:, None] & np.ones((T, B), bool)
    steps = steps._replace(begins=begins, live=np.ones((T, B), bool), has_prev=~begins)
    whole = np.asarray(unroll(params, steps, None, np.True_))
    np.testing.assert_allclose(act(params, steps, None), whole, atol=1e-4)
    later = unroll(params, jax.tree.map(lambda x: x[5:], steps), None)
    np.testing.assert_allclose(whole[5:], later, atol=1e-4)


def test_gated_to_0_it_is_the_transformer_without_a_head():
    """To the bit; so is its gradient, and a half is in between."""
    params, unroll, _ = made(1, "cache")
    _, plain, _ = made(0, "cache")
    steps = history()
    rest = {name: leaf for name, leaf in params.items() if name != "ngram"}
    off, half = (np.asarray(unroll(params, steps, np.float32(x))) for x in (0.0, 0.5))
    whole = np.asarray(unroll(params, steps, None))
    np.testing.assert_array_equal(off, plain(rest, steps, None))
    assert np.abs(half - off).max() > 1e-3 and np.abs(half - whole).max() > 1e-3
    moved = jax.jit(jax.grad(lambda p: jnp.sum(unroll(p, steps, 0.0) ** 2)))(params)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(moved["ngram"]))


def test_states_that_are_all_new_are_read_by_w1_alone():
    """W2 is then of no account; where states come back it is."""
    params, unroll, _ = made(1, "cache")
    other = dict(params["ngram"])
    other["found"] = jax.tree.map(lambda x: -x, other["found"])
    changed = {**params, "ngram": other}
    new, old = history(states=500), history()
    same = np.unique(new.obs["vector"][:, 0, 0]).size
    assert same == T
    first = jax.tree.map(lambda x: x[:, :1], new)
    np.testing.assert_array_equal(
        unroll(params, first, None), unroll(changed, first, None)
    )
    one, other = (np.asarray(unroll(p, old, None)) for p in (params, changed))
    assert np.abs(one - other).max() > 1e-3
