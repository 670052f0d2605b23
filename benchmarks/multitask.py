"""Multi-task methods beside each other: sharing, combiners, Distral, UNREAL and others.

    kickstarting  a larger network alone, and with a teacher
    combiners     gradients of four games whose rewards differ by 1000, with PopArt and
                  without
    sharing       one network, heads, experts, cross-stitch, modules, soft, for four
                  rooms
    games         the same for four games whose rewards differ by 1000, with PopArt and
                  without
    metaworld     the same for the ten tasks of MT10, with PopArt and without
    distral       columns by alpha, for four rooms
    unreal        each auxiliary alone, and all, where rewards are rare and where not
    progressive   two columns and the paper's four baselines, on three targets
    vtrace_lag    corrections of data that are 50 updates old, or half replayed

Every arm is a run of its own under --runs (a population of seeds, by those
hyperparameters that it compares) and is gone on with if it exists. ``area`` is the mean
training return over the whole run, ``final`` the mean of the final evaluation, with its
95 % interval over seeds (Student's t). ``level`` is the return that ``reached`` asks for,
in env steps of each seed, null where it never was: 0.8 of the reference where rewards are
rare, the seed's own teacher's final score with a teacher.

With ``--arms`` the rows that the JSON under --out has of other arms stay, and the picture
of the arms alone has their names.

    python benchmarks/multitask.py --experiment combiners [--arms mean pcgrad] [--quick]
"""

from __future__ import annotations

import argparse
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import common
import multitask_arms as arms
import multitask_pictures as pictures
import numpy as np

from mtrl_jax import metrics, xla
from mtrl_jax.config import loading
from mtrl_jax.metrics import estimates
from mtrl_jax.training import run_folder

COLUMNS = {
    "arm": "<16",
    "label": "<16",
    "task": "<28",
    "steps": ">9",
    "area": ">9.3f",
    "final": ">9.3f",
    "low": ">9.3f",
    "high": ">9.3f",
}
_CHUNKS = 3  # that a return is averaged over before it counts as reached
_SUCCESS = 0.8  # of the reference score


def main() -> None:
    """Run what is missing; print the table, write JSON and the picture."""
    args = arguments()
    xla.configure_process()
    name = f"multitask_{args.experiment}"
    print(common.header(COLUMNS))
    rows = {} if args.quick else recorded(args, name)
    folders: dict[str, pathlib.Path] = {}
    for arm in args.arms:
        folder = args.runs / f"{args.experiment}-{slug(arm)}-{args.env_steps}"
        given = arms.settings(args.experiment, arm, args.env_steps, args.seeds)
        common.trained(loading.from_dict(given, where=arm), folder)
        folders[arm] = folder
        rows[arm] = list(read(args.experiment, arm, folder))
        for row in rows[arm]:
            print(common.line(row, COLUMNS), flush=True)
        ordered = [
            row
            for arm in arms.EXPERIMENTS[args.experiment]
            for row in rows.get(arm, ())
        ]
        result = {"machine": common.environment(), "rows": ordered}
        common.write(args.out, name, result)
    alone = "" if set(rows) == set(folders) else "_" + "_".join(map(slug, folders))
    pictures.draw(args.experiment, folders, args.out / f"{name}{alone}.png")
    if args.experiment == "vtrace_lag":
        found = [row for arm in folders for row in rows[arm]]
        pictures.draw_lags(found, args.out / f"{name}_curve{alone}.png")


def slug(arm: str) -> str:
    """Returns an arm's name as files have it."""
    return arm.replace(" ", "_").replace(",", "")


def recorded(args: argparse.Namespace, name: str) -> dict[str, list[dict[str, Any]]]:
    """Returns the rows in the JSON of this name of the arms that are not run now."""
    path = args.out / f"{name}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["arm"] not in args.arms:
            found.setdefault(row["arm"], []).append(row)
    return found


def read(experiment: str, arm: str, folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields the table's rows of a finished run: one a label and task."""
    chosen = arms.EXPERIMENTS[experiment][arm]
    summary = metrics.read_summary(pictures.last(folder))
    log = metrics.read_metrics(pictures.last(folder))
    for i, label in enumerate(chosen.labels):
        for task, found in summary["tasks"].items():
            own = [x for x in found["members"] if x["member"] % len(chosen.labels) == i]
            final = np.asarray([x["mean"] for x in own], float)
            returns = log.returns[task][:, [x["member"] for x in own]]
            area = np.nanmean(returns, axis=0)
            low, high = estimates.t_interval(final)
            row = {
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
                "random": found["random_score"],
                "reference": found["reference_score"],
            }
            if "success" in own[0]:
                row["success"] = [x["success"] for x in own]
            level = _levels(chosen, folder, task, found, [x["member"] for x in own])
            if level is not None:
                row["level"] = level
                row["reached"] = [
                    reached(log.env_steps, returns[:, k], x)
                    for k, x in enumerate(level)
                ]
            yield row


def reached(steps: np.ndarray, returns: np.ndarray, level: float) -> int | None:
    """Returns the first of ``steps`` [N] from which the last returns' mean is a level.

    None if there is none. Chunks in which no episode ended count for nothing.
    """
    known = ~np.isnan(returns)
    steps, returns = steps[known], returns[known]
    for n in range(_CHUNKS, len(returns) + 1):
        if returns[n - _CHUNKS : n].mean() >= level:
            return int(steps[n - 1])
    return None


def _levels(
    arm: arms.Arm, folder: pathlib.Path, task: str, found: Any, members: list[int]
) -> list[float] | None:
    """Returns the level of each member, None where nothing is to be reached."""
    if arm.takes == "teacher":
        summary = metrics.read_summary(folder / run_folder.STAGES / "before")
        teachers = summary["tasks"][task]["members"]
        return [teachers[member % len(teachers)]["mean"] for member in members]
    if arm.tasks == "goal":
        return [_SUCCESS * found["reference_score"]] * len(members)
    return None


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "the first arm, 8,000 steps, three seeds")
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
        args.arms, args.env_steps, args.seeds = [next(iter(known))], 8_000, 3
        args.runs = args.runs / "quick"
    args.arms = args.arms or list(known)
    for arm in args.arms:
        if arm not in known:
            made.error(f"--arms: {arm!r} is none of {', '.join(known)}")
    return args


if __name__ == "__main__":
    main()
