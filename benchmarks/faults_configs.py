"""Settings of tiny runs of every kind, and what a careless hand makes of them."""

from __future__ import annotations

import copy
import pathlib
import random
import runpy
from typing import Any

_TESTS = pathlib.Path(__file__).parent.parent / "tests"
_TINY = runpy.run_path(str(_TESTS / "tiny_settings.py"))
STAGES: dict[str, Any] = _TINY["STAGES"]
# Twice as long, so that there is a time to be killed in.
ONLINE: dict[str, Any] = {
    **_TINY["ONLINE"],
    "training": {**_TINY["ONLINE"]["training"], "env_steps": 1280},
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
        places = list(_places(settings))
        if not places:  # All of it is gone.
            break
        owner, key = rng.choice(places)
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
