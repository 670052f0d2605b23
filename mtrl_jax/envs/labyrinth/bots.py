"""Opponents: they wander, chase what they see, and shoot after a moment.

Scripted, with their speed, reaction time and aim as level parameters. A bot that was
tagged is away for a while and comes back on any free cell, as the agent does that was
tagged. Somebody may stand there: at distance 0 a bot is neither seen nor hit.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mtrl_jax.envs.labyrinth import physics, raycast, world
from mtrl_jax.types import Array

RADIUS = 0.3
HEIGHT = 0.8
AWAY = 15  # decisions until a tagged bot is back
RELOAD = 6  # decisions between two shots, of bots and of the agent
RANGE = 10.0  # cells a bot sees
_KEEPS_OFF = 1.5  # cells it stays away from the agent
UNIFORMS = world.BOTS * 6  # numbers in [0, 1) that ``act`` uses


def in_sight(walls: world.Walls, eye: Array, position: Array) -> Array:
    """Returns bool [BOTS]: no wall between ``eye`` and each position [BOTS, 2]."""
    return raycast.cast(walls, eye, (position - eye[None]).T).distance > 1.0


def hit(state: world.State, distance: Array, ahead: Array) -> Array:
    """Returns bool [BOTS]: which of them a shot along ``ahead`` [2] tags, one at most.

    ``distance`` is that of the wall. The shot goes up or down with the agent's pitch.
    """
    bots, body = state.bots, state.body
    offset = bots.position - body.position[None]
    along, beside = offset @ ahead, offset @ jnp.stack([-ahead[1], ahead[0]])
    eye = physics.EYE + body.height + along * jnp.tan(body.pitch)
    met = (bots.away == 0) & (along > 0) & (along < distance)
    met &= (jnp.abs(beside) < RADIUS) & (eye > 0) & (eye < HEIGHT)
    along = jnp.where(met, along, raycast.FAR)
    return met & (jnp.arange(world.BOTS) == jnp.argmin(along))


def act(
    state: world.State, uniform: Array, params: world.Params
) -> tuple[world.Bots, Array]:
    """Returns (bots after a decision, int32 number of their shots that hit the agent).

    ``uniform`` are UNIFORMS numbers in [0, 1).
    """
    bots, body = state.bots, state.body
    back, aim, choice = jnp.split(uniform, [world.BOTS, 2 * world.BOTS])
    present = bots.away == 0
    offset = body.position[None] - bots.position
    distance = jnp.linalg.norm(offset, axis=1)
    sees = in_sight(state.walls, body.position, bots.position)
    sees &= present & (distance < RANGE) & (body.stunned == 0)
    seen = jnp.where(sees, bots.seen + 1, 0)

    cell = jnp.floor(bots.position).astype(jnp.int32)
    arrived = jnp.abs(world.centre(bots.target) - bots.position).max(1) < 0.15
    wander = jax.vmap(_next_cell, (None, 0, 0, 0))(
        state.walls, cell, bots.heading, choice.reshape(world.BOTS, 4)
    )
    target = jnp.where(sees[:, None], cell, bots.target)
    target = jnp.where((~sees & arrived)[:, None], wander, target)
    to = jnp.where(sees[:, None], offset, world.centre(target) - bots.position)
    far = jnp.linalg.norm(to, axis=1, keepdims=True)
    moving = ~sees | (distance > _KEEPS_OFF)
    speed = jnp.minimum(params.bot_speed, far / world.DECISION)
    velocity = jnp.where(moving[:, None], to / jnp.maximum(far, 1e-3) * speed, 0.0)
    position, _ = jax.vmap(physics.slide, (None, 0, 0, None))(
        state.walls, bots.position, velocity, world.DECISION
    )
    heading = jnp.where(far[:, 0] > 0.05, jnp.arctan2(to[:, 1], to[:, 0]), bots.heading)

    shoots = sees & (seen >= params.bot_reaction) & (bots.reload == 0)
    # A shot is off by a normal angle; it hits within the agent's own width.
    width = jnp.arctan2(physics.RADIUS, distance)
    hits = shoots & (aim < jax.scipy.special.erf(width / params.bot_aim_error / 2**0.5))
    reload = jnp.where(shoots, RELOAD, jnp.maximum(bots.reload - 1, 0))

    returns = bots.away == 1
    free = world.free_rows(state.walls, state.things)
    fresh = jax.vmap(world.random_cell, (None, 0))(free, back)
    target = jnp.where(returns[:, None], fresh, target)
    position = jnp.where(returns[:, None], world.centre(fresh), position)
    away = jnp.where(bots.away < world.NEVER, jnp.maximum(bots.away - 1, 0), bots.away)
    after = world.Bots(position, heading, target, seen, reload, away)
    return after, jnp.sum(hits, dtype=jnp.int32)


def _next_cell(walls, cell, heading, chance):
    """Returns the cell (x, y) to wander to: an open neighbour, backwards if need be."""
    steps = jnp.asarray([[1, 0], [0, 1], [-1, 0], [0, -1]], jnp.int32)
    x, y = (world.centre(cell[None] + steps)).T
    open_ = ~world.solid(walls, x, y)
    ahead = steps @ jnp.stack([jnp.cos(heading), jnp.sin(heading)])
    score = chance + jnp.where(ahead < -0.7, 0.0, 1.0)
    best = jnp.argmax(jnp.where(open_, score, -1.0))
    return jnp.where(open_.any(), cell + steps[best], cell)
