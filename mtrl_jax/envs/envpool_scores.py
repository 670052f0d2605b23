"""Reference scores that normalise returns, and the suites that are named after them.

Atari: (random, human) of Mnih et al. 2015 and Wang et al. 2016 as all later Atari-57
papers use them (no-op starts). Procgen: (R_min, R_max) of Cobbe et al. 2020
(arXiv:1912.01588), appendix C. DM Control: rewards are in [0, 1] for 1,000 steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Five minutes, the shortest episodes that scores of Atari are reported of.
_LEAST_FRAMES = 18_000

ATARI: dict[str, tuple[float, float]] = {
    "Alien": (227.8, 7127.7),
    "Amidar": (5.8, 1719.5),
    "Assault": (222.4, 742.0),
    "Asterix": (210.0, 8503.3),
    "Asteroids": (719.1, 47388.7),
    "Atlantis": (12850.0, 29028.1),
    "BankHeist": (14.2, 753.1),
    "BattleZone": (2360.0, 37187.5),
    "BeamRider": (363.9, 16926.5),
    "Berzerk": (123.7, 2630.4),
    "Bowling": (23.1, 160.7),
    "Boxing": (0.1, 12.1),
    "Breakout": (1.7, 30.5),
    "Centipede": (2090.9, 12017.0),
    "ChopperCommand": (811.0, 7387.8),
    "CrazyClimber": (10780.5, 35829.4),
    "Defender": (2874.5, 18688.9),
    "DemonAttack": (152.1, 1971.0),
    "DoubleDunk": (-18.6, -16.4),
    "Enduro": (0.0, 860.5),
    "FishingDerby": (-91.7, -38.7),
    "Freeway": (0.0, 29.6),
    "Frostbite": (65.2, 4334.7),
    "Gopher": (257.6, 2412.5),
    "Gravitar": (173.0, 3351.4),
    "Hero": (1027.0, 30826.4),
    "IceHockey": (-11.2, 0.9),
    "Jamesbond": (29.0, 302.8),
    "Kangaroo": (52.0, 3035.0),
    "Krull": (1598.0, 2665.5),
    "KungFuMaster": (258.5, 22736.3),
    "MontezumaRevenge": (0.0, 4753.3),
    "MsPacman": (307.3, 6951.6),
    "NameThisGame": (2292.3, 8049.0),
    "Phoenix": (761.4, 7242.6),
    "Pitfall": (-229.4, 6463.7),
    "Pong": (-20.7, 14.6),
    "PrivateEye": (24.9, 69571.3),
    "Qbert": (163.9, 13455.0),
    "Riverraid": (1338.5, 17118.0),
    "RoadRunner": (11.5, 7845.0),
    "Robotank": (2.2, 11.9),
    "Seaquest": (68.4, 42054.7),
    "Skiing": (-17098.1, -4336.9),
    "Solaris": (1236.3, 12326.7),
    "SpaceInvaders": (148.0, 1668.7),
    "StarGunner": (664.0, 10250.0),
    "Surround": (-10.0, 6.5),
    "Tennis": (-23.8, -8.3),
    "TimePilot": (3568.0, 5229.2),
    "Tutankham": (11.4, 167.6),
    "UpNDown": (533.4, 11693.2),
    "Venture": (0.0, 1187.5),
    "VideoPinball": (16256.9, 17667.9),
    "WizardOfWor": (563.5, 4756.5),
    "YarsRevenge": (3092.9, 54576.9),
    "Zaxxon": (32.5, 9173.3),
}

PROCGEN_EASY: dict[str, tuple[float, float]] = {
    "Bigfish": (1.0, 40.0),
    "Bossfight": (0.5, 13.0),
    "Caveflyer": (3.5, 12.0),
    "Chaser": (0.5, 13.0),
    "Climber": (2.0, 12.6),
    "Coinrun": (5.0, 10.0),
    "Dodgeball": (1.5, 19.0),
    "Fruitbot": (-1.5, 32.4),
    "Heist": (3.5, 10.0),
    "Jumper": (3.0, 10.0),
    "Leaper": (3.0, 10.0),
    "Maze": (5.0, 10.0),
    "Miner": (1.5, 13.0),
    "Ninja": (3.5, 10.0),
    "Plunder": (4.5, 30.0),
    "Starpilot": (2.5, 64.0),
}

PROCGEN_HARD: dict[str, tuple[float, float]] = {
    "Bigfish": (0.0, 40.0),
    "Bossfight": (0.5, 13.0),
    "Caveflyer": (2.0, 13.4),
    "Chaser": (0.5, 14.2),
    "Climber": (1.0, 12.6),
    "Coinrun": (5.0, 10.0),
    "Dodgeball": (1.5, 19.0),
    "Fruitbot": (-0.5, 27.2),
    "Heist": (2.0, 10.0),
    "Jumper": (1.0, 10.0),
    "Leaper": (1.5, 10.0),
    "Maze": (4.0, 10.0),
    "Miner": (1.5, 20.0),
    "Ninja": (2.0, 10.0),
    "Plunder": (3.0, 30.0),
    "Starpilot": (1.5, 35.0),
}

_MT10 = (
    "Reach",
    "Push",
    "PickPlace",
    "DoorOpen",
    "DrawerOpen",
    "DrawerClose",
    "ButtonPressTopdown",
    "PegInsertSide",
    "WindowOpen",
    "WindowClose",
)

SUITES: dict[str, tuple[str, ...]] = {
    "atari57": tuple(f"envpool/{game}-v5" for game in ATARI),
    "procgen16_easy": tuple(f"envpool/{game}Easy-v0" for game in PROCGEN_EASY),
    "procgen16_hard": tuple(f"envpool/{game}Hard-v0" for game in PROCGEN_HARD),
    "metaworld_mt10": tuple(f"envpool/MetaWorld/{task}-v3" for task in _MT10),
}


def scores(
    family: str, task: str, options: Mapping[str, Any] = {}, limit: int | None = None
) -> tuple[float | None, float | None]:
    """Returns (random, reference) return of a task, (None, None) where none is agreed.

    That is also where ``options`` (every one of an Atari game, those given of others)
    make another game of it, or an episode of ``limit`` steps ends before the scores'.
    """
    name = task.rsplit("-", 1)[0]
    if family == "dmc":
        return 0.0, 1000.0 if limit is None else float(limit)
    if not _is_as_scored(family, options, limit):
        return None, None
    if family == "atari":
        return ATARI.get(name, (None, None))
    if family == "procgen" and name.endswith("Easy"):
        return PROCGEN_EASY.get(name.removesuffix("Easy"), (None, None))
    if family == "procgen" and name.endswith("Hard"):
        return PROCGEN_HARD.get(name.removesuffix("Hard"), (None, None))
    return None, None


def _is_as_scored(family: str, options: Mapping[str, Any], limit: int | None) -> bool:
    if family == "atari":
        frames = _LEAST_FRAMES if limit is None else limit * options["frame_skip"]
        is_own = all(options.get(name, -1) == -1 for name in ("mode", "difficulty"))
        return is_own and frames >= _LEAST_FRAMES
    return options.get("max_steps") is None and "distribution_mode" not in options
