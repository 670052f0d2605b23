"""How long one gradient step through a memory takes, beside flax's own cell.

Rows: core, population size, steps of the unroll x slots of a member, units. Columns:
thousands of environment steps a second of a member's gradient, with this kit's cores and
with ``nn.RNN`` over flax's ``OptimizedLSTMCell`` or ``GRUCell``, and their ratio; the
minimal GRU, which flax lacks, stands beside flax's LSTM, by a loop over its elementwise
steps and by an associative scan, and every core's ratio to this kit's LSTM. All start from the same inputs; steps of a scan, as training has them. Medians over turns, one
after the other. Prints the table, writes cores.json.

    python benchmarks/cores.py [--quick] [--out benchmarks/results]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import common
import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax import xla
from mtrl_jax.networks import cores, min_gru
from mtrl_jax.types import Array, Tree

SHAPES = ((64, 64, 64), (256, 16, 64), (20, 32, 256))  # unroll, slots, units
STEPS = 4  # of the scan
KINDS = ("lstm", "gru", "mingru, loop", "mingru, associative")
COLUMNS = {
    "core": "<19",
    "P": ">3d",
    "unroll": ">7d",
    "slots": ">6d",
    "units": ">6d",
    "kit k/s": ">8.1f",
    "flax k/s": ">9.1f",
    "ratio": ">6.2f",
    "over lstm": ">9.2f",
}


def main() -> None:
    """Measures, prints and writes after every row."""
    args = arguments()
    xla.configure_process()
    print(common.header(COLUMNS), flush=True)
    rows: list[dict] = []
    shapes = SHAPES[:1] if args.quick else SHAPES
    for shape, members in itertools.product(shapes, args.populations):
        for row in measure(shape, members, args.turns):
            rows.append(row)
            print(common.line(row, COLUMNS), flush=True)
        result = {"machine": common.environment(), "turns": args.turns, "rows": rows}
        written = common.write(args.out, "cores", result)
    print(f"written: {written}")


def measure(shape: tuple[int, int, int], members: int, turns: int) -> list[dict]:
    """Returns the rows of a shape: environment steps a second, turn by turn."""
    unroll, slots, units = shape
    x = jax.random.normal(jax.random.key(0), (members, unroll, slots, units))
    calls = {kind: step(ours(kind, units), x) for kind in KINDS}
    calls |= {f"flax {kind}": step(flax(kind, units), x) for kind in ("lstm", "gru")}
    seconds = common.in_turn(calls, turns)
    steps = members * unroll * slots * STEPS / 1e3
    rate = {name: steps / statistics.median(seconds[name]) for name in calls}
    peer = {kind: "flax gru" if kind == "gru" else "flax lstm" for kind in KINDS}
    return [
        {
            "core": kind,
            "P": members,
            "unroll": unroll,
            "slots": slots,
            "units": units,
            "kit k/s": rate[kind],
            "flax k/s": rate[peer[kind]],
            "ratio": rate[kind] / rate[peer[kind]],
            "over lstm": rate[kind] / rate["lstm"],
        }
        for kind in KINDS
    ]


def ours(kind: str, units: int) -> tuple[Callable, Callable]:
    """Returns (init, apply) of the kit's core, outputs [T, B, H] of inputs [T, B, F]."""
    name, _, implementation = kind.partition(", ")
    core: Any = cores.Core(name, units)
    if implementation:
        core = min_gru.MinGRU(units, implementation=implementation)

    def inputs(x: Array) -> tuple:
        state = cores.initial_state(name, units, x.shape[1])
        return x, state, jnp.zeros(x.shape[:2], bool)

    return (
        lambda key, x: core.init(key, *inputs(x)),
        lambda params, x: core.apply(params, *inputs(x))[0],
    )


def flax(kind: str, units: int) -> tuple[Callable, Callable]:
    """Returns (init, apply) of flax's cell unrolled by flax, as ``ours``."""
    cell = {"lstm": nn.OptimizedLSTMCell, "gru": nn.GRUCell}[kind](units)
    rnn = nn.RNN(cell, time_major=True)
    return rnn.init, rnn.apply


def step(network: tuple[Callable, Callable], x: Array) -> Callable[[], Tree]:
    """Returns a call of ``STEPS`` compiled gradient steps of a population."""
    run, arguments = program(network, x)
    compiled = jax.jit(run).lower(*arguments).compile()
    return lambda: compiled(*arguments)


def program(
    network: tuple[Callable, Callable], x: Array
) -> tuple[Callable, tuple[Tree, Array]]:
    """Returns (``STEPS`` gradient steps of a population, their arguments)."""
    init, apply = network

    def descend(params, x):
        gradient = jax.grad(lambda params: jnp.mean(jnp.square(apply(params, x))))
        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, gradient(params))

    def run(params, x):
        body = lambda params, _: (jax.vmap(descend)(params, x), None)  # noqa: E731
        return jax.lax.scan(body, params, None, length=STEPS)[0]

    keys = jax.random.split(jax.random.key(1), x.shape[0])
    return run, (jax.jit(jax.vmap(init))(keys, x), x)


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "one shape")
    made.add_argument("--populations", type=int, nargs="+", default=[1, 3, 16])
    made.add_argument("--turns", type=int, default=7)
    return made.parse_args()


if __name__ == "__main__":
    main()
