"""How accelerator.py times a call, and the ceilings that every row is a fraction of.

    of flops   operations of its matrix products (``flops.py``) against one large matrix
               product of the same type
    of bytes   bytes that have to be written and read, where a case knows them, against
               the copy of one large array
    of loop    sequential steps against the steps of a loop that does next to nothing:
               the ceiling of small networks, which are bound by launches
    of pool    training on emulators against the emulators alone, in turn with it
    of parts   the same against its parts one after the other (``throughput.py``)

XLA's own count of a compiled program takes a loop's body once, so it is not used.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp


class Work(NamedTuple):
    """A call to be timed, and what it does."""

    call: Callable[[], Any]  # its result is waited for
    steps: int  # of ``unit``, by one call
    unit: str
    operations: int = 0  # of matrix products, of one call
    bytes: int = 0  # written and read at the least by one call
    loops: int = 0  # sequential steps of one call
    dtype: str = "float32"  # of the products


class Limits(NamedTuple):
    """How long a row is measured."""

    seconds: float  # of all measured calls together
    calls: int  # at most


FULL, TINY = Limits(2.0, 50), Limits(0.0, 1)


def measured(work: Work, limits: Limits) -> dict[str, Any]:
    """Returns the row of ``work``: rate by the median call, and what a second does.

    The first call compiles; the second is not counted either.
    """
    first, _ = common.timed(work.call)
    common.timed(work.call)
    taken: list[float] = []
    while not taken or (sum(taken) < limits.seconds and len(taken) < limits.calls):
        taken.append(common.timed(work.call)[0])
    seconds = statistics.median(taken)
    return {
        "unit": work.unit,
        "per s": work.steps / seconds,
        "ms": 1e3 * seconds,
        "first s": first,
        "calls": len(taken),
        "dtype": work.dtype,
        "TFLOP/s": work.operations / seconds / 1e12 or None,
        "GB/s": work.bytes / seconds / 1e9 or None,
        "loops/s": work.loops / seconds or None,
    }


def ceilings(size: int, limits: Limits) -> dict[str, Any]:
    """Returns the row of what this device does at most; ``size`` is a matrix's side."""
    return {
        "unit": "ceiling",
        "TFLOP/s float32": product(size, jnp.float32, limits),
        "TFLOP/s bfloat16": product(size, jnp.bfloat16, limits),
        "GB/s copy": copy(size, limits),
        "loops/s empty": empty_loop(limits),
    }


def product(size: int, dtype: Any, limits: Limits) -> float:
    """Returns TFLOP/s of a matrix product at XLA's default precision."""
    x = jax.random.normal(jax.random.key(0), (size, size), dtype)
    run = jax.jit(lambda x: x @ x)
    work = Work(lambda: run(x), 1, "product", operations=2 * size**3)
    return measured(work, limits)["TFLOP/s"]


def copy(size: int, limits: Limits) -> float:
    """Returns GB/s of a copy, bytes read and written both counted."""
    x = jnp.zeros((4 * size, size))
    run = jax.jit(lambda x: x + 1.0)
    work = Work(lambda: run(x), 1, "copy", bytes=2 * x.nbytes)
    return measured(work, limits)["GB/s"]


def empty_loop(limits: Limits, steps: int = 10_000) -> float:
    """Returns steps a second of a loop whose body is one small operation."""

    @jax.jit
    def run(x):
        body = lambda x, _: (jnp.sin(x), None)  # noqa: E731
        return jax.lax.scan(body, x, None, length=steps)[0]

    x = jnp.ones(64)
    return measured(Work(lambda: run(x), 1, "loop", loops=steps), limits)["loops/s"]


def fractions(row: dict[str, Any], most: dict[str, Any]) -> dict[str, float]:
    """Returns a row's shares of the ceilings ``most``, of what it knows of itself."""
    pairs = {
        "of flops": ("TFLOP/s", f"TFLOP/s {row.get('dtype')}"),
        "of bytes": ("GB/s", "GB/s copy"),
        "of loop": ("loops/s", "loops/s empty"),
    }
    return {
        name: row[own] / most[other]
        for name, (own, other) in pairs.items()
        if row.get(own) and most.get(other)
    }
