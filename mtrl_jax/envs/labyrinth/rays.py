"""The observation for small machines: what some twenty rays meet.

For each ray 1 / (1 + distance) and, one-hot, what it met: a wall by its texture, a door
by its colour, a thing by its kind, or a bot. The same world as in the pictures. Behind
the rays the body's own numbers, which a picture shows or leaves to be felt: whether a
shot would hit depends on its pitch.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.labyrinth import bots, deal, game, physics, raycast, world
from mtrl_jax.types import Array

FIELD_OF_VIEW = np.pi / 2
THING_RADIUS = 0.25
DOOR = raycast.TEXTURES
THING = DOOR + world.DOORS
BOT = THING + world.KINDS
CHANNELS = 1 + BOT + 1
BODY = ("pitch", "height", "ahead", "aside", "reload", "stunned", "health")


class Seen(NamedTuple):
    """An observation; the agent's vector is the one after the other."""

    rays: Array  # [rays, CHANNELS], left to right
    body: Array  # [7], the numbers BODY


@functools.cache
def observer(rays: int, kind: game.Kind) -> game.Observe:
    """Returns ``observe(state, params) -> Seen``, float32."""
    angle = (np.arange(rays) - (rays - 1) / 2) * FIELD_OF_VIEW / rays
    across, along = np.sin(angle).astype(np.float32), np.cos(angle).astype(np.float32)

    def observe(state: world.State, params: world.Params) -> Seen:
        cos, sin = jnp.cos(state.body.yaw), jnp.sin(state.body.yaw)
        direction = jnp.stack([cos * along - sin * across, sin * along + cos * across])
        wall = raycast.cast(state.walls, state.body.position, direction)
        met = raycast.texture(wall.cell, state.texture)
        if kind.doors:
            met = door(state, wall.cell, met)
        position, radius, seen, shown = bodies(state, params, kind.bots)
        thing = raycast.sprites(state.body.position, direction, position, radius, seen)
        nearer = thing.distance < wall.distance
        distance = jnp.minimum(thing.distance, wall.distance)
        met = jnp.where(nearer, THING + shown[thing.which], met)
        one_hot = met[:, None] == jnp.arange(CHANNELS - 1)[None]
        depth = 1.0 / (1.0 + distance)
        seen = jnp.concatenate([depth[:, None], one_hot.astype(jnp.float32)], 1)
        return Seen(seen, felt(state.body))

    return observe


def felt(body: world.Body) -> Array:
    """Returns the numbers BODY, float32 [7], each in units of its largest.

    Heights go to 1.05, as a jump of frames does. The velocity is along and across
    (right) where the body looks.
    """
    cos, sin = jnp.cos(body.yaw), jnp.sin(body.yaw)
    vx, vy = body.velocity
    numbers = (
        body.pitch / physics.PITCH,
        body.height / physics.JUMP_HEIGHT,
        (vx * cos + vy * sin) / physics.SPEED,
        (vy * cos - vx * sin) / physics.SPEED,
        body.reload / bots.RELOAD,
        body.stunned / game.STUNNED,
        body.health / deal.HEALTH,
    )
    return jnp.stack([jnp.asarray(x, jnp.float32) for x in numbers])


def door(state: world.State, cell: Array, met: Array) -> Array:
    """Returns ``met`` [R] with DOOR + colour where cells [2, R] are closed doors."""
    same = (cell[:, :, None] == state.doors.T[:, None]).all(0)
    return jnp.where(same.any(1), DOOR + jnp.argmax(same, 1), met)


def bodies(
    state: world.State, params: world.Params, with_bots: bool
) -> tuple[Array, Array, Array, Array]:
    """Returns (position [S, 2], radius [S], seen [S], what [S]) of all that stands about.

    ``what`` is the kind of a thing, KINDS for a bot.
    """
    things = state.things
    seen = things.there & ~params.hidden
    radius = jnp.full(world.THINGS, THING_RADIUS)
    if not with_bots:
        return things.position, radius, seen, things.kind
    return (
        jnp.concatenate([things.position, state.bots.position]),
        jnp.concatenate([radius, jnp.full(world.BOTS, bots.RADIUS)]),
        jnp.concatenate([seen, state.bots.away == 0]),
        jnp.concatenate(
            [things.kind, jnp.full(world.BOTS, world.KINDS, things.kind.dtype)]
        ),
    )
