"""Index policies for bandits: UCB1 and Thompson sampling.

An episode is one bandit problem. What these algorithms learn, they learn within it and
forget with it, so it lives in the carry: the pulls and the summed rewards of each arm of
each slot, wiped where ``ts.first``. ``update`` has nothing to learn and counts. A member
is therefore a source of learning histories from its first episode on, and every episode
is one whole history (Algorithm Distillation, Laskin et al. 2023).

With n_a pulls of arm a that paid S_a in total, and t = Σ n_a, the arm pulled next is

    UCB1      every arm once, then  argmax_a  S_a/n_a + c·√(2 ln t / n_a)
    Thompson  argmax_a  m_a + c·(θ_a - m_a),  θ_a ~ Beta(prior_a + S_a, prior_b + n_a - S_a)

with m_a the mean of that Beta, and ties broken at random. c is ``exploration``: 1 is the
published algorithm of both, 0 makes either greedy. Observations are not looked at.

Refs: Auer, Cesa-Bianchi & Fischer 2002, "Finite-time Analysis of the Multiarmed Bandit
Problem"; Thompson 1933, "On the likelihood that one unknown probability exceeds another
in view of the evidence of two samples".

Deviations: UCB1 is made for rewards in [0, 1], but takes any (choose c in their unit).
Thompson sampling is made for rewards 0 and 1; rewards between count as parts of a
success, rewards outside are clipped to them.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.agents.common import exploration
from mtrl_jax.hparams import Amount, Divisor
from mtrl_jax.losses import policy_gradient
from mtrl_jax.types import Array, Key, Scalar

ALGORITHMS = ("ucb1", "thompson")


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program."""

    algorithm: str = "ucb1"  # or "thompson"


class Hparams(NamedTuple):
    """What PBT may perturb; every field is traced."""

    exploration: Amount = 1.0  # c; 0 is greedy
    # Of the Beta, Thompson only: successes and failures before the first pull.
    prior_a: Divisor = 1.0
    prior_b: Divisor = 1.0


class Carry(NamedTuple):
    """What a slot has seen of its problem."""

    pulls: Array  # [B, A] float32
    total: Array  # [B, A] float32, summed rewards
    action: Array  # [B] int32, the arm that the next reward is of


class Extras(NamedTuple):
    """What acting notes down for the update, ``[T, B]``; of the arm that was pulled."""

    score: Array  # what the arm is pulled for, see above
    estimate: Array  # its mean reward so far, 0 before the first


class Learner(NamedTuple):
    """What PBT copies: nothing that matters."""

    updates: Array  # [] int32


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the index policy for the bandits of ``spec``.

    Metrics, means over live transitions: ``reward``, ``estimate`` and ``optimism``
    (score - estimate) of the arms pulled.

    Raises:
      ValueError: an unknown algorithm, actions that are not discrete.
    """
    if config.algorithm not in ALGORITHMS:
        raise ValueError(
            f"algorithm: unknown {config.algorithm!r}; one of {', '.join(ALGORITHMS)}"
        )
    arms = exploration.number_of_actions(spec.action, "bandit")
    thompson = config.algorithm == "thompson"

    def init(key, hp):
        del key, hp
        return Learner(jnp.zeros((), jnp.int32))

    def carry(batch):
        return Carry(
            jnp.zeros((batch, arms)),
            jnp.zeros((batch, arms)),
            jnp.zeros(batch, jnp.int32),
        )

    def act(learner, carry, ts, key, hp):
        del learner
        reward = jnp.clip(ts.reward, 0.0, 1.0) if thompson else ts.reward
        pulls, total = observe(carry, reward, ts.first)
        tie_key, sample_key = jax.random.split(key)
        if thompson:
            score = thompson_scores(sample_key, pulls, total, hp)
            allowed = ts.action_mask
        else:
            score = ucb1_scores(pulls, total, hp.exploration)
            allowed = untried_first(pulls, ts.action_mask)
        ties, highest = exploration.greedy(score, allowed)
        u = jax.random.uniform(tie_key, ts.reward.shape)
        action = exploration.uniform_from(ties, u)
        estimate = exploration.entry(total / jnp.maximum(pulls, 1.0), action)
        return action, Carry(pulls, total, action), Extras(highest, estimate)

    def update(learner, rollout, key, hp, step):
        del key, hp, step
        live = ~rollout.ts.first[1:]

        def mean(x: Array) -> Array:
            return policy_gradient.masked_mean(x, live)

        score, estimate = rollout.extras.score, rollout.extras.estimate
        metrics = {
            "reward": mean(rollout.ts.reward[1:]),
            "estimate": mean(estimate),
            "optimism": mean(score - estimate),
        }
        return Learner(learner.updates + 1), metrics, ()

    return types.Agent(init, carry, act, update)


def observe_action(carry: Carry, ts: types.TimeStep, action: Array) -> Carry:
    """Returns the carry as if ``act`` had chosen ``action``; all are [B]."""
    del ts
    return carry._replace(action=action)


def observe(carry: Carry, reward: Array, first: Array) -> tuple[Array, Array]:
    """Returns (pulls, total) ``[B, A]`` with the reward of the last pull counted.

    An episode's first step has no pull behind it and forgets all before.
    """
    pulled = jax.nn.one_hot(carry.action, carry.pulls.shape[-1])
    pulls, total = carry.pulls + pulled, carry.total + pulled * reward[:, None]
    forget = first[:, None]
    return jnp.where(forget, 0.0, pulls), jnp.where(forget, 0.0, total)


def ucb1_scores(pulls: Array, total: Array, c: Scalar) -> Array:
    """Returns mean + c·√(2 ln t / n) ``[B, A]``, finite also for arms never pulled.

    >>> pulls, total = jnp.array([[3.0, 1.0]]), jnp.array([[3.0, 0.0]])
    >>> [f"{x:.2f}" for x in ucb1_scores(pulls, total, 1.0)[0]]
    ['1.96', '1.67']
    """
    n = jnp.maximum(pulls, 1.0)
    t = jnp.maximum(jnp.sum(pulls, axis=-1, keepdims=True), 1.0)
    return total / n + c * jnp.sqrt(2.0 * jnp.log(t) / n)


def untried_first(pulls: Array, legal: Array) -> Array:
    """Returns the legal arms ``[B, A]``; only those never pulled while there are any.

    >>> untried_first(jnp.array([[3, 0], [1, 2]]), jnp.ones((2, 2), bool)).tolist()
    [[False, True], [True, True]]
    """
    untried = legal & (pulls == 0)
    return jnp.where(jnp.any(untried, axis=-1, keepdims=True), untried, legal)


def thompson_scores(key: Key, pulls: Array, total: Array, hp: Hparams) -> Array:
    """Returns a draw ``[B, A]`` from each arm's posterior, pulled to its mean by c."""
    a, b = hp.prior_a + total, hp.prior_b + pulls - total
    mean = a / (a + b)
    return mean + hp.exploration * (jax.random.beta(key, a, b) - mean)


def idle(config: Config) -> dict[str, types.Idle]:
    """Returns the hyperparameters that the algorithm does not read."""
    if config.algorithm == "thompson":
        return {}
    unread = types.Idle(None, "algorithm=thompson")
    return dict.fromkeys(("prior_a", "prior_b"), unread)


INFO = types.AgentInfo(
    "UCB1 (Auer et al. 2002) and Thompson sampling (Thompson 1933)",
    needs_extras=True,
    observe_action=observe_action,
    idle=idle,
    actions=(types.Discrete,),
)
