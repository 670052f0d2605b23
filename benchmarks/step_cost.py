"""What a step of the acting loop costs beside its environment and its network.

A step of all slots of one member, in microseconds, without learning:

    whole       the engine's loop as ``mtrl train`` has it: unroll of ``fused_runner``
    env         stepping the environment alone, resets and all, actions drawn beforehand
    act         the agent's acting alone, on observations of that play
    statistics  returns, lengths and what PBT judges by, of that play
    keys        the keys of all steps
    rest        whole − the four: the mixture, masks, what is written down of each step;
                below 0 where the compiler fuses what the parts do apart

Each part is a program of its own that hands out what the loop hands on. Parts and whole
are measured in turn, ``rest`` and the share of all but env and act within a turn; shown
are medians. ``body`` is how many instructions the compiled loop's body has, all that it
calls included.

    python benchmarks/step_cost.py [--slots 4 64 1024] [--turns 9] [--quick]
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import re
import statistics as numbers
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
from throughput_loops import Case, agent_of, random_actions

from mtrl_jax import envs, random, tree, xla
from mtrl_jax.engine import fused_runner, population, statistics
from mtrl_jax.envs import mixture

# Agent and environment; steps of a measurement, times slots.
CASES = {
    "cartpole": (Case("gymnax/CartPole-v1", "ppo", 0, 1), 200_000),
    "breakout": (Case("gymnax/Breakout-MinAtar", "impala", 0, 1), 40_000),
}
SLOTS = (4, 64, 1024)
UNROLL = 128
PARTS = ("env", "act", "statistics", "keys")
COLUMNS = {
    "name": "<10",
    "slots": ">6d",
    "whole": ">9.2f",
    **dict.fromkeys(PARTS, ">10.2f"),
    "rest": ">8.2f",
    "beside": ">8.3f",
    "body": ">6d",
}


def main() -> None:
    """Measures, prints and writes after every row."""
    made = common.parser(__doc__ or "", "CartPole with 4 slots, 3 turns")
    made.add_argument("--slots", nargs="+", type=int, default=list(SLOTS))
    made.add_argument("--turns", type=int, default=9)
    args = made.parse_args()
    if args.quick:
        args.slots, args.turns = [4], 3
    xla.configure_process()
    print(common.header(COLUMNS), flush=True)
    rows: list[dict[str, Any]] = []
    for name in ["cartpole"] if args.quick else CASES:
        for slots in args.slots:
            rows.append({"name": name, "slots": slots} | measured(name, slots, args))
            print(common.line(rows[-1], COLUMNS), flush=True)
            machine = common.environment()
            result = {"machine": machine, "turns": args.turns, "rows": rows}
            written = common.write(args.out, "step_cost", result)
    print(f"written: {written}")


def measured(name: str, slots: int, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the row of a case with so many slots."""
    case, steps = CASES[name]
    repeats = max(1, (steps // 10 if args.quick else steps) // (UNROLL * slots))
    calls, body = parts(dataclasses.replace(case, slots=slots), repeats)
    turns = common.in_turn(calls, args.turns)
    each = [dict(zip(turns, turn)) for turn in zip(*turns.values())]
    rest = [turn["whole"] - sum(turn[x] for x in PARTS) for turn in each]
    beside = [1 - (turn["env"] + turn["act"]) / turn["whole"] for turn in each]
    unit = 1e6 / (UNROLL * repeats)  # microseconds of a step of all slots
    return {
        **{x: unit * numbers.median(own) for x, own in turns.items()},
        "rest": unit * numbers.median(rest),
        "beside": numbers.median(beside),
        "body": body,
    }


def parts(case: Case, repeats: int) -> tuple[dict[str, Callable[[], Any]], int]:
    """Returns (a call of each part and the whole, instructions of the whole's loop)."""
    one = envs.make(case.env, (1, case.slots))
    world = mixture.make([one])
    agent, hp = agent_of(case, world.spec)
    setting = fused_runner.Setting(
        population.population(agent, 1), world, None, UNROLL, 8, "return", None, None
    )
    key = random.roots(0, 1)
    state = jax.jit(functools.partial(fused_runner.begin, setting))(key, hp)
    action = random_actions(one.spec.action, (UNROLL, 1, case.slots))

    def whole(state):
        return fused_runner.unroll(setting, state, hp)

    def stepping(played):
        def step(now, action):
            now, ts = one.step(now, action, one.params)
            return now, ts

        return jax.lax.scan(step, played, action)

    played, ts = jax.jit(stepping)(jax.jit(one.reset)(key, one.params)[0])

    def acting(carry):
        def act(carry, given):
            ts, key = given
            action, carry, extras = setting.agents.act(
                state.learner, carry, ts, key, hp
            )
            return carry, (action, extras)

        return jax.lax.scan(act, carry, (ts, keys(key)))

    def counting(stats):
        def count(stats, ts):
            return statistics.update(stats, ts, {}), ()

        return jax.lax.scan(count, stats, ts)[0], ()

    def keys(key):
        now = random.at(key, state.step, random.ACT)
        return random.fold(now[None], jnp.arange(UNROLL)[:, None])

    compiled = jax.jit(whole).lower(state).compile()
    calls = {
        "whole": again(compiled, state, repeats),
        "env": again(jax.jit(stepping), played, repeats),
        "act": again(jax.jit(acting), state.carry, repeats),
        "statistics": again(jax.jit(counting), state.stats, repeats),
        "keys": again(jax.jit(lambda key: (key, keys(key))), key, repeats),
    }
    return calls, body_of(compiled.as_text() or "")


def again(step: Callable[..., Any], start: Any, repeats: int) -> Callable[[], Any]:
    """Returns a call that makes ``repeats`` unrolls, each from where the last ended."""
    now = tree.copy(start)

    def call() -> Any:
        nonlocal now
        for _ in range(repeats):
            now, out = step(now)
        return now, out

    return call


def body_of(program: str) -> int:
    """Returns the instructions of the program's largest loop body, with what it calls."""
    bodies: dict[str, list[str]] = {}
    for line in program.splitlines():
        if begun := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            lines = bodies.setdefault(begun[1], [])
        elif " = " in line and bodies:
            lines.append(line)

    def size(name: str) -> int:
        called = [
            size(other)
            for line in bodies[name]
            for other in re.findall(r"%?([\w.\-]+)", line.partition("), ")[2])
            if other in bodies and other != name
        ]
        return len(bodies[name]) + sum(called)

    return max(map(size, re.findall(r"body=%?([\w.\-]+)", program)), default=0)


if __name__ == "__main__":
    main()
