"""A fresh episode: a map, things at distinct cells, the agent and bots somewhere else."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mtrl_jax.envs.labyrinth import draws, mazes, world
from mtrl_jax.types import Array, Key

HEALTH = 3
# Of the maze (2), texture, things, cells to begin at, yaw; the first three by the key of
# the map.
_PATHS = (*((0, *path) for path in mazes.PATHS), (1,), (2,), (3, 0), (3, 1))


def deal(key: Key, params: world.Params) -> world.State:
    """Returns the first state of an episode."""
    fixed = jax.random.key(params.maze_seed.astype(jnp.uint32))
    map_key = jnp.where(params.maze_seed < 0, key, fixed)
    roots = jnp.stack([map_key] * 3 + [key] * 3)
    words = draws.words(roots, _PATHS, world.SIZE**2)
    of_maze, of_texture, of_things, of_cells, of_yaw = jnp.split(words, (2, 3, 4, 5))
    _, open_ = mazes.passages(of_maze, params.rooms, params.loops)
    cells = mazes.build(open_, params.rooms, params.pitch, params.round)
    things = scatter(draws.uniform(of_things[0]), cells, params)
    free = free_cells(cells, things, params.bots)
    found = random_cells(draws.uniform(of_cells[0]), free, 1 + world.BOTS)
    body = new_body(found[0], draws.uniform(of_yaw[0, 0]) * (2 * jnp.pi))
    state = first(world.words(cells), of_texture[0, 0], body, things)
    return state._replace(bots=_bots(found[1:], params.bots))


def first(
    walls: world.Walls, texture: Array, body: world.Body, things: world.Things
) -> world.State:
    """Returns the state of these at an episode's beginning, without doors and bots."""
    return world.State(
        time=jnp.int32(0),
        walls=walls,
        texture=texture,
        body=body,
        things=things,
        doors=jnp.full((world.DOORS, 2), -1, jnp.int32),
        keys=jnp.zeros(world.DOORS, bool),
        bots=_bots(jnp.zeros((world.BOTS, 2), jnp.int32), jnp.int32(0)),
        flash=jnp.bool_(False),
        used_up=jnp.bool_(False),
    )


def scatter(score: Array, cells: Array, params: world.Params) -> world.Things:
    """Returns things of the counted kinds at distinct free cells of a map.

    Where no place is given they lie at the cells of the largest ``score`` [SIZE^2].
    """
    slot = jnp.arange(world.THINGS)
    kind = jnp.sum(slot[:, None] >= world.running_sum(params.counts)[None], axis=1)
    row, column = jnp.where(params.places >= 0, params.places, world.SIZE).T
    cell = random_cells(
        score, ~cells.at[row, column].set(True, mode="drop"), world.THINGS
    )
    given = (
        jnp.full((world.THINGS, 2), -1)
        .at[: len(params.places)]
        .set(params.places[:, ::-1])
    )
    # A place that is given takes no random cell: of a full map none is left over.
    is_given = given[:, 0] >= 0
    cell = jnp.where(is_given[:, None], given, cell[world.running_sum(~is_given) - 1])
    there = kind < world.KINDS
    return world.Things(
        jnp.minimum(kind, world.KINDS - 1).astype(jnp.int32), world.centre(cell), there
    )


def random_cells(score: Array, free: Array, number: int) -> Array:
    """Returns int32 [number, 2] (x, y) of distinct free cells of bool [SIZE, SIZE].

    They are those of the largest ``score`` [SIZE^2], random in [0, 1). Where there are
    fewer free cells, the last of them are not free.
    """
    _, index = jax.lax.top_k(jnp.where(free.ravel(), score, -1.0), number)
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


def free_cells(cells: Array, things: world.Things, bots: Array) -> Array:
    """Returns bool [SIZE, SIZE]: cells for the agent and ``bots`` to begin at."""
    column, row = jnp.floor(things.position).astype(jnp.int32).T
    free = ~cells & ~jnp.zeros_like(cells).at[row, column].max(things.there)
    # Full maps: better on top of something than inside a wall.
    return jnp.where(free.sum() > bots, free, ~cells)


def _bots(cells: Array, number: Array) -> world.Bots:
    """Returns the first ``number`` bots at rest at cells (x, y) [BOTS, 2]."""
    count = jnp.zeros(world.BOTS, jnp.int32)
    return world.Bots(
        position=world.centre(cells),
        heading=jnp.zeros(world.BOTS),
        target=cells,
        seen=count,
        reload=count,
        away=jnp.where(jnp.arange(world.BOTS) < number, 0, world.NEVER),
    )
