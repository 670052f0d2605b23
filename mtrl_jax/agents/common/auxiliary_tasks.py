"""UNREAL's auxiliary losses: control, reward prediction, value replay.

    control   n-step Q-learning of how to change each cell, by a dueling head on the core
    features  the same of how to activate each unit of the torso's last layer (optional)
    reward    the sign of the reward after three frames, from the torso's features
    value     the returns of replayed windows, for the value head

All on what a replay drew, see ``replayed``; what crosses an episode's end is masked.
Each is a mean over windows and steps, with a traced cost. The first two are in
``control_tasks``.

Ref: Jaderberg et al. 2017 (arXiv:1611.05397), section 3.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from mtrl_jax import types
from mtrl_jax.agents.common import (
    control_tasks,
    objective,
    policy_learner,
    replayed,
    unrolls,
)
from mtrl_jax.data import frame_stacks, replay_ring
from mtrl_jax.hparams import Amount, Share
from mtrl_jax.losses import policy_gradient
from mtrl_jax.networks import auxiliary_heads, network_config, torso_outputs
from mtrl_jax.types import Array, Key, Tree


@dataclasses.dataclass(frozen=True)
class Config(network_config.Config):
    """Of the auxiliary losses; fields of an agent's Config, see ``policy_learner``."""

    feature_control: bool = False  # of the torso's units, beside that of cells
    cell: int = 4  # pixels a side, or numbers of a vector
    frames: int = 1  # of an image that is a stack; control is of the newest


class Hparams(NamedTuple):
    """What the auxiliary losses weigh, and the discount of control."""

    control_cost: Amount = 0.01
    reward_cost: Amount = 0.05  # the paper's 1, beside sums over 20 steps
    replay_cost: Amount = 1.0
    feature_cost: Amount = 0.0  # of control of features, where there is such a head
    control_discount: Share = 0.9


def idle(config: Any) -> dict[str, types.Idle]:
    """Returns the hyperparameters that an agent's ``config`` leaves unread."""
    if config.feature_control:
        return {}
    return {"feature_cost": types.Idle(0.0, "feature_control=true")}


def make(
    spec: types.EnvSpec, config: Config, base: policy_learner.PolicyLearner
) -> tuple[objective.Auxiliary, ...]:
    """Returns the losses of an agent's ``Config``, each of a ``replayed.Seen``.

    Hyperparameters have the groups ``auxiliaries, returns`` and ``scale``.

    Raises:
      ValueError: an image that holds no cell, or is no stack of so many frames.
    """
    if config.frames > 1:
        frame_stacks.check(spec, config.frames)
    cells = control_tasks.Cells(spec, config.cell, config.frames)
    torso = torso_outputs.make(spec, config.network)
    units = control_tasks.head_of(spec, torso.units)
    control = objective.Auxiliary(
        "control_loss",
        lambda hp: hp.auxiliaries.control_cost,
        functools.partial(control_tasks.control_loss, cells),
        functools.partial(_init, cells.head),
        heads="control",
    )
    reward = objective.Auxiliary(
        "reward_loss",
        lambda hp: hp.auxiliaries.reward_cost,
        functools.partial(reward_loss, torso),
        lambda key, _: _init(
            auxiliary_heads.Reward(), key, replayed.FRAMES * torso.size
        ),
        heads="reward",
    )
    value = objective.Auxiliary(
        "replay_loss",
        lambda hp: hp.auxiliaries.replay_cost,
        functools.partial(value_loss, base),
    )
    features = objective.Auxiliary(
        "feature_loss",
        lambda hp: hp.auxiliaries.feature_cost,
        functools.partial(control_tasks.feature_loss, torso, units),
        functools.partial(_init, units),
        heads="features",
    )
    found = control, reward, value
    return (*found, features) if config.feature_control else found


def reward_loss(
    torso: torso_outputs.TorsoOutputs, heads: Tree, seen: replayed.Seen, hp: Any
) -> Array:
    """Returns the mean cross-entropy of the sign of rewards after three frames."""
    del hp
    ts, previous = replay_ring.time_steps(seen.snippets)
    frames = torso.apply(seen.params, ts, previous)[: replayed.FRAMES]
    # What was seen in another episode is nothing.
    later = jnp.flip(jnp.cumsum(jnp.flip(ts.first[1:], 0), axis=0), 0)
    frames = jnp.where((later == 0)[..., None], frames, 0.0)
    frames = jnp.moveaxis(frames, 0, 1).reshape(frames.shape[1], -1)
    logits: Any = auxiliary_heads.Reward().apply({"params": heads}, frames)
    sign = auxiliary_heads.signs(seen.snippets.reward[-1])
    nats = optax.losses.softmax_cross_entropy_with_integer_labels(logits, sign)
    return policy_gradient.masked_mean(nats, seen.is_snippet)


def value_loss(
    base: policy_learner.PolicyLearner, heads: tuple, seen: replayed.Seen, hp: Any
) -> Array:
    """Returns ½ (return − value)² in units of the scale, its mean."""
    del heads
    window, before, after, of_scale = seen.window, seen.before, seen.after, hp.scale
    ts, task, scale = window.ts, window.ts.task[:-1], base.scale
    known = scale.value(before, window.out.value, ts.task, of_scale)
    arrived = unrolls.arrived_at(ts, base.transform, hp.returns)
    n_step = functools.partial(policy_gradient.gae, lambda_=1.0)
    returns = jax.vmap(n_step, 1, 1)(
        *jax.lax.stop_gradient((known[:-1], known[1:], *arrived[:2])), arrived.first_t
    )
    target = scale.divided(after, returns.value, task, of_scale)
    predicted = scale.predicted(before, after, known[:-1], task, of_scale)
    error = 0.5 * jnp.square(target - predicted)
    return policy_gradient.masked_mean(error, window.live)


def _init(head: nn.Module, key: Key, features: int) -> Tree:
    return head.init(key, jnp.zeros((1, features)))["params"]
