"""Wrappers: what they show, what they keep, and what is reported behind them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random, types
from mtrl_jax.engine import evaluate, fused_runner, statistics, unchanging
from mtrl_jax.envs import core, mixture, wrappers, wrapping

BATCH = (2, 3)
STEPS = 30
# A pure environment, its options, and one that envpool steps.
ENVS = ["gymnax/Catch-bsuite", "envpool/CartPole-v1"]


def counting(name="count", length=4, pay=2.0):
    """Returns a task that observes [t, 10 t] and a picture full of t, and pays ``pay``."""

    def show(t):
        picture = jnp.broadcast_to(t, (2, 2, 1)).astype(jnp.uint8)
        return {"vector": t * jnp.array([1.0, 10.0]), "image": picture}

    def reset(key, params):
        return jnp.int32(0), show(jnp.int32(0))

    def step(key, t, action, params):
        return t + 1, show(t + 1), params, False, t + 1 >= length

    return core.task(
        name, reset, step, types.Discrete(2), jnp.float32(pay),
        random_score=0.0, reference_score=8.0, max_steps=length,
    )  # fmt: skip


@pytest.fixture(name="streams")
def _streams(play):
    """``streams(name, **given)``: the environment as it is and wrapped, same actions."""

    def both(name, **given):
        if name.startswith("envpool"):
            pytest.importorskip("envpool")
        plain, wrapped = (
            envs.make(name, BATCH, options, seed=1)
            for options in (None, {"wrappers": given})
        )
        return play(plain, STEPS)[0], play(wrapped, STEPS)[0], wrapped

    return both


@pytest.mark.parametrize("name", ENVS)
def test_scaled_rewards_are_those_times_the_scale(name, streams):
    """Nothing else changes, and the task's spec remembers the scale."""
    plain, scaled, env = streams(name, reward_scale=0.25)
    np.testing.assert_array_equal(scaled.reward, plain.reward * np.float32(0.25))
    jax.tree.map(
        np.testing.assert_array_equal,
        scaled._replace(reward=()),
        plain._replace(reward=()),
    )
    assert env.spec.tasks[0].reward_scale == 0.25
    own = jax.jit(jax.vmap(lambda ts: statistics.in_own_units(env.spec, ts)))(scaled)
    np.testing.assert_allclose(own.reward, plain.reward, rtol=1e-6)


@pytest.mark.parametrize("name", ENVS)
def test_stacked_frames_are_the_newest_of_the_episode(name, streams):
    """Oldest first; an episode begins with its first frame, as often as there is room."""
    plain, stacked, _ = streams(name, frame_stack=3)
    for leaf, x in plain.obs.items():
        size, found = x.shape[-1], stacked.obs[leaf]
        assert found.shape == (*x.shape[:-1], 3 * size) and found.dtype == x.dtype
        begun = np.zeros(x.shape[1:3], int)  # steps into the episode
        for t in range(STEPS + 1):
            begun = np.where(plain.first[t], 0, begun + 1)
            for back in range(3):
                source = t - np.minimum(back, begun)
                expected = np.take_along_axis(
                    x, source.reshape(1, *BATCH, *(1,) * (x.ndim - 3)), axis=0
                )[0]
                block = found[t][..., (2 - back) * size : (3 - back) * size]
                np.testing.assert_array_equal(block, expected)


def test_the_spec_says_how_many_observations_an_image_stacks():
    """Of a stack of stacks the outer number; of another image nobody says."""

    def halved(spec):
        def seen(obs):
            height, *rest = obs["image"].shape
            image = jax.ShapeDtypeStruct((height // 2, *rest), obs["image"].dtype)
            return {**obs, "image": image}

        def step(memory, ts):
            return memory, ts._replace(obs={**ts.obs, "image": ts.obs["image"][::2]})

        return wrapping.Wrapper(wrapping.observing(spec, seen), lambda ts: (), step)

    def frames(*wrapped):
        env = core.vectorise(counting(), (1, 1))
        for wrapper in wrapped:
            env = wrapper(env)
        return env.spec.tasks[0].frames

    three, two, one = (lambda x, n=n: wrappers.frame_stack(x, n) for n in (3, 2, 1))
    assert frames() is None
    assert frames(one) is None
    assert frames(three, one, lambda x: wrappers.time_in_episode(x, 5)) == 3
    assert frames(three, two) == 2
    assert frames(three, lambda x: wrapping.wrap(x, halved)) is None


@pytest.mark.parametrize("name", ENVS)
def test_time_in_the_episode_is_the_last_number_shown(name, streams):
    """0 at its first step, and from there on one part of the given steps each."""
    plain, timed, _ = streams(name, time_in_episode=50)
    time = np.zeros(BATCH)
    for t in range(STEPS + 1):
        time = np.where(plain.first[t], 0, time + 1)
        np.testing.assert_allclose(timed.obs["vector"][t, ..., -1], time / 50, 1e-6)
    if "vector" in plain.obs:
        np.testing.assert_array_equal(
            timed.obs["vector"][..., :-1], plain.obs["vector"]
        )


def test_all_at_once_scale_then_stack_then_tell_the_time(play):
    """Pictures and vectors are stacked, time is shown once, by the longest episode."""
    given = {"time_in_episode": True, "frame_stack": 2, "reward_scale": 3.0}
    env = core.vectorise(wrappers.apply(counting(), given), (1, 1))
    ts, *_ = play(env, 5)
    assert env.spec.obs["image"].shape == (2, 2, 2)
    vector = [[0, 0, 0, 0, 0], [0, 0, 1, 10, 0.25], [1, 10, 2, 20, 0.5]]
    vector += [[2, 20, 3, 30, 0.75], [3, 30, 4, 40, 1], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(ts.obs["vector"][:, 0, 0], np.float32(vector))
    assert ts.obs["image"][2, 0, 0, 0, 0].tolist() == [1, 2]
    np.testing.assert_array_equal(ts.reward[:, 0, 0], [0, 6, 6, 6, 6, 0])


@pytest.mark.parametrize("name", ["gymnax/Catch-bsuite", "envpool/CartPole-v1"])
def test_driven_from_python_it_is_the_same(name, streams):
    """A HostEnv is wrapped by the same functions."""
    given = {"frame_stack": 2, "reward_scale": 0.5, "time_in_episode": 9}
    _, ts, env = streams(name, **given)
    if name.startswith("envpool"):
        hosted = envs.make_host(name, BATCH, {"wrappers": given}, seed=1)
    else:
        key = random.at(random.roots(0, BATCH[0]), 0, random.ENV)
        hosted = mixture.host_from_pure(env, key)
    found = [hosted.reset()]
    taken = np.random.default_rng(0).random((STEPS, 8, 64), np.float32)
    taken = (taken[:, :2, :3] * np.array(env.spec.action.n)).astype(np.int32)
    for action in taken:
        hosted.send(action)
        found.append(hosted.recv())
    hosted.close()
    for t in range(STEPS + 1):
        one = jax.tree.map(lambda x: x[t], ts)  # noqa: B023
        jax.tree.map(np.testing.assert_array_equal, one, jax.device_get(found[t]))


def constant_agent():
    """Returns an agent that pulls 0 and learns the mean reward that it sees."""
    return types.Agent(
        init=lambda key, hp: jnp.float32(0),
        carry=lambda batch: (),
        act=lambda learner, carry, ts, key, hp: (
            jnp.zeros(ts.reward.shape, jnp.int32), carry, ()
        ),
        update=lambda learner, ro, key, hp, step: (
            jnp.max(ro.ts.reward), {"seen": jnp.max(ro.ts.reward)}, ()
        ),
    )  # fmt: skip


def test_returns_are_reported_in_the_environments_own_unit():
    """Training and evaluation; the agent learns from what is scaled."""
    task = wrappers.reward_scale(wrappers.reward_scale(counting(), 0.2), 0.5)
    other = wrappers.reward_scale(counting("other", pay=4.0), 10.0)
    env = mixture.make(core.join([(task, (2, 3)), (other, (2, 3))]))
    assert [x.reward_scale for x in env.spec.tasks] == [0.1, 10.0]
    agent, keys, hp = constant_agent(), random.roots(0, 2), np.zeros(2, np.float32)
    runner = fused_runner.make(agent, env, unroll_length=5, updates_per_chunk=4)
    state, out = jax.jit(runner.chunk)(jax.jit(runner.init)(keys, hp), hp)
    mean = out.episodes["return"] / out.episodes["episodes"]
    np.testing.assert_allclose(mean, [[8.0, 16.0]] * 2, rtol=1e-6)
    np.testing.assert_allclose(out.metrics["seen"], 40.0)
    recent = np.asarray(state.stats.recent)[:, :3, :3]
    np.testing.assert_allclose(np.unique(recent), 8.0, rtol=1e-6)
    start = jax.jit(env.reset)(keys, env.params)
    result = jax.jit(evaluate.make(agent, env, 10))(state.learner, hp, keys, *start)
    expected = np.where(np.arange(6) < 3, 8.0, 16.0)
    np.testing.assert_allclose(result.returns, [expected] * 2, rtol=1e-6)


def test_wrapped_tasks_that_differ_in_numbers_still_share_their_code():
    """Also of different scales and longest episodes: one Env of both."""
    reset, step = counting().reset, counting().step

    def wrapped(scale, length):
        task = counting()._replace(reset=reset, step=step)
        task = task._replace(spec=task.spec._replace(max_steps=length))
        given = {"reward_scale": scale, "frame_stack": 2, "time_in_episode": True}
        return wrappers.apply(task, given)

    x, y = wrapped(0.5, 4), wrapped(2.0, 8)
    assert core.same_code(x, y)
    (env,) = core.join([(x, (1, 1)), (y, (1, 1))])
    state, ts = jax.jit(env.reset)(random.roots(0, 1), env.params)
    _, ts = jax.jit(env.step)(state, np.zeros((1, 2), np.int32), env.params)
    np.testing.assert_array_equal(ts.reward, [[1.0, 4.0]])
    time = np.asarray(ts.obs["vector"])[..., -1]
    np.testing.assert_array_equal(time, [[0.25, 0.125]])
    assert not core.same_code(x, wrappers.frame_stack(y, 3))
    assert not core.same_code(counting(), wrappers.frame_stack(counting(), 2))


def test_a_wrapper_of_ones_own_is_a_function_of_a_spec(play):
    """It may remember: here the highest reward of the episode so far."""

    def best(spec):
        def step(highest, ts):
            highest = jnp.maximum(highest, ts.reward)
            return highest, ts._replace(reward=highest)

        return wrapping.Wrapper(spec, lambda ts: -jnp.inf, step)

    env = envs.make("gymnax/Catch-bsuite", BATCH)
    plain, *_ = play(env, STEPS)
    ts, *_ = play(wrapping.wrap(env, best), STEPS)
    highest = np.full(BATCH, -np.inf)
    for t in range(STEPS + 1):
        highest = np.where(plain.first[t], 0.0, np.maximum(highest, plain.reward[t]))
        np.testing.assert_array_equal(ts.reward[t], highest)


def test_a_wrapper_may_say_which_actions_are_legal(play):
    """Nothing calls them legal for good then, neither the loop nor a test; others may."""

    def hide(spec):
        def step(memory, ts):
            mask = ts.action_mask & (jnp.arange(3) != 1)
            return memory, ts._replace(action_mask=mask)

        return wrapping.Wrapper(spec, lambda ts: (), step)

    env = envs.make("gymnax/Catch-bsuite", BATCH)
    assert env.spec.masks == ((True, True, True),)
    assert wrappers.reward_scale(env, 0.5).spec.masks == env.spec.masks
    hidden = wrapping.wrap(env, hide)
    assert hidden.spec.masks == ()
    ts, *_ = play(hidden, STEPS)
    known = unchanging.known(hidden.spec, ts)
    np.testing.assert_array_equal(known.action_mask, ts.action_mask)
    assert not known.action_mask[..., 1].any() and known.action_mask[..., 2].all()


def test_the_best_action_and_measures_are_those_beneath(play):
    """Labels read a task's own state through the wrappers; info and renders, too."""
    options = {"wrappers": {"frame_stack": 2}}
    name = "dark/room"
    env, plain = envs.make(name, BATCH, options), envs.make(name, BATCH)
    best, key = envs.optimal_action(name, options), random.roots(0, 2)
    best = jax.jit(best)
    state, beneath = (
        jax.device_get(jax.jit(x.reset)(key, x.params)[0]) for x in (env, plain)
    )
    np.testing.assert_array_equal(
        best(state.params, state.inner), best(beneath.params, beneath.inner)
    )
    assert jax.jit(env.info)(state).keys() == jax.jit(plain.info)(beneath).keys()
    np.testing.assert_array_equal(env.render(state, 1, 2), plain.render(beneath, 1, 2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"frame_stak": 2}, r"options\.wrappers\.frame_stak is unknown.* frame_stack"),
        ({"frame_stack": 0}, r"wrappers\.frame_stack: got 0, give an integer from 1"),
        ({"frame_stack": True}, "frame_stack: got True"),
        (
            {"reward_scale": 0},
            r"wrappers\.reward_scale: got 0, give a number from 1e-06 to",
        ),
        ({"reward_scale": float("inf")}, "reward_scale: got inf"),
        ({"reward_scale": True}, "reward_scale: got True"),
        ({"time_in_episode": -1}, r"time_in_episode: got -1"),
        ({"time_in_episode": 1.5}, r"time_in_episode: got 1\.5"),
        (3, r"options\.wrappers=3: give a mapping"),
    ],
)
def test_a_wrapper_that_cannot_be_is_named(given, message):
    """One line: the option, what was given, what would work."""
    with pytest.raises(ValueError, match=message) as error:
        envs.make("probe/both", BATCH, {"wrappers": given})
    assert "\n" not in str(error.value)


def test_time_needs_a_longest_episode_or_steps_to_divide_by():
    """True is refused by name where the environment knows no limit."""
    task = counting()
    task = task._replace(spec=task.spec._replace(max_steps=None))
    with pytest.raises(ValueError, match="count knows no longest episode, give the st"):
        wrappers.time_in_episode(task)
    assert wrappers.time_in_episode(task, 10).wrappers


def test_false_is_no_wrapper_and_one_frame_is_what_there_is(streams):
    """So that a config can leave one out."""
    plain, same, env = streams(
        ENVS[0], frame_stack=1, reward_scale=False, time_in_episode=False
    )
    jax.tree.map(np.testing.assert_array_equal, plain, same)
    assert env.spec.tasks[0].reward_scale == 1.0
