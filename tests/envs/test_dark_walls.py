"""Dark rooms with walls: which tasks there are, what stops a step, and exact scores."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import playing
import pytest

from mtrl_jax import envs
from mtrl_jax.envs import core, dark, dark_rooms, dark_walls, task_splits

SMALL = {"walls": 3, "layouts": 40, "size": 4, "length": 8}
ROOM = dark_rooms.room_of("room", SMALL)
HARD = dark_rooms.room_of("room_hard", SMALL)


@functools.cache
def tasks_of(room):
    goals, ways = dark_walls.among(room, task_splits.Split())
    return goals, ways


def steps_by_hand(size, ways, goal):
    """The steps to a goal from each cell, by the plainest search."""
    steps, edge = {goal: 0}, [goal]
    while edge:
        x, y = edge.pop(0)
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
            to = (x + dx, y + dy)
            inside = 0 <= to[0] < size and 0 <= to[1] < size
            if inside and to not in steps and ways[size * to[0] + to[1]] >= 0:
                steps[to] = steps[x, y] + 1
                edge.append(to)
    return steps


def test_each_task_has_its_walls_and_a_goal_that_an_episode_can_reach():
    """So many walls, never the start; steps are those of a plain search."""
    goals, ways = tasks_of(ROOM)
    size, start = ROOM.size, dark_rooms.fixed_start(ROOM)
    assert goals.shape == (40, 1, 2) and ways.shape == (40, 16)
    for (goal,), way in zip(goals, ways):
        steps = steps_by_hand(size, way, tuple(goal.tolist()))
        assert (way == dark_walls.WALL).sum() == ROOM.walls
        assert steps[start] <= ROOM.length
        for number, n in enumerate(way):
            expected = steps.get(divmod(number, size), size**2)
            assert n == (dark_walls.WALL if n < 0 else expected)
    assert len({way.tobytes() for way in ways}) == len(ways)


@pytest.mark.parametrize("walls", [1, 3])
def test_no_room_of_the_tests_is_one_to_train_in(walls):
    """A 3x3 room has few layouts: of a thousand tasks nearly all are equal to others."""
    room = dark_rooms.room_of("room", {"size": 3, "walls": walls, "layouts": 1000})
    train, test = (
        {
            (tuple(goal.ravel()), tuple(np.where(way == 9, -1, way)))
            for goal, way in zip(*dark_walls.among(room, task_splits.Split(name)))
        }
        for name in ("train", "test")
    )
    assert test and len(train) > len(test) and not train & test


@pytest.mark.parametrize("length", [8, 16, 20])
def test_a_goal_is_never_walled_off(length):
    """Also in an episode with as many steps as the room has cells, or more."""
    room = dark_rooms.room_of("room", SMALL | {"walls": 5, "length": length})
    goals, ways = tasks_of(room)
    start = dark_rooms.fixed_start(room)
    steps = [
        steps_by_hand(room.size, way, tuple(goal.tolist())).get(start)
        for (goal,), way in zip(goals, ways)
    ]
    assert None not in steps
    best = [max(length + 1 - max(n, 1), 0) for n in steps]
    np.testing.assert_array_equal(dark_walls.returns(room, ways)[1], best)


def test_of_several_ways_around_walls_the_first_move_is_taken():
    """Up, then right, down and left; at the goal a noop; never into a wall."""

    def best(goal, position, walls=()):
        steps = [
            abs(x - goal[0]) + abs(y - goal[1]) for x in range(3) for y in range(3)
        ]
        ways = put_walls(np.int32(steps), walls)
        state = dark.State(jnp.asarray(position), jnp.int32(0), jnp.int32(0))
        return int(dark.optimal_action(dark.Params(None, jnp.asarray(ways)), state))

    def put_walls(ways, walls):
        for x, y in walls:
            ways[3 * x + y] = dark_walls.WALL
        return ways

    assert best((2, 0), (1, 1)) == dark.UP and best((2, 2), (1, 1)) == dark.RIGHT
    assert best((0, 2), (1, 1)) == dark.DOWN and best((0, 1), (1, 1)) == dark.LEFT
    assert best((1, 1), (1, 1)) == dark.NOOP
    assert best((2, 0), (1, 1), walls=[(1, 0)]) == dark.RIGHT
    assert best((0, 0), (1, 1), walls=[(1, 0)]) == dark.LEFT


def test_of_a_goal_that_is_walled_off_nothing_is_earned():
    """Whatever the length, as random actions do."""
    room = dark_rooms.room_of("room", SMALL | {"length": 20})
    ways = np.full((1, 16), 16)
    ways[0, [0, 1, 4]] = 0, dark_walls.WALL, dark_walls.WALL
    assert [x.item() for x in dark_walls.returns(room, ways)] == [0, 0]


def test_a_family_has_more_than_ten_thousand_tasks_and_a_split_none_twice():
    """As many layouts as are asked for by default, four of them like another.

    All of a kind but for what is walled off in them.
    """
    options = {"walls": 12}
    train, test = (
        dark.tasks_of("room", {**options, "tasks": tasks})
        for tasks in ("train", "test")
    )
    assert (len(train.goals), len(test.goals)) == (10_001, 2_499)
    seen = {np.asarray(way).tobytes() for way in np.asarray(train.ways)}
    new = {np.asarray(way).tobytes() for way in np.asarray(test.ways)}
    assert len(seen) == 10_001 and not seen & new
    # Drawn by a hash: these, whatever the library.
    assert np.asarray(train.goals)[:3, 0].tolist() == [[1, 3], [5, 0], [3, 5]]


@pytest.mark.parametrize("room", [ROOM, HARD], ids=["room", "room_hard"])
def test_exact_scores_are_those_of_brute_force(room):
    """Every action in every state of the first rooms, too short for the far goals."""
    room, ways = room._replace(length=2), tasks_of(ROOM)[1][:12]
    chance, best = dark_walls.returns(room, ways)
    for n, way in enumerate(ways):

        @functools.cache
        def value(cell, left, combine, way=way):
            found = []
            for dx, dy in dark_rooms.MOVES if left else ():
                to = tuple(np.clip((cell[0] + dx, cell[1] + dy), 0, 3).tolist())
                to = cell if way[4 * to[0] + to[1]] < 0 else to
                paid = way[4 * to[0] + to[1]] == 0
                over = paid and room.ends
                found.append(paid + (0 if over else value(to, left - 1, combine)))
            return combine(found) if found else 0.0

        start = dark_rooms.fixed_start(room)
        assert chance[n] == pytest.approx(value(start, 2, np.mean), abs=1e-6)
        assert best[n] == value(start, 2, np.max)
    assert best.min() < best.max()


def test_the_best_way_returns_the_optimum_and_random_steps_the_random_score():
    """All tasks as one program: walls stop a step, what is best goes around them."""
    goals, ways = tasks_of(ROOM)
    task = envs.pure_task("dark/room", SMALL)
    tasks = dark.Params(jnp.asarray(goals), jnp.asarray(ways))
    env = core.spread(task, tasks, (40, 50))

    def best(key, state):
        return dark.optimal_action(state.params, state.inner)

    def at_random(key, state):
        return jax.random.randint(key, env.batch, 0, 5)

    chance, optimal = dark_walls.returns(ROOM, ways)
    got, cells = {}, None
    for name, choose in (("best", best), ("random", at_random)):
        ts, *_ = playing.played(env, ROOM.length, choose, 0)
        got[name], cells = ts.reward.sum(axis=0), ts.obs["vector"]
    np.testing.assert_array_equal(got["best"], np.repeat(optimal[:, None], 50, 1))
    sigma = got["random"].std() / np.sqrt(got["random"].size)
    assert abs(got["random"].mean() - chance.mean()) < 4 * sigma
    x, y = np.moveaxis(np.round(3 * cells).astype(int), -1, 0)
    at = np.take_along_axis(ways[None, :, None], (4 * x + y)[..., None], -1)
    assert (at != dark_walls.WALL).all()
    spec = task.spec
    assert spec.random_score == pytest.approx(chance.mean(), rel=1e-5)
    assert spec.reference_score == pytest.approx(optimal.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("room", {"walls": 0}, "options.walls: got 0, give an integer from 1 to 27"),
        ("room", {"walls": 28}, "options.walls"),
        ("room", {"layouts": 5}, "options.layouts: without options.walls"),
        ("room", {"walls": 3, "layouts": 1}, "options.layouts: got 1"),
        ("room", {"walls": 3, "goal": [0, 0]}, "options.walls: with options.goal"),
        ("room", {"walls": 3, "start": "random"}, "options.start: 'random'"),
        ("key_to_door", {"walls": 3}, "no option 'walls'"),
    ],
)
def test_a_wrong_option_is_named(name, options, message):
    """One line that says what would work."""
    with pytest.raises(ValueError, match=message) as error:
        envs.pure_task(f"dark/{name}", options)
    assert "\n" not in str(error.value)


def test_a_picture_shows_walls():
    """Dark cells, as many as there are walls."""
    env = envs.make("dark/room", (1, 1), SMALL)
    goals, ways = tasks_of(ROOM)
    params = dark.Params(goals[0], ways[0])
    state = dark.State(np.asarray([2, 2]), np.int32(0), np.int32(0))
    picture = envs.pure_task("dark/room", SMALL).render(state, params)
    middles = picture[25::50, 25::50]
    assert env.batch == (1, 1) and (middles == (18, 18, 24)).all(-1).sum() == ROOM.walls
