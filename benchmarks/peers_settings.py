"""What the contenders of peers.py are given: an algorithm's settings, in rejax's words.

A length is in env steps of a member. ``turn``: the updates of all members in a turn;
``untimed``: steps before the turns that are measured (DQN does not learn before its
buffer has filled); ``learn``: steps before the return is tested.
"""

from __future__ import annotations

import dataclasses
from typing import Any

PEER = "rejax"
_COMMON = {"env": "CartPole-v1", "seed": 0, "hidden": [64, 64], "episodes": 128}


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """One algorithm's settings and contenders."""

    settings: dict[str, Any]
    # Contender: (what it changes, least population where that makes a difference).
    contenders: dict[str, tuple[dict[str, Any], int]]
    slots: list[int]
    populations: list[int]
    turn: int  # times slots
    learn: int
    untimed: int = 0
    result: str = "peers"  # the name of its JSON and PNG


PPO = Algorithm(
    {
        **_COMMON,
        "algorithm": "ppo",
        "unroll": 128,
        "epochs": 4,
        "minibatches": 4,
        "hparams": {
            "learning_rate": 2.5e-4,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "clip_eps": 0.2,
            "vf_coef": 0.5,
            "ent_coef": 0.01,
            "max_grad_norm": 0.5,
        },
    },
    {
        PEER: ({}, 1),
        "mtrl": ({"shared": False, "at_once": None}, 1),
        "in turn": ({"shared": False, "at_once": 1}, 2),
        "shared": ({"shared": True, "at_once": None}, 1),
    },
    slots=[4, 64, 256],
    populations=[1, 8, 16],
    turn=1024,
    learn=500_000,
)
# rejax's own DQN of CartPole, from the configs of its repository.
DQN = Algorithm(
    {
        **_COMMON,
        "algorithm": "dqn",
        "unroll": 1,
        "capacity": 50_000,
        "fill": 5_000,
        "batch": 100,
        "gradient_steps": 5,
        "explore": 50_000,
        "test_epsilon": 0.005,
        "hparams": {
            "learning_rate": 1e-3,
            "gamma": 0.99,
            "max_grad_norm": 10.0,
            "polyak": 0.98,
            "eps_start": 1.0,
            "eps_end": 0.05,
        },
    },
    {
        PEER: ({}, 1),
        "mtrl": ({"at_once": None}, 1),
        "in turn": ({"at_once": 1}, 2),
    },
    slots=[10],
    populations=[1, 16],
    turn=8_000,
    learn=100_000,
    untimed=6_000,
    result="peers_dqn",
)
ALGORITHMS = {"ppo": PPO, "dqn": DQN}
