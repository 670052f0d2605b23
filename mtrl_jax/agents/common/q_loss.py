"""The loss of deep Q-learning, whatever it learns of the return.

    y = Σ_j γ^{j−1} r_j + γ^m v(s_m),     L = mean_i w_i · loss(y, q(s, a)),     error → priority

v is the target network's value of its best action (``double``: of the online network's),
``distribution`` says what is learned of the return: its mean, atoms on a support, or
quantiles. The error of a mean is |y − q| (not its loss), that of atoms the KL (their loss
is the cross-entropy, larger by the target's entropy), that of quantiles their loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.agents.common import exploration
from mtrl_jax.data import replay, replay_ring
from mtrl_jax.hparams import Amount, Real, Share
from mtrl_jax.losses import policy_gradient, value_learning
from mtrl_jax.networks import noisy, q_network
from mtrl_jax.types import Array, Key, Tree

LOSSES: dict[str, Callable[[Array], Array]] = {
    "huber": value_learning.huber,
    "squared": value_learning.squared,
}
DISTRIBUTIONS = ("none", "categorical", "quantile")


@dataclasses.dataclass(frozen=True)
class Parts:
    """Which improvements a learner has; DQN has none of them."""

    double: bool = False
    prioritised: bool = False
    dueling: bool = False
    n_step: int = 1
    distribution: str = "none"  # none (the mean), categorical (C51), quantile (QR-DQN)
    atoms: int = 51  # of the distribution: atoms or quantiles
    noisy: bool = False


class Prioritising(NamedTuple):
    """How much priorities count, and how much of their bias is taken back."""

    priority_exponent: Amount = 0.5  # 0 draws uniformly
    importance_exponent: Share = 0.4  # at first
    importance_updates: Amount = 0.0  # until it is 1; 0: it stays


class Support(NamedTuple):
    """The returns that the atoms of a categorical distribution lie between."""

    v_min: Real = -10.0
    v_max: Real = 10.0


class Setting(NamedTuple):
    """What is fixed about a learner, and its network."""

    network: q_network.QNetwork
    parts: Parts
    transform: Callable[[Array], Array]
    loss: Callable[[Array], Array] = value_learning.huber  # of LOSSES


def means(setting: Setting, outputs: Array, hp: Any) -> Array:
    """Returns q ``[..., A]`` of a network's outputs ``[..., A, outputs]``."""
    if setting.parts.distribution == "categorical":
        z = value_learning.support(
            hp.support.v_min, hp.support.v_max, setting.parts.atoms
        )
        return jax.nn.softmax(outputs) @ z
    return jnp.mean(outputs, axis=-1)


def loss_of(
    setting: Setting,
    params: Tree,
    target: Tree,
    given: tuple[replay.Drawn, Array],
    key: Key,
    hp: Any,
) -> tuple[Array, dict[str, Array]]:
    """Returns (loss [], metrics) of a batch of N windows; ``priority`` [N] among them.

    ``given`` is a batch of the K that were drawn, and the updates done.
    """
    drawn, updates = given
    parts, network = setting.parts, setting.network
    now, then, n_step = _ends(drawn.rows, setting, hp)
    keys = jax.random.split(key, 3)

    def outputs(params: Tree, rows: replay_ring.Row, key: Key) -> Array:
        noise = noise_of(parts, key, hp, acting=False)
        return network.apply(params, rows.obs, rows.task, rows.action_mask, noise)

    before = outputs(params, now, keys[0])
    after = outputs(target, then, keys[1])
    chooser = outputs(params, then, keys[2]) if parts.double else after
    best = value_learning.best(means(setting, chooser, hp), then.action_mask)
    each, error = _errors(
        setting, _of(before, now.action), _of(after, best), n_step, hp
    )
    weight = jnp.ones(each.shape)
    if parts.prioritised:
        weight = drawn.importance ** importance_at(updates, hp.prioritising)
    mean = policy_gradient.masked_mean
    metrics = {
        "loss": mean(weight * each, drawn.live),
        "error": mean(error, drawn.live),
        "value": mean(
            exploration.entry(means(setting, before, hp), now.action), drawn.live
        ),
        "priority": error,
    }
    if parts.prioritised:
        exponent = hp.prioritising.priority_exponent
        metrics["priority"] = value_learning.priority(error, exponent)
    return metrics["loss"], jax.lax.stop_gradient(metrics)


def importance_at(updates: Array, hp: Prioritising) -> Array:
    """Returns β, linear from its start to 1 over ``importance_updates`` updates."""
    return exploration.epsilon_at(
        updates,
        exploration.Hparams(hp.importance_exponent, 1.0, hp.importance_updates),
    )


def _ends(
    rows: replay_ring.Row, setting: Setting, hp: Any
) -> tuple[replay_ring.Row, replay_ring.Row, value_learning.NStep]:
    """Returns (rows where it acted, rows m steps on, what they add up to), ``[N]``."""
    after = jax.tree.map(lambda x: x[1:], rows)
    reward = setting.transform(after.reward * hp.returns.reward_scale)
    n_step = jax.vmap(value_learning.n_step, (1, 1, 1, None))(
        reward, after.discount, after.first, hp.returns.discount
    )
    each = jnp.arange(reward.shape[1])
    now = jax.tree.map(lambda x: x[0], rows)
    if setting.parts.n_step == 1:
        return now, jax.tree.map(lambda x: x[1], rows), n_step
    return now, jax.tree.map(lambda x: x[n_step.steps, each], rows), n_step


def _errors(
    setting: Setting,
    q_tm1: Array,
    q_t: Array,
    step: value_learning.NStep,
    hp: Any,
) -> tuple[Array, Array]:
    """Returns (losses, errors >= 0) ``[N]`` of outputs ``[N, outputs]`` of actions."""
    match setting.parts.distribution:
        case "categorical":
            z = value_learning.support(
                hp.support.v_min, hp.support.v_max, setting.parts.atoms
            )
            return jax.vmap(value_learning.categorical_td, (0, 0, 0, 0, None))(
                q_tm1, step.r_t, step.discount_t, q_t, z
            )
        case "quantile":
            each = jax.vmap(value_learning.quantile_td)(
                q_tm1, step.r_t, step.discount_t, q_t
            )
            return each, each
        case _:
            error = value_learning.td_error(
                q_tm1[:, 0], step.r_t, step.discount_t, q_t[:, 0]
            )
            return setting.loss(error), jnp.abs(error)


def _of(outputs: Array, action: Array) -> Array:
    """Returns outputs ``[N, outputs]`` of the actions ``[N]``."""
    return jnp.take_along_axis(outputs, action[:, None, None], axis=1)[:, 0]


def noise_of(parts: Parts, key: Key, hp: Any, *, acting: bool) -> noisy.Noise:
    """Returns the noise of a network's weights; when acting ``hp.noise`` scales it."""
    scale = hp.noise if parts.noisy and acting else 1.0
    return noisy.Noise(key, scale, each=acting)
