"""Labyrinth: what agents learn in minutes on small machines, seeds as a population.

    explore    explore_object_locations_small, with nine actions and with all 756
    avoid      seekavoid_arena_01
    goal       explore_goal_locations_small, with an LSTM and without memory
    lasertag   lasertag_one_opponent_small

Seen as 24 rays, learned with one of ``RECIPES`` by PPO or (``…-vtrace``) by V-trace
with PPO's passes and trust region. A score is the mean return of a seed's final
evaluation; normalised, 0 is random and 1 the scripted oracle that sees the map
(labyrinth_scores.py). Intervals are over seeds. Every row is a run of its own under --runs
and is gone on with if it exists.

    python benchmarks/labyrinth_learning.py                     # 5 to 50 minutes a row
    python benchmarks/labyrinth_learning.py --rows goal-lstm goal-feedforward
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any, NamedTuple

import common
import numpy as np

from mtrl_jax import metrics, xla
from mtrl_jax.config import loading, schema
from mtrl_jax.envs.labyrinth import rays, scores
from mtrl_jax.metrics import estimates


class Row(NamedTuple):
    """A line of the table."""

    level: str
    actions: str
    core: str
    recipe: str
    env_steps: int  # of a member
    agent: str = "ppo"


class Recipe(NamedTuple):
    """How much experience goes into a step of the optimiser, and the net."""

    slots: int
    epochs: int
    minibatches: int
    entropy_cost: float
    hidden: int
    skip: bool  # where there is a memory
    learning_rate: float = 1e-3
    discount: float = 0.98
    lambda_: float = 0.95
    unroll: int = 64
    memory: int = 0  # steps that an LSTM's gates start out for
    convolves: bool = False  # over the rays, before the MLP


# In small batches a minibatch is 8 slots. Where a goal is met once in thousands of steps
# it often holds none; its advantages are then the value's error alone, normalised to
# variance 1, and the policy drifts on noise: with an LSTM two seeds of three stayed at
# 7 points for 8 M steps. Eight times the slots hold goals in every minibatch, and more
# passes make up for the fewer of them. The skip is there to spare the LSTM what takes no
# memory. "searched" lies near the best member of a random search over rate, entropy cost,
# discount and λ: small batches of labyrinth_explore_search.yaml, large batches of a like
# one for the LSTM on explore_goal_locations_small.
# A scripted player of that level needs 240 steps of memory to score more than these agents
# (labyrinth_explorer.py): "long unrolls" carries gradients over 256, starts gates out for
# as many, and weighs goals that are some hundred steps away; the batch is as large.
RECIPES = {
    "small batches": Recipe(32, 2, 4, 5e-3, hidden=128, skip=False),
    "small, convolved": Recipe(32, 2, 4, 5e-3, 128, False, convolves=True),
    "large batches": Recipe(256, 4, 4, 2e-3, hidden=64, skip=True),
    "small, searched": Recipe(32, 2, 4, 2.5e-3, 128, False, 1.5e-3, 0.986, 0.9),
    "large, searched": Recipe(256, 4, 4, 4e-3, 64, True, 8e-4, 0.972, 0.92),
    "long unrolls": Recipe(
        64, 4, 4, 1e-3, 64, True, 1e-3, discount=0.99, unroll=256, memory=256
    ),
    "long unrolls, far goals": Recipe(
        64, 4, 4, 4e-3, 64, True, 1e-3, discount=0.995, unroll=256, memory=256
    ),
}

_EXPLORE, _GOAL = "explore_object_locations_small", "explore_goal_locations_small"
_AVOID, _LASERTAG = "seekavoid_arena_01", "lasertag_one_opponent_small"
ROWS = {
    "explore-small": Row(_EXPLORE, "small", "lstm", "small batches", 3_000_000),
    "explore-small-conv": Row(_EXPLORE, "small", "lstm", "small, convolved", 3_000_000),
    "explore-native": Row(_EXPLORE, "native", "lstm", "small batches", 2_000_000),
    "explore-native-searched": Row(
        _EXPLORE, "native", "lstm", "small, searched", 6_000_000
    ),
    "avoid-small": Row(_AVOID, "small", "lstm", "small batches", 3_000_000),
    "goal-lstm": Row(_GOAL, "small", "lstm", "large batches", 12_000_000),
    "goal-feedforward": Row(_GOAL, "small", "none", "large batches", 12_000_000),
    "goal-lstm-searched": Row(_GOAL, "small", "lstm", "large, searched", 12_000_000),
    "goal-feedforward-searched": Row(
        _GOAL, "small", "none", "large, searched", 12_000_000
    ),
    "goal-lstm-long": Row(_GOAL, "small", "lstm", "long unrolls", 12_000_000),
    "goal-feedforward-far": Row(
        _GOAL, "small", "none", "long unrolls, far goals", 12_000_000
    ),
    "goal-lstm-vtrace": Row(
        _GOAL, "small", "lstm", "large batches", 12_000_000, "impala"
    ),
    "lasertag-small": Row(_LASERTAG, "small", "lstm", "small batches", 2_000_000),
    "lasertag-native": Row(_LASERTAG, "native", "lstm", "small batches", 2_000_000),
}
COLUMNS = {
    "row": "<26",
    "recipe": "<16",
    "steps": ">10",
    "random": ">8.2f",
    "oracle": ">8.2f",
    "mean": ">8.2f",
    "low": ">8.2f",
    "high": ">8.2f",
    "normalised": ">11.2f",
    "wall_s": ">8.0f",
}


def main() -> None:
    """Run what is missing; print the table, write JSON and PNG."""
    args = arguments()
    xla.configure_process()
    print(common.header(COLUMNS))
    rows: list[dict[str, Any]] = []
    curves: dict[str, tuple] = {}
    for name in args.rows:
        steps = args.env_steps or ROWS[name].env_steps
        folder = args.runs / f"{name}-{steps}"
        common.trained(settings(name, steps, args.seeds), folder)
        rows.append(read(name, folder, curves))
        print(common.line(rows[-1], COLUMNS), flush=True)
        result = {"machine": common.environment(), "rows": rows}
        common.write(args.out, args.name, result)
    draw(curves, args.out / f"{args.name}.png")


def settings(name: str, env_steps: int, seeds: int) -> schema.ExperimentConfig:
    """Returns the settings of one row."""
    row = ROWS[name]
    recipe = RECIPES[row.recipe]
    update = recipe.slots * recipe.unroll  # steps
    return loading.from_dict(
        {
            "seed": 0,
            "tasks": [
                {
                    "env": f"labyrinth/{row.level}",
                    "slots": recipe.slots,
                    "options": {"actions": row.actions},
                }
            ],
            "agent": agent(row, recipe, decay_updates=float(env_steps // update)),
            "population": {"size": seeds},
            "training": {
                "env_steps": env_steps,
                "unroll_length": recipe.unroll,
                "updates_per_chunk": max(51_200 // update, 1),
            },
            "evaluation": {"every_updates": 0, "episodes": 64},
            "checkpoint": {"every_updates": 200, "keep": 2},
        },
        where=name,
    )


def agent(row: Row, recipe: Recipe, decay_updates: float) -> dict[str, Any]:
    """Returns the settings of a row's agent."""
    config = {
        "epochs": recipe.epochs,
        "minibatches": recipe.minibatches,
        "network": network(row.core, recipe),
    }
    hparams = {
        "learning_rate": recipe.learning_rate,
        "decay_updates": decay_updates,
        "entropy_cost": recipe.entropy_cost,
        # A goal is worth 10, everything else 1.
        "reward_scale": 0.1 if "goal" in row.level else 1.0,
        "discount": recipe.discount,
        "lambda_": recipe.lambda_,
    }
    if row.agent == "impala":
        # What PPO has by default.
        config |= {"optimiser": "adam", "normalise_advantages": True}
        hparams |= {"clip_epsilon": 0.2, "max_grad_norm": 0.5, "adam_eps": 1e-5}
    return {"name": row.agent, "config": config, "hparams": hparams}


def network(core: str, recipe: Recipe) -> dict[str, Any]:
    """Returns the settings of a row's network."""
    if core == "none":
        # As wide as torso and memory together, and as much to compute.
        return {"hidden": [128], "activation": "relu"}
    return {
        "sequence": [24, rays.CHANNELS] if recipe.convolves else [],
        "core": core,
        "core_size": 64,
        "core_memory": recipe.memory,
        "hidden": [recipe.hidden],
        "activation": "relu",
        "skip": recipe.skip,
    }


def read(name: str, folder: pathlib.Path, curves: dict[str, tuple]) -> dict[str, Any]:
    """Returns the table's row of a finished run and adds its curve."""
    summary, log = metrics.read_summary(folder), metrics.read_metrics(folder)
    ((task, found),) = summary["tasks"].items()
    means = np.asarray([member["mean"] for member in found["members"]], float)
    low, high = estimates.mean_interval(means)
    known = scores.TABLE[ROWS[name].level]
    random, oracle = known.random.mean, known.oracle.mean
    curves[name] = (log.env_steps, log.returns[task], random, oracle)
    return {
        "row": name,
        "recipe": ROWS[name].recipe,
        "steps": summary["totals"]["env_steps_per_member"],
        "random": random,
        "oracle": oracle,
        "mean": float(means.mean()),
        "low": low,
        "high": high,
        "normalised": float((means.mean() - random) / (oracle - random)),
        "seeds": [float(x) for x in means],
        "wall_s": summary["totals"]["wall_s"],
    }


def draw(curves: dict[str, tuple], path: pathlib.Path) -> None:
    """Draw return against steps, a panel a level, a line a seed."""
    from matplotlib import ticker

    panels = list(dict.fromkeys(ROWS[name].level for name in curves))
    with common.figure(path, panels) as axes:
        for ax, level in zip(axes, panels):
            mine = {name: c for name, c in curves.items() if ROWS[name].level == level}
            for number, (name, (steps, returns, _, _)) in enumerate(mine.items()):
                known = ~np.isnan(returns).any(1)  # an episode of each seed ended
                steps, returns = np.asarray(steps)[known], smoothed(returns[known])
                lines = ax.plot(steps, returns, color=f"C{number}", lw=0.8)
                lines[0].set_label(name)
            *_, random, oracle = next(iter(mine.values()))
            ax.axhline(random, color="grey", ls=":")
            ax.set(xlabel=f"env steps (random {random:.3g}, oracle {oracle:.3g})")
            ax.set(ylabel="return")
            ax.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
            ax.legend()


def smoothed(returns: np.ndarray) -> np.ndarray:
    """Returns means over about a fortieth of the run before each point, [points, P]."""
    width = max(len(returns) // 40, 1)
    ends = range(1, len(returns) + 1)
    return np.asarray([returns[max(i - width, 0) : i].mean(axis=0) for i in ends])


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "100,000 steps of one row")
    made.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    made.add_argument("--env-steps", type=int, help="of a member; by default the row's")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--name", default="labyrinth_learning", help="of JSON and PNG")
    made.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/labyrinth")
    )
    args = made.parse_args()
    if args.quick:
        args.rows, args.env_steps = ["explore-small"], 100_000
        args.runs = args.runs / "quick"
    return args


if __name__ == "__main__":
    main()
