"""Deep Q-learning: one learner of which DQN, Rainbow and what lies between are settings.

Its loss is ``q_loss``. An update draws the batches of all its gradient steps at once;
before update ``learning_starts`` it learns nothing.

Refs: Mnih et al. 2015; van Hasselt et al. 2016 (arXiv:1509.06461); Schaul et al. 2016
(arXiv:1511.05952); Hessel et al. 2018 (arXiv:1710.02298).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import errors, tree, types
from mtrl_jax.agents.common import exploration, learning, optimiser, q_loss
from mtrl_jax.data import replay
from mtrl_jax.hparams import Amount, Share
from mtrl_jax.losses import rewards
from mtrl_jax.networks import noisy, q_network
from mtrl_jax.types import Array, Key, Tree

# The probe tasks that it learns: it acts in single choices and has no memory.
LEARNS = (
    "constant", "observation", "delayed", "action", "both", "masked", "both_image",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program, whatever the improvements."""

    network: q_network.QNetworkConfig = dataclasses.field(
        default_factory=q_network.QNetworkConfig
    )
    optimiser: str = "adam"  # adam, rmsprop, rmsprop_centred
    # none, clip, tanh, oac_paper, oac_code, symlog, signed_hyperbolic
    rewards: str = "none"
    loss: str = "huber"  # of the error, where the mean is learned: huber, squared
    capacity: int = 100_000  # env steps a member's replay holds
    frames: int = 1  # an image is a stack of so many frames; each is stored once
    batch: int = 32
    gradient_steps: int = 1  # of an update
    learning_starts: int = 0  # updates before the first that learns


def waits(config: Config) -> dict[str, types.Wait]:
    """Returns ``AgentInfo.waits``."""
    return {"learning_starts": types.Wait(updates=config.learning_starts)}


class Exploration(NamedTuple):
    """ε falls linearly from its start to its end over ``epsilon_updates`` updates."""

    epsilon_start: Share = 1.0
    epsilon_end: Share = 0.05
    epsilon_updates: Amount = 1000.0  # 0: it stays at the start


class Targets(NamedTuple):
    """Where targets come from."""

    target_period: Amount = 200.0  # updates from copy to copy of the target network


class Extras(NamedTuple):
    """What acting notes down: labels for agents that learn from it.

    Of noisy weights, what their means say: a label is no draw.
    """

    q: Array  # [T, B, A]
    value: Array  # [T, B] of the best legal action
    features: Tree = ()  # [T, B, F] of the last hidden layer, with note_features
    returned: Tree = ()  # [T, B] return so far of the episode, of what has a student


class Method(NamedTuple):
    """What a learner is made of."""

    config: Config
    setting: q_loss.Setting

    def optimiser(self, hp: Any) -> optimiser.Optimiser:
        """Returns the optimiser at ``hp``."""
        steps = self.config.gradient_steps
        return optimiser.make(self.config.optimiser, hp.optimiser, steps)


def make(
    spec: types.EnvSpec, config: Config, parts: q_loss.Parts, name: str
) -> types.Agent:
    """Returns the agent; ``config`` is that of DQN or Rainbow, see there.

    Its hyperparameters have the groups ``optimiser, returns, exploration, targets`` and,
    where its parts read them, ``prioritising``, ``support`` and ``noise``. Metrics:
    ``loss, error`` (mean |error| that priorities are made of), ``value`` (mean q of what
    was done), ``grad_norm, learning_rate, epsilon``; 0 before learning starts, but for ε.

    Raises:
      ValueError: actions that are not discrete, unknown names, sizes below 1; at trace
        time, a capacity below a window and an unroll.
    """
    actions = exploration.number_of_actions(spec.action, name)
    _check(config, parts)
    outputs = parts.atoms if parts.distribution != "none" else 1
    head = q_network.Head(outputs, parts.dueling, parts.noisy)
    network = q_network.make(spec, config.network, actions, head)
    setting = q_loss.Setting(
        network, parts, rewards.get(config.rewards), q_loss.LOSSES[config.loss]
    )
    method = Method(config, setting)
    return types.Agent(
        functools.partial(init, method),
        lambda batch: (),
        functools.partial(act, method),
        functools.partial(update, method),
        make_replay(spec, config, parts),
    )


def make_replay(
    spec: types.EnvSpec, config: Config, parts: q_loss.Parts
) -> types.Replay:
    """Returns the replay that windows of n steps are drawn from."""
    settings = replay.Config(
        config.capacity,
        config.batch,
        config.gradient_steps,
        parts.n_step + 1,
        frames=config.frames,
        prioritised=parts.prioritised,
    )
    return replay.make(spec, settings)


def init(method: Method, key: Key, hp: Any) -> learning.Learner:
    """Returns a learner; its ``stats`` are the target network, which no gradient trains."""
    params = method.setting.network.init(key)
    return learning.init(params, method.optimiser(hp), tree.copy(params))


def act(
    method: Method,
    learner: learning.Learner,
    carry: Tree,
    ts: types.TimeStep,
    key: Key,
    hp: Any,
) -> tuple[Array, Tree, Extras]:
    """Returns (actions [B], carry, Extras): the best action, with probability ε any."""
    explore_key, noise_key = jax.random.split(key)
    setting = method.setting

    def said(noise: noisy.Noise) -> tuple[Array, Tree]:
        outputs, features = setting.network.noting(
            learner.params, ts.obs, ts.task, ts.action_mask, noise
        )
        return q_loss.means(setting, outputs, hp), features

    noise = q_loss.noise_of(setting.parts, noise_key, hp, acting=True)
    q, features = said(noise)
    epsilon = epsilon_at(learner.updates, hp.exploration)
    action, _, value = exploration.epsilon_greedy(
        explore_key, q, ts.action_mask, epsilon
    )
    if setting.parts.noisy:
        q, features = said(dataclasses.replace(noise, scale=0.0))
        _, value = exploration.greedy(q, ts.action_mask)
    return action, carry, Extras(q, value, features)


def update(
    method: Method,
    learner: learning.Learner,
    drawn: replay.Drawn,
    key: Key,
    hp: Any,
    step: Array,
) -> tuple[learning.Learner, dict[str, Array], Tree]:
    """Returns (learner, metrics, new priorities) after the gradient steps of an update."""
    gradient_steps = functools.partial(learn, method)
    learner, metrics, priority = learning.after(
        method.config.learning_starts, step, gradient_steps, learner, drawn, key, hp
    )
    updates = learner.updates + 1
    due = is_due(updates, hp.targets.target_period)
    target = tree.where(due, learner.params, learner.stats)
    metrics["epsilon"] = epsilon_at(learner.updates, hp.exploration)
    learner = learner._replace(stats=target, updates=updates)
    # Of rows that taught nothing yet there is nothing to say.
    live = drawn.live & (step >= method.config.learning_starts)
    found = replay.Feedback(drawn.place, live, priority)
    return learner, metrics, found if method.setting.parts.prioritised else ()


def learn(
    method: Method, learner: learning.Learner, drawn: replay.Drawn, key: Key, hp: Any
) -> tuple[learning.Learner, dict[str, Array], Array]:
    """Returns (learner, metrics, priorities [K, N]) after a step on each of K batches."""

    def loss(params, target, batch, key, hp):
        total, metrics = q_loss.loss_of(method.setting, params, target, batch, key, hp)
        return total, learning.Aux(metrics, target)

    def gradient_step(now, given):
        batch, key = given
        return learning.gradient_step(
            loss, method.optimiser(hp), now, (batch, now.updates), key, hp
        )

    keys = jax.random.split(key, method.config.gradient_steps)
    learner, metrics = jax.lax.scan(gradient_step, learner, (drawn, keys))
    priority = metrics.pop("priority")
    return learner, jax.tree.map(jnp.mean, metrics), priority


def epsilon_at(updates: Array, hp: Exploration) -> Array:
    """Returns ε after ``updates`` updates."""
    return exploration.epsilon_at(updates, exploration.Hparams(*hp))


def is_due(updates: Array, period: types.Scalar) -> Array:
    """Returns whether ``updates`` [] is the first at or after a multiple of the period."""
    period = jnp.maximum(period, 1.0)
    return jnp.floor(updates / period) > jnp.floor((updates - 1) / period)


def _check(config: Config, parts: q_loss.Parts) -> None:
    """Raises ValueError unless names are known and sizes positive."""
    optimiser.check(config.optimiser)
    errors.check_choices(parts, {"distribution": q_loss.DISTRIBUTIONS})
    errors.check_choices(config, {"loss": tuple(q_loss.LOSSES)})
    errors.check_sizes(parts, ("n_step", "atoms"))
    errors.check_sizes(config, ("gradient_steps",))
    if parts.distribution != "none" and parts.atoms < 2:
        raise ValueError(f"atoms: got {parts.atoms}, give at least 2")
    if config.loss != "huber" and parts.distribution != "none":
        raise ValueError(
            f"loss: {config.loss!r} is of a mean, not of a {parts.distribution} "
            "distribution; give distribution: none, or leave loss out"
        )
    if config.learning_starts < 0:
        raise ValueError(
            f"learning_starts: got {config.learning_starts}, give 0 or more"
        )
