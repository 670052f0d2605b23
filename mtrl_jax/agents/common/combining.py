"""One gradient from those of the tasks, as an option of the learner.

    d = Σ_k w_k ∇ L_k,    L = mean_k L_k

``mean`` is the gradient of the whole loss, ``sum`` that times the number of tasks. Any
other combiner (losses/gradient_combiners.py) is given the gradient of each task's own
steps: the network is run forward once, backward once for all tasks together. All
parameters are one vector, policy and value and a task's own heads, and what is under
PopArt is combined after the heads are rewritten.

L_k is the mean over live steps of task k, weighed by its share of them, so that the mean
over tasks is the loss without a combiner also where tasks have unlike numbers of steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.agents.common.objective import Terms
from mtrl_jax.hparams import Share
from mtrl_jax.losses import gradient_combiners, policy_gradient
from mtrl_jax.types import Array, Key, Tree


@dataclasses.dataclass(frozen=True)
class Config:
    """Of the combiner; fields of an agent's Config, see ``policy_learner``."""

    combiner: str = "mean"  # sum, mean, equal_norm, pcgrad, cagrad, mgda


class Hparams(NamedTuple):
    """Of the combiner."""

    cagrad_c: Share = 0.5  # how far from the mean, in its norm; of CAGrad alone


@dataclasses.dataclass(frozen=True)
class Combining:
    """A combiner by its name, and the number of tasks."""

    name: str = "mean"
    tasks: int = 1

    @property
    def is_split(self) -> bool:
        """Whether the gradient of each task is wanted."""
        return self.name not in ("mean", "sum")

    def mean(self, x: Array, live: Array, task: Array) -> Array:
        """Returns the mean over live steps ``[]``; the L_k ``[K]`` where it is split.

        ``x``, ``live`` and ``task`` are ``[...]`` alike.
        """
        if not self.is_split:
            return policy_gradient.masked_mean(x, live)
        return policy_gradient.task_shares(x, live, task, self.tasks)

    def means(
        self, terms: Terms, more: Mapping[str, Array], live: Array, task: Array
    ) -> tuple[Terms, dict[str, Array]]:
        """Returns (``mean`` of each of the terms, mean over live steps of what is more).

        One reduction for all of them where nothing is split. No gradient flows through
        ``more``: its zeros would meet infinities on the way back.
        """
        measured = jax.lax.stop_gradient(dict(more))
        if self.is_split:
            split = [self.mean(x, live, task) for x in terms]
            return type(terms)(*split), policy_gradient.masked_means(measured, live)
        names = terms._fields
        found = policy_gradient.masked_means(terms._asdict() | measured, live)
        return type(terms)(*map(found.pop, names)), found

    def present(self, live: Array, task: Array) -> Array | None:
        """Returns bool [K], which tasks have live steps; None where nothing is split."""
        if not self.is_split:
            return None
        numbers = jnp.arange(self.tasks)[None]
        own = live.ravel()[:, None] & (task.ravel()[:, None] == numbers)
        return jnp.any(own, axis=0)

    def gradients(
        self, loss: Callable[[Tree], tuple[Array, Any]], params: Tree
    ) -> tuple[Tree, Any]:
        """Returns (gradients, what the loss returns beside its value).

        Leaves are those of ``params``; ``[K, ...]`` where it is split, the loss being
        ``[K]`` there (or ``[]``, then it is common to all tasks).
        """
        if not self.is_split:
            (_, aux), grads = jax.value_and_grad(loss, has_aux=True)(params)
            return grads, aux

        def losses(params):
            value, aux = loss(params)
            return jnp.broadcast_to(value, (self.tasks,)), aux

        _, pull, aux = jax.vjp(losses, params, has_aux=True)
        (grads,) = jax.vmap(pull)(jnp.eye(self.tasks))
        return grads, aux

    def combine(
        self, grads: Tree, key: Key, hp: Any, present: Array | None = None
    ) -> tuple[Tree, dict[str, Array]]:
        """Returns (one gradient, metrics) of what ``gradients`` gave.

        Tasks that are not ``present`` have no say, whatever of the loss is common to all;
        without it those whose gradient is 0. The metric is ``conflicts``, the share of
        pairs of these whose gradients' product is negative; none where it is not split.
        """
        if self.name == "mean":
            return grads, {}
        if self.name == "sum":
            return jax.tree.map(lambda g: self.tasks * g, grads), {}
        gram = gradient_combiners.gram(grads)
        weights = gradient_combiners.weights(
            gradient_combiners.get(self.name),
            gram,
            key,
            hp.combining.cagrad_c,
            absent=None if present is None else ~present,
        )
        metrics = {"conflicts": gradient_combiners.conflicts(gram, present)}
        return gradient_combiners.weighted(weights, grads), metrics


class BySteps(Combining):
    """No mean: the terms of every step, for one who weighs them first."""

    def means(
        self, terms: Terms, more: Mapping[str, Array], live: Array, task: Array
    ) -> tuple[Terms, dict[str, Array]]:
        """Returns both as they are."""
        del live, task
        return terms, dict(more)


def idle(config: Any) -> dict[str, types.Idle]:
    """Returns the hyperparameters that the ``combiner`` of a config leaves unread."""
    if config.combiner == "cagrad":
        return {}
    return {"cagrad_c": types.Idle(None, "combiner=cagrad")}


# Of a loss that knows no tasks.
MEAN = Combining()


def make(name: str, spec: types.EnvSpec) -> Combining:
    """Returns the combiner called ``name`` for the tasks of ``spec``.

    Raises:
      ValueError: an unknown name, or a combiner of several tasks where there is one.
    """
    gradient_combiners.get(name)
    made = Combining(name, len(spec.tasks))
    if made.is_split:
        what = f"combiner: {name!r} combines the gradients of several tasks"
        types.check_several_tasks(spec, what, "'mean'")
    return made
