"""How long one gradient step of each convolutional torso takes, and with what.

Rows: torso, population size, inside or outside a ``lax.scan``. Columns: milliseconds a
step with ``matmul`` (this kit) and ``lax`` (XLA's convolution and reduce_window), and
their ratio. Prints the table, writes convolutions.json and convolutions.png.

    python benchmarks/convolutions.py [--quick] [--out benchmarks/results]

A program that takes longer than a second is run once, any other several times, of which
the fastest counts. XLA:CPU can need half a minute for one ``lax`` step in a scan.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.networks import torsos

IMAGES = {
    "nature": (84, 84, 4),
    "impala_deep": (84, 84, 4),
    "minatar": (10, 10, 4),
}
BATCHES = {"nature": 64, "impala_deep": 16, "minatar": 512}
STEPS = 2  # of a scan


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table."""

    torso: str
    population: int
    in_scan: bool
    batch: int


def main() -> None:
    """Measures, prints and writes."""
    args = _arguments()
    shrink = 16 if args.quick else 1
    cases = [
        Case(torso, population, in_scan, max(1, BATCHES[torso] // shrink))
        for torso in args.torsos
        for population in args.populations
        for in_scan in (True, False)
    ]
    rows = []
    print(_header(), flush=True)
    for case in cases:
        rows.append(measure(case, repeats=3 if args.quick else 5))
        print(_line(rows[-1]), flush=True)
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    report = {"machine": _machine(), "quick": args.quick, "rows": rows}
    (out / "convolutions.json").write_text(json.dumps(report, indent=1) + "\n")
    _plot(rows, out / "convolutions.png")
    print(f"written: {out / 'convolutions.json'}, {out / 'convolutions.png'}")


def measure(case: Case, repeats: int) -> dict:
    """Returns the row of a case: milliseconds a step with either implementation."""
    matmul, lax = (milliseconds(case, name, repeats) for name in ("matmul", "lax"))
    times = {"matmul_ms": matmul, "lax_ms": lax, "lax_over_matmul": lax / matmul}
    return {**dataclasses.asdict(case), **times}


def milliseconds(case: Case, implementation: str, repeats: int) -> float:
    """Returns the wall time of one gradient step, see the top of the file."""
    torso = torsos.Torso(case.torso, (64,), "relu", implementation)
    shape = (case.population, case.batch, *IMAGES[case.torso])
    rng = np.random.default_rng(0)
    image = jnp.asarray(rng.integers(0, 256, shape, np.uint8))
    side = jnp.zeros((case.batch, 0))
    init = functools.partial(torso.init, jax.random.key(0))
    shapes = jax.eval_shape(lambda x: init({"image": x}, side), image[0])
    # Which numbers they are does not matter, and orthogonal ones take longer than steps.
    params = jax.tree.map(
        lambda p: jnp.asarray(
            0.05 * rng.standard_normal((case.population, *p.shape), np.float32)
        ),
        shapes,
    )

    def descend(params, image):
        def loss(params):
            return jnp.mean(torso.apply(params, {"image": image}, side))

        return jax.tree.map(lambda p, g: p - 1e-3 * g, params, jax.grad(loss)(params))

    def run(params, image):
        step = jax.vmap(descend)
        if not case.in_scan:
            return step(params, image)
        body = lambda params, _: (step(params, image), None)  # noqa: E731
        return jax.lax.scan(body, params, None, length=STEPS)[0]

    compiled = jax.jit(run).lower(params, image).compile()

    def seconds():
        start = time.perf_counter()
        jax.block_until_ready(compiled(params, image))
        return time.perf_counter() - start

    best = seconds()
    if best < 1.0:
        best = min(seconds() for _ in range(repeats))
    return 1e3 * best / (STEPS if case.in_scan else 1)


def _header() -> str:
    return (
        f"{'torso':12} {'P':>2} {'batch':>5} {'where':>7} "
        f"{'matmul ms':>10} {'lax ms':>10} {'lax/matmul':>10}"
    )


def _line(row: dict) -> str:
    where = "scan" if row["in_scan"] else "no scan"
    return (
        f"{row['torso']:12} {row['population']:>2} {row['batch']:>5} {where:>7} "
        f"{row['matmul_ms']:10.1f} {row['lax_ms']:10.1f} {row['lax_over_matmul']:10.2f}"
    )


def _plot(rows: list[dict], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = [
        f"{r['torso']} P={r['population']} {'scan' if r['in_scan'] else 'no scan'}"
        for r in rows
    ]
    place = range(len(rows))
    figure, axes = plt.subplots(figsize=(7, 0.4 * len(rows) + 1.2))
    for shift, key, label in (
        (0.2, "matmul_ms", "matmul"),
        (-0.2, "lax_ms", "lax.conv"),
    ):
        values = [r[key] for r in rows]
        axes.barh([-i + shift for i in place], values, 0.4, label=label)
    axes.set_yticks([-i for i in place], names)
    axes.set_xscale("log")
    axes.set_xlabel("ms per gradient step (log scale)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _machine() -> dict:
    device = jax.devices()[0]
    return {
        "backend": device.platform,
        "device": device.device_kind,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="batches / 16, under 1 min"
    )
    parser.add_argument("--out", default="benchmarks/results")
    parser.add_argument("--populations", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--torsos", nargs="+", default=list(IMAGES), choices=IMAGES)
    return parser.parse_args()


if __name__ == "__main__":
    main()
