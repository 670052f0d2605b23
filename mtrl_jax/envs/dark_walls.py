"""Dark rooms with walls: thousands of tasks, each with walls and a goal of its own.

Of task i the cells but the start are shuffled, by a hash that no version of a library
changes. The first W of them are walls, and the goal is the first of the others that an
episode is long enough to reach; the start, where there is none. Of a small room several
tasks have the same walls and goal: they are all for training or all for tests. What an
agent has to know of a task is one number a cell, and so are exact scores of it:

    ways   steps to the goal by a shortest way; -1 of a wall
    V_n    = mean over actions of (is goal + V_{n-1}) at the cell they lead to, V_0 = 0:
             the return of random actions in n steps; 0 beyond a goal that ends the episode
"""

from __future__ import annotations

import functools
import hashlib

import numpy as np

from mtrl_jax.envs import dark_rooms, task_splits

WALL = -1


@functools.cache
def among(
    room: dark_rooms.Room, split: task_splits.Split
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (goals int32 [N, 1, 2], ways int32 [N, size²]) of a split's tasks.

    Raises ValueError where the split is empty or has not ``number`` tasks.
    """
    same = None if split.tasks == "all" else _same(room)
    return _layouts(room, task_splits.indices(split, room.layouts, same))


@functools.cache
def _same(room: dark_rooms.Room) -> tuple[int, ...]:
    """Returns for each task a number that those with its walls and goal have, too.

    What is walled off is as a wall: nobody gets to see the difference.
    """
    ways = _layouts(room, np.arange(room.layouts))[1]
    ways = np.where(ways == room.size**2, WALL, ways)
    return tuple(np.unique(ways, axis=0, return_inverse=True)[1].ravel().tolist())


def _layouts(
    room: dark_rooms.Room, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (goals int32 [N, 1, 2], ways int32 [N, size²]) of the tasks ``chosen``."""
    start = _cell_of(room)
    order = np.stack([_shuffled(room, int(i)) for i in chosen])
    order = order[order != start].reshape(len(chosen), -1)  # [N, S - 1]
    is_open = np.ones((len(chosen), room.size**2), bool)
    np.put_along_axis(is_open, order[:, : room.walls], False, axis=1)
    steps = _steps(room.size, is_open, np.full(len(chosen), start))
    near = (steps < room.size**2) & (steps <= room.length)
    others = order[:, room.walls :]
    reached = np.take_along_axis(near, others, axis=1)
    first = reached.argmax(axis=1)[:, None]
    goal = np.take_along_axis(others, first, axis=1)[:, 0]
    goal = np.where(reached.any(axis=1), goal, start)
    ways = np.where(is_open, _steps(room.size, is_open, goal), WALL).astype(np.int32)
    cells = np.stack(np.divmod(goal, room.size), -1)[:, None].astype(np.int32)
    for found in (cells, ways):
        # Cached and handed to many.
        found.flags.writeable = False
    return cells, ways


@functools.cache
def scores(room: dark_rooms.Room, split: task_splits.Split) -> tuple[float, float]:
    """Returns the mean returns (random, optimal) over the tasks of a split."""
    chance, best = returns(room, among(room, split)[1])
    return float(chance.mean()), float(best.mean())


def returns(room: dark_rooms.Room, ways: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the expected returns of each task, random and optimal, both [N]."""
    start = _cell_of(room)
    # At the goal from the start on, the first reward still takes a step.
    steps = np.maximum(ways[:, start], 1)
    best = np.where(steps < room.size**2, np.maximum(room.length + 1 - steps, 0), 0)
    best = np.minimum(best, 1) if room.ends else best
    paid = (ways == 0).astype(np.float32)
    goes_on = 1.0 - paid * room.ends
    value = np.zeros_like(paid)
    # Where a move leads to among the cells of all tasks.
    rows = np.arange(len(ways))[:, None] * ways.shape[1]
    leads = [rows + _led(room.size, ways, move) for move in dark_rooms.MOVES]
    for _ in range(room.length):
        then = (paid + goes_on * value).reshape(-1)
        value = sum(then[to] for to in leads) / len(leads)
    return value[:, start], best.astype(np.float32)


def _led(size: int, ways: np.ndarray, move: tuple[int, int]) -> np.ndarray:
    """Returns the cell that a move from each leads to, int [N, S]; walls stop it."""
    cells = np.stack(np.divmod(np.arange(size**2), size), -1)
    to = np.clip(cells + np.asarray(move), 0, size - 1) @ (size, 1)
    return np.where(ways[:, to] == WALL, np.arange(size**2), to)


def _steps(size: int, is_open: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Returns the steps from ``source`` [N] to every cell [N, S]; S: not to be reached."""
    cells = size**2
    reached = np.zeros((len(source), size, size), bool)
    reached.reshape(-1, cells)[np.arange(len(source)), source] = True
    steps = np.where(reached, 0, cells)
    allowed = is_open.reshape(reached.shape)
    for n in range(1, cells):
        grown = reached.copy()
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown[:, :, 1:] |= reached[:, :, :-1]
        grown[:, :, :-1] |= reached[:, :, 1:]
        grown &= allowed
        new = grown & ~reached
        if not new.any():
            break
        steps[new] = n
        reached = grown
    return steps.reshape(-1, cells)


def _cell_of(room: dark_rooms.Room) -> int:
    x, y = dark_rooms.fixed_start(room)
    return room.size * x + y


def _shuffled(room: dark_rooms.Room, task: int) -> np.ndarray:
    """Returns all cells in the order of task ``task``, int64 [S]."""
    name = f"{room.size}/{room.walls}/{task}".encode()
    chance = hashlib.shake_256(name).digest(8 * room.size**2)
    return np.argsort(np.frombuffer(chance, "<u8"), kind="stable")
