"""What a ray meets: the first wall, door or thing along it.

There is no march from cell to cell: a ray is intersected with every grid line at once,
and of each crossing one bit says whether the cell beyond is solid. That is a few hundred
operations without a loop or a gather, the same for every ray.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.labyrinth import world
from mtrl_jax.types import Array

FAR = 64.0  # beyond everything
TEXTURES = 6
_LINES = np.arange(1, world.SIZE, dtype=np.int32)
_FLAT = 1e-6


class Hit(NamedTuple):
    """Where rays meet walls, [R] each."""

    distance: Array  # in lengths of the ray's direction
    cell: Array  # [2, R] int32 (x, y), the cell that was met
    across: Array  # in [0, 1), place along the face of the cell
    vertical: Array  # bool, a face between columns


class Sprite(NamedTuple):
    """The nearest thing that rays meet before the wall, [R] each."""

    distance: Array  # FAR if there is none
    which: Array  # int32, its number
    across: Array  # in [-1, 1], place along its width


def cast(walls: world.Walls, origin: Array, direction: Array) -> Hit:
    """Returns what rays from ``origin`` [2] along ``direction`` [2, R] meet.

    The origin is in a free cell and the map is closed, so every ray meets something.
    """
    (ox, oy), (dx, dy) = origin, direction
    to_column = _crossings(walls.columns, ox, oy, dx, dy)
    to_row = _crossings(walls.rows, oy, ox, dy, dx)
    distance = jnp.minimum(to_column, to_row)
    vertical = to_column <= to_row
    # A little further on, to be surely inside the cell.
    x, y = ox + distance * dx, oy + distance * dy
    column = jnp.where(vertical, jnp.round(x) - (dx < 0), jnp.floor(x))
    row = jnp.where(vertical, jnp.floor(y), jnp.round(y) - (dy < 0))
    along = jnp.where(vertical, y, x)
    cell = jnp.stack([column, row]).astype(jnp.int32)
    return Hit(distance, cell, along - jnp.floor(along), vertical)


def _crossings(words, start, other_start, step, other_step):
    """Returns the distance [R] to the first line whose far side is solid."""
    step = jnp.where(jnp.abs(step) < _FLAT, jnp.where(step < 0, -_FLAT, _FLAT), step)
    line = jnp.asarray(_LINES)[:, None]
    t = (line - start) / step[None]
    place = other_start + t * other_step[None]
    place = jnp.clip(place, 0.0, world.SIZE - 1.0).astype(jnp.uint32)
    beyond = jnp.where(step[None] > 0, words[1:, None], words[:-1, None])
    stops = ((beyond >> place) & 1 > 0) & (t > 0)
    return jnp.min(jnp.where(stops, t, FAR), axis=0)


def sprites(
    origin: Array, direction: Array, position: Array, radius: Array, seen: Array
) -> Sprite:
    """Returns the nearest of things [S] that rays [2, R] meet; FAR beyond all of them.

    ``position`` is [S, 2], ``radius`` [S], ``seen`` bool [S]. A thing is a disc that
    faces the ray.
    """
    dx, dy = direction
    length = jnp.square(dx) + jnp.square(dy)
    offset = position - origin[None]
    x, y = offset[:, 0, None], offset[:, 1, None]
    along = (x * dx[None] + y * dy[None]) / length[None]
    beside = (x * dy[None] - y * dx[None]) / jnp.sqrt(length)[None]
    beside = -beside / radius[:, None]
    met = (jnp.abs(beside) < 1) & (along > 0.05) & seen[:, None]
    distance = jnp.where(met, along, FAR)
    nearest = jnp.min(distance, axis=0)
    which = jnp.argmin(distance, axis=0).astype(jnp.int32)
    across = jnp.sum(jnp.where(distance <= nearest[None], beside, 0.0), axis=0)
    return Sprite(nearest, which, jnp.clip(across, -1.0, 1.0))


def texture(cell: Array, seed: Array) -> Array:
    """Returns the texture, int32 below TEXTURES, of cells (x, y) ``[2, ...]``.

    Blocks of 2 x 2 cells look alike, so that places differ and not only cells.
    """
    x, y = (cell // 2).astype(jnp.uint32)
    h = (x * jnp.uint32(0x9E3779B1)) ^ (y * jnp.uint32(0x85EBCA77)) ^ seed
    h = (h ^ (h >> 15)) * jnp.uint32(0x2C1B3C6D)
    h = h ^ (h >> 12)
    return ((h >> 8) % TEXTURES).astype(jnp.int32)
