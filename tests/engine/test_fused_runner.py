"""The training step as one program: what is scanned, counted, kept and given back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random, types
from mtrl_jax.engine import evaluate, fused_runner, statistics
from mtrl_jax.envs import curriculum, mixture

K = 2  # updates per chunk; a scan of one step may be compiled to other bits


@pytest.fixture(name="run", scope="module")
def _run(tiny):
    """(jitted chunk, fresh state, hp) of two tiny agents on a mixture."""
    runner, state, hp = tiny.start(updates_per_chunk=K)
    return jax.jit(runner.chunk), state, hp


def test_one_long_chunk_is_two_short_ones_bit_for_bit(run, tiny):
    """How often the host looks changes nothing: chunk(2K) = chunk(K) after chunk(K)."""
    chunk, state, hp = run
    long, *_ = tiny.start(updates_per_chunk=2 * K)
    whole, out = jax.jit(long.chunk)(state, hp)
    half, first = chunk(state, hp)
    after, second = chunk(half, hp)
    keep = lambda s: s._replace(stats=s.stats._replace(chunk={}))  # noqa: E731
    assert not tiny.differs(keep(whole), keep(after))
    assert int(after.step) == 2 * K
    for name, total in out.episodes.items():
        np.testing.assert_array_equal(
            total, first.episodes[name] + second.episodes[name]
        )
    assert out.episodes["episodes"].min() > 0
    recent, _ = statistics.recent_mean(whole.stats, whole.ts.task, 2)
    np.testing.assert_allclose(out.recent, recent, rtol=1e-6)
    np.testing.assert_array_equal(out.recent, second.recent)
    assert np.isfinite(recent).all() and np.asarray(out.plays).all()
    # Metrics are means over the chunk's updates.
    mean = (first.metrics["loss"] + second.metrics["loss"]) / 2
    np.testing.assert_allclose(out.metrics["loss"], mean, rtol=1e-5, atol=1e-7)
    assert "learner" in str(tiny.differs(keep(whole), keep(half)))


def test_evaluating_does_not_change_the_next_chunk(run, tiny):
    """Own environment, own slots, own keys: training goes on bit for bit."""
    chunk, state, hp = run
    state, _ = chunk(state, hp)
    expected = chunk(state, hp)
    env = tiny.env(slots=3)
    run_episodes = jax.jit(evaluate.make(tiny.make(env.spec), env, max_steps=4))
    key = random.at(state.key, state.step, random.EVALUATE)
    start = jax.jit(env.reset)(random.fold(key, 0), env.params)
    before = tiny.leaves(state)
    result = run_episodes(state.learner, hp, random.fold(key, 1), *start)
    assert np.asarray(result.complete).all()
    for path, leaf in tiny.leaves(state).items():
        np.testing.assert_array_equal(leaf, before[path])
    assert not tiny.differs(chunk(state, hp), expected)


def test_nothing_is_traced_again_after_the_first_chunk(tiny):
    """Neither for later states nor for other hyperparameters; donated states are gone."""
    runner, state, hp = tiny.start(updates_per_chunk=K)
    traces = []

    def counted(state, hp):
        traces.append(1)
        return runner.chunk(state, hp)

    chunk = jax.jit(counted, donate_argnums=0)
    for i in range(3):
        old = state
        state, _ = chunk(state, hp._replace(learning_rate=hp.learning_rate * (i + 1)))
        # The sums of the chunk before are not read, so there is nothing to donate.
        old = old._replace(stats=old.stats._replace(chunk={}))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    assert len(traces) == 1
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_a_member_that_is_not_finite_is_named_and_harms_no_other(run, tiny):
    """`finite` is per member; the others go on with the same bits."""
    chunk, state, hp = run
    w = state.learner["w"].at[1, 0, 0].set(jnp.nan)
    broken = state._replace(learner=state.learner | {"w": w})
    (after, out), (expected, good) = chunk(broken, hp), chunk(state, hp)
    np.testing.assert_array_equal(out.finite, [True, False])
    np.testing.assert_array_equal(good.finite, [True, True])
    x, y = (s.learner["w"][0] for s in (after, expected))
    np.testing.assert_array_equal(x, y)


@pytest.fixture(name="recorded", scope="module")
def _recorded(tiny):
    """Two chunks of one update each by an agent that keeps what it was given."""
    env = tiny.env(2, 3)
    base, steps = tiny.make(env.spec), 5

    def init(key, hp):
        learner = base.init(key, hp)
        carry = base.carry(env.batch[1])
        ts = jax.eval_shape(
            lambda k: env.reset(k, env.params)[1], random.roots(0, env.batch[0])
        )
        one = jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), ts)
        act = base.act(learner, carry, one, key, hp)
        repeat = lambda x, n: jnp.zeros((n, *x.shape), x.dtype)  # noqa: E731
        empty = types.Rollout(
            jax.tree.map(lambda x: repeat(x, steps + 1), one),
            repeat(act[0], steps),
            (repeat(act[2], steps), repeat(jax.random.key_data(key), steps)),
            carry,
        )
        return learner | {"seen": (empty, jax.random.key_data(key))}

    def act(learner, carry, ts, key, hp):
        action, carry, extras = base.act(learner, carry, ts, key, hp)
        bits = jnp.broadcast_to(jax.random.key_data(key), (1, 2))
        return action, carry, (extras, bits[0])

    def update(learner, rollout, key, hp, step):
        return learner | {"seen": (rollout, jax.random.key_data(key))}, {}, ()

    agent = types.Agent(init, base.carry, act, update)
    runner, state, hp = tiny.start(
        2, agent=agent, env_=env, unroll_length=steps, updates_per_chunk=1
    )
    chunk = jax.jit(runner.chunk)
    one, _ = chunk(state, hp)
    two, _ = chunk(one, hp)
    return env, (state, one, two)


def test_a_rollout_is_what_the_environment_did(recorded):
    """ts[t + 1] is what action[t] led to, from the state and carry of its start."""
    env, (state, one, _) = recorded
    rollout, _ = one.learner["seen"]
    env_state, step = state.env, jax.jit(env.step)
    for t in range(rollout.action.shape[1]):
        env_state, ts = step(env_state, rollout.action[:, t], env.params)
        expected = jax.tree.map(lambda x, t=t: x[:, t + 1], rollout.ts)
        for x, y in zip(jax.tree.leaves(ts), jax.tree.leaves(expected)):
            np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(rollout.ts.first[:, 0], np.ones((2, 6), bool))


def test_rollouts_follow_each_other_without_a_gap(recorded):
    """The last step of one is the first of the next, with the carry of that moment."""
    _, (state, one, two) = recorded
    first, second = one.learner["seen"][0], two.learner["seen"][0]
    for x, y in zip(jax.tree.leaves(first.ts), jax.tree.leaves(second.ts)):
        np.testing.assert_array_equal(x[:, -1], y[:, 0])
    np.testing.assert_array_equal(first.carry, state.carry)
    np.testing.assert_array_equal(second.carry, one.carry)
    assert np.asarray(one.carry).any()


def test_no_key_is_used_twice_and_roots_stay(recorded):
    """Every member, update and step acts and learns with a key of its own."""
    _, (state, one, two) = recorded
    used = []
    for run in (one, two):
        rollout, update_key = run.learner["seen"]
        used += [*np.asarray(rollout.extras[1]).reshape(-1, 2), *np.asarray(update_key)]
    used += [*np.asarray(jax.random.key_data(state.key))]
    assert len(np.unique(used, axis=0)) == len(used) == 2 * 2 * (5 + 1) + 2
    assert (state.key == two.key).all()


def course_of(options, start, batch, **changes):
    """Returns (a mixture of one delayed probe, its curriculum from ``start``)."""
    env = mixture.make([envs.make("probe/delayed", batch, options)])
    whole = envs.pure_task("probe/delayed", options)
    easy = envs.pure_task("probe/delayed", start)
    course = curriculum.Course(
        name="delayed", task=0, part=0, rows=slice(None), members=slice(None),
        start=curriculum.start_of(whole, easy, list(start)), measure="return",
        threshold=0.5, steps=2, min_episodes=8,
    )  # fmt: skip
    courses = [course._replace(**changes)]
    return env, curriculum.make(env.params, batch, 1, courses)


def test_a_curriculum_changes_what_the_members_play(tiny):
    """Longer episodes for the member that passes, and only after it did."""
    # Every return is 1: a threshold below it is passed, so compare two courses.
    lengths = {}
    for threshold in (0.5, 2.0):
        env, course = course_of(
            {"length": 5}, {"length": 1}, (2, 4), threshold=threshold
        )
        runner, state, hp = tiny.start(
            2, env_=env, unroll_length=6, updates_per_chunk=K, curriculum=course
        )
        assert float(state.curriculum.level.max()) == 0.0
        chunk, seen = jax.jit(runner.chunk), []
        for _ in range(4):
            state, out = chunk(state, hp)
            seen.append(out.episodes["length"] / out.episodes["episodes"])
        lengths[threshold] = np.stack(seen)
    np.testing.assert_array_equal(lengths[2.0], 1.0)
    assert (lengths[0.5][0] < 3).all() and (lengths[0.5][-1] == 5).all()


def test_without_a_curriculum_the_environments_own_params_hold(tiny):
    """And a curriculum from there to there gives the same bits of learning. It is given
    every episode once."""
    env, course = course_of({"length": 3}, {"length": 3}, (2, 2), min_episodes=1e6)
    ends = []
    for one in (None, course):
        runner, state, hp = tiny.start(2, env_=env, curriculum=one)
        state, out = jax.jit(runner.chunk)(state, hp)
        ends.append((state.learner, state.stats, out.episodes))
    assert not tiny.differs(*ends)
    episodes = ends[0][2]
    np.testing.assert_array_equal(episodes["length"] / episodes["episodes"], 3.0)
    counted = state.curriculum.episodes.sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(counted, episodes["episodes"])
    np.testing.assert_array_equal(state.curriculum.total, state.curriculum.episodes)
    assert int(state.step) > 1 and (episodes["episodes"] > 0).all()


def test_append_joins_the_last_step_to_those_before():
    """T steps and the one after them are T + 1."""
    ts = types.TimeStep(*(jnp.arange(3) + i for i in range(7)))
    last = types.TimeStep(*(jnp.int32(10 + i) for i in range(7)))
    out = fused_runner.append(ts, last)
    np.testing.assert_array_equal(out.reward, [1, 2, 3, 11])


def test_recording_gives_out_every_step_and_changes_none(tiny):
    """One Rollout of the whole chunk, which the next one's continues; the same bits."""
    plain, state, hp = tiny.start(updates_per_chunk=4)
    recording, other, _ = tiny.start(updates_per_chunk=2, record=True)
    state, out = jax.jit(plain.chunk)(state, hp)
    assert out.history == ()
    parts = []
    for _ in range(2):
        before = other.ts
        other, out = jax.jit(recording.chunk)(other, hp)
        parts.append(out.history)
        assert out.history.ts.first.shape == (11, 2, 8)  # 2 updates of 5 steps
        assert out.history.action.shape[:3] == (10, 2, 8)
        assert out.history.extras == ()  # Nothing of them was asked for.
        assert not tiny.differs(jax.tree.map(lambda x: x[0], out.history.ts), before)
        assert not tiny.differs(jax.tree.map(lambda x: x[-1], out.history.ts), other.ts)
    assert not tiny.differs(state.learner, other.learner)
    # The environment, given the recorded actions, gives the recorded steps.
    env = tiny.env()
    keys = random.at(other.key, 0, random.ENV)
    env_state, ts = jax.jit(env.reset)(keys, env.params)
    step = jax.jit(env.step)
    for t in range(20):
        history, at = parts[t // 10], t % 10
        recorded = jax.tree.map(lambda x, at=at: x[at], history.ts)
        assert not tiny.differs(ts, recorded)
        env_state, ts = step(env_state, history.action[at], env.params)
