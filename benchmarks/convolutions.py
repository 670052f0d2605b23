"""How long one gradient step of each convolutional torso takes, and with what.

Rows: torso, population size, inside or outside a ``lax.scan``. Columns: milliseconds a
step with ``matmul`` (this kit) and ``lax`` (XLA's convolution and reduce_window), and
their ratio. Prints the table, writes convolutions.json and convolutions.png.

    python benchmarks/convolutions.py [--quick] [--out benchmarks/results]

A cell whose ``lax`` is predicted (from a step of one image) to take longer than the
budget is left out and shown as "-", because XLA:CPU can need half a minute a step.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import pathlib
import platform
import time

import jax
import jax.numpy as jnp

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
        rows.append(measure(case, repeats=2 if args.quick else 5, budget=args.budget))
        print(_line(rows[-1]), flush=True)
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    report = {"machine": _machine(), "quick": args.quick, "rows": rows}
    (out / "convolutions.json").write_text(json.dumps(report, indent=1) + "\n")
    _plot(rows, out / "convolutions.png")
    print(f"written: {out / 'convolutions.json'}, {out / 'convolutions.png'}")


def measure(case: Case, repeats: int, budget: float) -> dict:
    """Returns the row of a case: milliseconds a step (the best of ``repeats``)."""
    matmul = milliseconds(case, "matmul", repeats)
    one = dataclasses.replace(case, batch=1)
    predicted = (
        milliseconds(one, "lax", 1) * case.batch * (STEPS if case.in_scan else 1)
    )
    lax = milliseconds(case, "lax", repeats) if predicted < budget * 1e3 else None
    ratio = None if lax is None else lax / matmul
    return {
        **dataclasses.asdict(case),
        "matmul_ms": matmul,
        "lax_ms": lax,
        "lax_over_matmul": ratio,
    }


def milliseconds(case: Case, implementation: str, repeats: int) -> float:
    """Returns the least wall time of one gradient step in ``repeats`` runs."""
    torso = torsos.Torso(case.torso, (64,), "relu", implementation)
    shape = (case.population, case.batch, *IMAGES[case.torso])
    image = jax.random.randint(jax.random.key(1), shape, 0, 256).astype(jnp.uint8)
    side = jnp.zeros((case.batch, 0))
    keys = jax.random.split(jax.random.key(0), case.population)
    init = jax.vmap(lambda key, x: torso.init(key, {"image": x}, side))
    params = jax.jit(init)(keys, image)

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
    jax.block_until_ready(compiled(params, image))
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(params, image))
        best = min(best, time.perf_counter() - start)
    return 1e3 * best / (STEPS if case.in_scan else 1)


def _header() -> str:
    return (
        f"{'torso':12} {'P':>2} {'batch':>5} {'where':>7} "
        f"{'matmul ms':>10} {'lax ms':>10} {'lax/matmul':>10}"
    )


def _line(row: dict) -> str:
    def number(x, digits):
        return "-" if x is None else f"{x:.{digits}f}"

    return (
        f"{row['torso']:12} {row['population']:>2} {row['batch']:>5} "
        f"{'scan' if row['in_scan'] else 'no scan':>7} "
        f"{number(row['matmul_ms'], 1):>10} {number(row['lax_ms'], 1):>10} "
        f"{number(row['lax_over_matmul'], 2):>10}"
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
        values = [r[key] or float("nan") for r in rows]
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
    parser.add_argument("--budget", type=float, default=None, help="seconds a lax run")
    args = parser.parse_args()
    if args.budget is None:
        args.budget = 2.0 if args.quick else 120.0
    return args


if __name__ == "__main__":
    main()
