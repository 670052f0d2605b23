"""Tabular Q-learning.

    Q(s, a) ← Q(s, a) + lr·(r + γ·max_a' Q(s', a') - Q(s, a))

with ε-greedy behaviour, ε falling linearly; the maximum is over the legal actions of s'.
It is the source of Algorithm Distillation's histories on grids: thousands of learners,
one table each, fit one program as a population.

Transitions are applied one after the other: in the order of time and, of those at the
same time, of the slots, each seeing the table that the one before left. The policy acts
by the table of the last update: with ``unroll_length`` 1 and one slot this is Watkins'
algorithm step for step, with longer unrolls only the behaviour lags, by less than one.

Ref: Watkins & Dayan 1992, "Q-learning".

Deviations: tables begin at 0, and ties are broken at random by those who act.
"""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.agents.common import exploration
from mtrl_jax.hparams import Amount, Share
from mtrl_jax.losses import policy_gradient
from mtrl_jax.types import Array, Scalar

INFO = types.AgentInfo(
    "Q-learning with a table (Watkins and Dayan 1992)",
    needs_extras=True,
    actions=(types.Discrete,),
    # Without memory and pictures.
    learns=("constant", "observation", "delayed", "action", "both", "masked"),
)


_MOST = 2**31 - 1  # rows are looked up by int32


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program: how an observation vector becomes a row."""

    # Values of each coordinate, evenly spaced from low to high (the nearest counts); 1
    # leaves a coordinate out. (): the vector is one-hot.
    sizes: tuple[int, ...] = ()
    low: float = 0.0
    high: float = 1.0
    # A table for each task of a mixture; not where each member has a task of its own.
    per_task: bool = False


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    learning_rate: Amount = 0.9933
    discount: Share = 0.6238
    # 90 % of 200 episodes of 20 steps and a reset, learned from one step at a time.
    exploration: exploration.Hparams = exploration.Hparams(decay_updates=3780.0)


class Learner(NamedTuple):
    """What PBT copies."""

    table: Array  # [S, A] float32
    updates: Array  # [] int32


class Extras(NamedTuple):
    """What acting notes down for the update, ``[T, B]``."""

    log_prob: Array  # of the action under the policy that took it
    value: Array  # max_a Q(s, a)


class Transitions(NamedTuple):
    """N steps in the order in which they are learned from."""

    s_tm1: Array  # [N] int32, rows
    a_tm1: Array  # [N] int32
    r_t: Array  # [N]
    discount_t: Array  # [N]
    s_t: Array  # [N] int32
    legal_t: Array  # [N, A] bool
    live: Array  # [N] bool, False where a new episode begins


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the Q-learner for environments of ``spec``.

    Metrics: ``error`` (mean |TD error|), ``value`` (mean of max_a Q where it acted), both
    over live transitions, and ``epsilon``.

    Raises:
      ValueError: actions that are not discrete, observations that are not a vector,
        sizes that do not fit it or are too many, an empty range.
    """
    actions = exploration.number_of_actions(spec.action, "tabular")
    if config.per_task:
        what = "per_task: a table is of each of several tasks"
        types.check_several_tasks(spec, what, "per_task false")
    tasks = len(spec.tasks) if config.per_task else 1
    states = _number_of_states(spec, config)
    if tasks * states > _MOST:
        raise ValueError(
            f"sizes: {config.sizes} are {tasks * states} states of {tasks} tables, which "
            f"are counted in int32; give at most {_MOST} in all"
        )

    def rows(ts: types.TimeStep) -> Array:
        row = row_of(ts.obs["vector"], config)
        return row + states * ts.task if config.per_task else row

    def init(key, hp):
        del key, hp
        table = jnp.zeros((tasks * states, actions))
        return Learner(table, jnp.zeros((), jnp.int32))

    def act(learner, carry, ts, key, hp):
        q = _look_up(learner.table, rows(ts))
        epsilon = exploration.epsilon_at(learner.updates, hp.exploration)
        action, greedy, value = exploration.epsilon_greedy(
            key, q, ts.action_mask, epsilon
        )
        log_prob = jnp.log(probability(action, greedy, ts.action_mask, epsilon))
        return action, carry, Extras(log_prob, value)

    def update(learner, rollout, key, hp, step):
        del key, step  # The update is deterministic.
        table, updates = learner
        steps = transitions(rollout, rows(rollout.ts))
        table, error = q_learning(table, steps, hp.learning_rate, hp.discount)
        metrics = {
            "error": policy_gradient.masked_mean(jnp.abs(error), steps.live),
            "value": policy_gradient.masked_mean(
                rollout.extras.value, ~rollout.ts.first[1:]
            ),
            "epsilon": exploration.epsilon_at(updates, hp.exploration),
        }
        return Learner(table, updates + 1), metrics, ()

    return types.Agent(init, lambda batch: (), act, update)


def row_of(vector: Array, config: Config) -> Array:
    """Returns the row ``[...]`` int32 of an observation ``[..., N]``.

    Row-major over the coordinates; values beyond low and high count as these.
    """
    if not config.sizes:
        return jnp.argmax(vector, axis=-1).astype(jnp.int32)
    row = jnp.zeros(vector.shape[:-1], jnp.int32)
    for i, size in enumerate(config.sizes):
        place = (vector[..., i] - config.low) / (config.high - config.low)
        place = jnp.clip(jnp.round(place * (size - 1)).astype(jnp.int32), 0, size - 1)
        row = row * size + place
    return row


def probability(action: Array, greedy: Array, legal: Array, epsilon: Array) -> Array:
    """Returns what an ε-greedy policy gives to the action, ``[B]``.

    ε/|legal|, and (1 - ε)/|greedy| more where it is one of the greedy ones ``[B, A]``.
    """
    explore = epsilon / jnp.sum(exploration.choosable(legal), axis=-1)
    exploit = (1.0 - epsilon) / jnp.sum(greedy, axis=-1)
    return explore + jnp.where(exploration.entry(greedy, action), exploit, 0.0)


def transitions(rollout: types.Rollout, rows: Array) -> Transitions:
    """Returns the T·B steps of a rollout, time first, then slots; rows ``[T + 1, B]``."""
    ts = rollout.ts
    steps = Transitions(
        s_tm1=rows[:-1],
        a_tm1=rollout.action,
        r_t=ts.reward[1:],
        discount_t=ts.discount[1:],
        s_t=rows[1:],
        legal_t=ts.action_mask[1:],
        live=~ts.first[1:],
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), steps)


def q_learning(
    table: Array, steps: Transitions, learning_rate: Scalar, discount: Scalar
) -> tuple[Array, Array]:
    """Returns (table, errors ``[N]``) after learning from each step in turn."""

    def learn(table: Array, step: Transitions) -> tuple[Array, Array]:
        _, best = exploration.greedy(_look_up(table, step.s_t), step.legal_t)
        target = step.r_t + discount * step.discount_t * best
        old = _look_up(table, step.s_tm1)[step.a_tm1]
        error = jnp.where(step.live, target - old, 0.0)
        at = table.at[step.s_tm1, step.a_tm1]
        return at.add(learning_rate * error, mode="promise_in_bounds"), error

    return jax.lax.scan(learn, table, steps)


def _look_up(table: Array, rows: Array) -> Array:
    return table.at[rows].get(mode="promise_in_bounds")


def _number_of_states(spec: types.EnvSpec, config: Config) -> int:
    """Returns the rows of one task's table; ValueError for what makes none."""
    if set(spec.obs) != {"vector"}:
        raise ValueError(
            f"obs: tabular reads a vector and nothing else, the environment gives "
            f"{sorted(spec.obs)}; give tasks whose observations are small vectors"
        )
    (length,) = spec.obs["vector"].shape
    if not config.sizes:
        return length
    if len(config.sizes) != length or min(config.sizes) < 1:
        raise ValueError(
            f"sizes: {config.sizes} given for a vector of {length}; give {length} "
            "numbers of at least 1, or () for one-hot vectors"
        )
    if not config.low < config.high:
        raise ValueError(f"low: {config.low} is not below high: {config.high}")
    return math.prod(config.sizes)
