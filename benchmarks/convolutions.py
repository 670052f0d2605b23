"""How long one gradient step of each convolutional network takes, and with what.

Rows: torso, or decoder of a world model, population size, inside or outside a
``lax.scan``. Columns: milliseconds a step with ``matmul`` (this kit) and ``lax`` (XLA's
convolution and reduce_window), and their ratio. Prints the table, writes
convolutions.json and convolutions.png.

    python benchmarks/convolutions.py [--quick] [--out benchmarks/results]

A program that takes longer than a second is run once, any other several times, of which
the fastest counts. XLA:CPU can need half a minute for one ``lax`` step in a scan.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.networks import torsos
from mtrl_jax.networks.world_models import observation_config, observation_decoder

IMAGES = {
    "nature": (84, 84, 4),
    "impala_deep": (84, 84, 4),
    "minatar": (10, 10, 4),
}
BATCHES = {"nature": 64, "impala_deep": 16, "minatar": 512}
# Of DreamerV2 on MinAtar, and at a third of the paper's depth.
DECODERS = {
    "decoder_grid": ((10, 10, 6), 256, 16),
    "decoder_64x64": ((64, 64, 1), 64, 16),
}  # image, batch, depth
BATCHES |= {name: batch for name, (_, batch, _) in DECODERS.items()}
FEATURES = 128
STEPS = 2  # of a scan
COLUMNS = {
    "torso": "<12",
    "P": ">2d",
    "batch": ">5d",
    "where": ">7s",
    "matmul ms": ">10.1f",
    "lax ms": ">10.1f",
    "lax/matmul": ">10.2f",
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table."""

    torso: str
    population: int
    in_scan: bool
    batch: int


def main() -> None:
    """Measures, prints and writes after every row."""
    args = _arguments()
    shrink = 16 if args.quick else 1
    cases = [
        Case(torso, population, in_scan, max(1, BATCHES[torso] // shrink))
        for torso in args.torsos
        for population in args.populations
        for in_scan in (True, False)
    ]
    rows: list[dict] = []
    print(common.header(COLUMNS), flush=True)
    for case in cases:
        rows.append(measure(case, repeats=3 if args.quick else 5))
        print(common.line(_shown(rows[-1]), COLUMNS), flush=True)
        result = {"machine": common.environment(), "quick": args.quick, "rows": rows}
        written = common.write(args.out, "convolutions", result)
    draw(rows, args.out / "convolutions.png")
    print(f"written: {written}, {args.out / 'convolutions.png'}")


def measure(case: Case, repeats: int) -> dict:
    """Returns the row of a case: milliseconds a step with either implementation."""
    matmul, lax = (milliseconds(case, name, repeats) for name in ("matmul", "lax"))
    times = {"matmul_ms": matmul, "lax_ms": lax, "lax_over_matmul": lax / matmul}
    return {**dataclasses.asdict(case), **times}


def milliseconds(case: Case, implementation: str, repeats: int) -> float:
    """Returns the wall time of one gradient step, see the top of the file."""
    run, arguments = program(case, implementation)
    compiled = jax.jit(run).lower(*arguments).compile()

    def seconds():
        return common.timed(lambda: compiled(*arguments))[0]

    best = seconds()
    if best < 1.0:
        best = min(seconds() for _ in range(repeats))
    return 1e3 * best / (STEPS if case.in_scan else 1)


def program(case: Case, implementation: str) -> tuple[Callable[..., Any], tuple]:
    """Returns (gradient steps of a case, ``STEPS`` of them in a scan; their arguments)."""
    make = decoder if case.torso in DECODERS else torso
    init, apply, data = make(case, implementation)
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(init, data[0])
    # Which numbers they are does not matter, and orthogonal ones take longer than steps.
    params = jax.tree.map(
        lambda p: jnp.asarray(
            0.05 * rng.standard_normal((case.population, *p.shape), np.float32)
        ),
        shapes,
    )

    def descend(params, data):
        def loss(params):
            return jnp.mean(jnp.square(apply(params, data)))

        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, jax.grad(loss)(params))

    def run(params, data):
        step = jax.vmap(descend)
        if not case.in_scan:
            return step(params, data)
        body = lambda params, _: (step(params, data), None)  # noqa: E731
        return jax.lax.scan(body, params, None, length=STEPS)[0]

    return run, (params, data)


def torso(case: Case, implementation: str) -> tuple[Callable, Callable, types.Array]:
    """Returns (init(image [B]), apply(params, image [B]), images [P, B]) of a torso."""
    net = torsos.Torso(case.torso, (64,), "relu", implementation)
    shape = (case.population, case.batch, *IMAGES[case.torso])
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    side = jnp.zeros((case.batch, 0))

    def apply(params: types.Tree, image: types.Array) -> types.Array:
        return jnp.asarray(net.apply(params, {"image": image}, side))

    init = lambda x: net.init(jax.random.key(0), {"image": x}, side)  # noqa: E731
    return init, apply, jnp.asarray(image)


def decoder(case: Case, implementation: str) -> tuple[Callable, Callable, types.Array]:
    """Returns the same of a decoder and features [P, B, F]."""
    shape, _, depth = DECODERS[case.torso]
    obs = {"image": jax.ShapeDtypeStruct(shape, jnp.uint8)}
    config = observation_config.choose(
        observation_config.ObservationConfig(
            depth=depth, units=64, layers=1, convolution=implementation
        ),
        obs,
    )

    def init(_: types.Array) -> types.Tree:
        return observation_decoder.init(jax.random.key(0), config, obs, FEATURES)

    def apply(params: types.Tree, x: types.Array) -> types.Array:
        drawn = observation_decoder.decode(params, config, obs, x, "float32")
        return drawn["image"]

    x = jax.random.normal(jax.random.key(0), (case.population, case.batch, FEATURES))
    return init, apply, x


def draw(rows: list[dict], path: pathlib.Path) -> None:
    """Writes the picture: two bars for each row."""
    with common.figure(path, size=(7, 0.4 * len(rows) + 1.2)) as (axes,):
        for shift, key, label in (
            (0.2, "matmul_ms", "matmul"),
            (-0.2, "lax_ms", "lax.conv"),
        ):
            places = [shift - i for i in range(len(rows))]
            axes.barh(places, [row[key] for row in rows], 0.4, label=label)
        names = [f"{r['torso']} P={r['population']} {_where(r)}" for r in rows]
        axes.set_yticks([-i for i in range(len(rows))], names)
        axes.set_xscale("log")
        axes.set_xlabel("ms per gradient step (log scale)")
        axes.legend()


def _shown(row: dict) -> dict:
    """Returns the row by the names of the table's columns."""
    names = {"P": "population", "lax/matmul": "lax_over_matmul"}
    own = {name: row.get(names.get(name, name.replace(" ", "_"))) for name in COLUMNS}
    return own | {"where": _where(row)}


def _where(row: dict) -> str:
    return "scan" if row["in_scan"] else "no scan"


def _arguments() -> argparse.Namespace:
    parser = common.parser(__doc__ or "", "batches / 16")
    parser.add_argument("--populations", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--torsos", nargs="+", default=list(BATCHES), choices=BATCHES)
    return parser.parse_args()


if __name__ == "__main__":
    main()
