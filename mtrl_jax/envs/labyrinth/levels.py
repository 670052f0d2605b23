"""All levels: each a line of parameters, a rule and a sentence of what good looks like."""

from __future__ import annotations

from typing import NamedTuple

from mtrl_jax.envs.labyrinth import doors, game, world

FORAGE = game.Kind(game.collect)
LASERTAG = game.Kind(game.tag, bots=True)
DOORS = game.Kind(game.collect, doors.deal, doors=True)


class Level(NamedTuple):
    """A level; levels of one kind share their compiled program."""

    kind: game.Kind
    params: world.Params
    says: str


def counts(**kinds: int) -> tuple[int, ...]:
    """Returns how many there are of each kind, from names such as ``apple=8``."""
    names = [name.replace(" ", "_") for name in world.NAMES]
    given = [0] * world.KINDS
    for name, number in kinds.items():
        given[names.index(name)] = number
    return tuple(given)


def _forage(says: str, **params) -> Level:
    return Level(FORAGE, world.Params(**params), says)


LEVELS: dict[str, Level] = {
    "explore_object_locations_small": _forage(
        "Sweep every branch of a small maze once; six apples, then a new maze.",
        rooms=4, loops=0.3, counts=counts(apple=6), renews=True,
    ),
    "explore_object_locations_large": _forage(
        "Remember where you have been; the melons hang and take a jump.",
        rooms=8, loops=0.2, counts=counts(apple=12, melon=4), renews=True,
    ),
    "explore_goal_locations_small": _forage(
        "Search once, then run straight back: the goal stays, you are moved.",
        rooms=5, loops=0.3, counts=counts(goal=1), teleports=True,
    ),
    "seekavoid_arena_01": _forage(
        "Weave between the lemons and take every apple of the arena.",
        rooms=1, pitch=12, counts=counts(apple=8, lemon=8), renews=True,
    ),
    "rooms_watermaze": _forage(
        "Find the hidden platform once, then swim to it by the walls' looks.",
        rooms=1, pitch=10, round=True, maze_seed=0, hidden=True, teleports=True,
        counts=counts(goal=1), rewards=(1.0, -1.0, 2.0, 1.0, 0.0, 0.0, 0.0), length=450,
    ),
    "dark_key_to_door_3d": _forage(
        "Find the invisible key, then the invisible door; remember both.",
        rooms=1, pitch=8, maze_seed=0, hidden=True, locked=True, ends=True,
        counts=counts(goal=1, red_key=1),
        rewards=(1.0, -1.0, 2.0, 1.0, 1.0, 0.0, 0.0), length=150,
    ),
    "lasertag_one_opponent_small": Level(
        LASERTAG,
        world.Params(rooms=3, pitch=4, loops=0.5, bots=1),
        "See first, aim, fire; turn round when you are hit.",
    ),
    "lasertag_three_opponents_small": Level(
        LASERTAG,
        world.Params(rooms=3, pitch=4, loops=0.5, bots=3),
        "The same with three of them: keep a wall at your back.",
    ),
    "rooms_keys_doors_puzzle": Level(
        DOORS,
        world.Params(
            rooms=3, pitch=4, ends=True,
            counts=counts(goal=1, red_key=1, green_key=1, blue_key=1),
            rewards=(1.0, -1.0, 2.0, 10.0, 1.0, 1.0, 1.0),
        ),
        "Fetch each key, open its door, reach the goal behind the last.",
    ),
}  # fmt: skip

# Eight fixed mazes of growing size.
_STATIC = (
    (4, 0.3),
    (4, 0.0),
    (5, 0.2),
    (5, 0.0),
    (6, 0.2),
    (7, 0.2),
    (8, 0.2),
    (9, 0.1),
)
LEVELS |= {
    f"nav_maze_static_{number:02d}": _forage(
        "Know the maze by heart; apples on the way, ten for the goal.",
        rooms=rooms, loops=loops, maze_seed=number, teleports=True,
        counts=counts(apple=5, goal=1),
    )
    for number, (rooms, loops) in enumerate(_STATIC, start=1)
}  # fmt: skip
