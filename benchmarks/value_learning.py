"""Value learning on MinAtar: DQN, Rainbow and PQN, five seeds as one population.

``--experiment games``: returns of each agent on each game beside the published score that
the kit normalises by. ``--experiment ablation``: Rainbow, and Rainbow without each of its
six parts. Every row is a run of its own under --runs and is gone on with if it exists;
with ``--together`` all games of an agent are one run, a member for each game and seed. The
score of a seed is the mean return of its final, greedy evaluation; the interval is over
seeds. Writes value_learning_EXPERIMENT.json and .png.

    python benchmarks/value_learning.py                 # 5e6 frames a game, hours on 2 cores
    python benchmarks/value_learning.py --together --env-steps 500000 --slots pqn=64
    python benchmarks/value_learning.py --experiment ablation --games Breakout
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import common
import minatar

from mtrl_jax import xla
from mtrl_jax.config import loading, schema

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
AGENTS = ("dqn", "rainbow", "pqn")
EVERY = "every"  # in a run's name: a member plays one of the games
# What Rainbow is without a part.
PARTS = {
    "double": "double=false",
    "prioritised": "prioritised=false",
    "dueling": "dueling=false",
    "n_step": "n_step=1",
    "distribution": "distribution=none",
    "noisy": "noisy=false",
}
# Lengths in updates that are shares of the run.
LENGTHS = ("decay_updates", "epsilon_updates", "importance_updates")
COLUMNS = {
    "agent": "<24",
    "game": "<14",
    "steps": ">10",
    "mean": ">9.2f",
    "low": ">9.2f",
    "high": ">9.2f",
    "published": ">9.0f",
    "wall_s": ">8.0f",
}


def main() -> None:
    """Runs what is missing; prints the table, writes JSON and PNG."""
    made = common.parser(__doc__ or "", "20,000 frames of one game")
    made.add_argument("--experiment", choices=("games", "ablation"), default="games")
    made.add_argument("--env-steps", type=int, default=5_000_000, help="per game")
    made.add_argument("--games", nargs="+", default=list(minatar.GAMES))
    made.add_argument("--agents", nargs="+", choices=AGENTS, default=list(AGENTS))
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument(
        "--slots", nargs="+", type=of_agent, default=[], metavar="AGENT=N",
        help="of a member; the config's",
    )  # fmt: skip
    made.add_argument("--together", action="store_true", help="all four games")
    made.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/value_learning")
    )
    args = made.parse_args()
    args.slots = dict(args.slots)
    xla.configure_process()
    if args.quick:
        args.games, args.env_steps, args.seeds = ["Breakout"], 20_000, 2
        args.runs = args.runs / "quick"
    name = f"value_learning_{args.experiment}"
    print(common.header(COLUMNS))
    rows: list[dict[str, Any]] = []
    curves: dict[str, list] = {}
    for game in [EVERY] if args.together else args.games:
        for label, agent, changes in arms(args.experiment, args.agents):
            name_of_run = f"{label.replace(' ', '-')}-{game}-{args.env_steps}"
            slots = args.slots.get(agent)
            seeds = f"{args.seeds}x{slots}" if slots else str(args.seeds)
            folder = args.runs / f"{name_of_run}-{seeds}"
            common.trained(settings(agent, game, changes, args), folder)
            found = minatar.read(label, game, folder, curves)
            rows += found
            for row in found:
                print(common.line(row, COLUMNS), flush=True)
            result = {"machine": common.environment(), "rows": rows}
            common.write(args.out, name, result)
    minatar.draw(curves, args.out / f"{name}.png")


def of_agent(text: str) -> tuple[str, int]:
    """Returns (agent, number) of ``AGENT=N``.

    Raises:
      ValueError: it is no agent, or no number.
    """
    agent, _, number = text.partition("=")
    if agent not in AGENTS:
        raise ValueError(f"{agent!r} is none of {', '.join(AGENTS)}")
    return agent, int(number)


def arms(experiment: str, agents: list[str]) -> list[tuple[str, str, list[str]]]:
    """Returns (label, agent, changes of its config) of every arm."""
    if experiment == "games":
        return [(agent, agent, []) for agent in agents]
    without = [
        (f"rainbow without {part}", "rainbow", [f"agent.config.{change}", *more(part)])
        for part, change in PARTS.items()
    ]
    return [("rainbow", "rainbow", []), *without]


def more(part: str) -> list[str]:
    """Returns what else changes: without noise ε has to explore, as DQN's does.

    What a part alone reads is as it is by default.
    """
    if part == "prioritised":
        return ["agent.hparams.importance_updates=0.0"]
    if part != "noisy":
        return []
    given = loading.read_yaml(CONFIGS / "dqn_minatar.yaml")["agent"]["hparams"]
    return [
        "agent.hparams.epsilon_start=1.0",
        *(f"agent.hparams.{k}={given[k]}" for k in ("epsilon_end", "epsilon_updates")),
        "evaluation.hparams.epsilon_start=0.0",
        "evaluation.hparams.epsilon_end=0.0",
        "evaluation.hparams.noise=1.0",
    ]


def settings(
    agent: str, game: str, changes: list[str], args: argparse.Namespace
) -> schema.ExperimentConfig:
    """Returns the settings of one run; lengths in updates keep their share of it."""
    name = f"{agent}_minatar"
    given = loading.override(loading.read_yaml(CONFIGS / f"{name}.yaml"), changes)
    share = args.env_steps / given["training"]["env_steps"]
    slots = args.slots.get(agent) or given["tasks"][0]["slots"]
    share *= given["tasks"][0]["slots"] / slots
    together = game == EVERY
    task = {"suite": "minatar"} if together else {"env": f"gymnax/{game}-MinAtar"}
    given["tasks"] = [{**task, "slots": slots}]
    members = args.seeds * (len(minatar.GAMES) if together else 1)
    hparams = given["agent"]["hparams"]
    for length in LENGTHS:
        if hparams.get(length):
            hparams[length] = max(1.0, round(float(hparams[length]) * share))
    return loading.from_dict(
        loading.override(
            given,
            [
                f"population.size={members}",
                f"population.axis={'population' if together else 'slot'}",
                f"training.env_steps={args.env_steps}",
                "evaluation.every_updates=0",
            ],
        ),
        where=name,
    )


if __name__ == "__main__":
    main()
