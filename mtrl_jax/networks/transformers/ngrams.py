"""N-gram heads: what came of it the last times that a history was here.

    A_ij = 1 where x_{i-k} = x_{j-1-k} for k = 0 ... n-1, j < i;  rows divided by their sums
    y_i  = W1 h_i + W2 sum_j A_ij h_j

x is what is observed at a step, equal where every number is; floats that differ in a bit
differ. The token of step j holds the action before it and what that led to, so that a head
reads what was done here and what came of it. A row without a match reads nothing. From a
step to the one before it counts, too, whether an episode ended between them.

All 2n - 1 steps that a match is made of lie in the window of step i, in segments that it
sees, and of live steps alone: padding is as if absent. Acting with a ring and reading a whole
history are therefore the same.

Ref: Zisman et al. 2024, "N-Gram Induction Heads for In-Context RL" (arXiv:2411.01958), with
states as x. An observation is known by a hash of 32 bits; two are mistaken for each other
with probability 2^-32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.networks.transformers import history_tokens
from mtrl_jax.networks.transformers.attention_windows import Sight
from mtrl_jax.types import Array, Tree

_GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio


class Rows(NamedTuple):
    """What matching reads of steps: of a sequence S = T, of a ring S = G."""

    state: Array  # [B, S] uint32, the hash of what is observed
    done: Array  # [B, S] bool, an episode ended just before
    linked: Array  # [B, S] bool, the step before it is part of the same segment


class Ring(NamedTuple):
    """The last steps as a ring of G places keeps them."""

    rows: Rows  # [B, G]
    found: Array  # [B, G, width], W2 h


def rows_of(steps: history_tokens.Steps) -> Rows:
    """Returns the Rows [B, T] of Steps [T, B]."""
    linked = steps.has_prev if steps.live is None else steps.has_prev & steps.live
    return Rows(hashes(steps.obs).T, steps.prev_done.T, linked.T)


def empty(places: int, width: int, dtype: str, batch: int) -> Ring:
    """Returns the ring of ``batch`` fresh slots."""
    shape = (batch, places)
    rows = Rows(*(jnp.zeros(shape, kind) for kind in (jnp.uint32, bool, bool)))
    return Ring(rows, jnp.zeros((*shape, width), dtype))


def hashes(obs: Tree) -> Array:
    """Returns a hash of the bits of every observation [T, B, ...], uint32 [T, B]."""
    total: Any = jnp.uint32(0)
    for i, leaf in enumerate(jax.tree.leaves(obs)):
        flat = _bits(leaf).reshape(*leaf.shape[:2], -1)
        place = jnp.arange(1, flat.shape[-1] + 1, dtype=jnp.uint32) + (i << 24)
        mixed = _mix(flat + (place * jnp.uint32(_GOLDEN))[None, None])
        total += jnp.sum(mixed, axis=-1, dtype=jnp.uint32)
    return total


def in_sequence(
    n: int,
    rows: Rows,
    live: Array | None,
    sight: Sight,
    tokens: int,
    window: int | Array,
) -> Array:
    """Returns A [B, T, T] of steps of so many ``tokens``; ``live`` [T, B]."""
    index = jnp.arange(rows.state.shape[1])[None]
    last = index if live is None else jnp.where(live.T, index, -1)
    last = jax.lax.cummax(last, axis=1)
    before = jnp.concatenate([jnp.full_like(last[:, :1], -1), last[:, :-1]], axis=1)
    rows = rows._replace(linked=rows.linked & (before >= 0))
    before = jnp.broadcast_to(before, rows.state.shape)

    def back(x: Array) -> Array:
        return jnp.take_along_axis(x, before, axis=1)

    chain = _chain(n, rows, back)
    return _shares(n, chain, chain, sight, tokens, window)


def in_ring(
    n: int, rows: Rows, sight: Sight, tokens: int, window: int | Array
) -> Array:
    """Returns A [B, 1, G] of the newest step, whose Rows the ring [B, G] has already."""
    chain = _chain(n, rows, lambda x: jnp.roll(x, 1, axis=1))
    here = sight.now % rows.state.shape[1]
    newest = [Rows(*(jnp.take_along_axis(x, here, axis=1) for x in y)) for y in chain]
    return _shares(n, newest, chain, sight, tokens, window)


def write(rows: Rows, new: Rows, written: Array) -> Rows:
    """Returns the rows of a ring with the ``new`` ones [B, 1] where ``written`` [B, G]."""
    return Rows(*(jnp.where(written, y, x) for x, y in zip(rows, new)))


def _chain(n: int, rows: Rows, back: Callable[[Array], Array]) -> list[Rows]:
    """Returns the Rows of the step k before each, k = 0 ... n.

    ``back`` takes what belongs to each step to the one after it. ``done`` is whether an
    episode ended after that step, ``linked`` that all so far are of one segment.
    """
    nothing = jnp.zeros_like(rows.done)
    made = [Rows(rows.state, nothing, ~nothing)]
    state, done, linked = rows
    for _ in range(n):
        made.append(Rows(back(state), done, linked & made[-1].linked))
        state, done, linked = back(state), back(done), back(linked)
    return made


def _shares(
    n: int,
    queries: list[Rows],
    keys: list[Rows],
    sight: Sight,
    tokens: int,
    window: int | Array,
) -> Array:
    """Returns A [B, Q, K] in float32."""
    age = sight.now[:, :, None] - sight.held[:, None]
    seen = sight.allowed[:, ::tokens, ::tokens] & (age > 0) & (age + n < window)
    for k in range(n):
        state, done, linked = (x[:, :, None] for x in queries[k])
        key = keys[k + 1]
        seen &= (state == key.state[:, None]) & linked & key.linked[:, None]
        if k:
            seen &= done == key.done[:, None]
    matches = seen.astype(jnp.float32)
    return matches / jnp.maximum(matches.sum(axis=-1, keepdims=True), 1.0)


_MINUS_ZERO = 1 << 31


def _bits(x: Array) -> Array:
    """Returns the bits of every number as uint32; 0 and -0 have the same."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.asarray(x, jnp.uint32)
    bits = jax.lax.bitcast_convert_type(jnp.asarray(x, jnp.float32), jnp.uint32)
    # Not x + 0: compiled, nothing is added.
    return jnp.where(bits == jnp.uint32(_MINUS_ZERO), jnp.uint32(0), bits)


def _mix(x: Array) -> Array:
    """Returns a bijection of uint32 in which every bit moves about half of all."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
