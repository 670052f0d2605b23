"""What compiling a training chunk costs: seconds and size, for each agent and environment.

Rows: agent, environment. Columns: seconds of tracing and lowering, of XLA's compilation by
the wall and by the processor (which a busy machine changes least), and how many
instructions the compiled program has, of which fusions. The chunk is the one that
``mtrl train`` compiles, two members of two slots, two updates of four steps, on one
device; sizes hardly matter to the compiler. A row that fails says why. By default some
agents are compiled on every environment, and all others on the first.

    python benchmarks/compile_times.py [--quick] [--agents ppo impala] [--envs NAME ...]
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp

from mtrl_jax import agents, envs, random, xla
from mtrl_jax.engine import fused_runner
from mtrl_jax.envs import mixture

AGENTS = ("ppo", "impala", "dqn", "dreamer_v2", "unreal")
ENVS = (
    "gymnax/CartPole-v1",
    "gymnax/Breakout-MinAtar",
    "dark/room",
    "labyrinth/explore_goal_locations_small",
)
MEMBERS, SLOTS, STEPS, UPDATES = 2, 2, 4, 2
COLUMNS = {
    "agent": "<12",
    "env": "<40",
    "trace s": ">8.1f",
    "compile s": ">10.1f",
    "CPU s": ">8.1f",
    "instructions": ">13,d",
    "fusions": ">8,d",
}


def main() -> None:
    """Measures, prints and writes after every row."""
    args = arguments()
    xla.configure_process()
    rows: list[dict[str, Any]] = []
    print(common.header(COLUMNS), flush=True)
    for agent, env in cases(args):
        row = {"agent": agent, "env": env}
        try:
            row |= measured(*chunk(agent, env))
        except ValueError as error:
            row["failed"] = str(error).splitlines()[0]
        rows.append(row)
        print(common.line(row, COLUMNS), row.get("failed", ""), flush=True)
        result = {"machine": common.environment(), "rows": rows}
        written = common.write(args.out, "compile_times", result)
    print(f"written: {written}")


def cases(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Returns (agent, environment) of each row."""
    found = [
        (agent, env) for env in args.envs or ENVS for agent in args.agents or AGENTS
    ]
    if args.quick:
        return found[:1]
    whole = args.agents is None and args.envs is None
    others = [x for x in agents.AGENTS if x not in AGENTS and whole]
    return found + [(agent, ENVS[0]) for agent in others]


def chunk(agent: str, env: str) -> tuple[Callable[..., Any], tuple]:
    """Returns (a training chunk, the shapes of its arguments); nothing is compiled.

    Raises ValueError where the agent cannot play the environment.
    """
    module: Any = agents.get(agent)
    world = mixture.make([envs.make(env, (MEMBERS, SLOTS))])
    runner = fused_runner.make(
        module.make(world.spec, module.Config()),
        world,
        unroll_length=STEPS,
        updates_per_chunk=UPDATES,
    )
    hp = jax.tree.map(lambda x: jnp.full(MEMBERS, x, jnp.float32), module.Hparams())
    keys = random.roots(0, MEMBERS)
    return runner.chunk, (jax.eval_shape(runner.init, keys, hp), hp)


def measured(function: Callable[..., Any], arguments: tuple) -> dict[str, Any]:
    """Returns what tracing and compiling ``function(*arguments)`` took, and its size."""
    begun = time.perf_counter()
    lowered = jax.jit(function, donate_argnums=0).lower(*arguments)
    traced, spent = time.perf_counter(), time.process_time()
    program = lowered.compile().as_text() or ""
    return {
        "trace s": traced - begun,
        "compile s": time.perf_counter() - traced,
        "CPU s": time.process_time() - spent,
        "instructions": len(re.findall(r"^\s+(?:ROOT )?%?\S+ = ", program, re.M)),
        "fusions": len(re.findall(r" fusion\(", program)),
    }


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "PPO on CartPole")
    made.add_argument("--agents", nargs="+", choices=agents.AGENTS)
    made.add_argument("--envs", nargs="+", metavar="NAME")
    return made.parse_args()


if __name__ == "__main__":
    main()
