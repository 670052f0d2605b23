"""DreamerV2 on MinAtar's Breakout: returns and what is predicted, from a run of its config.

    python benchmarks/dreamer_learning.py RUN [--as-it-is] [--out benchmarks/results]

RUN is begun or gone on with (configs/dreamer_v2_minatar.yaml), or with ``--as-it-is`` only
read, however far it has come. Writes dreamer_breakout.json and .png (returns, the mean over
seeds and their range) and the open-loop pictures dreamer_open_loop.gif and .png.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any

import common
import numpy as np

from mtrl_jax import metrics, xla
from mtrl_jax.config import loading
from mtrl_jax.experiments import open_loop

CONFIG = common.RESULTS.parent.parent / "configs" / "dreamer_v2_minatar.yaml"
ROWS = 8  # of the table


def main() -> None:
    """Trains if asked to, then reads the run's rows and draws its predictions."""
    args = arguments()
    xla.prepare()
    if not args.as_it_is:
        common.trained(loading.load(CONFIG), args.run)
    logged = metrics.read_metrics(args.run)
    ((game, returns),) = logged.returns.items()
    *_, said = open_loop.draw(
        args.run, args.out / "dreamer_open_loop.gif", None, open_loop.CONTEXT + 15
    )
    print(said)
    result = {
        "machine": common.environment(),
        "game": game,
        "wall_s": float(logged.wall_s[-1]),
        "rows": means(logged.env_steps, returns),
        "open_loop": said,
    }
    print(f"written: {common.write(args.out, 'dreamer_breakout', result)}")
    with common.figure(args.out / "dreamer_breakout.png", [game]) as (ax,):
        common.curve(ax, logged.env_steps, returns, "dreamer_v2")
        ax.set(xlabel="environment steps of a member", ylabel="return")


def means(steps: np.ndarray, returns: np.ndarray) -> list[dict[str, Any]]:
    """Returns the mean return of each seed, ``returns`` [N, P], in parts of the run."""
    rows = []
    for part in np.array_split(np.arange(len(steps)), ROWS):
        own = np.nanmean(returns[part], axis=0)
        row = {"to": int(steps[part[-1]]), "returns": [float(x) for x in own]}
        print(f"{row['to']:>9} steps: {own.mean():6.2f}   {np.round(own, 2)}")
        rows.append(row)
    return rows


def arguments() -> argparse.Namespace:
    """Returns the parsed arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", type=pathlib.Path, help="the folder of the run")
    parser.add_argument("--as-it-is", action="store_true", help="train nothing")
    parser.add_argument("--out", type=pathlib.Path, default=common.RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
