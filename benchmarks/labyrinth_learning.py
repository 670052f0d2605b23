"""Labyrinth: what agents learn in minutes on small machines, three seeds as a population.

    explore    explore_object_locations_small, with nine actions and with all 756
    avoid      seekavoid_arena_01
    goal       explore_goal_locations_small, with an LSTM and without memory
    lasertag   lasertag_one_opponent_small

Seen as 24 rays, learned by PPO with the settings below, the same for all rows. A score is the mean return of a seed's final evaluation; normalised, 0 is
random and 1 the scripted oracle that sees the map (labyrinth_scores.py). Intervals are
over seeds. Every row is a run of its own under --runs and is gone on with if it exists.

    python benchmarks/labyrinth_learning.py                     # some 10 minutes a row
    python benchmarks/labyrinth_learning.py --rows goal-lstm goal-feedforward
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import common
import numpy as np

from mtrl_jax import config as config_lib
from mtrl_jax import metrics, xla
from mtrl_jax.envs.labyrinth import scores
from mtrl_jax.metrics import estimates

# Row: level, action set, core, env steps of a member.
ROWS = {
    "explore-small": ("explore_object_locations_small", "small", "lstm", 3_000_000),
    "explore-native": ("explore_object_locations_small", "native", "lstm", 2_000_000),
    "avoid-small": ("seekavoid_arena_01", "small", "lstm", 3_000_000),
    "goal-lstm": ("explore_goal_locations_small", "small", "lstm", 3_000_000),
    "goal-feedforward": ("explore_goal_locations_small", "small", "none", 3_000_000),
    "lasertag-native": ("lasertag_one_opponent_small", "native", "lstm", 2_000_000),
}
COLUMNS = {
    "row": "<17",
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
    """Returns after running what is missing; prints the table, writes JSON and PNG."""
    args = arguments()
    xla.prepare()
    print(common.header(COLUMNS))
    rows: list[dict[str, Any]] = []
    curves: dict[str, tuple] = {}
    for name in args.rows:
        steps = args.env_steps or ROWS[name][-1]
        folder = args.runs / f"{name}-{steps}"
        common.trained(settings(name, steps, args.seeds), folder)
        rows.append(read(name, folder, curves))
        print(common.line(rows[-1], COLUMNS), flush=True)
        result = {"machine": common.environment(), "rows": rows}
        common.write(args.out, "labyrinth_learning", result)
    draw(curves, args.out / "labyrinth_learning.png")


def settings(
    name: str, env_steps: int, seeds: int
) -> config_lib.schema.ExperimentConfig:
    """Returns the settings of one row."""
    level, action_set, core, _ = ROWS[name]
    network = {"core": core, "core_size": 64, "hidden": [128], "activation": "relu"}
    return config_lib.from_dict(
        {
            "seed": 0,
            "tasks": [
                {
                    "env": f"labyrinth/{level}",
                    "slots": 32,
                    "options": {"actions": action_set},
                }
            ],
            "agent": {
                "name": "ppo",
                "config": {"epochs": 2, "minibatches": 4, "network": network},
                "hparams": {
                    "learning_rate": 1e-3,
                    "decay_updates": float(env_steps // (32 * 64)),
                    "entropy_cost": 5e-3,
                    # A goal is worth 10, everything else 1.
                    "reward_scale": 0.1 if "goal" in level else 1.0,
                    "discount": 0.98,
                },
            },
            "population": {"size": seeds},
            "training": {
                "env_steps": env_steps,
                "unroll_length": 64,
                "updates_per_chunk": 25,
            },
            "evaluation": {"every_updates": 0, "episodes": 64},
            "checkpoint": {"every_updates": 200, "keep": 2},
        },
        where=name,
    )


def read(name: str, folder: pathlib.Path, curves: dict[str, tuple]) -> dict[str, Any]:
    """Returns the table's row of a finished run and adds its curve."""
    summary, log = metrics.read_summary(folder), metrics.read_metrics(folder)
    ((task, found),) = summary["tasks"].items()
    means = np.asarray([member["mean"] for member in found["members"]], float)
    low, high = estimates.bootstrap_interval(means)
    known = scores.TABLE[ROWS[name][0]]
    random, oracle = known.random.mean, known.oracle.mean
    curves[name] = (log.env_steps, log.returns[task], random, oracle)
    return {
        "row": name,
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
    """Returns after drawing return against steps, a panel a level, a band over seeds."""
    panels = list(dict.fromkeys(ROWS[name][0] for name in curves))
    with common.figure(path, panels) as axes:
        for ax, level in zip(axes, panels):
            mine = {name: c for name, c in curves.items() if ROWS[name][0] == level}
            for name, (steps, returns, _, _) in mine.items():
                common.curve(ax, steps, returns, name)
            *_, random, oracle = next(iter(mine.values()))
            ax.axhline(random, color="grey", ls=":")
            ax.axhline(oracle, color="grey", ls="--")
            ax.set(xlabel="env steps", ylabel="return")
            ax.legend()


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "100,000 steps of one row")
    made.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    made.add_argument("--env-steps", type=int, help="of a member; by default the row's")
    made.add_argument("--seeds", type=int, default=3)
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
