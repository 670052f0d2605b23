"""What a labyrinth consists of: its parameters, its state, what happened in a decision.

The map is a square of ``SIZE`` x ``SIZE`` cells, x to the right (columns), y down
(rows), both in cells: cell (i, j) is the square j <= x < j + 1, i <= y < i + 1. A yaw
of 0 looks along x and grows to the right, as seen by the agent: (cos yaw, sin yaw).
Everything here is of one slot; ``core.vectorise`` adds the axes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp

from mtrl_jax.types import Array

SIZE = 21  # cells of the largest map, with its outer walls
ROOMS = 10  # rooms of the largest map, along one side
THINGS = 16  # things that can lie about
BOTS = 3
DOORS = 3
NEVER = 1 << 30
DECISION = 4 / 60  # seconds: four frames of 60 a second

# Kinds of things. A thing is taken by walking over it.
APPLE, LEMON, MELON, GOAL, KEY_RED, KEY_GREEN, KEY_BLUE = range(7)
KINDS = 7
NAMES = ("apple", "lemon", "melon", "goal", "red key", "green key", "blue key")


# An array in a program; in a level's description a plain value.
Traced = Any


class Params(NamedTuple):
    """What makes one level another without other code; all of it traced.

    Lengths are in cells, times in decisions (15 a second), unless it says otherwise.
    """

    # The map: rooms x rooms, ``pitch`` cells from one to the next (2 makes corridors).
    rooms: Traced = 5
    pitch: Traced = 2
    loops: Traced = 0.0  # share of the walls between rooms opened beyond a tree
    round: Traced = False  # a pool: what is outside the circle is wall
    maze_seed: Traced = -1  # the same map for ever; -1: a new one each episode
    # The things, by kind.
    counts: Traced = (0,) * KINDS
    rewards: Traced = (1.0, -1.0, 2.0, 10.0, 0.0, 0.0, 0.0)
    hidden: Traced = False  # things exist and cannot be seen
    # Cells (row, column) of the first two things; -1: anywhere, each episode.
    places: Traced = ((-1, -1), (-1, -1))
    renews: Traced = False  # a new map when nothing worth taking is left
    teleports: Traced = False  # who takes the goal finds it again from elsewhere
    ends: Traced = False  # taking the goal ends the episode
    locked: Traced = False  # the goal can be taken with the red key alone
    # The bots.
    bots: Traced = 0
    bot_speed: Traced = 2.0  # cells a second; the agent runs 3.2
    bot_reaction: Traced = 8.0  # decisions of seeing before it shoots
    bot_aim_error: Traced = 0.15  # radians, standard deviation
    tag_reward: Traced = 1.0
    length: Traced = 900  # decisions in an episode, at most MAX_LENGTH


MAX_LENGTH = 3600


class Body(NamedTuple):
    """The agent."""

    position: Array  # [2] x, y
    velocity: Array  # [2] cells a second
    yaw: Array
    pitch: Array  # radians, up is positive
    height: Array  # of the feet
    climb: Array  # cells a second, upwards
    reload: Array  # int32, decisions until it can fire again
    health: Array  # int32, hits it can take
    stunned: Array  # int32, decisions until it acts again


class Things(NamedTuple):
    """What lies about, [THINGS] each."""

    kind: Array  # int32
    position: Array  # [THINGS, 2]
    there: Array  # bool: not taken


class Bots(NamedTuple):
    """The opponents, [BOTS] each."""

    position: Array  # [BOTS, 2]
    heading: Array  # radians
    target: Array  # [BOTS, 2] int32, the cell (x, y) it wanders to
    seen: Array  # int32, decisions the agent has been in sight
    reload: Array  # int32
    away: Array  # int32, decisions until it comes back; large: never


class Walls(NamedTuple):
    """Bit j of ``rows[i]`` and bit i of ``columns[j]``: cell (i, j) is solid.

    Both, because a ray crosses lines of either direction and should gather for none.
    """

    rows: Array  # [SIZE] uint32
    columns: Array  # [SIZE] uint32


class State(NamedTuple):
    """Everything that changes."""

    time: Array  # int32, decisions since the reset
    walls: Walls
    texture: Array  # uint32, what the walls' looks are hashed with
    body: Body
    things: Things
    doors: Array  # [DOORS, 2] int32 cells (x, y) of closed doors by colour, -1: none
    keys: Array  # [DOORS] bool, held
    bots: Bots
    flash: Array  # bool, the agent has just fired
    used_up: Array  # bool, a new map is due


class Events(NamedTuple):
    """What happened in one decision."""

    taken: Array  # [THINGS] bool
    tagged: Array  # int32, bots the agent hit
    was_tagged: Array  # bool


def bits(x: Array) -> Array:
    """Returns bool ``[..., SIZE, SIZE]`` of row words uint32 ``[..., SIZE]``."""
    columns = jnp.arange(SIZE, dtype=jnp.uint32).reshape((1,) * x.ndim + (SIZE,))
    return (x[..., None] >> columns & 1).astype(bool)


def words(cells: Array) -> Walls:
    """Returns the words of a map bool ``[SIZE, SIZE]``, True where it is solid."""
    weight = jnp.uint32(1) << jnp.arange(SIZE, dtype=jnp.uint32)
    zero = jnp.uint32(0)
    return Walls(
        jnp.sum(jnp.where(cells, weight[None], zero), 1, dtype=jnp.uint32),
        jnp.sum(jnp.where(cells, weight[:, None], zero), 0, dtype=jnp.uint32),
    )


def solid(walls: Walls, x: Array, y: Array) -> Array:
    """Returns whether the cells at points (x, y) are solid; outside the map all are."""
    i, j = jnp.floor(y).astype(jnp.int32), jnp.floor(x).astype(jnp.int32)
    inside = (i >= 0) & (i < SIZE) & (j >= 0) & (j < SIZE)
    word = walls.rows[jnp.clip(i, 0, SIZE - 1)]
    shift = jnp.clip(j, 0, SIZE - 1).astype(jnp.uint32)
    return ~inside | (word >> shift & 1).astype(bool)


def centre(cell: Array) -> Array:
    """Returns the middle (x, y) of cells (x, y) ``[..., 2]``."""
    return cell.astype(jnp.float32) + 0.5


def free_rows(walls: Walls, things: Things) -> Array:
    """Returns uint32 [SIZE]: bit j of row i, cell (i, j) is free and nothing lies there."""
    column, row = jnp.floor(things.position).astype(jnp.uint32).T
    bit = jnp.where(things.there, jnp.uint32(1) << column, 0)
    here = row[:, None] == jnp.arange(SIZE, dtype=jnp.uint32)[None]
    taken = jnp.bitwise_or.reduce(jnp.where(here, bit[:, None], 0), axis=0)
    return ~(walls.rows | taken) & jnp.uint32(2**SIZE - 1)


def random_cell(free: Array, uniform: Array) -> Array:
    """Returns int32 (x, y) of a cell of ``free_rows``, alike likely, uniform in [0, 1)."""
    total = running_sum(_popcount(free))
    rank = jnp.minimum((uniform * total[-1]).astype(jnp.int32), total[-1] - 1)
    row = jnp.sum(total <= rank)
    before = jnp.where(row > 0, total[row - 1], 0)
    up_to = (jnp.uint32(2) << jnp.arange(SIZE, dtype=jnp.uint32)) - 1
    column = jnp.sum(_popcount(free[row] & up_to) <= rank - before)
    return jnp.stack([column, row]).astype(jnp.int32)


def running_sum(x: Array) -> Array:
    """Returns ``cumsum`` of a few whole numbers, which compiles as five programs."""
    index = jnp.arange(len(x))
    return jnp.sum(jnp.where(index[:, None] >= index[None], x[None], 0), axis=1)


def _popcount(x: Array) -> Array:
    return jnp.bitwise_count(x).astype(jnp.int32)
