"""The quickstart with five seeds: what the best member of each population reaches.

``configs/quickstart.yaml`` as it is, a run a seed under --runs, gone on with if it exists.
A run's best member is chosen by its training score; its score is the mean of the final
evaluation, on fresh episodes with sampled actions. Every seed is to reach every mark.

    python benchmarks/quickstart.py                  # five times the quickstart
    python benchmarks/quickstart.py --seeds 0 3
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import common
import numpy as np

from mtrl_jax import metrics, xla
from mtrl_jax.config import loading

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "quickstart.yaml"
MARKS = {
    "gymnax/CartPole-v1": 475.0,
    "gymnax/Catch-bsuite": 0.95,
    "gymnax/MemoryChain-bsuite": 0.95,
}
QUICK = ["training.env_steps=48000", "population.size=4", "evaluation.episodes=8"]
COLUMNS = {
    "seed": ">4",
    "task": "<26",
    "steps": ">10",
    "population": ">10.3f",
    "best": ">8.3f",
    "mark": ">8.2f",
    "reached": ">7",
}


def main() -> None:
    """Run what is missing; print the table, write JSON and PNG."""
    made = common.parser(__doc__ or "", "48,000 steps of four members, one seed")
    made.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    made.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/quickstart-seeds")
    )
    args = made.parse_args()
    xla.configure_process()
    changes: list[str] = []
    if args.quick:
        args.seeds, args.runs, changes = args.seeds[:1], args.runs / "quick", QUICK
    print(common.header(COLUMNS))
    rows: list[dict[str, Any]] = []
    for seed in args.seeds:
        folder = args.runs / str(seed)
        common.trained(settings(seed, changes), folder)
        rows += read(seed, folder)
        for row in rows[-len(MARKS) :]:
            print(common.line(row, COLUMNS), flush=True)
        result = {"machine": common.environment(), "rows": rows}
        common.write(args.out, "quickstart", result)
    draw(args, args.out / "quickstart.png")


def settings(seed: int, changes: list[str]) -> Any:
    """Returns the quickstart's settings with another seed."""
    given = loading.override(loading.read_yaml(CONFIG), [f"seed={seed}", *changes])
    return loading.from_dict(given, where=CONFIG.stem)


def read(seed: int, folder: pathlib.Path) -> list[dict[str, Any]]:
    """Returns the rows of a finished run, one a task."""
    summary = metrics.read_summary(folder)
    best = summary["best_member"]
    rows = []
    for task, mark in MARKS.items():
        found = summary["tasks"][task]
        (member,) = [x for x in found["members"] if x["member"] == best]
        rows.append(
            {
                "seed": seed,
                "task": task,
                "steps": summary["totals"]["env_steps_per_member"],
                "population": found["mean"],
                "best": member["mean"],
                "episodes": member["episodes"],
                "mark": mark,
                "reached": bool(member["mean"] >= mark),
            }
        )
    return rows


def draw(args: argparse.Namespace, path: pathlib.Path) -> None:
    """Draw the training return of the run's best member, a line a seed."""
    logs = {seed: metrics.read_metrics(args.runs / str(seed)) for seed in args.seeds}
    best = {
        seed: metrics.read_summary(args.runs / str(seed))["best_member"]
        for seed in args.seeds
    }
    with common.figure(path, list(MARKS)) as axes:
        for ax, (task, mark) in zip(axes, MARKS.items()):
            for seed, log in logs.items():
                returns = log.returns[task][:, best[seed]]
                known = ~np.isnan(returns)
                label = f"seed {seed}"
                ax.plot(log.env_steps[known], returns[known], label=label)
            ax.axhline(mark, color="grey", ls=":")
            ax.set(xlabel="env steps of a member", ylabel="return, best member")
        axes[0].legend()


if __name__ == "__main__":
    main()
