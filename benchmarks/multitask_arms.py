"""The arms of the multi-task benchmark: what each run has otherwise than its rivals.

Arms that differ by hyperparameters alone are members of one population, dealt in turn.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable
from typing import Any

import lagged_vtrace
import multitask_tasks as tasks_of

from mtrl_jax.config import loading

_COMMON = {"learning_rate": 2e-3, "max_grad_norm": 0.5, "adam_eps": 1e-5}
_NETWORK = {"hidden": [64, 64], "last_action_reward": False}
_FLAT = {"torso": "mlp", "activation": "relu"}
_ANNEALED = {"learning_rate": {"kind": "linear", "low": 5e-3, "high": 0.0}}
_FALLING = {"teacher_cost": {"kind": "linear", "low": 1.0, "high": 0.0, "end": 0.3}}
# Of pixel control, reward prediction and value replay. The paper draws the first from 0.01
# to 0.1; its weight of 1 for reward prediction, beside sums over 20 steps, is 0.05 here.
_OF_COSTS = ("control_cost", "reward_cost", "replay_cost")
_COSTS = {
    "none": (0.0, 0.0, 0.0),
    "control 0.01": (0.01, 0.0, 0.0),
    "control 0.1": (0.1, 0.0, 0.0),
    "reward 0.05": (0.0, 0.05, 0.0),
    "reward 1": (0.0, 1.0, 0.0),
    "replay 0.1": (0.0, 0.0, 0.1),
    "replay 1": (0.0, 0.0, 1.0),
    "all": (0.05, 0.05, 1.0),
}
_IN_MAZE = ("none", "control 0.01", "all")
# Of feature control, whose pseudo-rewards are larger than changes of cells, alone.
_FEATURE_COSTS = (0.001, 0.01)
_POPART: dict[str, Any] = {"value_scale": "popart", "value_debias": True}
_OF_POPART = {"value_step_size": 1e-2, "value_std_min": 1e-4}


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
    tested: dict[str, float] = dataclasses.field(default_factory=dict)  # hparams
    tasks: str = ""  # otherwise than the experiment's, see WHERE
    schedules: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    unroll_length: int = 20
    episodes: int = 32  # of the final evaluation, a task


def _impala(network: dict[str, Any] | None = None, **config: Any) -> Arm:
    return Arm("impala", {"network": _NETWORK | (network or {}), **config})


def _ppo(hidden: list[int], **changes: Any) -> Arm:
    """Returns PPO as in configs/minatar_ppo.yaml, on half as many slots."""
    network = _FLAT | {"hidden": hidden, "last_action_reward": False}
    return Arm(
        "ppo",
        {"minibatches": 8, "network": network | {"separate_value": True}},
        {"entropy_cost": 1e-2, "clip_value": 0.2},
        unroll_length=128,
        **changes,
    )


def _student(**changes: Any) -> Arm:
    """Returns an arm of a larger network that a smaller one may teach."""
    teacher = _ppo([64, 64], schedules=_ANNEALED)
    schedules = _ANNEALED | changes.pop("schedules", {})
    return _ppo(
        [128, 128], schedules=schedules, before=teacher, takes="teacher", **changes
    )


def _combined(combiner: str, scaled: bool) -> Arm:
    arm = _impala(_FLAT | {"task_embedding": True}, combiner=combiner)
    if not scaled:
        return arm
    return dataclasses.replace(arm, config=arm.config | _POPART, hparams=_OF_POPART)


def _game(**network: Any) -> Arm:
    """Returns V-trace as in configs/minatar_popart.yaml, on a quarter of its slots.

    With another network, and without PopArt, whose step is 0 then, beside with it.
    """
    agent = loading.read_yaml(tasks_of.CONFIGS / "minatar_popart.yaml")["agent"]
    config, hp = agent["config"], agent["hparams"]
    step = hp.pop("value_step_size")
    hp.pop("decay_updates")
    return Arm(
        "impala",
        config | {"network": config["network"] | network},
        hp,
        labels=("none", "popart"),
        dealt={"value_step_size": [0.0, step]},
        schedules={"learning_rate": _ANNEALED["learning_rate"]},
        unroll_length=128,
    )


def _robot(value_scale: str, unroll_length: int = 0, **network: Any) -> Arm:
    """Returns PPO as in configs/metaworld_mt10.yaml, with another network."""
    given = loading.read_yaml(tasks_of.CONFIGS / "metaworld_mt10.yaml")
    agent = given["agent"]
    config, hp = agent["config"], agent["hparams"]
    config |= {"network": config["network"] | network, "value_scale": value_scale}
    if value_scale != "popart":
        config.pop("value_debias")
        hp.pop("value_step_size")
    length = unroll_length or given["training"]["unroll_length"]
    return Arm("ppo", config, hp, unroll_length=length, episodes=4)


def _distral(columns: str, **dealt: Any) -> Arm:
    return Arm(
        "distral", {"network": _NETWORK, "columns": columns}, {"beta": 50.0}, **dealt
    )


def _mazes() -> Arm:
    """Returns Distral as in configs/distral_labyrinth.yaml, with and without alpha."""
    agent = tasks_of.MAZES["agent"]
    return Arm(
        "distral",
        agent["config"],
        agent["hparams"] | {"beta": 200.0},
        labels=("alpha 0", "alpha 0.5"),
        dealt={"alpha": [0.0, 0.5]},
        unroll_length=tasks_of.MAZES["training"]["unroll_length"],
    )


def _columns(number: int, before: Arm | None = None, trains: str = "all") -> Arm:
    config = {"columns": number, "hidden": [64, 64], "trains": trains}
    return Arm("progressive", config, before=before)


def _unreal(
    network: dict[str, Any],
    cell: int,
    tasks: str,
    labels: Iterable[str] = _COSTS,
    **hparams: float,
) -> Arm:
    labels = tuple(labels)
    return Arm(
        "unreal",
        {"network": _NETWORK | network, "cell": cell, "capacity": 16_000},
        hparams,
        tasks=tasks,
        labels=labels,
        dealt={
            name: [_COSTS[label][i] for label in labels]
            for i, name in enumerate(_OF_COSTS)
        },
    )


def _of_features(arm: Arm) -> Arm:
    """Returns UNREAL's arm with control of features alone."""
    return dataclasses.replace(
        arm,
        config=arm.config | {"feature_control": True},
        hparams=dict.fromkeys(_OF_COSTS, 0.0),
        labels=tuple(f"features {cost:g}" for cost in _FEATURE_COSTS),
        dealt={"feature_cost": list(_FEATURE_COSTS)},
    )


def _lagged(replayed: int) -> Arm:
    """Returns the arm of every correction with every lag."""
    names = enumerate(lagged_vtrace.CORRECTIONS)
    made = list(itertools.product(_LAGS, names))
    return Arm(
        f"lagged_vtrace@{tasks_of.FOLDER}",
        {"network": _NETWORK, "lags": max(_LAGS), "replayed": replayed},
        {"lambda_": 1.0},
        labels=tuple(f"{name}, lag {lag}" for lag, (_, name) in made),
        dealt={
            "lag": [float(lag) for lag, _ in made],
            "correction": [float(index) for _, (index, _) in made],
        },
        tested={"lag": 0.0},
    )


_LAGS = (0, 1, 10, 50, 200)  # updates
_ALPHAS = {
    "labels": ("alpha 0", "alpha 0.5", "alpha 1"),
    "dealt": {"alpha": [0.0, 0.5, 1.0]},
}
_SOURCE = _columns(1)
_GOAL = _unreal({}, 1, "goal")
_BREAKOUT = _unreal(_FLAT, 2, "breakout")
_PIXELS = {"torso": "impala_shallow", "filters": [16, 32], "features": 128}
_MEMORY = {"core": "lstm", "core_size": 64}
_MAZE = _unreal(
    _PIXELS | _MEMORY, 4, "maze", _IN_MAZE, entropy_cost=3e-3, discount=0.98
)
EXPERIMENTS: dict[str, dict[str, Arm]] = {
    "kickstarting": {
        "student": _student(
            labels=("alone", "cost 0.3", "cost 1", "cost 3"),
            dealt={"teacher_cost": [0.0, 0.3, 1.0, 3.0]},
        ),
        "falling": _student(labels=("cost 1 to 0",), schedules=_FALLING),
    },
    "combiners": {
        "mean": _combined("mean", scaled=False),
        "mean, popart": _combined("mean", scaled=True),
        "pcgrad": _combined("pcgrad", scaled=False),
        "pcgrad, popart": _combined("pcgrad", scaled=True),
        "cagrad": _combined("cagrad", scaled=False),
        "cagrad, popart": _combined("cagrad", scaled=True),
        "mgda": _combined("mgda", scaled=False),
        "equal_norm": _combined("equal_norm", scaled=False),
    },
    "sharing": {
        "hard": _impala(),
        "task input": _impala({"task_embedding": True}),
        "task heads": _impala({"task_heads": True}),
        "cross-stitch": _impala({"sharing": "cross_stitch"}),
        "experts": _impala({"sharing": "experts", "task_embedding": True}),
        "modules": _impala({"sharing": "modules"}),
        "soft": dataclasses.replace(
            _impala({"sharing": "soft"}),
            labels=("cost 0", "cost 1e-3", "cost 1e-1"),
            dealt={"distance_cost": [0.0, 1e-3, 1e-1]},
        ),
    },
    # Some are not given the task as an input: they are routed by it, or are its own.
    "games": {
        "task input": _game(),
        "task heads": _game(task_heads=True),
        "modules": _game(sharing="modules", task_embedding=False),
        "soft": _game(sharing="soft", task_embedding=False),
        "cross-stitch": _game(sharing="cross_stitch", task_embedding=False),
        "experts": _game(sharing="experts"),
    },
    # Every network has the task as an input but modules, which are routed by it.
    # Minibatches of networks of their own are of each task: 8 do not divide 4 * 125.
    "metaworld": {
        "task input": _robot("popart"),
        "task heads": _robot("popart", task_heads=True),
        "experts": _robot("popart", sharing="experts"),
        "modules": _robot("popart", sharing="modules", task_embedding=False),
        "soft": _robot("popart", unroll_length=128, sharing="soft"),
        "task input, none": _robot("none"),
        "task heads, none": _robot("none", task_heads=True),
        "experts, none": _robot("none", sharing="experts"),
    },
    "distral": {
        "two": _distral("two", **_ALPHAS),
        "one": _distral("one", **_ALPHAS),
        "added": _distral("added"),
        "shared": _distral("shared"),
    },
    "mazes": {"two": _mazes()},
    "unreal": {
        "goal": _GOAL,
        "goal, features": _of_features(_GOAL),
        "breakout": _BREAKOUT,
        "breakout, features": _of_features(_BREAKOUT),
        "maze": _MAZE,
    },
    "progressive": {
        "1 scratch": _columns(1),
        "2 heads alone": _columns(1, _SOURCE, "heads"),
        "3 all": _columns(1, _SOURCE),
        "4 random column": _columns(2),
        "two columns": _columns(2, _SOURCE),
    },
    "vtrace_lag": {"on-policy": _lagged(0), "half replayed": _lagged(62)},
}
# What the last stage, and the one before, is on.
WHERE = {
    "kickstarting": ("breakout", "breakout"),
    "combiners": ("scales", ""),
    "sharing": ("rooms", ""),
    "games": ("scales", ""),
    "metaworld": ("mt10", ""),
    "distral": ("rooms", ""),
    "mazes": ("mazes", ""),
    "unreal": ("goal", ""),
    "progressive": ("variants", "breakout"),
    "vtrace_lag": ("catch", ""),
}
# Env steps of a member, of each stage, all tasks together.
STEPS = {
    "kickstarting": 1_000_000,
    "combiners": 400_000,
    "sharing": 800_000,
    "games": 600_000,
    "metaworld": 1_000_000,
    "distral": 800_000,
    "mazes": 2_000_000,
    "unreal": 200_000,
    "progressive": 1_000_000,
    "vtrace_lag": 200_000,
}


def settings(experiment: str, arm: str, env_steps: int, seeds: int) -> dict[str, Any]:
    """Returns the settings of an arm's run, of one stage or two.

    Members are dealt labels and those of the stage before in turn. Raises ValueError
    where a label would always have the same of these.
    """
    chosen = EXPERIMENTS[experiment][arm]
    labels = len(chosen.labels)
    if chosen.before is not None and math.gcd(labels, seeds) > 1:
        raise ValueError(
            f"--seeds: of {seeds} each of {labels} labels begins with some alone; give a "
            "number that has no divisor in common"
        )
    target, source = WHERE[experiment]
    last = _stage(chosen, chosen.tasks or target, env_steps, seeds)
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
    hp = {**_COMMON, "lambda_": 0.95, **arm.hparams}
    hp = {name: x for name, x in hp.items() if name not in arm.schedules}
    axis = tasks_of.AXES.get(tasks, "slot")
    parts = len(tasks_of.TASKS[tasks]) if axis == "population" else 1
    return {
        "tasks": tasks_of.TASKS[tasks],
        "agent": {
            "name": arm.agent,
            "config": {"optimiser": "adam", **arm.config},
            "hparams": hp,
            "schedules": arm.schedules,
        },
        "population": {
            "size": seeds * len(arm.labels) * parts,
            "axis": axis,
            "search": search,
        },
        "training": {
            "env_steps": env_steps,
            "unroll_length": arm.unroll_length,
            "updates_per_chunk": 500 // arm.unroll_length,
        },
        "evaluation": {
            "every_updates": 0,
            "episodes": arm.episodes,
            "hparams": arm.tested,
        },
        "checkpoint": {"every_updates": 500, "keep": 1},
        "logging": {"tensorboard": False, "plots": False},
    }
