"""Level parameters from a config: of the right kind, within what the code can do."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from mtrl_jax.envs.labyrinth import game, levels, world

_MOST = 1e6  # of a reward
_RANGES: dict[str, tuple[float, float]] = {
    "rooms": (1, world.ROOMS),
    "pitch": (2, world.SIZE - 1),
    "loops": (0, 1),
    "maze_seed": (-1, 2**31 - 1),
    "counts": (0, world.THINGS),
    "places": (-1, world.SIZE - 2),
    "bots": (0, world.BOTS),
    "bot_speed": (0, 3.5),
    "bot_reaction": (0, world.MAX_LENGTH),
    "bot_aim_error": (1e-3, 1e6),
    "rewards": (-_MOST, _MOST),
    "tag_reward": (-_MOST, _MOST),
    "length": (1, world.MAX_LENGTH),
}
# What doors.deal decides by itself.
_NOT_OF_DOORS = ("loops", "maze_seed", "counts", "places", "round", "locked")
# What bots alone read, and what only matters where things are taken.
_OF_BOTS = ("bot_speed", "bot_reaction", "bot_aim_error", "tag_reward")
_OF_THINGS = (
    *("counts", "rewards", "hidden", "places"),
    *("renews", "teleports", "ends", "locked"),
)


def params(level: levels.Level, given: dict[str, Any]) -> world.Params:
    """Returns a level's parameters as arrays, with the given ones in their place.

    Raises:
      ValueError: a value of another kind or out of range, a map that is too large or
        too small for what is to lie in it, a pool of several rooms, a place in a wall,
        of two things or of none, a goal that nothing unlocks, nothing worth taking or
        nobody to tag, a map that is never used up, bots in a level without, doors in
        one room, an option that levels of its kind do not read.
    """
    for name, why in _unread(level.kind).items():
        if name in given:
            raise ValueError(
                f"options.{name}: got {given[name]!r}, {why}; leave it out"
            )
    new = {
        name: _value(name, given.get(name, default), default)
        for name, default in level.params._asdict().items()
    }
    _check_together(level, new)
    return world.Params(**{name: jnp.asarray(value) for name, value in new.items()})


def check(level: levels.Level, params: world.Params) -> None:
    """Raises ValueError unless a level's parameters, of numpy, go together."""
    _check_together(level, params._asdict())


def open_cells(pitch: int, round_: bool) -> np.ndarray:
    """Returns the free cells (row, column) of a map of one room, int32 [N, 2]."""
    size = pitch + 1
    from_middle = np.square(np.arange(1, size - 1) + 0.5 - size / 2)
    within = from_middle[None] + from_middle[:, None] < (size / 2 - 1) ** 2
    return np.argwhere(within | (not round_)).astype(np.int32) + 1


def _unread(kind: game.Kind) -> dict[str, str]:
    """Returns {option: why not} of those that levels of a kind do not read."""
    found: dict[str, str] = {}
    if kind.doors:
        why = "a level with doors deals its own map and things"
        found |= dict.fromkeys(_NOT_OF_DOORS, why)
    if not kind.bots:
        found |= dict.fromkeys(_OF_BOTS, "this level has no bots")
    if kind.rules is game.tag:
        found |= dict.fromkeys(_OF_THINGS, "a lasertag level pays for bots alone")
    return found


def _value(name: str, value: Any, default: Any) -> np.ndarray:
    like = np.asarray(default)
    # Of a list of unequal lengths numpy makes no array.
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.empty(0, object)
    kinds = {"b": "b", "i": "i", "f": "if"}[like.dtype.kind]
    if array.shape != like.shape or array.dtype.kind not in kinds:
        raise ValueError(
            f"options.{name}: got {value!r}, give a value like {like.tolist()!r}"
        )
    low, high = (0, 1) if like.dtype.kind == "b" else _RANGES[name]
    if not ((array >= low) & (array <= high)).all():
        raise ValueError(f"options.{name}: got {value!r}, give {low:g} to {high:g}")
    dtypes = {"b": np.bool_, "i": np.int32, "f": np.float32}
    return array.astype(dtypes[like.dtype.kind])


def _check_together(level: levels.Level, new: dict[str, Any]) -> None:
    size = new["rooms"] * new["pitch"] + 1
    if size > world.SIZE:
        raise ValueError(
            f"options.rooms={new['rooms']} with pitch={new['pitch']}: a map of {size} "
            f"cells, give rooms x pitch of at most {world.SIZE - 1}"
        )
    if new["round"] and new["rooms"] > 1:
        raise ValueError("options.round: a pool is one room; give rooms=1")
    _check_kind(level.kind, new)
    wanted = int(new["counts"].sum()) + 1 + int(new["bots"])
    if new["counts"].sum() > world.THINGS:
        raise ValueError(
            f"options.counts: {new['counts'].sum()} things, give {world.THINGS} at most"
        )
    if new["locked"] and not new["counts"][world.KEY_RED]:
        raise ValueError(
            "options.locked: the goal takes a red key and there is none; give counts one"
        )
    _check_worth(level.kind, new)
    _check_places(new)
    floor = _floor(int(new["rooms"]), int(new["pitch"]), bool(new["round"]))
    if floor < wanted:
        raise ValueError(
            f"options.counts: {wanted} of things, agent and bots on {floor} free cells "
            f"(rooms={new['rooms']}, pitch={new['pitch']}, round={new['round']}); give "
            "fewer or a larger map"
        )


def _check_kind(kind: game.Kind, new: dict[str, Any]) -> None:
    """Raises ValueError unless a level of a kind has what it is played for."""
    if new["bots"] and not kind.bots:
        raise ValueError(
            f"options.bots: got {new['bots']}, this level has none; give 0 or a "
            "lasertag level"
        )
    if kind.rules is game.tag and not new["bots"]:
        raise ValueError("options.bots: got 0, there is nobody to tag; give 1 or more")
    if kind.doors and (new["rooms"] < 2 or new["pitch"] < 4):
        name, least = ("pitch", 4) if new["rooms"] > 1 else ("rooms", 2)
        raise ValueError(
            f"options.{name}: got {new[name]}, doors between rooms with keys in them "
            f"take {least} or more"
        )


def _check_worth(kind: game.Kind, new: dict[str, Any]) -> None:
    """Raises ValueError unless there is something to take, and where maps renew an end."""
    worth = new["counts"] * new["rewards"] > 0
    stays = new["teleports"] and worth[world.GOAL]
    if new["renews"] and (stays or not worth.any()):
        why = (
            "a goal that teleports stays"
            if stays
            else "there is nothing from the start"
        )
        raise ValueError(
            f"options.renews: a new map when nothing worth taking is left, and {why}; "
            "give other counts, or leave it out"
        )
    if kind.rules is game.collect and not worth.any():
        raise ValueError(
            f"options.counts: got {new['counts'].tolist()} with rewards="
            f"{new['rewards'].tolist()}, nothing is worth taking; give some of what is"
        )


def _check_places(new: dict[str, Any]) -> None:
    """Raises ValueError unless every place is free in every maze and one thing's."""
    rooms, pitch = int(new["rooms"]), int(new["pitch"])
    inside = [i for i in range(rooms * pitch) if i % pitch]
    free = {(i, j) for i in inside for j in inside}
    if rooms == 1:
        free = {tuple(cell) for cell in open_cells(pitch, bool(new["round"])).tolist()}
    given = [(i, tuple(x)) for i, x in enumerate(new["places"].tolist()) if max(x) >= 0]
    things = int(new["counts"].sum())
    if len({place for _, place in given}) < len(given):
        raise ValueError(
            f"options.places: got {new['places'].tolist()}, two things on one cell; give "
            "each its own, or [-1, -1] for any"
        )
    for number, place in given:
        if number >= things:
            raise ValueError(
                f"options.places: {list(place)} is of thing {number + 1}, and counts has "
                f"{things}; give [-1, -1]"
            )
        if place not in free:
            raise ValueError(
                f"options.places: {list(place)} may be a wall; give a cell (row, column) "
                f"inside of a room, such as {list(min(free))}, or [-1, -1] for any"
            )


def _floor(rooms: int, pitch: int, round_: bool) -> int:
    """Returns the free cells of the smallest map of that size: a tree of rooms, or a pool."""
    if not round_:
        return rooms**2 * (pitch - 1) ** 2 + rooms**2 - 1
    return len(open_cells(pitch, True))
