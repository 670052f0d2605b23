"""How long a chunk takes by the capacity of its members' replays: it must not matter.

Rows: capacity in MB a member. Columns: milliseconds an update (the median over turns, the
capacities one after the other) and MB of temporaries, of members updated one after the
other and together; and milliseconds in turn with the replay inside the learner, where
members in turn copy it. The agent is the smallest that has a replay: it writes a rollout,
draws rows uniformly and regresses on them. Prints the table, writes replay.json and
replay.png.

    python benchmarks/replay.py [--quick] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp

from mtrl_jax import envs, random, types, xla
from mtrl_jax.engine import fused_runner
from mtrl_jax.types import Array, Tree

MEMBERS, SLOTS, UNROLL, UPDATES = 4, 8, 4, 16  # updates of a chunk
WIDTH = 512  # float32 of a row: 2 kB
DRAWS = 64  # rows of a batch
MODES = ("in turn", "together", "in the learner")
COLUMNS = {
    "MB": ">4d",
    "in turn ms": ">10.2f",
    "temporaries MB": ">14.1f",
    "together ms": ">11.2f",
    "in the learner ms": ">17.2f",
}


class Hparams(NamedTuple):
    """What the agent is traced with."""

    learning_rate: Array  # [P]


def main() -> None:
    """Measures all capacities in turn, prints and writes."""
    args = arguments()
    xla.configure_process()
    made = {
        (mode, size): chunk(size, mode) for size in args.capacities for mode in MODES
    }
    calls = {case: call for case, (call, _) in made.items()}
    seconds = common.in_turn(calls, args.turns)
    rows = [
        {
            "MB": size,
            "temporaries MB": made["in turn", size][1] / 1e6,
            **{
                f"{mode} ms": 1e3 * statistics.median(seconds[mode, size]) / UPDATES
                for mode in MODES
            },
        }
        for size in args.capacities
    ]
    print(common.header(COLUMNS))
    for row in rows:
        print(common.line(row, COLUMNS))
    result = {
        "machine": common.environment(),
        "turns": args.turns,
        "members": MEMBERS,
        "rows": rows,
    }
    print(f"written: {common.write(args.out, 'replay', result)}")
    draw(args, rows)


def chunk(megabytes: int, mode: str) -> tuple[Callable[[], Tree], int]:
    """Returns (a call that trains for a chunk, bytes of the chunk's temporaries)."""
    env = envs.make("probe/both", (MEMBERS, SLOTS))
    made = agent(env.spec, megabytes * 2**20 // (SLOTS * WIDTH * 4))
    if mode == "in the learner":
        made = with_replay_in_learner(made)
    runner = fused_runner.make(
        made,
        env,
        unroll_length=UNROLL,
        updates_per_chunk=UPDATES,
        at_once=None if mode == "together" else 1,
    )
    hp = Hparams(jnp.full(MEMBERS, 1e-3))
    state = jax.jit(runner.init)(random.roots(0, MEMBERS), hp)
    compiled = jax.jit(runner.chunk, donate_argnums=0).lower(state, hp).compile()

    def call() -> Tree:
        nonlocal state
        state, output = compiled(state, hp)
        return output

    analysis = compiled.memory_analysis()
    assert analysis is not None
    return call, analysis.temp_size_in_bytes


def agent(spec: types.EnvSpec, rows: int) -> types.Agent:
    """Returns an agent that predicts rewards from a ring of ``rows`` x slots."""

    def act(learner, carry, ts, key, hp):
        logits = jnp.where(ts.action_mask, 0.0, -jnp.inf)
        return jax.random.categorical(key, logits).astype(jnp.int32), carry, ()

    def update(learner, batch, key, hp, step):
        def loss(w):
            return jnp.mean(jnp.square(batch[:, :-1] @ w - batch[:, -1]))

        value, gradient = jax.value_and_grad(loss)(learner)
        return learner - hp.learning_rate * gradient, {"loss": value}, ()

    def observe(memory, rollout, key, hp, step):
        fits = rows // UNROLL
        new = row_of(rollout.ts)
        at = (step % fits) * UNROLL
        memory = jax.lax.dynamic_update_slice_in_dim(memory, new, at, 0)
        stored = jnp.minimum(step + 1, fits) * UNROLL
        row_key, slot_key = jax.random.split(key)
        row = jax.random.randint(row_key, (DRAWS,), 0, stored)
        slot = jax.random.randint(slot_key, (DRAWS,), 0, SLOTS)
        return memory, memory[row, slot]

    return types.Agent(
        init=lambda key, hp: jax.random.normal(key, (WIDTH - 1,)),
        carry=lambda slots: (),
        act=act,
        update=update,
        replay=types.Replay(lambda slots: jnp.zeros((rows, slots, WIDTH)), observe),
    )


def row_of(ts: types.TimeStep) -> Array:
    """Returns the rows [T, B, WIDTH] of a rollout: what was seen, what it brought."""
    x = ts.obs["vector"][:-1]
    x = x[..., jnp.arange(WIDTH - 1) % x.shape[-1]]
    return jnp.concatenate([x, ts.reward[1:, :, None]], -1)


def with_replay_in_learner(made: types.Agent) -> types.Agent:
    """Returns the agent that takes its replay along with what it learns."""
    replay = made.replay
    assert replay is not None

    def init(key: types.Key, hp: Tree) -> Tree:
        return made.init(key, hp), replay.init(SLOTS)

    def act(learner: Tree, *rest: Any) -> tuple:
        return made.act(learner[0], *rest)

    def update(learner, rollout, key, hp, step):
        memory, batch = replay.observe(learner[1], rollout, key, hp, step)
        own, metrics, _ = made.update(learner[0], batch, key, hp, step)
        return (own, memory), metrics, ()

    return made._replace(init=init, act=act, update=update, replay=None)


def draw(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Draws milliseconds against capacity."""
    with common.figure(args.out / "replay.png", ("one update of 4 members",)) as (ax,):
        for mode in MODES:
            name = mode if mode == "in the learner" else f"replay apart, {mode}"
            times = [row[f"{mode} ms"] for row in rows]
            ax.plot([row["MB"] for row in rows], times, "o-", label=name)
        ax.set(xlabel="MB of replay a member", ylabel="ms", xscale="log", yscale="log")
        ax.legend()


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "two capacities")
    made.add_argument("--capacities", type=int, nargs="+", default=[1, 16, 64, 256])
    made.add_argument("--turns", type=int, default=7)
    args = made.parse_args()
    if args.quick:
        args.capacities, args.turns = [1, 16], 3
    return args


if __name__ == "__main__":
    main()
