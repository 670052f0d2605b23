"""Attention over a sequence of tokens: rotary positions and the product.

Everything is heads-first, ``[B, H, S, D]``: the products of attention are then plain
batched matrix products, and the softmax runs along memory.
``jax.nn.dot_product_attention`` keeps ``[B, S, H, D]``, which on CPU costs transposes.
On CPU "blocks" is used: queries are taken a block at a time, against those keys only
that a causal mask can leave; weights are kept unnormalised, so that no pass over all of
them divides, and their gradient needs no sum over them (as in flash attention). For
values and gradients (64 sequences of 100 tokens, 4 heads of 16) it takes half the time
of ``jax.nn.dot_product_attention``.

Rotary positions: the queries and keys of the token at index i are turned by i * f_j in
the j-th plane; their product depends on the distance alone. The angle is kept as a
fraction of a turn in 32 bits, which wrap where the turn does, so that products are the
same after ten million tokens (in float32 the angle is off by 0.004 after 50,000).

Refs: Vaswani et al. 2017, arXiv:1706.03762; Su et al. 2021, arXiv:2104.09864 (rotary);
Dao et al. 2022, arXiv:2205.14135 (the gradient).
"""

from __future__ import annotations

import functools
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.types import Array, Key

IMPLEMENTATIONS = ("auto", "plain", "blocks", "xla", "cudnn")
ROTARY_BASE = 10_000.0
_HIDDEN = -1e30  # logit of a token that is not seen
_BLOCK = 64  # queries


def rotation(index: Array, size: int) -> tuple[Array, Array]:
    """Returns (cos, sin), [B, 1, S, size/2], of tokens at ``index`` [B, S], heads ``size``.

    Plane j turns by base^(-2j/size) radians a token.
    """
    chex.assert_rank(index, 2)
    per_token = ROTARY_BASE ** (-np.arange(0, size, 2) / size) / (2 * np.pi)
    turns = np.round(per_token * 2.0**32).astype(np.uint32)
    phase = index.astype(jnp.uint32)[:, None, :, None] * turns[None, None, None]
    signed = jax.lax.bitcast_convert_type(phase, jnp.int32)
    angle = signed.astype(jnp.float32) * np.float32(2 * np.pi / 2.0**32)
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Array, by: tuple[Array, Array]) -> Array:
    """Returns ``x`` [B, H, S, D] with its pairs (j, j + D/2) turned by ``by``.

    (left, right) -> (left cos - right sin, right cos + left sin)
    """
    half = x.shape[-1] // 2
    # (left, right) -> (-right, left) as a product: joining halves is a slow loop on CPU.
    quarter_turn = np.kron([[0.0, 1.0], [-1.0, 0.0]], np.eye(half))
    across = jnp.matmul(x, jnp.asarray(quarter_turn, x.dtype), precision="highest")
    cos, sin = (jnp.concatenate([a, a], axis=-1) for a in by)
    return (x * cos + across * sin).astype(x.dtype)


def attend(
    query: Array,
    key: Array,
    value: Array,
    allowed: Array,
    *,
    band: int | None = None,
    dropout: float = 0.0,
    dropout_key: Key | None = None,
    implementation: str = "auto",
) -> Array:
    """Returns softmax(q kᵀ / √D over the allowed keys) v, [B, H, T, D].

    Args:
      query: [B, H, T, D].
      key, value: [B, H, S, D].
      allowed: [B or 1, T, S] bool, what a query sees; every query must see something.
        Where T = S, of what comes after a query nothing is seen.
      band: n where ``allowed`` is just "the last n tokens", None for anything else; a
        fused kernel then needs no mask.
      dropout, dropout_key: rate at which weights are dropped; none without a key.
      implementation: one of IMPLEMENTATIONS. "plain" is the equation; "blocks" see
        above, it has no forward-mode derivative; the others are those of
        ``jax.nn.dot_product_attention``. auto: "cudnn" on a GPU where it can be,
        "blocks" on a CPU, otherwise "xla". Only "plain" has dropout, and is what is
        used with it.
    """
    chex.assert_rank([query, key, value, allowed], [4, 4, 4, 3])
    if dropout > 0 and dropout_key is not None:
        weights = _weights(query, key, allowed)
        kept = jax.random.bernoulli(dropout_key, 1.0 - dropout, weights.shape)
        return _read(jnp.where(kept, weights / (1.0 - dropout), 0.0), value)
    match _choose(implementation, query, key, band):
        case "plain":
            return _read(_weights(query, key, allowed), value)
        case "blocks":
            return _blocks(band, query, key, value, allowed)
        case name:
            return _fused(query, key, value, allowed, band, name)


def _weights(query: Array, key: Array, allowed: Array) -> Array:
    """Returns the softmax [B, H, T, S]."""
    return jax.nn.softmax(_logits(query, key, allowed))


def _logits(query: Array, key: Array, allowed: Array) -> Array:
    """Returns q kᵀ / √D in float32, _HIDDEN where not allowed; [B, H, T, S]."""
    logits = _product("bhtd,bhsd->bhts", query, key) / math.sqrt(query.shape[-1])
    return jnp.where(allowed[:, None], logits, _HIDDEN)


def _read(weights: Array, value: Array) -> Array:
    out = _product("bhts,bhsd->bhtd", weights.astype(value.dtype), value)
    return out.astype(value.dtype)


def _product(equation: str, x: Array, y: Array) -> Array:
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blocks(
    band: int | None, query: Array, key: Array, value: Array, allowed: Array
) -> Array:
    return _blocks_forward(band, query, key, value, allowed)[0]


def _blocks_forward(band, query, key, value, allowed):
    """Returns (out, residuals): per block e = exp(logits - max), out = e v / sum(e)."""
    weights, outs, sums = [], [], []
    for rows, seen in _spans(query.shape[2], key.shape[2], band):
        logits = _logits(query[:, :, rows], key[:, :, seen], allowed[:, rows, seen])
        # Without the barrier the exponential is computed once more for the sum.
        e = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
        e = jax.lax.optimization_barrier(e.astype(value.dtype))
        sums.append(jnp.sum(e, axis=-1, keepdims=True, dtype=jnp.float32))
        outs.append(_product("bhts,bhsd->bhtd", e, value[:, :, seen]) / sums[-1])
        weights.append(e)
    out = jnp.concatenate(outs, axis=2).astype(value.dtype)
    total = jnp.concatenate(sums, axis=2)
    return out, (query, key, value, weights, out, total)


def _blocks_backward(band, residuals, g):
    """With p = e / sum(e): dlogits = p (g vᵀ - g·out), dv = pᵀ g."""
    query, key, value, weights, out, total = residuals
    scale = 1.0 / math.sqrt(query.shape[-1])
    g = (g / total).astype(value.dtype)
    common = jnp.sum(g * out, axis=-1, keepdims=True, dtype=jnp.float32)
    d_query, d_key, d_value = [], jnp.zeros(key.shape), jnp.zeros(value.shape)
    spans = _spans(query.shape[2], key.shape[2], band)
    for (rows, seen), e in zip(spans, weights):
        g_rows = g[:, :, rows]
        d = _product("bhtd,bhsd->bhts", g_rows, value[:, :, seen]) - common[:, :, rows]
        d = jax.lax.optimization_barrier((e * d * scale).astype(query.dtype))
        d_query.append(_product("bhts,bhsd->bhtd", d, key[:, :, seen]))
        d_key = d_key.at[:, :, seen].add(
            _product("bhts,bhtd->bhsd", d, query[:, :, rows])
        )
        d_value = d_value.at[:, :, seen].add(_product("bhts,bhtd->bhsd", e, g_rows))
    grads = jnp.concatenate(d_query, axis=2), d_key, d_value
    of = (query, key, value)
    return (*(d.astype(x.dtype) for d, x in zip(grads, of)), None)


_blocks.defvjp(_blocks_forward, _blocks_backward)


def _spans(queries: int, keys: int, band: int | None) -> list[tuple[slice, slice]]:
    """Returns (queries, the keys they can see) of each block."""
    if queries != keys:
        return [(slice(0, queries), slice(0, keys))]
    count = -(-queries // _BLOCK)
    ends = [queries * i // count for i in range(count + 1)]
    starts = [max(0, i + 1 - (band or keys)) for i in ends]
    return [
        (slice(ends[i], ends[i + 1]), slice(starts[i], ends[i + 1]))
        for i in range(count)
    ]


def _fused(
    query: Array,
    key: Array,
    value: Array,
    allowed: Array,
    band: int | None,
    implementation: str,
) -> Array:
    tokens_first = [jnp.swapaxes(x, 1, 2) for x in (query, key, value)]
    if band is None:
        sight: dict[str, Any] = {"mask": allowed[:, None]}
    else:
        sight = {"is_causal": True}
        if band < key.shape[2]:
            sight["local_window_size"] = (band - 1, 0)
    attention: Any = jax.nn.dot_product_attention
    out = attention(*tokens_first, **sight, implementation=implementation)
    return jnp.swapaxes(out, 1, 2)


def _choose(implementation: str, query: Array, key: Array, band: int | None) -> str:
    """Returns the implementation with "auto" resolved for the default backend."""
    if implementation != "auto":
        return implementation
    backend = jax.default_backend()
    if backend == "cpu":
        return "blocks"
    lengths, size = (query.shape[2], key.shape[2]), query.shape[3]
    # cuDNN: half precision, heads of 8, 16, ..., 128; with a mask only even lengths.
    is_half = query.dtype in (jnp.bfloat16, jnp.float16)
    is_sized = size % 8 == 0 and size <= 128
    is_masked_well = band is not None or all(n % 2 == 0 for n in lengths)
    if backend == "gpu" and is_half and is_sized and is_masked_well:
        return "cudnn"
    return "xla"
