"""The gradient step, for every agent that has one.

    params, opt = optimise(∇ L(params, stats, batch))

An agent brings the loss and the optimiser; an update is one such step on the whole batch
(``update``), or several passes over it in minibatches (``passes``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import tree
from mtrl_jax.agents.common import combining, flat, minibatches, optimiser
from mtrl_jax.types import Array, Key, Tree

Metrics = dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Config:
    """Of an update's passes; fields of an agent's Config, see ``policy_learner``."""

    epochs: int = 1  # passes over a rollout
    minibatches: int = 1  # groups of rows a pass is made in


class Learner(NamedTuple):
    """What PBT copies."""

    params: Tree
    opt: Tree
    stats: Tree  # statistics that no gradient trains; () without any
    updates: Array  # [] int32
    observations: Tree = ()  # of observation_scale, of which no loss reads anything
    frozen: Tree = ()  # weights that nothing changes: a teacher's; () without any


class Aux(NamedTuple):
    """What a loss returns beside its value."""

    metrics: Metrics  # float32 scalars
    stats: Tree = ()  # after the batch
    present: Array | None = None  # bool [K] tasks of the batch, for a combiner
    live: Array | None = None  # bool [], the batch has a live step; None: it has


# (params, gradients, statistics before, after, hp) -> (params, gradients): what has to
# follow the statistics before the optimiser steps.
Preserve = Callable[[Tree, Tree, Tree, Tree, Any], tuple[Tree, Tree]]

# (gradients, hp) -> gradients, clipped in the place of an optimiser that does not.
Clip = Callable[[Tree, Any], Tree]

# (params, stats, batch, key, hp) -> (loss [], or [K] of a combiner's tasks; Aux)
Loss = Callable[[Tree, Tree, Tree, Key, Any], tuple[Array, Aux]]


def init(
    params: Tree,
    optimise: optax.GradientTransformation | optimiser.Optimiser,
    stats: Tree = (),
    observations: Tree = (),
    frozen: Tree = (),
) -> Learner:
    """Returns a learner that has made no update."""
    updates, opt = jnp.zeros((), jnp.int32), optimise.init(params)
    return Learner(params, opt, stats, updates, observations, frozen)


def gradient_step(
    loss: Loss,
    optimise: optax.GradientTransformation | optimiser.Optimiser,
    learner: Learner,
    batch: Tree,
    key: Key,
    hp: Any,
    preserve: Preserve | None = None,
    combiner: combining.Combining = combining.MEAN,
    clip: Clip | None = None,
) -> tuple[Learner, Metrics]:
    """Returns (learner, metrics) after one step; ``updates`` is not counted.

    The loss's metrics, the combiner's, ``grad_norm``: the gradient's norm before it is
    clipped, and, where the optimiser says it, the ``learning_rate`` of the step.
    """
    return _step(loss, optimise, learner, batch, key, hp, preserve, combiner, clip)[:2]


def _step(
    loss, optimise, learner, batch, key, hp, preserve, combiner, clip
) -> tuple[Learner, Metrics, Array]:
    """Returns what ``gradient_step`` does, and whether there was a step to learn from."""
    params, stats = learner.params, learner.stats
    grads, aux = combiner.gradients(
        lambda params: loss(params, stats, batch, key, hp), params
    )
    if preserve is not None:

        def preserved(grads: Tree) -> tuple[Tree, Tree]:
            return preserve(params, grads, stats, aux.stats, hp)

        # The parameters are the same whatever the gradient.
        each = jax.vmap(preserved, out_axes=(None, 0))
        params, grads = (each if combiner.is_split else preserved)(grads)
    grads, found = combiner.combine(grads, key, hp, aux.present)
    metrics = aux.metrics | found | {"grad_norm": optax.tree.norm(grads)}
    if isinstance(optimise, optimiser.Optimiser):
        metrics["learning_rate"] = jnp.asarray(optimise.rate(learner.opt), jnp.float32)
    if clip is not None:
        grads = clip(grads, hp)
    changes, opt = optimise.update(grads, learner.opt, params)
    params = optax.apply_updates(params, changes)
    live = jnp.bool_(True) if aux.live is None else aux.live
    return learner._replace(params=params, opt=opt, stats=aux.stats), metrics, live


def update(
    loss: Loss,
    optimise: optax.GradientTransformation | optimiser.Optimiser,
    learner: Learner,
    batch: Tree,
    key: Key,
    hp: Any,
    preserve: Preserve | None = None,
    combiner: combining.Combining = combining.MEAN,
    clip: Clip | None = None,
) -> tuple[Learner, Metrics]:
    """Returns (learner, metrics) after an update of one step on the whole batch."""
    learner, metrics = gradient_step(
        loss, optimise, learner, batch, key, hp, preserve, combiner, clip
    )
    return learner._replace(updates=learner.updates + 1), metrics


def passes(
    loss: Loss,
    optimise: optax.GradientTransformation | optimiser.Optimiser,
    learner: Learner,
    rows: minibatches.Rows,
    key: Key,
    hp: Any,
    *,
    epochs: int,
    minibatches: int,
    preserve: Preserve | None = None,
    combiner: combining.Combining = combining.MEAN,
    clip: Clip | None = None,
) -> tuple[Learner, Metrics]:
    """Returns (learner, metrics) after an update of ``epochs`` passes over the rows.

    Every pass takes each row once, in ``minibatches`` random groups; metrics are means
    over the steps that had something to learn from. A single step takes the rows as they
    are. In between, parameters and moments are one vector each (see flat.py).
    """
    if epochs * minibatches == 1:
        return update(
            loss, optimise, learner, rows.batch, key, hp, preserve, combiner, clip
        )
    index = rows.order(key, epochs, minibatches)  # [steps, rows]
    # None of the keys that order the rows.
    keys = jax.random.split(jax.random.fold_in(key, epochs), len(index))
    layout = flat.layout(learner.params)
    loss, preserve, clip = _of_vectors(layout, loss, preserve, clip)

    names: list[str] = []

    def step(
        now: Learner, drawn: tuple[Array, Key]
    ) -> tuple[Learner, tuple[Array, Array]]:
        index, key = drawn
        batch = rows.take(index)
        now, metrics, live = _step(
            loss, optimise, now, batch, key, hp, preserve, combiner, clip
        )
        names[:] = sorted(metrics)
        return now, (jnp.stack([metrics[name] for name in names]), live)

    packed, (metrics, live) = jax.lax.scan(
        step, layout.pack(learner), (tree.shard(index, axis=1), keys)
    )
    learner = layout.unpack(packed, learner)
    learner = learner._replace(updates=learner.updates + 1)
    means = jnp.mean(metrics, axis=0, where=live[:, None])
    means = jnp.where(jnp.any(live), means, 0.0)
    return learner, dict(zip(names, means))


def _of_vectors(
    layout: flat.Layout, loss: Loss, preserve: Preserve | None, clip: Clip | None
) -> tuple[Loss, Preserve | None, Clip | None]:
    """Returns these for parameters and gradients that are vectors."""

    def loss_of(vector, *args):
        return loss(layout.read(vector), *args)

    def preserve_of(vector, grads, *args):
        assert preserve is not None
        trees = preserve(layout.read(vector), layout.read(grads), *args)
        params, grads = map(layout.lay, trees)
        return params, grads

    def clip_of(grads, hp):
        assert clip is not None
        return layout.lay(clip(layout.read(grads), hp))

    return (
        loss_of,
        None if preserve is None else preserve_of,
        None if clip is None else clip_of,
    )


def after(starts: int, step: Array, learn: Callable, *args: Any) -> tuple:
    """Returns ``learn(learner, *more)``, before update ``starts`` the learner and zeros.

    A branch, not a select: ``step`` is the same for all members.
    """
    if starts == 0:
        return learn(*args)
    shapes = jax.eval_shape(learn, *args)[1:]

    def wait(learner: Tree, *_: Any) -> tuple:
        return learner, *jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return jax.lax.cond(step >= starts, learn, wait, *args)


def check(config: Config) -> None:
    """Raises ValueError unless there is a pass, and a minibatch."""
    for name in ("epochs", "minibatches"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: {getattr(config, name)} given; at least 1")
