"""What players score on each level, and how that was measured.

``TABLE`` is written by ``benchmarks/labyrinth_scores.py``, which says with what command;
its ``--check`` and the tests compare it with a recomputation.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import random
from mtrl_jax.envs import actions, core
from mtrl_jax.envs.labyrinth import oracle
from mtrl_jax.types import Array, Tree

# (key, state, params) -> action, of one slot.
Policy = Callable[[Array, Tree, Tree], Array]


class Score(NamedTuple):
    """A mean return over episodes and its 95 % interval."""

    mean: float
    low: float
    high: float


class Scores(NamedTuple):
    """The scores on one level of players of the native and of the small action set."""

    random: Score
    random_small: Score
    oracle: Score
    oracle_small: Score


# The action set and the policy (None: uniform) of each player in Scores.
PLAYERS: dict[str, tuple[str, Policy | None]] = {
    "random": ("native", None),
    "random_small": ("small", None),
    "oracle": ("native", functools.partial(oracle.act, action_set="native")),
    "oracle_small": ("small", functools.partial(oracle.act, action_set="small")),
}


def player(
    task: core.PureTask, policy: Policy | None, episodes: int
) -> Callable[[int, Tree], tuple[np.ndarray, np.ndarray]]:
    """Returns ``play(seed, params) -> (returns, lengths)``, [episodes] each.

    One episode a slot, from its reset to its end; compiled once for all params of the
    task's code. Without a policy actions are uniform.
    """
    env = core.vectorise(task, (1, episodes))
    slots = jnp.arange(episodes)[None]

    def act(key, state):
        if policy is None:
            return actions.sample(env.spec.action, key, env.batch)
        keys = random.fold(key, slots)
        return jax.vmap(jax.vmap(policy))(keys, state.inner, state.params)

    @jax.jit
    def play(roots, params):
        def step(carry):
            state, total, length, live, t = carry
            action = act(random.at(roots[0], t, random.ACT), state)
            state, ts = env.step(state, action, params)
            total = total + jnp.where(live, ts.reward, 0.0)
            return state, total, length + live, live & ~ts.last, t + 1

        state, _ = env.reset(random.at(roots, 0, random.ENV), params)
        none = jnp.zeros(env.batch)
        start = (state, none, none.astype(jnp.int32), none == 0, jnp.int32(0))
        last = jax.lax.while_loop(lambda carry: jnp.any(carry[3]), step, start)
        return last[1][0], last[2][0]

    def run(seed: int, params: Tree) -> tuple[np.ndarray, np.ndarray]:
        each = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (*env.batch, *x.shape)), params
        )
        returns, lengths = jax.device_get(play(random.roots(seed, 1), each))
        return returns, lengths

    return run


def score(returns: np.ndarray, draws: int = 2000) -> Score:
    """Returns the mean of ``returns`` and its 95 % bootstrap interval over episodes."""
    chosen = np.random.default_rng(0).choice(returns, (draws, len(returns)))
    low, high = np.percentile(chosen.mean(1), [2.5, 97.5])
    return Score(float(returns.mean()), float(low), float(high))


def agrees(level: str, player: str, returns: np.ndarray) -> bool:
    """Returns whether TABLE's mean is likely for ``returns`` of other episodes.

    They may differ by four standard errors, the table's interval telling one episode's
    deviation, and by a hundredth of the way from random play to the oracle.
    """
    scores = TABLE[level]
    mean, low, high = getattr(scores, player)
    error = (high - low) / 2 / 1.96 * (1 + EPISODES / len(returns)) ** 0.5
    slack = 0.01 * (scores.oracle.mean - scores.random.mean)
    return abs(float(np.mean(returns)) - mean) < 4 * error + slack


EPISODES = 128  # of each player on each level

# Written by benchmarks/labyrinth_scores.py --write.
TABLE: dict[str, Scores] = {}
