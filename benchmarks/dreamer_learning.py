"""DreamerV2 on a MinAtar game: returns, PPO's at equal steps, and what is predicted.

    python benchmarks/dreamer_learning.py RUN [--game Breakout] [--as-it-is] [--long [--wide]]

RUN is begun or gone on with (configs/dreamer_v2_minatar.yaml on the game), or with
``--as-it-is`` only read, however far it has come. PPO (configs/minatar_ppo.yaml) runs for as
many steps and seeds in the folder RUN-ppo. Writes dreamer_GAME.json and .png (returns, the
mean over seeds and their range) and the open-loop pictures dreamer_open_loop_GAME.gif
and .png. ``--long``: 1 M steps and a gradient step every 32 of them in place of 4, three seeds,
every step kept; dreamer_long_GAME.json and .png, no other pictures. ``--wide``: that of a
model twice as wide, dreamer_wide_GAME.json and .png; ``--seeds`` and ``--env-steps`` of either.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import common
import dreamer_ablations
import numpy as np

from mtrl_jax import metrics, xla
from mtrl_jax.config import loading
from mtrl_jax.experiments import open_loop, reading

CONFIG = dreamer_ablations.CONFIGS / "dreamer_v2_minatar.yaml"
LONG = [
    "training.env_steps=1_000_000",
    "population.size=3",
    "agent.config.replay.train_every=32",
    "agent.config.replay.capacity=1_000_000",
    "evaluation.every_updates=3200",
    "checkpoint.every_updates=2400",
    "checkpoint.keep=1",
]
WIDE = [
    "agent.config.rssm={latent: {latents: 32, classes: 16}, deter: 256, hidden: 256}",
    "agent.config.observation.depth=32",
    "agent.config.observation.units=256",
    "agent.hparams.kl_scale=0.3",
]
FEWEST = 3  # seeds of PPO
ROWS = 8  # of the table


def main() -> None:
    """Train if asked to, then read the run's rows and draw its predictions."""
    args = arguments()
    xla.configure_process()
    if not args.as_it_is:
        task = f"tasks=[{{env: gymnax/{args.game}-MinAtar, slots: 16}}]"
        changes = [*LONG, *(WIDE if args.wide else [])] if args.long else []
        changes += [f"population.size={args.seeds}"] if args.seeds else []
        changes += [f"training.env_steps={args.env_steps}"] if args.env_steps else []
        common.trained(loading.load(CONFIG, [task, *changes]), args.run)
    log = metrics.read_metrics(args.run)
    (task,) = reading.load_config(args.run).tasks
    game = task.env.removeprefix("gymnax/").removesuffix("-MinAtar")
    said = "" if args.long else draw_film(args, game)
    ((_, returns),) = log.returns.items()
    seeds = max(returns.shape[1], FEWEST)
    other = ppo(args.run, game, int(log.env_steps[-1]), seeds)
    ((_, others),) = other.returns.items()
    result = {
        "machine": common.environment(),
        "game": game,
        "wall_s": float(log.wall_s[-1]),
        "rows": means(log.env_steps, returns, other.env_steps, others),
        "open_loop": said,
    }
    kind = ("wide_" if args.wide else "long_") if args.long else ""
    name = f"dreamer_{kind}{game}"
    print(f"written: {common.write(args.out, name, result)}")
    with common.figure(args.out / f"{name}.png", [game]) as (ax,):
        common.curve(ax, log.env_steps, returns, "DreamerV2")
        common.curve(ax, other.env_steps, others, "PPO")
        ax.set(xlabel="environment steps of a member", ylabel="return")
        ax.legend()


def draw_film(args: argparse.Namespace, game: str) -> str:
    """Returns what is said of the run's predictions, which are drawn."""
    film = args.out / f"dreamer_open_loop_{game}.gif"
    *_, said = open_loop.draw(args.run, film, None, open_loop.CONTEXT + 15)
    print(said)
    return said


def ppo(run: pathlib.Path, game: str, env_steps: int, seeds: int) -> Any:
    """Returns what PPO's run beside ``run`` logged, which is begun if need be."""
    folder = run.with_name(f"{run.name}-ppo")
    given = dreamer_ablations.ppo_settings(game, env_steps, seeds)
    common.trained(loading.from_dict(given, where="ppo"), folder)
    return metrics.read_metrics(folder)


def means(
    steps: np.ndarray, returns: np.ndarray, other_steps: np.ndarray, others: np.ndarray
) -> list[dict[str, Any]]:
    """Returns the mean return of each seed, [N, P], in parts of the run; PPO's too."""
    rows, start = [], 0
    for part in np.array_split(np.arange(len(steps)), ROWS):
        end = int(steps[part[-1]])
        own = np.nanmean(returns[part], axis=0)
        within = (other_steps > start) & (other_steps <= end)
        other = np.nanmean(others[within], axis=0)
        row = {"to": end, "returns": own.tolist(), "ppo": other.tolist()}
        print(f"{end:>9} steps: {own.mean():6.2f}   {np.round(own, 2)}   PPO {other}")
        rows.append(row)
        start = end
    return rows


def arguments() -> argparse.Namespace:
    """Returns the parsed arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="the folder of the run")
    parser.add_argument("--game", default="Breakout", help="of a run that is begun")
    parser.add_argument("--as-it-is", action="store_true", help="train nothing")
    parser.add_argument("--long", action="store_true", help="1 M steps, fewer updates")
    parser.add_argument("--wide", action="store_true", help="of --long: a wider model")
    parser.add_argument("--seeds", type=int, help="in place of the config's")
    parser.add_argument("--env-steps", type=int, help="in place of the config's")
    parser.add_argument("--out", type=pathlib.Path, default=common.RESULTS)
    args = parser.parse_args()
    if args.wide and not args.long:
        parser.error("--wide: of --long, add it")
    return args


if __name__ == "__main__":
    main()
