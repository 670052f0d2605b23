"""Evaluation: first episodes, exact returns, greedy by hp, bounded in steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random, types
from mtrl_jax.engine import evaluate
from mtrl_jax.envs import mixture


def script(choose):
    """Returns an agent that acts by ``choose(ts, memory, w) -> (action, memory)``."""

    def act(learner, memory, ts, key, hp):
        action, memory = choose(ts, memory, learner)
        return action, memory, ()

    return types.Agent(
        init=lambda key, hp: jnp.zeros(()),
        carry=lambda batch: jnp.zeros(batch),
        act=act,
        update=lambda learner, rollout, key, hp, step: (learner, {}, ()),
    )


def remember(ts, cue, w):
    """Plays the memory and both probes perfectly, or perfectly wrong for w = -1."""
    shown = ts.obs["vector"][..., 0]
    cue = jnp.where(ts.first, shown, cue)
    return ((w * cue) > 0).astype(jnp.int32), cue


def play(agent, env, learner, max_steps=20, seed=0, rounds=1):
    members = env.batch[0]
    evaluation = evaluate.make(agent, env, max_steps, rounds)

    @jax.jit
    def run(learner):
        key = random.at(random.roots(seed, members), 0, random.EVALUATE)
        start = env.reset(random.fold(key, 0), env.params)
        return evaluation(learner, {}, random.fold(key, 1), *start)

    return jax.device_get(run(np.asarray(learner, np.float32)))


def test_returns_are_the_analytic_ones_of_each_task_and_member():
    """The best policy gets 1 everywhere, its opposite -1, the constant probe always 1."""
    names = ("memory", "both", "constant", "delayed")
    env = mixture.make([envs.make(f"probe/{n}", (2, 5)) for n in names])
    result = play(script(remember), env, [1.0, -1.0])
    assert result.complete.all()
    np.testing.assert_array_equal(result.task[0], np.repeat(range(4), 5))
    np.testing.assert_array_equal(result.length[0], np.repeat([4, 1, 1, 2], 5))
    np.testing.assert_array_equal(result.returns[0], 1.0)
    expected = np.repeat([-1.0, -1.0, 1.0, 1.0], 5)
    np.testing.assert_array_equal(result.returns[1], expected)


def test_only_the_first_episode_of_a_slot_counts():
    """Slots that finish early wait for the others without collecting more."""
    parts = [envs.make("probe/constant", (1, 2)), envs.make("probe/memory", (1, 1))]
    result = play(script(remember), mixture.make(parts), [1.0])
    np.testing.assert_array_equal(result.length, [[1, 1, 4]])
    np.testing.assert_array_equal(result.returns, [[1.0, 1.0, 1.0]])


def test_a_slot_that_does_not_finish_in_time_says_so():
    """It reports what it had when the step limit came."""
    parts = [envs.make("probe/constant", (1, 1)), envs.make("probe/memory", (1, 1))]
    result = play(script(remember), mixture.make(parts), [1.0], max_steps=3)
    np.testing.assert_array_equal(result.complete, [[True, False]])
    np.testing.assert_array_equal(result.length, [[1, 3]])
    np.testing.assert_array_equal(result.returns, [[1.0, 0.0]])


def test_measures_are_those_of_the_episodes_end():
    """A success that shows at the last step only is read there, not after."""
    env = envs.make("probe/delayed", (1, 2), {"length": 3})
    inner = lambda state: state.inner.time.astype(jnp.float32)  # noqa: E731
    env = env._replace(info=lambda state: {"time": inner(state)})
    mixed = mixture.make([env, envs.make("probe/memory", (1, 1))])
    result = play(script(remember), mixed, [1.0])
    np.testing.assert_array_equal(result.info["time"], [[3.0, 3.0, 0.0]])


def test_temperature_zero_is_greedy_and_one_is_not(tiny):
    """The keys do not matter to a greedy agent; they do to one that explores."""
    env = tiny.env(1, 16)
    agent = tiny.make(env.spec)
    evaluation = evaluate.make(agent, env, 8)

    @jax.jit
    def returns(temperature, seed):
        hp = tiny.hparams(1, temperature=temperature)
        state = jax.vmap(agent.init)(random.roots(0, 1), hp)
        start = env.reset(random.roots(1, 1), env.params)
        return evaluation(state, hp, random.roots(seed, 1), *start).returns

    for temperature, same in ((0.0, True), (1.0, False)):
        one, two = (np.asarray(returns(temperature, seed)) for seed in (2, 3))
        assert (one == two).all() == same


@pytest.mark.parametrize("limit", [1, 4])
def test_no_more_steps_are_taken_than_needed_or_allowed(limit):
    """The loop stops with the last slot, or at the limit."""
    env = envs.make("probe/memory", (1, 2))
    counted = env._replace(
        info=lambda state: {"draws": state.draws.astype(jnp.float32)}
    )
    result = play(script(remember), counted, [1.0], max_steps=limit)
    # One draw for the reset and one for each step.
    np.testing.assert_array_equal(result.info["draws"], 1.0 + limit)
    assert bool(result.complete.all()) is (limit == 4)


def test_rounds_are_the_first_episodes_of_a_slot_in_turn():
    """A slot's one after the other, counted without the resets between; slow ones last."""
    parts = [envs.make("probe/constant", (2, 2)), envs.make("probe/memory", (2, 1))]
    result = play(script(remember), mixture.make(parts), [1.0, -1.0], rounds=3)
    assert result.complete.all()
    np.testing.assert_array_equal(result.task, [[0, 0, 1] * 3] * 2)
    np.testing.assert_array_equal(result.length, [[1, 1, 4] * 3] * 2)
    np.testing.assert_array_equal(result.returns[0], 1.0)
    np.testing.assert_array_equal(result.returns[1], [1.0, 1.0, -1.0] * 3)


def test_rounds_have_the_steps_of_as_many_episodes_and_resets():
    """What has not begun by then has nothing; one step less cuts the last episode."""
    env = envs.make("probe/memory", (1, 1))
    whole = play(script(remember), env, [1.0], max_steps=4, rounds=2)
    np.testing.assert_array_equal(whole.length, [[4, 4]])
    assert whole.complete.all()
    cut = play(script(remember), env, [1.0], max_steps=2, rounds=2)
    np.testing.assert_array_equal(cut.complete, [[True, False]])
    np.testing.assert_array_equal(cut.length, [[4, 0]])
