"""Floating-point operations of a traced function: its products, loops in full.

A product [m, k] · [k, n] is 2 m k n, a convolution alike; all else is left out. XLA's own
count of a compiled program takes a loop's body once, whatever its length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

H100_BF16 = 989e12  # operations a second, dense, as published
UTILISATION = 0.4


def of(function: Callable, *args: Any) -> int:
    """Returns the operations of ``function(*args)``; arguments may be shapes alone."""
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def per_second(operations: int) -> float:
    """Returns how often 40 % of an H100's bfloat16 peak would do them in a second."""
    return UTILISATION * H100_BF16 / operations


def _count(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    shapes = [x.aval.shape for x in equation.invars if hasattr(x.aval, "shape")]
    out = equation.outvars[0].aval.shape if equation.outvars else ()
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return 2 * math.prod(out) * math.prod(shapes[0][i] for i in contracted)
    if name == "conv_general_dilated":
        channel = params["dimension_numbers"].rhs_spec[0]
        kernel = math.prod(n for i, n in enumerate(shapes[1]) if i != channel)
        return 2 * math.prod(out) * kernel
    inner = [_count(x) for x in _jaxprs(params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """Yields the programs inside an equation."""
    for value in params.values():
        for x in value if isinstance(value, (tuple, list)) else (value,):
            x = getattr(x, "jaxpr", x)
            if hasattr(x, "eqns"):
                yield x
