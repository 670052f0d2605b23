"""Algorithm Distillation against what it should beat, on tasks never trained on.

    dark_room    a goal that only rewards tell of; also context, data and prompts
    key_to_door  a key, then a door
    bandit       UCB1's exploration, where the arms are good that were and that were not

The arms are described in algorithm_distillation_arms.py. All are stages of one run under
--runs, which is gone on with if it exists; arms that it lacks are added, those it has
stay as they were. A return is the mean over the held-out tasks with its 95 % interval
over tasks; ``last`` is of the last tenth of the episodes, ``demo`` of those that an arm
only watched. The source's are those of its own tasks while it learned. The speed of
making histories is that of all learners at once, and of one after the other. Another
``--seed`` is another run, with the same tasks held out and results of its own.

    python benchmarks/algorithm_distillation.py --experiment dark_room
    python benchmarks/algorithm_distillation.py --experiment bandit --arms ad ed
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import Any

import algorithm_distillation_arms
import algorithm_distillation_pictures as pictures
import common
import numpy as np

from mtrl_jax import metrics, random, xla
from mtrl_jax.config import agent_settings, loading
from mtrl_jax.experiments import (
    build,
    episode_curves,
    reading,
    runs,
    task_families,
)
from mtrl_jax.metrics import estimates
from mtrl_jax.training import run_folder

SOURCE = "source"
COLUMNS = {
    "arm": "<13",
    "task": "<17",
    "first": ">7.2f",
    "demo": ">7.2f",
    "at_50": ">7.2f",
    "last": ">7.2f",
    "low": ">7.2f",
    "high": ">7.2f",
    "reached_after": ">14",
    "of_ucb1": ">8.3f",
    "updates": ">8",
    "wall_s": ">7.0f",
}


def main() -> None:
    """Run what is missing; print the table, write JSON and a PNG."""
    args = arguments()
    xla.configure_process()
    which = args.experiment if args.seed is None else f"{args.experiment}_{args.seed}"
    folder = args.runs / f"{which}{'-quick' if args.quick else ''}"
    settings = algorithm_distillation_arms.settings(
        args.experiment, args.arms, args.quick
    )
    if args.seed is not None:
        settings["seed"] = args.seed
    given = run(folder, settings)
    rows = [row for arm in args.arms for row in read(folder, args.experiment, arm)]
    against(rows, "ucb1")
    source = read_source(
        folder, given, algorithm_distillation_arms.EXPERIMENTS[args.experiment].reached
    )
    print(common.header(COLUMNS))
    for row in [*rows, *([source] if source else [])]:
        print(common.line(row, COLUMNS))
    speed = making_speed(given)
    if speed:
        print(
            f"making histories: {speed['together']:.3g} steps/s of {speed['members']} "
            f"learners together, {speed['alone']:.3g} of one: {speed['ratio']:.0f} times "
            "as fast"
        )
    name = f"algorithm_distillation_{which}"
    result = {"machine": common.environment(), "arms": rows, "source": source}
    common.write(args.out, name, result | {"speed": speed})
    pictures.draw(rows, source, args.out / f"{name}.png")


def run(folder: pathlib.Path, settings: dict[str, Any]) -> Any:
    """Returns the run's settings after all its stages; stages it lacks are added to it."""
    begun = (folder / run_folder.CONFIG).exists()
    if begun:
        old = loading.to_dict(reading.load_config(folder))
        known = {stage["name"] for stage in old["stages"]}
        more = [stage for stage in settings["stages"] if stage["name"] not in known]
        settings = {**old, "stages": [*old["stages"], *more]}
    given = loading.from_dict(settings, where=str(folder))
    if begun:
        run_folder.write_config(folder, given)
    code = runs.resume(folder) if begun else runs.train(given, folder)
    if code:
        raise SystemExit(code)
    return given


def read(folder: pathlib.Path, experiment_: str, arm: str) -> list[dict[str, Any]]:
    """Returns the numbers and curves of a finished arm, a row for each kind of task."""
    trained, own = (
        metrics.read_summary(folder / run_folder.STAGES / name)
        for name in algorithm_distillation_arms.stages_of(experiment_, arm)
    )
    wanted, totals = (
        algorithm_distillation_arms.EXPERIMENTS[experiment_].reached,
        trained["totals"],
    )
    known = algorithm_distillation_arms.EXPERIMENTS[experiment_].arms[arm]
    rows = []
    for task, found in own["tasks"].items():
        curve = found["in_context"]
        if known.group:
            curve = of_member(curve, known.member)
        mean, watched = np.asarray(curve["mean"], float), curve.get("prompt", 0)
        last = slice(-max(1, len(mean) // 10), None)
        of_tasks = np.nanmean(np.asarray(curve["returns"], float)[..., last], (0, 2))
        low, high = estimates.mean_interval(of_tasks)
        rows.append(
            {
                "arm": arm,
                "task": task,
                "first": mean[watched],
                "demo": float(mean[:watched].mean()) if watched else None,
                "at_50": float(mean[45:55].mean()) if len(mean) >= 50 else None,
                "last": float(mean[last].mean()),
                "low": float(low),
                "high": float(high),
                "reached_after": reached(np.arange(1, len(mean) + 1), mean, wanted),
                "updates": totals["updates"],
                "wall_s": totals["wall_s"],
                "prompt": watched,
                "episode": list(range(1, len(mean) + 1)),
                "mean": mean.tolist(),
                "interval": curve["interval"],
                "rewards": curve.get("rewards"),
                "random_score": found["random_score"],
                "optimal_score": found["reference_score"],
            }
        )
    return rows


def of_member(curve: dict[str, Any], member: int) -> dict[str, Any]:
    """Returns the curve of one member of a population."""
    returns = np.asarray(curve["returns"], float)[member]
    return {
        **curve,
        "mean": np.nanmean(returns, axis=0),
        "interval": [estimates.mean_interval(x) for x in returns.T],
        "returns": returns[None],
    }


def against(rows: list[dict[str, Any]], arm: str) -> None:
    """Note in every row its last return as a share of that of ``arm``."""
    known = {row["task"]: row["last"] for row in rows if row["arm"] == arm}
    for row in rows:
        if row["task"] in known:
            row[f"of_{arm}"] = row["last"] / known[row["task"]]


def read_source(
    folder: pathlib.Path, given: Any, wanted: float | None
) -> dict[str, Any] | None:
    """Returns the same of the learners who made the histories, on their own tasks.

    None where these had but one episode each, and so no curve, and where no arm reads
    what they left.
    """
    stage, own = _stage(given, SOURCE), folder / run_folder.STAGES / SOURCE
    if stage is None:
        return None
    curve = episode_curves.curve_of(own, stage)
    mean, totals = np.asarray(curve["mean"]), metrics.read_summary(own)["totals"]
    if len(mean) < 2:
        return None
    return {
        "arm": SOURCE,
        "first": mean[0],
        "last": mean[-1],
        "reached_after": reached(np.asarray(curve["episode"]), mean, wanted),
        "updates": totals["updates"],
        "wall_s": totals["wall_s"],
        **curve,
    }


def reached(episode: np.ndarray, mean: np.ndarray, wanted: float | None) -> int | None:
    """Returns the first episode that ends five with a mean of ``wanted``, or None."""
    if wanted is None:
        return None
    # A row of the source is the mean of several episodes already.
    width = 1 if episode[0] > 1 else 5
    smooth = np.convolve(mean, np.ones(width) / width)[: len(mean)]
    above = np.flatnonzero(smooth >= wanted)
    return int(episode[above[0]]) if above.size else None


def making_speed(given: Any) -> dict[str, float] | None:
    """Returns environment steps per second of making histories, together and alone.

    None where no arm reads those of the config's learners.
    """
    stage = _stage(given, SOURCE)
    if stage is None:
        return None
    steps = stage.training.updates_per_chunk * stage.training.unroll_length
    members = stage.population.size
    taken = common.in_turn({n: making(stage, n) for n in (members, 1)}, turns=5)
    together, alone = (n * steps / float(np.median(taken[n])) for n in (members, 1))
    ratio = together / alone
    return {"members": members, "together": together, "alone": alone, "ratio": ratio}


def making(stage: Any, members: int) -> Callable[[], Any]:
    """Returns the call that makes a chunk of the histories of ``members`` learners."""
    import jax

    from mtrl_jax.engine import fused_runner

    population = stage.population.model_copy(update={"size": members})
    stage = stage.model_copy(update={"population": population})
    env = task_families.collecting(stage)[0].train
    agent = agent_settings.module(stage).make(env.spec, agent_settings.config(stage))
    runner = fused_runner.make(
        agent,
        env,
        unroll_length=stage.training.unroll_length,
        updates_per_chunk=stage.training.updates_per_chunk,
        record=True,
    )
    keys = random.roots(0, members)
    hp = build.initial_hparams(stage, keys)
    state, chunk = jax.jit(runner.init)(keys, hp), jax.jit(runner.chunk)
    return lambda: chunk(state, hp)


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "one arm, 130 learners, 20 updates")
    made.add_argument(
        "--experiment",
        choices=algorithm_distillation_arms.EXPERIMENTS,
        default="dark_room",
    )
    made.add_argument("--seed", type=int, help="by default the config's, 0")
    made.add_argument(
        "--arms", nargs="+", help="by default the experiment's usual ones"
    )
    made.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/algorithm_distillation")
    )
    args = made.parse_args()
    chosen = algorithm_distillation_arms.EXPERIMENTS[args.experiment]
    args.arms = ["ad"] if args.quick else args.arms or list(chosen.usual)
    for arm in args.arms:
        if arm not in chosen.arms:
            made.error(f"--arms: {arm!r} is none of {', '.join(chosen.arms)}")
    return args


def _stage(given: Any, name: str) -> Any:
    return next((stage for stage in given.stages if stage.name == name), None)


if __name__ == "__main__":
    main()
