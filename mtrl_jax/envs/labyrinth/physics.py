"""How bodies move: four frames a decision, walls that slide, jumps.

Speeds are near DeepMind Lab's with a cell of its 100 units: 3.2 cells a second at a
run, reached in a few frames. A body is a square of side 2 ``RADIUS`` to the walls, which
makes sliding along them two independent motions.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mtrl_jax.envs.labyrinth import controls, world
from mtrl_jax.types import Array

RADIUS = 0.25
EYE = 0.5  # height of the eye above the feet; walls are 1 high
SPEED = 3.2
FRAMES = 4
FRAME = world.DECISION / FRAMES
_GRIP = 0.3  # share of the wished change of velocity made in a frame
_JUMP = 2.6  # cells a second; for 0.58 s
_GRAVITY = 9.0
JUMP_HEIGHT = 0.38  # that rays show as 1: _JUMP²/2g; in frames feet get to 0.3975
PITCH = 0.6  # radians, the furthest up or down
_GAP = 1e-3  # left between a body and the wall that stopped it


def act(body: world.Body, command: controls.Command, walls: world.Walls) -> world.Body:
    """Returns the body after one decision under a command."""
    # Four in a row, fused, are twice the whole program.
    return jax.lax.fori_loop(
        0, FRAMES, lambda _, body: _frame(body, command, walls), body
    )


def slide(
    walls: world.Walls, position: Array, velocity: Array, seconds: float
) -> tuple[Array, Array]:
    """Returns (position, velocity) after moving, stopped by walls along each axis.

    A motion is shorter than ``RADIUS``, so that no wall is jumped over.
    """
    x, y = position
    vx, vy = velocity
    x, vx = _along(walls.columns, x, vx, y, seconds)
    y, vy = _along(walls.rows, y, vy, x, seconds)
    return jnp.stack([x, y]), jnp.stack([vx, vy])


def _along(lines, place, speed, other, seconds):
    """Returns (place, speed) on the axis across the map's ``lines``, words [SIZE].

    ``other`` is the place on the other axis.
    """
    new = place + speed * seconds
    edge = new + jnp.sign(speed) * RADIUS
    line = lines[jnp.clip(jnp.floor(edge).astype(jnp.int32), 0, world.SIZE - 1)]
    low, high = (jnp.floor(other + s).astype(jnp.uint32) for s in (-RADIUS, RADIUS))
    blocked = (line >> low | line >> high) & 1 > 0
    wall = jnp.where(speed > 0, jnp.floor(edge) - _GAP, jnp.floor(edge) + 1 + _GAP)
    stopped = wall - jnp.sign(speed) * RADIUS
    return jnp.where(blocked, stopped, new), jnp.where(blocked, 0.0, speed)


def _frame(body, command, walls):
    yaw = body.yaw + command.turn / FRAMES
    limit = jnp.float32(PITCH)
    pitch = jnp.clip(body.pitch + command.look / FRAMES, -limit, limit)
    ahead = jnp.stack([jnp.cos(yaw), jnp.sin(yaw)])
    right = jnp.stack([-ahead[1], ahead[0]])
    wish = command.move * ahead + command.side * right
    # Running at an angle is not faster than running ahead.
    wish = (
        wish
        * SPEED
        / jnp.maximum(1.0, jnp.abs(command.move) + jnp.abs(command.side) * 0.41421)
    )
    velocity = body.velocity + _GRIP * (wish - body.velocity)
    position, velocity = slide(walls, body.position, velocity, FRAME)
    climb = jnp.where(command.jump & (body.height <= 0), _JUMP, body.climb)
    height = jnp.maximum(body.height + climb * FRAME, 0.0)
    climb = jnp.where(height > 0, climb - _GRAVITY * FRAME, 0.0)
    return body._replace(
        position=position, velocity=velocity, yaw=yaw, pitch=pitch, height=height, climb=climb
    )  # fmt: skip
