"""Tiny runs: of one stage and of several, for tests and for benchmarks/faults.py."""

from __future__ import annotations

from typing import Any

ROOM = {"one_hot": True, "size": 3, "length": 4, "start": [0, 0]}
QUIET = {"tensorboard": False, "plots": False}
# 40 updates of 4 members, 16 environment steps each; PBT, tests and checkpoints happen.
ONLINE: dict[str, Any] = {
    "tasks": [
        {"env": "probe/action", "slots": 2},
        {"env": "probe/memory", "slots": 2},
    ],
    "agent": {
        "name": "impala",
        "config": {
            "optimiser": "adam",
            "network": {"hidden": [8]},
            "normalise_observations": True,
        },
    },
    "population": {
        "size": 4,
        "search": {"learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}},
        "pbt": {"interval": 8, "min_episodes": 1},
    },
    "training": {"env_steps": 640, "unroll_length": 4, "updates_per_chunk": 2},
    "evaluation": {"every_updates": 8, "episodes": 4},
    "checkpoint": {"every_updates": 12, "keep": 3},
    "logging": QUIET,
}
# 60 updates of 3 learners, 2 tasks; 8 updates of 4 members on their steps; 4 episodes.
STAGES: dict[str, Any] = {
    "stages": [
        {
            "name": "source",
            "kind": "collect",
            "tasks": [
                {"env": "dark/room", "options": {**ROOM, "tasks": "train", "number": 2}}
            ],
            "agent": {"name": "tabular", "hparams": {"decay_updates": 40}},
            "population": {"size": 3},
            "training": {"env_steps": 60, "unroll_length": 1, "updates_per_chunk": 10},
            "evaluation": {"every_updates": 0, "episodes": 2},
            "checkpoint": {"every_updates": 20},
            "logging": QUIET,
        },
        {
            "name": "model",
            "kind": "offline",
            "data": "source",
            "agent": {
                "name": "behaviour_cloning",
                "config": {"network": {"hidden": [8]}},
            },
            "population": {
                "size": 4,
                "search": {"learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}},
                "pbt": {"interval": 4},
            },
            "training": {
                "updates": 8,
                "unroll_length": 5,
                "batch": 4,
                "updates_per_chunk": 2,
            },
            "evaluation": {"every_updates": 4, "held_out": 0.3},
            "checkpoint": {"every_updates": 4},
            "logging": QUIET,
        },
        {
            "name": "in_context",
            "kind": "evaluate",
            "of": "model",
            "compare": ["source"],
            "tasks": [{"env": "dark/room", "options": {**ROOM, "tasks": "test"}}],
            "evaluation": {"episodes": 4, "episodes_per_chunk": 1},
            "checkpoint": {"every_updates": 10},
            "logging": QUIET,
        },
    ]
}
