"""Settings of tiny runs of every kind, and what a careless hand makes of them."""

from __future__ import annotations

import copy
import random
from typing import Any

_ROOM = {"one_hot": True, "size": 3, "length": 4, "start": [0, 0]}
_QUIET = {"tensorboard": False}
ONLINE: dict[str, Any] = {
    "tasks": [
        {"env": "probe/action", "slots": 2},
        {"env": "probe/memory", "slots": 2},
    ],
    "agent": {
        "name": "impala",
        "config": {"optimiser": "adam", "network": {"hidden": [8]}},
    },
    "population": {
        "size": 4,
        "search": {"learning_rate": {"low": 1e-3, "high": 1e-2, "log": True}},
        "pbt": {"interval": 8, "min_episodes": 1},
    },
    "training": {"env_steps": 1280, "unroll_length": 4, "updates_per_chunk": 2},
    "evaluation": {"every_updates": 8, "episodes": 4},
    "checkpoint": {"every_updates": 12, "keep": 3},
    "logging": _QUIET,
}
STAGES: dict[str, Any] = {
    "stages": [
        {
            "name": "source",
            "kind": "collect",
            "tasks": [
                {
                    "env": "dark/room",
                    "options": {**_ROOM, "tasks": "train", "number": 2},
                }
            ],
            "agent": {"name": "tabular", "hparams": {"decay_updates": 40}},
            "population": {"size": 3},
            "training": {"env_steps": 60, "unroll_length": 1, "updates_per_chunk": 10},
            "evaluation": {"every_updates": 0, "episodes": 2},
            "checkpoint": {"every_updates": 20},
            "logging": _QUIET,
        },
        {
            "name": "model",
            "kind": "offline",
            "data": "source",
            "agent": {
                "name": "behaviour_cloning",
                "config": {"network": {"hidden": [8]}},
            },
            "population": {"size": 4},
            "training": {
                "updates": 8,
                "unroll_length": 5,
                "batch": 4,
                "updates_per_chunk": 2,
            },
            "evaluation": {"every_updates": 4, "held_out": 0.3},
            "checkpoint": {"every_updates": 4},
            "logging": _QUIET,
        },
        {
            "name": "in_context",
            "kind": "evaluate",
            "of": "model",
            "tasks": [{"env": "dark/room", "options": {**_ROOM, "tasks": "test"}}],
            "evaluation": {"episodes": 4, "episodes_per_chunk": 1},
            "checkpoint": {"every_updates": 10},
            "logging": _QUIET,
        },
    ]
}


def kinds() -> dict[str, dict[str, Any]]:
    """Returns {kind of run: settings}.

    ``stages`` collects, learns offline and evaluates in context; ``sweep`` has no PBT, and
    its last member the highest learning rate; ``outside`` has an environment of a file.
    """
    host, sweep, outside = (copy.deepcopy(ONLINE) for _ in range(3))
    host["training"]["runner"] = "host"
    sweep["population"]["pbt"] = None
    rates = sweep["population"]["search"]["learning_rate"]
    rates["initial"] = [1e-3, 2e-3, 3e-3, 9e-3]
    outside["tasks"] = [{"env": "flaky/action", "slots": 2}]
    outside_host = copy.deepcopy(outside)
    outside_host["training"]["runner"] = "host"
    return {
        "online": ONLINE,
        "host": host,
        "stages": STAGES,
        "sweep": sweep,
        "outside": outside,
        "outside host": outside_host,
    }


_VALUES: list[Any] = [
    *(None, True, -1, 0, 1, 3, 10**6, 2**31, 2**63, 10**30),
    *(-0.5, 1e-300, 1e30, float("nan"), float("inf")),
    *("", "x", "../x", "/etc/passwd", "learning_rate", "\u00e9"),
    *([], [1, 2], [[1], 2], {}, {"low": 1}, {"env": "probe/action"}),
]


def mutated(seed: int) -> dict[str, Any]:
    """Returns settings with one to three careless changes: a value, a name, a hole."""
    rng = random.Random(seed)
    settings = copy.deepcopy(rng.choice([ONLINE, STAGES]))
    for _ in range(rng.randint(1, 3)):
        owner, key = rng.choice(list(_places(settings)))
        change = rng.choice(["value", "value", "value", "drop", "rename", "twice"])
        if change == "value":
            owner[key] = copy.deepcopy(rng.choice(_VALUES))
        elif change == "drop":
            del owner[key]
        elif isinstance(owner, list):
            owner.append(copy.deepcopy(owner[key]))
        elif change == "rename":
            owner[f"{key}s"] = owner.pop(key)
        else:
            owner[key] = [owner[key], owner[key]]
    return settings


def _places(value: Any):
    """Yields (container, key) of everything in nested mappings and lists."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(pairs):
        yield value, key
        if isinstance(inner, dict | list):
            yield from _places(inner)
