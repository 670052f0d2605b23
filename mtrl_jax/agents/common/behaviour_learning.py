"""Actor and critic that learn from what a world model imagines.

From every state of a batch the actor imagines H steps; λ-returns by a slow copy of the
critic train the critic, and the actor by REINFORCE, through the dynamics, or by both
(``losses/dreamer``, which has all indices). The model is not trained by it.

Ref: Hafner et al. 2021 (arXiv:2010.02193), equations 3-6 and algorithm 2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax.agents.common import imagination, model_learning
from mtrl_jax.hparams import Amount, Share
from mtrl_jax.losses import dreamer
from mtrl_jax.networks import layers
from mtrl_jax.networks.world_models import rssm
from mtrl_jax.networks.world_models import world_model as networks
from mtrl_jax.types import Array, Key, Scalar, Tree

RANGE_RATE = 0.01  # of the moving average of the returns' range (DreamerV3)


class Hparams(NamedTuple):
    """Of actor and critic."""

    discount: Share = 0.999
    lambda_: Share = 0.95
    reinforce: Share = 1.0  # ρ of "mix": REINFORCE against gradients of the dynamics
    entropy_cost: Amount = 1e-3
    slow_critic_rate: Share = 1.0  # 1: a copy


class Stats(NamedTuple):
    """What no gradient trains."""

    slow_critic: Tree
    # Moving average of each task's, [K] ([] of one), read where returns are normalised.
    return_range: Array
    steps: Array  # [] int32 gradient steps


class Critic(NamedTuple):
    """An MLP on the model's features, read by the model's scalar head; static."""

    feature_size: int
    hidden: tuple[int, ...]
    head: networks.ScalarHead
    activation: str
    dtype: str
    zero: bool  # its last layer begins at 0

    def init(self, key: Key) -> Tree:
        """Returns the parameters."""
        return layers.mlp_init(
            key, self.feature_size, self.hidden, self.head.size, zero=self.zero
        )

    def raw(self, params: Tree, x: Array) -> Array:
        """Returns the head's input [..., size] of features [..., F]."""
        return layers.mlp(params, x, activation=self.activation, dtype=self.dtype)

    def value(self, params: Tree, x: Array) -> Array:
        """Returns the values [...] of features [..., F]."""
        return self.head.mean(self.raw(params, x))


class Parts(NamedTuple):
    """What acts and learns; static."""

    model: networks.WorldModel
    actor: imagination.Actor
    critic: Critic
    horizon: int
    gradient: str  # reinforce, dynamics or mix
    discount_head: bool
    normalise_returns: bool


def init_stats(critic: Tree, tasks: int) -> Stats:
    """Returns the statistics of a new critic of so many tasks."""
    slow = jax.tree.map(jnp.copy, critic)
    ranges = jnp.zeros(() if tasks == 1 else tasks)
    return Stats(slow, ranges, jnp.zeros((), jnp.int32))


def loss(
    parts: Parts,
    params: Tree,
    stats: Stats,
    states: rssm.State,
    batch: model_learning.Sequences,
    key: Key,
    hp: Hparams,
    unimix: Scalar,
) -> tuple[Array, dict[str, Array], Stats]:
    """Returns (actor's and critic's loss [], metrics, statistics after).

    ``params`` {model, actor, critic}; ``states`` [L, N] of the batch, from each of which
    the actor imagines. Only actor and critic get a gradient.
    """
    starts, mask, ends, task = _flat(
        dreamer.sg(states), batch.ts.action_mask, batch.ts.discount, batch.ts.task
    )
    model = dreamer.sg(params["model"])

    def step(state: rssm.State, action: Array, key: Key) -> rssm.State:
        return parts.model.imagine_step(model, state, action, key, unimix)

    dreamt = imagination.imagine(
        parts.actor, params["actor"], step, starts, mask, key, parts.horizon,
        differentiated=parts.gradient != "reinforce",
    )  # fmt: skip
    x = dreamt.features
    imagined = _predicted(parts, model, stats.slow_critic, x, ends * hp.discount, hp)
    found = dreamer.behaviour(imagined, hp.lambda_)
    stats, scale = _scale(parts, stats, found, task)
    actor_loss, entropy = _actor_loss(
        parts, params["actor"], dreamt, mask, found, hp, scale
    )
    error = parts.model.scalar.error(
        parts.critic.raw(params["critic"], dreamer.sg(x[:-1])), found.target
    )
    critic_loss = dreamer.critic_loss(error, found)
    reached = jnp.maximum(jnp.sum(found.weight[1:]), 1e-6)
    metrics = {
        "actor_loss": actor_loss,
        "critic_loss": critic_loss,
        "entropy": entropy,
        # Of steps that may be reached; a state that was seen is not imagined.
        "imagined_return": jnp.average(found.target, weights=found.weight),
        "imagined_reward": jnp.sum(found.weight[1:] * imagined.reward[1:-1]) / reached,
        "seen_reward": jnp.mean(imagined.reward[0]),
    }
    return actor_loss + critic_loss, metrics, stats


def slow_copy(stats: Stats, critic: Tree, hp: Hparams, period: int) -> Stats:
    """Returns the statistics one gradient step on; each ``period``-th the critic's copy.

    ``slow_critic_rate`` below 1 moves the copy that share of the way.
    """
    steps = stats.steps + 1
    is_due = steps % period == 0

    def moved(slow: Array, fast: Array) -> Array:
        part = jnp.asarray(hp.slow_critic_rate)
        return jnp.where(
            is_due, jnp.where(part == 1, fast, slow + part * (fast - slow)), slow
        )

    slow = jax.tree.map(moved, stats.slow_critic, critic)
    return stats._replace(slow_critic=slow, steps=steps)


def _predicted(
    parts: Parts, model: Tree, slow: Tree, x: Array, known: Array, hp: Hparams
) -> dreamer.Imagined:
    """Returns what is predicted at features x [H + 1, N, F].

    ``known`` [N] is the true discount of the first states.
    """
    discount = jnp.broadcast_to(jnp.asarray(hp.discount), x.shape[:2])
    if parts.discount_head:
        discount = jax.nn.sigmoid(parts.model.discount(model, x))
    return dreamer.Imagined(
        reward=parts.model.scalar.mean(parts.model.reward(model, x)),
        discount=discount.at[0].set(known),
        value=parts.critic.value(dreamer.sg(slow), x),
    )


def _scale(
    parts: Parts, stats: Stats, found: dreamer.Behaviour, task: Array
) -> tuple[Stats, Array]:
    """Returns (statistics after, what the actor's gain is divided by, [1, N]).

    That is the range of the returns of each one's own ``task`` [N].
    """
    if not parts.normalise_returns:
        return stats, jnp.ones((1, 1))
    old = jnp.atleast_1d(stats.return_range)
    mine = task[None] == jnp.arange(len(old))[:, None]
    found_now = jax.vmap(dreamer.return_range, (None, 0))(found.target, mine)
    moved = found_now + (1.0 - RANGE_RATE) * (old - found_now)
    spread = jnp.where(jnp.any(mine, axis=1), moved, old)
    stats = stats._replace(return_range=spread.reshape(stats.return_range.shape))
    return stats, jnp.maximum(spread, 1.0)[task][None]


def _actor_loss(
    parts: Parts,
    params: Tree,
    dreamt: imagination.Trajectories,
    mask: Array,
    found: dreamer.Behaviour,
    hp: Hparams,
    scale: Array,
) -> tuple[Array, Array]:
    """Returns (loss [], mean entropy []) of the actions that have a target."""
    chosen = dreamer.sg(jax.tree.map(lambda x: x[:-1], dreamt.action))
    policy = parts.actor.policy(params, dreamer.sg(dreamt.features[:-2]), mask)
    entropy = policy.entropy()
    rho = {"reinforce": 1.0, "dynamics": 0.0}.get(parts.gradient, hp.reinforce)
    loss = dreamer.actor_loss(
        policy.log_prob(chosen), entropy, found,
        reinforce=rho, entropy_cost=hp.entropy_cost, scale=scale,
    )  # fmt: skip
    return loss, jnp.mean(entropy)


def _flat(*trees: Tree) -> tuple:
    """Returns the trees with their axes [L, N] as one."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), trees)
