"""The arms of benchmarks/algorithm_distillation.py: stages of a run, as plain settings.

ad              the config as it is
ed              expert distillation: the last tenth of the histories alone
ed_steady       of demonstrators who are as good at the end as they were at first
context_N       N steps of context, and not a step more: members of one population
subsample_4     every fourth episode instead of every eighth
goals_N         as many histories, of N goals instead of 65
sharp, greedy   ad, acting at temperature 0.5, or with its most probable action
prompt_ad, prompt_ed, prompt_60_ad, prompt_60_ed
                ad and ed after watching episodes worth some 30 % (60 %) of the optimum
epsilon         ad on the histories of demonstrators less and less noisy (AD^eps)
dpt             learns what had been best at every step of random actions, or pulls (DPT)
rl2             recurrent PPO, trained online on trials of several episodes
ucb1, thompson  what made the bandits' histories, and its usual rival
"""

from __future__ import annotations

import copy
import dataclasses
import pathlib
from typing import Any, NamedTuple

from mtrl_jax.config import loading

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
Stage = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Arm:
    """What an arm changes of the config's stages, values by dotted names."""

    training: Stage = dataclasses.field(default_factory=dict)  # of the offline stage
    acting: Stage = dataclasses.field(default_factory=dict)  # of the evaluate stage
    weights: str = ""  # of which arm it acts with, if not its own
    source: Stage = dataclasses.field(default_factory=dict)  # of the collect stage
    learner: Stage | None = None  # instead of all three: an agent without histories
    config: str = ""  # instead of all four: the stages of another config
    # Of which arms' population it is a member, and which one; it is trained and tested
    # with all the others.
    group: str = ""
    member: int = 0


class Experiment(NamedTuple):
    """A config, its arms, and what is asked of them."""

    arms: dict[str, Arm]
    usual: tuple[str, ...]  # what runs where --arms says nothing
    reached: float | None  # the return that episodes are counted to
    quick: dict[str, dict[str, Any]]  # of which stage, what


def _contexts(*steps: int) -> dict[str, Arm]:
    """Returns arms of one population, in which each member sees so many steps."""
    dealt = {"low": min(steps), "high": max(steps), "initial": list(steps)}
    training = {
        # A cache would see further, through the layers.
        "agent.config.transformer.acting": "recompute",
        "population": {"size": len(steps), "search": {"horizon": dealt}},
    }
    # To read the whole context anew at every step is slow: fewer slots.
    acting = {"tasks.0.slots": 2}
    return {
        f"context_{n}": Arm(training, acting, group="contexts", member=i)
        for i, n in enumerate(steps)
    }


def _prompted(weights: str, epsilon: float) -> Arm:
    return Arm(
        acting={"prompt": {"episodes": 2, "epsilon": epsilon}},
        weights=weights,
    )


_CONTEXTS = _contexts(5, 10, 20, 50, 100)
_EXPERT = Arm({"keep.last_fraction": 0.1, "keep.subsample": 1})
_RANDOM = {
    "name": "demonstrator",
    "hparams": {"epsilon_start": 1.0, "epsilon_end": 1.0},
}
# A fifth of its actions is random, so that other states than the best way's are seen.
_STEADY = {
    "agent": {
        "name": "demonstrator",
        "hparams": {"epsilon_start": 0.2, "epsilon_end": 0.2},
    }
}
# Noise with which a demonstrator earns some 30 and 60 % of what is there to earn.
_THIRTY, _SIXTY = 0.58, 0.35

EXPERIMENTS: dict[str, Experiment] = {
    "dark_room": Experiment(
        {
            "ad": Arm(),
            "ed": _EXPERT,
            **_CONTEXTS,
            "subsample_4": Arm({"keep.subsample": 4}),
            **{
                f"goals_{n}": Arm(source={"tasks.0.options.number": n})
                for n in (16, 32)
            },
            "sharp": Arm(acting={"evaluation.hparams.temperature": 0.5}, weights="ad"),
            "greedy": Arm(acting={"evaluation.hparams.temperature": 0.0}, weights="ad"),
            "epsilon": Arm(config="algorithm_distillation_epsilon"),
            "dpt": Arm(config="decision_pretrained"),
            "rl2": Arm(config="rl2_dark_room"),
            "prompt_ad": _prompted("ad", _THIRTY),
            "prompt_ed": _prompted("ed", _THIRTY),
            "prompt_60_ad": _prompted("ad", _SIXTY),
            "prompt_60_ed": _prompted("ed", _SIXTY),
        },
        (
            *("ad", "ed", *_CONTEXTS, "sharp", "greedy", "epsilon", "dpt", "rl2"),
            *("prompt_ad", "prompt_ed", "prompt_60_ad", "prompt_60_ed"),
        ),
        12.0,
        {
            "source": {"population.size": 130, "training.env_steps": 420},
            "offline": {"training.updates": 20, "training.batch": 8},
            "evaluate": {"evaluation.episodes": 6, "evaluation.episodes_per_chunk": 2},
        },
    ),
    "key_to_door": Experiment(
        {
            "ad": Arm(),
            "ed": _EXPERT,
            # A quarter of the config's updates: imitation is all there is to learn.
            "ed_steady": Arm(
                {"training.updates": 1_500, "agent.hparams.decay_updates": 1_500},
                source=_STEADY,
            ),
        },
        ("ad", "ed", "ed_steady"),
        1.5,
        {
            "source": {"population.size": 128, "training.env_steps": 600},
            "offline": {"training.updates": 20, "training.batch": 4},
            "evaluate": {"evaluation.episodes": 4, "evaluation.episodes_per_chunk": 2},
        },
    ),
    "bandit": Experiment(
        {
            "ad": Arm(),
            # Ten pulls are left of each history: windows of as many, and as many pulls.
            "ed": Arm(
                {
                    "keep.last_fraction": 0.1,
                    "training.unroll_length": 10,
                    "training.batch": 640,
                }
            ),
            "ed_steady": Arm(source=_STEADY),
            "dpt": Arm(
                {
                    "agent.config.target": "optimal",
                    "agent.config.transformer.encoding": "set",
                    "agent.config.transformer.positions": "none",
                },
                source={"agent": _RANDOM, "labels": True},
            ),
            "ucb1": Arm(),
            "thompson": Arm(
                learner={"name": "bandit", "config": {"algorithm": "thompson"}}
            ),
        },
        ("ad", "ed", "ed_steady", "dpt", "ucb1", "thompson"),
        None,
        {
            "source": {"population.size": 128},
            "offline": {"training.updates": 20, "training.batch": 8},
            "evaluate": {},
        },
    ),
}


def settings(experiment: str, arms: list[str], quick: bool = False) -> dict[str, Any]:
    """Returns the settings of one run with the stages of all ``arms``."""
    base = _base(experiment, quick)
    made: dict[str, Stage] = {}
    for arm in arms:
        for stage in _of_arm(experiment, arm, base):
            made.setdefault(stage["name"], stage)
    return {"seed": base["seed"], "stages": list(made.values())}


def stages_of(experiment: str, arm: str) -> tuple[str, str]:
    """Returns the names of the stages that trained and tested an arm."""
    known = EXPERIMENTS[experiment].arms[arm]
    if arm == "ad":
        return "distilled", "in_context"
    if arm == "ucb1":
        return "source", arm
    if known.weights:
        return stages_of(experiment, known.weights)[0], arm
    name = known.group or arm
    return f"train_{name}", name


def _of_arm(experiment: str, arm: str, base: dict[str, Any]) -> list[Stage]:
    known = EXPERIMENTS[experiment].arms[arm]
    if known.config:
        return _of_config(known.config, arm, stages_of(experiment, arm))
    stages = {stage["name"]: stage for stage in base["stages"]}
    trained, own = stages_of(experiment, arm)
    if arm in stages:
        return [stages["source"], stages[arm]]
    tested = {**stages["in_context"], "name": own, "of": trained}
    beside = [stages[x] for x in tested.get("compare", []) if x != "source"]
    if known.learner:
        return [_untrained(trained, known.learner, stages), tested | {"compare": []}]
    tested = changed(tested, known.acting)
    if known.weights:
        return [*_of_arm(experiment, known.weights, base), tested]
    source = stages["source"]
    if known.source:
        source = changed({**source, "name": f"source_{arm}"}, known.source)
        own_source = [source["name"]] * ("source" in tested.get("compare", []))
        tested, beside = tested | {"compare": own_source}, []
    training = {**stages["distilled"], "name": trained, "data": source["name"]}
    return [source, *beside, changed(training, known.training), tested]


def _of_config(config: str, arm: str, names: tuple[str, str]) -> list[Stage]:
    """Returns a config's stages under other names, the last two under ``names``."""
    stages = loading.read_yaml(CONFIGS / f"{config}.yaml")["stages"]
    own = {stage["name"]: f"{stage['name']}_{arm}" for stage in stages[:-2]}
    own |= {stage["name"]: name for stage, name in zip(stages[-2:], names)}

    def renamed(value: Any) -> Any:
        if isinstance(value, list):
            return [own.get(x, x) for x in value]
        return own.get(value, value)

    named = ("name", "data", "of", "compare")
    return [
        {k: renamed(x) if k in named else x for k, x in stage.items()}
        for stage in stages
    ]


def _untrained(name: str, agent: dict[str, Any], stages: dict[str, Stage]) -> Stage:
    """Returns a stage that makes a learner whose weights are nothing but a counter."""
    return {
        "name": name,
        "kind": "online",
        "tasks": [{**task, "slots": 1} for task in stages["source"]["tasks"]],
        "agent": agent,
        "training": {"env_steps": 100, "unroll_length": 20, "updates_per_chunk": 5},
        "evaluation": {"every_updates": 0, "episodes": 1},
    }


def changed(stage: Stage, changes: dict[str, Any]) -> Stage:
    """Returns a copy of a stage with values at dotted names; a number is of a list."""
    made = copy.deepcopy(stage)
    for name, value in changes.items():
        *path, last = name.split(".")
        at: Any = made
        for part in path:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        at[last] = copy.deepcopy(value)
    return made


def _base(experiment: str, quick: bool) -> dict[str, Any]:
    path = CONFIGS / f"algorithm_distillation_{experiment}.yaml"
    base = loading.read_yaml(path)
    if quick:
        less = EXPERIMENTS[experiment].quick
        # A stage is meant by its name or by its kind.
        base["stages"] = [
            changed(x, less.get(x["name"], less.get(x["kind"], {})))
            for x in base["stages"]
        ]
        for stage in base["stages"]:
            if stage["kind"] == "offline":
                stage["training"]["updates_per_chunk"] = 10
    return base
