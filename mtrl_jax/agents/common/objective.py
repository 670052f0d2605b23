"""The loss of an actor-critic, whatever its terms are computed with.

    L = policy loss + value_cost · value loss − entropy_cost · entropy + Σ_i w_i L_i

The last sum is over auxiliary losses: each trains heads of its own on the features that
the policy reads, and so the torso and core beneath them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.hparams import Amount
from mtrl_jax.types import Array, Key, Scalar, Tree


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
    """A loss with heads of its own, from pure functions.

    ``name`` is the loss's among the metrics and the heads' among the parameters.
    ``weight(hp)`` returns the traced weight out of the agent's hyperparameters.
    ``init(key, features)`` returns the heads' parameters for features of that size.
    ``heads(params, features)`` returns predictions from features ``[T, B, F]``.
    ``loss(predictions, batch)`` returns the mean loss ``[]`` on the batch that the
    agent's own loss is given.
    """

    name: str
    weight: Callable[[Any], Scalar]
    init: Callable[[Key, int], Tree]
    heads: Callable[[Tree, Array], Tree]
    loss: Callable[[Tree, Tree], Array]


def total(
    terms: Terms, hp: Costs, more: Mapping[str, Weighted] | None = None
) -> tuple[Array, dict[str, Array]]:
    """Returns (loss, metrics []); ``more`` are further terms by name.

    The loss is ``[K]`` where a combiner has split its terms.
    """
    loss = terms.policy_loss + hp.value_cost * terms.value_loss
    loss = loss - hp.entropy_cost * terms.entropy
    metrics = terms._asdict()
    for name, term in (more or {}).items():
        loss = loss + term.weight * term.loss
        metrics[name] = term.loss
    metrics["loss"] = loss
    return loss, {name: jnp.mean(x) for name, x in metrics.items()}


def add_heads(params: dict, auxiliaries: Sequence[Auxiliary], key: Key) -> dict:
    """Returns a network's parameters with those of the auxiliaries' heads beside them."""
    if not auxiliaries:
        return params
    features = params["policy"]["kernel"].shape[-2]
    # Networks fold names into the same key, which are no small numbers.
    keys = jax.random.split(key, len(auxiliaries))
    heads = {x.name: x.init(k, features) for x, k in zip(auxiliaries, keys)}
    return {**params, "auxiliaries": heads}


def auxiliary_losses(
    auxiliaries: Sequence[Auxiliary],
    params: dict,
    features: Array,
    batch: Tree,
    hp: Any,
) -> dict[str, Weighted]:
    """Returns the weighted auxiliary losses by name; ``features`` are ``[T, B, F]``."""
    return {
        x.name: Weighted(
            x.weight(hp),
            x.loss(x.heads(params["auxiliaries"][x.name], features), batch),
        )
        for x in auxiliaries
    }
