"""The stages of benchmarks/sequence_policies.py, as plain settings, and what to read.

Of each experiment one population is trained on the same histories: members that read
returns, and say them, and members that do not, of each kind one a seed. Given a target
the first are Decision Transformers (DT), inferring an expert's return Multi-Game DTs (MGDT);
the others clone (BC). Gato is trained on demonstrators of constant noise, whose returns do
not change; shown the same demonstrations, Algorithm Distillation (AD) is trained on learners.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

from mtrl_jax.config import loading

Stage = dict[str, Any]
CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
GOALS = ([4, 7], [0, 0], [3, 3])
TARGETS = (0.0, 4.0, 8.0, 12.0, 16.0, 20.0)
NOISE = (0.0, 0.2, 0.4, 0.6, 0.8)
# The first of cells drawn by numpy's default_rng(0): random play gets to 1 to 4 % of them.
DOORS = (([7, 5], [4, 2]), ([2, 0], [0, 0]), ([1, 7], [5, 8]))
BEST = {"top_bc": 0.1, "top_bc_25": 0.25, "top_bc_50": 0.5}  # shares of the episodes
SEEDS = 3  # of the transformers; all of an experiment read the same histories
_NETWORK = {"layers": 2, "width": 64, "heads": 4, "feedforward": 128}
QUIET = {"tensorboard": False}
_KNOWN = {"env": "dark/room", "options": {"tasks": "train", "number": 64}, "slots": 1}


class Arm(NamedTuple):
    """One curve: the seeds of an evaluate stage's members, and what they were asked for."""

    name: str
    stage: str
    members: tuple[int, ...]
    goal: str = ""  # of the experiments with several runs
    asked: float | None = None


class Experiment(NamedTuple):
    """Stages of a run, and the arms to read from them."""

    stages: list[Stage]
    arms: list[Arm]


def return_control() -> Experiment:
    """Returns a run of one goal after the other, each asked for several returns."""
    stages, arms = [], []
    source, model, *_ = config_stages("decision_transformer_dark_room")
    for goal in GOALS:
        tag = f"{goal[0]}_{goal[1]}"
        tasks = [{"env": "dark/room", "options": {"goal": goal}}]
        best = 21.0 - max(1, abs(goal[0] - 4) + abs(goal[1] - 4))
        own = {**model, "name": f"model_{tag}", "data": f"source_{tag}"}
        stages += [
            source | {"name": f"source_{tag}", "tasks": tasks},
            with_returns(own),
        ]
        for asked in dict.fromkeys((*TARGETS, best)):
            name = f"dt_{tag}_{asked:g}"
            stages.append(evaluated(name, own, tasks, 20, 16, {"target": asked}))
            arms.append(Arm("dt", name, of_kind(0, 2), tag, asked))
        arms.append(Arm("bc", name, of_kind(1, 2), tag))
        for kappa in (0.0, 5.0, 10.0):
            name, hp = f"mgdt_{tag}_{kappa:g}", {"inferred": 1.0, "kappa": kappa}
            stages.append(evaluated(name, own, tasks, 20, 16, hp))
            arms.append(Arm(f"mgdt_{kappa:g}", name, of_kind(0, 2), tag))
        clones = cloning({**model, "name": f"clones_{tag}", "data": f"source_{tag}"})
        stages += [clones, evaluated(f"cloned_{tag}", clones, tasks, 20, 16, {})]
        for kind, name in enumerate(BEST):
            arms.append(Arm(name, f"cloned_{tag}", of_kind(kind, len(BEST)), tag))
        arms.append(Arm("data", f"source_{tag}", (), tag))
    return Experiment(stages, arms)


def unseen() -> Experiment:
    """Returns what is played on goals that none was trained on, for 100 episodes.

    All read the same histories; AD trains for twice as many updates, of longer windows.
    """
    source, distilled = _distilled()
    model = config_stages("decision_transformer_dark_room")[1]
    own = with_returns({**model, "name": "model", "data": source["name"]})
    tasks = [{"env": "dark/room", "options": {"tasks": "test"}}]
    tested = [
        evaluated("dt", own, tasks, 100, 4, {"target": 16.0}),
        evaluated("mgdt", own, tasks, 100, 4, {"inferred": 1.0, "kappa": 10.0}),
        evaluated("in_context", distilled, tasks, 100, 4, {}),
    ]
    asked, uninformed = of_kind(0, 2), of_kind(1, 2)
    arms = [
        Arm("dt", "dt", asked),
        Arm("mgdt", "mgdt", asked),
        Arm("bc", "dt", uninformed),
    ]
    arms.append(Arm("ad", "in_context", of_kind(0, 1)))
    return Experiment([source, own, distilled, *tested], arms)


def prompt() -> Experiment:
    """Returns what is played after demonstrations of several levels, on unseen goals.

    By Gato, and by Algorithm Distillation after the same demonstrations. And, to tell
    what Gato has learned from what it carries over, on the goals of its training.
    """
    seeds = of_kind(0, 1)
    stages = _gato(NOISE, 50)
    arms = [Arm("gato", _shown(noise), seeds, asked=noise) for noise in NOISE]
    for noise in NOISE:
        (shown,) = (x for x in stages if x["name"] == _shown(noise))
        own = {"name": f"{_shown(noise)}_known", "tasks": [_KNOWN]}
        evaluation = {"episodes": 12, "episodes_per_chunk": 6}
        stages.append(shown | own | {"evaluation": evaluation})
        arms.append(Arm("gato", str(own["name"]), seeds, "known", noise))
    learners, distilled = _distilled()
    stages += [learners, distilled]
    for noise in NOISE:
        (shown,) = (x for x in stages if x["name"] == _shown(noise))
        stages.append(shown | {"name": _shown(noise, "ad"), "of": "ad"})
        arms.append(Arm("ad", _shown(noise, "ad"), seeds, asked=noise))
    return Experiment(stages, arms)


def credit() -> Experiment:
    """Returns what is learned of one key and door from 10,000 random episodes each."""
    stages, arms = [], []
    for key, door in DOORS:
        tag = "".join(map(str, (*key, *door)))
        options = {"key": key, "door": door, "has_key": True}
        tasks = [{"env": "dark/key_to_door", "options": options}]
        source = {
            "name": f"source_{tag}",
            "kind": "collect",
            "tasks": tasks,
            "agent": {
                "name": "demonstrator",
                "hparams": {"epsilon_start": 1.0, "epsilon_end": 1.0},
            },
            "population": {"size": 100},
            "training": {
                "env_steps": 5100,
                "unroll_length": 51,
                "updates_per_chunk": 10,
            },
            "evaluation": {"every_updates": 0, "episodes": 1},
            "checkpoint": {"every_updates": 100, "keep": 1},
            "logging": QUIET,
        }
        own = {
            **config_stages("decision_transformer_dark_room")[1],
            "name": f"model_{tag}",
            "data": source["name"],
        }
        own["agent"] = own["agent"] | {
            "config": {
                "transformer": _NETWORK | {"context": 50},
                "outlook": {"bins": 3, "low": 0.0, "high": 2.0, "steps": 50},
            }
        }
        own["agent"]["hparams"] = own["agent"]["hparams"] | {"decay_updates": 1_500}
        own["training"] = own["training"] | {"unroll_length": 50, "updates": 1_500}
        # The third clones the best 2 % of the episodes, of which most are successes.
        own = with_returns(own, {"rank_from": [0.0, 0.0, 0.98]}, kinds=3)
        name = f"dt_{tag}"
        # One slot: of several only the mean return is known, and not who got the door.
        stages += [source, own, evaluated(name, own, tasks, 400, 1, {"target": 2.0})]
        kinds = ("dt", "bc", "top_bc")
        arms += [Arm(x, name, of_kind(i, 3), tag) for i, x in enumerate(kinds)]
    return Experiment(stages, arms)


def of_kind(kind: int, kinds: int) -> tuple[int, ...]:
    """Returns the members of a population that are of one of its kinds, one a seed."""
    return tuple(range(kind, kinds * SEEDS, kinds))


def dealt(kinds: int, values: dict[str, list[float]]) -> Stage:
    """Returns the population of so many kinds, whose hyperparameters are ``values``."""
    search = {
        name: {"low": min(own), "high": max(own), "initial": own}
        for name, own in values.items()
    }
    return {"size": kinds * SEEDS, "search": search}


def settings(experiment: Experiment, quick: bool) -> dict[str, Any]:
    """Returns the settings of a run; ``quick`` has a few updates of everything."""
    stages = [_quick(x) for x in experiment.stages] if quick else experiment.stages
    return {"seed": 0, "stages": stages}


def only(
    experiment: Experiment,
    names: Iterable[str] | None = None,
    goals: Iterable[str] | None = None,
) -> Experiment:
    """Returns the arms of these names and goals, None: all, and the stages they need."""
    arms = [
        arm
        for arm in experiment.arms
        if (names is None or arm.name in set(names))
        and (goals is None or arm.goal in set(goals))
    ]
    by_name = {stage["name"]: stage for stage in experiment.stages}
    needed, wanted = set(), [arm.stage for arm in arms]
    while wanted:
        stage = by_name[wanted.pop()]
        needed.add(stage["name"])
        wanted += [stage[key] for key in ("of", "data") if key in stage]
    stages = [stage for stage in experiment.stages if stage["name"] in needed]
    return Experiment(stages, arms)


def with_returns(model: Stage, more: Stage | None = None, kinds: int = 2) -> Stage:
    """Returns an offline stage whose first kind reads and predicts returns.

    The others clone: without returns, and without what those cost.
    """
    agent = dict(model["agent"])
    agent["config"] = agent["config"] | {"infers": True}
    first = [1.0, *[0.0] * (kinds - 1)]
    given = {"return_gate": first, "return_cost": first}
    if agent["config"].get("outlook", {}).get("rewards"):
        given["reward_cost"] = first
    population = dealt(kinds, given | (more or {}))
    return model | {"agent": agent, "population": population, "logging": QUIET}


def cloning(model: Stage) -> Stage:
    """Returns an offline stage of members that clone the best of the episodes alone."""
    agent = model["agent"]
    hparams = agent["hparams"] | {"return_gate": 0.0, "return_cost": 0.0}
    population = dealt(
        len(BEST), {"rank_from": [1.0 - share for share in BEST.values()]}
    )
    return model | {
        "agent": agent | {"hparams": hparams},
        "population": population,
        "logging": QUIET,
    }


def _distilled() -> list[Stage]:
    """Returns learners on other goals, and AD of them with half the config's data."""
    learners, model, *_ = config_stages("algorithm_distillation_dark_room")
    own = {"name": "learners", "population": {"size": 650}, "logging": QUIET}
    read = {"name": "ad", "data": "learners", "population": {"size": SEEDS}}
    less = {"training": model["training"] | {"batch": 32}, "logging": QUIET}
    return [learners | own, model | read | less]


def _gato(noises: Iterable[float], episodes: int) -> list[Stage]:
    source, model, shown, *_ = config_stages("gato_dark_room")
    source = source | {"name": "demonstrators"}
    population = {"population": {"size": SEEDS}, "logging": QUIET}
    model = model | {"name": "gato", "data": "demonstrators"} | population
    made = [source, model]
    for noise in noises:
        evaluation = {"episodes": episodes, "episodes_per_chunk": episodes // 2}
        own = {"episodes": 1, "epsilon": noise}
        name = _shown(noise)
        changes = {"name": name, "of": "gato", "prompt": own, "evaluation": evaluation}
        made.append(shown | changes)
    return made


def _shown(noise: float, to: str = "gato") -> str:
    """Returns the name of the stage that is shown demonstrations so noisy, in percent."""
    return f"{to}_{round(100 * noise)}"


def evaluated(
    name: str, of: Stage, tasks: list[Stage], episodes: int, slots: int, hp: Stage
) -> Stage:
    return {
        "name": name,
        "kind": "evaluate",
        "of": of["name"],
        "tasks": [{**task, "slots": slots} for task in tasks],
        "evaluation": {
            "episodes": episodes,
            "episodes_per_chunk": min(episodes, 20),
            "hparams": hp,
        },
        "checkpoint": {"keep": 1},
        "logging": QUIET,
    }


def shorter(model: Stage) -> Stage:
    """Returns an offline stage of a third of the data, for experiments of many members."""
    agent = model["agent"]
    hparams = agent["hparams"] | {"decay_updates": 800}
    training = model["training"] | {"updates": 800, "batch": 32}
    return model | {"agent": agent | {"hparams": hparams}, "training": training}


def config_stages(name: str) -> list[Stage]:
    return loading.read_yaml(CONFIGS / f"{name}.yaml")["stages"]


def _quick(stage: Stage) -> Stage:
    if stage["kind"] == "collect":
        size = min(stage["population"]["size"], 65)
        stage = stage | {"population": stage["population"] | {"size": size}}
        return stage | {"training": stage["training"] | {"env_steps": 420}}
    if stage["kind"] == "offline":
        return stage | {"training": stage["training"] | {"updates": 50, "batch": 4}}
    shorter = stage["evaluation"] | {"episodes": 4, "episodes_per_chunk": 2}
    tasks = [task | {"slots": 1} for task in stage["tasks"]]
    return stage | {"evaluation": shorter, "tasks": tasks}
