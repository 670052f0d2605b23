"""Multi-task methods beside each other: sharing, combiners, Distral, UNREAL and others.

    combiners     gradients of tasks whose rewards differ by 100, with PopArt and without
    sharing       one network, heads, experts, cross-stitch, soft, for four rooms
    distral       columns by alpha, for four rooms
    kickstarting  a larger network alone, and with a teacher
    unreal        each auxiliary alone, and all
    progressive   two columns and the paper's four baselines

Every arm is a run of its own under --runs (a population of seeds, by those
hyperparameters that it compares) and is gone on with if it exists. ``area`` is the mean
training return over the whole run, ``final`` the mean of the final evaluation; both are
means over seeds with their 95 % interval (Student's t).

    python benchmarks/multitask.py --experiment combiners [--arms mean pcgrad] [--quick]
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import common
import multitask_arms as arms
import numpy as np

from mtrl_jax import metrics, xla
from mtrl_jax.config import loading
from mtrl_jax.metrics import estimates
from mtrl_jax.training import run_folder

COLUMNS = {
    "arm": "<16",
    "label": "<10",
    "task": "<24",
    "steps": ">9",
    "area": ">9.3f",
    "final": ">9.3f",
    "low": ">9.3f",
    "high": ">9.3f",
}


def main() -> None:
    """Run what is missing; print the table, write JSON and the picture."""
    args = arguments()
    xla.prepare()
    name = f"multitask_{args.experiment}"
    print(common.header(COLUMNS))
    rows: list[dict[str, Any]] = []
    folders: dict[str, pathlib.Path] = {}
    for arm in args.arms:
        slug = arm.replace(" ", "_").replace(",", "")
        folder = args.runs / f"{args.experiment}-{slug}-{args.env_steps}"
        given = arms.settings(args.experiment, arm, args.env_steps, args.seeds)
        common.trained(loading.from_dict(given, where=arm), folder)
        if "stages" in given:
            folder = folder / run_folder.STAGES / "last"
        folders[arm] = folder
        found = read(arm, folder, arms.EXPERIMENTS[args.experiment][arm].labels)
        rows += found
        for row in found:
            print(common.line(row, COLUMNS), flush=True)
        result = {"machine": common.environment(), "rows": rows}
        common.write(args.out, name, result)
    draw(args.experiment, folders, args.out / f"{name}.png")


def read(
    arm: str, folder: pathlib.Path, labels: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Returns the table's rows of a finished run: one a label and task."""
    summary, log = metrics.read_summary(folder), metrics.read_metrics(folder)
    rows = []
    for i, label in enumerate(labels):
        for task, found in summary["tasks"].items():
            final = np.asarray([x["mean"] for x in found["members"]], float)
            final = final[i :: len(labels)]
            area = np.nanmean(log.returns[task], axis=0)[i :: len(labels)]
            low, high = estimates.t_interval(final)
            rows.append(
                {
                    "arm": arm,
                    "label": label,
                    "task": task,
                    "steps": summary["totals"]["env_steps_per_member"],
                    "area": float(area.mean()),
                    "area_seeds": area.tolist(),
                    "final": float(final.mean()),
                    "low": low,
                    "high": high,
                    "seeds": final.tolist(),
                }
            )
    return rows


def draw(experiment: str, folders: dict[str, pathlib.Path], path: pathlib.Path) -> None:
    """Draw training returns, a panel a task, a band over seeds."""
    logs = {arm: metrics.read_metrics(folder) for arm, folder in folders.items()}
    tasks = list(dict.fromkeys(task for log in logs.values() for task in log.returns))
    with common.figure(path, tasks, (5, 4)) as axes:
        for ax, task in zip(axes, tasks):
            for arm, log in logs.items():
                labels = arms.EXPERIMENTS[experiment][arm].labels
                for i, label in enumerate(labels):
                    returns = log.returns[task][:, i :: len(labels)]
                    name = f"{arm} {label}".strip()
                    common.curve(ax, log.env_steps, returns, name)
            ax.set(xlabel="env steps", ylabel="training return")
        handles = axes[0].get_legend_handles_labels()
        axes[0].figure.legend(*handles, loc="outside center right")


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "the first arm, 8,000 steps, two seeds")
    made.add_argument("--experiment", choices=arms.EXPERIMENTS, required=True)
    made.add_argument("--arms", nargs="+", help="by default all of the experiment's")
    made.add_argument("--env-steps", type=int, help="of a member, all tasks together")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/multitask")
    )
    args = made.parse_args()
    known = arms.EXPERIMENTS[args.experiment]
    args.env_steps = args.env_steps or arms.STEPS[args.experiment]
    if args.quick:
        args.arms, args.env_steps, args.seeds = [next(iter(known))], 8_000, 2
        args.runs = args.runs / "quick"
    args.arms = args.arms or list(known)
    for arm in args.arms:
        if arm not in known:
            made.error(f"--arms: {arm!r} is none of {', '.join(known)}")
    return args


if __name__ == "__main__":
    main()
