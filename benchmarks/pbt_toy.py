"""The toy problem of the PBT paper on the kit's own exploit and explore.

    Q(θ) = 1.2 - (θ_0² + θ_1²)            what is to be maximised
    Q̂(θ|h) = 1.2 - (h_0 θ_0² + h_1 θ_1²)  what a member ascends, learning rate 0.01

Two members start at θ = (0.9, 0.9) with h = (1, 0) and (0, 1). Neither alone can solve
it; the population can. Prints a table over seeds and, with ``--out``, writes JSON + PNG.

Ref: Jaderberg et al. 2017 (arXiv:1711.09846), figure 2.
"""

from __future__ import annotations

import argparse
import functools
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import random, tree
from mtrl_jax.engine import pbt

STEPS = 200
LEARNING_RATE = 0.01
START = 0.9

# Two strangers that differ by chance alone are compared by who scores more.
_TOURNAMENT = {"exploit": "tournament", "min_episodes": 0}
_ALWAYS = {"perturb_probability": 1.0, "resample_probability": 0.0}

# name: (steps between rounds, std of the noise, what else the configuration says)
VARIANTS: dict[str, tuple[int, float, dict[str, Any]]] = {
    "grid search": (10, 0.1, {"exploit": "none"}),
    "PBT, every 10, std 0.1": (10, 0.1, _TOURNAMENT),
    "PBT, every 5, std 0.2": (5, 0.2, _TOURNAMENT),
    "weights only, every 5": (
        5,
        0.1,
        {**_TOURNAMENT, "copy_hparams": False, "explore": "none"},
    ),
    "explore only, every 10, std 0.1": (
        10,
        0.1,
        {"exploit": "none", "explore_all": True},
    ),
    "explore only, every 5, std 0.2": (
        5,
        0.2,
        {"exploit": "none", "explore_all": True},
    ),
}

# What an independent NumPy implementation of the same toy gave (mean of the best Q).
EXPECTED = dict(zip(VARIANTS, (0.3897, 1.129, 1.1998, 1.1715, 1.04, 1.177)))


def q(theta):
    """Returns Q(θ) = 1.2 - |θ|² over the last axis."""
    return 1.2 - jnp.sum(theta**2, axis=-1)


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def run(key, interval, std, options=()):
    """Returns Q [STEPS, 2] of both members after every step of one run.

    Args:
        key: of the run.
        interval: steps between rounds.
        std: of the noise added to h.
        options: of ``PbtConfig``, as a tuple of pairs.
    """
    config = pbt.PbtConfig(**{"explore": "normal", **_ALWAYS, **dict(options)})
    bounds = pbt.SearchRange(low=0.0, high=10.0, step=std)
    ranges = {"h_0": bounds, "h_1": bounds}
    keys = random.fold(key, jnp.arange(2))

    def step(carry, update):
        theta, h = carry
        weights = jnp.stack([h["h_0"], h["h_1"]], axis=-1)
        theta = theta - LEARNING_RATE * 2 * weights * theta
        fitness = pbt.Fitness(q(theta), jnp.isfinite(q(theta)), jnp.ones(2, jnp.int32))
        source, new_h, _ = pbt.round(
            random.at(keys, update, random.PBT),
            update,
            fitness,
            h,
            pbt.init(2),
            ranges=ranges,
            config=config,
        )
        due = jnp.full(2, update % interval == 0)
        copied = (tree.take(theta, source), new_h)
        theta, h = tree.where(due, copied, (theta, h))
        return (theta, h), q(theta)

    theta = jnp.full((2, 2), START)
    h = {"h_0": jnp.array([1.0, 0.0]), "h_1": jnp.array([0.0, 1.0])}
    updates = jnp.arange(1, STEPS + 1)
    return jax.lax.scan(step, (theta, h), updates)[1]


def final_best(name: str, seeds: int) -> np.ndarray:
    """Returns the best member's final Q [seeds] of one variant."""
    interval, std, options = VARIANTS[name]
    keys = random.roots(0, seeds)
    runs = jax.vmap(lambda k: run(k, interval, std, tuple(options.items())))(keys)
    return np.asarray(runs[:, -1].max(axis=-1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--quick", action="store_true", help="20 seeds")
    parser.add_argument("--out", type=pathlib.Path, help="folder for JSON and PNG")
    args = parser.parse_args()
    seeds = 20 if args.quick else args.seeds
    rows: list[dict[str, Any]] = []
    print(f"{'variant':34}{'mean best Q':>12}{'min':>9}{'max':>9}{'expected':>10}")
    for name in VARIANTS:
        best = final_best(name, seeds)
        rows.append(
            {
                "variant": name,
                "mean": float(best.mean()),
                "min": float(best.min()),
                "max": float(best.max()),
                "expected": EXPECTED[name],
            }
        )
        print(
            "{variant:34}{mean:12.4f}{min:9.4f}{max:9.4f}{expected:10.4f}".format(
                **rows[-1]
            )
        )
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "pbt_toy.json").write_text(
            json.dumps({"seeds": seeds, "rows": rows}, indent=2)
        )
        _draw(args.out / "pbt_toy.png")


def _draw(path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, (interval, std, options) in VARIANTS.items():
        curve = run(jax.random.key(0), interval, std, tuple(options.items()))
        axes.plot(np.arange(1, STEPS + 1), curve.max(axis=-1), label=name)
    axes.axhline(1.2, color="0.5", linestyle=":", linewidth=1)
    axes.set(xlabel="step", ylabel="Q of the better member", title="PBT toy problem")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
