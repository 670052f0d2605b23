"""Exact returns in dark rooms: of uniformly random actions and of the best ones.

Both follow from one matrix per step, ``H_n[goal, from]``: the probability that an agent that
starts at ``from`` and looks for ``goal`` is there after n >= 1 steps (in rooms that end
at the goal: has been there). With S cells, a start distribution p [S] and L steps,

    room         sum_n H_n[goal] p
    room_hard    H_L[goal] p
    key_to_door  F_L[key] + sum_t (F_t - F_{t-1})[key] H_{L-t}[door, key],  F_n = H_n p
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import numpy as np

from mtrl_jax.envs import dark_rooms


def scores(room: dark_rooms.Room, goals: np.ndarray) -> tuple[float, float]:
    """Returns the mean returns (random, optimal) over tasks int [N, G, 2]."""
    chance, best = returns(room, goals)
    return float(chance.mean()), float(best.mean())


def returns(room: dark_rooms.Room, goals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the expected returns of each task, random and optimal, both [N].

    ``goals`` int [N, G, 2] are cells (x, y).
    """
    cells = goals[..., 0] * room.size + goals[..., 1]
    chance, best = _tables(room)
    index = tuple(np.moveaxis(cells, -1, 0))
    return chance[index], best[index]


@functools.cache
def _tables(room: dark_rooms.Room) -> tuple[np.ndarray, np.ndarray]:
    """Returns the returns (random, optimal) of all tasks, indexed by cells [S] * G."""
    return _returns(room, _random), _returns(room, _optimal)


def _returns(
    room: dark_rooms.Room, reaching: Callable[[dark_rooms.Room], Iterator]
) -> np.ndarray:
    start = _start(room)
    if not room.ends:
        return sum(there @ start for there in reaching(room))
    by_then = np.stack([there @ start for there in reaching(room)])  # F_1 .. F_L
    if room.goals == 1:
        return by_then[-1]
    first = np.diff(by_then, axis=0, prepend=0.0)
    total = np.repeat(by_then[-1][:, None], len(start), 1)  # [key, door]
    # With n steps left after the key. None are left after the last step.
    for n, there in enumerate(reaching(room), 1):
        if n < room.length:
            total += first[room.length - n - 1][:, None] * there.T
    return total


def _random(room: dark_rooms.Room) -> Iterator[np.ndarray]:
    """Yields H_n [S, S] of uniformly random actions, n = 1 to L."""
    step = np.zeros((room.size**2, room.size**2))
    cells = _cells(room.size)
    for move in dark_rooms.MOVES:
        to = np.clip(cells + np.asarray(move), 0, room.size - 1) @ (room.size, 1)
        step[np.arange(len(cells)), to] += 1 / len(dark_rooms.MOVES)
    is_goal = np.eye(len(cells))
    at = is_goal
    for _ in range(room.length):
        there = at @ step.T
        yield there
        at = np.maximum(there, is_goal) if room.ends else there


def _optimal(room: dark_rooms.Room) -> Iterator[np.ndarray]:
    """Yields H_n [S, S] of a shortest way and waiting there, n = 1 to L."""
    distance = _distance(room.size)
    for n in range(1, room.length + 1):
        yield (distance <= n).astype(float)


def _distance(size: int) -> np.ndarray:
    """Returns the steps between all cells, [S, S]; from a cell to itself one (a noop)."""
    cells = _cells(size)
    return np.maximum(np.abs(cells[:, None] - cells[None]).sum(-1), 1)


def _start(room: dark_rooms.Room) -> np.ndarray:
    """Returns the distribution of the first cell, [S]."""
    cells = room.size**2
    if room.start == "random":
        return np.full(cells, 1 / cells)
    x, y = dark_rooms.fixed_start(room)
    return np.eye(cells)[room.size * x + y]


def _cells(size: int) -> np.ndarray:
    """Returns all cells (x, y), [S, 2], in the order of size x + y."""
    return np.stack(np.divmod(np.arange(size**2), size), -1)
