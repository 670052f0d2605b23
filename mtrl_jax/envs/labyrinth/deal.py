"""A fresh episode: a map, things at distinct cells, the agent and bots somewhere else."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mtrl_jax.envs.labyrinth import mazes, world
from mtrl_jax.types import Array, Key

HEALTH = 3


def deal(key: Key, params: world.Params) -> world.State:
    """Returns the first state of an episode."""
    map_key, texture_key, thing_key, start_key = jax.random.split(key, 4)
    fixed = jax.random.key(params.maze_seed.astype(jnp.uint32))
    map_key, texture_key = (
        _either(params.maze_seed < 0, own, jax.random.fold_in(fixed, use))
        for use, own in enumerate((map_key, texture_key))
    )
    _, open_ = mazes.passages(map_key, params.rooms, params.loops)
    cells = mazes.build(open_, params.rooms, params.pitch, params.round)
    walls = world.words(cells)
    things = scatter(thing_key, cells, params)
    body, bots = _start(start_key, cells, things, params)
    return world.State(
        time=jnp.int32(0),
        walls=walls,
        texture=jax.random.bits(texture_key),
        body=body,
        things=things,
        doors=jnp.full((world.DOORS, 2), -1, jnp.int32),
        keys=jnp.zeros(world.DOORS, bool),
        bots=bots,
        flash=jnp.bool_(False),
        used_up=jnp.bool_(False),
    )


def scatter(key: Key, cells: Array, params: world.Params) -> world.Things:
    """Returns things of the counted kinds at distinct free cells of a map."""
    slot = jnp.arange(world.THINGS)
    kind = jnp.sum(slot[:, None] >= jnp.cumsum(params.counts)[None], axis=1)
    row, column = jnp.where(params.places >= 0, params.places, world.SIZE).T
    cell = random_cells(
        key, ~cells.at[row, column].set(True, mode="drop"), world.THINGS
    )
    given = (
        jnp.full((world.THINGS, 2), -1)
        .at[: len(params.places)]
        .set(params.places[:, ::-1])
    )
    cell = jnp.where(given >= 0, given, cell)
    there = kind < world.KINDS
    return world.Things(
        jnp.minimum(kind, world.KINDS - 1).astype(jnp.int32), world.centre(cell), there
    )


def random_cells(key: Key, free: Array, number: int) -> Array:
    """Returns int32 [number, 2] (x, y) of distinct free cells of bool [SIZE, SIZE].

    Where there are fewer free cells, the last of them are not free.
    """
    score = jnp.where(free, jax.random.uniform(key, free.shape), -1.0).ravel()
    _, index = jax.lax.top_k(score, number)
    return jnp.stack([index % world.SIZE, index // world.SIZE], 1).astype(jnp.int32)


def new_body(cell: Array, yaw: Array) -> world.Body:
    """Returns an agent at rest in the middle of a cell (x, y)."""
    zero = jnp.float32(0)
    count = jnp.int32(0)
    return world.Body(
        position=world.centre(cell),
        velocity=jnp.zeros(2),
        yaw=yaw,
        pitch=zero,
        height=zero,
        climb=zero,
        reload=count,
        health=jnp.int32(HEALTH),
        stunned=count,
    )


def _start(key, cells, things, params):
    cell_key, yaw_key = jax.random.split(key)
    occupied = things.there[:, None, None] & (
        world.centre(_grid())[None] == things.position[:, None, None]
    ).all(-1)
    free = ~cells & ~occupied.any(0)
    # Full maps: better on top of something than inside a wall.
    free = jnp.where(free.sum() > params.bots, free, ~cells)
    found = random_cells(cell_key, free, 1 + world.BOTS)
    yaw = jax.random.uniform(yaw_key, (), minval=0.0, maxval=2 * jnp.pi)
    plays = jnp.arange(world.BOTS) < params.bots
    count = jnp.zeros(world.BOTS, jnp.int32)
    bots = world.Bots(
        position=world.centre(found[1:]),
        heading=jnp.zeros(world.BOTS),
        target=found[1:],
        seen=count,
        reload=count,
        away=jnp.where(plays, 0, world.NEVER),
    )
    return new_body(found[0], yaw), bots


def _either(condition: Array, x: Key, y: Key) -> Key:
    """Returns key ``x`` where the condition holds, else ``y``."""
    data = jnp.where(condition, jax.random.key_data(x), jax.random.key_data(y))
    return jax.random.wrap_key_data(data)


def _grid():
    line = jnp.arange(world.SIZE)
    return jnp.stack(jnp.meshgrid(line, line, indexing="xy"), -1)
