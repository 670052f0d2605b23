"""The arms of benchmarks/mix_and_match.py: what is trained in each, as plain settings."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from mtrl_jax.envs.labyrinth import levels
from mtrl_jax.training import notices

# A curriculum's alpha where nothing else is said: control passes in the first 40 %.
LINEAR = {"kind": "linear", "low": 0.0, "high": 1.0, "begin": 0.05, "end": 0.4}
STEP = {"kind": "step", "low": 0.0, "high": 1.0, "begin": 0.4}
COSINE = {**LINEAR, "kind": "cosine"}
PLATEAU = {"kind": "plateau", "low": 0.0, "high": 1.0, "step": 0.1, "patience": 3}

# A task that needs no memory. The entropy cost is feed-forward's best of four: at 0.01 all
# arms lose their entropy, and which seeds then stay at a return of 6.5 is luck.
_CONTROL = {
    "env": "gymnax/Breakout-MinAtar",
    "hparams": {"learning_rate": 3e-3, "entropy_cost": 0.1},
}
# Arm -> what it changes: of the agent's config, its hparams, alpha's schedule, or the
# population. None of the arms without "components" differs in its networks.
_CURRICULA: dict[str, dict[str, Any]] = {
    "linear": {"alpha": LINEAR},
    "pbt": {"pbt": True},
    "cosine": {"alpha": COSINE},
    "plateau": {"alpha": PLATEAU},
    "shared_head": {"alpha": LINEAR, "share": ["policy"], "matching_cost": 0.0},
    "masked_kl": {"alpha": LINEAR, "config": {"matching": "within_support"}},
    # One value head: another would meet its first target at the switch.
    "distil_then_switch": {"alpha": STEP, "share": ["value"]},
    "no_kl": {"alpha": LINEAR, "matching_cost": 0.0},
    "no_mixing": {"alpha": LINEAR, "config": {"control": "slot"}},
    "kl_stays": {"alpha": LINEAR, "config": {"fades": False}},
    "own_values": {"alpha": LINEAR, "config": {"own_values": True}},
    "alpha_half": {"fixed": 0.5},
    "sampled_step": {"alpha": LINEAR, "config": {"control": "step"}},
    "sampled_episode": {"alpha": LINEAR, "config": {"control": "episode"}},
}


def _plain(**config: Any) -> dict[str, Any]:
    """Returns one network for all tasks, with what else is done about unequal rewards."""
    return {"components": [{}], "config": {"experts": False, **config}}


_LADDER = [{"core": "linear"}, {"core": "lstm"}]
EXPERIMENTS: dict[str, dict[str, dict[str, Any]]] = {
    "actions": {
        "small": {"components": [{"actions": "small"}]},
        "big": {"components": [{"actions": "all"}]},
        # As large a population, copying weights alike: what selection brings by itself.
        "small_selected": {"components": [{"actions": "small"}], "pbt": True},
        "big_selected": {"components": [{"actions": "all"}], "pbt": True},
        **_CURRICULA,
    },
    "architecture": {
        "feed_forward": {"components": [{"core": "linear"}]},
        "lstm": {"components": [{"core": "lstm"}]},
        "linear": {"alpha": LINEAR},
        "pbt": {"pbt": True},
        "feed_forward_selected": {"components": [{"core": "linear"}], "pbt": True},
        "lstm_selected": {"components": [{"core": "lstm"}], "pbt": True},
        "no_kl": {"alpha": LINEAR, "matching_cost": 0.0},
        # Both have the same nine actions: elsewhere it is infinite.
        "reversed_kl": {"alpha": LINEAR, "config": {"matching": "reversed"}},
        "own_values": {"alpha": LINEAR, "config": {"own_values": True}},
        "control_feed_forward": {"components": [{"core": "linear"}], **_CONTROL},
        "control_lstm": {"components": [{"core": "lstm"}], **_CONTROL},
        "control_linear": {"alpha": LINEAR, **_CONTROL},
    },
    "multitask": {
        "plain": _plain(),
        "plain_normalised": _plain(normalise_advantages=True),
        "plain_popart": {
            **_plain(value_scale="popart"),
            "hparams": {"value_step_size": 0.01},
        },
        "linear": {"alpha": LINEAR},
        # Judged by the wanted policy alone, and by every task alike.
        "pbt": {"pbt": True, "judged_alone": True},
        "no_kl": {"alpha": LINEAR, "matching_cost": 0.0},
    },
}
STEPS = {"actions": 1_500_000, "architecture": 2_000_000, "multitask": 3_000_000}
_PBT_MEMBERS = 6


def settings(
    experiment: str, arm: str, env_steps: int, seeds: int, pixels: bool = False
) -> dict[str, Any]:
    """Returns the settings of one arm, as ``config.from_dict`` takes them.

    ``pixels`` is for accelerators: pictures of 72 x 96, a convolutional torso, eight
    times the slots.
    """
    change = EXPERIMENTS[experiment][arm]
    given = copy.deepcopy(_BASES[experiment])
    if pixels:
        _look_at_pixels(given)
    if "env" in change:
        given["tasks"] = [{"env": change["env"], "slots": 32}]
    agent = given["agent"]
    agent["config"].update(copy.deepcopy(change.get("config", {})))
    agent["config"]["share"] = agent["config"]["share"] + change.get("share", [])
    if "components" in change:
        agent["config"]["components"] = change["components"]
    slots = sum(task["slots"] for task in given["tasks"])
    updates, several = env_steps // (slots * _UNROLL), "components" not in change
    mixed = {
        "alpha": change.get("fixed", 0.0),
        "matching_cost": change.get("matching_cost", 1.0),
    }
    agent["hparams"] |= {
        "decay_updates": float(updates),
        **(mixed if several else {}),
        **change.get("hparams", {}),
    }
    given["population"] = {"size": seeds}
    given["training"]["env_steps"] = env_steps
    given["evaluation"] = {
        "every_updates": 0,
        "episodes": 64,
        "hparams": {"alpha": 1.0} if several else {},
    }
    if "alpha" in change:
        agent["schedules"] = {"alpha": change["alpha"]}
    if change.get("pbt"):
        given["population"] = _population(updates, given["tasks"])
        if not several:  # weights are copied, and nothing is searched
            given["population"]["search"] = {}
    if change.get("judged_alone"):
        given["population"]["fitness"] = {
            "metric": "normalised",
            "source": "evaluation",
        }
        every = given["population"]["pbt"]["interval"]
        given["evaluation"] |= {"every_updates": every, "episodes": 16}
    return given


def _look_at_pixels(given: dict[str, Any]) -> None:
    for task in given["tasks"]:
        task["options"]["observation"] = "pixels"
        task["slots"] *= 8
    network = given["agent"]["config"]["network"]
    network |= {"torso": "impala_shallow"}
    if "core_size" in network:
        network["core_size"] = 256


def pictures(experiment: str, chosen: Iterable[str]) -> dict[str, list[str]]:
    """Returns {suffix: arms} of the pictures that ``chosen`` arms are drawn in.

    The curriculum and its parts; what is left of it without one of its ideas, beside it;
    the control on another environment.
    """
    made: dict[str, list[str]] = {"": [], "_ablations": [], "_control": []}
    for arm in chosen:
        change = EXPERIMENTS[experiment][arm]
        if "env" in change:
            made["_control"].append(arm)
        elif arm in ("linear", "pbt") or "components" in change:
            made[""].append(arm)
        else:
            made["_ablations"].append(arm)
    if made["_ablations"] and "linear" in made[""]:
        made["_ablations"].insert(0, "linear")
    return {suffix: found for suffix, found in made.items() if found}


def has_curriculum(arm: str) -> bool:
    """Returns whether there is anything to mix in an arm."""
    return all(
        "components" not in arms[arm] for arms in EXPERIMENTS.values() if arm in arms
    )


def _population(updates: int, tasks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Returns a population in which PBT moves alpha, about 60 rounds long.

    Fewer where rounds would be less than two episodes of the longest task apart.
    """
    names = [task["env"].removeprefix("labyrinth/") for task in tasks]
    longest = max(levels.LEVELS[name].params.length for name in names)
    enough = notices.two_episodes(int(longest), _UNROLL, _CHUNK)
    return {
        "size": _PBT_MEMBERS,
        "search": {
            "alpha": {
                "low": 0.0,
                "high": 1.0,
                "rule": "add",
                "step": 0.05,
                "initial": "default",
                "resample_probability": 0.0,
            }
        },
        "pbt": {
            "exploit": "truncation",
            "interval": max(enough, updates // 60 // _CHUNK * _CHUNK),
            "explore_all": True,
            # Alpha is all that is searched: each round moves it by a step.
            "perturb_probability": 1.0,
        },
        "fitness": {"metric": "return", "window": 32},
    }


_UNROLL, _CHUNK = 32, 20
_CHECKPOINT = {"every_updates": 200, "keep": 2}
_CONFIG = {
    "optimiser": "adam",
    "epochs": 2,
    "minibatches": 4,
    "normalise_advantages": True,
}
_HPARAMS = {
    "learning_rate": 1e-3,
    "max_grad_norm": 0.5,
    "adam_eps": 1e-5,
    "discount": 0.98,
    "lambda_": 0.95,
    "clip_epsilon": 0.2,
}


def _base(
    tasks: list[dict[str, Any]], *, entropy_cost: float, **config: Any
) -> dict[str, Any]:
    network = {
        "hidden": [128],
        "activation": "relu",
        **config.pop("network", {}),
    }
    return {
        "seed": 0,
        "tasks": tasks,
        "agent": {
            "name": "mix_and_match",
            "config": {**_CONFIG, "network": network, **config},
            "hparams": {**_HPARAMS, "entropy_cost": entropy_cost},
        },
        "training": {"unroll_length": _UNROLL, "updates_per_chunk": _CHUNK},
        "checkpoint": _CHECKPOINT,
        "logging": {"tensorboard": False},
    }


def _labyrinth(level: str, slots: int, **options: Any) -> dict[str, Any]:
    return {"env": f"labyrinth/{level}", "slots": slots, "options": options}


_BASES = {
    "actions": _base(
        [_labyrinth("lasertag_three_opponents_small", 32, actions="native")],
        entropy_cost=5e-3,
        components=[{"actions": "small"}, {"actions": "all"}],
        share=["torso", "core"],
    ),
    "architecture": _base(
        [_labyrinth("explore_object_locations_small", 32, actions="small")],
        # With less, seeds settle on next to no action after a tenth of the run.
        entropy_cost=2e-2,
        network={"core_size": 64},
        components=_LADDER,
        share=["torso", "policy", "value"],
    ),
    "multitask": _base(
        [
            # Rewards of unequal size, on purpose: learners see this level's times ten.
            _labyrinth(
                "explore_object_locations_small",
                16,
                actions="small",
                wrappers={"reward_scale": 10.0},
            ),
            _labyrinth("seekavoid_arena_01", 16, actions="small"),
            _labyrinth("lasertag_three_opponents_small", 16, actions="small"),
        ],
        entropy_cost=2e-2,
        components=[{}, {}],
        share=["torso"],
        experts=True,
        normalise_advantages=False,
        network={"core": "lstm", "core_size": 64},
    ),
}
