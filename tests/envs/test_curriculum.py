"""Curricula turn episode statistics into the params of the next episodes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random, types
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
    return env, made(env.params, batch, 1, [way])


def step(task, first=False, last=True):
    """Returns a TimeStep of which only these matter, all [P, B] like ``task``."""
    first, last = (np.broadcast_to(x, np.shape(task)) for x in (first, last))
    nothing = np.zeros(np.shape(task))
    return types.TimeStep({}, nothing, nothing, first, last, task, nothing)


def played(cur, state, values, measure="return", task=0):
    """Returns the state judged after episodes whose values are [N, P, B], all begun."""
    for value in np.float32(values):
        ts = step(np.full(value.shape, task), first=True)
        state = cur.observe(state, ts, {"return": 0 * value, measure: value})
    return cur.update(state, ts)


def test_the_level_rises_with_success_only():
    """One step after enough good episodes; failures are forgotten, not averaged in."""
    _, cur = delayed((2, 2))
    good, bad, fair = [[1, 1]] * 5, [[1, 0], [0, 0]] + [[0, 0]] * 3, [[1, 1]] * 3
    fair += [[1, 0], [0, 0]]  # 7 of 10
    # Member 0 succeeds, 1 fails.
    state = played(cur, cur.init(), np.stack([good, bad], axis=1))
    np.testing.assert_array_equal(state.level[:, 0], [0.25, 0])
    # The second is judged by fresh episodes: with the failures before it would be 8 of 20.
    state = played(cur, state, np.stack([bad, fair], axis=1))
    np.testing.assert_array_equal(state.level[:, 0], [0.25, 0.25])
    for _ in range(9):
        state = played(cur, state, np.stack([good, bad], axis=1))
    np.testing.assert_array_equal(state.level[:, 0], [1, 0.25])
    length = cur.params(state)[0].length
    np.testing.assert_array_equal(length, [[5, 5], [2, 2]])
    assert length.dtype == np.int32
    np.testing.assert_array_equal(cur.metrics(state)["level/probe/delayed"], [1, 0.25])


def test_a_member_is_judged_by_as_many_episodes_of_every_slot():
    """A fifth of 9 each, rounded up; not by more of the faster one, however many end."""
    _, cur = delayed((1, 2), min_episodes=9)
    state, task = cur.init(), np.zeros((1, 2), np.int32)
    for _ in range(20):  # Nine more than count, and the other slot has ended none.
        ts = step(task, first=True, last=[[True, False]])
        state = cur.observe(state, ts, {"return": np.ones((1, 2), np.float32)})
        state = cur.update(state, ts)
    assert state.level[0, 0] == 0
    np.testing.assert_array_equal(state.episodes, [[5, 0]])
    for n in range(5):
        assert state.level[0, 0] == 0
        value = np.float32([[0.0, n == 0]])
        state = cur.observe(state, step(task, first=True), {"return": value})
        state = cur.update(state, ts)
    assert state.level[0, 0] == 0.25  # 6 of 10; of all that ended, 21 of 30
    np.testing.assert_array_equal(state.episodes, [[0, 0]])


@pytest.mark.parametrize(
    ("threshold", "number", "good"),
    [(0.002, 1500, 3), (0.008, 375, 3), (-0.002, 1500, -3), (0.7, 10, 7)],
)
def test_a_mean_of_the_threshold_itself_passes(threshold, number, good):
    """In float32 0.002 · 1500 is more than 3; one success less is too few."""
    _, cur = delayed((1, 1), threshold=threshold, min_episodes=number)
    ts = step(np.zeros((1, 1), np.int32))
    for total, level in ((good, 0.25), (good - 1, 0.0)):
        state = cur.init()._replace(
            total=np.full((1, 1), total, np.float32), episodes=np.full((1, 1), number)
        )
        assert cur.update(state, ts).level[0, 0] == level


def test_episodes_begun_before_a_judgement_or_by_other_weights_count_for_nothing():
    """What was under way then ends unseen; a member that is not replaced keeps its own."""
    _, cur = delayed((2, 1), min_episodes=1)
    task, one = np.zeros((2, 1), np.int32), {"return": np.ones((2, 1), np.float32)}
    state = played(cur, cur.init(), np.ones((1, 2, 1)))
    np.testing.assert_array_equal(state.level[:, 0], 0.25)
    assert state.stale.all()
    state = cur.update(cur.observe(state, step(task), one), step(task))
    np.testing.assert_array_equal(state.level[:, 0], 0.25)  # It began before.
    state = cur.observe(state, step(task, first=True, last=False), one)
    state = jax.device_get(curriculum.forget(state, np.array([True, False])))
    state = cur.update(cur.observe(state, step(task), one), step(task))
    np.testing.assert_array_equal(state.level[:, 0], [0.25, 0.5])
    assert curriculum.forget((), np.array([True])) == ()


def test_a_level_does_not_rise_by_its_shortest_episodes():
    """Success ends half of the episodes after 10 steps, the others fail after 100: .5 is
    no .9. Of the first 32 that end more than nine tenths are successes.
    """
    members, slots, unroll, steps = 64, 32, 20, 240
    _, cur = delayed((members, slots), threshold=0.9, min_episodes=32)
    task, draw = np.zeros((members, slots), np.int32), np.random.default_rng(0)
    for p, rises in ((0.5, False), (1.0, True)):
        state, age, level_at = cur.init(), np.zeros(task.shape, int), {}
        passes = draw.random(task.shape) < p
        for t in range(1, steps + 1):
            age += 1
            last = age == np.where(passes, 10, 100)
            ts = step(task, first=age == 0, last=last)
            state = cur.observe(state, ts, {"return": np.float32(passes)})
            passes = np.where(last, draw.random(task.shape) < p, passes)
            age = np.where(last, -1, age)  # The next step is an episode's first.
            if t % unroll == 0:
                state = cur.update(state, ts)
                level_at[t] = state.level[:, 0]
        assert (level_at[120] > 0).all() == rises and (level_at[120] > 0).any() == rises
        assert (level_at[steps] == (1.0 if rises else 0.0)).all()


def test_the_last_level_is_the_task_itself():
    """After all steps, however many, nothing of the easy task is left."""
    env, cur = delayed((1, 2), steps=49)
    state = cur.init()
    for _ in range(49):
        assert state.level[0, 0] < 1
        state = played(cur, state, np.ones((5, 1, 2)))
    assert state.level[0, 0] == 1
    jax.tree.map(np.testing.assert_array_equal, cur.params(state), env.params)
    # Where start + (own - start) is rounded; and a number that stays, at any level.
    between = jax.jit(curriculum._between)
    assert between(np.float32(0.1), np.float32(1e8), 1.0) == np.float32(0.1)
    assert between(np.int32(2**24 + 1), np.int32(2**24 + 1), 0.5) == 2**24 + 1


def test_any_measure_can_be_what_passes():
    """The mean of the measure in the place of the return."""
    _, cur = delayed((1, 2), measure="success")
    state = played(cur, cur.init(), np.full((5, 1, 2), 0.5), "success")
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
    cur = made(env.params, env.batch, 1, [way])
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
    cur = made(env.params, env.batch, 0, [way])
    state = cur.init()._replace(level=np.float32([[0.0], [0.0], [0.5]]))
    memory, delayed = cur.params(state)
    np.testing.assert_array_equal(memory.length, env.params[0].length)
    np.testing.assert_array_equal(delayed.length, [[3, 3, 3]])
    shown = cur.metrics(state)["level/probe/delayed"]
    np.testing.assert_array_equal(shown, [np.nan, np.nan, 0.5])
    # The others' episodes are not the task's: they are never judged.
    task = np.array([[0] * 3, [0] * 3, [1] * 3])
    state = cur.observe(cur.init(), step(task, True), {"return": np.ones((3, 3))})
    np.testing.assert_array_equal(state.episodes, task)
    for _ in range(3):
        state = cur.observe(state, step(task, True), {"return": np.ones((3, 3))})
    state = cur.update(state, step(task))
    np.testing.assert_array_equal(state.level[:, 0], [0, 0, 0.25])
    np.testing.assert_array_equal(state.stale, task > 0)


def test_a_float_param_of_gymnax_can_be_driven():
    """Floats are not rounded; what does not move stays as it is."""
    cartpole = ("gymnax/CartPole-v1", {"gravity": 11.8})
    env = mixture.make([envs.make(cartpole[0], (2, 1), cartpole[1])])
    cur = made(env.params, env.batch, 1, [course(cartpole, {"gravity": 9.8})])
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
