"""Dark rooms: what is rewarded when, exact scores, and who is shown what."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import playing
import pytest

from mtrl_jax import envs, random
from mtrl_jax.envs import core, dark, dark_rooms, dark_scores

N, U, R, D, L = dark.NOOP, dark.UP, dark.RIGHT, dark.DOWN, dark.LEFT


def run(env, steps, choose, seed=0):
    """Returns time steps, measures and goals ``[T, ...]`` of ``choose(key, state)``."""
    ts, measures, params = playing.played(env, steps, choose, seed)
    return ts, measures, params.goals


def at_random(env):
    return lambda key, state: jax.random.randint(key, env.batch, 0, 5)


def best(key, state):
    return dark.optimal_action(state.params, state.inner)


def first_returns(ts):
    """The return and length of each slot's first episode, [P, B]; all must end."""
    assert ts.last.any(0).all()
    end = ts.last.argmax(0)
    counts = np.arange(len(ts.last))[:, None, None] <= end
    return (ts.reward * counts).sum(0), end + 1


def follow(name, options, script):
    """The time steps of one slot that follows a script."""
    env = envs.make(f"dark/{name}", (1, 1), options)
    script = jnp.asarray(script)
    ts, info, _ = run(
        env, len(script), lambda key, state: script[state.draws - 1].reshape(1, 1)
    )
    return jax.tree.map(lambda x: x[:, 0, 0], (ts, info))


def test_every_step_at_the_goal_is_rewarded_until_the_time_is_up():
    """From the centre, with a look elsewhere; the time limit truncates."""
    ts, info = follow("room", {"goal": [5, 4]}, [R, N, L, R, *[N] * 16, U])
    np.testing.assert_array_equal(ts.reward, [1, 1, 0, 1, *[1] * 16, 0])
    np.testing.assert_array_equal(ts.last.nonzero()[0], [19])
    assert (ts.discount == 1).all() and ts.first[20] and info["success"][19] == 1
    np.testing.assert_allclose(ts.obs["vector"][0], [5 / 8, 4 / 8])


def test_the_hard_room_ends_at_its_goal():
    """One reward, then nothing to wait for."""
    ts, info = follow("room_hard", {"goal": [8, 6]}, [N, U, U, N, N])
    np.testing.assert_array_equal(ts.reward, [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(ts.last, [0, 0, 1, 0, 0])
    np.testing.assert_array_equal(ts.discount, [1, 1, 0, 1, 1])
    np.testing.assert_array_equal(info["success"], [0, 0, 1, 0, 0])


def test_the_key_is_found_once_and_the_door_opens_only_with_it():
    """Across the door without, back for the key, on it twice, then through the door."""
    options = {"start": [0, 0], "key": [1, 1], "door": [1, 0], "has_key": True}
    ts, info = follow("key_to_door", options, [R, D, N, U, N])
    np.testing.assert_array_equal(ts.reward, [0, 1, 0, 1, 0])
    np.testing.assert_array_equal(ts.last, [0, 0, 0, 1, 0])
    np.testing.assert_array_equal(ts.discount, [1, 1, 1, 0, 1])
    np.testing.assert_array_equal(ts.obs["vector"][:, 2], [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(info["key"], [0, 1, 1, 1, 0])
    np.testing.assert_array_equal(info["success"], [0, 0, 0, 1, 0])


def test_a_door_where_the_key_lies_takes_one_more_step():
    """Rewards stay 0 or 1; so does a goal where the episode begins."""
    options = {"start": [4, 4], "key": [4, 4], "door": [4, 4]}
    ts, _ = follow("key_to_door", options, [N, N])
    np.testing.assert_array_equal(ts.reward, [1, 1])
    np.testing.assert_array_equal(ts.last, [0, 1])
    assert follow("room", {"goal": [4, 4]}, [N] * 20)[0].reward.sum() == 20


def test_nobody_leaves_the_room():
    """A step against a wall goes nowhere; the four moves are up, right, down, left."""
    options = {"size": 2, "start": [0, 1], "goal": [0, 1]}
    ts, _ = follow("room", options, [D, L, U, U, R, R, D])
    expected = [[0, 1], [0, 1], [0, 0], [0, 0], [1, 0], [1, 0], [1, 1]]
    np.testing.assert_array_equal(ts.obs["vector"], expected)


def test_the_best_way_to_all_81_goals_returns_what_the_sheet_says():
    """21 - distance, 20 at the centre, 16.54 on average; all goals as one program."""
    goals = dark.tasks_of("room").goals
    env = core.spread(envs.pure_task("dark/room"), dark.Params(goals), (81, 1))
    got, _ = first_returns(run(env, 20, best)[0])
    distance = np.abs(np.asarray(goals)[:, 0] - 4).sum(-1)
    assert len(np.unique(np.asarray(goals)[:, 0], axis=0)) == 81
    np.testing.assert_array_equal(got[:, 0], np.minimum(21 - distance, 20))
    assert abs(got.mean() - 16.54) < 0.005
    spec = env.spec.tasks[0]
    assert spec.reference_score == pytest.approx(got.mean(), abs=1e-5)


def test_of_several_shortest_ways_one_is_the_best():
    """Along x first; to what is sought next, and beyond the last to the last."""
    goals = np.int32([[3, 1], [2, 4]])
    cases = [
        ((1, 3), 0, R), ((4, 3), 0, L), ((3, 3), 0, U), ((3, 0), 0, D), ((3, 1), 0, N),
        ((3, 1), 1, L), ((0, 4), 1, R), ((2, 2), 1, D), ((2, 4), 1, N), ((2, 4), 2, N),
        ((4, 0), 2, L),
    ]  # fmt: skip
    position, found, wanted = (np.int32(x) for x in zip(*cases))
    params = dark.Params(jnp.asarray(np.broadcast_to(goals, (len(cases), 2, 2))))
    state = dark.State(jnp.asarray(position), jnp.asarray(found), found)
    np.testing.assert_array_equal(dark.optimal_action(params, state), wanted)


def ways(starts, goals):
    """Returns the steps through all ``goals`` [N, G, 2], [N], mean over ``starts``.

    From a cell to itself it is one, a noop.
    """
    goals = np.asarray(goals)

    def steps(a, b):
        return np.maximum(np.abs(a - b).sum(-1), 1)

    first = steps(np.asarray(starts)[:, None], goals[None, :, 0]).mean(0)
    return first + steps(goals[:, 1:], goals[:, :-1]).sum(-1)


@pytest.mark.parametrize(
    ("name", "number", "most"), [("room_hard", 289, 1), ("key_to_door", 6561, 2)]
)
def test_the_best_way_finds_everything_in_every_task(name, number, most):
    """The optimum is 1 and 2, and its length that of the shortest way."""
    options = {} if most == 1 else {"start": [2, 7]}
    task, tasks = envs.pure_task(f"dark/{name}", options), dark.tasks_of(name, options)
    env = core.spread(task, tasks, (number, 1))
    got, length = first_returns(run(env, 33, best)[0])
    assert (got == most).all() and task.spec.reference_score == pytest.approx(most)
    start = dark_rooms.fixed_start(dark_rooms.room_of(name, options))
    np.testing.assert_array_equal(length[:, 0], ways([start], tasks.goals))


def test_a_shortest_way_from_key_to_door_is_as_long_as_the_sheet_says():
    """11.8 steps from a random start, on average over all tasks."""
    goals = np.asarray(dark.tasks_of("key_to_door").goals)
    size = dark_rooms.ROOMS["key_to_door"].size
    length = ways([(x, y) for x in range(size) for y in range(size)], goals)
    assert len(goals) == 6561 and abs(length.mean() - 11.8) < 0.1


@pytest.mark.parametrize(
    ("name", "sheet", "tolerance"),
    [("room", 0.247, 0.01), ("room_hard", None, None), ("key_to_door", 0.249, 0.02)],
)
def test_a_random_policy_gets_the_random_score(name, sheet, tolerance):
    """Goals dealt to 20,000 episodes; four standard errors."""
    env = envs.make(f"dark/{name}", (1, 20_000))
    ts, _, _ = run(env, env.spec.tasks[0].max_steps, at_random(env))
    got, _ = first_returns(ts)
    exact = env.spec.tasks[0].random_score
    assert abs(got.mean() - exact) < 4 * got.std() / np.sqrt(got.size)
    if sheet is not None:
        assert abs(exact - sheet) < tolerance


@pytest.mark.parametrize("start", [(0, 2), "random"])
@pytest.mark.parametrize("name", dark.names())
def test_exact_scores_are_those_of_brute_force(name, start):
    """Every action in every state of small rooms too short for the far goals."""
    room = dark_rooms.ROOMS[name]._replace(size=3, length=3, start=start)
    tasks = np.asarray(dark.tasks_of(name, {"size": 3}).goals)
    chance, optimal = dark_scores.returns(room, tasks)
    cells = list(itertools.product(range(3), range(3)))
    starts = cells if start == "random" else [start]
    for goals, mean, most in zip(tasks.tolist(), chance, optimal):
        for combine, got in [(np.mean, mean), (np.max, most)]:
            value = brute_force(room, [tuple(g) for g in goals], combine)
            wanted = np.mean([value(s, 0, room.length) for s in starts])
            assert got == pytest.approx(wanted)
    assert optimal.min() < optimal.max()


def brute_force(room, goals, combine):
    @functools.cache
    def value(cell, found, left):
        if left == 0 or (room.ends and found == len(goals)):
            return 0.0
        outcomes = []
        for dx, dy in [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]:
            x, y = cell[0] + dx, cell[1] + dy
            to = (x, y) if 0 <= x < room.size and 0 <= y < room.size else cell
            hit = to == goals[min(found, len(goals) - 1)]
            after = min(found + hit, len(goals))
            outcomes.append(hit + value(to, after, left - 1))
        return combine(outcomes)

    return value


@pytest.mark.parametrize("how", ["slot", "episode"])
def test_tasks_are_dealt_from_the_split_to_slots_or_to_episodes(how):
    """A slot's task is that of the whole run; no test task is ever dealt in training."""
    options = {"tasks": "train", "task": how, "length": 5}
    env = envs.make("dark/room", (4, 60), options)
    ts, _, goals = run(env, 24, at_random(env))
    changes = (goals[1:] != goals[:-1]).any((-1, -2))
    if how == "slot":
        assert not changes.any()
    else:
        assert changes[ts.first[1:]].mean() > 0.9 and not changes[~ts.first[1:]].any()
    dealt = {tuple(g) for g in goals.reshape(-1, 2)}
    test = {
        tuple(g)
        for g in np.asarray(dark.tasks_of("room", {"tasks": "test"}).goals)[:, 0]
    }
    train = {
        tuple(g)
        for g in np.asarray(dark.tasks_of("room", {"tasks": "train"}).goals)[:, 0]
    }
    assert dealt <= train and not dealt & test
    assert (len(train), len(test), len(train | test)) == (65, 16, 81)
    assert len(dealt) > 55


def test_a_learner_with_a_task_of_its_own_sees_what_it_would_see_alone():
    """Member p of a spread population equals member p of one where all have its task."""
    tasks = dark.tasks_of("key_to_door", {"tasks": "train", "number": 2})
    task = envs.pure_task("dark/key_to_door", {"tasks": "train"})
    together = run(core.spread(task, tasks, (2, 2)), 60, scripted)
    for p, (key, door) in enumerate(np.asarray(tasks.goals).tolist()):
        own = envs.make("dark/key_to_door", (2, 2), {"key": key, "door": door})
        alone = run(own, 60, scripted)
        jax.tree.map(
            lambda x, y, p=p: np.testing.assert_array_equal(x[:, p], y[:, p]),
            together,
            alone,
        )
    assert together[0].reward.sum() > 0


def scripted(key, state):
    """Mostly towards the goals, sometimes not: the same for the same member."""
    stray = state.draws % 3 == 0
    return jnp.where(stray, state.draws % 5, best(key, state)).astype(jnp.int32)


def test_scores_are_those_of_the_tasks_meant():
    """A near goal pays more than a far one, a split what its goals do."""
    near, far = (
        envs.pure_task("dark/room", {"goal": goal}).spec.reference_score
        for goal in ([4, 3], [0, 0])
    )
    assert (near, far) == (20, 13)
    goals = np.asarray(dark.tasks_of("room", {"tasks": "test"}).goals)[:, 0]
    wanted = np.minimum(21 - np.abs(goals - 4).sum(-1), 20).mean()
    test = envs.pure_task("dark/room", {"tasks": "test"}).spec.reference_score
    assert test == pytest.approx(wanted)


def test_a_one_hot_observation_is_the_row_of_a_table():
    """size x + y, and after the key as many rows on: the same seen as numbers."""
    options = {"size": 5, "length": 30, "has_key": True, "tasks": "test"}
    streams = [
        run(
            envs.make("dark/key_to_door", (2, 8), options | {"one_hot": hot}), 60, best
        )[0]
        for hot in (False, True)
    ]
    numbers, hot = (ts.obs["vector"] for ts in streams)
    x, y, key = np.moveaxis(np.round(numbers * [4, 4, 1]).astype(int), -1, 0)
    assert hot.shape[-1] == 50 and (hot.sum(-1) == 1).all() and 0 < key.mean() < 1
    np.testing.assert_array_equal(hot.argmax(-1), 25 * key + 5 * x + y)
    hidden = envs.pure_task("dark/key_to_door", {"one_hot": True})
    assert hidden.spec.obs["vector"].shape == (81,)


def test_tasks_that_differ_by_their_goals_are_one_program():
    """Neighbours in a mixture are compiled once, dealt ones and given ones."""
    given = [envs.pure_task("dark/room", {"goal": goal}) for goal in ([0, 0], [8, 3])]
    dealt = [envs.pure_task("dark/room", {"tasks": "test"}) for _ in range(2)]
    assert core.same_code(*given) and core.same_code(*dealt)
    assert not core.same_code(given[0], dealt[0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("room", {"goal": [9, 0]}, "options.goal: got 9, give an integer from 0 to 8"),
        ("room", {"goal": 4}, "give a cell"),
        ("room", {"has_key": True}, "no option 'has_key'"),
        ("room", {"goal": [0, 0], "task": "slot"}, "options.task: with options.goal"),
        ("key_to_door", {"key": [0, 0]}, "options.key: alone, give key and door"),
        ("key_to_door", {"start": "center"}, "options.start"),
        ("key_to_door", {"has_key": 1}, "options.has_key"),
        ("room_hard", {"size": 1}, "options.size"),
        ("room_hard", {"length": 0}, "options.length"),
        ("room_hard", {"task": "member"}, "options.task: no 'member'"),
        ("rom", {}, "did you mean room"),
    ],
)
def test_a_wrong_option_is_named(name, options, message):
    """One line that says what would work."""
    with pytest.raises(ValueError, match=message) as error:
        envs.make(f"dark/{name}", (1, 1), options)
    assert "\n" not in str(error.value)


def test_a_picture_shows_agent_and_goals():
    """Blue, orange, yellow; the key is gone once it is taken."""
    options = {"start": [0, 0], "key": [1, 0], "door": [8, 8]}
    env = envs.make("dark/key_to_door", (1, 1), options)
    state, _ = jax.jit(env.reset)(random.roots(0, 1), env.params)
    before = env.render(state, 0, 0)
    state, _ = jax.jit(env.step)(state, jnp.full((1, 1), R), env.params)
    after = env.render(state, 0, 0)
    assert before.shape == after.shape == (198, 198, 3) and before.dtype == np.uint8

    def middle(picture, x, y):
        return tuple(picture[22 * y + 11, 22 * x + 11].tolist())

    blue, orange, yellow = (86, 180, 233), (230, 159, 0), (240, 228, 66)
    assert [middle(before, *c) for c in [(0, 0), (1, 0), (8, 8)]] == [
        blue,
        yellow,
        orange,
    ]
    assert middle(after, 1, 0) == blue and yellow not in {
        tuple(p) for p in after.reshape(-1, 3)
    }
