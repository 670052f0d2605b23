"""The optimisers of the kit, built from traced hyperparameters.

An agent builds its optimiser inside ``init`` and ``update`` from ``hp``. Nothing about
it is static but its kind, so PBT may change a learning rate without a new program.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax

from mtrl_jax.types import Scalar

KINDS = ("adam", "rmsprop")


def make(kind: str, hp: Any, steps_per_update: int = 1) -> optax.GradientTransformation:
    """Returns clip-by-global-norm, then ``kind``, then the learning rate.

    ``hp`` has ``learning_rate, decay_updates, max_grad_norm, epsilon``. The rate falls
    linearly to 0 over ``decay_updates`` agent updates of ``steps_per_update`` optimiser
    steps each; 0 keeps it constant. ``epsilon`` is added outside the square root (the
    TensorFlow program of IMPALA adds it inside: its 0.1 is 0.316 here). RMSProp decays
    its second moment at 0.99 without momentum, Adam uses (0.9, 0.999).

    Raises:
      ValueError: ``kind`` is not one of KINDS.
    """
    check(kind)
    if kind == "adam":
        scale = optax.scale_by_adam(eps=hp.epsilon)
    else:
        scale = optax.scale_by_rms(decay=0.99, eps=hp.epsilon, eps_in_sqrt=False)

    def rate(count):
        return hp.learning_rate * _remaining(count / steps_per_update, hp.decay_updates)

    return optax.chain(
        optax.clip_by_global_norm(hp.max_grad_norm),
        scale,
        optax.scale_by_learning_rate(rate),
    )


def adamw(hp: Any) -> optax.GradientTransformation:
    """Returns clip-by-global-norm, then AdamW under a warm-up and a cosine.

    ``hp`` has ``learning_rate, warmup_updates, decay_updates, weight_decay,
    max_grad_norm, epsilon``. Over W ``warmup_updates`` the rate rises linearly, and from
    there to update D = ``decay_updates`` it falls to 0 as half a cosine; W = 0 starts at
    the whole rate, D = 0 keeps it. Weights fall by rate · weight_decay · weight. Moments
    decay at (0.9, 0.99): runs are short, and so is the memory.
    """

    def rate(count):
        return hp.learning_rate * _warm_cosine(count, hp)

    return optax.chain(
        optax.clip_by_global_norm(hp.max_grad_norm),
        optax.scale_by_adam(b2=0.99, eps=hp.epsilon),
        optax.add_decayed_weights(hp.weight_decay),
        optax.scale_by_learning_rate(rate),
    )


def check(kind: str) -> None:
    """Returns nothing; for agents to call when they are made.

    Raises:
      ValueError: ``kind`` is not one of KINDS.
    """
    if kind not in KINDS:
        raise ValueError(f"optimiser: unknown {kind!r}; one of {', '.join(KINDS)}")


def check_passes(config: Any) -> None:
    """Returns nothing if ``optimiser``, ``epochs`` and ``minibatches`` of it can be.

    Raises:
      ValueError: an unknown optimiser, or a number below 1.
    """
    for name in ("epochs", "minibatches"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: {getattr(config, name)} given; at least 1")
    check(config.optimiser)


def _remaining(updates: Scalar, horizon: Scalar) -> Scalar:
    left = jnp.clip(1.0 - updates / jnp.maximum(horizon, 1.0), 0.0, 1.0)
    return jnp.where(horizon > 0, left, 1.0)


def _warm_cosine(updates: Scalar, hp: Any) -> Scalar:
    warmup = hp.warmup_updates
    # The first update already moves.
    rising = jnp.minimum((updates + 1.0) / jnp.maximum(warmup, 1.0), 1.0)
    left = jnp.maximum(hp.decay_updates - warmup, 1.0)
    angle = jnp.pi * jnp.clip((updates - warmup) / left, 0.0, 1.0)
    falling = jnp.where(hp.decay_updates > 0, 0.5 * (1.0 + jnp.cos(angle)), 1.0)
    return rising * falling
