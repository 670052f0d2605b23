"""Evaluating from Python gives the numbers of evaluating inside the program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import random, types
from mtrl_jax.engine import evaluate
from mtrl_jax.envs import core, mixture, probes, wrappers

P = 2
STEPS = 40


def counting_agent(spec):
    """Acts at random, by weights, hyperparameters, memory and key; learns nothing."""
    n = spec.action.n

    def act(learner, carry, ts, key, hp):
        carry = jnp.where(ts.first, 0.0, carry) + 1.0
        logits = (carry[:, None] + learner[None]) * hp
        return jax.random.categorical(key, logits).astype(jnp.int32), carry, ()

    def init(key, hp):
        return jax.random.normal(key, (n,))

    return types.Agent(
        init, lambda batch: jnp.zeros(batch), act, lambda s, *_: (s, {}, ())
    )


def environment():
    """Returns two tasks with episodes of different lengths; one reports a measure, and
    its rewards are scaled."""
    timed = probes.task("delayed", {"length": 7})
    timed = timed._replace(info=lambda state, params: {"time": state.time * 1.0})
    parts = [
        core.vectorise(wrappers.apply(timed, {"reward_scale": 0.25}), (P, 2)),
        core.vectorise(probes.task("action"), (P, 3)),
    ]
    return mixture.make(parts)


def both(max_steps, rounds=1):
    """Returns the evaluations of the same agents inside the program and from Python."""
    env = environment()
    agent = counting_agent(env.spec)
    roots, hp = random.roots(3, P), jnp.asarray([0.5, 2.0])
    state = jax.vmap(agent.init)(roots, hp)
    start_key, key = random.fold(roots, 0), random.fold(roots, 1)

    inside = jax.jit(evaluate.make(agent, env, max_steps, rounds))
    expected = inside(state, hp, key, *env.reset(start_key, env.params))
    hosted = mixture.host_from_pure(env, start_key)
    run = evaluate.make_host(agent, hosted, max_steps, rounds)
    return expected, run(state, hp, key), lambda: run(state, hp, key)


def assert_equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_it_equals_the_evaluation_inside_the_program():
    """Same keys, same episodes: returns, lengths, tasks and measures."""
    expected, hosted, again = both(STEPS)
    assert_equal(hosted, expected)
    assert expected.complete.all()
    assert len(np.unique(expected.length)) > 1
    # As the task pays it, not as agents see it.
    np.testing.assert_array_equal(expected.returns[:, :2], 1.0)
    assert expected.info["time"][:, :2].all() and not expected.info["time"][:, 2:].any()
    # Every call resets the environment, so the same key gives the same episodes.
    assert_equal(again(), expected)


def test_a_slot_that_does_not_finish_reports_what_it_had():
    """The step limit is the same one."""
    expected, hosted, _ = both(3)
    assert_equal(hosted, expected)
    assert not expected.complete.all()
    assert hosted.length.max() == 3


def test_rounds_are_those_inside_the_program():
    """A slot's second episode is another one, and as long as the task says."""
    expected, hosted, _ = both(STEPS, rounds=2)
    assert_equal(hosted, expected)
    assert hosted.complete.all() and hosted.task.shape == (P, 2 * 5)
    np.testing.assert_array_equal(hosted.task[:, :5], hosted.task[:, 5:])
    assert expected.info["time"][:, [0, 1, 5, 6]].all()


def test_it_stops_when_the_last_slot_has_finished():
    """The longest episode decides how often the environment is stepped."""
    env = environment()
    hosted = mixture.host_from_pure(env, random.roots(0, P))
    sent = []

    def send(action):
        sent.append(action)
        hosted.send(action)

    agent = counting_agent(env.spec)
    run = evaluate.make_host(agent, hosted._replace(send=send), 10**6)
    hp = jnp.ones(P)
    result = run(jax.vmap(agent.init)(random.roots(0, P), hp), hp, random.roots(1, P))
    assert len(sent) == result.length.max()


def test_a_measure_before_the_first_reset_is_an_error():
    """There is no step that it could be of."""
    hosted = mixture.host_from_pure(environment(), random.roots(0, P))
    with pytest.raises(RuntimeError, match="info: reset first"):
        hosted.info()
