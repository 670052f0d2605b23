"""The optimisers of the kit, built from traced hyperparameters.

An agent builds its optimiser inside ``init`` and ``update`` from ``hp``. Nothing about
it is static but its kind, so PBT may change a learning rate without a new program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import types
from mtrl_jax.hparams import Amount, Divisor, Norm
from mtrl_jax.types import Array, Scalar, Tree

KINDS = ("adam", "rmsprop", "rmsprop_centred")
# RMSProp's second moment at the start, in units of eps: in the program of IMPALA it is 1
# and eps, on Atari, 0.01. Both scale with the square of the gradient's unit.
_START = 100.0


class Hparams(NamedTuple):
    """Of ``make``. Of the two eps the one of the other kind is not read, see ``idle``."""

    learning_rate: Amount = 1e-3
    decay_updates: Amount = 0.0  # linear decay to 0 over this many updates, 0: constant
    max_grad_norm: Norm = 0.5
    adam_eps: Divisor = 1e-8
    rmsprop_eps: Divisor = 1e-8  # inside the square root


class AdamwHparams(NamedTuple):
    """Of ``adamw``."""

    learning_rate: Amount = 3e-4
    warmup_updates: Amount = 100.0
    decay_updates: Amount = 0.0  # to the end of the cosine, 0: constant
    weight_decay: Amount = 0.0
    max_grad_norm: Norm = 1.0
    adam_eps: Divisor = 1e-8


class Optimiser(NamedTuple):
    """An optax.GradientTransformation that says at which rate its next step is."""

    init: Callable[[Tree], Tree]
    update: Callable[..., Any]
    rate: Callable[[Tree], Array]  # of a state


def make(
    kind: str, hp: Hparams, steps_per_update: int = 1, *, clip: bool = True
) -> Optimiser:
    """Returns clip-by-global-norm, then ``kind``, then the learning rate.

    Without ``clip`` gradients come as they shall be, see ``clip_networks``.

    The rate falls linearly to 0 over ``decay_updates`` agent updates of
    ``steps_per_update`` optimiser steps each. RMSProp decays its second moment at 0.99
    from 100 eps, without momentum, and adds eps inside the square root, as TensorFlow
    does; Adam uses (0.9, 0.999) and adds eps outside. Centred RMSProp is the one of DQN:
    moments decay at 0.95 and eps is inside the root of the variance.

    Raises:
      ValueError: ``kind`` is not one of KINDS.
    """
    check(kind)
    if kind == "adam":
        scale = optax.scale_by_adam(eps=hp.adam_eps)
    elif kind == "rmsprop":
        scale = optax.scale_by_rms(
            decay=0.99,
            eps=hp.rmsprop_eps,
            initial_scale=_START * hp.rmsprop_eps,
            eps_in_sqrt=True,
        )
    else:
        scale = _scale_by_deviation(hp.rmsprop_eps)

    def rate(count):
        return hp.learning_rate * _remaining(count / steps_per_update, hp.decay_updates)

    clipping = optax.clip_by_global_norm(hp.max_grad_norm) if clip else optax.identity()
    return _at(rate, clipping, scale)


def clip_networks(
    grads: Tree, max_norm: Scalar, shares: Sequence[float], apart: Sequence[str] = ()
) -> Tree:
    """Returns gradients {part: tree} of K networks, each clipped to its own norm.

    Leaves are ``[K, ...]``. A network's bound is max_norm · share: the loss is a mean
    over the steps of all tasks, of which this ``share`` is its own, so that it is clipped
    as it would be alone, whatever the others' gradients are, but for the common number of
    live steps: a task with more resets than others has a smaller part than its share, and
    they a larger one. The parts ``apart`` are of one network more, for all tasks, bounded
    by max_norm.
    """
    parts = {
        is_apart: {x: grads[x] for x in grads if (x in apart) == is_apart}
        for is_apart in (False, True)
    }

    def clipped(tree: Tree, bound: Scalar) -> Tree:
        clip = optax.clip_by_global_norm(bound)
        return clip.update(tree, clip.init(tree))[0]

    bounds = max_norm / jnp.asarray([1.0 / share for share in shares])
    own = jax.vmap(clipped)(parts[False], bounds)
    return own | clipped(parts[True], max_norm)


def adamw(hp: AdamwHparams) -> Optimiser:
    """Returns clip-by-global-norm, then AdamW under a warm-up and a cosine.

    Over W ``warmup_updates`` the rate rises linearly, and from there to update D =
    ``decay_updates`` it falls to 0 as half a cosine; W = 0 starts at the whole rate,
    D = 0 keeps it. Weights fall by rate · weight_decay · weight. Moments decay at
    (0.9, 0.99): runs are short, and so is the memory.
    """

    def rate(count):
        return hp.learning_rate * _warm_cosine(count, hp)

    return _at(
        rate,
        optax.clip_by_global_norm(hp.max_grad_norm),
        optax.scale_by_adam(b2=0.99, eps=hp.adam_eps),
        optax.add_decayed_weights(hp.weight_decay),
    )


def grouped(
    groups: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformation:
    """Returns one optimiser of parameters {group: tree}, each group by its own.

    Norms are clipped group by group; states are {group: state}.
    """

    def init(params):
        return {name: each.init(params[name]) for name, each in groups.items()}

    def update(grads, state, params=None):
        found = {
            name: each.update(grads[name], state[name], params and params[name])
            for name, each in groups.items()
        }
        changes = {name: x for name, (x, _) in found.items()}
        return changes, {name: x for name, (_, x) in found.items()}

    return optax.GradientTransformation(init, update)


def check(kind: str) -> None:
    """Raises ValueError unless ``kind`` is one of KINDS; for agents when they are made."""
    if kind not in KINDS:
        raise ValueError(f"optimiser: unknown {kind!r}; one of {', '.join(KINDS)}")


def idle(config: Any) -> dict[str, types.Idle]:
    """Returns the hyperparameters that the ``optimiser`` of a config leaves unread."""
    if config.optimiser == "adam":
        return {"rmsprop_eps": types.Idle(None, "optimiser=rmsprop")}
    return {"adam_eps": types.Idle(None, "optimiser=adam")}


def _scale_by_deviation(eps: Scalar) -> optax.GradientTransformation:
    """Returns centred RMSProp, whose variance rounding does not make negative.

    That of gradients that are constant is 0: optax's root is of less than 0 then, where
    the rounding of their square exceeds eps.
    """
    moments = optax.scale_by_stddev(decay=0.95, eps=eps)

    def scaled(grad: Array, mean: Array, square: Array) -> Array:
        variance = jnp.maximum(square - jnp.square(mean), 0.0)
        return grad * jax.lax.rsqrt(variance + eps)

    def update(grads, state, params=None):
        _, state = moments.update(grads, state, params)
        return jax.tree.map(scaled, grads, state.mu, state.nu), state

    return optax.GradientTransformation(moments.init, update)


def _at(
    rate: Callable[[Array], Array], *parts: optax.GradientTransformation
) -> Optimiser:
    """Returns the parts, then a step at the ``rate`` of its number."""
    init, update = optax.chain(*parts, optax.scale_by_learning_rate(rate))
    return Optimiser(init, update, lambda state: rate(state[-1].count))


def _remaining(updates: Scalar, horizon: Scalar) -> Scalar:
    left = jnp.clip(1.0 - updates / jnp.maximum(horizon, 1.0), 0.0, 1.0)
    return jnp.where(horizon > 0, left, 1.0)


def _warm_cosine(updates: Scalar, hp: AdamwHparams) -> Scalar:
    warmup = hp.warmup_updates
    # The first update already moves.
    rising = jnp.minimum((updates + 1.0) / jnp.maximum(warmup, 1.0), 1.0)
    left = jnp.maximum(hp.decay_updates - warmup, 1.0)
    angle = jnp.pi * jnp.clip((updates - warmup) / left, 0.0, 1.0)
    falling = jnp.where(hp.decay_updates > 0, 0.5 * (1.0 + jnp.cos(angle)), 1.0)
    return rising * falling
