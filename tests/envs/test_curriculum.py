"""Curricula turn episode statistics into the params of the next episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random
from mtrl_jax.envs import core, curriculum, mixture


def course(played, start, **changes):
    """A Course of the only task of a mixture, from options ``start`` to its own."""
    name, options = played
    whole = envs.pure_task(name, options)
    easy = envs.pure_task(name, options | start)
    way = curriculum.Course(
        name=whole.spec.name, task=0, part=0, rows=slice(None), members=slice(None),
        start=curriculum.start_of(whole, easy, list(start)), measure="return",
        threshold=0.5, steps=4, min_episodes=10,
    )  # fmt: skip
    return way._replace(**changes)


def made(*given):
    """Returns the curriculum with its functions compiled; they return numpy arrays."""

    def compiled(function):
        return lambda *args: jax.device_get(jax.jit(function)(*args))

    return curriculum.Curriculum(*map(compiled, curriculum.make(*given)))


DELAYED = ("probe/delayed", {"length": 5})


def delayed(batch, **changes):
    """A mixture of one task whose episodes grow from 1 to 5 steps, and its curriculum."""
    env = mixture.make([envs.make(*DELAYED[:1], batch, DELAYED[1])])
    way = course(DELAYED, {"length": 1}, **changes)
    return env, made(env.params, batch[0], 1, [way])


def test_the_level_rises_with_success_only():
    """One step after enough good episodes; failures are forgotten, not averaged in."""
    _, cur = delayed((3, 2))
    state, update = cur.init(), cur.update

    def sums(returns, episodes):
        return {
            name: np.float32(x)[:, None]
            for name, x in (("return", returns), ("episodes", episodes))
        }

    # Member 0 succeeds, 1 fails, 2 has too few episodes to be judged.
    state = update(state, sums([10, 2, 9], [10, 10, 9]))
    np.testing.assert_array_equal(state.level[:, 0], [0.25, 0, 0])
    # The third adds up to enough; the second is judged by fresh episodes, 7 of 10: with
    # the failures before them it would be 9 of 20.
    state = update(state, sums([0, 7, 1], [0, 10, 1]))
    np.testing.assert_array_equal(state.level[:, 0], [0.25, 0.25, 0.25])
    for _ in range(9):
        state = update(state, sums([10, 2, 9], [10, 10, 9]))
    np.testing.assert_array_equal(state.level[:, 0], [1, 0.25, 1])
    length = cur.params(state)[0].length
    np.testing.assert_array_equal(length, [[5, 5], [2, 2], [5, 5]])
    assert length.dtype == np.int32
    np.testing.assert_array_equal(
        cur.metrics(state)["level/probe/delayed"], [1, 0.25, 1]
    )


def test_the_last_level_is_the_task_itself():
    """After all steps, however many, nothing of the easy task is left."""
    env, cur = delayed((1, 2), steps=49)
    state, update = cur.init(), cur.update
    good = {name: np.full((1, 1), 10.0, np.float32) for name in ("return", "episodes")}
    for _ in range(49):
        assert state.level[0, 0] < 1
        state = update(state, good)
    assert state.level[0, 0] == 1
    jax.tree.map(np.testing.assert_array_equal, cur.params(state), env.params)
    # Where start + (own - start) is rounded; and a number that stays, at any level.
    between = jax.jit(curriculum._between)
    assert between(np.float32(0.1), np.float32(1e8), 1.0) == np.float32(0.1)
    assert between(np.int32(2**24 + 1), np.int32(2**24 + 1), 0.5) == 2**24 + 1


def test_any_measure_can_be_what_passes():
    """The sum of the measure in the place of the return."""
    _, cur = delayed((1, 2), measure="success")
    sums = {"return": 0.0, "episodes": 10.0, "success": 5.0}
    sums = {k: np.full((1, 1), v, np.float32) for k, v in sums.items()}
    state = cur.update(cur.init(), sums)
    assert state.level[0, 0] == 0.25


def test_new_params_reach_a_slot_at_its_next_reset():
    """An episode is played to its end by the params it began with."""
    env = envs.make("probe/delayed", (1, 2), {"length": 4})
    harder = env.params._replace(length=np.int32([[2, 4]]))

    @jax.jit
    def run():
        state, _ = env.reset(random.roots(0, 1), env.params)
        step = lambda s, t: env.step(s, jnp.zeros((1, 2), jnp.int32), harder)  # noqa: E731
        return jax.lax.scan(step, state, jnp.arange(12))[1]

    last = np.asarray(run().last)
    np.testing.assert_array_equal(last[:, 0, 0].nonzero()[0], [3, 6, 9])
    np.testing.assert_array_equal(last[:, 0, 1].nonzero()[0], [3, 8])


def test_one_task_of_a_mixture_can_be_driven():
    """Its slots of its part move, also where it shares the part with another task."""
    tasks = [
        ("labyrinth/seekavoid_arena_01", {}),
        ("labyrinth/seekavoid_arena_01", {"length": 600}),
    ]
    pure = [(envs.pure_task(*task), (2, 2)) for task in tasks]
    env = mixture.make(core.join(pure))
    assert len(env.params) == 1
    way = course(tasks[1], {"length": 300}, rows=slice(2, 4), task=1)
    cur = made(env.params, 2, 1, [way])
    state = cur.init()._replace(level=np.float32([[0.0], [0.5]]))
    (moved,) = cur.params(state)
    own = np.asarray(env.params[0].length)
    np.testing.assert_array_equal(moved.length[:, :2], own[:, :2])
    np.testing.assert_array_equal(moved.length[:, 2:], [[300] * 2, [450] * 2])
    same = jax.tree.map(np.array_equal, moved._replace(length=own), env.params[0])
    assert all(jax.tree.leaves(same))


def test_a_member_of_a_population_mixture_has_its_own_level():
    """Of those that do not play the task nothing moves, and no level is shown."""
    parts = [
        envs.make("probe/memory", (2, 3)),
        envs.make(*DELAYED[:1], (1, 3), DELAYED[1]),
    ]
    env = mixture.make(parts, axis="population")
    way = course(DELAYED, {"length": 1}, part=1, task=1, members=slice(2, 3))
    cur = made(env.params, 3, 0, [way])
    state = cur.init()._replace(level=np.float32([[0.0], [0.0], [0.5]]))
    memory, delayed = cur.params(state)
    np.testing.assert_array_equal(memory.length, env.params[0].length)
    np.testing.assert_array_equal(delayed.length, [[3, 3, 3]])
    shown = cur.metrics(state)["level/probe/delayed"]
    np.testing.assert_array_equal(shown, [np.nan, np.nan, 0.5])


def test_a_float_param_of_gymnax_can_be_driven():
    """Floats are not rounded; what does not move stays as it is."""
    cartpole = ("gymnax/CartPole-v1", {"gravity": 11.8})
    env = mixture.make([envs.make(cartpole[0], (2, 1), cartpole[1])])
    cur = made(env.params, 2, 1, [course(cartpole, {"gravity": 9.8})])
    state = cur.init()._replace(level=np.float32([[0.0], [0.25]]))
    (moved,) = cur.params(state)
    np.testing.assert_allclose(moved.gravity, [[9.8], [10.3]], rtol=1e-6)
    np.testing.assert_array_equal(moved.masspole, env.params[0].masspole)


GOAL = "labyrinth/explore_goal_locations_small"


@pytest.mark.parametrize(
    ("env", "options", "start", "said"),
    [
        (GOAL, {"rooms": 8, "pitch": 2}, {"rooms": 2, "pitch": 10},
         "level 0.1: options.rooms=3 with pitch=9: a map of 28 cells"),
        (GOAL, {"rooms": 3, "pitch": 4, "places": [[7, 7], [-1, -1]]},
         {"places": [[1, 1], [-1, -1]]}, r"level 0.5: options.places: \[4, 4\]"),
        ("labyrinth/seekavoid_arena_01", {}, {"rewards": [-1, 1, 2, 10, 0, 0, 0]},
         "level 0.5: options.renews"),
        ("labyrinth/rooms_watermaze", {"tasks": "all"}, {"pitch": 6},
         r"level 0: options.pitch: got 6.*pitch=10; give the same"),
    ],
)  # fmt: skip
def test_a_level_that_cannot_be_played_is_refused(env, options, start, said):
    """Both ends can be: a map too large, a wall, nothing to take, places of another."""
    whole, easy = (envs.pure_task(env, given) for given in (options, options | start))
    with pytest.raises(ValueError, match=said) as error:
        curriculum.check_levels(
            whole, curriculum.start_of(whole, easy, list(start)), 10
        )
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("steps", [3, 10**6])
def test_levels_that_can_all_be_played_are_accepted(steps):
    """Of very many steps some are looked at; a family without a check has no rule."""
    level, start = (
        "labyrinth/lasertag_three_opponents_small",
        {"bots": 1, "bot_speed": 1},
    )
    for name, options, easier in ((level, {}, start), (*DELAYED, {"length": 1})):
        whole, easy = (envs.pure_task(name, own) for own in (options, options | easier))
        begun = curriculum.start_of(whole, easy, list(easier))
        curriculum.check_levels(whole, begun, steps)


def test_params_of_a_wrong_shape_are_refused():
    """Params have [P, B] in front: one value for all slots would broadcast silently."""
    env = envs.make("probe/delayed", (2, 3))
    with pytest.raises(ValueError, match=r"length is \[3\], this Env takes \[2, 3\]"):
        env.reset(random.roots(0, 2), env.params._replace(length=np.ones(3, np.int32)))
