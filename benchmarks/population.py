"""What one update of one member costs as the population grows, and how it is computed.

Milliseconds per member and update of the whole training step that ``mtrl train`` runs
(acting, environment, learning), for P = 1, 2, 4, ..., 64 members:

    vmapped    all members updated together (population.at_once: P)
    at once 1  one after the other inside the program; acting is still of all together
    at once 8  eight at a time
    looped     P programs of one member, called from Python one after the other

Two agents on CartPole: "impala", a recurrent V-trace agent (LSTM 64, 16 slots x 20
steps), and "ppo" (MLP 64-64, 16 slots x 64 steps, 4 epochs x 4 minibatches). All ways
of one P are measured turn by turn in one process; what is shown is the median over
turns.

    python benchmarks/population.py [--quick] [--agents impala ppo] [--populations 1 8]
"""

from __future__ import annotations

import argparse
import functools
import statistics
from collections.abc import Callable
from typing import Any

import common

from mtrl_jax import config, tree, xla
from mtrl_jax.experiments import online
from mtrl_jax.training.program import Program

AGENTS: dict[str, dict[str, Any]] = {
    "impala": {
        "agent": {
            "name": "impala",
            "config": {
                "network": {"core": "lstm", "core_size": 64, "hidden": [64]},
                "optimiser": "adam",
            },
        },
        "training": {"unroll_length": 20},
    },
    "ppo": {
        "agent": {"name": "ppo", "config": {"network": {"hidden": [64, 64]}}},
        "training": {"unroll_length": 64},
    },
}
SLOTS = 16
WAYS: dict[str, int | None] = {"vmapped": None, "at once 1": 1, "at once 8": 8}
LOOPED = "looped"
COLUMNS = {
    "agent": "<8",
    "P": ">3d",
    **{way: ">10.2f" for way in (*WAYS, LOOPED)},
    "speed-up": ">9.2f",
}


def main() -> None:
    """Measures, prints and writes after every row."""
    args = arguments()
    xla.configure_process()
    rows: list[dict[str, Any]] = []
    print(common.header(COLUMNS), flush=True)
    for agent in args.agents:
        for members in args.populations:
            rows.append(measure(agent, members, args))
            print(common.line(rows[-1], COLUMNS), flush=True)
            result = {"machine": common.environment(), "quick": args.quick}
            common.write(args.out, "population", {**result, "rows": rows})
    draw(rows, args.out / "population.png")
    print(f"written: {args.out / 'population.json'}, {args.out / 'population.png'}")


def measure(agent: str, members: int, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the row of one agent and P; ``speed-up`` is looped over the fastest way."""
    calls = {
        way: together(compiled(agent, members, at_once, args.updates))
        for way, at_once in WAYS.items()
        # With no more members than are taken at once it is the same as vmapped.
        if members > (at_once or 0)
    }
    if members > 1:
        calls[LOOPED] = looped(compiled(agent, 1, None, args.updates), members)
    turns = common.in_turn(calls, args.turns)
    turns.setdefault(LOOPED, turns["vmapped"])
    per_update = {
        way: [1e3 * spent / (members * args.updates) for spent in taken]
        for way, taken in turns.items()
    }
    median = {way: statistics.median(values) for way, values in per_update.items()}
    fastest = min(value for way, value in median.items() if way != LOOPED)
    return {
        "agent": agent,
        "P": members,
        **median,
        "speed-up": median[LOOPED] / fastest,
        "values": per_update,
    }


@functools.cache
def compiled(agent: str, members: int, at_once: int | None, updates: int) -> Program:
    """Returns the run of ``members`` members whose chunk is ``updates`` updates."""
    given = AGENTS[agent]
    settings = {
        **given,
        "tasks": [{"env": "gymnax/CartPole-v1", "slots": SLOTS}],
        "population": {"size": members, "at_once": at_once or members},
        "training": {**given["training"], "updates_per_chunk": updates},
    }
    return online.make_program(config.from_dict(settings))


def together(program: Program) -> Callable[[], Any]:
    """Returns a call that trains a population for one chunk."""
    state = program.init(program.hparams)

    def train() -> Any:
        nonlocal state
        state, output = program.chunk(state, program.hparams)
        return output

    return train


def looped(program: Program, members: int) -> Callable[[], Any]:
    """Returns a call that trains ``members`` members, each with the program of one."""
    first = program.init(program.hparams)
    states = [tree.copy(first) for _ in range(members)]

    def train() -> Any:
        outputs = []
        for p in range(members):
            states[p], output = program.chunk(states[p], program.hparams)
            outputs.append(output)
        return outputs

    return train


def draw(rows: list[dict[str, Any]], path: Any) -> None:
    """Draw the time per member-update against P, a panel an agent."""
    agents = list(dict.fromkeys(row["agent"] for row in rows))
    with common.figure(path, agents) as axes:
        for ax, agent in zip(axes, agents):
            mine = [row for row in rows if row["agent"] == agent]
            for way in (*WAYS, LOOPED):
                known = [(row["P"], row[way]) for row in mine if way in row]
                if known:
                    ax.plot(*zip(*known), "o-", label=way)
            ax.set_xscale("log", base=2)
            ax.set_yscale("log")
            ax.set(xlabel="members P", ylabel="ms per member and update")
        axes[0].legend()


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "P = 1 and 8, 3 turns of 2 updates")
    made.add_argument("--agents", nargs="+", default=list(AGENTS), choices=AGENTS)
    made.add_argument("--populations", type=int, nargs="+", help="members")
    made.add_argument("--turns", type=int, help="measured")
    made.add_argument("--updates", type=int, help="of a turn")
    args = made.parse_args()
    wide = [1, 8] if args.quick else [1, 2, 4, 8, 16, 32, 64]
    args.populations = args.populations or wide
    args.turns = args.turns or (3 if args.quick else 5)
    args.updates = args.updates or (2 if args.quick else 4)
    return args


if __name__ == "__main__":
    main()
