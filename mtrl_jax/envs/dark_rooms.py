"""What dark rooms there are, and which rooms and tasks options describe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax import errors
from mtrl_jax.envs import task_splits

# (x, y) that noop, up, right, down, left add; up is up in a picture.
MOVES = ((0, 0), (0, -1), (1, 0), (0, 1), (-1, 0))
_FIXED = {1: ("goal",), 2: ("key", "door")}  # options, by the number of goals
_DEALT = ("task", *task_splits.Split._fields)
_LARGEST = 17  # there are size^4 tasks with a key
_LONGEST = 1000
_WALLED = ("walls", "layouts")
_LAYOUTS = 12_500  # 10,000 of them to train on, unless there are to be others
_MOST_LAYOUTS = 100_000


class Room(NamedTuple):
    """What decides a room's program; hashable."""

    goals: int  # G, to be reached one after the other
    size: int
    length: int  # steps of an episode
    start: str | tuple[int, int]  # "centre", "random" or the cell (x, y)
    ends: bool  # at the last goal; otherwise every step there is rewarded
    shows_key: bool = False
    one_hot: bool = False
    walls: int = 0  # cells, drawn anew for each task
    layouts: int = 0  # tasks there are, where there are walls


ROOMS = {
    "room": Room(goals=1, size=9, length=20, start="centre", ends=False),
    "room_hard": Room(goals=1, size=17, length=20, start="centre", ends=True),
    "key_to_door": Room(goals=2, size=9, length=50, start="random", ends=True),
}


def room_of(name: str, options: Mapping[str, Any]) -> Room:
    """Returns the room ``name`` with the options in place.

    Raises ValueError for an unknown name or option, for a value that cannot be, and for
    a task that is given and dealt.
    """
    errors.check("env", name, ROOMS)
    room = ROOMS[name]
    known = ["size", "length", "start", "one_hot", "trial"]
    known += [*_DEALT, *_FIXED[room.goals]]
    known += ["has_key"] if room.goals > 1 else _WALLED
    errors.check_options(f"dark/{name}", options, known)
    _check_given(room, options)
    size = errors.integer("options.size", options.get("size", room.size), 2, _LARGEST)
    length = options.get("length", room.length)
    errors.integer("options.length", length, 1, _LONGEST)
    start = options.get("start", room.start)
    if start not in ("centre", "random"):
        start = _cell("start", start, size)
    flags = (_flag(options, "has_key"), _flag(options, "one_hot"))
    walls = _walls(options, size, start)
    return Room(room.goals, size, length, start, room.ends, *flags, *walls)


def fixed_start(room: Room) -> tuple[int, int]:
    """Returns the cell (x, y) where every episode begins, of a room with such a one."""
    if isinstance(room.start, tuple):
        return room.start
    return room.size // 2, room.size // 2


def given(room: Room, options: Mapping[str, Any]) -> np.ndarray | None:
    """Returns the one task that options name cell by cell, int32 [1, G, 2], or None."""
    names = _FIXED[room.goals]
    if names[0] not in options:
        return None
    cells = [_cell(name, options[name], room.size) for name in names]
    return np.asarray(cells, np.int32)[None]


def among(size: int, goals: int, split: task_splits.Split) -> np.ndarray:
    """Returns the tasks of a split, int32 [N, G, 2]: ``goals`` cells (x, y) each.

    Raises ValueError where the split is empty or has not ``number`` tasks.
    """
    axes = 2 * goals
    chosen = task_splits.indices(split, size**axes)
    cells = np.stack(np.unravel_index(chosen, (size,) * axes), -1)
    return cells.reshape(-1, goals, 2).astype(np.int32)


def _check_given(room: Room, options: Mapping[str, Any]) -> None:
    names = _FIXED[room.goals]
    got = [name for name in names if name in options]
    if got and len(got) < len(names):
        raise ValueError(f"options.{got[0]}: alone, give {' and '.join(names)}")
    for name in (*_DEALT, *_WALLED):
        if got and name in options:
            raise ValueError(
                f"options.{name}: with options.{got[0]} there is but one task; give one "
                "or the other"
            )


def _walls(
    options: Mapping[str, Any], size: int, start: str | tuple[int, int]
) -> tuple[int, int]:
    """Returns the number of walls and of tasks that have them, (0, 0) without walls."""
    if "walls" not in options:
        if "layouts" in options:
            raise ValueError(
                "options.layouts: without options.walls all rooms look the same; give both"
            )
        return 0, 0
    if start == "random":
        raise ValueError(
            "options.start: 'random' with options.walls, where some cells cannot be "
            "left; give centre or a cell [x, y]"
        )
    walls = errors.integer("options.walls", options["walls"], 1, size**2 // 3)
    layouts = options.get("layouts", _LAYOUTS)
    return walls, errors.integer("options.layouts", layouts, 2, _MOST_LAYOUTS)


def _cell(field: str, value: Any, size: int) -> tuple[int, int]:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ValueError(f"options.{field}: got {value!r}, give a cell [x, y]")
    x, y = (errors.integer(f"options.{field}", v, 0, size - 1) for v in value)
    return x, y


def _flag(options: Mapping[str, Any], name: str) -> bool:
    value = options.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"options.{name}: got {value!r}, give true or false")
    return value
