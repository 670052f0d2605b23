"""The settings of the distillation benchmark: students, and what they are compared with.

Everything is made from ``configs/policy_distillation_minatar.yaml``. A joint learner is
one value learner of all games: a student's trunk, a last layer for each game, and as many
env steps as all teachers together. The arms ``own`` and ``more`` go on from one student,
``own`` with states that it came to itself and its teachers labelled, ``more`` with the
teachers' states of before: as many steps of data and as many updates.
"""

from __future__ import annotations

import argparse
import copy
import pathlib
from typing import Any

import value_learning

from mtrl_jax import envs
from mtrl_jax.config import loading

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
CONFIG = CONFIGS / "policy_distillation_minatar.yaml"
# Filters and units of the student's torso, by its share of a teacher's parameters.
SIZES = {"1": (16, 128), "1/4": (8, 64), "1/15": (4, 32), "1/60": (2, 14)}
# (loss, τ) of the members; NLL and MSE do not read τ.
ARMS = (
    ("kl", 0.01),
    ("kl", 0.001),
    ("kl", 0.1),
    ("kl", 1.0),
    ("nll", 0.01),
    ("mse", 0.01),
)
# Their names on the command line.
NAMES = {f"{loss}-{tau:g}" if loss == "kl" else loss: (loss, tau) for loss, tau in ARMS}
JOINT = ("pqn", "dqn")
STATES = ("own", "more")
STATES_TAU = 0.01  # the paper's, of both
# Acting and testing of value learners: that of the teachers in their play.
PLAY = {"epsilon_start": 0.05, "epsilon_end": 0.05}


def stages_of(args: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the stages of the config called ``names``, as long as ``args`` say.

    A teacher that is cut short has the rates and lengths of the whole run.
    """
    given = loading.read_yaml(CONFIG)
    stages = {stage["name"]: stage for stage in given["stages"]}
    stages["teachers"]["training"]["env_steps"] = args.env_steps
    stages["play"]["training"]["env_steps"] = args.play_steps
    stages["students_play"]["tasks"][0]["slots"] = args.slots
    if args.quick:
        stages["teachers"]["evaluation"].update(every_updates=0, episodes=1)
        stages["play"]["evaluation"]["episodes"] = 1
        stages["student"]["training"]["updates_per_chunk"] = 10
    return {**given, "stages": [stages[name] for name in names]}


def student_settings(
    args: argparse.Namespace, size: str, teachers: pathlib.Path
) -> dict[str, Any]:
    """Returns the settings of a size: every chosen arm as often as there are seeds."""
    given = stages_of(args, ("student", "students_play"))
    student = given["stages"][0]
    student["data"] = str((teachers / "stages/play/histories").absolute())
    student["agent"]["config"]["network"] |= torso(size)
    student["agent"]["hparams"] |= {"decay_updates": args.updates}
    arms = chosen(args)
    student["population"] = {"size": len(arms) * args.seeds, "search": search(arms)}
    student["training"] |= {"updates": args.updates, "batch": args.batch}
    return given


def chosen(args: argparse.Namespace) -> list[tuple[str, float]]:
    """Returns the arms that ``args`` name."""
    return [NAMES[name] for name in args.losses]


def search(arms: list[tuple[str, float]]) -> dict[str, Any]:
    """Returns the ranges that deal the arms to the members in turn."""
    costs = {
        f"{loss}_cost": {
            "low": 0.0,
            "high": 1.0,
            "initial": [float(arm == loss) for arm, _ in arms],
        }
        for loss in ("kl", "nll", "mse")
    }
    taus = [tau for _, tau in arms]
    all_taus = [tau for _, tau in ARMS]
    tau = {"low": min(all_taus), "high": max(all_taus), "initial": taus}
    return costs | {"tau": tau}


def torso(size: str) -> dict[str, Any]:
    """Returns the sizes of a network's torso."""
    filters, features = SIZES[size]
    return {"filters": [filters], "features": features}


def joint_settings(args: argparse.Namespace, agent: str, size: str) -> dict[str, Any]:
    """Returns the settings of a joint learner of all games, a member for each seed.

    Per game it has the slots, updates and sizes of minibatches of a learner of that game
    alone: as many gradient steps as those together.
    """
    given = stages_of(args, ("teachers", "students_play"))
    teachers, play = given["stages"]
    games = len(envs.MINATAR)
    if agent == "pqn":
        joint = copy.deepcopy(teachers)
        joint["agent"]["config"]["minibatches"] *= games
    else:
        joint = {**teachers, **_dqn(args.env_steps, games)}
    joint["agent"]["config"]["network"] |= {**torso(size), "per_task": True}
    joint |= {"name": "joint", "population": {"size": args.seeds}}
    joint["training"]["env_steps"] = games * args.env_steps
    episodes = teachers["evaluation"]["episodes"]
    joint["evaluation"] = {"every_updates": 0, "episodes": episodes, "hparams": PLAY}
    play |= {"name": "joint_play", "of": "joint"}
    play["evaluation"] |= {"hparams": PLAY}
    return {**given, "stages": [joint, play]}


def _dqn(env_steps: int, games: int) -> dict[str, Any]:
    """Returns of DQN's config what differs from PQN's; lengths keep their share."""
    given = loading.read_yaml(CONFIGS / "dqn_minatar.yaml")
    share = env_steps / given["training"]["env_steps"]
    agent = given["agent"]
    for name in ("capacity", "gradient_steps"):
        agent["config"][name] *= games
    for name in set(value_learning.LENGTHS) & set(agent["hparams"]):
        agent["hparams"][name] = max(1.0, round(agent["hparams"][name] * share))
    tasks = [{"suite": "minatar", "slots": given["tasks"][0]["slots"]}]
    parts = {name: given[name] for name in ("training", "checkpoint")}
    return {"agent": agent, "tasks": tasks, **parts}


def states_stages(args: argparse.Namespace, size: str) -> list[dict[str, Any]]:
    """Returns the stages that compare a student's own states with its teachers'.

    They follow ``teachers`` and ``play``. The rate falls over both halves of the updates.
    Member p of the collected is student p modulo the seeds at game p: seeds share the
    states they came to.
    """
    play, student, students_play = stages_of(
        args, ("play", "student", "students_play")
    )["stages"]
    student["agent"]["config"]["network"] |= torso(size)
    student["agent"]["hparams"] |= {
        "decay_updates": 2 * args.updates,
        "tau": STATES_TAU,
    }
    student["population"] = {"size": args.seeds}
    student["training"] |= {"updates": args.updates, "batch": args.batch}
    slug = slug_of(size)
    first, states = f"student_{slug}", f"states_{slug}"
    seen = {"name": states, "of": first, "watched_by": "teachers", "play": {}}
    own = {"name": f"own_{slug}", "init_from": first, "data": states}
    more = {"name": f"more_{slug}", "init_from": first}
    made = [{**student, "name": first}, {**play, **seen}, student | own, student | more]
    for arm in STATES:
        given = {"name": f"{arm}_{slug}_play", "of": f"{arm}_{slug}"}
        made.append({**students_play, **given})
    return copy.deepcopy(made)


def slug_of(size: str) -> str:
    """Returns a size as a part of a name."""
    return size.replace("/", "of")
