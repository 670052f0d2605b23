"""DreamerV2: gradient steps and acting steps a second, by size and members; ablations.

Speed: one update of fixed random observations, rows are sizes (small: MinAtar; tiny), the
columns members. Gradient steps a second are summed over members; acting steps, too.
Ablations: arms that differ by traced numbers are members of one population on MinAtar
Breakout: full, no balancing, no image gradient, no reward gradient; returns of their last
episodes, mean and standard error over seeds. Prints both tables, writes dreamer.json and
dreamer.png.

    python benchmarks/dreamer.py [--quick] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import envs, hparams, random, xla
from mtrl_jax.agents import dreamer_v2
from mtrl_jax.agents.common import sequences
from mtrl_jax.engine import fused_runner
from mtrl_jax.networks import latents, observation_config, rssm

GAME, SLOTS, UNROLL, UPDATES = "gymnax/Breakout-MinAtar", 16, 4, 4
# Name -> GRU and layers, latents and classes, channels, batch, length, horizon.
SIZES = {"tiny": (32, 4, 4, 4, 8, 16, 5), "small": (128, 8, 8, 16, 16, 32, 10)}
# Arms as changes of traced numbers. No balancing: both gradients whole, see the agent.
ARMS: dict[str, dict[str, float]] = {
    "full": {},
    "no balancing": {"kl_balance": 0.5, "kl_scale": 0.2},
    "no image gradient": {"image_gradient": 0.0},
    "no reward gradient": {"reward_gradient": 0.0},
}
SETTINGS = {
    "model_lr": 5e-4, "actor_lr": 2e-4, "critic_lr": 3e-4, "discount": 0.99,
    "entropy_cost": 3e-3,
}  # fmt: skip


def main() -> None:
    """Measures speeds in turn, then trains the arms; prints and writes."""
    args = arguments()
    xla.prepare()
    speed = speeds(args)
    arms = ablation(args)
    result = {"machine": common.environment(), "speed": speed, "arms": arms}
    print(f"written: {common.write(args.out, 'dreamer', result)}")
    draw(args, speed, arms)


def speeds(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns rates by size and members, the cases one after the other in every turn."""
    calls: dict[Any, Any] = {}
    for size in args.sizes:
        for members in args.members:
            calls[size, members, "train"] = chunk(size, members, prefill=0)
            calls[size, members, "act"] = chunk(size, members, prefill=2**30)
    seconds = common.in_turn(calls, args.turns)
    rows = []
    for size in args.sizes:
        for members in args.members:
            train, act = (
                statistics.median(seconds[size, members, kind])
                for kind in ("train", "act")
            )
            row = {
                "size": size,
                "members": members,
                "gradient steps/s": members * UPDATES * 4 / train,
                "acting steps/s": members * UPDATES * UNROLL * SLOTS / act,
            }
            print(
                f"{size:>6} P={members}: {row['gradient steps/s']:8.2f} gradient steps/s "
                f"{row['acting steps/s']:10.0f} acting steps/s"
            )
            rows.append(row)
    return rows


def chunk(size: str, members: int, prefill: int):
    """Returns a call that runs a chunk of updates, 4 gradient steps each."""
    run, state, hp = runner(size, members, prefill, [{}] * members)
    held = [state]

    def call():
        held[0], out = run(held[0], hp)
        return out.metrics

    return call


def runner(size: str, members: int, prefill: int, changes: list[dict[str, float]]):
    """Returns (compiled chunk, state, hp) of members with their own numbers."""
    units, number, classes, depth, batch, length, horizon = SIZES[size]
    env = envs.make(GAME, (members, SLOTS))
    config = dreamer_v2.Config(
        rssm.RSSMConfig(
            latents.LatentConfig("categorical", number, classes), units, units
        ),
        observation_config.ObservationConfig(depth=depth, units=units, layers=2),
        units=units,
        layers=2,
        replay=sequences.SequenceConfig(
            capacity=50_000, batch=batch, length=length, prefill=prefill,
            train_every=UNROLL * SLOTS / 4,
        ),
        horizon=horizon,
    )  # fmt: skip
    made = fused_runner.make(
        dreamer_v2.make(env.spec, config), env,
        unroll_length=UNROLL, updates_per_chunk=UPDATES,
    )  # fmt: skip
    each = [hparams.override(dreamer_v2.Hparams(), SETTINGS | x) for x in changes]
    hp = jax.tree.map(lambda *x: jnp.array(x, jnp.float32), *each)
    state = jax.jit(made.init)(random.roots(0, members), hp)
    return jax.jit(made.chunk, donate_argnums=0), state, hp


def ablation(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Returns mean and standard error over seeds of each arm's late returns."""
    changes = [x for x in ARMS.values() for _ in range(args.seeds)]
    run, state, hp = runner(args.sizes[-1], len(changes), 2_000, changes)
    chunks = max(2, args.steps // (UPDATES * UNROLL * SLOTS))
    total, episodes = np.zeros(len(changes)), np.zeros(len(changes))
    for i in range(chunks):
        state, out = run(state, hp)
        if i >= chunks // 2:
            total += np.asarray(out.episodes["return"])[:, 0]
            episodes += np.asarray(out.episodes["episodes"])[:, 0]
    returns = (total / np.maximum(episodes, 1)).reshape(len(ARMS), args.seeds)
    found = {}
    for name, own in zip(ARMS, returns):
        error = float(own.std(ddof=1) / len(own) ** 0.5) if len(own) > 1 else 0.0
        found[name] = {"return": float(own.mean()), "error": error}
        print(f"{name:>20}: {own.mean():6.2f} ± {error:.2f}")
    return found


def draw(args: argparse.Namespace, speed: list, arms: dict) -> None:
    """Writes dreamer.png: speed by members, returns by arm."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for size in args.sizes:
        own = [row for row in speed if row["size"] == size]
        left.plot(
            [row["members"] for row in own],
            [row["gradient steps/s"] for row in own],
            marker="o", label=size,
        )  # fmt: skip
    left.set(xlabel="members", ylabel="gradient steps/s, all members")
    left.legend()
    right.bar(
        list(arms), [x["return"] for x in arms.values()],
        yerr=[x["error"] for x in arms.values()],
    )  # fmt: skip
    right.set_ylabel("return, second half")
    right.tick_params(axis="x", rotation=20)
    figure.tight_layout()
    figure.savefig(args.out / "dreamer.png", dpi=120)


def arguments() -> argparse.Namespace:
    """Returns the parsed arguments."""
    parser = common.parser(__doc__, "the tiny model, two members, few steps")
    args = parser.parse_args()
    args.sizes = ["tiny"] if args.quick else list(SIZES)
    args.members = [1, 2] if args.quick else [1, 2, 4, 8]
    args.turns = 1 if args.quick else 5
    args.seeds = 1 if args.quick else 5
    args.steps = 512 if args.quick else 300_000
    return args


if __name__ == "__main__":
    main()
