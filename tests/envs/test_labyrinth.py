"""Labyrinth: maps, bodies, rays and what earns a reward."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random, types
from mtrl_jax.envs import core, labyrinth
from mtrl_jax.envs.labyrinth import (
    bots,
    controls,
    deal,
    draws,
    game,
    levels,
    mazes,
    oracle,
    physics,
    raycast,
    rays,
    world,
)

# Things and bots; the slow tests play every level.
PLAYED = ("explore_object_locations_large", "lasertag_three_opponents_small")
STILL = np.zeros(6, np.int32)

bits, words, solid = map(jax.jit, (world.bits, world.words, world.solid))
cast, collect = map(jax.jit, (raycast.cast, game.collect))
cells_by = jax.jit(jax.vmap(world.random_cell, (None, 0)))
build = jax.jit(jax.vmap(mazes.build, (0, None, None, None)))


@functools.cache
def params_of(name, **changes):
    return labyrinth.task(name, changes).params


@functools.cache
def _dealer(kind, number):
    return jax.jit(jax.vmap(kind.deal, (0, None)))


@functools.cache
def dealt(name, number=32, seed=0, **changes):
    """Returns ``number`` first states of a level."""
    keys = jax.random.split(jax.random.key(seed), number)
    run = _dealer(levels.LEVELS[name].kind, number)
    return run(keys, params_of(name, **changes))


def first(name, **changes):
    return jax.tree.map(lambda x: x[0], jax.device_get(dealt(name, 1, **changes)))


@jax.jit
def passages(keys, rooms, loops):
    """Returns (trees, trees with loops) of keys [N]."""
    words = jax.vmap(
        lambda key: draws.words(jnp.stack([key, key]), mazes.PATHS, mazes.EDGES)
    )(keys)
    return jax.vmap(mazes.passages, (0, None, None))(words, rooms, loops)


@functools.cache
def decider(kind):
    return jax.jit(
        lambda key, state, action, params: game.decide(
            kind, key, state, controls.command(action), params
        )
    )


def decide(name, state, seed=0, changes=None, **choices):
    """Returns (state, events) after one native action, its choices by name."""
    order = ("rotation", "pitch", "strafe", "move", "fire", "jump")
    action = np.array([choices.get(name, 0) for name in order], np.int32)
    run, params = decider(levels.LEVELS[name].kind), params_of(name, **(changes or {}))
    return jax.device_get(run(jax.random.key(seed), state, action, params))


def put(x, index, value):
    """Returns a copy of an array with ``value`` at ``index``."""
    x = np.array(x)
    x[index] = value
    return x


def placed(state, x, y, yaw=0.0):
    body = state.body._replace(
        position=np.float32([x, y]),
        velocity=np.zeros(2, np.float32),
        yaw=np.float32(yaw),
    )
    return state._replace(body=body)


def empty_hall(state, size=11):
    """Returns the state in a hall of free cells 1 .. size - 2 with nothing in it."""
    line = np.arange(world.SIZE)
    inside = (line > 0) & (line < size - 1)
    walls = words(~(inside[:, None] & inside))
    things = state.things._replace(there=np.zeros(world.THINGS, bool))
    away = np.full(world.BOTS, world.NEVER, np.int32)
    return state._replace(
        walls=walls, things=things, bots=state.bots._replace(away=away)
    )


def flood(free, start):
    """Returns the free cells that can be walked to from cell (row, column)."""
    reached = np.zeros_like(free)
    reached[start] = True
    while True:
        grown = reached.copy()
        for axis in (0, 1):
            for step in (1, -1):
                grown |= np.roll(reached, step, axis)
        grown &= free
        if (grown == reached).all():
            return reached
        reached = grown


@pytest.mark.parametrize(("rooms", "pitch"), [(2, 2), (5, 2), (10, 2), (3, 4), (1, 12)])
@pytest.mark.parametrize("loops", [0.0, 0.4])
def test_every_map_is_connected_and_without_loops_a_tree(rooms, pitch, loops):
    """No cell is out of reach; a perfect maze has one passage less than rooms."""
    keys = jax.random.split(jax.random.key(rooms), 20)
    tree, open_ = jax.device_get(passages(keys, rooms, loops))
    count = lambda x: np.sum(x.right, (1, 2)) + np.sum(x.down, (1, 2))  # noqa: E731
    np.testing.assert_array_equal(count(tree), rooms * rooms - 1)
    edges = 2 * rooms * (rooms - 1)
    assert (count(open_) >= count(tree)).all() and (count(open_) <= edges).all()
    if loops == 0.0:
        np.testing.assert_array_equal(count(open_), count(tree))
    else:
        # Of the walls that the tree leaves, such a share.
        left = 20 * (edges - rooms * rooms + 1)
        off = (count(open_) - count(tree)).sum() - loops * left
        assert abs(off) <= 4 * np.sqrt(left * loops * (1 - loops))
    for free in ~np.asarray(build(open_, rooms, pitch, False)):
        start = tuple(np.argwhere(free)[0])
        assert (flood(free, start) == free).all()
        border = np.concatenate([free[0], free[-1], free[:, 0], free[:, -1]])
        assert not border.any()


def test_mazes_of_different_keys_differ_and_all_passages_occur():
    """Over many keys each wall between two rooms is open sometimes, and shut sometimes."""
    keys = jax.random.split(jax.random.key(0), 200)
    tree, _ = jax.device_get(passages(keys, 4, 0.0))
    for passage, inner in ((tree.right, np.s_[:4, :3]), (tree.down, np.s_[:3, :4])):
        often = np.mean(passage, axis=0)[inner]
        # A uniform spanning tree of the 4 x 4 grid has an edge with chance 0.5 to 0.75.
        assert (often > 0.35).all() and (often < 0.95).all()


def test_distances_are_those_of_a_walk():
    """Against a queue over the same passages."""
    trees, _ = jax.device_get(passages(jax.random.key(3)[None], 6, 0.0))
    right, down = (x[0] for x in trees)
    tree = mazes.Passages(right, down)
    found = np.asarray(jax.jit(mazes.distances)(tree, np.int32(23)))
    expected, queue = {(2, 3): 0}, [(2, 3)]
    for i, j in queue:
        near = [
            (right[i, j], (i, j + 1)),
            (j > 0 and right[i, j - 1], (i, j - 1)),
            (down[i, j], (i + 1, j)),
            (i > 0 and down[i - 1, j], (i - 1, j)),
        ]
        for is_open, room in near:
            if is_open and room not in expected:
                expected[room] = expected[i, j] + 1
                queue.append(room)
    for i in range(world.ROOMS):
        for j in range(world.ROOMS):
            assert found[i, j] == expected.get((i, j), world.ROOMS**2)


@pytest.mark.parametrize("name", labyrinth.names())
def test_an_episode_begins_on_free_cells_that_differ(name):
    """Start, bots and things stand apart, on floor that can be walked to."""
    states, params = jax.device_get(dealt(name)), params_of(name)
    for i in range(len(states.time)):
        state = jax.tree.map(lambda x, i=i: x[i], states)
        free = ~np.asarray(bits(state.walls.rows))
        open_doors = [(y, x) for x, y in state.doors if x >= 0]
        for cell in open_doors:
            free[cell] = True
        playing = state.bots.away == 0
        assert playing.sum() == params.bots
        stand = [
            state.body.position,
            *state.things.position[state.things.there],
            *state.bots.position[playing],
        ]
        cells = [(int(y), int(x)) for x, y in stand]
        assert len(set(cells)) == len(cells)
        reached = flood(free, cells[0])
        assert all(reached[cell] for cell in cells)
    if name != "rooms_keys_doors_puzzle":
        assert (states.things.there.sum(1) == params.counts.sum()).all()


def looks_anywhere(yaws):
    """Returns whether angles are of a whole turn, in every quarter of it some."""
    quarters = np.floor(np.asarray(yaws) / (np.pi / 2))
    return set(quarters) == {0, 1, 2, 3}


def test_a_fixed_maze_is_the_same_for_every_key_and_a_fixed_place_as_well():
    """nav_maze_static: layout fixed, start and goal random; ``places`` fixes things."""
    states = jax.device_get(dealt("nav_maze_static_03"))
    assert (states.walls.rows == states.walls.rows[:1]).all()
    assert (states.texture == states.texture[0]).all()
    assert len({tuple(p) for p in states.things.position[:, 5]}) > 3
    assert len({tuple(p) for p in states.body.position}) > 3
    other = jax.device_get(first("nav_maze_static_04"))
    assert (other.walls.rows != states.walls.rows[0]).any()
    fresh = jax.device_get(dealt("explore_goal_locations_small"))
    assert len({tuple(w) for w in fresh.walls.rows}) > 20
    assert looks_anywhere(fresh.body.yaw)
    states = dealt("rooms_watermaze", places=((3, 5), (-1, -1)))
    np.testing.assert_array_equal(
        states.things.position[:, 0], np.tile([5.5, 3.5], (32, 1))
    )
    # In a small room the place given is nobody else's.
    crowded = dict(rooms=1, pitch=4, counts=(6, 0, 0, 0, 0, 0, 0))
    states = dealt("nav_maze_static_03", places=((2, 2), (-1, -1)), **crowded)
    for cells in np.asarray(states.things.position)[:, :6]:
        assert tuple(cells[0]) == (2.5, 2.5)
        assert len({tuple(cell) for cell in cells}) == 6
    # In a full one all lie on the floor, which is 1.5 and 2.5 across and down.
    full = dict(rooms=1, pitch=3, counts=(3, 0, 0, 0, 0, 0, 0))
    states = dealt("nav_maze_static_03", places=((1, 1), (2, 2)), **full)
    for cells in np.asarray(states.things.position)[:, :3]:
        assert set(cells.ravel()) == {1.5, 2.5}
        assert len({tuple(cell) for cell in cells}) == 3


def test_words_are_those_of_split_keys():
    """A path of folds is one of splits; the words and numbers are jax.random's."""

    @jax.jit
    def both(key):
        found = draws.words(jnp.stack([key, key]), ((2, 1), (3,)), 6)
        four = jax.random.split(key, 4)
        ends = jnp.stack([jax.random.split(four[2])[1], four[3]])
        expected = jax.vmap(lambda key: jax.random.bits(key, (6,)))(ends)
        numbers = jax.vmap(lambda key: jax.random.uniform(key, (6,)))(ends)
        return (found, draws.uniform(found)), (expected, numbers)

    jax.tree.map(np.testing.assert_array_equal, *both(jax.random.key(5)))


def test_random_cells_are_free_and_all_alike_likely():
    """The rank of a free cell, by its bits, counts what a loop over cells counts."""
    cells = np.random.default_rng(0).random((world.SIZE, world.SIZE)) < 0.6
    cells[0] = cells[-1] = cells[:, 0] = cells[:, -1] = True
    rows, free = words(~cells).rows, np.argwhere(~cells)
    uniform = (np.arange(len(free)) + 0.5) / len(free)
    found = cells_by(rows, np.float32(uniform))
    np.testing.assert_array_equal(found, free[:, ::-1])
    edges = cells_by(rows, np.float32([0.0, 0.9999999]))
    np.testing.assert_array_equal(edges, free[[0, -1], ::-1])


def march(cells, origin, direction, step=2e-4):
    """Returns the distance to the first solid cell, by small steps."""
    t = np.arange(0, 40 / np.linalg.norm(direction), step)
    points = origin + t[:, None] * direction
    column, row = np.floor(points).astype(int).T
    inside = (row >= 0) & (row < world.SIZE) & (column >= 0) & (column < world.SIZE)
    solid = np.where(inside, cells[row.clip(0, 20), column.clip(0, 20)], True)
    at = int(np.argmax(solid))
    return t[at], (column[at], row[at])


def test_ray_distances_are_those_of_a_march():
    """Distance to 1e-3 and the cell that is met, from many places in many directions."""
    states = jax.device_get(dealt("explore_object_locations_large", 6))
    rng = np.random.default_rng(1)
    for i in range(6):
        walls = jax.tree.map(lambda x, i=i: x[i], states.walls)
        cells = np.asarray(bits(walls.rows))
        free = np.argwhere(~cells)
        origin = free[rng.integers(len(free))][::-1] + rng.uniform(0.1, 0.9, 2)
        angle = rng.uniform(0, 2 * np.pi, 24)
        length = rng.uniform(0.5, 2, 24)
        direction = np.stack([np.cos(angle), np.sin(angle)]) * length
        hit = jax.device_get(cast(walls, np.float32(origin), np.float32(direction)))
        agree = 0
        for r in range(24):
            distance, cell = march(cells, origin, direction[:, r])
            assert abs(hit.distance[r] - distance) < 1e-3
            agree += tuple(hit.cell[:, r]) == cell
        # A ray along an edge between two solid cells may name either of them.
        assert agree >= 23


def test_rays_along_the_axes_meet_the_wall_in_front():
    """A direction with an exact zero divides nothing by it."""
    state = empty_hall(first("explore_object_locations_small"))
    direction = np.float32([[1, 0, -1, 0], [0, 1, 0, -1]])
    hit = jax.device_get(cast(state.walls, np.float32([3.5, 4.25]), direction))
    np.testing.assert_allclose(hit.distance, [6.5, 5.75, 2.5, 3.25], atol=1e-4)
    np.testing.assert_array_equal(hit.cell, [[10, 3, 0, 3], [4, 10, 4, 0]])
    np.testing.assert_array_equal(hit.vertical, [True, False, True, False])
    np.testing.assert_allclose(hit.across[::2], 0.25, atol=1e-4)


@functools.cache
def observer(kind):
    return jax.jit(rays.observer(24, kind))


def observe(name, state):
    run = observer(levels.LEVELS[name].kind)
    return np.asarray(run(state, params_of(name)).rays)


def test_rays_tell_depth_kind_and_side():
    """An apple ahead on the right is met by rays right of the middle, nearer than wall."""
    name = "explore_object_locations_small"
    state = placed(empty_hall(first(name)), 3.5, 5.5)
    things = state.things
    things = things._replace(
        position=put(things.position, 0, (6.5, 6.5)),
        there=put(things.there, 0, True),
        kind=put(things.kind, 0, world.APPLE),
    )
    state = state._replace(things=things)
    seen = observe(name, state)
    assert seen.shape == (24, rays.CHANNELS)
    np.testing.assert_array_equal(seen[:, 1:].sum(1), 1.0)
    apple = np.flatnonzero(seen[:, 1 + rays.THING + world.APPLE])
    assert len(apple) >= 1 and (apple >= 12).all()
    angle = (apple - 11.5) * rays.FIELD_OF_VIEW / 24
    assert abs(angle.mean() - np.arctan2(1, 3)) < rays.FIELD_OF_VIEW / 24
    distance = 1 / seen[apple, 0] - 1
    np.testing.assert_allclose(distance, np.hypot(3, 1), atol=0.05)
    hidden = labyrinth.task(name, {"hidden": True}).params
    run = observer(levels.LEVELS[name].kind)
    assert not np.asarray(run(state, hidden).rays)[:, 1 + rays.THING :].any()


def test_rays_tell_doors_by_colour_and_bots_that_are_there():
    """A closed door is no wall; a bot that is away is not to be seen."""
    name = "rooms_keys_doors_puzzle"
    state = empty_hall(first(name))
    for colour in range(world.DOORS):
        doors = put(np.full((world.DOORS, 2), -1, np.int32), colour, (7, 5))
        shut = words(put(bits(state.walls.rows), (5, 7), True))
        seen = observe(name, placed(state._replace(walls=shut, doors=doors), 5.5, 5.5))
        what = seen[:, 1:].argmax(1)
        is_door = what == rays.DOOR + colour
        assert is_door[9:15].all() and (what[~is_door] < rays.DOOR).all()
        np.testing.assert_allclose(1 / seen[11:13, 0] - 1, 1.5, atol=0.05)
    name, state = duel()
    for away, there in ((0, True), (3, False)):
        rivals = state.bots._replace(away=put(state.bots.away, 0, away))
        what = observe(name, state._replace(bots=rivals))[:, 1:].argmax(1)
        assert (what[11:13] == rays.BOT).all() == there
        assert (what[[0, -1]] < rays.DOOR).all()


def test_rays_come_with_what_the_body_feels():
    """Pitch, height, velocity along and across its look, reload, stun and health."""
    name = "explore_object_locations_small"
    body = first(name).body._replace(
        yaw=np.float32(np.pi / 2), velocity=np.float32([-1.6, 0.8]),
        pitch=np.float32(-0.3), height=np.float32(0.19), reload=np.int32(3),
        stunned=np.int32(15), health=np.int32(2),
    )  # fmt: skip
    state = empty_hall(first(name))._replace(body=body)
    run = observer(levels.LEVELS[name].kind)
    felt = run(state, params_of(name)).body
    expected = [-0.5, 0.5, 0.25, 0.5, 0.5, 1.0, 2 / 3]
    assert len(rays.BODY) == len(felt)
    np.testing.assert_allclose(felt, expected, atol=1e-6)
    size = labyrinth.task(name).spec.obs["vector"].shape[0]
    assert size == 24 * rays.CHANNELS + len(rays.BODY)


def test_a_thing_behind_a_wall_is_not_seen():
    """The same apple with a wall of solid cells in between."""
    name = "explore_object_locations_small"
    state = placed(empty_hall(first(name)), 2.5, 5.5)
    things = state.things._replace(
        position=put(state.things.position, 0, (7.5, 5.5)),
        there=put(state.things.there, 0, True),
    )
    state = state._replace(things=things)
    assert observe(name, state)[:, 1 + rays.THING :].any()
    cells = put(bits(state.walls.rows), np.s_[1:10, 5], True)
    state = state._replace(walls=words(cells))
    assert not observe(name, state)[:, 1 + rays.THING :].any()


def test_a_turned_world_gives_the_turned_view():
    """Map, things and agent turned by a quarter: the same depths and things."""
    name = "explore_object_locations_large"
    state = placed(first(name, seed=5), 1.6, 1.4, 0.3)
    cells = np.asarray(bits(state.walls.rows))
    turned = np.rot90(cells, -1)  # (x, y) goes to (SIZE - y, x)

    def turn(points):
        return np.stack([world.SIZE - points[..., 1], points[..., 0]], -1)

    other = state._replace(
        walls=words(turned),
        things=state.things._replace(position=turn(state.things.position)),
        body=state.body._replace(
            position=turn(state.body.position),
            yaw=np.float32(state.body.yaw + np.pi / 2),
        ),
    )
    seen, seen_turned = observe(name, state), observe(name, other)
    depth_and_things = [0, *range(1 + rays.DOOR, rays.CHANNELS)]
    np.testing.assert_allclose(
        seen[:, depth_and_things], seen_turned[:, depth_and_things], atol=1e-4
    )


def test_bodies_stop_at_walls_and_slide_along_them():
    """Running askew into a wall: the motion along it goes on, none goes through."""
    name = "explore_object_locations_small"
    state = placed(empty_hall(first(name)), 8.5, 5.5, np.pi / 4)
    for _ in range(40):
        state, _ = decide(name, state, move=1)
    x, y = state.body.position
    np.testing.assert_allclose([x, y], 10 - physics.RADIUS, atol=2e-3)
    state = placed(empty_hall(first(name)), 9.5, 3.5, np.pi / 6)
    for _ in range(8):
        state, _ = decide(name, state, move=1)
    assert abs(state.body.position[0] - (10 - physics.RADIUS)) < 2e-3
    assert state.body.position[1] > 4.0
    np.testing.assert_allclose(state.body.velocity[0], 0.0)


def test_speeds_turns_and_jumps_are_what_they_are_said_to_be():
    """3.2 cells a second at a run, not more at an angle; a jump rises 0.38 cells."""
    name = "explore_object_locations_small"
    state = placed(empty_hall(first(name), 21), 2.5, 10.5)
    for strafe in (0, 2):
        moved = state
        for _ in range(10):
            before = moved
            moved, _ = decide(name, moved, move=1, strafe=strafe)
        travelled = np.linalg.norm(moved.body.position - before.body.position)
        np.testing.assert_allclose(travelled, physics.SPEED * world.DECISION, rtol=0.01)
    for choice, degrees in enumerate([0, -3, 3, -12, 12, -30, 30]):
        turned, _ = decide(name, state, rotation=choice)
        np.testing.assert_allclose(
            turned.body.yaw - state.body.yaw, np.radians(degrees), atol=1e-5
        )
    heights, jumping = [], state
    for t in range(12):
        jumping, _ = decide(name, jumping, jump=int(t == 0))
        heights.append(float(jumping.body.height))
    assert 0.25 < max(heights) < 0.45
    assert heights[-1] == 0.0


def one_decision(body, rotation, pitch, strafe, move, jump):
    """Returns [x, y, vx, vy, yaw, pitch, height, climb] after four frames in the open."""
    x, y, vx, vy, yaw, up, height, climb = body
    ahead, right = (0, 1, -1)[move], (0, -1, 1)[strafe]
    speed = 3.2 / max(np.hypot(ahead, right), 1)
    for _ in range(4):
        yaw += np.radians([0, -3, 3, -12, 12, -30, 30])[rotation] / 4
        up = np.clip(up + np.radians([0, -4, 4])[pitch] / 4, -0.6, 0.6)
        # A quarter to the right of (cos, sin), with y down, is (-sin, cos).
        cos, sin = np.cos(yaw), np.sin(yaw)
        vx += 0.3 * (speed * (ahead * cos - right * sin) - vx)
        vy += 0.3 * (speed * (ahead * sin + right * cos) - vy)
        x, y = x + vx / 60, y + vy / 60
        if jump and height <= 0:
            climb = 2.6
        height = max(height + climb / 60, 0)
        climb = climb - 9 / 60 if height > 0 else 0.0
    return x, y, vx, vy, yaw, up, height, climb


def test_a_body_moves_as_one_does_by_hand():
    """Frame by frame in the open: all choices, a look held at its ends, jumps in the air."""
    name, rng = "explore_object_locations_small", np.random.default_rng(0)
    state = placed(empty_hall(first(name), 21), 10.5, 10.5)
    expected, ends = (10.5, 10.5, *[0.0] * 6), set()
    for t in range(50):
        rotation, strafe, move = rng.integers(0, (7, 3, 3))
        # Up to the end, then down to the other; three jumps of four held on.
        choices = dict(
            rotation=rotation, pitch=2 if t < 12 else 1, strafe=strafe, move=move
        )
        jump = int(t % 16 < 12)
        state, _ = decide(name, state, jump=jump, **choices)
        expected = one_decision(expected, jump=jump, **choices)
        b = state.body
        found = [*b.position, *b.velocity, b.yaw, b.pitch, b.height, b.climb]
        np.testing.assert_allclose(found, expected, atol=2e-4)
        ends.add(round(float(b.pitch), 5))
    assert {0.6, -0.6} <= ends


@pytest.mark.parametrize("name", PLAYED)
def test_nobody_is_ever_inside_a_wall(name):
    """Over random play, agent and bots stand on floor with their whole width."""
    assert not _walk(name, 500, 200)(jax.random.key(0), 1)[0].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", labyrinth.names())
def test_nobody_is_ever_inside_a_wall_over_100_000_steps(name):
    """The same for every level and longer than any episode."""
    assert not _walk(name, 100_000 // 16)(jax.random.key(0), 1)[0].any()


@pytest.mark.parametrize("name", PLAYED)
def test_reward_comes_from_the_named_causes_alone(name):
    """Taken things by their kind and tagged bots; standing still earns nothing.

    By default this is also the walk in which nobody is ever inside a wall.
    """
    walk = _walk(name, 500, 200)
    stuck, rewards, ends = walk(jax.random.key(0), 1)
    assert not stuck.any()
    assert set(np.unique(rewards)) <= {-1.0, 0.0, 1.0, 2.0, -2.0} and rewards.any()
    assert not walk(jax.random.key(0), 0)[1].any()
    # Episodes of 200 steps, and one in which the next begins.
    assert set(np.flatnonzero(ends.any((1, 2)))) == {199, 400}


@functools.cache
def _walk(name, steps, length=3600):
    """Returns ``walk(key, moves)`` -> (who is in a wall, rewards, ends) [T, 1, 16].

    Play is random where ``moves`` is 1, and nothing is done where it is 0.
    """
    env = envs.make(f"labyrinth/{name}", (1, 16), {"length": length})
    sizes = jnp.asarray(controls.NATIVE.sizes)

    @jax.jit
    def run(key, moves):
        state, _ = env.reset(key[None], env.params)

        def step(state, t):
            u = jax.random.uniform(jax.random.fold_in(key, t), (1, 16, 6))
            # Mostly onwards: a walk that turns on the spot meets few walls.
            action = (
                (u * sizes[None, None])
                .astype(jnp.int32)
                .at[..., 3]
                .set(u[..., 3] < 0.8)
            )
            state, ts = env.step(state, moves * action, env.params)
            return state, (inside(state.inner), ts.reward, ts.last)

        return jax.lax.scan(step, state, jnp.arange(steps))[1]

    @jax.vmap
    @jax.vmap
    def inside(state):
        return jnp.stack(
            [corners(state.walls, state.body.position, physics.RADIUS)]
            + [
                corners(state.walls, p, physics.RADIUS) & (away == 0)
                for p, away in zip(state.bots.position, state.bots.away)
            ]
        ).any()

    def corners(walls, position, radius):
        offsets = radius * jnp.float32([[1, 1], [1, -1], [-1, 1], [-1, -1]])
        x, y = (position[None] + offsets).T
        return world.solid(walls, x, y).any()

    return lambda key, moves: jax.device_get(run(key, jnp.int32(moves)))


def test_walking_over_a_thing_takes_it_once_and_lemons_cost():
    """+1 and gone, -1 and gone; a melon hangs too high for who does not jump."""
    name = "seekavoid_arena_01"
    state = placed(empty_hall(first(name)), 5.5, 5.5)
    for kind, reward, jump in (
        (world.APPLE, 1.0, 0),
        (world.LEMON, -1.0, 0),
        (world.MELON, 0.0, 0),
        (world.MELON, 2.0, 1),
    ):
        things = state.things._replace(
            position=put(state.things.position, 0, (5.6, 5.5)),
            there=put(state.things.there, 0, True),
            kind=put(state.things.kind, 0, kind),
        )
        now, total = state._replace(things=things), 0.0
        for t in range(4):
            now, events = decide(name, now, jump=jump * (t == 0))
            total += float(collect(now, events, params_of(name))[0])
        assert total == reward
        assert bool(now.things.there[0]) == (reward == 0.0)


def test_a_thing_is_taken_from_a_circle_around_it():
    """Of 0.45 cells, in whatever direction."""
    name = "seekavoid_arena_01"
    state = placed(empty_hall(first(name)), 5.5, 5.5)
    offsets = [
        (0.44, 0),
        (-0.46, 0),
        (0, 0.46),
        (0, -0.44),
        (0.31, 0.31),
        (0.33, -0.33),
    ]
    near = [True, False, False, True, True, False]
    things = state.things
    places = put(things.position, np.s_[: len(offsets)], np.add(offsets, 5.5))
    there = np.arange(world.THINGS) < len(offsets)
    kind = np.full(world.THINGS, world.LEMON, np.int32)
    state = state._replace(things=world.Things(kind, places, there))
    after, events = decide(name, state)
    np.testing.assert_array_equal(events.taken[: len(near)], near)
    np.testing.assert_array_equal(after.things.there, there & ~events.taken)


def test_what_is_taken_and_tagged_pays_what_the_level_says():
    """Each kind its reward, each tag its own; the goal ends where it is to."""
    kinds = np.arange(world.THINGS) % world.KINDS
    things = world.Things(kinds, None, None)
    state = first("rooms_watermaze")._replace(things=things)
    rewards = np.float32([3, -5, 7, 11, 13, 17, 19])
    params = params_of("rooms_watermaze")._replace(rewards=rewards)
    for taken in ([0, 1], [2, 3, 10], [4, 5, 6], []):
        events = world.Events(np.isin(np.arange(world.THINGS), taken), 0, False)
        for ends in (False, True):
            now = params._replace(ends=np.bool_(ends))
            reward, over = collect(state, events, now)
            assert reward == sum(rewards[kinds[i]] for i in taken)
            assert over == (ends and 3 in taken)
    params = params._replace(tag_reward=np.float32(2.5))
    for tagged in (0, 1, 2):
        events = world.Events(None, np.int32(tagged), True)
        reward, over = game.tag(state, events, params)
        assert reward == 2.5 * tagged and not over


def test_a_new_map_keeps_the_time_of_the_episode():
    """All else is of the new one: the limit of an episode is for all its maps."""
    task = labyrinth.task("seekavoid_arena_01")
    old, fresh = first("seekavoid_arena_01"), first("seekavoid_arena_01", seed=1)
    old = old._replace(time=np.int32(77), used_up=np.bool_(True))
    assert task.wants_renewal(old) and not task.wants_renewal(fresh)
    state, obs = task.renew(old, (fresh, "seen"), task.params)
    assert obs == "seen" and state._replace(time=fresh.time) == fresh
    assert state.time == 77


def test_when_nothing_worth_taking_is_left_a_new_map_comes():
    """Lemons do not count; time goes on; the new map has all its apples."""
    name = "seekavoid_arena_01"
    env = envs.make(f"labyrinth/{name}", (1, 2))
    state, _ = jax.device_get(jax.jit(env.reset)(random.roots(0, 1), env.params))
    things = state.inner.things
    lemon = things.kind == world.LEMON
    one = np.arange(world.THINGS) == 0
    here = things._replace(there=things.there & (lemon | one))
    spot = state.inner.body._replace(position=things.position[:, :, 0])
    start = state._replace(inner=state.inner._replace(things=here, body=spot))
    act = np.zeros((1, 2, 6), np.int32)
    after, ts = jax.device_get(jax.jit(env.step)(start, act, env.params))
    np.testing.assert_array_equal(ts.reward, 1.0)
    assert not ts.first.any() and not ts.last.any()
    assert (after.inner.things.there.sum(-1) == 16).all()
    assert (after.inner.time == 1).all()
    assert not after.inner.used_up.any()
    assert (after.inner.things.position != things.position).any((-1, -2)).all()


def test_the_goal_teleports_and_stays_where_it_is():
    """Ten for the goal, the agent elsewhere in the same maze, the goal still there."""
    name = "explore_goal_locations_small"
    state = first(name)
    spot = state.things.position[0]
    state = placed(state, *spot)
    after, events = decide(name, state, seed=1)
    reward, terminated = collect(after, events, params_of(name))
    assert reward == 10.0 and not terminated
    assert after.things.there[0]
    np.testing.assert_array_equal(after.things.position, state.things.position)
    np.testing.assert_array_equal(after.walls.rows, state.walls.rows)
    assert np.abs(after.body.position - spot).max() > 0.5
    assert after.body.stunned == 0 and not after.used_up
    bodies = [decide(name, state, seed=s)[0].body for s in range(80)]
    places = {tuple(body.position) for body in bodies}
    assert looks_anywhere([body.yaw for body in bodies])
    # Of some forty free cells; back on the goal it would be paid again.
    assert len(places) > 20 and tuple(spot) not in places


def test_who_is_moved_lands_on_any_cell_but_those_of_things():
    """On the goal again it would be paid for standing still; a taken apple bars none."""
    state = first("nav_maze_static_01")
    state = state._replace(
        things=state.things._replace(there=put(state.things.there, 0, False))
    )
    free = jax.jit(world.free_rows)(state.walls, state.things)
    landed = cells_by(free, np.linspace(0.0, 1.0, 4001, dtype=np.float32)[:-1])
    cells = ~np.asarray(bits(state.walls.rows))
    for (x, y), there in zip(state.things.position, state.things.there):
        cells[int(y), int(x)] &= not there
    assert cells.sum() == (~np.asarray(bits(state.walls.rows))).sum() - 5
    expected = {tuple(cell) for cell in np.argwhere(cells)[:, ::-1]}
    assert {tuple(cell) for cell in np.asarray(landed)} == expected


def test_the_dark_door_opens_to_the_key_alone():
    """dark_key_to_door: 1 for the key, then 1 for the door and the end."""
    name = "dark_key_to_door_3d"
    state, rules = first(name), functools.partial(collect, params=params_of(name))
    door, key = state.things.position[:2]
    at_door, events = decide(name, placed(state, *door))
    assert rules(at_door, events) == (0.0, False)
    at_key, events = decide(name, placed(at_door, *key))
    assert rules(at_key, events) == (1.0, False)
    at_door, events = decide(name, placed(at_key, *door))
    assert rules(at_door, events) == (1.0, True)


def duel(distance=3.0, yaw=0.0):
    name = "lasertag_one_opponent_small"
    state = placed(empty_hall(first(name)), 2.5, 5.5, yaw)
    rivals = state.bots
    rivals = rivals._replace(
        position=put(rivals.position, 0, (2.5 + distance, 5.5)),
        away=put(rivals.away, 0, 0),
    )
    return name, state._replace(bots=rivals)


def test_a_shot_tags_the_bot_it_points_at_and_nothing_through_walls():
    """Hit within the bot's width; missed beside it, above it, behind a wall, reloading."""
    name, state = duel()
    angle = float(np.arctan2(bots.RADIUS, 3.0))
    for yaw, tagged in ((0.0, 1), (0.8 * angle, 1), (1.3 * angle, 0), (np.pi, 0)):
        _, events = decide(name, duel(yaw=yaw)[1], fire=1)
        assert events.tagged == tagged
    # From 0.5 up, over 3 cells, to above 0.8 and below the floor.
    for pitch, tagged in ((0.09, 1), (0.11, 0), (-0.16, 1), (-0.18, 0)):
        up = state._replace(body=state.body._replace(pitch=np.float32(pitch)))
        assert decide(name, up, fire=1)[1].tagged == tagged
    assert decide(name, state)[1].tagged == 0
    cells = put(bits(state.walls.rows), np.s_[1:10, 4], True)
    walled = state._replace(walls=words(cells))
    assert decide(name, walled, fire=1)[1].tagged == 0
    after, _ = decide(name, state, fire=1)
    assert after.flash and after.bots.away[0] == bots.AWAY
    again, events = decide(name, state._replace(body=after.body), fire=1)
    assert events.tagged == 0 and not again.flash
    assert not after.used_up
    flashes = []
    for _ in range(15):
        state, _ = decide(name, state, fire=1)
        flashes.append(bool(state.flash))
    assert np.flatnonzero(flashes).tolist() == [0, bots.RELOAD + 1, 2 * bots.RELOAD + 2]


def test_of_two_bots_in_line_the_nearer_one_is_tagged():
    """One shot, one bot, in whatever order they are listed."""
    name, state = duel()
    for near, far in ((0, 1), (1, 0)):
        places = put(state.bots.position, near, (5.5, 5.5))
        places = put(places, far, (6.5, 5.5))
        away = np.int32([0, 0, world.NEVER])
        rivals = state.bots._replace(position=places, away=away)
        after, events = decide(name, state._replace(bots=rivals), fire=1)
        assert events.tagged == 1
        assert (after.bots.away[near], after.bots.away[far]) == (bots.AWAY, 0)


def test_a_bot_sees_who_is_near_active_and_behind_no_wall():
    """Who is seen is shot at once by one that has no reaction time, else forgotten."""
    changes = {"bot_reaction": 1.0, "bot_aim_error": 1e-3}
    name, state = duel()
    hall = empty_hall(state, 21)
    wall = words(put(bits(state.walls.rows), np.s_[1:10, 4], True))
    stunned = state.body._replace(stunned=np.int32(3))
    away = state.bots._replace(away=put(state.bots.away, 0, 5))

    def apart(distance):
        return hall._replace(bots=duel(distance)[1].bots)

    for now, sees in (
        (state, True),
        (state._replace(walls=wall), False),
        (state._replace(body=stunned), False),
        (state._replace(bots=away), False),
        (apart(bots.RANGE - 0.1), True),
        (apart(bots.RANGE + 0.1), False),
    ):
        long_seen = put(now.bots.seen, 0, 4)
        now = now._replace(bots=now.bots._replace(seen=long_seen))
        after, _ = decide(name, now, changes=changes)
        assert after.body.health == deal.HEALTH - sees
        assert after.bots.seen[0] == 5 * sees


def test_a_bot_chases_at_its_speed_and_keeps_off():
    """In a line to the agent, not nearer than a cell and a half."""
    for speed in (1.0, 3.0):
        changes = {"bot_speed": speed, "bot_aim_error": 1e6}
        name, state = duel(3.0)
        after, _ = decide(name, state, changes=changes)
        step = 3.0 * world.DECISION * speed / 3
        np.testing.assert_allclose(after.bots.position[0], (5.5 - step, 5.5), atol=1e-4)
        for _ in range(40):
            state, _ = decide(name, state, changes=changes)
        assert 1.5 - step - 1e-3 < state.bots.position[0, 0] - 2.5 <= 1.5


def test_a_bot_that_sees_nobody_wanders_on_and_turns_at_the_end():
    """Along a corridor to its end and all the way back, never to and fro."""
    name, state = duel()
    cells = np.ones((world.SIZE, world.SIZE), bool)
    cells[5, 1:4] = cells[8, 1:8] = False
    rivals = state.bots._replace(
        position=put(state.bots.position, 0, (1.5, 8.5)),
        target=put(state.bots.target, 0, (1, 8)),
    )
    state = state._replace(walls=words(cells), bots=rivals)
    trail = []
    for t in range(86):
        state, _ = decide(name, state, seed=t)
        trail.append(state.bots.position[0])
    x, y = np.transpose(trail)
    end = x.argmax()
    assert x[end] > 7.2 and 40 < end < 60
    assert (np.diff(x[:end]) > 0).all() and (np.diff(x[end:]) < 0).all()
    np.testing.assert_allclose(y, 8.5, atol=1e-3)


@pytest.mark.parametrize("distance", [1.0, 3.0])
def test_a_bot_hits_as_often_as_its_aim_says(distance):
    """A normal angle of 0.1 radians, within the width of the agent."""
    name, state = duel(distance)
    changes = {"bot_reaction": 1.0, "bot_aim_error": 0.1}
    uniform = np.random.default_rng(0).random((4000, bots.UNIFORMS), np.float32)
    _, hits = shooting()(state, uniform, params_of(name, **changes))
    sigma = np.arctan2(0.25, distance) / 0.1
    assert abs(np.mean(hits) - math.erf(sigma / math.sqrt(2))) < 0.03


@functools.cache
def shooting():
    return jax.jit(jax.vmap(bots.act, (None, 0, None)))


def test_a_tagged_bot_is_away_and_comes_back_elsewhere():
    """For AWAY decisions nobody is there; then the same bot on a free cell, by chance."""
    name, state = duel()
    shot, _ = decide(name, state, fire=1)
    came, jumped = [], []
    for seed in range(4):
        state = shot
        for t in range(bots.AWAY):
            assert state.bots.away[0] > 0, t
            before = state.bots.position[0]
            state, _ = decide(name, state, seed=100 * seed + t)
        assert state.bots.away[0] == 0
        assert not solid(state.walls, *state.bots.position[0])
        came.append(tuple(state.bots.position[0]))
        jumped.append(np.abs(state.bots.position[0] - before).max())
    # Of 81 cells one or two may be alike or near by chance.
    assert len(set(came)) >= 3 and sum(np.array(jumped) > 1) >= 3


def test_a_bot_shoots_after_its_reaction_time_and_three_hits_move_the_agent():
    """With perfect aim: no hit before ``bot_reaction``, then one after each reload."""
    changes = {"bot_reaction": 5.0, "bot_aim_error": 1e-3}
    name, state = duel()
    health, tagged, stunned = [], [], []
    for t in range(8 + 3 * bots.RELOAD):
        state, events = decide(name, state, seed=t, changes=changes)
        health.append(int(state.body.health))
        stunned.append(int(state.body.stunned))
        tagged.append(bool(events.was_tagged))
    assert health[:4] == [deal.HEALTH] * 4
    assert health[4] == deal.HEALTH - 1
    assert sum(tagged) == 1
    hit = tagged.index(True)
    # A shot, RELOAD decisions of reloading, the next.
    assert hit == 4 + 2 * (bots.RELOAD + 1)
    assert stunned[hit - 1 : hit + 3] == [0, 15, 14, 13]
    assert health[hit:] == [deal.HEALTH] * len(health[hit:])
    # One that cannot aim does not hit.
    name, state = duel()
    for t in range(20):
        far = {"bot_reaction": 1.0, "bot_aim_error": 1e6}
        state, _ = decide(name, state, seed=t, changes=far)
    assert state.body.health == deal.HEALTH


def test_a_stunned_agent_does_nothing_until_it_is_over():
    """Being tagged costs a second of actions."""
    name, state = duel()
    body = state.body._replace(stunned=np.int32(2))
    state = state._replace(body=body)
    after, events = decide(name, state, fire=1, move=1, rotation=6)
    assert events.tagged == 0 and after.body.yaw == state.body.yaw
    np.testing.assert_array_equal(after.body.position, state.body.position)
    after, _ = decide(name, after, fire=1)
    _, events = decide(name, after, fire=1)
    assert events.tagged == 1


def test_a_door_opens_to_its_own_key_and_the_key_is_used_up():
    """Without the key it is a wall; with another colour as well."""
    name = "rooms_keys_doors_puzzle"
    state = empty_hall(first(name))
    cells = put(bits(state.walls.rows), (5, 6), True)
    doors = put(np.full((world.DOORS, 2), -1, np.int32), 1, (6, 5))
    state = placed(state._replace(walls=words(cells), doors=doors), 5.7, 5.5)
    for held, opens in ((None, False), (0, False), (1, True)):
        keys = np.arange(world.DOORS) == (-1 if held is None else held)
        after, _ = decide(name, state._replace(keys=keys))
        assert bool(solid(after.walls, 6.5, 5.5)) != opens
        assert (after.doors[1, 0] < 0) == opens
        assert after.keys.any() == (held is not None and not opens)
    # From a cell away it stays shut.
    after, _ = decide(name, placed(state._replace(keys=keys), 5.5, 5.5))
    assert solid(after.walls, 6.5, 5.5) and after.keys[1]


def test_the_small_set_is_nine_of_the_756():
    """Legal, one to one, and the count is the paper's."""
    assert controls.JOINT == 756
    everything = {tuple(row) for row in controls.all_native()}
    assert len(everything) == 756
    small = [tuple(row) for row in controls.SMALL]
    assert len(set(small)) == len(small) == 9
    assert set(small) <= everything
    native = jax.jit(controls.native, static_argnums=1)
    np.testing.assert_array_equal(native(np.int32(8), "small"), small[8])
    # Turn, look, side, move, fire, jump; left and back are negative.
    found = jax.jit(jax.vmap(controls.command))(controls.SMALL)
    found = np.stack([np.float32(x) for x in found], 1)
    turn = np.radians(12)
    expected = [
        [0, 0, 0, 1, 0, 0], [0, 0, 0, -1, 0, 0], [0, 0, -1, 0, 0, 0], [0, 0, 1, 0, 0, 0],
        [-turn, 0, 0, 0, 0, 0], [turn, 0, 0, 0, 0, 0],
        [-turn, 0, 0, 1, 0, 0], [turn, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0],
    ]  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_array_equal(native(STILL, "native"), STILL)


@pytest.mark.parametrize(
    "name",
    [
        PLAYED[0],
        *(
            pytest.param(x, marks=pytest.mark.slow)
            for x in (PLAYED[1], "rooms_keys_doors_puzzle")
        ),
    ],
)
def test_a_batch_is_its_slots_one_by_one(name, play):
    """The environment under jit and vmap equals the unbatched functions."""
    task = labyrinth.task(name, {"length": 40})
    env = core.vectorise(task, (1, 3))
    ts, taken, _ = play(env, 30)
    key = random.at(random.roots(0, 1), 0, random.ENV)
    reset, step = jax.jit(task.reset), jax.jit(task.step)
    for b in (0, 2):
        slot = random.fold(key, b)[0]
        state, obs = reset(random.fold(slot, 0), task.params)
        for t in range(30):
            seen = np.concatenate([np.ravel(x) for x in jax.tree.leaves(obs)])
            np.testing.assert_allclose(ts.obs["vector"][t, 0, b], seen, atol=1e-5)
            action = jnp.asarray(taken[t, 0, b])
            state, obs, reward, _, _ = step(
                random.fold(slot, t + 1), state, action, task.params
            )
            assert reward == ts.reward[t + 1, 0, b]


def test_levels_of_one_kind_are_one_program():
    """core.stack takes them: they share functions and differ by parameters alone."""
    names = ["explore_object_locations_small", "seekavoid_arena_01", "rooms_watermaze"]
    tasks = [labyrinth.task(name) for name in names]
    env = core.stack(tasks, (1, 6), [2, 2, 2])
    state, ts = jax.device_get(jax.jit(env.reset)(random.roots(0, 1), env.params))
    np.testing.assert_array_equal(ts.task, [[0, 0, 1, 1, 2, 2]])
    lemons = (state.inner.things.kind == world.LEMON) & state.inner.things.there
    np.testing.assert_array_equal(lemons.sum(-1), [[0, 0, 8, 8, 0, 0]])
    with pytest.raises(ValueError, match="do not share functions"):
        core.stack(
            [tasks[0], labyrinth.task("lasertag_one_opponent_small")], (1, 2), [1, 1]
        )


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("explore_objects", {}, "did you mean explore_object_locations"),
        (
            "rooms_watermaze",
            {"observation": "pixel"},
            "options.observation: no 'pixel'",
        ),
        ("rooms_watermaze", {"actions": "tiny"}, "options.actions: no 'tiny'"),
        ("rooms_watermaze", {"lenght": 3}, "did you mean length"),
        ("rooms_watermaze", {"length": 0}, "options.length: got 0"),
        ("rooms_watermaze", {"length": 3601}, "options.length: got 3601"),
        ("rooms_watermaze", {"rays": 0}, "options.rays: got 0"),
        ("rooms_watermaze", {"rooms": 4}, "options.rooms"),
        ("rooms_watermaze", {"bots": 4}, "options.bots: got 4"),
        ("rooms_keys_doors_puzzle", {"maze_seed": 3}, "options.maze_seed: got 3"),
        ("rooms_keys_doors_puzzle", {"pitch": 3}, "options.pitch: got 3"),
        ("rooms_watermaze", {"bots": 1}, "options.bots"),
        ("rooms_watermaze", {"loops": "many"}, "options.loops: got 'many'"),
        ("rooms_watermaze", {"counts": [1, 2]}, "options.counts"),
        ("rooms_watermaze", {"counts": [17, 0, 0, 0, 0, 0, 0]}, "options.counts"),
        (
            "nav_maze_static_01",
            {"rooms": 1, "pitch": 3, "counts": [4, 0, 0, 0, 0, 0, 0]},
            "options.counts: 5 of things, agent and bots on 4 free cells",
        ),
        # A pool's corner, a wall between rooms, half of a place.
        ("rooms_watermaze", {"places": [[1, 1], [-1, -1]]}, r"places: \[1, 1\] may"),
        (
            "explore_goal_locations_small",
            {"places": [[2, 3], [-1, -1]]},
            r"places: \[2, 3\] may be a wall.*such as \[1, 1\]",
        ),
        ("rooms_watermaze", {"places": [[5, -1], [-1, -1]]}, "options.places"),
        ("explore_goal_locations_small", {"locked": True}, "options.locked.*red key"),
        ("lasertag_one_opponent_small", {"renews": True}, "options.renews"),
        ("rooms_keys_doors_puzzle", {"locked": True}, "options.locked: got True"),
        (
            "explore_goal_locations_small",
            {"teleports": False, "renews": True, "rewards": [1.0] * 3 + [-1.0] * 4},
            "options.renews: .*nothing from the start",
        ),
        ("explore_goal_locations_small", {"counts": [0] * 7}, "nothing is worth"),
        (
            "explore_goal_locations_small",
            {"renews": True},
            "options.renews: .*a goal that teleports stays",
        ),
        ("explore_goal_locations_small", {"round": True}, "round: .*; give rooms=1"),
        ("rooms_keys_doors_puzzle", {"rooms": 1}, "options.rooms: got 1.*2 or more"),
        ("lasertag_three_opponents_small", {"bots": 0}, "nobody to tag; give 1"),
        (
            "dark_key_to_door_3d",
            {"places": [[3, 3], [3, 3]]},
            "options.places: .*two things on one cell",
        ),
        (
            "rooms_watermaze",
            {"places": [[-1, -1], [3, 3]]},
            r"options.places: \[3, 3\] is of thing 2, and counts has 1",
        ),
        (
            "rooms_watermaze",
            {"observation": "pixels", "rays": 24},
            "options.rays: got 24, pixels have none",
        ),
        (
            "lasertag_three_opponents_small",
            {"rooms": 1, "pitch": 2},
            "4 of things, agent and bots on 1 free cells",
        ),
        ("rooms_keys_doors_puzzle", {"tag_reward": 1.0}, "has no bots"),
        ("seekavoid_arena_01", {"tag_reward": 1.0}, "options.tag_reward: got 1.0"),
        ("seekavoid_arena_01", {"bot_speed": 3.0}, "this level has no bots; leave"),
        (
            "lasertag_one_opponent_small",
            {"counts": [4, 0, 0, 0, 0, 0, 0]},
            "options.counts.*pays for bots alone; leave it out",
        ),
        ("lasertag_three_opponents_small", {"rewards": [2.0] * 7}, "options.rewards"),
        ("lasertag_three_opponents_small", {"ends": True}, "options.ends: got True"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(name, options, message):
    """The option, what was given, what would work."""
    with pytest.raises(ValueError, match=message) as error:
        labyrinth.task(name, options)
    assert "\n" not in str(error.value)


def test_a_full_map_is_a_map():
    """As many as there are cells: three bots and the agent on four."""
    states = jax.device_get(dealt("lasertag_three_opponents_small", rooms=1, pitch=3))
    stand = np.concatenate([states.body.position[:, None], states.bots.position], 1)
    for cells in stand.tolist():
        assert sorted(cells) == [[1.5, 1.5], [1.5, 2.5], [2.5, 1.5], [2.5, 2.5]]


def test_every_level_says_what_good_looks_like():
    """The sheet asks for a sentence a level; spaces are what the action set says."""
    for name, level in levels.LEVELS.items():
        assert level.says.endswith("."), name
    assert labyrinth.task("rooms_watermaze").spec.action == controls.NATIVE
    small = labyrinth.task("rooms_watermaze", {"actions": "small"})
    assert small.spec.action == types.Discrete(9)


def test_a_mixture_compiles_levels_of_one_kind_once():
    """Neighbours that differ by parameters alone become one part, in their order."""
    names = ["seekavoid_arena_01", "rooms_watermaze", "lasertag_one_opponent_small"]
    parts = [(labyrinth.task(name), (1, size)) for name, size in zip(names, (1, 2, 3))]
    joined = core.join(parts)
    assert [env.batch for env in joined] == [(1, 3), (1, 3)]
    assert [t.name for env in joined for t in env.spec.tasks] == [
        f"labyrinth/{name}" for name in names
    ]
    alone = core.join([(labyrinth.task(names[0]), (2, 4)), parts[0]][:1], "population")
    assert alone[0].batch == (2, 4)


def test_the_joint_set_is_the_native_one_by_number():
    """Number n is row n of all native actions; both sets name the small one alike."""

    @jax.jit
    def there_and_back(joint):
        native = controls.native(joint, "joint")
        return native, controls.number(native)

    joint = np.arange(controls.JOINT)
    native, number = there_and_back(joint)
    np.testing.assert_array_equal(native, controls.all_native())
    np.testing.assert_array_equal(number, joint)
    rows = np.asarray(controls.SETS["joint"]["small"])[:, 0]
    np.testing.assert_array_equal(controls.all_native()[rows], controls.SMALL)
    np.testing.assert_array_equal(controls.SETS["native"]["small"], controls.SMALL)
    native, joint = (
        envs.make("labyrinth/seekavoid_arena_01", (1, 1), {"actions": name}).spec
        for name in ("native", "joint")
    )
    assert list(native.action_sets) == list(joint.action_sets) == ["small"]
    assert joint.action == types.Discrete(756)


# Tasks that are places.


def test_a_pool_is_as_many_tasks_as_it_has_cells_and_they_are_split():
    """Every free cell of the map that is dealt, once; train and test share none."""
    found = {
        tasks: labyrinth.tasks_of("rooms_watermaze", {"tasks": tasks}).places
        for tasks in ("all", "train", "test")
    }
    cells = {t: {tuple(p) for p in np.asarray(x)[:, 0]} for t, x in found.items()}
    walls = np.asarray(bits(first("rooms_watermaze").walls.rows))
    assert cells["all"] == {tuple(cell) for cell in np.argwhere(~walls)}
    assert len(cells["all"]) == len(found["all"])
    assert cells["train"] | cells["test"] == cells["all"]
    assert not cells["train"] & cells["test"]
    # There is no second thing.
    assert (np.asarray(found["all"])[:, 1] == -1).all()
    assert labyrinth.tasks_of("rooms_watermaze", {"length": 9}) is None


@pytest.mark.parametrize("how", ["episode", "slot"])
def test_a_place_is_drawn_by_the_key_of_an_episode_or_of_a_slot(how):
    """The other key changes nothing; all places are of the split."""
    options = {"tasks": "test", "task": how}
    task = labyrinth.task("rooms_watermaze", options)
    places = jax.jit(jax.vmap(lambda *keys: task.deal(*keys, task.params).places))
    keys = jax.random.split(jax.random.key(0), 100)
    same = jnp.stack([keys[0]] * 100)
    found = {"slot": places(keys, same), "episode": places(same, keys)}
    cells = {x: {tuple(p) for p in np.asarray(found[x])[:, 0]} for x in found}
    among = np.asarray(labyrinth.tasks_of("rooms_watermaze", options).places)[:, 0]
    assert cells.pop(how) == {tuple(p) for p in among}
    (other,) = cells.values()
    assert len(other) == 1


def test_each_learner_has_a_platform_for_good_and_other_episodes_one_of_the_split():
    """Spread over members, and dealt by the reset where nothing is spread."""
    options = {"tasks": "test", "number": 3, "length": 2}
    task = labyrinth.task("rooms_watermaze", options)
    tasks = labyrinth.tasks_of("rooms_watermaze", options)
    centres = np.asarray(tasks.places)[:, 0, ::-1] + 0.5
    assert task.deal is labyrinth.task("rooms_watermaze", options).deal
    for env, changes in (
        (core.spread(task, tasks, (3, 2)), False),
        (core.vectorise(task, (1, 24)), True),
    ):
        state, _ = jax.jit(env.reset)(random.roots(0, env.batch[0]), env.params)
        lie = np.asarray(state.inner.things.position)[..., 0, :]
        if changes:
            assert {tuple(p) for p in lie[0]} == {tuple(c) for c in centres}
        else:
            np.testing.assert_array_equal(lie, np.repeat(centres[:, None], 2, 1))


def strewn(state, *things):
    """Returns the state with things (kind, x, y) alone."""
    kind, position = np.zeros(world.THINGS, np.int32), np.zeros((world.THINGS, 2))
    for i, (what, *place) in enumerate(things):
        kind[i], position[i] = what, place
    there = np.arange(world.THINGS) < len(things)
    return state._replace(things=world.Things(kind, np.float32(position), there))


@functools.cache
def straight():
    return jax.jit(oracle.straight)


def straight_ways(name, state, steps):
    """Returns (places, [(decision, thing taken)]) of who does what is best."""
    run, params = decider(levels.LEVELS[name].kind), params_of(name)
    places, taken = [], []
    for t in range(steps):
        choices = controls.SMALL[int(straight()(state, params))]
        state, events = jax.device_get(run(jax.random.key(t), state, choices, params))
        places.append(state.body.position)
        taken += [(t, int(i)) for i in np.flatnonzero(events.taken)]
    return np.stack(places), taken


def test_what_is_best_in_an_open_room_is_the_way_to_what_is_worth_taking():
    """The nearest; no lemon and no melon, a key before its door; else to stay."""
    name = "seekavoid_arena_01"
    state = placed(empty_hall(first(name), 21), 10.5, 10.5, 0.0)
    found = strewn(
        state, (world.APPLE, 10.5, 14.5), (world.APPLE, 7.5, 10.5),
        (world.LEMON, 12.0, 10.5), (world.MELON, 10.5, 9.0),
    )  # fmt: skip
    _, taken = straight_ways(name, found, 60)
    assert [i for _, i in taken] == [1, 0]
    # Of some 15 decisions for 3 cells, and a turn; then 5 cells.
    assert taken[0][0] < 20 and taken[1][0] < 50
    places, taken = straight_ways(name, strewn(state, (world.LEMON, 12.0, 10.5)), 20)
    assert not taken and np.abs(places - 10.5).max() < 0.3
    name = "dark_key_to_door_3d"
    found = strewn(state, (world.GOAL, 12.0, 10.5), (world.KEY_RED, 8.0, 10.5))
    _, taken = straight_ways(name, found, 60)
    assert [i for _, i in taken] == [1, 0]


@pytest.mark.parametrize(
    ("level", "options", "words"),
    [
        ("nav_maze_static_01", {"tasks": "train"}, "rooms is 4, give 1"),
        ("seekavoid_arena_01", {"number": 2}, "maze_seed is -1, give a seed"),
        ("rooms_watermaze", {"tasks": "tset"}, "did you mean test"),
        ("rooms_watermaze", {"tasks": "test", "number": 99}, "has 14"),
        (
            "rooms_watermaze",
            {"tasks": "all", "places": [[3, 3], [-1, -1]]},
            "places is cells, give none",
        ),
    ],
)
def test_places_that_cannot_be_dealt_are_refused(level, options, words):
    """One line that names what is in the way and what would work."""
    with pytest.raises(ValueError, match=words):
        labyrinth.task(level, options)


@pytest.mark.parametrize(
    ("name", "value"),
    [("pitch", 6), ("round", True), ("counts", [1, 0, 0, 1, 1, 0, 0])],
)
def test_params_of_another_room_do_not_go_with_the_places_of_a_split(name, value):
    """A curriculum may write others, but the cells dealt are of the room given."""
    task = labyrinth.task("dark_key_to_door_3d", {"tasks": "train"})
    params = jax.device_get(task.params)
    task.check(params._replace(length=np.int32(9)))
    with pytest.raises(ValueError, match=f"^options.{name}: got .* give the same"):
        task.check(params._replace(**{name: np.asarray(value)}))
