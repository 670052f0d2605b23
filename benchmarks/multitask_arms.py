"""The arms of the multi-task benchmark: what each run has otherwise than its rivals.

Arms that differ by hyperparameters alone are members of one population, dealt in turn.

    rooms    four 9 x 9 rooms, a goal in another place each; nothing in an observation
             tells which room it is
    scales   Catch with rewards of 0.01 beside CartPole with rewards of 1
    game     one MinAtar game
"""

from __future__ import annotations

import dataclasses
from typing import Any

_GOALS = ([1, 2], [7, 2], [2, 7], [7, 6])
TASKS: dict[str, list[dict[str, Any]]] = {
    "rooms": [
        {"env": "dark/room", "slots": 16, "options": {"goal": goal}} for goal in _GOALS
    ],
    "scales": [
        {
            "env": "gymnax/Catch-bsuite",
            "slots": 16,
            "options": {"wrappers": {"reward_scale": 0.01}},
        },
        {"env": "gymnax/CartPole-v1", "slots": 16},
    ],
    "asterix": [{"env": "gymnax/Asterix-MinAtar", "slots": 32}],
    "breakout": [{"env": "gymnax/Breakout-MinAtar", "slots": 32}],
    "freeway": [{"env": "gymnax/Freeway-MinAtar", "slots": 32}],
}
_COMMON = {"learning_rate": 2e-3, "max_grad_norm": 0.5, "adam_eps": 1e-5}
_NETWORK = {"hidden": [64, 64], "last_action_reward": False}
_POPART: dict[str, Any] = {"value_scale": "popart", "value_debias": True}


@dataclasses.dataclass(frozen=True)
class Arm:
    """One program; ``dealt`` are the hyperparameters that its ``labels`` differ by."""

    agent: str
    config: dict[str, Any]
    hparams: dict[str, float] = dataclasses.field(default_factory=dict)
    labels: tuple[str, ...] = ("",)
    dealt: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    before: Arm | None = None  # of the stage that it begins with, or is taught by
    takes: str = "init_from"  # or teacher


def _impala(network: dict[str, Any] | None = None, **config: Any) -> Arm:
    return Arm("impala", {"network": _NETWORK | (network or {}), **config})


def _distral(columns: str, **dealt: Any) -> Arm:
    return Arm(
        "distral", {"network": _NETWORK, "columns": columns}, {"beta": 50.0}, **dealt
    )


def _columns(number: int, before: Arm | None = None, trains: str = "all") -> Arm:
    config = {"columns": number, "hidden": [64, 64], "trains": trains}
    return Arm("progressive", config, before=before)


_ALPHAS = {
    "labels": ("alpha 0", "alpha 0.5", "alpha 1"),
    "dealt": {"alpha": [0.0, 0.5, 1.0]},
}
_SOURCE = _columns(1)
EXPERIMENTS: dict[str, dict[str, Arm]] = {
    "combiners": {
        **{
            name: _impala(combiner=name)
            for name in ("mean", "pcgrad", "cagrad", "mgda", "equal_norm")
        },
        "mean, popart": _impala(combiner="mean", **_POPART),
        "pcgrad, popart": _impala(combiner="pcgrad", **_POPART),
    },
    "sharing": {
        "hard": _impala(),
        "task input": _impala({"task_embedding": True}),
        "task heads": _impala({"task_heads": True}),
        "cross-stitch": _impala({"sharing": "cross_stitch"}),
        "experts": _impala({"sharing": "experts", "task_embedding": True}),
        "soft": dataclasses.replace(
            _impala({"sharing": "soft"}),
            labels=("cost 0", "cost 1e-3", "cost 1e-1"),
            dealt={"distance_cost": [0.0, 1e-3, 1e-1]},
        ),
    },
    "distral": {
        "two": _distral("two", **_ALPHAS),
        "one": _distral("one", **_ALPHAS),
        "added": _distral("added"),
        "shared": _distral("shared"),
    },
    "kickstarting": {
        "student": dataclasses.replace(
            _impala({"hidden": [128, 128]}),
            labels=("alone", "taught"),
            dealt={"teacher_cost": [0.0, 0.3]},
            before=_impala(),
            takes="teacher",
        ),
    },
    "unreal": {
        "unreal": Arm(
            "unreal",
            {
                "network": {"torso": "minatar", "core": "lstm", "core_size": 64},
                "cell": 2,
            },
            labels=("none", "control", "reward", "replay", "all"),
            dealt={
                "control_cost": [0.0, 1e-2, 0.0, 0.0, 1e-2],
                "reward_cost": [0.0, 0.0, 1.0, 0.0, 1.0],
                "replay_cost": [0.0, 0.0, 0.0, 1.0, 1.0],
            },
        ),
    },
    "progressive": {
        "1 scratch": _columns(1),
        "2 heads alone": _columns(1, _SOURCE, "heads"),
        "3 all": _columns(1, _SOURCE),
        "4 random column": _columns(2),
        "two columns": _columns(2, _SOURCE),
    },
}
# What the last stage, and the one before, is on.
WHERE = {
    "combiners": ("scales", ""),
    "sharing": ("rooms", ""),
    "distral": ("rooms", ""),
    "kickstarting": ("breakout", "breakout"),
    "unreal": ("freeway", ""),
    "progressive": ("breakout", "asterix"),
}
STEPS = dict.fromkeys(EXPERIMENTS, 400_000)


def settings(experiment: str, arm: str, env_steps: int, seeds: int) -> dict[str, Any]:
    """Returns the settings of an arm's run, of one stage or two."""
    chosen = EXPERIMENTS[experiment][arm]
    target, source = WHERE[experiment]
    last = _stage(chosen, target, env_steps, seeds)
    if chosen.before is None:
        return last
    first = _stage(chosen.before, source, env_steps, seeds)
    return {
        "stages": [
            {"name": "before", "kind": "online", **first},
            {"name": "last", "kind": "online", chosen.takes: "before", **last},
        ]
    }


def _stage(arm: Arm, tasks: str, env_steps: int, seeds: int) -> dict[str, Any]:
    search = {
        name: {"low": 0.0, "high": max(1.0, *values), "initial": values}
        for name, values in arm.dealt.items()
    }
    return {
        "tasks": TASKS[tasks],
        "agent": {
            "name": arm.agent,
            "config": {"optimiser": "adam", **arm.config},
            "hparams": {**_COMMON, "lambda_": 0.95, **arm.hparams},
        },
        "population": {"size": seeds * len(arm.labels), "search": search},
        "training": {
            "env_steps": env_steps,
            "unroll_length": 20,
            "updates_per_chunk": 25,
        },
        "evaluation": {"every_updates": 0, "episodes": 32},
        "checkpoint": {"every_updates": 500, "keep": 1},
        "logging": {"tensorboard": False},
    }
