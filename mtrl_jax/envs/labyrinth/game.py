"""One decision of a level: the agent moves, bots answer, things are taken, it counts.

``code`` makes the functions of a level's kind. Levels that differ by parameters alone
get the very same functions, so that a mixture compiles them once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import tree
from mtrl_jax.envs.labyrinth import bots, controls, deal, physics, raycast, world
from mtrl_jax.types import Array, Key, Tree

REACH = 0.45  # cells between an agent and a thing that it takes
_MELONS_HANG = 0.15  # height above which feet have to be
_OPENS = 0.95  # cells between an agent and the door its key opens
STUNNED = 15  # decisions that being tagged costs

# (state, events, params) -> (reward, terminated), after the decision.
Rules = Callable[[world.State, world.Events, world.Params], tuple[Array, Array]]
Observe = Callable[[world.State, world.Params], Tree]


class Kind(NamedTuple):
    """What makes levels share their code."""

    rules: Rules
    deal: Callable[[Key, world.Params], world.State] = deal.deal
    bots: bool = False
    doors: bool = False


class Code(NamedTuple):
    """The functions of a core.PureTask; see there."""

    reset: Callable
    step: Callable
    wants_renewal: Callable
    renew: Callable
    observe: Observe


def collect(
    state: world.State, events: world.Events, params: world.Params
) -> tuple[Array, Array]:
    """Returns the rewards of what was taken; taking the goal may end the episode."""
    kind = state.things.kind
    reward = jnp.sum(jnp.where(events.taken, params.rewards[kind], 0.0))
    reached = jnp.any(events.taken & (kind == world.GOAL))
    return reward, reached & params.ends


def tag(
    state: world.State, events: world.Events, params: world.Params
) -> tuple[Array, Array]:
    """Returns ``tag_reward`` for every bot tagged; being tagged costs only time."""
    del state
    return events.tagged * params.tag_reward, jnp.bool_(False)


@functools.cache
def code(kind: Kind, observe: Observe, action_set: str) -> Code:
    """Returns the functions of levels of a kind, seen and steered in one way."""

    def reset(key, params):
        state = kind.deal(key, params)
        return state, observe(state, params)

    def step(key, state, action, params):
        choices = controls.native(action, action_set)
        state, events = decide(kind, key, state, controls.command(choices), params)
        reward, terminated = kind.rules(state, events, params)
        truncated = state.time >= params.length
        return state, observe(state, params), reward, terminated, truncated

    def renew(state, begun, params):
        del params
        fresh, obs = begun  # Of a map and what is in it: the time is not seen.
        return fresh._replace(time=state.time), obs

    return Code(reset, step, lambda state: state.used_up, renew, observe)


def decide(
    kind: Kind,
    key: Key,
    state: world.State,
    command: controls.Command,
    params: world.Params,
) -> tuple[world.State, world.Events]:
    """Returns (state, events) after one decision."""
    uniform = jax.random.uniform(key, (2 + (bots.UNIFORMS if kind.bots else 0),))
    state = _move(state, command)
    tagged, was_tagged = jnp.int32(0), jnp.bool_(False)
    if kind.bots:
        state, tagged, was_tagged = _fight(state, uniform[2:], params)
    state, taken = _take(state, params)
    if kind.doors:
        state = _open_doors(state)
    found = jnp.any(taken & (state.things.kind == world.GOAL)) & params.teleports
    state = _elsewhere(state, found | was_tagged, uniform[:2], was_tagged)
    worth = state.things.there & (params.rewards[state.things.kind] > 0)
    state = state._replace(time=state.time + 1, used_up=params.renews & ~jnp.any(worth))
    return state, world.Events(taken, tagged, was_tagged)


def _move(state: world.State, command: controls.Command) -> world.State:
    body = state.body
    still = body.stunned > 0
    able = jax.tree.map(lambda x: jnp.where(still, jnp.zeros_like(x), x), command)
    moved = physics.act(body, able, state.walls)
    fires = able.fire & (body.reload == 0)
    reload = jnp.where(fires, bots.RELOAD, jnp.maximum(body.reload - 1, 0))
    moved = moved._replace(reload=reload, stunned=jnp.maximum(body.stunned - 1, 0))
    return state._replace(body=moved, flash=fires)


def _fight(state, uniform, params):
    """Returns (state, bots tagged, whether the agent was)."""
    body = state.body
    ahead = jnp.stack([jnp.cos(body.yaw), jnp.sin(body.yaw)])
    wall = raycast.cast(state.walls, body.position, ahead[:, None]).distance[0]
    hit = bots.hit(state, wall, ahead) & state.flash
    after, hits = bots.act(state, uniform, params)
    away = jnp.where(hit, bots.AWAY, after.away)
    health = body.health - hits
    state = state._replace(
        bots=after._replace(away=away), body=body._replace(health=health)
    )
    return state, jnp.sum(hit, dtype=jnp.int32), health <= 0


def _take(state, params):
    """Returns (state, bool [THINGS] taken): what the agent stands on, if it may."""
    things, body = state.things, state.body
    near = jnp.sum(jnp.square(things.position - body.position[None]), 1) < REACH**2
    hangs = (things.kind == world.MELON) & (body.height < _MELONS_HANG)
    goal = things.kind == world.GOAL
    barred = goal & params.locked & ~state.keys[0]
    taken = things.there & near & ~hangs & ~barred
    stays = goal & params.teleports
    things = things._replace(there=things.there & (~taken | stays))
    colour = things.kind[:, None] - world.KEY_RED == jnp.arange(world.DOORS)[None]
    keys = state.keys | jnp.any(colour & taken[:, None], axis=0)
    return state._replace(things=things, keys=keys), taken


def _open_doors(state):
    """Returns the state with doors gone that the agent touched with their key."""
    middle = world.centre(state.doors)
    near = jnp.sum(jnp.square(middle - state.body.position[None]), 1) < _OPENS**2
    opens = near & state.keys & (state.doors[:, 0] >= 0)
    column, row = jnp.where(opens[:, None], state.doors, world.SIZE).T
    cells = world.bits(state.walls.rows).at[row, column].set(False, mode="drop")
    return state._replace(
        walls=world.words(cells),
        doors=jnp.where(opens[:, None], -1, state.doors),
        keys=state.keys & ~opens,
    )


def _elsewhere(state, moves, uniform, stuns):
    """Returns the state with the agent at a random cell without things where ``moves``.

    Put on a goal it would be paid for nothing.
    """
    free = world.free_rows(state.walls, state.things)
    cell = world.random_cell(free, uniform[0])
    fresh = deal.new_body(cell, uniform[1] * 2 * jnp.pi)
    fresh = fresh._replace(stunned=jnp.where(stuns, STUNNED, 0))
    return state._replace(body=tree.where(moves, fresh, state.body))
