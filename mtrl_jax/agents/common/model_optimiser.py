"""The optimiser of an agent that learns in a world model: an Adam for each of its parts.

Ref: Hafner et al. 2021 (arXiv:2010.02193), appendix D. Deviation: weight decay is
multiplied by the learning rate.
"""

from __future__ import annotations

from typing import NamedTuple

import optax

from mtrl_jax.agents.common import optimiser
from mtrl_jax.hparams import Amount, Divisor, Norm
from mtrl_jax.types import Scalar


class Hparams(NamedTuple):
    """Of three Adams with decoupled weight decay."""

    model_lr: Amount = 2e-4
    actor_lr: Amount = 4e-5
    critic_lr: Amount = 1e-4
    max_grad_norm: Norm = 100.0  # of each
    adam_eps: Divisor = 1e-5
    weight_decay: Amount = 1e-6


def make(hp: Hparams) -> optax.GradientTransformation:
    """Returns an Adam for each of {model, actor, critic}, clipped on its own."""

    def adam(rate: Scalar) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(hp.max_grad_norm),
            optax.scale_by_adam(eps=hp.adam_eps),
            optax.add_decayed_weights(hp.weight_decay),
            optax.scale_by_learning_rate(rate),
        )

    rates = {"model": hp.model_lr, "actor": hp.actor_lr, "critic": hp.critic_lr}
    return optimiser.grouped({name: adam(rate) for name, rate in rates.items()})
