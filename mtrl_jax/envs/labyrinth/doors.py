"""Rooms with coloured doors: every key lies where it can be reached without its door."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mtrl_jax.envs.labyrinth import deal as dealing
from mtrl_jax.envs.labyrinth import mazes, world
from mtrl_jax.types import Array, Key

_N = world.ROOMS


def deal(key: Key, params: world.Params) -> world.State:
    """Returns the first state of a puzzle; things are goal, red, green, blue key.

    The rooms are a tree. The agent starts in one; the goal is in the farthest. The
    first DOORS passages of the way to it (as many as it has) are doors, red first. A
    key lies in a room with as many doors before it as there are doors before its own.
    """
    map_key, start_key, key_key, place_key, rest_key = jax.random.split(key, 5)
    tree_, _ = mazes.passages(map_key, params.rooms, jnp.float32(0))
    state = dealing.deal(rest_key, params)
    cells = mazes.build(tree_, params.rooms, params.pitch, params.round)

    start = _pick_room(start_key, params.rooms)
    far = mazes.distances(tree_, start)
    inside = far < _N * _N
    goal = jnp.argmax(jnp.where(inside, far, -1))
    # On the way to the goal are the rooms for which both distances add up to it.
    to_goal = mazes.distances(tree_, goal)
    way = inside & (far + to_goal == far.ravel()[goal])
    doors, doors_before = _doors(tree_, way, far, params.pitch)

    count = jnp.sum(doors[:, 0] >= 0)
    rooms = [
        _pick(k, inside & (doors_before == colour))
        for colour, k in enumerate(jax.random.split(key_key, world.DOORS))
    ]
    # Places count on, so that two in one room are not on one cell.
    place = jax.random.randint(place_key, (), 0, (params.pitch - 1) ** 2)
    cell = jnp.stack(
        [
            _cell_in(room, params.pitch, place + i)
            for i, room in enumerate([goal, *rooms, start])
        ]
    )
    there = jnp.arange(world.THINGS) <= count
    kind = jnp.asarray([world.GOAL, world.KEY_RED, world.KEY_GREEN, world.KEY_BLUE])
    things = state.things
    things = things._replace(
        kind=things.kind.at[: len(kind)].set(kind),
        position=things.position.at[: len(kind)].set(world.centre(cell[:-1])),
        there=there,
    )
    column, row = jnp.where(doors >= 0, doors, world.SIZE).T
    closed = cells.at[row, column].set(True, mode="drop")
    return state._replace(
        walls=world.words(closed),
        things=things,
        doors=doors,
        body=dealing.new_body(cell[-1], state.body.yaw),
    )


def _doors(tree_, way, far, pitch) -> tuple[Array, Array]:
    """Returns (cells (x, y) [DOORS, 2] of the doors, doors before each room)."""
    colour = jnp.arange(world.DOORS)

    def between(passage, axis):
        """Returns bool [DOORS, N, N]: edges of the way whose nearer room is c off."""
        other_way, other_far = (jnp.roll(x, -1, axis) for x in (way, far))
        on = passage & way & other_way
        return on[None] & (jnp.minimum(far, other_far)[None] == colour[:, None, None])

    middle = (pitch + 1) // 2 % pitch
    i, j = jnp.meshgrid(jnp.arange(_N), jnp.arange(_N), indexing="ij")
    cells = jnp.full((world.DOORS, 2), -1)
    for passage, axis, x, y in (
        (tree_.right, 1, (j + 1) * pitch, i * pitch + middle),
        (tree_.down, 0, j * pitch + middle, (i + 1) * pitch),
    ):
        here = between(passage, axis)
        found = jnp.stack(
            [jnp.sum(jnp.where(here, v[None], 0), (1, 2)) for v in (x, y)], 1
        )
        cells = jnp.where(here.any((1, 2))[:, None], found, cells)

    # A room is behind door c if its way from the start shares more than c rooms.
    last_shared = _last_on_way(tree_, way, far)
    return cells.astype(jnp.int32), jnp.minimum(last_shared, world.DOORS)


def _last_on_way(tree_, way, far) -> Array:
    """Returns, for each room, how far from the start its way leaves that to the goal."""
    shared = jnp.where(way, far, -1)

    def spread(shared, _):
        for passage, axis in ((tree_.right, 1), (tree_.down, 0)):
            ahead, its = jnp.roll(shared, -1, axis), jnp.roll(far, -1, axis)
            from_ahead = passage & (its < far) & ~way
            shared = jnp.where(from_ahead, jnp.maximum(shared, ahead), shared)
            onward = passage & (its > far)
            moved = jnp.roll(jnp.where(onward, shared, -1), 1, axis)
            shared = jnp.where(way, shared, jnp.maximum(shared, moved))
        return shared, None

    return jax.lax.scan(spread, shared, None, length=_N * 2)[0]


def _pick_room(key: Key, rooms: Array) -> Array:
    line = jnp.arange(_N) < rooms
    return _pick(key, line[:, None] & line[None])


def _pick(key: Key, among: Array) -> Array:
    score = jnp.where(among, jax.random.uniform(key, among.shape), -1.0)
    return jnp.argmax(score)


def _cell_in(room: Array, pitch: Array, place: Array) -> Array:
    """Returns cell (x, y) number ``place`` of a room, counted around."""
    wide = pitch - 1
    within = jnp.stack([place % wide, place // wide % wide])
    return jnp.stack([room % _N, room // _N]) * pitch + 1 + within
