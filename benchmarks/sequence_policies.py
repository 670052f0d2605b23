"""Return-conditioned and prompted policies beside Algorithm Distillation, in dark rooms.

    return_control   asked for a return of several, on three goals; MGDT tilted by several κ
    unseen           100 episodes on goals never trained on: who gets better by trying
    credit           a key, then a door, from random episodes alone
    prompt           Gato and AD shown demonstrations of several levels
    ngram            AD with and without an n-gram head, by histories of a goal
    q_objective      imitation and values, of histories that get better and of poor ones
    planning         AD that searches ahead by its own predictions, on goals never trained on
    permuted         AD of actions under numbers of each window's own, tested on such
    many_tasks       AD of 10,000 rooms with walls and of 64, on rooms never seen
    minatar          MGDT by κ, DT, cloning of all and of the best, of PPO's histories

The arms are described in sequence_policies_arms.py, _beyond.py and _large.py. All are stages of one run under --runs,
which is gone on with if it exists. A return is the mean over seeds, tasks and slots with its
95 % interval over tasks (of one task: over seeds); ``seeds`` are the means of each; ``first`` and ``last`` are of a tenth of the
episodes each, ``p_trend`` is the share of 2,000 orders of the episodes whose slope is as
far from 0. ED on unseen goals is what algorithm_distillation.py recorded on the same test
goals, of five times the histories and twice AD's windows; Gato is that of ``prompt``,
shown an episode at 40 % noise. ``data`` of the JSON has sizes and rates of what was collected and
read. Of ``minatar`` --goals are the games, Breakout unless others are given.

    python benchmarks/sequence_policies.py --experiment unseen
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import algorithm_distillation
import common
import numpy as np
import sequence_policies_arms as arms
import sequence_policies_beyond as beyond
import sequence_policies_large as large
import sequence_policies_pictures as pictures

from mtrl_jax import metrics, xla
from mtrl_jax.metrics import estimates
from mtrl_jax.training import run_folder

Row = dict[str, Any]
COLUMNS = {
    "arm": "<9",
    "goal": "<6",
    "asked": ">6.1f",
    "demo": ">6.2f",
    "mean": ">6.2f",
    "low": ">6.2f",
    "high": ">6.2f",
    "first": ">6.2f",
    "last": ">6.2f",
    "p_trend": ">8.2f",
    "success": ">8.3f",
}
_RECORDED = "algorithm_distillation_dark_room.json"
_PROMPTS, _NOISE = "sequence_policies_prompt.json", 0.4


def main() -> None:
    """Run what is missing, print the table, write JSON and PNG."""
    args = arguments()
    xla.configure_process()
    every = beyond.EXPERIMENTS[args.experiment]()
    experiment = arms.only(every, args.arms, args.goals)
    folder = args.runs / f"{args.experiment}{'-quick' if args.quick else ''}"
    algorithm_distillation.run(folder, arms.settings(experiment, args.quick))
    rows = [read(folder, arm) for arm in experiment.arms]
    if args.experiment == "unseen":
        rows += recorded()
    name = f"sequence_policies_{args.experiment}"
    data = large.data_of(folder, experiment.stages)
    if len(experiment.arms) < len(every.arms) and not args.quick:
        rows, data = beside(args.out / f"{name}.json", every, rows, data)
    print(common.header(COLUMNS))
    for row in rows:
        print(common.line(row, COLUMNS))
    is_whole = len(rows) >= len(every.arms)
    claims = summary(args.experiment, rows) if is_whole or not args.arms else {}
    for claim, value in claims.items():
        print(f"{claim}: {value:.3g}")
    result = {"machine": common.environment(), "arms": rows, "claims": claims}
    common.write(args.out, name, result | {"data": data})
    pictures.draw(args.experiment, rows, args.out / f"{name}.png")


def beside(
    path: pathlib.Path, every: arms.Experiment, rows: list[Row], data: list[Row]
) -> tuple[list[Row], list[Row]]:
    """Returns (rows, what stages made), with those in the JSON that are not run now.

    In the order of the experiment's arms and stages.
    """
    old = json.loads(path.read_text()) if path.exists() else {"arms": [], "data": []}

    def merged(new: list[Row], known: list[Row], keys: tuple[str, ...], order: list):
        def key(row: Row) -> tuple:
            return tuple(row.get(x) for x in keys)

        now = {key(row) for row in new}
        both = new + [row for row in known if key(row) not in now]
        places = {place: n for n, place in reversed(list(enumerate(order)))}
        return sorted(both, key=lambda row: places.get(key(row), len(order)))

    arms_of = [(arm.name, arm.goal, arm.asked) for arm in every.arms]
    stages = [(stage["name"],) for stage in every.stages]
    return (
        merged(rows, old["arms"], ("arm", "goal", "asked"), arms_of),
        merged(data, old["data"], ("stage",), stages),
    )


def read(folder: pathlib.Path, arm: arms.Arm) -> Row:
    """Returns the numbers and the curve of one arm."""
    if not arm.members:
        return collected(folder, arm)
    found = metrics.read_summary(folder / run_folder.STAGES / arm.stage)
    ((task, own),) = found["tasks"].items()
    curve = own["in_context"]
    # [seeds, tasks, episodes]: means over the slots of a task.
    returns = np.asarray(curve["returns"], float)[list(arm.members)]
    watched = curve.get("prompt", 0)
    acted = returns[..., watched:]
    seeds = acted.mean(axis=(1, 2))
    of_tasks = acted.mean(axis=(0, 2))
    low, high = estimates.mean_interval(seeds if len(of_tasks) == 1 else of_tasks)
    curve_of_all = acted.mean(axis=(0, 1))
    return {
        "arm": arm.name,
        "task": task,
        "goal": arm.goal,
        "asked": arm.asked,
        "demo": float(returns[..., :watched].mean()) if watched else None,
        "mean": float(acted.mean()),
        "low": float(low),
        "high": float(high),
        "seeds": seeds.tolist(),
        **ends(curve_of_all),
        # Of key and door the second reward is the door's.
        "success": float((acted >= 2).mean()) if "door" in task else None,
        "curve": curve_of_all.tolist(),
        "prompt": watched,
        "random_score": own["random_score"],
        "optimal_score": own["reference_score"],
    }


def collected(folder: pathlib.Path, arm: arms.Arm) -> Row:
    """Returns the mean return of the data that a stage collected, in episodes as long."""
    log = metrics.read_metrics(folder / run_folder.STAGES / arm.stage)
    ((_, returns),) = log.returns.items()  # [chunks, histories]
    of_all = np.nanmean(returns, axis=0)
    row = dict.fromkeys((*COLUMNS, "prompt", "random_score", "optimal_score"))
    return row | {
        "arm": arm.name,
        "goal": arm.goal,
        "mean": float(of_all.mean()),
        "seeds": [],
        "curve": np.nanmean(returns, axis=1).tolist(),
    }


def recorded() -> list[Row]:
    """Returns the recorded curves of ED and a prompted Gato on the same goals."""
    made = []
    for row in json.loads((common.RESULTS / _RECORDED).read_text())["arms"]:
        if row["arm"] == "ed":
            curve = np.asarray(row["mean"], float)
            made.append(
                {
                    "arm": "ed*",
                    "goal": "",
                    "mean": float(curve.mean()),
                    **ends(curve),
                    "curve": curve.tolist(),
                    "prompt": 0,
                    "random_score": row["random_score"],
                    "optimal_score": row["optimal_score"],
                }
            )
    prompts = common.RESULTS / _PROMPTS
    shown = json.loads(prompts.read_text())["arms"] if prompts.exists() else []
    own = [row for row in shown if row["arm"] == "gato" and not row["goal"]]
    own = [row for row in own if row["asked"] == _NOISE]
    return made + [{**row, "asked": None} for row in own]


def ends(curve: np.ndarray) -> Row:
    """Returns the means of the first and last tenth of a curve, and the trend's p."""
    tenth = max(1, len(curve) // 10)
    first, last = curve[:tenth].mean(), curve[-tenth:].mean()
    return {"first": float(first), "last": float(last), "p_trend": p_trend(curve)}


def p_trend(curve: np.ndarray, orders: int = 2000) -> float:
    """Returns the share of random orders of a curve whose slope is as far from 0."""
    time = np.arange(len(curve)) - (len(curve) - 1) / 2
    rng = np.random.default_rng(0)
    slopes = [abs(time @ rng.permutation(curve)) for _ in range(orders)]
    return float(np.mean(np.asarray(slopes) >= abs(time @ curve) - 1e-9))


def summary(experiment: str, rows: list[Row]) -> dict[str, float]:
    """Returns the numbers that the issue's claims are about."""
    if experiment == "return_control":
        return _control(rows)
    if experiment == "prompt":
        return _prompted(rows)
    if experiment == "credit":
        names = dict.fromkeys(row["arm"] for row in rows)
        return {
            f"success_{name}": float(
                np.mean([row["success"] for row in rows if row["arm"] == name])
            )
            for name in names
        }
    if experiment == "minatar":
        return _games(rows)
    tags = [f"{row['arm']}{'_' + row['goal'] if row['goal'] else ''}" for row in rows]
    return {f"last_{tag}": row["last"] for tag, row in zip(tags, rows)}


def _games(rows: list[Row]) -> dict[str, float]:
    """Returns how far above random play MGDT is, in units of how far the others are."""
    found = {}
    for game in dict.fromkeys(row["goal"] for row in rows):
        own = [row for row in rows if row["goal"] == game]
        above = {row["arm"]: row["mean"] - row["random_score"] for row in own}
        for name in above:
            if name != "mgdt_10":
                found[f"{game}_mgdt_10_over_{name}"] = above["mgdt_10"] / above[name]
    return found


def _prompted(rows: list[Row]) -> dict[str, float]:
    """Returns the slope of returns on those shown, on goals new and known, and the drift.

    And the lowest that AD ends at, whatever it was shown.
    """
    found = {}
    by_arm = {x: [row for row in rows if row["arm"] == x] for x in ("gato", "ad")}
    gato = by_arm["gato"]
    for name in dict.fromkeys(row["goal"] for row in gato):
        own = [row for row in gato if row["goal"] == name]
        demo, got = (np.asarray([row[k] for row in own]) for k in ("demo", "mean"))
        slope = np.polyfit(demo, got, 1)[0] if len(own) > 1 else np.nan
        found[f"slope_{name}" if name else "slope"] = float(slope)
    new = [row for row in gato if not row["goal"] and row["first"]]
    drift = max((abs(row["last"] / row["first"] - 1) for row in new), default=np.nan)
    least = min((row["last"] for row in by_arm["ad"]), default=np.nan)
    return {**found, "largest_drift": float(drift), "ad_ends_at_least": float(least)}


def _control(rows: list[Row]) -> dict[str, float]:
    """Returns means over goals: how well a return that is asked for is got."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(float(value))

    for goal in dict.fromkeys(row["goal"] for row in rows):
        own = [row for row in rows if row["goal"] == goal]
        by = {row["arm"]: row["mean"] for row in own if row["arm"] != "dt"}
        returns = {row["asked"]: row["mean"] for row in own if row["arm"] == "dt"}
        best = own[0]["optimal_score"]
        asked = np.asarray([x for x in returns if x <= min(16, best)])
        got = np.asarray([returns[x] for x in asked])
        note("correlation", np.corrcoef(asked, got)[0, 1])
        note("error", np.abs(asked - got).mean())
        note("share_of_optimum", returns[best] / best)
        note("over_bc", returns[best] / by["bc"])
        note("bc_over_data", by["bc"] / by["data"])
        note("over_best_clone", returns[best] / max(by[x] for x in arms.BEST))
        note("unreachable_over_optimum", returns[20.0] / returns[best])
        note("mgdt_10_over_dt", by["mgdt_10"] / returns[best])
        note("mgdt_10_over_0", by["mgdt_10"] / by["mgdt_0"])
    return {name: float(np.mean(values)) for name, values in found.items()}


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "a few updates and episodes")
    made.add_argument("--experiment", choices=beyond.EXPERIMENTS, default="unseen")
    made.add_argument("--arms", nargs="+", help="by default all of the experiment's")
    made.add_argument("--goals", nargs="+", help="of several runs; by default all")
    runs = pathlib.Path("runs/sequence_policies")
    made.add_argument("--runs", type=pathlib.Path, default=runs)
    args = made.parse_args()
    if args.experiment == "minatar":
        args.goals = args.goals or large.DEFAULT_GAMES
    all_arms = beyond.EXPERIMENTS[args.experiment]().arms
    for option, given, known in (
        ("--arms", args.arms, {arm.name for arm in all_arms}),
        ("--goals", args.goals, {arm.goal for arm in all_arms}),
    ):
        for name in given or ():
            if name not in known:
                made.error(f"{option}: {name!r} is none of {', '.join(sorted(known))}")
    return args


if __name__ == "__main__":
    main()
