"""Where hyperparameters come from and how a copy's are changed.

``hparams`` is any pytree whose leaves are scalars or, once sampled, arrays [P]; a leaf's
name is the last part of its path ("learning_rate", in whatever group it is). Noise is drawn
from one key per hyperparameter *and* member: a key shared between them would move all of
them together. The key depends on the name alone, so searching one hyperparameter more
leaves the draws of the others as they were.

Ref: Jaderberg et al. 2017 (arXiv:1711.09846), section 4.1. Deviation: × 1.2 or ÷ 1.2, as
in Espeholt et al. 2018, not × 1.2 or × 0.8, which drifts by -2 % per perturbation.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import chex
import jax
import jax.numpy as jnp

from mtrl_jax import random
from mtrl_jax.engine import batched_draws
from mtrl_jax.engine.pbt_config import PbtConfig, SearchRange
from mtrl_jax.types import Array, Key, Tree

Ranges = Mapping[str, SearchRange]


def sample_initial(key: Key, hparams: Tree, ranges: Ranges) -> Tree:
    """Returns ``hparams`` with leaves [P]: drawn where there is a range, else repeated.

    Uniform in [low, high], or log-uniform; whole numbers where the range is of integers.
    A range with ``initial`` "default" leaves the default to every member; one with a
    list gives member p the value p mod n.
    Leaves become float32 unless they are of another dtype already (bool, int).

    Args:
        key: [P], one per member.
        hparams: the defaults, scalars.
        ranges: by name; see ``names``.

    Raises:
        ValueError: a range names no leaf, or a leaf that is no scalar.
    """
    P = key.shape[0]
    _check_names(hparams, ranges)

    def initial(name, default):
        value = _typed(default, ranges.get(name))
        if name in ranges and value.ndim != 0:
            raise ValueError(
                f"search.{name} is of shape {value.shape}; only scalars are searched"
            )
        if name not in ranges or ranges[name].initial == "default":
            return jnp.array(jnp.broadcast_to(value, (P, *value.shape)))
        if not isinstance(ranges[name].initial, str):
            values = jnp.asarray(ranges[name].initial, value.dtype)
            return values[jnp.arange(P) % len(values)]
        draw = jax.vmap(lambda k: _draw(k, ranges[name]))(_own(key, name))
        return draw.astype(value.dtype)

    return _map_named(initial, hparams)


def explore(
    key: Key, hparams: Tree, ranges: Ranges, copied: Array, config: PbtConfig
) -> Tree:
    """Returns ``hparams`` [P] with the searched ones perturbed where ``copied``.

    multiply: h × factor or h ÷ factor, equally likely (log-symmetric)
    add:      h + step or h - step, equally likely
    normal:   h + step · N(0, 1)
    resample: a new draw from the range
    none:     as it was

    clipped to the range. All but resample and none are preceded by a new draw from the
    range with ``resample_probability``, and happen with ``perturb_probability``. With
    ``explore_all`` every member is perturbed, copied or not (IMPALA).

    Args:
        key: [P], one per member.
        hparams: leaves [P], after the copy.
        copied: [P] bool.
    """
    chex.assert_rank(copied, 1)
    _check_names(hparams, ranges)
    perturbed = jnp.ones_like(copied) if config.explore_all else copied

    @batched_draws.batch_draws
    def all_changed(key, hparams):
        def changed(name, value):
            if name not in ranges:
                return value
            chex.assert_equal_shape([value, copied])
            bounds = ranges[name].resolve(config)
            change = jax.vmap(lambda k, v: _change(k, v, bounds, config))
            new = change(_own(key, name), value.astype(jnp.float32))
            return jnp.where(perturbed, new.astype(value.dtype), value)

        return _map_named(changed, hparams)

    return all_changed(key, hparams)


def names(hparams: Tree) -> tuple[str, ...]:
    """Returns the name of every leaf: the last part of its path."""
    return tuple(
        _name(path) for path, _ in jax.tree_util.tree_leaves_with_path(hparams)
    )


def _change(key: Key, value: Array, bounds: SearchRange, config: PbtConfig) -> Array:
    """Returns one member's new value of one hyperparameter (``bounds`` resolved)."""
    draw_key, resample_key, perturb_key, noise_key = jax.random.split(key, 4)
    if bounds.rule == "none":
        return value
    draw = _draw(draw_key, bounds)
    if bounds.rule == "resample":
        return draw
    moves = jax.random.bernoulli(perturb_key, config.perturb_probability)
    moved = jnp.where(moves, _perturb(noise_key, value, bounds), value)
    assert bounds.resample_probability is not None
    resampled = jax.random.bernoulli(resample_key, bounds.resample_probability)
    # A value inherited from outside the range (changed on resume) comes back into it.
    return jnp.clip(jnp.where(resampled, draw, moved), bounds.low, bounds.high)


def _perturb(key: Key, value: Array, bounds: SearchRange) -> Array:
    assert bounds.factor is not None and bounds.step is not None
    up = jax.random.bernoulli(key)
    scaled = 1 - value if bounds.complement else value
    if bounds.rule == "multiply":
        new = jnp.where(up, scaled * bounds.factor, scaled / bounds.factor)
    elif bounds.rule == "add":
        new = scaled + jnp.where(up, bounds.step, -bounds.step)
    else:
        new = scaled + bounds.step * jax.random.normal(key)
    if not bounds.integer:
        return 1 - new if bounds.complement else new
    return _away(value, new)


def _away(value: Array, new: Array) -> Array:
    """Returns ``new`` rounded, at least one away from ``value`` in its direction.

    Plain rounding would swallow every step of a small integer: 2 × 1.2 is 2 again.
    """
    rounded = jnp.round(new)
    return jnp.where(rounded == value, value + jnp.sign(new - value), rounded)


def _draw(key: Key, bounds: SearchRange) -> Array:
    """Returns one draw from the range, log-uniform where it says so."""
    low, high = bounds.low, bounds.high
    if bounds.complement:
        low, high = 1 - high, 1 - low
    # Every whole number k stands for [k, k + 1), so that the ends are as likely.
    high = high + 1 if bounds.integer else high
    if bounds.log:
        edges = jnp.log(jnp.array([low, high], jnp.float32))
        value = jnp.exp(jax.random.uniform(key, minval=edges[0], maxval=edges[1]))
    else:
        value = jax.random.uniform(key, minval=low, maxval=high)
    value = jnp.floor(value) if bounds.integer else value
    value = 1 - value if bounds.complement else value
    return jnp.clip(value, bounds.low, bounds.high)


def _own(key: Key, name: str) -> Key:
    # 31 bits: fold broadcasts its data as int32.
    return random.fold(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def _typed(default: Tree, bounds: SearchRange | None) -> Array:
    """Returns the default as a strongly typed array: a weak type would retrace later."""
    dtype = jnp.result_type(default)
    whole = bounds is None or bounds.integer
    if not whole or jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.float32
    return jnp.asarray(default, dtype)


def _check_names(hparams: Tree, ranges: Ranges) -> None:
    known = names(hparams)
    for name in ranges:
        if name not in known:
            raise ValueError(
                f"search.{name} is no hyperparameter; there are {', '.join(known)}"
            )


def _map_named(function, hparams: Tree) -> Tree:
    return jax.tree_util.tree_map_with_path(lambda p, x: function(_name(p), x), hparams)


def _name(path) -> str:
    return jax.tree_util.keystr(path[-1:], simple=True)
