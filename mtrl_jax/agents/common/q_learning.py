"""Deep Q-learning: one learner of which DQN, Rainbow and what lies between are settings.

Its loss is ``q_loss``. An update draws the batches of all its gradient steps at once;
before update ``learning_starts`` it learns nothing.

Refs: Mnih et al. 2015; van Hasselt et al. 2016 (arXiv:1509.06461); Schaul et al. 2016
(arXiv:1511.05952); Hessel et al. 2018 (arXiv:1710.02298).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import tree, types
from mtrl_jax.agents.common import exploration, learning, optimiser, q_loss
from mtrl_jax.data import replay
from mtrl_jax.hparams import Amount, Share
from mtrl_jax.losses import rewards
from mtrl_jax.networks import q_network
from mtrl_jax.types import Array

# The probe tasks that it learns: it acts in single choices and has no memory.
LEARNS = (
    "constant", "observation", "delayed", "action", "both", "masked", "both_image",
)  # fmt: skip


class Exploration(NamedTuple):
    """ε falls linearly from its start to its end over ``epsilon_updates`` updates."""

    epsilon_start: Share = 1.0
    epsilon_end: Share = 0.05
    epsilon_updates: Amount = 1000.0  # 0: it stays at the start


class Targets(NamedTuple):
    """Where targets come from."""

    target_period: Amount = 200.0  # updates from copy to copy of the target network


class Extras(NamedTuple):
    """What acting notes down: labels for those who learn from it."""

    q: Array  # [T, B, A]
    value: Array  # [T, B] of the best legal action


def make(
    spec: types.EnvSpec,
    config: Any,
    parts: q_loss.Parts,
    name: str,
) -> types.Agent:
    """Returns the agent; ``config`` is that of DQN or Rainbow, see there.

    Its hyperparameters have the groups ``optimiser, returns, exploration, targets`` and,
    where its parts read them, ``prioritising``, ``support`` and ``noise``. Metrics:
    ``loss, error`` (mean |error| that priorities are made of), ``value`` (mean q of what
    was done), ``grad_norm, epsilon``; 0 before learning starts, but for ε.

    Raises:
      ValueError: actions that are not discrete, unknown names, sizes below 1; at trace
        time, a capacity below a window and an unroll.
    """
    actions = exploration.number_of_actions(spec.action, name)
    _check(config, parts)
    head = q_network.Head(
        parts.atoms if parts.distribution != "none" else 1, parts.dueling, parts.noisy
    )
    setting = q_loss.Setting(
        q_network.make(spec, config.network, actions, head),
        parts,
        rewards.get(config.rewards),
    )
    memory = replay.make(
        spec,
        replay.Config(
            config.capacity,
            config.batch,
            config.gradient_steps,
            parts.n_step + 1,
            frames=config.frames,
            prioritised=parts.prioritised,
        ),
    )

    def optimise(hp):
        return optimiser.make(config.optimiser, hp.optimiser, config.gradient_steps)

    def init(key, hp):
        params = setting.network.init(key)
        # The target network is what no gradient trains.
        return learning.init(params, optimise(hp), tree.copy(params))

    def act(learner, carry, ts, key, hp):
        explore_key, noise_key = jax.random.split(key)
        noise = q_loss.noise_of(parts, noise_key, hp, acting=True)
        q = q_loss.values(setting, learner.params, ts, noise, hp)
        epsilon = epsilon_at(learner.updates, hp.exploration)
        action, _, value = exploration.epsilon_greedy(
            explore_key, q, ts.action_mask, epsilon
        )
        return action, carry, Extras(q, value)

    def loss(params, target, batch, key, hp):
        total, metrics = q_loss.loss_of(setting, params, target, batch, key, hp)
        return total, learning.Aux(metrics, target)

    def learn(learner, drawn, key, hp):
        def step(now, given):
            batch, key = given
            updates = now.updates
            now, metrics = learning.gradient_step(
                loss, optimise(hp), now, (batch, updates), key, hp
            )
            return now, metrics

        keys = jax.random.split(key, config.gradient_steps)
        learner, metrics = jax.lax.scan(step, learner, (drawn, keys))
        priority = metrics.pop("priority")
        return learner, jax.tree.map(jnp.mean, metrics), priority

    def update(learner, drawn, key, hp, step):
        learner, metrics, priority = learning.after(
            config.learning_starts, step, learn, learner, drawn, key, hp
        )
        updates = learner.updates + 1
        due = is_due(updates, hp.targets.target_period)
        target = tree.where(due, learner.params, learner.stats)
        metrics["epsilon"] = epsilon_at(learner.updates, hp.exploration)
        learner = learner._replace(stats=target, updates=updates)
        found = replay.Feedback(drawn.place, drawn.live, priority)
        return learner, metrics, found if parts.prioritised else ()

    return types.Agent(init, lambda batch: (), act, update, memory)


def epsilon_at(updates: Array, hp: Exploration) -> Array:
    """Returns ε after ``updates`` updates."""
    return exploration.epsilon_at(updates, exploration.Hparams(*hp))


def is_due(updates: Array, period: types.Scalar) -> Array:
    """Returns whether ``updates`` [] is the first at or after a multiple of the period."""
    period = jnp.maximum(period, 1.0)
    return jnp.floor(updates / period) > jnp.floor((updates - 1) / period)


def _check(config: Any, parts: q_loss.Parts) -> None:
    """Raises ValueError unless names are known and sizes positive."""
    optimiser.check(config.optimiser)
    if parts.distribution not in q_loss.DISTRIBUTIONS:
        raise ValueError(
            f"distribution: {parts.distribution!r} is not known, use one of "
            f"{q_loss.DISTRIBUTIONS}"
        )
    for name, value in (
        ("n_step", parts.n_step),
        ("atoms", parts.atoms),
        ("gradient_steps", config.gradient_steps),
    ):
        if value < 1:
            raise ValueError(f"{name}: got {value}, give at least 1")
    if parts.distribution != "none" and parts.atoms < 2:
        raise ValueError(f"atoms: got {parts.atoms}, give at least 2")
    if config.learning_starts < 0:
        raise ValueError(
            f"learning_starts: got {config.learning_starts}, give 0 or more"
        )
