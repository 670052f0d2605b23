"""Dark rooms: empty squares in which one has to find out where to go.

Nothing in an observation tells where the goal is; only rewards do, so an agent does well
on a new task if it remembers its own past, across episodes too. The tasks of Algorithm
Distillation (Laskin et al. 2023, arXiv:2210.14215):

    room          9x9, 20 steps from the centre, reward 1 on every step at the goal
    room_hard     17x17, 20 steps from the centre, reward 1 at the goal, which ends it
    key_to_door   9x9, 50 steps from anywhere, reward 1 for the key, then 1 for the door,
                  which ends it

Rooms with one goal may have walls, drawn anew for each task like the goal: thousands of
tasks that differ in more than where to go, see dark_walls.py.

Goals (or key and door) are traced params, so thousands of tasks are one program. A step
counts where it ends: at the goal from the start on, the first reward still takes a step
(a noop), and so does a door that is where the key was. The time limit truncates.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.envs import (
    core,
    dark_rooms,
    dark_scores,
    dark_walls,
    task_splits,
    trials,
)
from mtrl_jax.types import Array, Key

NOOP, UP, RIGHT, DOWN, LEFT = range(5)
_MOVES = np.asarray(dark_rooms.MOVES, np.int32)


class Params(NamedTuple):
    """A task: cells (x, y) to reach in this order, [goal] or [key, door]."""

    goals: Array | np.ndarray  # [..., G, 2] int32
    ways: Array | np.ndarray | None = None  # [..., size²] int32, see dark_walls


class State(NamedTuple):
    """An episode so far."""

    position: Array  # [..., 2] int32, (x, y)
    found: Array  # [...] int32, goals reached so far; 1 with a key in hand
    time: Array  # [...] int32


def names() -> list[str]:
    """Returns the names that ``task`` takes, without the family's prefix."""
    return list(dark_rooms.ROOMS)


def task(name: str, options: Mapping[str, Any] | None = None) -> core.PureTask:
    """Returns ``dark/name`` as a PureTask; its actions are noop, up, right, down, left.

    Observed is (x, y), each in [0, 1]. Options:

    one_hot: instead, the one-hot of the cell, index size x + y (a table's row).
    has_key: key_to_door alone: also whether the key is held, as a third number; with
      ``one_hot``, index size² has_key + size x + y. Without it or memory, what to do is
      not decided by what is seen.
    size, length: of the room and of an episode. start: "centre", "random" or [x, y].
    goal, or key and door: [x, y] of the one task. Otherwise they are dealt: ``task``
      "episode" (default: a new one each) or "slot" (one for good, drawn from the slot's
      key), among ``tasks`` "all" (default), "train" or "test": ``train_fraction`` (0.8)
      of all, shuffled by ``split_seed`` (0), or the others; of those the first
      ``number``.
    walls: so many cells of room or room_hard are walls, others in each task, of which
      there are ``layouts`` (12,500), each with a goal; a step into one goes nowhere.
    trial: so many episodes of one task are played as one, see trials.py.

    Random and reference score are exact means over the tasks of a uniform and of the
    optimal policy. Raises ValueError for an unknown name or option and for a value that
    cannot be.
    """
    options = dict(options or {})
    room, tasks = _described(name, options)
    code = _code(room)
    random_score, optimal_score = _scores(room, tasks, options)
    dealt = dark_rooms.given(room, options) is None
    made = core.task(
        f"dark/{name}",
        code.reset,
        code.step,
        types.Discrete(len(_MOVES)),
        jax.tree.map(lambda x: jnp.asarray(x[0]), tasks),
        random_score=random_score,
        reference_score=optimal_score,
        max_steps=room.length,
        info=code.info,
        render=functools.partial(_render, size=room.size),
        deal=_deal(room, options) if dealt else None,
    )
    return trials.of(made, options["trial"]) if "trial" in options else made


def tasks_of(name: str, options: Mapping[str, Any] | None = None) -> Params:
    """Returns every task that ``dark/name`` with these options stands for, [N, G, 2].

    ``core.spread`` gives them to learners one by one. Raises ValueError as ``task``.
    """
    return jax.tree.map(jnp.asarray, _described(name, dict(options or {}))[1])


def optimal_action_in(
    name: str, options: Mapping[str, Any] | None = None
) -> Callable[[Params, Any], Array]:
    """Returns what is best to do, whatever the name and options: ``optimal_action``."""
    del name, options
    return optimal_action


def optimal_action(params: Params, state: State) -> Array:
    """Returns the action of a shortest way, [...] int32: along x first, then along y.

    Where there are walls, of several the first of up, right, down, left.
    Noop where the goal is reached, which gathers reward in ``room``. ``params`` and
    ``state`` have the same leading axes, as in a ``slots.EnvState`` (``params``, ``inner``).
    """
    if params.ways is not None:
        return _downhill(jnp.asarray(params.ways), state.position)
    goal = jnp.minimum(state.found, params.goals.shape[-2] - 1)[..., None, None]
    target = jnp.take_along_axis(params.goals, goal, axis=-2)[..., 0, :]
    dx, dy = jnp.moveaxis(target - state.position, -1, 0)
    along_y = jnp.where(dy > 0, DOWN, jnp.where(dy < 0, UP, NOOP))
    return jnp.where(dx > 0, RIGHT, jnp.where(dx < 0, LEFT, along_y)).astype(jnp.int32)


def _downhill(ways: Array, position: Array) -> Array:
    """Returns the first action that leads nearer the goal, [...] int32; there: noop."""
    cells = ways.shape[-1]
    size = math.isqrt(cells)
    to = jnp.clip(jnp.expand_dims(position, -2) + _all_moves(position), 0, size - 1)
    steps = jnp.take_along_axis(ways, _index(size, to), axis=-1)
    steps = jnp.where(steps == dark_walls.WALL, cells, steps)
    return jnp.argmin(steps, axis=-1).astype(jnp.int32)


def _all_moves(position: Array) -> np.ndarray:
    return _MOVES.reshape((1,) * (position.ndim - 1) + _MOVES.shape)


def _index(size: int, cell: Array) -> Array:
    """Returns the number size x + y of each cell [..., 2]."""
    return size * cell[..., 0] + cell[..., 1]


class _Code(NamedTuple):
    reset: Callable
    step: Callable
    info: Callable


@functools.cache
def _code(room: dark_rooms.Room) -> _Code:
    """Returns the functions of all tasks in a room; cached, so that tasks share them."""

    def reset(key: Key, params: Params):
        position = jnp.asarray(dark_rooms.fixed_start(room), jnp.int32)
        if room.start == "random":
            position = jax.random.randint(key, (2,), 0, room.size)
        state = State(position, jnp.int32(0), jnp.int32(0))
        return state, _observe(room, state)

    def step(key: Key, state: State, action: Array, params: Params):
        moved = state.position + jnp.asarray(_MOVES)[action]
        position = jnp.clip(moved, 0, room.size - 1)
        if params.ways is not None:
            is_wall = params.ways[_index(room.size, position)] == dark_walls.WALL
            position = jnp.where(is_wall, state.position, position)
        sought = params.goals[jnp.minimum(state.found, room.goals - 1)]
        there = jnp.all(position == sought)
        found = jnp.minimum(state.found + there, room.goals)
        state = State(position, found, state.time + 1)
        terminated = room.ends & (found == room.goals)
        truncated = state.time >= room.length
        return state, _observe(room, state), there, terminated, truncated

    def info(state: State, params: Params) -> dict[str, Array]:
        measures = {"success": state.found == room.goals}
        if room.goals > 1:
            measures["key"] = state.found > 0
        return measures

    return _Code(reset, step, info)


def _observe(room: dark_rooms.Room, state: State) -> dict[str, Array]:
    has_key = state.found > 0
    if room.one_hot:
        cells, index = room.size**2, _index(room.size, state.position)
        if room.shows_key:
            cells, index = 2 * cells, index + cells * has_key
        return {"vector": jax.nn.one_hot(index, cells)}
    vector = state.position / (room.size - 1)
    if room.shows_key:
        vector = jnp.append(vector, has_key)
    return {"vector": vector}


def _described(name: str, options: Mapping[str, Any]) -> tuple[dark_rooms.Room, Params]:
    """Returns the room and all tasks meant, [N, ...] of numpy."""
    room = dark_rooms.room_of(name, options)
    goals = dark_rooms.given(room, options)
    if goals is None:
        return room, _among(room, task_splits.split_of(options))
    return room, Params(goals)


def _among(room: dark_rooms.Room, split: task_splits.Split) -> Params:
    if room.walls:
        return Params(*dark_walls.among(room, split))
    return Params(dark_rooms.among(room.size, room.goals, split))


def _scores(
    room: dark_rooms.Room, tasks: Params, options: Mapping[str, Any]
) -> tuple[float, float]:
    if room.walls:
        return dark_walls.scores(room, task_splits.split_of(options))
    return dark_scores.scores(room, np.asarray(tasks.goals))


def _deal(room: dark_rooms.Room, options: Mapping[str, Any]) -> Callable:
    split, how = task_splits.split_of(options), task_splits.how_of(options)
    return _dealer(room, split, how)


@functools.cache
def _dealer(room: dark_rooms.Room, split: task_splits.Split, how: str) -> Callable:
    """Returns PureTask.deal; cached, so that tasks that deal alike share it."""
    return task_splits.by(how, task_splits.one_of(_among(room, split)))


_FLOOR, _LINE = (58, 58, 64), (18, 18, 24)
_AGENT, _GOAL, _KEY = (86, 180, 233), (230, 159, 0), (240, 228, 66)


def _render(state: State, params: Params, size: int) -> np.ndarray:
    """Returns uint8 [H, H, 3], some 200 pixels: the floor, what is sought, the agent.

    The key is yellow until it is taken, goal and door are orange, the agent is blue.
    """
    pixels = 200 // size
    picture = np.full((size * pixels, size * pixels, 3), _FLOOR, np.uint8)
    picture[::pixels] = picture[:, ::pixels] = _LINE

    def fill(cell, colour, margin):
        x, y = np.asarray(cell) * pixels
        picture[
            y + margin + 1 : y + pixels - margin, x + margin + 1 : x + pixels - margin
        ] = colour

    goals = np.asarray(params.goals)
    if params.ways is not None:
        for number in np.flatnonzero(np.asarray(params.ways) == dark_walls.WALL):
            fill(divmod(number, size), _LINE, 0)
    fill(goals[-1], _GOAL, 0)
    if len(goals) > 1 and not int(state.found):
        fill(goals[0], _KEY, pixels // 8)
    fill(state.position, _AGENT, pixels // 4)
    return picture
