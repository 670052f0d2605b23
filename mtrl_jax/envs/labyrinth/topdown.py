"""Pictures for people: the map from above, and the agent's view beside it.

Hidden things are drawn as outlines, walls in the colours they have from within, what the
agent has in view lighter than the rest.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.labyrinth import (
    bots,
    game,
    physics,
    pixels,
    raycast,
    rays,
    textures,
    world,
)
from mtrl_jax.types import Array

if TYPE_CHECKING:
    from PIL import ImageDraw

_VOID, _FLOOR, _SEEN = (18, 18, 24), (58, 58, 64), (108, 108, 98)
_AGENT, _INK = (255, 255, 255), (18, 18, 24)
_RAYS = 64  # that bound what is in view
_THING = 0.3  # cells, radius of a thing that is drawn round
_SCALE = 3  # of the agent's view beside the map


@functools.cache
def renderer(size: tuple[int, int], kind: game.Kind) -> Callable[..., np.ndarray]:
    """Returns ``render(state, params) -> uint8 [3 H, 3 W + 3 H, 3]``, view beside map.

    The view is the picture of ``size`` (H, W), whatever it is that the agent observes.
    """
    view = jax.jit(pixels.observer(size, kind))

    def render(state: world.State, params: world.Params) -> np.ndarray:
        seen = np.asarray(view(state, params)).repeat(_SCALE, 0).repeat(_SCALE, 1)
        return np.concatenate([seen, draw(state, params, len(seen))], 1)

    return render


def draw(state: world.State, params: world.Params, size: int) -> np.ndarray:
    """Returns uint8 [size, size, 3]: the map as large as fits, up is up in the rows."""
    from PIL import Image, ImageDraw

    bound = np.asarray(_in_view(state))
    state, params = jax.device_get((state, params))
    solid = np.asarray(world.bits(jnp.asarray(state.walls.rows)))
    extent = int(np.max(np.argwhere(~solid))) + 2
    scale = size / extent
    canvas = Image.new("RGB", (size, size), _VOID)
    pen = ImageDraw.Draw(canvas)
    _floor(pen, solid, bound, extent, scale)
    _walls(pen, state, solid, extent, scale)
    _doors(pen, state, scale)
    for k in np.flatnonzero(state.things.there):
        _thing(
            pen, state.things.kind[k], state.things.position[k], scale, params.hidden
        )
    for k in np.flatnonzero(state.bots.away == 0):
        _bot(pen, state.bots.position[k], state.bots.heading[k], scale)
    _agent(pen, state, scale)
    return np.asarray(canvas)


@jax.jit
def _in_view(state: world.State) -> Array:
    """Returns [2 + _RAYS, 2]: the corners (x, y) of what the agent has in view."""
    body = state.body
    angle = body.yaw + jnp.linspace(-0.5, 0.5, _RAYS) * rays.FIELD_OF_VIEW
    ray = jnp.stack([jnp.cos(angle), jnp.sin(angle)])
    distance = raycast.cast(state.walls, body.position, ray).distance
    # A little into the wall, which is drawn over it.
    ends = body.position[:, None] + ray * (distance[None] + 0.1)
    middle = body.position[None]
    return jnp.concatenate([middle, ends.T, middle])


def _floor(pen: ImageDraw.ImageDraw, solid, bound, extent, scale) -> None:
    for i, j in np.argwhere(~solid[:extent, :extent]):
        pen.rectangle(_square(j, i, scale), fill=_FLOOR)
    pen.polygon([tuple(p) for p in bound * scale], fill=_SEEN)


def _walls(pen, state, solid, extent, scale) -> None:
    """Draw the walls that can be seen from somewhere, each in its own colours."""
    cells = np.argwhere(solid[:extent, :extent])
    texture = raycast.texture(jnp.asarray(cells[:, ::-1].T), jnp.asarray(state.texture))
    colours = textures.wall_colours().mean(1)[np.asarray(texture)].astype(int)
    for (i, j), colour in zip(cells, colours):
        around = solid[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        if not around.all():
            pen.rectangle(_square(j, i, scale), fill=tuple(colour))


def _doors(pen, state, scale) -> None:
    for k, (x, y) in enumerate(state.doors):
        if x >= 0:
            colour = textures.colour(textures.WALLS[raycast.TEXTURES + k][1])
            pen.rectangle(_square(x, y, scale), fill=colour, outline=_INK, width=2)


def _thing(pen, kind, position, scale, hidden) -> None:
    """Draw the goal as a ring, keys as squares, the rest as discs."""
    colour = textures.colour(textures.LOOKS[kind].colours[0])
    box = _around(position, _THING, scale)
    if hidden:
        pen.ellipse(box, outline=colour, width=2)
    elif kind == world.GOAL:
        pen.ellipse(box, outline=colour, width=max(2, round(0.15 * scale)))
    elif kind >= world.KEY_RED:
        pen.rectangle(box, fill=colour, outline=_AGENT)
    else:
        pen.ellipse(box, fill=colour, outline=_INK)


def _bot(pen, position, heading, scale) -> None:
    colour = textures.colour(textures.LOOKS[-1].colours[0])
    pen.ellipse(_around(position, bots.RADIUS, scale), fill=colour, outline=_INK)
    ahead = position + 2 * bots.RADIUS * np.asarray([np.cos(heading), np.sin(heading)])
    pen.line([tuple(position * scale), tuple(ahead * scale)], fill=colour, width=2)


def _agent(pen, state, scale) -> None:
    """Draw a triangle that points ahead; with a line ahead where it fires."""
    position, yaw = state.body.position, state.body.yaw
    angles = yaw + np.asarray([0.0, 2.5, np.pi, -2.5])
    # Not too small to be found on large maps.
    reach = max(physics.RADIUS, 5 / scale) * np.asarray([1.8, 1.4, 0.5, 1.4])
    corners = position + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    if state.flash:
        end = position + 3 * np.asarray([np.cos(yaw), np.sin(yaw)])
        pen.line(
            [tuple(position * scale), tuple(end * scale)], fill=(255, 230, 120), width=2
        )
    pen.polygon([tuple(p) for p in corners * scale], fill=_AGENT, outline=_INK)


def _square(x, y, scale) -> tuple[int, int, int, int]:
    """Returns the box of the cell (x, y), without gaps between neighbours."""
    left, top, right, low = (round(float(v) * scale) for v in (x, y, x + 1, y + 1))
    return left, top, right - 1, low - 1


def _around(position, radius, scale) -> tuple[float, float, float, float]:
    (x, y), r = position * scale, radius * scale
    return x - r, y - r, x + r, y + r
