"""PopArt: one agent on four MinAtar games whose rewards differ by a factor of 1e6.

A run is one program whose members are seeds of two arms. Both have PopArt's value head,
one output a task; without PopArt its statistics stay at mean 0 and deviation 1 (a step
size of 0), which is the value in the unit of rewards.

    scaled      rewards times 1e-2, 1, 1e2, 1e4: popart and none
    unscaled    rewards as they are: popart, and none, which is the oracle's scaling
    redrawn     the scales dealt to other games: popart and none
    normalised  scaled, with advantages of mean 0 and variance 1 over each task

In the others advantages are as the value has them: A/σ with PopArt (the paper's), A
without. Everything else is ``configs/minatar_popart.yaml``. Every run is gone on with
from --runs if it exists. A score is the mean return of a seed's final evaluation, in the
game's own unit; normalised, 0 is random and 1 the oracle's mean. "least" is an arm's least
game among those that the oracle has learned (``LEARNED`` times random's distance to PPO's
published score, which takes 1e7 steps a game).

    python benchmarks/popart.py                      # 1e7 steps a game, a day on 2 cores
    python benchmarks/popart.py --env-steps 400000 --seeds 2 --arms scaled unscaled
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any, NamedTuple

import common
import numpy as np

from mtrl_jax import envs, metrics, xla
from mtrl_jax.config import loading, schema
from mtrl_jax.metrics import estimates

CONFIG = pathlib.Path(__file__).parent.parent / "configs" / "minatar_popart.yaml"
GAMES = envs.MINATAR
SCALES = (1e-2, 1.0, 1e2, 1e4)
ORACLE = ("unscaled", "none")
LEARNED = 0.05


class Run(NamedTuple):
    """What one run has otherwise than the config."""

    scales: tuple[float, ...] = SCALES
    normalises: bool = False  # advantages, by task


RUNS = {
    "scaled": Run(),
    "unscaled": Run(scales=(1.0,) * 4),
    "redrawn": Run(scales=(1e4, 1e-2, 1.0, 1e2)),
    "normalised": Run(normalises=True),
}
ARMS = ("popart", "none")  # of every run; each has half of the members
COLUMNS = {
    "run": "<11",
    "arm": "<7",
    "game": "<14",
    "scale": ">8.0e",
    "steps": ">10",
    "mean": ">9.2f",
    "low": ">9.2f",
    "high": ">9.2f",
    "published": ">10.0f",
}


def main() -> None:
    """Run what is missing; print the table, write JSON and PNG."""
    made = common.parser(__doc__ or "", "10,000 steps a game of two runs")
    made.add_argument("--env-steps", type=int, default=10_000_000, help="per game")
    made.add_argument("--arms", nargs="+", default=list(RUNS), choices=list(RUNS))
    made.add_argument("--slots", type=int, default=64, help="of each game")
    made.add_argument("--seeds", type=int, default=5, help="of each arm")
    made.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/popart"))
    args = made.parse_args()
    xla.configure_process()
    if args.quick:
        args.arms, args.seeds = ["scaled", "unscaled"], 1
        args.env_steps, args.slots = 10_000, 8
        args.runs = args.runs / "quick"
    print(common.header(COLUMNS))
    rows: list[dict[str, Any]] = []
    curves: dict[str, list] = {game: [] for game in GAMES}
    for name in args.arms:
        folder = args.runs / f"{name}-{args.env_steps}"
        common.trained(settings(RUNS[name], args), folder)
        found = read(name, folder, curves)
        for row in found:
            print(common.line(row, COLUMNS), flush=True)
        rows += found
        result = {"machine": common.environment(), "slots": args.slots, "rows": rows}
        result["least"] = least(rows)
        common.write(args.out, "popart", result)
    for line in least(rows):
        print(line)
    draw(curves, args.out / "popart.png")


def settings(run: Run, args: argparse.Namespace) -> schema.ExperimentConfig:
    """Returns the settings of one run: a member an arm and seed, the arms in turn."""
    given = loading.read_yaml(CONFIG)
    given["tasks"] = [
        {
            "env": f"gymnax/{game}-MinAtar",
            "slots": args.slots,
            "options": {"wrappers": {"reward_scale": scale}},
        }
        for game, scale in zip(GAMES, run.scales)
    ]
    step_size = given["agent"]["hparams"]["value_step_size"]
    given["population"]["search"] = {
        "value_step_size": {"low": 0.0, "high": 1.0, "initial": [step_size, 0.0]}
    }
    updates = -(-args.env_steps // (given["training"]["unroll_length"] * args.slots))
    changes = [
        f"agent.config.normalise_advantages={str(run.normalises).lower()}",
        f"agent.hparams.decay_updates={updates}",
        f"population.size={args.seeds * len(ARMS)}",
        f"training.env_steps={args.env_steps * len(GAMES)}",
        f"training.updates_per_chunk={min(10, max(1, updates // 10))}",
        "evaluation.every_updates=0",
    ]
    return loading.from_dict(loading.override(given, changes), where=CONFIG.stem)


def read(
    run: str, folder: pathlib.Path, curves: dict[str, list]
) -> list[dict[str, Any]]:
    """Returns the table's rows of a finished run and adds its curves, by game."""
    summary, log = metrics.read_summary(folder), metrics.read_metrics(folder)
    rows = []
    for number, arm in enumerate(ARMS):
        mine = slice(number, None, len(ARMS))
        for (task, found), scale in zip(summary["tasks"].items(), RUNS[run].scales):
            game = task.removeprefix("gymnax/").removesuffix("-MinAtar")
            means = np.asarray([x["mean"] for x in found["members"]][mine], float)
            low, high = estimates.mean_interval(means)
            returns = log.returns[task][:, mine]
            curves[game].append((f"{run}, {arm}", log.env_steps / len(GAMES), returns))
            rows.append(
                {
                    "run": run,
                    "arm": arm,
                    "game": game,
                    "scale": scale,
                    "steps": summary["totals"]["env_steps_per_member"] // len(GAMES),
                    "mean": float(means.mean()),
                    "low": low,
                    "high": high,
                    "seeds": [float(x) for x in means],
                    "random": found["random_score"],
                    "published": found["reference_score"],
                }
            )
    return rows


def least(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns each arm's least game, (mean − random)/(the oracle's − random).

    Games that the oracle has not learned are left out; nothing without the oracle.
    """
    oracle = {x["game"]: x for x in rows if (x["run"], x["arm"]) == ORACLE}
    learned = {
        game: x["mean"] - x["random"]
        for game, x in oracle.items()
        if x["mean"] - x["random"] >= LEARNED * (x["published"] - x["random"])
    }
    found: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for x in rows:
        if x["game"] in learned:
            score = (x["mean"] - x["random"]) / learned[x["game"]]
            found.setdefault((x["run"], x["arm"]), []).append((score, x["game"]))
    return [
        {"run": run, "arm": arm, "score": min(each)[0], "game": min(each)[1]}
        for (run, arm), each in found.items()
    ]


def draw(curves: dict[str, list], path: pathlib.Path) -> None:
    """Draw return against steps, a panel a game, a band over seeds."""
    with common.figure(path, list(curves)) as axes:
        for ax, found in zip(axes, curves.values()):
            for label, steps, returns in found:
                common.curve(ax, steps, returns, label)
            ax.set(xlabel="env steps of the game", ylabel="return")
        axes[0].legend()


if __name__ == "__main__":
    main()
