"""A causal transformer that reads a learning history and says the next action.

    x = tokens(o, a, r, done) (+ position)               see history_tokens
    x = x + attention(norm(x));  x = x + W2 gelu(W1 norm(x))      ``layers`` times
    logits_t = linear(norm(x)) at the token of o_t

The window. A step attends the last ``context`` steps, itself included, in every layer.
``unroll`` does this for a whole history at once, as a banded causal mask; a history of at
most ``context`` steps has no band. ``step`` does it one step at a time, in one of two
ways:

    cache      keys and values of the last steps, one step costs O(context). It equals
               ``unroll`` of everything since the cache was fresh, before and after the
               oldest step falls out. Through the layers a step is thereby touched by up
               to layers * (context - 1) steps before it.
    recompute  the last ``context`` steps themselves, read anew each time. It equals
               ``unroll`` of those steps alone, nothing being known before the first: what
               training on windows of ``context`` steps trains, exactly.

Learned positions count from the first step of the window, so that cached keys would be
wrong once a step has fallen out: they recompute, and histories longer than ``context``
are refused. Rotary positions are relative and cache; without positions ("none") the
causal mask alone tells what came before. A model trained on windows of
``context`` steps has seen each token of them with less behind it than a long cache has;
to train what the cache does, unroll longer windows and leave the first steps of each out
of the loss, or act with "recompute". Of a "set" nothing is read through the layers, and
both are the same.

The horizon, a traced number of steps, is a shorter context without another program:
members of a population may each have their own. ``unroll`` cuts a history into segments of
so many steps that know nothing of each other, which trains every length up to it;
recomputed, ``step`` reads the last so many alone, and says what ``unroll`` says of them.
A cache sees so many steps back in every layer, and further through the layers: to see no
further, act with "recompute". A horizon of ``context`` or more changes nothing.

An n-gram head (``ngrams``) may stand before the last layer.

With an ``outlook`` (see there) steps may have a token of their return, and more is
predicted than the action. Steps that may be ``alone``, a traced choice, see their own episode
and the prompt: ``unroll`` cuts there, acting calls ``forget``.

Padding is as if absent, wherever it stands: it takes no position and no place in a
window, nothing attends to it; what is said at it means nothing. Nothing is reset between
episodes; ``tree.where(is_fresh, initial_cache(B), cache)`` makes slots begin anew.

Refs: Laskin et al. 2023, arXiv:2210.14215 (4 layers, width 64, 4 heads, feed-forward
2048). Pre-norm, GELU, orthogonal policy head of gain 0.01 are ours.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from mtrl_jax import tree, types
from mtrl_jax.networks import layers, torsos
from mtrl_jax.networks.transformers import (
    attention_windows,
    history_tokens,
    ngrams,
    outlook,
    transformer_config,
    transformer_layers,
)
from mtrl_jax.types import Array, Key, Tree

TransformerConfig = transformer_config.TransformerConfig
_DEFAULT = TransformerConfig()


class Recent(NamedTuple):
    """The last steps as they came, newest at the end; before the first: padding."""

    steps: history_tokens.Steps  # [B, context, ...]
    gone: Array  # [B] int32, steps that fell out before them


class Transformer(NamedTuple):
    """A transformer as pure functions; everything works under ``vmap`` over ``params``.

    ``init(key)`` returns parameters.
    ``unroll(params, steps, key=None, window=None, horizon=None, alone=None,
    action=None, gate=None)`` returns logits [T, B, M] of Steps [T, B], M = action_mask_size, for
    ``heads.policy`` to mask; dropout needs a ``key``; ``window`` (steps) in place of
    ``context``. Of a transformer with an outlook it returns Outputs; with the
    ``action`` of each step also what that leads to.
    ``initial_cache(batch)`` returns the memory of fresh slots, every leaf [B, ...].
    ``step(params, cache, steps, horizon=None, gate=None, kept=None, outcomes=False)``
    returns (logits [B, M], cache) of Steps [B]; a slot that is not live keeps its cache. No
    dropout. Its first ``kept`` [B] steps, a prompt, are seen beyond the horizon, as
    ``unroll`` does. With ``outcomes`` Outputs also say what each of the M actions would lead
    to, [B, M, ...].
    ``forget(cache, forgets, kept)`` returns the cache of which the slots that forget,
    bool [B], have nothing but their first ``kept`` [B] steps.
    A ``horizon`` is an int32 scalar of at least 1, ``alone`` a bool scalar; ``gate``, from
    0 to 1, is how much an n-gram head adds (all of it by default).
    """

    init: Callable[[Key], Tree]
    unroll: Callable[..., Any]
    initial_cache: Callable[[int], Tree]
    step: Callable[..., tuple[Any, Tree]]
    forget: Callable[[Tree, Array, Array], Tree]


def make(
    spec: types.EnvSpec,
    config: TransformerConfig = _DEFAULT,
    given: outlook.Outlook | None = None,
) -> Transformer:
    """Returns the transformer for environments of ``spec``.

    Raises ValueError for a config field that is unknown, out of range or does not go
    with the others, and for an action space that is not categorical.
    """
    transformer_config.check(spec, config)
    config = dataclasses.replace(
        config,
        torso=torsos.choose(config.torso, spec.obs),
        dtype=layers.fast_dtype(config.dtype),
    )
    module = _module(spec, config, given or outlook.Outlook())
    encoding = module.encoding
    counted = bool(given and given.steps)
    example = history_tokens.dummy(spec.obs, spec.action, encoding, counted)

    def of(out):
        return out.action if given is None else out

    def init(key):
        one = jax.tree.map(lambda x: x[None], example)
        taken = one.prev_action
        return module.init(key, one, config.context, action=taken)["params"]

    def unroll(
        params,
        steps,
        key=None,
        window=None,
        horizon=None,
        alone=None,
        action=None,
        gate=None,
    ):
        chex.assert_rank(steps.has_prev, 2)
        steps = history_tokens.read(steps, encoding)
        window = _window(config, window, steps.has_prev.shape[0])
        out, _ = module.apply(
            {"params": params},
            steps,
            window,
            deterministic=key is None,
            horizon=None if horizon is None else within_context(config, horizon),
            alone=alone,
            action=action,
            gate=gate,
            rngs={} if key is None else {"dropout": key},
        )
        return of(out)

    size = types.action_mask_size(spec.action)

    def every_action(steps, outcomes):
        if not outcomes:
            return None
        return jnp.repeat(jnp.arange(size), len(steps.has_prev))[None]

    def now(out, outcomes):
        out = jax.tree.map(lambda x: x[0], of(out))
        if not outcomes:
            return out

        def by_slot(x):
            return jnp.swapaxes(x.reshape(size, -1, x.shape[-1]), 0, 1)

        return out._replace(
            reward=jax.tree.map(by_slot, out.reward),
            next_vector=jax.tree.map(by_slot, out.next_vector),
        )

    def cached(
        params, cache, steps, horizon=None, gate=None, kept=None, outcomes=False
    ):
        one = jax.tree.map(lambda x: x[None], _moment(steps, encoding))
        variables, window = {"params": params}, config.context
        seen = {"horizon": horizon, "gate": gate, "kept": kept}
        action = every_action(steps, outcomes)
        out, cache = module.apply(variables, one, window, cache, action=action, **seen)
        return now(out, outcomes), cache

    def recomputed(
        params, cache, steps, horizon=None, gate=None, kept=None, outcomes=False
    ):
        action = every_action(steps, outcomes)
        cache = _append(cache, _moment(steps, encoding))
        read = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), cache.steps)
        if horizon is not None:
            read = attention_windows.last(read, horizon, _left(cache, kept))
        variables = {"params": params}
        out, _ = module.apply(
            variables, read, config.context, newest=True, gate=gate, action=action
        )
        return now(out, outcomes), cache

    if transformer_config.acting(config) == "cache":
        return Transformer(
            init,
            unroll,
            lambda batch: _empty_cache(config, encoding, batch),
            cached,
            functools.partial(attention_windows.forget, encoding=encoding),
        )
    return Transformer(
        init,
        unroll,
        lambda batch: _empty_recent(config, example, batch),
        recomputed,
        _forget,
    )


def within_context(config: TransformerConfig, horizon: Array) -> Array:
    """Returns the horizon, endless from ``context`` on: longer histories have a band."""
    return jnp.where(horizon < config.context, horizon, jnp.iinfo(jnp.int32).max)


def _module(
    spec: types.EnvSpec, config: TransformerConfig, given: outlook.Outlook
) -> transformer_layers.Layers:
    outlook.check(given)
    encoding = config.encoding
    if given.bins:
        encoding = history_tokens.with_returns(encoding)
    vector = spec.obs.get("vector")
    if given.vectors and vector is None:
        raise ValueError(
            f"outlook.vectors: True, but of {sorted(spec.obs)} no vector can be predicted; "
            "use False"
        )
    size = 0 if vector is None else vector.shape[0]
    return transformer_layers.Layers(config, spec.action, given, encoding, size)


def _moment(steps: history_tokens.Steps, encoding: str) -> history_tokens.Steps:
    """Returns Steps [B] without what is read in whole histories alone."""
    read = history_tokens.read(steps, encoding)
    return read._replace(begins=None, prompt=None)


def _window(config: TransformerConfig, window: int | None, length: int) -> int:
    window = config.context if window is None else window
    if window < 1:
        raise ValueError(f"window: {window} steps; a step sees itself, use 1 or more")
    if config.positions == "learned" and length > config.context:
        raise ValueError(
            f"steps: {length} of them, but learned positions end after context="
            f"{config.context}; cut the history into windows or use 'rotary'"
        )
    return window


def _empty_cache(
    config: TransformerConfig, encoding: str, batch: int
) -> attention_windows.Cache:
    cache = attention_windows.empty(
        layers=config.layers,
        heads=config.heads,
        size=config.width // config.heads,
        window=config.context,
        encoding=encoding,
        dtype=config.dtype,
        batch=batch,
    )
    if not config.ngram:
        return cache
    places = cache.live.shape[1] // history_tokens.TOKENS[encoding]
    ring = ngrams.empty(places, config.width, config.dtype, batch)
    return cache._replace(ngram=ring)


def _empty_recent(
    config: TransformerConfig, one: history_tokens.Steps, batch: int
) -> Recent:
    def fresh(x):
        return jnp.zeros((batch, config.context, *x.shape[1:]), x.dtype)

    steps = jax.tree.map(fresh, one._replace(live=one.has_prev))
    return Recent(steps, jnp.zeros((batch,), jnp.int32))


def _forget(cache: Recent, forgets: Array, kept: Array) -> Recent:
    """Returns the last steps of which some slots have their first ``kept`` alone."""
    length = cache.steps.has_prev.shape[1]
    there = jnp.asarray(cache.steps.live)
    live, kept = jnp.sum(there, axis=1), _left(cache, kept)
    # The live ones stand at the end: those that go, go from there.
    gone = jnp.where(forgets, jnp.maximum(live - kept, 0), 0)[:, None]
    place = jnp.arange(length)[None]
    index = (place - gone) % length
    moved = jax.tree.map(
        lambda x: jax.vmap(lambda leaf, i: leaf[i])(x, index), cache.steps
    )
    stays = place >= length - jnp.minimum(live - gone[:, 0], length)[:, None]
    return cache._replace(steps=moved._replace(live=jnp.asarray(moved.live) & stays))


def _left(cache: Recent, kept: Array | None) -> Any:
    """Returns how many of the first ``kept`` [B] steps of all are among the last."""
    return None if kept is None else jnp.maximum(kept - cache.gone, 0)


def _append(cache: Recent, steps: history_tokens.Steps) -> Recent:
    """Returns the cache with Steps [B] at the end, unchanged where they are padding.

    Where one fell out, the first that is left knows nothing of it.
    """
    live = steps.live
    if live is None:
        live = jnp.ones_like(steps.has_prev, bool)

    def shifted(old, new):
        return jnp.concatenate([old[:, 1:], new[:, None].astype(old.dtype)], axis=1)

    longer = jax.tree.map(shifted, cache.steps, steps._replace(live=live))
    fell = live & jnp.asarray(cache.steps.live)[:, 0]
    # As in a window that is trained on, what was before the first is unread.
    is_first = jnp.arange(longer.has_prev.shape[1])[None] == 0
    longer = longer._replace(has_prev=longer.has_prev & ~(is_first & fell[:, None]))
    return Recent(tree.where(live, longer, cache.steps), cache.gone + fell)
