"""Many tasks, and games: more data than the dark rooms' other experiments have.

Of 10,000 walled rooms one demonstrator each leaves a history, and of 64 of them as many
together: whether it is tasks or histories that teach Algorithm Distillation. Of MinAtar's
games the learning histories of PPO, from which a Multi-Game DT, cloning and cloning of the
best tenth, quarter and half learn as members of one population, a model a game.
"""

from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import sequence_policies_arms as arms

from mtrl_jax import metrics
from mtrl_jax.config import loading
from mtrl_jax.data import files, layout
from mtrl_jax.experiments import collect
from mtrl_jax.training import run_folder

WALLS = 12
TASKS = {"many": 10_000, "few": 64}  # to train on, with as many histories each
HISTORIES = 10_000
EPISODES = 30  # of a history, over 27 of which the noise falls
TESTED = 64
# Game -> the highest return with a bin of its own.
GAMES = {"Breakout": 40.0, "Asterix": 15.0, "Freeway": 64.0, "SpaceInvaders": 200.0}
DEFAULT_GAMES = ("Breakout",)
LEARNERS, STEPS = 2, 3_000_000  # of each game; steps of a learner
KAPPAS = (0.0, 2.0, 5.0, 10.0, 20.0)
# What clones -> the lowest rank of an episode that it learns from.
CLONES = {"bc": 0.0} | {name: 1.0 - share for name, share in arms.BEST.items()}
_SLOTS, _LENGTH = 64, 128  # of minatar_ppo.yaml


def many_tasks() -> arms.Experiment:
    """Returns AD of 10,000 tasks and of 64, played on 64 that neither has seen."""
    source, model, *_ = arms.config_stages("algorithm_distillation_epsilon")
    agent = source["agent"] | {
        "hparams": source["agent"]["hparams"] | {"decay_updates": 0.9 * EPISODES}
    }
    training = source["training"] | {"env_steps": 21 * EPISODES}
    tasks = [_rooms(tasks="test", number=TESTED)]
    stages, found = [], []
    for tag, number in TASKS.items():
        own = {
            "name": f"source_{tag}",
            "tasks": [_rooms(tasks="train", number=number)],
            "agent": agent,
            "population": {"size": HISTORIES},
            "training": training,
            "logging": arms.QUIET | {"plots": False},
        }
        learns = {
            "name": f"model_{tag}",
            "data": own["name"],
            "keep": {},
            "population": {"size": arms.SEEDS},
            "logging": arms.QUIET,
        }
        learns = arms.shorter(model | learns)
        tested = arms.evaluated(f"room_{tag}", learns, tasks, 100, 1, {})
        stages += [source | own, learns, tested]
        found.append(arms.Arm(tag, tested["name"], arms.of_kind(0, 1)))
    return arms.Experiment(stages, found)


def minatar() -> arms.Experiment:
    """Returns MGDT, DT and cloning of all and of the best of PPO's histories, by game.

    DT are the members that MGDT's are, asked for the highest return with a bin of its own.
    """
    ranks, kinds = [0.0, *CLONES.values()], 1 + len(CLONES)
    learner = loading.read_yaml(arms.CONFIGS / "minatar_ppo.yaml")["agent"]
    updates = -(-STEPS // (_SLOTS * _LENGTH))
    hparams = learner["hparams"] | {"decay_updates": updates}
    stages, found = [], []
    for game, highest in GAMES.items():
        tasks = [{"env": f"gymnax/{game}-MinAtar"}]
        source = {
            "name": f"source_{game}",
            "kind": "collect",
            "tasks": [{**tasks[0], "slots": _SLOTS}],
            "agent": learner | {"hparams": hparams},
            "population": {"size": LEARNERS},
            "training": {
                "env_steps": STEPS,
                "unroll_length": _LENGTH,
                "updates_per_chunk": 10,
            },
            "evaluation": {"every_updates": 0, "episodes": 16},
            "checkpoint": {"every_updates": 100, "keep": 1},
            "logging": arms.QUIET,
        }
        own = arms.with_returns(_model(game, highest), {"rank_from": ranks}, kinds)
        stages += [source, own]
        asked = {f"mgdt_{k:g}": {"inferred": 1.0, "kappa": k} for k in KAPPAS}
        for arm, hp in {**asked, "dt": {"target": highest}}.items():
            name = f"{game}_{arm}"
            stages.append(arms.evaluated(name, own, tasks, 2, 16, hp))
            found.append(arms.Arm(arm, name, arms.of_kind(0, kinds), game))
        found += [
            arms.Arm(kind, name, arms.of_kind(i, kinds), game)
            for i, kind in enumerate(CLONES, 1)
        ]
    return arms.Experiment(stages, found)


def data_of(folder: pathlib.Path, stages: list[arms.Stage]) -> list[dict[str, Any]]:
    """Returns for each stage of a run what it made or read, and how fast.

    ``seconds`` are of the whole stage, compiling and writing included; ``steps_per_s`` is
    the median over the chunks after the first, None where there is one.
    """
    return [
        _collected(folder, stage)
        if stage["kind"] == "collect"
        else _read(folder, stage)
        for stage in stages
        if stage["kind"] != "evaluate"
    ]


def _collected(folder: pathlib.Path, stage: arms.Stage) -> dict[str, Any]:
    own = folder / run_folder.STAGES / stage["name"]
    meta = files.read_meta(own / collect.FOLDER)
    totals, histories = metrics.read_summary(own)["totals"], len(meta["task"])
    row = sum(map(layout.row_bytes, layout.fields_of(meta)))
    return {
        "stage": stage["name"],
        "tasks": len(meta["names"]),
        "histories": histories,
        "steps": histories * meta["steps"],
        "bytes_of_a_step": row,
        "bytes": histories * meta["steps"] * row,
        "seconds": totals["wall_s"],
        "steps_per_s": _rate(own),
    }


def _read(folder: pathlib.Path, stage: arms.Stage) -> dict[str, Any]:
    own = folder / run_folder.STAGES / stage["name"]
    totals = metrics.read_summary(own)["totals"]
    return {
        "stage": stage["name"],
        "members": totals["population"],
        "updates": totals["updates"],
        "steps": totals["env_steps"],
        "seconds": totals["wall_s"],
        "steps_per_s": _rate(own),
    }


def _rate(folder: pathlib.Path) -> float | None:
    found = metrics.read_metrics(folder).steps_per_s[1:]
    return float(np.nanmedian(found)) if np.isfinite(found).any() else None


def _rooms(**options: Any) -> arms.Stage:
    return {"env": "dark/room", "options": {"walls": WALLS, **options}}


def _model(game: str, highest: float) -> arms.Stage:
    """Returns the offline stage of a game, from every eighth episode."""
    network = {"layers": 2, "width": 64, "heads": 4, "feedforward": 128}
    seen = {"context": 4, "torso": "mlp", "hidden": [128], "activation": "relu"}
    bins = {"bins": 64, "low": 0.0, "high": highest, "rewards": True}
    return {
        "name": f"model_{game}",
        "kind": "offline",
        "data": f"source_{game}",
        "agent": {
            "name": "multi_game_decision_transformer",
            "config": {"transformer": network | seen, "outlook": bins},
            "hparams": {
                "learning_rate": 1e-3,
                "warmup_updates": 100,
                "decay_updates": 2_000,
            },
        },
        "keep": {"subsample": 8},
        "training": {
            "updates": 2_000,
            "unroll_length": 16,
            "batch": 32,
            "updates_per_chunk": 50,
        },
        "evaluation": {"every_updates": 0},
        "checkpoint": {"every_updates": 300, "keep": 1},
        "logging": arms.QUIET,
    }
