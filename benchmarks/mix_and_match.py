"""Mix&Match against its own parts: curricula over action sets, architectures, tasks.

    actions       nine actions lead to 756 on laser tag
    architecture  feed-forward leads to LSTM on a maze of apples; control: MinAtar
    multitask     an expert a task leads one agent for three tasks of unequal rewards

Every arm is a run of its own under --runs (a population of seeds) and is gone on with if
it exists. The final score is that of the wanted policy alone (alpha = 1) in the final
evaluation (of ``no_mixing`` of a component a slot, whatever alpha is), IQM over seeds with its 95 % t interval (Tukey and McLaughlin; none of members
of one PBT population, which are one sample); the early one is the mean
training return over the first fifth of the run. Rows of arms that are left out (--arms)
stay in the JSON as they were, each with its date.

    python benchmarks/mix_and_match.py --experiment actions
    python benchmarks/mix_and_match.py --experiment architecture --arms linear lstm
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import common
import mix_and_match_arms as arms
import numpy as np

from mtrl_jax import metrics, xla
from mtrl_jax.config import loading
from mtrl_jax.metrics import estimates

COLUMNS = {
    "arm": "<18",
    "task": "<32",
    "steps": ">9",
    "early": ">8.2f",
    "final": ">8.2f",
    "low": ">8.2f",
    "high": ">8.2f",
    "normalised": ">11.3f",
    "wall_s": ">8.0f",
}


def main() -> None:
    """Run what is missing; print the table, write JSON and PNGs."""
    args = arguments()
    xla.configure_process()
    name = f"mix_and_match_{args.experiment}{'_pixels' if args.pixels else ''}"
    print(common.header(COLUMNS))
    rows = kept(args.out / f"{name}.json", args.arms)
    folders: dict[str, pathlib.Path] = {}
    for arm in args.arms:
        seen = "-pixels" if args.pixels else ""
        folder = args.runs / f"{args.experiment}-{arm}-{args.env_steps}{seen}"
        given = arms.settings(
            args.experiment, arm, args.env_steps, args.seeds, args.pixels
        )
        common.trained(loading.from_dict(given, where=arm), folder)
        folders[arm] = folder
        rows += read(arm, folder, seeds=not given["population"].get("pbt"))
        for row in rows:
            if row["arm"] == arm:
                print(common.line(row, COLUMNS), flush=True)
        rows.sort(
            key=lambda row: list(arms.EXPERIMENTS[args.experiment]).index(row["arm"])
        )
        result = {"machine": common.environment(), "rows": rows}
        common.write(args.out, name, result)
    draw(args.experiment, folders, args.out / name)


def kept(path: pathlib.Path, measured: list[str]) -> list[dict[str, Any]]:
    """Returns the rows in ``path`` of arms that are not ``measured`` now."""
    before = json.loads(path.read_text())["rows"] if path.exists() else []
    return [row for row in before if row["arm"] not in measured]


def read(arm: str, folder: pathlib.Path, seeds: bool) -> list[dict[str, Any]]:
    """Returns the table's rows of a finished run, one a task.

    Without ``seeds`` the members copied each other: they are one sample.
    """
    summary, log = metrics.read_summary(folder), metrics.read_metrics(folder)
    rows = []
    for task, found in summary["tasks"].items():
        final = np.asarray([member["mean"] for member in found["members"]], float)
        quarter = estimates.QUARTER
        low, high = estimates.t_interval(final, trim=quarter) if seeds else (None, None)
        low_score, high_score = found["random_score"], found["reference_score"]
        returns = log.returns[task]
        first = returns[: max(1, len(returns) // 5)]
        early = np.nanmean(first, axis=0)
        iqm = estimates.iqm(final)
        rows.append(
            {
                "arm": arm,
                "date": common.environment()["date"][:10],
                "task": task.removeprefix("labyrinth/"),
                "steps": summary["totals"]["env_steps_per_member"],
                "early": float(np.nanmean(early)),
                "early_seeds": early.tolist(),
                "final": iqm,
                "low": low,
                "high": high,
                "seeds": final.tolist(),
                "normalised": (iqm - low_score) / (high_score - low_score),
                "alpha": log.hparams["alpha"][-1].tolist()
                if "alpha" in log.hparams
                else None,
                "wall_s": summary["totals"]["wall_s"],
            }
        )
    return rows


def draw(experiment: str, folders: dict[str, pathlib.Path], path: pathlib.Path) -> None:
    """Draw PATH.png, PATH_alpha.png and those of ablations, control."""
    for suffix, chosen in arms.pictures(experiment, folders).items():
        some = {arm: folders[arm] for arm in chosen}
        draw_returns(some, path.with_name(f"{path.name}{suffix}.png"))
        if any(arms.has_curriculum(arm) for arm in some):
            draw_mechanics(some, path.with_name(f"{path.name}{suffix}_alpha.png"))


def draw_returns(folders: dict[str, pathlib.Path], path: pathlib.Path) -> None:
    """Draw training returns, a panel a task, a band over seeds."""
    logs = {arm: metrics.read_metrics(folder) for arm, folder in folders.items()}
    tasks = list(dict.fromkeys(t for log in logs.values() for t in log.returns))
    titles = [task.removeprefix("labyrinth/") for task in tasks]
    with common.figure(path, titles, (8 if len(tasks) == 1 else 5, 4)) as axes:
        for ax, task in zip(axes, tasks):
            for arm, log in logs.items():
                if task in log.returns:
                    common.curve(ax, log.env_steps, log.returns[task], arm)
            ax.set(xlabel="env steps", ylabel="return of the control policy")
        # Beside the last panel: many curves leave no room within.
        axes[0].figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside center right"
        )


def draw_mechanics(folders: dict[str, pathlib.Path], path: pathlib.Path) -> None:
    """Draw what Mix&Match did: alpha, action entropy, the KL."""
    logs = {arm: metrics.read_metrics(folder) for arm, folder in folders.items()}
    panels = ("alpha", "action_entropy", "kl")
    titles = ("alpha", "entropy of the actions taken, nats", "KL(first ‖ last), nats")
    with common.figure(path, titles) as axes:
        for ax, name in zip(axes, panels):
            for arm, log in logs.items():
                values = {**log.metrics, **log.hparams}.get(name)
                if values is not None and arms.has_curriculum(arm):
                    common.curve(ax, log.env_steps, values, arm)
            ax.set(xlabel="env steps")
        if axes[0].lines:
            handles = axes[0].get_legend_handles_labels()
            axes[0].figure.legend(*handles, loc="outside center right")


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "two arms of 60,000 steps")
    made.add_argument("--experiment", choices=arms.EXPERIMENTS, default="actions")
    made.add_argument("--arms", nargs="+", help="by default all of the experiment's")
    made.add_argument("--env-steps", type=int, help="of a member, all tasks together")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument(
        "--pixels", action="store_true", help="for accelerators: see mix_and_match_arms"
    )
    made.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/mix_and_match")
    )
    args = made.parse_args()
    args.env_steps = args.env_steps or arms.STEPS[args.experiment]
    known = arms.EXPERIMENTS[args.experiment]
    if args.quick:
        args.arms, args.env_steps = ["linear"], 60_000
        args.runs = args.runs / "quick"
    args.arms = args.arms or list(known)
    for arm in args.arms:
        if arm not in known:
            made.error(f"--arms: {arm!r} is none of {', '.join(known)}")
    return args


if __name__ == "__main__":
    main()
