"""The observation as a picture: a ray a column, and little to do for each element.

A column knows how far its wall is, the word of its wall's bitmap (``textures``) and the
wall's two colours, shaded; and the same of the nearest thing before that wall. Where
several things share a column only the nearest is drawn, and through its gaps one sees
the wall. A row knows how steeply it looks. The element of both is at height eye + slope
x distance, which picks a bit of the word, which picks a colour: no gather, no division
and no shading are left for the elements.

Red, green and blue are columns of their own, so that the picture is written as it lies
in memory and every loop runs over 3 W neighbours; finding the same bit three times is
cheaper than putting three pictures together.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.labyrinth import game, physics, raycast, rays, textures, world
from mtrl_jax.types import Array, Tree

SIZE = (72, 96)  # height, width
SMALLEST = 16  # of either: a thing three cells away is three elements wide
LARGEST = 4096  # of either: a picture of 48 MiB

_DIM, _FADE = 0.35, 0.11  # light that is left far away; what a cell takes of it
_SIDE = 0.8  # light on faces between rows: the sun stands to one side
_SHARP, _BLUR = 2.0, 8.0  # cells to where patterns begin to fade, and over which
_SKY = np.asarray([[190, 210, 230], [70, 120, 190]], np.float32)  # horizon, above
_FLOOR = np.asarray([[120, 112, 104], [96, 90, 84]], np.float32)  # tiles in turn
_FLASH = np.asarray([255, 230, 120], np.float32)

_WALL_WORDS, _WALL_COLOURS = textures.wall_words(), textures.wall_colours()
_THING_WORDS, _THING_COLOURS = textures.thing_words(), textures.thing_colours()
_FEET, _SCALE = textures.feet_and_scale()


class Wall(NamedTuple):
    """The wall that each column shows: [W], colours [W, 3]."""

    depth: Array
    word: Array
    joint: Array
    face: Array


class Thing(NamedTuple):
    """The thing that each column shows: [W], colours [W, 3]; word 0: there is none."""

    start: Array  # the point of its bitmap at the height of the eye
    step: Array  # points up for a slope of one
    word: Array
    first: Array
    second: Array
    third: Array


class Row(NamedTuple):
    """What each row looks at, [H] each."""

    slope: Array  # up for a unit of depth
    light: Array  # on the floor; above the horizon how far up the sky
    depth: Array  # of the floor


def checked(size: Sequence[int]) -> tuple[int, int]:
    """Returns ``size`` as (height, width). Raises ValueError for one that cannot be."""
    try:
        height, width = (operator.index(n) for n in size)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < SMALLEST or max(height, width) > LARGEST:
        raise ValueError(
            f"options.size: got {size!r}, give [height, width] of {SMALLEST} to {LARGEST} "
            f"each, such as {list(SIZE)}"
        )
    return height, width


@functools.cache
def observer(size: tuple[int, int], kind: game.Kind) -> game.Observe:
    """Returns ``observe(state, params) -> uint8 [H, W, 3]``, 90 degrees from side to side.

    Levels of one kind share the very same function.
    """
    height, width = size
    right = ((np.arange(width) + 0.5) / width * 2 - 1).astype(np.float32)
    down = ((np.arange(height) + 0.5 - height / 2) / (width / 2)).astype(np.float32)
    flash = _flash(right, down)

    def observe(state: world.State, params: world.Params) -> Array:
        body = state.body
        cos, sin = jnp.cos(body.yaw), jnp.sin(body.yaw)
        # Of length one along the view, so that distance is depth and walls are straight.
        ray = jnp.stack([cos - sin * right, sin + cos * right])
        eye = physics.EYE + body.height
        wall = _walls(state, ray, kind)
        ahead = jnp.stack([cos, sin])
        thing = _things(state, params, ray, ahead, wall.depth, eye, kind)
        rows = _rows(jnp.tan(body.pitch) - down, eye)
        picture = _paint(rows, wall, thing, ray, body.position, eye)
        picture = jnp.where(state.flash, jnp.maximum(picture, flash), picture)
        return picture.astype(jnp.uint8).reshape(height, width, 3)

    return observe


def _walls(state: world.State, ray: Array, kind: game.Kind) -> Wall:
    hit = raycast.cast(state.walls, state.body.position, ray)
    # From left to right as it is seen, whichever way the face looks.
    mirrored = jnp.where(hit.vertical, ray[0] < 0, ray[1] > 0)
    across = jnp.where(mirrored, 1 - hit.across, hit.across)
    texture = raycast.texture(hit.cell, state.texture)
    tone = raycast.texture(hit.cell, ~state.texture) % len(textures.TINTS)
    tint = jnp.asarray(textures.TINTS)[tone]
    if kind.doors:
        texture = rays.door(state, hit.cell, texture)
        tint = jnp.where(texture < rays.DOOR, tint, 1.0)
    light = _light(hit.distance) * jnp.where(hit.vertical, 1.0, _SIDE) * tint
    colours = jnp.asarray(_WALL_COLOURS)[texture]
    # Patterns finer than the picture would flicker: they fade into their mean.
    fade = jnp.clip((hit.distance - _SHARP) / _BLUR, 0.0, 0.8)[:, None, None]
    colours = colours + (colours.mean(1, keepdims=True) - colours) * fade
    joint, face = jnp.moveaxis(colours * light[:, None, None], 1, 0)
    return Wall(hit.distance, _word(_WALL_WORDS, texture, across), joint, face)


def _things(state, params, ray, ahead, depth, eye, kind) -> Thing:
    position, radius, seen, what = rays.bodies(state, params, kind.bots)
    met = raycast.sprites(state.body.position, ray, position, radius, seen)
    look = what[met.which]
    # What is across grows to the left.
    word = _word(_THING_WORDS, look, 0.5 - met.across / 2)
    word = jnp.where(met.distance < depth, word, 0)
    scale = jnp.asarray(_SCALE)[look]
    start = (eye - jnp.asarray(_FEET)[look]) * scale
    # Darker less than walls are: what matters is seen from afar.
    light = jnp.sqrt(_light(met.distance))[:, None, None]
    colours = jnp.moveaxis(jnp.asarray(_THING_COLOURS)[look] * light, 1, 0)
    # Drawn upright: of one depth, where its columns' own would slant it.
    upright = ((position - state.body.position[None]) @ ahead)[met.which]
    return Thing(start, upright * scale, word, *colours)


def _rows(slope: Array, eye: Array) -> Row:
    depth = jnp.where(slope < 0, eye / jnp.maximum(-slope, 1e-3), raycast.FAR)
    light = jnp.where(slope < 0, _light(depth), jnp.minimum(slope, 1.0))
    return Row(slope, light, depth)


def _paint(rows: Row, wall: Wall, thing: Thing, ray, origin, eye) -> Array:
    """Returns the picture float32 [H, 3 W], colours of 0 to 255."""
    width = ray.shape[1]
    columns = jax.tree.map(_wide, (wall, thing, (ray[0], ray[1])))
    wall, thing, (dx, dy) = jax.tree.map(lambda x: x[None], _held(columns))
    rows = jax.tree.map(lambda x: x[:, None], _held(rows))
    horizon, zenith, odd, even = (np.tile(c, width)[None] for c in (*_SKY, *_FLOOR))

    x, y = origin[0] + rows.depth * dx, origin[1] + rows.depth * dy
    floor = jnp.where((_whole(x) ^ _whole(y)) & 1 > 0, odd, even) * rows.light
    sky = horizon + (zenith - horizon) * rows.light
    picture = jnp.where(rows.slope < 0, floor, sky)

    point = _whole((eye + rows.slope * wall.depth) * textures.WALL_POINTS)
    bricks = jnp.where(wall.word >> point & 1 > 0, wall.face, wall.joint)
    picture = jnp.where(point < textures.WALL_POINTS, bricks, picture)

    point = _whole(thing.start + rows.slope * thing.step)
    which = thing.word >> 2 * point & 3
    drawn = jnp.where(which == 2, thing.second, thing.third)
    drawn = jnp.where(which == 1, thing.first, drawn)
    return jnp.minimum(jnp.where(which > 0, drawn, picture), 255.0)


def _wide(column: Array) -> Array:
    """Returns [3 W] of [W] or [W, 3]."""
    column = column if column.ndim == 2 else column[:, None]
    return jnp.broadcast_to(column, (len(column), 3)).ravel()


def _held(vectors: Tree) -> Tree:
    """Returns the same vectors, to be computed once and not for every element.

    XLA on CPUs repeats in each element of the picture all that it can fuse, which was
    ten times as slow, and drops ``optimization_barrier`` before it fuses; a gather is
    not repeated, so the vectors pass through one.
    """
    leaves, form = jax.tree.flatten(vectors)
    words = jnp.stack([jax.lax.bitcast_convert_type(x, jnp.uint32) for x in leaves])
    words = words[jnp.arange(len(leaves))]
    held = [jax.lax.bitcast_convert_type(w, x.dtype) for w, x in zip(words, leaves)]
    return jax.tree.unflatten(form, held)


def _word(words: np.ndarray, look: Array, across: Array) -> Array:
    """Returns the words of columns at ``across`` in [0, 1] of bitmaps."""
    points = words.shape[1]
    column = jnp.clip((across * points).astype(jnp.int32), 0, points - 1)
    return jnp.asarray(words)[look, column]


def _whole(x: Array) -> Array:
    """Returns floor(x) as uint32; less than 0 is huge, where no word has a bit."""
    return jnp.floor(x).astype(jnp.int32).astype(jnp.uint32)


def _light(distance: Array) -> Array:
    return jnp.maximum(_DIM, 1.0 / (1.0 + _FADE * distance))


def _flash(right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """Returns the muzzle flash float32 [H, 3 W]: a star low in the middle, else 0."""
    x, y = np.broadcast_arrays(right[None], down[:, None] - down[-1] * 0.8)
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    star = radius < 0.09 + 0.09 * np.abs(np.cos(4 * angle))
    return (star[..., None] * _FLASH).reshape(len(down), -1).astype(np.float32)
