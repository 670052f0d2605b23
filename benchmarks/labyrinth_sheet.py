"""A picture of every labyrinth level: what the agent sees, and the map below it.

The agent stands where something that the level is about is in view.

    python benchmarks/labyrinth_sheet.py [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import pathlib

import common
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

from mtrl_jax import xla
from mtrl_jax.envs import labyrinth
from mtrl_jax.envs.labyrinth import levels, pixels, raycast, topdown, world

COLUMNS = 6
SCALE = 2  # of the view
TITLE = 16  # pixels above it
GAP = 6
# What to look for, the first first; an index of a kind, bots go before all.
_WORTH = (
    world.MELON,
    world.KEY_RED,
    world.KEY_GREEN,
    world.KEY_BLUE,
    world.GOAL,
    world.LEMON,
    world.APPLE,
)
_NEAR, _FAR = 1.3, 2.6  # cells from it
_TURNED = 0.2  # radians, so that walls are seen at an angle


def main() -> None:
    """Draws all levels and writes one PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=pathlib.Path, default=common.RESULTS)
    args = parser.parse_args()
    xla.configure_process()
    tiles = [tile(name) for name in levels.LEVELS]
    path = args.out / "labyrinth" / "contact_sheet.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet(tiles)).save(path, optimize=True)
    print(path)


def tile(name: str, seed: int = 0) -> np.ndarray:
    """Returns a level's picture, uint8: its name, the view, the map."""
    params, kind = labyrinth.task(name).params, levels.LEVELS[name].kind
    state = posed(jax.jit(kind.deal)(jax.random.key(seed), params))
    view = np.asarray(jax.jit(pixels.observer(pixels.SIZE, kind))(state, params))
    view = view.repeat(SCALE, 0).repeat(SCALE, 1)
    map_ = topdown.draw(state, params, view.shape[1])
    title = Image.new("RGB", (view.shape[1], TITLE), (18, 18, 24))
    ImageDraw.Draw(title).text((2, 2), name, fill=(235, 235, 235))
    return np.concatenate([np.asarray(title), view, map_])


def posed(state: world.State) -> world.State:
    """Returns the state with the agent before what is best worth seeing, if it can."""
    for target in _targets(state):
        ring = [
            np.floor(target) + 0.5 + np.asarray([x, y])
            for x in range(-2, 3)
            for y in range(-2, 3)
        ]
        # From along a corridor rather than past a corner.
        for place in sorted(ring, key=lambda place: np.abs(place - target).min()):
            far = np.linalg.norm(place - target)
            if _NEAR < far < _FAR and _sees(state, place, target):
                return _stood(state, place, target)
    return state


def sheet(tiles: list[np.ndarray]) -> np.ndarray:
    """Returns the tiles in rows, uint8."""
    height, width = (n + GAP for n in tiles[0].shape[:2])
    rows = -(-len(tiles) // COLUMNS)
    out = np.full((rows * height, COLUMNS * width, 3), 18, np.uint8)
    for k, one in enumerate(tiles):
        top, left = k // COLUMNS * height, k % COLUMNS * width
        out[top : top + height - GAP, left : left + width - GAP] = one
    return out


def _targets(state: world.State) -> list[np.ndarray]:
    bots, things = state.bots, state.things
    found = list(np.asarray(bots.position)[np.asarray(bots.away) == 0])
    for kind in _WORTH:
        found += list(
            np.asarray(things.position)[
                np.asarray(things.there & (things.kind == kind))
            ]
        )
    return found


def _sees(state: world.State, place: np.ndarray, target: np.ndarray) -> bool:
    inside = (place > 0).all() and (place < world.SIZE).all()
    x, y = jnp.asarray(place, jnp.float32)
    if not inside or bool(world.solid(state.walls, x, y)):
        return False
    ray = jnp.asarray(target - place, jnp.float32)[:, None]
    return bool(raycast.cast(state.walls, jnp.stack([x, y]), ray).distance[0] > 1)


def _stood(state: world.State, place: np.ndarray, target: np.ndarray) -> world.State:
    dx, dy = target - place
    yaw = jnp.float32(np.arctan2(dy, dx) + _TURNED)
    body = state.body._replace(position=jnp.asarray(place, jnp.float32), yaw=yaw)
    return state._replace(body=body)


if __name__ == "__main__":
    main()
