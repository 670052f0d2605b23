"""MinAtar: returns after training, five seeds as one population, beside PPO's published.

Every row is a run of its own under --runs and is gone on with if it exists, so that an
interrupted benchmark continues where it was. The score of a seed is the mean return of
its final evaluation (episodes of the trained policy, sampled); the interval is over seeds.

    python benchmarks/minatar.py                      # 1e7 steps a game, hours on 2 cores
    python benchmarks/minatar.py --env-steps 1000000 --agents impala --games Breakout
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import common
import numpy as np

from mtrl_jax import envs, metrics, xla
from mtrl_jax.config import loading, schema
from mtrl_jax.metrics import estimates

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
GAMES = envs.MINATAR
MIXTURE = "mixture"
COLUMNS = {
    "agent": "<8",
    "trained on": "<14",
    "game": "<14",
    "steps": ">10",
    "mean": ">9.2f",
    "low": ">9.2f",
    "high": ">9.2f",
    "published": ">9.0f",
    "wall_s": ">8.0f",
}


def main() -> None:
    """Run what is missing; print the table, write JSON and PNG."""
    made = common.parser(__doc__ or "", "20,000 steps of one game")
    made.add_argument("--env-steps", type=int, default=10_000_000, help="per game")
    made.add_argument("--agents", nargs="+", default=["ppo", "impala"])
    made.add_argument("--games", nargs="+", default=[*GAMES, MIXTURE])
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/minatar"))
    args = made.parse_args()
    xla.configure_process()
    if args.quick:
        args.agents, args.games, args.env_steps = ["impala"], ["Breakout"], 20_000
        args.runs = args.runs / "quick"
    print(common.header(COLUMNS))
    rows: list[dict[str, Any]] = []
    curves: dict[str, list] = {}
    for agent in args.agents:
        for game in args.games:
            folder = args.runs / f"{agent}-{game}-{args.env_steps}"
            common.trained(settings(agent, game, args), folder)
            rows += read(agent, game, folder, curves)
            for row in rows[-len(GAMES) if game == MIXTURE else -1 :]:
                print(common.line(row, COLUMNS), flush=True)
            result = {"machine": common.environment(), "rows": rows}
            common.write(args.out, "minatar", result)
    draw(curves, args.out / "minatar.png")


def settings(
    agent: str, game: str, args: argparse.Namespace
) -> schema.ExperimentConfig:
    """Returns the settings of one run: the agent's MinAtar config on one game or all."""
    name = "minatar_mixture" if agent == "impala" else f"minatar_{agent}"
    given = loading.read_yaml(CONFIGS / f"{name}.yaml")
    per_update = given["training"]["unroll_length"] * 64
    games = 1
    if game == MIXTURE:
        games = len(GAMES)
        given["tasks"] = [{"suite": "minatar", "slots": 64}]
        given["agent"]["config"]["network"]["task_embedding"] = True
    else:
        given["tasks"] = [{"env": f"gymnax/{game}-MinAtar", "slots": 64}]
    updates = -(-args.env_steps // per_update)
    hparams = given["agent"].setdefault("hparams", {})
    if hparams.get("decay_updates"):
        hparams["decay_updates"] = float(updates)
    return loading.from_dict(
        loading.override(
            given,
            [
                f"population.size={args.seeds}",
                f"training.env_steps={args.env_steps * games}",
                "evaluation.every_updates=0",
            ],
        ),
        where=name,
    )


def read(
    agent: str, game: str, folder: pathlib.Path, curves: dict[str, list]
) -> list[dict[str, Any]]:
    """Returns the table's rows of a finished run and adds its curves, by game."""
    summary, log = metrics.read_summary(folder), metrics.read_metrics(folder)
    # What a member plays: all games in turn, or one.
    games = len(summary["tasks"]) if game == MIXTURE else 1
    rows = []
    for task, found in summary["tasks"].items():
        name = task.removeprefix("gymnax/").removesuffix("-MinAtar")
        # A member that was lost has learned nothing.
        members = [member["mean"] for member in found["members"]]
        lost = [k for k, mean in enumerate(members) if mean is None]
        for k in lost:
            members[k] = found["random_score"]
        means = np.asarray(members, float)
        low, high = estimates.mean_interval(means)
        steps = summary["totals"]["env_steps_per_member"] // games
        label = f"{agent}, all four" if game == MIXTURE else agent
        curves.setdefault(name, []).append(
            (label, log.env_steps / games, log.returns[task])
        )
        rows.append(
            {
                "agent": agent,
                "trained on": game,
                "game": name,
                "steps": steps,
                "mean": float(means.mean()),
                "low": low,
                "high": high,
                "seeds": [float(x) for x in means],
                "lost": lost,
                "published": found["reference_score"],
                "random": found["random_score"],
                "wall_s": summary["totals"]["wall_s"],
            }
        )
    return rows


def draw(curves: dict[str, list], path: pathlib.Path) -> None:
    """Draw return against steps, a panel a game, a band over seeds."""
    names = [game for game in GAMES if game in curves]
    lines = len(curves[names[0]]) if names else 0
    is_beside = lines > 4  # there the legend would hide them
    size = (8, 4) if is_beside else (5, 4)
    with common.figure(path, names, size) as axes:
        for ax, game in zip(axes, names):
            for label, steps, returns in curves[game]:
                common.curve(ax, steps, returns, label)
            ax.set(xlabel="env steps of the game", ylabel="return")
        if is_beside:
            labels = axes[0].get_legend_handles_labels()
            axes[0].figure.legend(*labels, loc="outside center right")
        else:
            axes[0].legend()


if __name__ == "__main__":
    main()
