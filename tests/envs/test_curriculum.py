"""Curricula turn episode statistics into the params of the next episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random
from mtrl_jax.envs import curriculum, mixture


def linear(env, **changes):
    settings = dict(low=1, high=5, threshold=0.5, steps=4, min_episodes=10)
    return curriculum.linear(env, **{"field": "length", **settings, **changes})


def test_the_level_rises_with_success_only():
    """One step after enough good episodes; failures are forgotten, not averaged in."""
    cur = linear(envs.make("probe/delayed", (3, 2)))
    update = jax.jit(cur.update)
    state = cur.init()
    # Member 0 succeeds, 1 fails, 2 has too few episodes to be judged.
    returns = jnp.array([[10.0], [2.0], [9.0]])
    episodes = jnp.array([[10.0], [10.0], [9.0]])
    state = update(state, returns, episodes)
    np.testing.assert_array_equal(state.level, [0.25, 0.0, 0.0])
    # The third adds up to enough; the second is judged by fresh episodes.
    state = update(
        state, jnp.array([[0.0], [10.0], [1.0]]), jnp.array([[0.0], [10], [1]])
    )
    np.testing.assert_array_equal(state.level, [0.25, 0.25, 0.25])
    for _ in range(9):
        state = update(state, returns, episodes)
    np.testing.assert_array_equal(state.level, [1.0, 0.25, 1.0])
    length = cur.params(state).length
    np.testing.assert_array_equal(length, [[5, 5], [2, 2], [5, 5]])
    assert length.dtype == jnp.int32


def test_new_params_reach_a_slot_at_its_next_reset():
    """An episode is played to its end by the params it began with."""
    env = envs.make("probe/delayed", (1, 2), {"length": 4})
    harder = env.params._replace(length=jnp.array([[2, 4]]))

    @jax.jit
    def run():
        state, _ = env.reset(random.roots(0, 1), env.params)
        step = lambda s, t: env.step(s, jnp.zeros((1, 2), jnp.int32), harder)  # noqa: E731
        return jax.lax.scan(step, state, jnp.arange(12))[1]

    last = run().last
    np.testing.assert_array_equal(last[:, 0, 0].nonzero()[0], [3, 6, 9])
    np.testing.assert_array_equal(last[:, 0, 1].nonzero()[0], [3, 8])


def test_a_curriculum_drives_an_environment_inside_one_program():
    """Stepped with an environment under jit and scan, episodes grow to the full length."""
    env = envs.make("probe/delayed", (2, 8), {"length": 1})
    cur = linear(env, min_episodes=8)

    @jax.jit
    def run():
        level = cur.init()
        state, _ = env.reset(random.roots(0, 2), cur.params(level))

        def step(carry, _):
            level, state = carry
            state, ts = env.step(state, jnp.zeros((2, 8), jnp.int32), cur.params(level))
            ended = ts.last.astype(jnp.float32)
            returns = (ended * ts.reward).sum(1, keepdims=True)
            level = cur.update(level, returns, ended.sum(1, keepdims=True))
            return (level, state), (ts.last, level.level)

        return jax.lax.scan(step, (level, state), None, length=60)[1]

    last, level = run()
    np.testing.assert_array_equal(level[-1], 1.0)
    ends = last[:, 0, 0].nonzero()[0]
    # Every episode was successful; it takes its length and one step for the reset.
    assert ends[0] == 0 and ends[1] - ends[0] == 3 and ends[-1] - ends[-2] == 6
    assert (np.diff(ends) >= 2).all() and (np.diff(np.diff(ends)) >= 0).all()


def test_one_part_of_a_mixture_can_be_driven():
    """The field is named by its part; the other parts' params do not move."""
    parts = [envs.make(f"probe/{n}", (2, 3)) for n in ("memory", "delayed")]
    env = mixture.make(parts)
    assert curriculum.leaf_names(env.params) == ["0.length", "1.length"]
    cur = linear(env, field="1.length", task=1)
    state = cur.init()._replace(level=jnp.array([0.0, 1.0]))
    memory, delayed = cur.params(state)
    np.testing.assert_array_equal(memory.length, 4)
    np.testing.assert_array_equal(delayed.length, [[1] * 3, [5] * 3])


def test_a_member_of_a_population_mixture_has_its_own_level():
    """``members`` are the rows of the level that the part belongs to."""
    parts = [envs.make("probe/memory", (2, 3)), envs.make("probe/delayed", (1, 3))]
    env = mixture.make(parts, axis="population")
    cur = linear(env, field="1.length", task=1, members=slice(2, 3))
    state = cur.init()._replace(level=jnp.array([0.0, 0.0, 0.5]))
    np.testing.assert_array_equal(cur.params(state)[1].length, [[3, 3, 3]])


def test_a_float_param_of_gymnax_can_be_driven():
    """Any leaf of any params tree has a name, floats are not rounded."""
    env = envs.make("gymnax/CartPole-v1", (2, 1))
    cur = linear(env, field="gravity", low=9.8, high=11.8)
    state = cur.init()._replace(level=jnp.array([0.0, 0.25]))
    np.testing.assert_allclose(cur.params(state).gravity, [[9.8], [10.3]], rtol=1e-6)


def test_constant_changes_nothing():
    """The default curriculum: the environment's own params, whatever happens."""
    env = envs.make("probe/delayed", (2, 1))
    cur = curriculum.constant(env.params)
    state = cur.update(cur.init(), jnp.ones((2, 1)), jnp.ones((2, 1)))
    assert cur.params(state) is env.params


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"field": "lenght"}, "did you mean length"),
        ({"task": 1}, "task: got 1"),
        ({"steps": 0}, "steps: got 0"),
        ({"min_episodes": 0}, "min_episodes: got 0"),
    ],
)
def test_wrong_settings_are_named(changes, message):
    """Found when the curriculum is made, not in the middle of a run."""
    with pytest.raises(ValueError, match=message):
        linear(envs.make("probe/delayed", (1, 1)), **changes)


def test_params_of_a_wrong_shape_are_refused():
    """Params have [P, B] in front: one value for all slots would broadcast silently."""
    env = envs.make("probe/delayed", (2, 3))
    with pytest.raises(ValueError, match=r"length is \[3\], this Env takes \[2, 3\]"):
        env.reset(
            random.roots(0, 2), env.params._replace(length=jnp.ones(3, jnp.int32))
        )
