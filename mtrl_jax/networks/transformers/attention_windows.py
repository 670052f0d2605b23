"""Windows on a history: what a token sees, in a whole sequence and in a ring of the last.

A step sees the ``window`` steps that end with it. In the triple encoding a_{t-1} and
r_{t-1} arrive together with o_t but belong to step t-1: the window of o_t ends with o_t
and begins with an observation. A ring therefore keeps one step more than the window: the
one that only a_{t-1} and r_{t-1} still see. So does a transition of a "set".

Each slot counts its own live steps; padding is not counted, so it is as if absent.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.networks.transformers import attention, history_tokens
from mtrl_jax.types import Array, Tree


class Cache(NamedTuple):
    """The last steps as the layers saw them: a ring of G places with n tokens a slot."""

    keys: tuple[Array, ...]  # per layer [B, heads, G n, size], turned by their position
    values: tuple[Array, ...]  # per layer [B, heads, G n, size]
    live: Array  # [B, G n] bool
    position: Array  # [B] int32, live steps so far; the next goes to position mod G
    ngram: Tree = ()  # ngrams.Ring, where there is such a head


class Sight(NamedTuple):
    """Who sees whom and where everyone stands, the same in all layers."""

    allowed: Array  # [B or 1, S, S], or [B, n, G n] of a ring
    now: Array  # [B or 1, T] int32, the position of each step
    held: (
        Array  # the same; [B, G] of the steps that a ring holds, -1 and less: none yet
    )
    rotation: tuple[Array, Array] | None  # see attention.rotation; None: not rotary
    band: int | None = None  # see attention.attend
    written: Array | None = None  # [B, G] bool, the place of this step in the ring


def empty(
    *, layers: int, heads: int, size: int, window: int, encoding: str, dtype: str, batch
) -> Cache:
    """Returns the cache of ``batch`` fresh slots, heads of ``size`` numbers."""
    tokens = history_tokens.TOKENS[encoding]
    length = (window + (tokens > 1)) * tokens

    def ring():
        return tuple(
            jnp.zeros((batch, heads, length, size), dtype) for _ in range(layers)
        )

    live = jnp.zeros((batch, length), bool)
    return Cache(ring(), ring(), live, jnp.zeros((batch,), jnp.int32))


def positions(live: Array | None, length: int) -> Array:
    """Returns how many live steps are before each step, [B or 1, T]; ``live`` [T, B]."""
    if live is None:
        return jnp.arange(length)[None]
    # Of padding: the position of the live step before it, which it may as well have.
    return jnp.maximum(jnp.cumsum(live.T.astype(jnp.int32), axis=1) - 1, 0)


class Segments(NamedTuple):
    """How a history is cut: a step sees those of its own segment, and the prompt."""

    number: Array  # [B, T] int32, of the segment; 0 is the prompt
    position: Array  # [B, T] int32, in the segment, after the steps of the prompt
    relative: Array  # [B, T] int32, the same up to a constant of each segment
    begins: Array  # [B, T] bool, the first step of a segment


def cut(
    steps: history_tokens.Steps, horizon: Array | None, alone: Array | None
) -> Segments:
    """Returns the segments of Steps [T, B]: of ``horizon`` live steps each.

    Where they are ``alone``, an episode is a segment (or several) of its own.
    """
    shape = steps.has_prev.shape
    live = jnp.ones(shape, bool) if steps.live is None else steps.live
    prompt = jnp.zeros(shape, bool) if steps.prompt is None else steps.prompt
    own, shown = (live & ~prompt).T, (live & prompt).T
    place = positions(own.T, shape[0])
    episode = jnp.zeros_like(place)
    if alone is not None and steps.begins is not None:
        episode = _held(place, own & steps.begins.T & alone)
    since = place - episode
    begins = own & (since == 0 if horizon is None else since % horizon == 0)
    before = jnp.sum(shown, axis=1, keepdims=True)
    position = place - _held(place, begins) + before
    position = jnp.where(prompt.T, positions(shown.T, shape[0]), position)
    # A prompt is as far from one segment as from another.
    relative = position if steps.prompt is not None or alone is not None else place
    return Segments(jnp.cumsum(begins, axis=1), position, relative, begins)


def begun(
    steps: history_tokens.Steps, segments: Segments, alone: Array | None
) -> history_tokens.Steps:
    """Returns Steps [T, B] in which what was before a segment is unread.

    What was before the first of all may be known, but not where it is of another episode
    and these are ``alone``.
    """
    first = jnp.cumsum(segments.begins, axis=1) > 1
    if alone is not None and steps.begins is not None:
        first |= steps.begins.T & alone
    return steps._replace(has_prev=steps.has_prev & ~(segments.begins & first).T)


def _held(x: Array, where: Array) -> Array:
    """Returns the last ``x`` [B, T] so far of those ``where``, 0 before; x only rises."""
    return jax.lax.cummax(jnp.where(where, x, 0), axis=1)


def last(
    steps: history_tokens.Steps, horizon: Array, kept: Array | None = None
) -> history_tokens.Steps:
    """Returns Steps [T, B] of which the last ``horizon`` are there, the others padding.

    Of the T steps all are live, or the first are not. The first ``kept`` [B] live ones, a
    prompt, are there, too. Where any is left out, what was before the first of the others
    is unread.
    """
    shape = length, _ = steps.has_prev.shape
    age = (length - 1 - jnp.arange(length))[:, None]
    there = jnp.ones(shape, bool) if steps.live is None else steps.live
    begins = (age == horizon - 1) & (age < length - 1)
    seen = age < horizon
    if kept is not None:
        shown = jnp.cumsum(there.astype(jnp.int32), axis=0) <= kept[None]
        begins, seen = begins & ~shown, seen | shown
    return steps._replace(live=there & seen, has_prev=steps.has_prev & ~begins)


def of_sequence(
    steps: history_tokens.Steps,
    window: int,
    encoding: str,
    rotary_size: int | None,
    segments: Segments | None = None,
) -> Sight:
    """Returns the sight of the tokens of Steps [T, B] on each other.

    ``rotary_size``: numbers per head, None where positions are not rotary. The ``segments``
    of the steps do not see each other, and all of them see the prompt.
    """
    length = steps.has_prev.shape[0]
    live = history_tokens.live_tokens(steps, encoding)
    place = positions(steps.live, length) if segments is None else segments.relative
    index = _token_index(place, encoding)
    allowed = _in_window(index, index, window, encoding)
    if segments is not None:
        segment = jnp.repeat(segments.number, history_tokens.TOKENS[encoding], axis=1)
        shown = segment[:, None, :] == 0
        allowed &= (segment[:, :, None] == segment[:, None, :]) | shown
    if live is not None:
        # Padding sees itself, so that every row of the softmax has something.
        itself = jnp.eye(index.shape[1], dtype=bool)[None]
        allowed = (allowed & live[:, None, :]) | itself
    is_band = live is None and segments is None
    band = min(window, length) if is_band else None
    return Sight(allowed, place, place, _rotation(index, rotary_size), band)


def of_ring(
    steps: history_tokens.Steps,
    cache: Cache,
    window: int | Array,
    encoding: str,
    rotary_size: int | None,
    kept: Array | None = None,
) -> tuple[Sight, Cache]:
    """Returns (sight of the tokens of Steps [1, B] on the ring, cache).

    The first ``kept`` [B] steps, a prompt, are seen beyond the ``window``, as long as the
    ring holds them. The cache returned has this step's place and position; its keys and
    values are still to be written, layer by layer.

    >>> sizes = {"layers": 0, "heads": 1, "size": 1, "dtype": "float32", "batch": 1}
    >>> cache = empty(window=3, encoding="step", **sizes)
    >>> now = history_tokens.Steps({}, None, None, None, jnp.ones((1, 1), bool))
    >>> for _ in range(4):
    ...     sight, cache = of_ring(now, cache, 2, "step", None)
    >>> sight.held.tolist(), sight.allowed.tolist()  # The last two of 0 to 3.
    ([[3, 1, 2]], [[[True, False, True]]])
    """
    tokens = history_tokens.TOKENS[encoding]
    places = cache.live.shape[1] // tokens
    is_live = (
        jnp.ones_like(cache.position, bool) if steps.live is None else steps.live[0]
    )
    now = cache.position[:, None]  # [B, 1]
    place = jnp.arange(places)[None]
    # The newest step written in each place, this one included; -1 and less: none yet.
    held = now - (now - place) % places
    written = (place == now % places) & is_live[:, None]
    live_now = history_tokens.live_tokens(steps, encoding)
    if live_now is None:
        live_now = is_live[:, None]
    live = _put(cache.live, live_now, written, axis=1)
    index, held_index = _token_index(now, encoding), _token_index(held, encoding)
    allowed = _in_window(index, held_index, window, encoding)
    if kept is not None:
        shown = jnp.repeat(held < kept[:, None], tokens, axis=1)[:, None, :]
        context = places - (tokens > 1)  # See ``empty``.
        allowed |= shown & _in_window(index, held_index, context, encoding)
    allowed &= live[:, None, :]
    rotation = _rotation(index, rotary_size)
    sight = Sight(allowed, now, held, rotation, None, written)
    position = cache.position + is_live
    return sight, cache._replace(live=live, position=position)


def forget(cache: Cache, forgets: Array, kept: Array, encoding: str) -> Cache:
    """Returns the cache of which some slots have nothing but their first ``kept`` steps.

    ``forgets`` [B] bool, ``kept`` [B] int32. The next step follows these.
    """
    tokens = history_tokens.TOKENS[encoding]
    places = cache.live.shape[1] // tokens
    place = (jnp.arange(cache.live.shape[1]) // tokens)[None]
    newest = cache.position[:, None] - 1
    held = newest - (newest - place) % places
    stays = ~forgets[:, None] | (held < kept[:, None])
    position = jnp.where(forgets, jnp.minimum(kept, cache.position), cache.position)
    return cache._replace(live=cache.live & stays, position=position)


def write(ring: Array, new: Array, written: Array) -> Array:
    """Returns ``ring`` [B, H, G n, D] with ``new`` [B, H, n, D] where ``written`` [B, G]."""
    return _put(ring, new, written, axis=2)


def _put(ring: Array, new: Array, written: Array, axis: int) -> Array:
    """Put the n entries of ``new`` along ``axis`` into one of the G places.

    A select over the whole ring: attention reads all of it anyway, and an indexed write
    turns into a slow loop under ``vmap``.
    """
    places, tokens = written.shape[1], new.shape[axis]
    lead, rest = ring.shape[:axis], ring.shape[axis + 1 :]
    grouped = ring.reshape(*lead, places, tokens, *rest)
    shape = (written.shape[0], *(1 for _ in lead[1:]), places, 1, *(1 for _ in rest))
    chosen = written.reshape(shape)
    return jnp.where(chosen, jnp.expand_dims(new, axis), grouped).reshape(ring.shape)


def _token_index(position: Array, encoding: str) -> Array:
    """Returns the index of each token in its slot's row of tokens, [..., T n]."""
    tokens = history_tokens.TOKENS[encoding]
    index = position[..., None] * tokens + jnp.arange(tokens)[None, None]
    return index.reshape(position.shape[0], -1)


def _in_window(query: Array, key: Array, window: int | Array, encoding: str) -> Array:
    """Returns which of the tokens ``key`` [B, S] each of ``query`` [B, T] sees, [B, T, S]."""
    query, key = query[:, :, None], key[:, None, :]
    # The window of a step begins with its observation, the first token of its own.
    tokens, own = history_tokens.TOKENS[encoding], history_tokens.OWN[encoding]
    age = (query + own) // tokens - (key + own) // tokens
    seen = (key <= query) & (age < window)
    if encoding != "set":
        return seen
    # Transitions come first in their row, observations last; only these see others.
    of_transition = (key % tokens == 0) & (query % tokens != 0)
    return seen & (of_transition | (key == query))


def _rotation(index: Array, size: int | None) -> tuple[Array, Array] | None:
    return None if size is None else attention.rotation(index, size)
