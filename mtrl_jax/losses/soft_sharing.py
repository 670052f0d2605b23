"""How far the networks of K tasks are from being one: penalties of stacked parameters.

    l2      Σ_l Σ_i ‖θ_i^l − mean_j θ_j^l‖²       (the sum over pairs is K times it)
    trace   Σ_l ‖M_l‖_*, M_l the layer's weights as rows [K, n]: few directions in common

Leaves are ``[K, ...]``, a layer's kernel or bias each.

Ref: Yang & Hospedales 2017, "Trace Norm Regularised Deep Multi-Task Learning"
(arXiv:1606.04038), section 2 (the tensor's unfolding along the tasks).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mtrl_jax.types import Array, Tree

DISTANCES = ("l2", "trace")
_TINY = 1e-6  # the least singular value, so that there is a gradient at rank below K
# Eigenvalues below this share of the largest are rounding, which its root would magnify.
_ROUNDING = 1e-6


def distance(name: str, stacked: Tree) -> Array:
    """Returns the penalty called ``name``, ``[]``; raises ValueError for another name."""
    if name not in DISTANCES:
        raise ValueError(f"distance: unknown {name!r}; one of {', '.join(DISTANCES)}")
    of = {"l2": to_the_mean, "trace": trace_norm}[name]
    return sum((of(leaf) for leaf in jax.tree.leaves(stacked)), jnp.zeros(()))


def to_the_mean(layer: Array) -> Array:
    """Returns Σ_i ‖θ_i − mean_j θ_j‖² of ``[K, ...]``; its gradient sums to 0 over i.

    >>> to_the_mean(jnp.array([[1.0], [3.0]])).item()
    2.0
    """
    return jnp.sum(jnp.square(layer - jnp.mean(layer, axis=0, keepdims=True)))


def trace_norm(layer: Array) -> Array:
    """Returns the sum of the singular values of ``[K, n]``, from the K × K matrix M Mᵀ.

    The gradient is (M Mᵀ + ε)^(-1/2) M, its norm at most √K, also where rows are all but
    equal: below a thousandth of the largest, singular values are as good as that.
    """
    rows = layer.reshape(len(layer), -1)
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(rows @ rows.T))
    roots = jnp.sqrt(jnp.maximum(values, _TINY**2))
    floor = jnp.sqrt(_ROUNDING) * jnp.max(roots)
    inverse = (vectors / jnp.maximum(roots, floor)[None]) @ vectors.T
    # Half the trace of G^(-1/2) M Mᵀ has the gradient; the value is put beside it.
    half = 0.5 * jnp.sum(inverse * (rows @ rows.T))
    return half + jax.lax.stop_gradient(jnp.sum(roots) - half)
