"""PopArt: one agent on four MinAtar games whose rewards differ by a factor of 1e6.

    oracle          rewards as they are: nobody had to find the scales
    popart          rewards times 1e-2, 1, 1e2, 1e4; each task in its own unit
    popart redrawn  likewise, the scales dealt to other games
    return_scale    a running deviation of returns, no output preserved
    none            the value learned in the unit of rewards
    none, raw       likewise, and advantages not normalised either

Everything else is ``configs/minatar_popart.yaml``. Seeds are the members of one
population. Every arm is a run of its own under --runs and is gone on with if it exists.
A score is the mean return of a seed's final evaluation, in the game's own unit;
normalised, 0 is random and 1 PPO's published score, which takes 1e7 steps a game.

    python benchmarks/popart.py                      # 1e7 steps a game, a day on 2 cores
    python benchmarks/popart.py --env-steps 250000 --slots 16 --seeds 3
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


class Arm(NamedTuple):
    """What one run has otherwise than the config."""

    value_scale: str
    scales: tuple[float, ...] = SCALES
    normalises: bool = True  # advantages, by task


ARMS = {
    "oracle": Arm("none", scales=(1.0,) * 4),
    "popart": Arm("popart"),
    "none": Arm("none"),
    "return_scale": Arm("return_scale"),
    "popart redrawn": Arm("popart", scales=(1e4, 1e-2, 1.0, 1e2)),
    "none, raw": Arm("none", normalises=False),
}
COLUMNS = {
    "arm": "<15",
    "game": "<14",
    "scale": ">8.0e",
    "steps": ">10",
    "mean": ">9.2f",
    "low": ">9.2f",
    "high": ">9.2f",
    "normalised": ">10.3f",
    "wall_s": ">8.0f",
}


def main() -> None:
    """Run what is missing; print the table, write JSON and PNG."""
    made = common.parser(__doc__ or "", "20,000 steps of two arms")
    made.add_argument("--env-steps", type=int, default=10_000_000, help="per game")
    made.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    made.add_argument("--slots", type=int, default=64, help="of each game")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/popart"))
    args = made.parse_args()
    xla.prepare()
    if args.quick:
        args.arms, args.seeds = ["oracle", "popart"], 2
        args.env_steps, args.slots = 5_000, 8
        args.runs = args.runs / "quick"
    print(common.header(COLUMNS))
    rows: list[dict[str, Any]] = []
    curves: dict[str, list] = {}
    for name in args.arms:
        folder = args.runs / f"{name.replace(', ', '-').replace(' ', '-')}"
        common.trained(settings(ARMS[name], args), folder)
        found = read(name, folder, curves)
        for row in found:
            print(common.line(row, COLUMNS), flush=True)
        rows += found
        result = {"machine": common.environment(), "slots": args.slots, "rows": rows}
        common.write(args.out, "popart", result)
        draw(curves, args.out / "popart.png")


def settings(arm: Arm, args: argparse.Namespace) -> schema.ExperimentConfig:
    """Returns the settings of one run."""
    given = loading.read_yaml(CONFIG)
    given["tasks"] = [
        {
            "env": f"gymnax/{game}-MinAtar",
            "slots": args.slots,
            "options": {"wrappers": {"reward_scale": scale}},
        }
        for game, scale in zip(GAMES, arm.scales)
    ]
    unroll = given["training"]["unroll_length"]
    updates = -(-args.env_steps // (unroll * args.slots))
    normalises = str(arm.normalises).lower()
    changes = [
        f"agent.config.value_scale={arm.value_scale}",
        f"agent.config.normalise_advantages={normalises}",
        f"agent.hparams.decay_updates={updates}",
        f"population.size={args.seeds}",
        f"training.env_steps={args.env_steps * len(GAMES)}",
        "evaluation.every_updates=0",
    ]
    return loading.from_dict(loading.override(given, changes), where=CONFIG.stem)


def read(
    arm: str, folder: pathlib.Path, curves: dict[str, list]
) -> list[dict[str, Any]]:
    """Returns the table's rows of a finished run and adds its curves, by game."""
    summary, log = metrics.read_summary(folder), metrics.read_metrics(folder)
    rows = []
    for (task, found), scale in zip(summary["tasks"].items(), ARMS[arm].scales):
        name = task.removeprefix("gymnax/").removesuffix("-MinAtar")
        means = np.asarray([member["mean"] for member in found["members"]], float)
        low, high = estimates.mean_interval(means)
        curves.setdefault(name, []).append(
            (arm, log.env_steps / len(GAMES), log.returns[task])
        )
        random, published = found["random_score"], found["reference_score"]
        rows.append(
            {
                "arm": arm,
                "game": name,
                "scale": scale,
                "steps": summary["totals"]["env_steps_per_member"] // len(GAMES),
                "mean": float(means.mean()),
                "low": low,
                "high": high,
                "seeds": [float(x) for x in means],
                "random": random,
                "published": published,
                "normalised": float((means.mean() - random) / (published - random)),
                "wall_s": summary["totals"]["wall_s"],
            }
        )
    return rows


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
