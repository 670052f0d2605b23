"""Labyrinth: what is left of the oracle's score without seeing through walls.

A scripted player walks to the nearest apple or goal that it has seen, else to the nearest
free cell it has not seen yet. It moves as the oracle with nine actions does, sees
the 90 degrees of the rays, and knows the map of every maze, though not where things lie.
What it saw longer ago than its memory lasts is unseen again. With a memory of the whole
episode that is about what exploring can give: greed (the nearest first) costs it
something, and making an unseen cell costlier or not changes little. The shorter memories say
what remembering is worth to it.

    python benchmarks/labyrinth_explorer.py                  # an hour of one core
    python benchmarks/labyrinth_explorer.py --episodes 16    # ten minutes
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.labyrinth import (
    controls,
    deal,
    game,
    level_params,
    levels,
    oracle,
    physics,
    raycast,
    rays,
    scores,
    world,
)
from mtrl_jax.metrics import estimates
from mtrl_jax.types import Array, Key

# Levels without melons: nine actions do not reach them.
LEVELS = ("explore_object_locations_small", "explore_goal_locations_small")
COLUMNS = {
    "level": "<31",
    "memory": ">7d",
    "mean": ">8.2f",
    "low": ">8.2f",
    "high": ">8.2f",
    "normalised": ">11.2f",
}
_CELLS = np.stack(np.divmod(np.arange(world.SIZE**2), world.SIZE)[::-1], 1) + 0.5
_NEVER = 1 << 20  # decisions, more than an episode has
_UNSEEN = 1.0  # cells of detour that a known apple is worth more than an unseen cell


def main() -> None:
    """Print the table and write the JSON."""
    args = arguments()
    print(common.header(COLUMNS))
    rows: list[dict[str, Any]] = []
    for name, memory in itertools.product(LEVELS, args.memory):
        keys = jax.random.split(jax.random.key(5), args.episodes)
        found = np.asarray(jax.jit(jax.vmap(player(name, memory)))(keys))
        low, high = estimates.mean_interval(found)
        known = scores.TABLE[name]
        span = known.oracle.mean - known.random.mean
        rows.append(
            {
                "level": name,
                "memory": memory,
                "episodes": args.episodes,
                "mean": float(found.mean()),
                "low": low,
                "high": high,
                "normalised": float(found.mean() - known.random.mean) / span,
            }
        )
        print(common.line(rows[-1], COLUMNS), flush=True)
    result = {"machine": common.environment(), "rows": rows}
    common.write(args.out, "labyrinth_explorer", result)


def player(name: str, memory: int) -> Callable[[Key], Array]:
    """Returns ``play(key) -> return`` of one episode of a level of apples or a goal.

    What left its view more than ``memory`` decisions ago counts as unseen.
    """
    level = levels.LEVELS[name]
    params = level_params.params(level, {})

    def play(key):
        deal_key, key = jax.random.split(key)
        state = deal.deal(deal_key, params)
        since = jnp.full((world.SIZE, world.SIZE), _NEVER)  # decisions ago
        keys = jax.random.split(key, int(params.length))
        _, reward = jax.lax.scan(step, (state, since), keys)
        return reward.sum()

    def step(carry, key):
        state, since = carry
        since = jnp.where(in_view(state), 0, since + 1)
        command = controls.command(act(state, since <= memory))
        state, events = game.decide(level.kind, key, state, command, params)
        reward, _ = game.collect(state, events, params)
        fresh = deal.deal(key, params)._replace(time=state.time)
        state, renews = (
            jax.tree.map(lambda x, y: jnp.where(state.used_up, x, y), fresh, state),
            state.used_up,
        )
        return (state, jnp.where(renews, _NEVER, since)), reward

    return play


def in_view(state: world.State) -> Array:
    """Returns bool [SIZE, SIZE]: cells whose middle is in sight, and the own one."""
    offset = jnp.asarray(_CELLS, jnp.float32) - state.body.position[None]
    off = jnp.arctan2(offset[:, 1], offset[:, 0]) - state.body.yaw
    off = jnp.abs(jnp.arctan2(jnp.sin(off), jnp.cos(off)))
    clear = raycast.cast(state.walls, state.body.position, offset.T).distance > 1
    own = jnp.abs(offset).max(1) < 0.5
    seen = (clear & (off < rays.FIELD_OF_VIEW / 2)) | own
    return seen.reshape(world.SIZE, world.SIZE)


def act(state: world.State, seen: Array) -> Array:
    """Returns the native choices [6] of the one of nine actions that is best."""
    cells = world.bits(state.walls.rows)
    column, row = jnp.floor(state.things.position).astype(jnp.int32).T
    lies = jnp.zeros(cells.shape, bool).at[row, column].max(state.things.there)
    goals = jnp.where(~seen & ~cells, _UNSEEN, oracle.FAR)
    goals = jnp.where(seen & lies, 0.0, goals)
    way = oracle.waypoint(state, goals, jnp.where(cells, oracle.FAR, 0.0))
    tried = jnp.asarray(controls.SMALL)
    command = jax.vmap(controls.command)(tried)
    body = jax.vmap(physics.act, (None, 0, None))(state.body, command, state.walls)
    return tried[jnp.argmax(oracle.score(state, body, command, way))]


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "two episodes")
    made.add_argument("--episodes", type=int, default=128)
    made.add_argument(
        "--memory", type=int, nargs="+", default=[1, 15, 60, 240, 900], help="decisions"
    )
    args = made.parse_args()
    if args.quick:
        args.episodes, args.memory = 2, [900]
    return args


if __name__ == "__main__":
    main()
