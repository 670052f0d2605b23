"""A GRU with one norm over its three pre-activations, the recurrence of the RSSM.

    r, c, u = split(N(W [x, h] + b)),   h' = σ(u − 1) tanh(σ(r) c) + (1 − σ(u − 1)) h

The reset gate multiplies the whole candidate, and bias −1 on the update gate keeps most
of the state. With ``blocks`` > 1 the state falls into blocks with recurrent weights of
their own that all see the whole input (in the manner of DreamerV3's block-diagonal GRU).

Ref: Hafner et al. 2021 (arXiv:2010.02193), the authors' program.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mtrl_jax.networks import layers
from mtrl_jax.types import Array, Key, Tree

UPDATE_BIAS = -1.0


def init(key: Key, inputs: int, units: int, *, norm: str, blocks: int) -> Tree:
    """Returns the parameters for inputs of a given length; ``blocks`` divides units."""
    outputs = 3 * units
    if blocks == 1:
        params = layers.dense_init(key, inputs + units, outputs)
    else:
        size = units // blocks
        keys = jax.random.split(key, blocks)
        kernel = jax.vmap(lambda k: layers.glorot(k, (inputs + size, 3 * size)))
        params = {"kernel": kernel(keys), "bias": jnp.zeros(outputs)}
    if norm != "none":
        params["norm"] = layers.norm_init(norm, outputs)
    return params


def step(
    params: Tree,
    x: Array,
    state: Array,
    dense: Callable[[Array], Array],
    *,
    norm: str,
    blocks: int,
) -> Array:
    """Returns h' [..., units] float32 of the input ``x`` [..., inputs] and h.

    ``dense`` is the layer W [x, h] + b of a single block.
    """
    if blocks == 1:
        gates = dense(jnp.concatenate([x, state.astype(x.dtype)], -1))
    else:
        gates = _block_gates(params, x, state, blocks)
    gates = layers.norm(norm, params.get("norm", {}), gates)
    reset, candidate, update = jnp.split(gates.astype(jnp.float32), 3, axis=-1)
    candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
    update = jax.nn.sigmoid(update + UPDATE_BIAS)
    return update * candidate + (1.0 - update) * state


def _block_gates(params: Tree, x: Array, state: Array, blocks: int) -> Array:
    """Returns W [x, h] + b, [..., 3 units], in the order reset, candidate, update."""
    lead, size = state.shape[:-1], state.shape[-1] // blocks
    own = state.astype(x.dtype).reshape(*lead, blocks, size)
    shared = jnp.broadcast_to(x[..., None, :], (*lead, blocks, x.shape[-1]))
    inputs = jnp.concatenate([shared, own], axis=-1)
    y = jnp.einsum("...bi,bio->...bo", inputs, params["kernel"].astype(x.dtype))
    y = y.reshape(*lead, blocks, 3, size)
    y = jnp.swapaxes(y, -3, -2).reshape(*lead, -1)
    return y + layers.like(params["bias"].astype(x.dtype), y)
