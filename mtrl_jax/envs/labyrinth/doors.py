"""Rooms with coloured doors: every key lies where it can be reached without its door."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mtrl_jax.envs.labyrinth import deal as dealing
from mtrl_jax.envs.labyrinth import draws, mazes, world
from mtrl_jax.types import Array, Key

_N = world.ROOMS
# Of the maze (2), texture, yaw, room to begin in, goal's room, cells within the rooms,
# room of each colour's key.
_PATHS = (
    *((0, *path) for path in mazes.PATHS),
    *((4, 1), (4, 3, 1), (1,), (5,), (3,)),
    *((2, colour) for colour in range(world.DOORS)),
)


def deal(key: Key, params: world.Params) -> world.State:
    """Returns the first state of a puzzle; things are goal, red, green, blue key.

    The rooms are a tree. The agent starts in one; the goal is in one of the farthest.
    The first DOORS passages of the way to it (as many as it has) are doors, red first.
    A key lies in a room with as many doors before it as there are doors before its own.
    """
    words = draws.words(jnp.stack([key] * len(_PATHS)), _PATHS, world.SIZE**2)
    of_maze, (of_texture, of_yaw, of_start, of_goal, of_cells), of_keys = jnp.split(
        words, (2, 7)
    )
    tree_, _ = mazes.passages(of_maze, params.rooms, jnp.float32(0))
    cells = mazes.build(tree_, params.rooms, params.pitch, params.round)

    line = jnp.arange(_N) < params.rooms
    start = _pick(of_start, line[:, None] & line[None])
    far = mazes.distances(tree_, start)
    inside = far < _N * _N
    farthest = jnp.max(jnp.where(inside, far, -1))
    goal = _pick(of_goal, inside & (far == farthest))
    # On the way to the goal are the rooms for which both distances add up to it.
    to_goal = mazes.distances(tree_, goal)
    way = inside & (far + to_goal == farthest)
    doors, doors_before = _doors(tree_, way, far, params.pitch)

    count = jnp.sum(doors[:, 0] >= 0)
    rooms = [
        _pick(of_key, inside & (doors_before == colour))
        for colour, of_key in enumerate(of_keys)
    ]
    cell = _cells_in(jnp.stack([goal, *rooms, start]), params.pitch, of_cells)
    column, row = jnp.where(doors >= 0, doors, world.SIZE).T
    closed = cells.at[row, column].set(True, mode="drop")
    body = dealing.new_body(cell[-1], draws.uniform(of_yaw[0]) * (2 * jnp.pi))
    things = _things(cell[:-1], 1 + count)
    state = dealing.first(world.words(closed), of_texture[0], body, things)
    return state._replace(doors=doors)


def _things(cells: Array, number: Array) -> world.Things:
    """Returns the first ``number`` of goal, red, green, blue key at cells [4, 2]."""
    kind = jnp.asarray([world.GOAL, world.KEY_RED, world.KEY_GREEN, world.KEY_BLUE])
    more = world.THINGS - len(kind)
    return world.Things(
        jnp.pad(kind, (0, more), constant_values=world.KINDS - 1),
        jnp.pad(world.centre(cells), ((0, more), (0, 0))),
        jnp.arange(world.THINGS) < number,
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


def _pick(words: Array, among: Array) -> Array:
    """Returns the number of one of the rooms ``among`` [N, N], by random words."""
    score = draws.uniform(words[: among.size])
    return jnp.argmax(jnp.where(among.ravel(), score, -1.0))


def _cells_in(rooms: Array, pitch: Array, words: Array) -> Array:
    """Returns a cell (x, y) in each of ``rooms`` [N], no two at one place: [N, 2]."""
    line = jnp.arange(world.SIZE) < pitch - 1
    score = draws.uniform(words)
    within = dealing.random_cells(score, line[:, None] & line[None], len(rooms))
    return jnp.stack([rooms % _N, rooms // _N], 1) * pitch + 1 + within
