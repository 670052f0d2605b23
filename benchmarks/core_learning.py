"""Is a memory that scans in parallel learned as well as an LSTM, and in less time?

V-trace as in ``configs/quickstart.yaml``, five seeds of each core as one population
without PBT, unrolls of 256 steps. ``memory``: bsuite's MemoryChain, what was seen first
is asked for 30 steps later. ``labyrinth``: labyrinth/explore_goal_locations_small, whose
goal is to be found again. Shown are the mean of the final evaluation with its 95 %
interval over seeds (Student's t), the mean training return over the whole run, and the
median of the loop's steps a second, of all seeds together. Every run is gone on with if
it exists under --runs. Writes core_learning.json and .png.

    python benchmarks/core_learning.py [--tasks memory labyrinth] [--quick]
"""

from __future__ import annotations

import pathlib
from typing import Any

import common
import numpy as np

from mtrl_jax import metrics, xla
from mtrl_jax.config import loading
from mtrl_jax.metrics import estimates

CONFIG = pathlib.Path(__file__).parent.parent / "configs/quickstart.yaml"
CORES = ("lstm", "gru", "mingru", "none")  # the last cannot remember: a control
UNROLL = 256
TASKS: dict[str, dict[str, Any]] = {
    "memory": {"env": "gymnax/MemoryChain-bsuite", "options": {"memory_length": 30}},
    "labyrinth": {"env": "labyrinth/explore_goal_locations_small"},
}
STEPS = {"memory": 3_000_000, "labyrinth": 2_000_000}
COLUMNS = {
    "task": "<10",
    "core": "<8",
    "steps": ">9,d",
    "final": ">8.3f",
    "low": ">8.3f",
    "high": ">8.3f",
    "area": ">8.3f",
    "steps/s": ">10,.0f",
}


def main() -> None:
    """Runs what is missing; prints the table, writes JSON and PNG."""
    made = common.parser(__doc__ or "", "two cores, 20,000 steps, two seeds")
    made.add_argument("--tasks", nargs="+", choices=TASKS, default=["memory"])
    made.add_argument("--cores", nargs="+", choices=CORES, default=list(CORES))
    made.add_argument("--env-steps", type=int, help="of a member")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/cores"))
    args = made.parse_args()
    xla.configure_process()
    if args.quick:
        args.cores, args.env_steps, args.seeds = ["lstm", "mingru"], 20_000, 2
        args.runs = args.runs / "quick"
    print(common.header(COLUMNS))
    rows: list[dict[str, Any]] = []
    curves: dict[str, list] = {}
    for task in args.tasks:
        for core in args.cores:
            steps = args.env_steps or STEPS[task]
            folder = args.runs / f"{task}-{core}-{steps}-{args.seeds}"
            given = settings(task, core, steps, args.seeds)
            common.trained(loading.from_dict(given, where=core), folder)
            rows.append(read(task, core, folder, curves))
            print(common.line(rows[-1], COLUMNS), flush=True)
            result = {"machine": common.environment(), "rows": rows}
            common.write(args.out, "core_learning", result)
    draw(curves, args.out / "core_learning.png")


def settings(task: str, core: str, env_steps: int, seeds: int) -> dict[str, Any]:
    """Returns the settings of a core's run."""
    given = loading.read_yaml(CONFIG)
    given["tasks"] = [{**TASKS[task], "slots": 16}]
    agent = given["agent"]
    agent["config"]["network"]["core"] = core
    updates = -(-env_steps // (16 * UNROLL))
    agent["hparams"] |= {"decay_updates": updates, "discount": 0.99}
    given["population"] = {"size": seeds}
    given["training"] = {
        **{"env_steps": env_steps, "unroll_length": UNROLL},
        "updates_per_chunk": max(1, updates // 50),
    }
    given["evaluation"] = {"every_updates": 0, "episodes": 64}
    given["checkpoint"] = {"every_updates": 200, "keep": 1}
    return given


def read(
    task: str, core: str, folder: pathlib.Path, curves: dict[str, list]
) -> dict[str, Any]:
    """Returns the row of a finished run and adds its curve."""
    summary, log = metrics.read_summary(folder), metrics.read_metrics(folder)
    ((name, found),) = summary["tasks"].items()
    seeds = np.asarray([member["mean"] for member in found["members"]], float)
    low, high = estimates.t_interval(seeds)
    curves.setdefault(task, []).append((core, log.env_steps, log.returns[name]))
    return {
        "task": task,
        "core": core,
        "steps": summary["totals"]["env_steps_per_member"],
        "final": float(seeds.mean()),
        "low": low,
        "high": high,
        "seeds": seeds.tolist(),
        "area": float(np.nanmean(log.returns[name])),
        "random": found["random_score"],
        "reference": found["reference_score"],
        "steps/s": float(np.median(log.steps_per_s)),
    }


def draw(curves: dict[str, list], path: pathlib.Path) -> None:
    """Draw training returns, a panel a task, the range of seeds as a band."""
    with common.figure(path, list(curves)) as axes:
        for ax, known in zip(axes, curves.values()):
            for core, steps, returns in known:
                common.curve(ax, steps, returns, core)
            ax.set(xlabel="env steps of a seed", ylabel="training return")
            ax.legend(fontsize="small")


if __name__ == "__main__":
    main()
