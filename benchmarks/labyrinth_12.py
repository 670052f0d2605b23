"""Labyrinth-12: the capped normalised mean over twelve levels, with and without PopArt.

    levels   the suite labyrinth12, seen as 24 rays, steered by all 756 actions
    budget   4 M steps of each level, 32 episodes of each level and seed in the end
    score    of a seed: the mean over levels of min(1, (return − random)/(oracle − random))
    arms     one agent on all with PopArt (together-popart) and without it (together-none),
             and an agent of each level alone (apart), 5 seeds each

Everything else is ``configs/labyrinth_12.yaml``. The two arms of the agent on all are
members of one population: without PopArt its statistics stay at mean 0 and deviation 1.
Every run is gone on with from --runs if it exists. The table has each level's normalised
mean and, as ALL, the capped mean over levels.

    python benchmarks/labyrinth_12.py                       # made for an accelerator
    python benchmarks/labyrinth_12.py --env-steps 200000 --seeds 2 --arms together
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Iterator
from typing import Any

import common
import numpy as np

from mtrl_jax import envs, metrics, xla
from mtrl_jax.config import loading, schema
from mtrl_jax.metrics import estimates

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "labyrinth_12.yaml"
LEVELS = envs.LABYRINTH_12
TOGETHER = ("together-popart", "together-none")  # members in turn
APART = "apart"
COLUMNS = {
    "arm": "<16",
    "level": "<31",
    "steps": ">10",
    "return": ">9.2f",
    "normalised": ">11.3f",
    "low": ">7.3f",
    "high": ">7.3f",
}


def main() -> None:
    """Run what is missing; print the table, write JSON and PNG."""
    args = arguments()
    xla.configure_process()
    print(common.header(COLUMNS))
    rows: list[dict[str, Any]] = []
    for arm in args.arms:
        for levels in (
            [args.levels] if arm == "together" else [[x] for x in args.levels]
        ):
            folder = args.runs / f"{arm}-{len(levels)}-{levels[0]}-{args.env_steps}"
            common.trained(settings(arm, levels, args), folder)
            rows += read(arm, metrics.read_summary(folder))
    rows += list(overall(rows))
    for row in rows:
        print(common.line(row, COLUMNS), flush=True)
    result = {"machine": common.environment(), "rows": rows}
    common.write(args.out, "labyrinth_12", result)
    draw(rows, args.out / "labyrinth_12.png")


def settings(
    arm: str, levels: list[str], args: argparse.Namespace
) -> schema.ExperimentConfig:
    """Returns the settings of one run, on these levels."""
    given = loading.read_yaml(CONFIG)
    (shared,) = given["tasks"]
    own = {key: shared[key] for key in ("slots", "options")} | {"slots": args.slots}
    given["tasks"] = [{"env": f"labyrinth/{level}", **own} for level in levels]
    members = args.seeds
    if arm == "together":
        members *= len(TOGETHER)
        dealt = [given["agent"]["hparams"]["value_step_size"], 0.0]
        given["population"]["search"] = {
            "value_step_size": {"low": 0.0, "high": 1.0, "initial": dealt}
        }
    update = given["training"]["unroll_length"] * args.slots  # steps of a level
    changes = [
        f"population.size={members}",
        f"training.env_steps={args.env_steps * len(levels)}",
        f"agent.hparams.decay_updates={-(-args.env_steps // update)}",
        f"evaluation.episodes={args.episodes}",
    ]
    return loading.from_dict(loading.override(given, changes), where=CONFIG.stem)


def read(arm: str, summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of a finished run, one a level and arm."""
    rows = []
    names = TOGETHER if arm == "together" else (APART,)
    for number, name in enumerate(names):
        for task, found in summary["tasks"].items():
            members = found["members"][number :: len(names)]
            random, best = found["random_score"], found["reference_score"]
            returns = np.asarray([x["mean"] for x in members], float)
            seeds = (returns - random) / (best - random)
            steps = summary["totals"]["env_steps_per_member"] // len(summary["tasks"])
            level = task.removeprefix("labyrinth/")
            rows.append(row(name, level, seeds, steps, float(returns.mean())))
    return rows


def overall(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields each arm's capped mean over its levels."""
    for arm in dict.fromkeys(row["arm"] for row in rows):
        mine = [x for x in rows if x["arm"] == arm]
        capped = np.minimum([x["seeds"] for x in mine], 1.0).mean(0)
        yield row(arm, "ALL", capped, sum(x["steps"] for x in mine), None)


def row(
    arm: str, level: str, seeds: np.ndarray, steps: int, returns: float | None
) -> dict[str, Any]:
    """Returns a line of the table, of normalised scores [seeds]."""
    low, high = estimates.mean_interval(seeds)
    return {
        "arm": arm,
        "level": level,
        "steps": steps,
        "return": returns,
        "normalised": float(seeds.mean()),
        "low": low,
        "high": high,
        "seeds": [float(x) for x in seeds],
    }


def draw(rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Draw each level's normalised score, a bar an arm, and the capped mean."""
    arms = list(dict.fromkeys(row["arm"] for row in rows))
    names = list(dict.fromkeys(row["level"] for row in rows))
    with common.figure(path, ["normalised score"], size=(10, 5)) as (ax,):
        for number, arm in enumerate(arms):
            mine = {x["level"]: x["normalised"] for x in rows if x["arm"] == arm}
            at = [names.index(level) + 0.8 * number / len(arms) for level in mine]
            ax.bar(at, list(mine.values()), width=0.8 / len(arms), label=arm)
        ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
        ax.set(ylabel="0 random, 1 the oracle")
        ax.legend()


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "20,000 steps of two levels")
    made.add_argument("--env-steps", type=int, default=4_000_000, help="of each level")
    made.add_argument(
        "--arms", nargs="+", default=["together", APART], choices=["together", APART]
    )
    made.add_argument("--levels", nargs="+", default=list(LEVELS), choices=LEVELS)
    made.add_argument("--slots", type=int, default=16, help="of each level")
    made.add_argument("--seeds", type=int, default=5, help="of each arm")
    made.add_argument("--episodes", type=int, default=32, help="of a seed and level")
    made.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/labyrinth-12")
    )
    args = made.parse_args()
    if args.quick:
        args.levels = ["seekavoid_arena_01", "dark_key_to_door_3d"]
        args.arms, args.env_steps, args.slots = ["together"], 20_000, 4
        args.seeds, args.episodes, args.runs = 1, 2, args.runs / "quick"
    return args


if __name__ == "__main__":
    main()
