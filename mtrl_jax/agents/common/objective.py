"""The loss of an actor-critic, whatever its terms are computed with.

    L = policy loss + value_cost · value loss − entropy_cost · entropy + Σ_i w_i L_i

The last sum is over auxiliary losses: each trains heads of its own, or those there are,
and the torso and core beneath them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.hparams import Amount
from mtrl_jax.types import Array, Key, Scalar, Tree

HEADS = "auxiliaries"  # the part of the parameters that are auxiliaries' own


@dataclasses.dataclass(frozen=True)
class Config:
    """Of the terms; fields of an agent's Config, see ``policy_learner``."""

    normalise_advantages: bool = False  # to mean 0 and variance 1, by task


class Costs(NamedTuple):
    """What the terms weigh beside the policy's."""

    entropy_cost: Amount = 0.01
    value_cost: Amount = 0.5


class Terms(NamedTuple):
    """Means over live steps, ``[]``; ``[K]`` where a combiner splits them by task."""

    policy_loss: Array
    value_loss: Array
    entropy: Array


class Weighted(NamedTuple):
    """One more term and what it weighs, ``[]``; the loss may be ``[K]`` as Terms are."""

    weight: Scalar
    loss: Array


class Auxiliary(NamedTuple):
    """One more loss of an agent, from pure functions; an example is in CONTRIBUTING.

    ``name`` is the loss's among the metrics.
    ``weight(hp)`` returns the traced weight out of the agent's hyperparameters.
    ``loss(heads, seen, hp)`` returns the mean loss ``[]`` on what the agent shows of a
    batch, an actor-critic a Seen.
    ``init(key, features)`` returns the parameters of heads that it has for itself, on
    features of that size; None: it has no heads, and is given ().
    ``heads`` is what they are called among the parameters; "": as the loss.
    """

    name: str
    weight: Callable[[Any], Scalar]
    loss: Callable[[Tree, Any, Any], Array]
    init: Callable[[Key, int], Tree] | None = None
    heads: str = ""


class Seen(NamedTuple):
    """What an actor-critic shows its auxiliaries."""

    features: Array  # [T, B, F] that the policy's head reads
    batch: Tree  # that the agent's own loss is given


def total(
    terms: Terms,
    hp: Costs,
    more: Mapping[str, Weighted] | None = None,
    present: Array | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Returns (loss, metrics []); ``more`` are further terms by name.

    The loss is ``[K]`` where a combiner has split its terms. Metrics are means over the
    tasks that are ``present`` [K], all by default.
    """
    loss = terms.policy_loss + hp.value_cost * terms.value_loss
    loss = loss - hp.entropy_cost * terms.entropy
    metrics = terms._asdict()
    for name, term in (more or {}).items():
        loss = loss + term.weight * term.loss
        metrics[name] = term.loss
    metrics["loss"] = loss
    return loss, {name: _mean(x, present) for name, x in metrics.items()}


def add_heads(params: dict, auxiliaries: Sequence[Auxiliary], key: Key) -> dict:
    """Returns a network's parameters with those of the auxiliaries' heads beside them."""
    own = [(x.heads or x.name, x.init) for x in auxiliaries if x.init]
    if not own:
        return params
    features = params["policy"]["kernel"].shape[-2]
    # No key of the network's own, whose parts are named.
    keys = jax.random.split(jax.random.fold_in(key, 1), len(own))
    heads = {name: init(k, features) for (name, init), k in zip(own, keys)}
    return {**params, HEADS: heads}


def auxiliary_losses(
    auxiliaries: Sequence[Auxiliary], params: dict, seen: Any, hp: Any
) -> dict[str, Weighted]:
    """Returns the weighted auxiliary losses by name, of what the agent shows them."""
    heads = params.get(HEADS, {})

    def loss(x: Auxiliary) -> Array:
        return x.loss(heads[x.heads or x.name] if x.init else (), seen, hp)

    return {x.name: Weighted(x.weight(hp), loss(x)) for x in auxiliaries}


def _mean(x: Array, present: Array | None) -> Array:
    if present is None or not jnp.ndim(x):
        return jnp.mean(x)
    return jnp.sum(jnp.where(present, x, 0.0)) / jnp.maximum(jnp.sum(present), 1)
