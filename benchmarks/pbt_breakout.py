"""MinAtar Breakout under PBT, under random search and with fixed settings, equal compute.

    pbt      learning rate and entropy cost drawn, copied and perturbed
    search   the same draws, nothing copied: random search, the same program
    fixed    ``configs/minatar_mixture.yaml``'s own values in every member

A run is a population of V-trace agents; a repeat of an arm is a run with another seed, and
the arms of a repeat begin with the same keys and draws. A run's score is the final
evaluation, on fresh episodes, of the member that was best in training; beside it the
median member's. Over repeats: the interquartile mean (PBT's members are not repeats).
Every run is gone on with from --runs if it exists.

    python benchmarks/pbt_breakout.py                       # 2 M steps a member
    python benchmarks/pbt_breakout.py --env-steps 300000 --repeats 3
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import common
import numpy as np

from mtrl_jax import metrics, xla
from mtrl_jax.config import loading, schema
from mtrl_jax.metrics import estimates

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "minatar_mixture.yaml"
TASK = "gymnax/Breakout-MinAtar"
SLOTS, UNROLL = 16, 64
# Two episodes at their longest, 1000 steps, are 32 updates.
INTERVAL = 32
SEARCH = {
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
    "entropy_cost": {"low": 1e-3, "high": 1e-1, "log": True},
}
PBT = {"exploit": "truncation", "interval": INTERVAL, "burn_in": 2 * INTERVAL}
# What the population is beside its size.
ARMS: dict[str, dict[str, Any]] = {
    "pbt": {"search": SEARCH, "pbt": PBT},
    "search": {"search": SEARCH},
    "fixed": {},
}
COLUMNS = {
    "arm": "<8",
    "seed": ">5",
    "steps": ">10",
    "best": ">9.2f",
    "median": ">9.2f",
}


def main() -> None:
    """Run what is missing; print the table, write JSON and PNG."""
    made = common.parser(__doc__ or "", "20,000 steps of four members, one repeat")
    made.add_argument("--env-steps", type=int, default=2_000_000, help="of a member")
    made.add_argument("--repeats", type=int, default=5)
    made.add_argument("--members", type=int, default=8)
    made.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/pbt-breakout")
    )
    args = made.parse_args()
    xla.configure_process()
    if args.quick:
        args.env_steps, args.repeats, args.members = 20_000, 1, 4
        args.runs = args.runs / "quick"
    print(common.header(COLUMNS))
    rows: list[dict[str, Any]] = []
    curves: dict[str, list] = {arm: [] for arm in ARMS}
    for seed in range(args.repeats):
        for arm in ARMS:
            folder = args.runs / f"{arm}-{seed}-{args.env_steps}"
            common.trained(settings(arm, seed, args), folder)
            rows.append(read(arm, seed, folder, curves))
            print(common.line(rows[-1], COLUMNS), flush=True)
        common.write(args.out, "pbt_breakout", result(rows, args))
        draw(curves, args.out / "pbt_breakout.png")


def settings(arm: str, seed: int, args: argparse.Namespace) -> schema.ExperimentConfig:
    """Returns the settings of one run."""
    given = loading.read_yaml(CONFIG)
    given["seed"] = seed
    given["tasks"] = [{"env": TASK, "slots": SLOTS}]
    given["agent"]["config"]["minibatches"] = 4
    given["agent"]["config"]["network"]["task_embedding"] = False
    # An annealed rate would end the search by itself.
    del given["agent"]["hparams"]["decay_updates"]
    given["population"] = {"size": args.members, **ARMS[arm]}
    given["training"] = {
        "env_steps": args.env_steps,
        "unroll_length": UNROLL,
        "updates_per_chunk": INTERVAL // 2,
    }
    given["evaluation"] = {"every_updates": 0, "episodes": 32}
    given["checkpoint"] = {"every_updates": 4 * INTERVAL, "keep": 2}
    return loading.from_dict(given, where=arm)


def read(
    arm: str, seed: int, folder: pathlib.Path, curves: dict[str, list]
) -> dict[str, Any]:
    """Returns the row of a finished run and adds its highest training return, by time."""
    summary, log = metrics.read_summary(folder), metrics.read_metrics(folder)
    found = {x["member"]: x["mean"] for x in summary["tasks"][TASK]["members"]}
    returns = log.returns[TASK]
    known = ~np.isnan(returns).all(1)
    curves[arm].append((log.env_steps[known], np.nanmax(returns[known], 1)))
    return {
        "arm": arm,
        "seed": seed,
        "steps": summary["totals"]["env_steps_per_member"],
        "best": found[summary["best_member"]],
        "median": float(np.median([*found.values()])),
        "members": [found[member] for member in sorted(found)],
    }


def result(rows: list[dict[str, Any]], args: argparse.Namespace) -> dict[str, Any]:
    """Returns what is written: the rows, and each arm over its repeats."""
    arms = []
    for arm in ARMS:
        mine = [row for row in rows if row["arm"] == arm]
        best, median = ([row[key] for row in mine] for key in ("best", "median"))
        arms.append(
            {
                "arm": arm,
                "repeats": len(mine),
                "best": estimates.iqm(best),
                "median": estimates.iqm(median),
            }
        )
    machine = common.environment()
    return {"machine": machine, "members": args.members, "rows": rows, "arms": arms}


def draw(curves: dict[str, list], path: pathlib.Path) -> None:
    """Draw the best member's training return: the mean and range over repeats."""
    with common.figure(path, ["Breakout, best member in training"]) as (ax,):
        for arm, found in curves.items():
            shortest = min(len(steps) for steps, _ in found)
            returns = np.stack([best[-shortest:] for _, best in found], 1)
            common.curve(ax, found[0][0][-shortest:], returns, arm)
        ax.set(xlabel="env steps of a member", ylabel="return")
        ax.legend()


if __name__ == "__main__":
    main()
