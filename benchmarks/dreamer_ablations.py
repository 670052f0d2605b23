"""DreamerV2's ablations on a MinAtar game, and PPO beside it at equal steps.

    python benchmarks/dreamer_ablations.py [--game Breakout] [--env-steps 32000] [--quick]

Arms that differ by traced numbers (balancing, the gradients that reach the model) are
members of one population, those of the actor's gradient of another: the full agent's is
REINFORCE alone, theirs the dynamics', straight through the actions, and a mixture of both.
The Gaussian latents and PPO are populations of their own, of as many seeds. The settings
are those of configs/dreamer_v2_minatar.yaml, with half of its gradient steps
(``TRAIN_EVERY``), and of minatar_ppo.yaml. Every run is gone on with if it exists. A return is the mean over the training episodes of the last quarter of
the steps; the interval is over seeds, and ``below`` is the probability that a seed of
the arm is below one of the full agent.

Writes dreamer_ablations_GAME.json and .png; with ``--parts`` some of the runs alone, beside
the rows that the JSON has of the others, and no picture.
"""

from __future__ import annotations

import argparse
import json
import pathlib
from typing import Any

import common
import numpy as np

from mtrl_jax import metrics, xla
from mtrl_jax.config import loading
from mtrl_jax.metrics import estimates

CONFIGS = pathlib.Path(__file__).parent.parent / "configs"
FULL = "full"
# The arms of one program. Without balancing prior and posterior take the whole gradient
# of the divergence, as the agent's halves of 0.5 at twice the scale of 0.1 give.
TRACED: dict[str, dict[str, float]] = {
    FULL: {},
    "no balancing": {"kl_balance": 0.5, "kl_scale": 0.2},
    "no image gradient": {"image_gradient": 0.0},
    "no reward gradient": {"reward_gradient": 0.0},
}
USUAL = {
    "kl_balance": 0.8, "kl_scale": 0.1, "image_gradient": 1.0, "reward_gradient": 1.0,
}  # fmt: skip
# Of ``actor_gradient: mix``, whose program has both gradients: rho, REINFORCE's share.
ACTOR: dict[str, dict[str, float]] = {
    "straight-through": {"reinforce": 0.0},
    "mixed, rho 0.5": {"reinforce": 0.5},
}
TRAIN_EVERY = 8  # steps, 4 in configs/dreamer_v2_minatar.yaml
GAUSSIAN, PPO = "gaussian latents", "ppo"
RUNS = {
    "traced": tuple(TRACED),
    "actor": tuple(ACTOR),
    GAUSSIAN: (GAUSSIAN,),
    PPO: (PPO,),
}
LAST = 0.25  # of the steps count
COLUMNS = {
    "arm": "<20",
    "return": ">9.2f",
    "low": ">9.2f",
    "high": ">9.2f",
    "below": ">7.2f",
}


def main() -> None:
    """Run what is missing; print the table, write JSON and PNG."""
    args = arguments()
    xla.configure_process()
    print(common.header(COLUMNS))
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    found = args.out / f"dreamer_ablations_{args.game}.json"
    known, walls = recorded(found, args)
    for run in args.parts:
        arms = RUNS[run]
        folder = args.runs / f"{run.replace(' ', '-')}-{args.game}-{args.env_steps}"
        common.trained(loading.from_dict(settings(run, args), where=run), folder)
        log = metrics.read_metrics(folder)
        walls[run] = float(log.wall_s[-1])
        ((_, returns),) = log.returns.items()
        for i, arm in enumerate(arms):
            curves[arm] = log.env_steps, returns[:, i :: len(arms)]
        result = {
            "machine": common.environment(),
            "game": args.game,
            "env_steps": args.env_steps,
            "wall_s": walls,
            "rows": rows(curves, known),
        }
        common.write(args.out, found.stem, result)
    for row in rows(curves, known):
        print(common.line(row, COLUMNS), flush=True)
    if not known:
        draw(curves, found.with_suffix(".png"), args.game)


def recorded(
    path: pathlib.Path, args: argparse.Namespace
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Returns ({arm: [seeds]}, {run: seconds}) that a result has of the runs not asked for.

    Raises SystemExit if these are of another length.
    """
    others = {run: arms for run, arms in RUNS.items() if run not in args.parts}
    if not others or not path.exists():
        return {}, {}
    result = json.loads(path.read_text())
    if result["env_steps"] != args.env_steps:
        raise SystemExit(
            f"--env-steps: {args.env_steps}, the other arms of {path} have "
            f"{result['env_steps']}; give these, another --out, or all parts"
        )
    rows = {row["arm"]: np.asarray(row["seeds"]) for row in result["rows"]}
    arms = [arm for own in others.values() for arm in own if arm in rows]
    walls = {run: x for run, x in result["wall_s"].items() if run in others}
    return {arm: rows[arm] for arm in arms}, walls


def settings(run: str, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the settings of a run: its arms in turn, as often as there are seeds."""
    if run == PPO:
        return ppo_settings(args.game, args.env_steps, args.seeds)
    members = args.seeds * len(RUNS[run])
    given = _settings("dreamer_v2_minatar", args.game, args.env_steps, members)
    config = given["agent"]["config"]
    config["replay"]["train_every"] = TRAIN_EVERY
    if run == GAUSSIAN:
        # As many numbers as the categoricals' samples have.
        latent = config["rssm"]["latent"]
        size = latent["latents"] * latent["classes"]
        config["rssm"]["latent"] = {"kind": "gaussian", "latents": size}
    elif run == "actor":
        config["actor_gradient"] = "mix"
        given["population"]["search"] = search(ACTOR, {})
    else:
        given["population"]["search"] = search(TRACED, USUAL)
    if args.quick:
        config["replay"] |= {"prefill": 200, "batch": 2, "length": 4}
    return given


def ppo_settings(game: str, env_steps: int, seeds: int) -> dict[str, Any]:
    """Returns the settings of PPO on a game, for ``env_steps`` of a member.

    It has as many slots as DreamerV2, and is annealed to the end.
    """
    given = _settings("minatar_ppo", game, env_steps, seeds)
    given["tasks"][0]["slots"] = 16
    given["training"] |= {"unroll_length": 64, "updates_per_chunk": 1}
    given["agent"]["hparams"]["decay_updates"] = max(1, env_steps // (16 * 64))
    return given


def _settings(name: str, game: str, env_steps: int, members: int) -> dict[str, Any]:
    given = loading.read_yaml(CONFIGS / f"{name}.yaml")
    given["tasks"][0]["env"] = f"gymnax/{game}-MinAtar"
    given["population"]["size"] = members
    given["training"]["env_steps"] = env_steps
    given["evaluation"]["every_updates"] = 0
    given["logging"] = {"tensorboard": False, "plots": False}
    return given


def search(
    arms: dict[str, dict[str, float]], usual: dict[str, float]
) -> dict[str, Any]:
    """Returns the ranges that deal the arms to the members in turn.

    ``usual`` is what an arm has of the numbers that it does not change.
    """
    every = [usual | changes for changes in arms.values()]
    dealt = {name: [arm[name] for arm in every] for name in every[0]}
    return {
        name: {"low": 0.0, "high": 1.0, "initial": values}
        for name, values in dealt.items()
    }


def rows(
    curves: dict[str, tuple[np.ndarray, np.ndarray]], known: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Returns the return of each arm's seeds over the last part of the steps."""
    late = known | {
        arm: np.nanmean(returns[steps > (1 - LAST) * steps[-1]], axis=0)
        for arm, (steps, returns) in curves.items()
    }
    made = []
    order = [arm for arms in RUNS.values() for arm in arms if arm in late]
    for arm in order:
        own = late[arm]
        low, high = estimates.t_interval(own)
        row = {"arm": arm, "return": float(own.mean()), "low": low, "high": high}
        if FULL in late:
            other = late[FULL]
            ties = np.mean(own[:, None] == other) / 2
            row["below"] = float(np.mean(own[:, None] < other) + ties)
        made.append(row | {"seeds": own.tolist()})
    return made


def draw(
    curves: dict[str, tuple[np.ndarray, np.ndarray]], path: pathlib.Path, title: str
) -> None:
    """Write the curves of all arms, the mean over seeds and their range."""
    with common.figure(path, [title], (7, 4)) as (ax,):
        for arm, (steps, returns) in curves.items():
            common.curve(ax, steps, returns, arm)
        ax.set(xlabel="environment steps of a member", ylabel="return")
        ax.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))


def arguments() -> argparse.Namespace:
    """Returns the parsed arguments."""
    made = common.parser(__doc__ or "", "1,024 steps, two seeds, small batches")
    made.add_argument("--game", default="Breakout")
    made.add_argument("--env-steps", type=int, default=32_000, help="of a member")
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--parts", nargs="+", choices=RUNS, default=list(RUNS))
    made.add_argument(
        "--runs", type=pathlib.Path, default=pathlib.Path("runs/dreamer_ablations")
    )
    args = made.parse_args()
    if args.quick:
        args.env_steps, args.seeds = 1024, 2
        args.runs = args.runs / "quick"
    return args


if __name__ == "__main__":
    main()
