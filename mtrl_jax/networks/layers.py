"""Dense layers, norms and MLPs as pure functions of a dict of parameters.

For networks that a ``scan`` steps through, or whose parameters are used both with and
without gradients. Parameters are float32; a layer computes in ``dtype``. Kernels start
Glorot-uniform, biases at zero, as in the programs these networks come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from mtrl_jax.networks import product
from mtrl_jax.types import Array, Key, Tree

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": jax.nn.elu,
    "silu": jax.nn.silu,
}
NORMS = ("none", "layer", "rms")
DTYPES = ("float32", "bfloat16")
NORM_EPS = 1e-3

glorot = jax.nn.initializers.glorot_uniform()


def fast_dtype(dtype: str) -> str:
    """Returns the type to compute in where ``dtype`` is asked for: float32 on a CPU."""
    return "float32" if jax.default_backend() == "cpu" else dtype


def dense_init(key: Key, inputs: int, outputs: int, *, zero: bool = False) -> Tree:
    """Returns {kernel [inputs, outputs], bias [outputs]}; ``zero``: all of it 0."""
    shape = (inputs, outputs)
    kernel = jnp.zeros(shape) if zero else glorot(key, shape)
    return {"kernel": kernel, "bias": jnp.zeros(outputs)}


def dense(params: Tree, x: Array, dtype: str = "float32") -> Array:
    """Returns x W + b, ``x`` [..., inputs], in ``dtype``."""
    y = product.product(x.astype(dtype), params["kernel"].astype(dtype))
    return y + like(params["bias"].astype(dtype), y)


def norm_init(kind: str, size: int) -> Tree:
    """Returns a norm's parameters: scale, and of "layer" an offset; {} of "none"."""
    if kind == "none":
        return {}
    scale = {"scale": jnp.ones(size)}
    return scale if kind == "rms" else scale | {"offset": jnp.zeros(size)}


def norm(kind: str, params: Tree, x: Array) -> Array:
    """Returns ``x`` [..., N] normalised over its last axis, computed in float32."""
    if kind == "none":
        return x
    y = x.astype(jnp.float32)
    if kind == "layer":
        y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), -1, keepdims=True) + NORM_EPS)
    y = y * like(params["scale"], y)
    if kind == "layer":
        y = y + like(params["offset"], y)
    return y.astype(x.dtype)


def mlp_init(
    key: Key,
    inputs: int,
    hidden: Sequence[int],
    outputs: int | None = None,
    *,
    norm: str = "none",
    zero: bool = False,
) -> Tree:
    """Returns the parameters of ``mlp``; ``zero``: the last layer's are 0."""
    keys = jax.random.split(key, len(hidden) + 1)
    params = {}
    for i, size in enumerate(hidden):
        params[f"dense_{i}"] = dense_init(keys[i], inputs, size)
        if norm != "none":
            params[f"norm_{i}"] = norm_init(norm, size)
        inputs = size
    if outputs is not None:
        params["out"] = dense_init(keys[-1], inputs, outputs, zero=zero)
    return params


def mlp(
    params: Tree,
    x: Array,
    *,
    activation: str,
    norm_kind: str = "none",
    dtype: str = "float32",
) -> Array:
    """Returns dense layers with norm and activation, then the output layer if any.

    The output layer's result is float32.
    """
    hidden = sum(name.startswith("dense_") for name in params)
    for i in range(hidden):
        x = dense(params[f"dense_{i}"], x, dtype)
        x = norm(norm_kind, params.get(f"norm_{i}", {}), x)
        x = ACTIVATIONS[activation](x)
    if "out" in params:
        x = dense(params["out"], x, dtype).astype(jnp.float32)
    return x


def like(x: Array, other: Array) -> Array:
    """Returns ``x`` [N] with the rank of ``other`` [..., N]."""
    return x.reshape((1,) * (other.ndim - 1) + (-1,))
