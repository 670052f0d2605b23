"""A scripted player that sees the map: what scores are measured against.

It walks the shortest way to the nearest thing worth taking, jumps for melons, fetches
keys before doors, and tags whichever bot a shot would hit. Every action of the set is
tried on the body, one decision ahead, and the best result taken: what a set cannot do
(turn finely, run at an angle, jump) is what its oracle does not do.

It is for reference scores, films and tests, and some hundred times slower than a step.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import errors
from mtrl_jax.envs.labyrinth import bots, controls, physics, raycast, world
from mtrl_jax.types import Array, Key

_CELLS = np.stack(np.divmod(np.arange(world.SIZE**2), world.SIZE)[::-1], 1) + 0.5
FAR = 1e4  # cells; no way
_COSTLY = 4.0  # cells of detour that a point lost or forgone is worth
_BODY = physics.RADIUS - 0.01
_CORNERS = _BODY * np.asarray([[-1, -1], [-1, 1], [1, -1], [1, 1]], np.float32)
_DRIFT = 0.04  # seconds until a body let go has stopped, at its speed
_FACING = 0.1  # cells that turning by a radian to the way is worth
_AIMING = 3.0  # the same for turning to a bot in sight
_SHOT = 100.0  # tags go before everything
_JUMPS = 0.8  # cells from a melon at which to jump


def _motions() -> np.ndarray:
    """Returns the native choices in which moving or firing differs; no look, no jump."""
    every = controls.all_native()
    return every[(every[:, 1] == 0) & (every[:, 5] == 0)]


_TRIED = {"native": _motions(), "small": controls.SMALL}


def act(key: Key, state: world.State, params: world.Params, action_set: str) -> Array:
    """Returns the oracle's action of a set: int32 [6] of "native", int32 [] of others.

    Of one slot, pure. ``key`` is not used: the oracle leaves nothing to chance. Raises
    ValueError for another set.
    """
    del key
    errors.check("action_set", action_set, controls.SPACES)
    jumps = action_set != "small"
    way = waypoint(state, _targets(state, params, jumps), _costs(state, params))
    tried = jnp.asarray(_TRIED["native" if jumps else "small"])
    best = _best(state, tried, way)
    if not jumps:
        return best.astype(jnp.int32)
    melon = state.things.there & (state.things.kind == world.MELON)
    near = jnp.sum(jnp.square(state.things.position - state.body.position[None]), 1)
    jump = jnp.any(melon & (near < _JUMPS**2))
    choices = tried[best].at[5].set(jump.astype(jnp.int32))
    return controls.number(choices) if action_set == "joint" else choices


def straight(state: world.State, params: world.Params) -> Array:
    """Returns what ``act`` does of the set "small" where nothing is in the way, int32 [].

    It goes to the nearest thing worth taking in a line: in one open room that
    ``check_straight`` accepts the shortest way, found in a tenth of the time. It knows
    neither walls nor what a lemon costs or a goal that comes back is worth.
    """
    here, worth = state.body.position, _worth(state, params, jumps=False)
    far = jnp.linalg.norm(state.things.position - here[None], axis=1)
    nearest = jnp.argmin(jnp.where(worth, far, jnp.inf))
    way = jnp.where(worth.any(), state.things.position[nearest], here)
    return _best(state, jnp.asarray(_TRIED["small"]), way).astype(jnp.int32)


def check_straight(params: world.Params) -> None:
    """Raises ValueError unless ``straight`` is what is best to do in one open room.

    It may not be with things that cost something or hang too high, and with a goal that
    moves the agent or ends the episode while other things are left.
    """
    counts, rewards = np.asarray(params.counts), np.asarray(params.rewards)
    beside = 0 < counts[world.GOAL] < counts.sum()
    for found, what in (
        ((counts * rewards < 0).any(), "something of a negative reward"),
        (counts[world.MELON] > 0, "a melon, which takes a jump"),
        (beside and params.teleports, "a goal that teleports beside other things"),
        (
            beside and params.ends and not params.locked,
            "a goal that ends the episode beside other things",
        ),
    ):
        if found:
            raise ValueError(
                f"options.counts: got {counts.tolist()}, {what}: what is best is not "
                "known; leave it out"
            )


def waypoint(state: world.State, goals: Array, costs: Array) -> Array:
    """Returns the place (x, y) to walk straight to, on the shortest way to a goal.

    It is the middle of a cell that the body can reach in a line, at best the goal's.
    ``goals`` and ``costs`` are [SIZE, SIZE], in cells: what is to be added to a way that
    ends in a cell (FAR where none does), and to one that crosses it (FAR in walls).
    """
    place = state.body.position
    column, row = jnp.floor(place).astype(jnp.int32)
    far = distances(goals, costs, (row, column))
    middle = jnp.asarray(_CELLS, jnp.float32)
    offset = middle - place[None]
    rays = jax.vmap(raycast.cast, (None, 0, None))
    hard = world.words(costs > 0)
    clear = (
        rays(hard, place[None] + jnp.asarray(_CORNERS), offset.T).distance > 1
    ).all(0)
    # What costs something is seen as a wall, but a body next to it may step on it.
    clear |= (jnp.abs(offset).sum(1) < 1.5) & (costs.ravel() < FAR)
    # Of two places on the same line the farther one.
    total = jnp.linalg.norm(offset, axis=1) + far.ravel() * 1.001
    total = jnp.where(clear, total, jnp.inf)
    best = jnp.argmin(total)
    return jnp.where(total[best] < FAR, middle[best], place)


def distances(goals: Array, costs: Array, start: tuple[Array, Array]) -> Array:
    """Returns [SIZE, SIZE] lengths of the shortest way from each cell to a goal.

    Ways go to the eight neighbours and cut no corners. ``goals`` and ``costs`` as for
    ``waypoint``. Exact for ``start`` (row, column) and all that is nearer to a goal.
    """
    free = costs == 0

    def relax(carry):
        old, _, rounds = carry
        best = old
        for axis in (0, 1):
            for step in (-1, 1):
                best = jnp.minimum(best, jnp.roll(old, step, axis) + 1 + costs)
        for down in (-1, 1):
            for right in (-1, 1):
                uncut = jnp.roll(free, down, 0) & jnp.roll(free, right, 1)
                ahead = jnp.roll(old, (down, right), (0, 1)) + 2**0.5 + costs
                best = jnp.where(uncut, jnp.minimum(best, ahead), best)
        best = jnp.minimum(best, FAR)
        return best, jnp.any(best != old), rounds + 1

    def unfinished(carry):
        # A way not yet seen has more steps than there were rounds, each at least 1.
        found, changed, rounds = carry
        return changed & (found[start] > rounds)

    begin = jnp.minimum(goals, FAR), jnp.bool_(True), jnp.int32(0)
    return jax.lax.while_loop(unfinished, relax, begin)[0]


def _best(state, tried, way):
    """Returns which of the choices ``tried`` [N, 6] is the best on the way there."""
    command = jax.vmap(controls.command)(tried)
    body = jax.vmap(physics.act, (None, 0, None))(state.body, command, state.walls)
    return jnp.argmax(score(state, body, command, way))


def _worth(state, params, jumps):
    """Returns [THINGS] which things are worth a way, as things are now."""
    things = state.things
    reward = params.rewards[things.kind]
    colour = jnp.arange(world.DOORS)
    opens = (state.doors[:, 0] >= 0) | ((colour == 0) & params.locked)
    of_colour = things.kind[:, None] - world.KEY_RED == colour[None]
    needed = jnp.any(of_colour & opens[None], axis=1)
    goal = things.kind == world.GOAL
    barred = goal & params.locked & ~state.keys[0]
    hangs = (things.kind == world.MELON) & (not jumps)
    return things.there & ((reward > 0) | needed) & ~barred & ~hangs


def _targets(state, params, jumps):
    """Returns [SIZE, SIZE] what a way that ends there lacks; FAR where nothing is."""
    things, worth = state.things, _worth(state, params, jumps)
    goal = things.kind == world.GOAL
    # Where the goal comes back, time is worth more than an apple out of the way.
    missed = jnp.where(goal.any() & params.teleports & ~goal, _COSTLY, 0.0)
    none = jnp.full((world.SIZE, world.SIZE), FAR)
    column, row = jnp.floor(things.position).astype(jnp.int32).T
    found = none.at[row, column].min(jnp.where(worth, missed, FAR))
    column, row = jnp.floor(state.bots.position).astype(jnp.int32).T
    return found.at[row, column].min(jnp.where(state.bots.away == 0, 0.0, FAR))


def _costs(state, params):
    """Returns [SIZE, SIZE]: FAR in walls; doors whose key is held are none."""
    opens = state.keys & (state.doors[:, 0] >= 0)
    column, row = jnp.where(opens[:, None], state.doors, world.SIZE).T
    cells = world.bits(state.walls.rows).at[row, column].set(False, mode="drop")
    things = state.things
    lost = jnp.maximum(-params.rewards[things.kind], 0.0) * _COSTLY
    column, row = jnp.floor(things.position).astype(jnp.int32).T
    costs = jnp.zeros(cells.shape).at[row, column].max(jnp.where(things.there, lost, 0))
    return jnp.where(cells, FAR, costs)


def score(state, body, command, way):
    """Returns [N] how good it is to be each of N bodies after a decision."""
    stops = body.position + _DRIFT * body.velocity
    left = way[None] - stops
    far = jnp.linalg.norm(left, axis=1)
    seen = (state.bots.away == 0) & bots.in_sight(
        state.walls, state.body.position, state.bots.position
    )
    distance = jnp.linalg.norm(state.bots.position - state.body.position[None], axis=1)
    nearest = jnp.argmin(jnp.where(seen, distance, jnp.inf))
    bot = state.bots.position[nearest]
    look = jnp.where(seen.any(), bot[None] - body.position, left)
    off = jnp.arctan2(look[:, 1], look[:, 0]) - body.yaw
    off = jnp.abs(jnp.arctan2(jnp.sin(off), jnp.cos(off)))
    # At the waypoint there is no direction to it.
    weight = jnp.where(seen.any(), _AIMING, _FACING * jnp.minimum(far, 1.0))
    hits = jax.vmap(_hits, (None, 0))(state, body) & (state.body.reload == 0)
    shot = jnp.where(hits, _SHOT, -_FACING) * command.fire
    return shot - far - weight * off


def _hits(state, body):
    """Returns whether a shot of the agent with this body would tag a bot."""
    ahead = jnp.stack([jnp.cos(body.yaw), jnp.sin(body.yaw)])
    wall = raycast.cast(state.walls, body.position, ahead[:, None]).distance[0]
    return jnp.any(bots.hit(state._replace(body=body), wall, ahead))
