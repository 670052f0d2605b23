"""A scan over time whose dense layers get their weight gradients after it.

    y_t = W x_t + s_t,      ∂L/∂W = Σ_t x_tᵀ g_t,      g_t = ∂L/∂y_t = ∂L/∂s_t

In a loop the gradient of a kernel is a product of few rows a step, added to all that came
before. Here the loop passes back g_t alone, and the sum is one product of all steps.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax.networks import product
from mtrl_jax.types import Array, Tree

# (name, x [..., inputs]) -> W x + s [..., outputs] of the step
Dense = Callable[[str, Array], Array]

# (dense, consts, carry, inputs of a step) -> (carry, outputs of the step)
Step = Callable[[Dense, Tree, Tree, Any], tuple[Tree, Tree]]


def layers(found: dict[str, Tree], dtype: str) -> tuple[dict, dict]:
    """Returns ({name: kernel}, {name: bias}) in ``dtype`` of dense layers by name."""
    kernels = {name: x["kernel"].astype(dtype) for name, x in found.items()}
    return kernels, {name: x["bias"].astype(dtype) for name, x in found.items()}


def one_step(kernels: dict[str, Array], shifts: dict[str, Array]) -> Dense:
    """Returns the layers for a single step, of which ``shifts`` are [..., M], too."""

    def dense(name: str, x: Array) -> Array:
        y = product.product(x.astype(kernels[name].dtype), kernels[name])
        return y + jnp.broadcast_to(shifts[name], y.shape)

    return dense


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def scan(
    step: Step,
    kernels: dict[str, Array],
    shifts: dict[str, Array],
    consts: Tree,
    carry: Tree,
    inputs: Tree,
) -> tuple[Tree, Tree]:
    """Returns (carry, outputs [T, ...]) of ``step`` over time.

    ``dense(name, x)`` is x · ``kernels[name]`` + ``shifts[name]`` [T, ...] at the step: a
    bias, or what else is added to the product. The step reads each of them once, and no
    kernel otherwise; what else it differentiates is in ``consts``.
    """
    return _forward(step, kernels, shifts, consts, carry, inputs)[0]


def _forward(step, kernels, shifts, consts, carry, inputs):
    # Transposed once, not in every step: see ``product``.
    turned = {
        name: jax.lax.optimization_barrier(kernel.T) for name, kernel in kernels.items()
    }

    def run(shifts, consts, carry, inputs):
        def one(carry, now):
            shifts, inputs = now
            read = {}

            def dense(name, x):
                read[name] = x = x.astype(kernels[name].dtype)
                return _product(x, kernels[name], turned[name]) + shifts[name]

            carry, outputs = step(dense, consts, carry, inputs)
            return carry, (outputs, read)

        carry, (outputs, read) = jax.lax.scan(one, carry, (shifts, inputs))
        return (carry, outputs), read

    found, back, read = jax.vjp(run, shifts, consts, carry, inputs, has_aux=True)
    return found, (back, read)


def _backward(step, residuals, cotangents):
    back, read = residuals
    shifts, *others = back(cotangents)
    kernels = {
        name: product.weight_gradient(x, shifts[name]) for name, x in read.items()
    }
    return kernels, shifts, *others


scan.defvjp(_forward, _backward)


@jax.custom_vjp
def _product(x: Array, kernel: Array, turned: Array) -> Array:
    """Returns x · ``kernel``, of which ``turned`` is the transpose."""
    return x @ kernel


_product.defvjp(
    lambda x, kernel, turned: (x @ kernel, turned),
    lambda turned, g: (g @ turned, None, None),
)
