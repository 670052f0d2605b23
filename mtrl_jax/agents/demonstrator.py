"""Demonstrators that get better: what is best to do is known, and done ever more often.

    action = optimal with probability 1 - ε, else uniform over the legal actions

with ε falling linearly, from 1 to a floor. Such histories get better as a learner's do,
from random to optimal, and cost nothing to make: AD^ε distils them in the place of those
of reinforcement learning. Where ``unroll_length`` is an episode and its reset, an update
is an episode, and ε is the same within it.

What is best the environments have to say (``types.OPTIMAL``, an observation); stages
give it to agents that read expert labels, and write it down only as a label.

Ref: Zisman et al. 2024, "Emergence of In-Context Reinforcement Learning from Noise
Distillation" (arXiv:2312.12275).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.agents.common import exploration
from mtrl_jax.losses import policy_gradient
from mtrl_jax.types import Array, Key, Scalar

INFO = types.AgentInfo(
    "the optimal action, with less and less noise (Zisman et al. 2024)",
    reads_expert_labels=True,
    actions=(types.Discrete,),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Nothing makes another program."""


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced. ``epsilon_end`` is the floor."""

    # 90 % of 200.
    exploration: exploration.Hparams = exploration.Hparams(decay_updates=180.0)


class Learner(NamedTuple):
    """What PBT copies."""

    updates: Array  # [] int32


class Extras(NamedTuple):
    """What acting notes down for the update, ``[T, B]``."""

    log_prob: Array  # of the action under the policy that took it


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the demonstrator for environments of ``spec``, which say what is best.

    Metrics: ``epsilon``, and ``optimal``, the share of live steps with the best action.

    Raises:
      ValueError: actions that are not discrete, environments that do not say it.
    """
    del config
    exploration.number_of_actions(spec.action, "demonstrator")
    if types.OPTIMAL not in spec.obs:
        raise ValueError(
            f"obs: demonstrator reads the best action as {types.OPTIMAL!r}, the "
            f"environment gives {sorted(spec.obs)}; use it in a stage of kind collect, "
            "on one entry of tasks that the compiled program steps"
        )

    def init(key, hp):
        del key, hp
        return Learner(jnp.zeros((), jnp.int32))

    def act(learner, carry, ts, key, hp):
        best = ts.obs[types.OPTIMAL]
        epsilon = exploration.epsilon_at(learner.updates, hp.exploration)
        # A label that is illegal is no best action.
        legal = exploration.choosable(ts.action_mask)
        epsilon = jnp.where(exploration.entry(legal, best), epsilon, 1.0)
        action = noisy(key, best, epsilon, legal)
        other = epsilon / jnp.sum(legal, axis=-1)
        likely = jnp.where(action == best, 1.0 - epsilon + other, other)
        return action, carry, Extras(jnp.log(likely))

    def update(learner, rollout, key, hp, step):
        del key, step
        updates, ts = learner.updates, rollout.ts
        agrees = (rollout.action == ts.obs[types.OPTIMAL][:-1]).astype(jnp.float32)
        metrics = {
            "epsilon": exploration.epsilon_at(updates, hp.exploration),
            "optimal": policy_gradient.masked_mean(agrees, ~ts.first[1:]),
        }
        return Learner(updates + 1), metrics, ()

    return types.Agent(init, lambda batch: (), act, update)


def noisy(key: Key, action: Array, epsilon: Scalar, legal: Array) -> Array:
    """Returns ``action`` [B] with probability 1 - ε, else a uniform legal one; int32.

    ``epsilon`` is a number or [B], ``legal`` [B, A].
    """
    which, when = jax.random.split(key)
    uniform = jax.random.categorical(which, jnp.where(legal, 0.0, -jnp.inf))
    explores = jax.random.uniform(when, action.shape) < epsilon
    return jnp.where(explores, uniform, action).astype(jnp.int32)
