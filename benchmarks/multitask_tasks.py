"""The tasks of the multi-task benchmark's arms.

Each is a key of ``TASKS``.

    rooms     four 9 x 9 rooms, a goal in another place each; nothing in an observation
              tells which room it is
    scales    four MinAtar games with rewards times 1, 10, 100 and 1000
    breakout  one MinAtar game
    variants  Breakout mirrored, upside down and with other colours: a task a member
    catch     bsuite's Catch
    goal      an 11 x 11 room of which a random walk finds the goal in 0.9 % of episodes
    mt10      Meta-World's ten tasks of one robot arm, through envpool
    mazes     Labyrinth's eight fixed mazes, as in configs/distral_labyrinth.yaml
    maze      the first of them, seen as 24 x 32 pixels
"""

from __future__ import annotations

import pathlib
from typing import Any

from mtrl_jax import envs
from mtrl_jax.config import loading

FOLDER = pathlib.Path(__file__).resolve().parent
CONFIGS = FOLDER.parent / "configs"
MAZES = loading.read_yaml(CONFIGS / "distral_labyrinth.yaml")
_GOALS = ([1, 2], [7, 2], [2, 7], [7, 6])
_VARIANTS = [
    f"minatar_variants/Breakout-{name}@{FOLDER}"
    for name in ("mirrored", "inverted", "recoloured")
]
TASKS: dict[str, list[dict[str, Any]]] = {
    "rooms": [
        {"env": "dark/room", "slots": 16, "options": {"goal": goal}} for goal in _GOALS
    ],
    "scales": [
        {
            "env": f"gymnax/{game}-MinAtar",
            "slots": 16,
            "options": {"wrappers": {"reward_scale": scale}},
        }
        for game, scale in zip(envs.MINATAR, (1.0, 10.0, 100.0, 1000.0))
    ],
    "breakout": [{"env": "gymnax/Breakout-MinAtar", "slots": 32}],
    # All have the source's actions, so that baselines 2 and 3 begin with its heads.
    "variants": [{"env": name, "slots": 32} for name in _VARIANTS],
    "catch": [{"env": "gymnax/Catch-bsuite", "slots": 16}],
    "goal": [
        {
            "env": "dark/room_hard",
            "slots": 32,
            "options": {
                "size": 11,
                "start": [1, 1],
                "goal": [9, 9],
                "length": 60,
                "one_hot": True,
            },
        }
    ],
    "mt10": [{"suite": "mt10", "slots": 4}],
    "mazes": MAZES["tasks"],
    "maze": [
        {
            "env": "labyrinth/nav_maze_static_01",
            "slots": 16,
            "options": {"observation": "pixels", "size": [24, 32], "actions": "small"},
        }
    ],
}
AXES = {"variants": "population"}  # of those whose tasks are the members'
