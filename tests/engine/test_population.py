"""A population is its members side by side."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import replay_probe

from mtrl_jax import random, types
from mtrl_jax.engine import population


@pytest.fixture(name="run", scope="module")
def _run(tiny):
    """``run(members, at_once)`` -> final state after two chunks, compiled once each."""
    done = {}

    def run(members, at_once=None):
        if (members, at_once) not in done:
            runner, state, hp = tiny.start(members, at_once=at_once)
            rates = np.linspace(0.05, 0.2, 3, dtype=np.float32)[:members]
            chunk = jax.jit(runner.chunk)
            for _ in range(2):
                state, out = chunk(state, hp._replace(learning_rate=rates))
            done[members, at_once] = (state, out)
        return done[members, at_once]

    return run


def assert_close(tiny, x, y):
    x, y = tiny.leaves(x), tiny.leaves(y)
    assert x.keys() == y.keys()
    for path in x:
        np.testing.assert_allclose(x[path], y[path], 1e-5, 1e-5, err_msg=path)


@pytest.mark.parametrize("at_once", [1, 2])
def test_members_one_or_two_at_a_time_are_members_together(at_once, run, tiny):
    """``at_once`` trades time for memory; 3 members by 2 leaves a remainder."""
    assert_close(tiny, run(3, at_once), run(3))


def test_a_population_of_one_is_a_member_of_a_larger_one(run, tiny):
    """No second code path: member 0 acts, learns and is reset as if alone."""
    (one, alone), (three, out) = run(1), run(3)
    cut = jax.jit(lambda tree: jax.tree.map(lambda x: x[:1] if x.ndim else x, tree))
    first = cut((three, out))
    assert_close(tiny, (one, alone), first)
    w = np.asarray(three.learner["w"])
    assert not np.allclose(w[0], w[1])


def test_a_populations_functions_have_one_more_leading_axis(tiny):
    """init, carry and act of [P]; carry is the same for every member."""
    spec = tiny.env(3).spec
    agent = population.population(tiny.make(spec), 3)
    learner = jax.jit(lambda: agent.init(random.roots(0, 3), tiny.hparams(3)))()
    assert learner["w"].shape == (3, 3, 2)
    assert learner["updates"].shape == (3,)
    assert agent.replay is None
    assert agent.carry(5).shape == (3, 5)


def test_memories_and_their_batches_have_one_more_leading_axis_too(tiny):
    """observe takes the rollout as the scan leaves it, and gives [P, ...] for update."""
    spec = tiny.env(3).spec
    agents = population.population(replay_probe.make(spec, 8), 3, at_once=1)
    env = tiny.env(3, 2)

    @jax.jit
    def round():
        start = agents.replay.init(4)
        keys, hp = random.roots(0, 3), replay_probe.Hparams(jnp.full(3, 0.1))
        _, ts = env.reset(keys, env.params)
        unroll = jax.tree.map(lambda x: jnp.stack([x] * 5), ts)
        rollout = types.Rollout(unroll, jnp.zeros((4, 3, 4), jnp.int32), (), ())
        memory, batch = agents.replay.observe(start, rollout, keys, hp, jnp.int32(0))
        learner = agents.init(keys, hp)
        _, metrics, found = agents.update(learner, batch, keys, hp, jnp.int32(5))
        return start, batch, metrics, agents.replay.feedback(memory, found)

    start, batch, metrics, memory = round()
    assert start.rows.shape == (3, 8, 4, 8)
    assert batch.x.shape == (3, replay_probe.DRAWS, 8)
    assert metrics["loss"].shape == (3,)
    assert memory.error.shape == (3, 8, 4)
