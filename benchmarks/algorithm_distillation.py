"""Algorithm Distillation in dark rooms against what it should beat, goals never trained on.

    ad           configs/algorithm_distillation_dark_room.yaml as it is
    ed           expert distillation: the last tenth of the histories alone
    context_10   half an episode of context, and not a step more
    subsample_4  every fourth episode instead of every eighth
    sharp        ad, acting at temperature 0.5: less noise than its source had
    greedy       ad, acting with its most probable action

All arms are stages of one run under --runs, which is gone on with if it exists, and learn
from the same histories. A return is the mean over 16 held-out goals with its 95 % interval
over goals; the source's are those of its own 65 goals while it learned. The speed of
making histories is that of all learners at once, and of one after the other.

    python benchmarks/algorithm_distillation.py
"""

from __future__ import annotations

import argparse
import copy
import pathlib
from collections.abc import Callable
from typing import Any

import common
import numpy as np

from mtrl_jax import config as config_lib
from mtrl_jax import curves, metrics, random, stages, staging, xla

CONFIG = (
    pathlib.Path(__file__).parents[1] / "configs/algorithm_distillation_dark_room.yaml"
)
CONTEXT_10 = {
    "agent.config.transformer.context": 10,
    # A cache would see further, through the layers.
    "agent.config.transformer.acting": "recompute",
    "training.unroll_length": 10,
    "training.batch": 640,
}
# What an arm changes of the offline stage, and of acting.
ARMS: dict[str, tuple[dict[str, Any], dict[str, float]]] = {
    "ad": ({}, {}),
    "ed": ({"keep.last_fraction": 0.1, "keep.subsample": 1}, {}),
    "context_10": (CONTEXT_10, {}),
    "subsample_4": ({"keep.subsample": 4}, {}),
    "sharp": ({}, {"temperature": 0.5}),
    "greedy": ({}, {"temperature": 0.0}),
}
# Arms that act with the weights of another.
WEIGHTS = {"sharp": "ad", "greedy": "ad"}
# The stages of an arm, where they are those of the config: {arm: (training, evaluation)}.
STAGES = {"ad": ("distilled", "in_context")}
SOURCE = "source"
REACHED = 12.0  # the return that episodes are counted to
COLUMNS = {
    "arm": "<12",
    "first": ">7.2f",
    "at_50": ">7.2f",
    "last": ">7.2f",
    "low": ">7.2f",
    "high": ">7.2f",
    "episodes_to_12": ">15",
    "updates": ">8",
    "wall_s": ">8.0f",
}


def main() -> None:
    """Returns after running what is missing; prints the table, writes JSON and a PNG."""
    args = arguments()
    xla.prepare()
    settings = experiment(args.arms, args.quick)
    folder = args.runs / "-".join([*args.arms, *(["quick"] if args.quick else [])])
    begun = (folder / "config.yaml").exists()
    given = config_lib.from_dict(settings, where=str(CONFIG))
    code = stages.resume(folder) if begun else stages.train(given, folder)
    if code:
        raise SystemExit(code)
    found = {arm: read(folder, arm) for arm in args.arms}
    found[SOURCE] = read_source(folder, given)
    print(common.header(COLUMNS))
    for arm, row in found.items():
        print(common.line({"arm": arm, **row}, COLUMNS))
    speed = making_speed(64 if args.quick else 3250)
    print(
        f"making histories: {speed['together']:.3g} steps/s of {speed['members']} learners "
        f"together, {speed['alone']:.3g} of one: {speed['ratio']:.0f} times as fast"
    )
    name = "algorithm_distillation"
    result = {"machine": common.environment(), "arms": found, "speed": speed}
    common.write(args.out, name, result)
    draw(found, args.out / f"{name}.png")


def experiment(arms: list[str], quick: bool) -> dict[str, Any]:
    """Returns the settings of one run with the stages of all ``arms``."""
    base = config_lib.read_yaml(CONFIG)
    source, distilled, tested = base["stages"]
    if quick:
        source["population"]["size"] = 130
        source["training"]["env_steps"] = 420
        distilled["training"] |= {"updates": 20, "updates_per_chunk": 10, "batch": 8}
        tested["evaluation"] |= {"episodes": 6, "episodes_per_chunk": 2}
    made = [source]
    for arm in arms:
        changes, hparams = ARMS[arm]
        trained, own = stages_of(arm)
        if arm not in WEIGHTS:
            made.append(changed({**distilled, "name": trained}, changes))
        stage = {**tested, "name": own, "of": trained}
        made.append(changed(stage, {"evaluation.hparams": hparams}))
    return {**base, "stages": made}


def stages_of(arm: str) -> tuple[str, str]:
    """Returns the names of the stages that trained and tested an arm."""
    weights = WEIGHTS.get(arm, arm)
    training = STAGES.get(weights, (f"train_{weights}",))[0]
    return training, STAGES[arm][1] if arm in STAGES else arm


def changed(stage: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of a stage with values at dotted names."""
    made = copy.deepcopy(stage)
    for name, value in changes.items():
        *path, last = name.split(".")
        at = made
        for part in path:
            at = at.setdefault(part, {})
        at[last] = value
    return made


def read(folder: pathlib.Path, arm: str) -> dict[str, Any]:
    """Returns the numbers and the curve of a finished arm."""
    trained, own = (
        metrics.read_summary(staging.folder_of(folder, name)) for name in stages_of(arm)
    )
    (task,), totals = own["tasks"].values(), trained["totals"]
    curve = task["in_context"]
    mean = np.asarray(curve["mean"], float)
    of_goals = np.nanmean(np.asarray(curve["returns"], float)[..., -10:], axis=(0, 2))
    low, high = interval(of_goals)
    return {
        "first": mean[0],
        "at_50": float(mean[45:55].mean()) if len(mean) > 50 else None,
        "last": float(mean[-10:].mean()),
        "low": low,
        "high": high,
        "episodes_to_12": reached(np.arange(1, len(mean) + 1), mean),
        "updates": totals["updates"],
        "wall_s": totals["wall_s"],
        "episode": list(range(1, len(mean) + 1)),
        "mean": mean.tolist(),
        "interval": curve["interval"],
        "random_score": task["random_score"],
        "optimal_score": task["reference_score"],
    }


def read_source(folder: pathlib.Path, given: Any) -> dict[str, Any]:
    """Returns the same of the learners who made the histories, on their own goals."""
    own = staging.folder_of(folder, SOURCE)
    curve = curves.curve_of(own, given.stages[0])
    mean, totals = np.asarray(curve["mean"]), metrics.read_summary(own)["totals"]
    return {
        "first": mean[0],
        "last": mean[-1],
        "episodes_to_12": reached(np.asarray(curve["episode"]), mean),
        "updates": totals["updates"],
        "wall_s": totals["wall_s"],
        **curve,
    }


def reached(episode: np.ndarray, mean: np.ndarray) -> int | None:
    """Returns the first episode that ends five with a mean of REACHED, or None."""
    # A row of the source is the mean of several episodes already.
    width = 1 if episode[0] > 1 else 5
    smooth = np.convolve(mean, np.ones(width) / width)[: len(mean)]
    above = np.flatnonzero(smooth >= REACHED)
    return int(episode[above[0]]) if above.size else None


def interval(of_goals: np.ndarray) -> tuple[float, float]:
    """Returns the bootstrap 95 % interval of a mean over goals."""
    from mtrl_jax.metrics import estimates

    low, high = estimates.bootstrap_interval(of_goals)
    return float(low), float(high)


def making_speed(members: int) -> dict[str, float]:
    """Returns environment steps per second of making histories, together and alone."""
    updates = 210
    calls = {n: making(n, updates) for n in (members, 1)}
    taken = common.in_turn(calls, turns=5)
    together, alone = (n * updates / float(np.median(taken[n])) for n in calls)
    return {
        "members": members,
        "together": together,
        "alone": alone,
        "ratio": together / alone,
    }


def making(members: int, updates: int) -> Callable[[], Any]:
    """Returns the call that makes ``updates`` steps of the histories of ``members``."""
    import jax
    import jax.numpy as jnp

    from mtrl_jax.agents import tabular
    from mtrl_jax.engine import fused_runner
    from mtrl_jax.envs import core, dark

    task, options = dark.task("room"), {"tasks": "train"}
    env = core.spread(task, dark.tasks_of("room", options), (members, 1))
    agent = tabular.make(env.spec, tabular.Config(sizes=(9, 9)))
    runner = fused_runner.make(
        agent, env, unroll_length=1, updates_per_chunk=updates, record=True
    )
    hp = jax.tree.map(lambda x: jnp.full((members,), x), tabular.Hparams())
    state, chunk = (
        jax.jit(runner.init)(random.roots(0, members), hp),
        jax.jit(runner.chunk),
    )
    return lambda: chunk(state, hp)


def draw(found: dict[str, Any], path: pathlib.Path) -> None:
    """Returns after drawing the return per episode of all arms."""
    arms = {name: row for name, row in found.items() if name != SOURCE}
    first = next(iter(arms.values()))
    with common.figure(path, ["return on 16 goals never trained on"], (7, 5)) as (ax,):
        for name, row in arms.items():
            (line,) = ax.plot(row["episode"], row["mean"], label=name)
            band = np.asarray(row["interval"], float).T
            ax.fill_between(row["episode"], *band, alpha=0.15, color=line.get_color())
        source = found[SOURCE]
        ax.plot(source["episode"], source["mean"], "k--", label="source (own goals)")
        for name, dashes in (("random", (2, 2)), ("optimal", (6, 2))):
            ax.axhline(first[f"{name}_score"], color="grey", dashes=dashes, label=name)
        ax.set(xlabel="episode", ylabel="return")
        ax.legend()


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "one arm, 130 learners, 20 updates")
    made.add_argument(
        "--arms",
        nargs="+",
        choices=ARMS,
        default=["ad", "ed", "context_10", "sharp", "greedy"],
    )
    made.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/algorithm_distillation")
    )
    args = made.parse_args()
    args.arms = ["ad"] if args.quick else args.arms
    for arm, weights in WEIGHTS.items():
        if arm in args.arms and weights not in args.arms:
            made.error(f"--arms: {arm} acts with the weights of {weights}; give both")
    return args


if __name__ == "__main__":
    main()
