"""The offline runner: any agent's update, scanned over what is drawn from data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import random, types
from mtrl_jax.engine import offline_runner, sharding

MEMBERS, T, B, K = 2, 4, 3, 3
WEIGHTS = np.array([1.0, -2.0, 0.5], np.float32)


class Hparams(NamedTuple):
    rate: Any = 0.1


def regression():
    """Returns an agent that fits ``action`` linearly by observations; noise by its key,
    the less the later."""

    def init(key, hp):
        w = jax.random.normal(key, (3,))
        return {"w": w, "updates": jnp.zeros((), jnp.int32)}

    def act(learner, carry, ts, key, hp):
        return ts.obs["vector"] @ learner["w"], carry, ()

    def update(learner, rollout, key, hp, step):
        assert rollout.carry.shape == (B,)  # A fresh one, as the data have none.

        def loss(w):
            predicted = rollout.ts.obs["vector"][:-1] @ w
            return jnp.mean(jnp.square(predicted - rollout.action))

        value, grad = jax.value_and_grad(loss)(learner["w"])
        noise = 1e-3 / (1.0 + step) * jax.random.normal(key, grad.shape)
        w = learner["w"] - hp.rate * (grad + noise)
        return {"w": w, "updates": learner["updates"] + 1}, {"loss": value}, ()

    return types.Agent(init, jnp.zeros, act, update)


def sample(key, data):
    """Returns windows of rows that follow each other: data are (x [N, 3], y [N])."""
    x, y = data
    start = jax.random.randint(key, (1, B), 0, x.shape[0] - T)
    place = start + jnp.arange(T + 1)[:, None]
    flags = jnp.zeros((T + 1, B), bool)
    ts = types.TimeStep(
        obs={"vector": x[place]},
        reward=jnp.zeros((T + 1, B)),
        discount=jnp.ones((T + 1, B)),
        first=flags,
        last=flags,
        task=jnp.zeros((T + 1, B), jnp.int32),
        action_mask=jnp.ones((T + 1, B, 1), bool),
    )
    return types.Rollout(ts, y[place[:-1]], (), ())


def data(seed=0):
    """Returns (x, y) with y linear in x."""
    x = np.random.default_rng(seed).normal(size=(50, 3)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(x @ WEIGHTS)


def start(members=MEMBERS, k=K, **options):
    """Returns (runner, fresh state, hp)."""
    runner = offline_runner.make(
        regression(), sample, members=members, updates_per_chunk=k, **options
    )
    hp = Hparams(jnp.full(members, 0.1, jnp.float32))
    return runner, jax.jit(runner.init)(random.roots(0, members), hp), hp


def test_two_chunks_are_one_of_twice_the_length(tiny):
    """Nothing but the state goes from one update to the next."""
    runner, state, hp = start()
    chunk, losses = jax.jit(runner.chunk), []
    for _ in range(2):
        state, out = chunk(state, hp, data())
        losses.append(out.metrics["loss"])
    longer, other, _ = start(k=2 * K)
    other, whole = jax.jit(longer.chunk)(other, hp, data())
    assert int(state.step) == 2 * K
    np.testing.assert_allclose(whole.metrics["loss"], np.mean(losses, 0), rtol=1e-5)
    assert not tiny.differs(state.learner, other.learner)
    np.testing.assert_array_equal(state.recent, out.metrics["loss"])
    broken = state.learner | {"w": state.learner["w"].at[1].set(jnp.nan)}
    _, out = chunk(state._replace(learner=broken), hp, data())
    np.testing.assert_array_equal(out.finite, [True, False])


def test_a_replay_stays_out(tiny):
    """Data stand in its place: it is never asked, and the state has no room for one."""

    def never(*_):
        raise AssertionError("a replay was asked offline")

    keeps = regression()._replace(replay=types.Replay(never, never, never))
    runner = offline_runner.make(keeps, sample, members=MEMBERS, updates_per_chunk=K)
    _, start_state, hp = start()
    state = jax.jit(runner.init)(random.roots(0, MEMBERS), hp)
    assert jax.tree.structure(state) == jax.tree.structure(start_state)
    state, _ = jax.jit(runner.chunk)(state, hp, data())
    without, _ = jax.jit(start()[0].chunk)(start_state, hp, data())
    assert not tiny.differs(state.learner, without.learner)


def test_every_update_is_the_agents_own_on_windows_of_its_member():
    """By hand: draw with the member's DATA key, update with its UPDATE key."""
    runner, state, hp = start()
    after, _ = jax.jit(runner.chunk)(state, hp, data())
    agent, drawn = regression(), []
    for p in range(MEMBERS):
        own = jax.tree.map(lambda x, p=p: x[p], state.learner)
        for step in range(K):
            keys = (random.at(state.key[p], step, tag) for tag in (8, random.UPDATE))
            rollout = sample(next(keys), data())._replace(carry=jnp.zeros(B))
            drawn.append(np.asarray(rollout.action).tobytes())
            own, *_ = agent.update(own, rollout, next(keys), Hparams(0.1), step)
        np.testing.assert_allclose(after.learner["w"][p], own["w"], rtol=1e-5)
    assert random.DATA == 8  # A number that saved runs stand on.
    assert len(set(drawn)) == MEMBERS * K  # No two updates saw the same windows.


def test_it_learns_what_the_data_say():
    """Both members find the weights that made the data."""
    runner, state, hp = start(k=100)
    state, out = jax.jit(runner.chunk)(state, hp, data())
    expected = np.broadcast_to(WEIGHTS, (MEMBERS, 3))
    np.testing.assert_allclose(state.learner["w"], expected, atol=0.02)
    assert np.asarray(out.finite).all() and out.episodes == {}


def test_measuring_is_fair():
    """The same windows for all members at every update: only weights make a difference."""
    runner, state, hp = start()
    same = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), state.learner)
    twins = state._replace(learner=same)
    measure = jax.jit(runner.measure)
    first = measure(twins, hp, data(1))["loss"]
    assert first[0] == first[1]
    later = measure(twins._replace(step=state.step + 7), hp, data(1))["loss"]
    np.testing.assert_array_equal(first, later)
    assert (
        measure(state, hp, data(1))["loss"][0] != measure(state, hp, data(2))["loss"][0]
    )


def test_data_are_no_part_of_the_program():
    """Other data of the same shapes need no other program and give other weights."""
    runner, state, hp = start()
    traces = []

    def chunk(*args):
        traces.append(1)
        return runner.chunk(*args)

    jitted = jax.jit(chunk)
    results = [jitted(state, hp, data(seed))[0].learner["w"] for seed in (0, 1)]
    assert len(traces) == 1
    assert (results[0] != results[1]).any()


@pytest.mark.parametrize("at_once", [None, 1])
def test_members_on_several_devices_learn_the_same(at_once):
    """Split over devices, all together or one by one: the same weights to 1e-6."""
    runner, state, hp = start(members=4)
    alone, _ = jax.jit(runner.chunk)(state, hp, data())
    mesh = sharding.make_mesh(4, 1, jax.devices()[:2])
    split, state, hp = start(members=4, at_once=at_once, mesh=mesh)
    place = [sharding.shardings(x, mesh, 4) for x in (state, hp)]
    state, hp = jax.device_put((state, hp), tuple(place))
    several, _ = jax.jit(split.chunk)(state, hp, data())
    np.testing.assert_allclose(
        several.learner["w"], alone.learner["w"], rtol=1e-6, atol=1e-6
    )
