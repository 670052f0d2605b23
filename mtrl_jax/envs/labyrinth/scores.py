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


EPISODES = 128  # behind each score of TABLE


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
    stored = TABLE[level]
    mean, low, high = getattr(stored, player)
    error = (high - low) / 2 / 1.96 * (1 + EPISODES / len(returns)) ** 0.5
    slack = 0.01 * (stored.oracle.mean - stored.random.mean)
    return abs(float(np.mean(returns)) - mean) < 4 * error + slack


# Written by benchmarks/labyrinth_scores.py --write.
TABLE: dict[str, Scores] = {
    "explore_object_locations_small": Scores(
        random=Score(1.539, 1.375, 1.695),
        random_small=Score(1.969, 1.734, 2.196),
        oracle=Score(56.07, 55.22, 56.84),
        oracle_small=Score(52.91, 52.2, 53.64),
    ),
    "explore_object_locations_large": Scores(
        random=Score(1.172, 0.9688, 1.391),
        random_small=Score(1.258, 1.07, 1.445),
        oracle=Score(43.34, 42.4, 44.3),
        oracle_small=Score(12, 12, 12),
    ),
    "explore_goal_locations_small": Scores(
        random=Score(1.719, 1.016, 2.5),
        random_small=Score(2.734, 1.797, 3.75),
        oracle=Score(265.4, 254.8, 275.9),
        oracle_small=Score(245.8, 235.4, 256.3),
    ),
    "seekavoid_arena_01": Scores(
        random=Score(-0.2578, -0.5391, 0.008008),
        random_small=Score(-0.04688, -0.3125, 0.2188),
        oracle=Score(58.16, 57.14, 58.99),
        oracle_small=Score(51.02, 49.87, 51.93),
    ),
    "rooms_watermaze": Scores(
        random=Score(0.1953, 0.1172, 0.2814),
        random_small=Score(0.2109, 0.1328, 0.3125),
        oracle=Score(24.55, 23.7, 25.4),
        oracle_small=Score(21.55, 20.78, 22.33),
    ),
    "dark_key_to_door_3d": Scores(
        random=Score(0.1172, 0.0625, 0.1797),
        random_small=Score(0.1406, 0.07812, 0.2109),
        oracle=Score(2, 2, 2),
        oracle_small=Score(2, 2, 2),
    ),
    "lasertag_one_opponent_small": Scores(
        random=Score(0.2188, 0.1328, 0.3125),
        random_small=Score(0.1406, 0.07812, 0.2188),
        oracle=Score(29.84, 29.23, 30.43),
        oracle_small=Score(21.05, 20.64, 21.48),
    ),
    "lasertag_three_opponents_small": Scores(
        random=Score(1.281, 1.094, 1.477),
        random_small=Score(0.9219, 0.7734, 1.078),
        oracle=Score(68.73, 67.3, 70.1),
        oracle_small=Score(40.7, 39.98, 41.42),
    ),
    "rooms_keys_doors_puzzle": Scores(
        random=Score(0.7031, 0.6016, 0.8047),
        random_small=Score(0.6641, 0.5625, 0.7734),
        oracle=Score(12.98, 12.96, 13),
        oracle_small=Score(12.98, 12.96, 13),
    ),
    "nav_maze_static_01": Scores(
        random=Score(3.805, 2.938, 4.773),
        random_small=Score(5.836, 4.547, 7.243),
        oracle=Score(247.7, 238.3, 257.9),
        oracle_small=Score(232.3, 223.6, 241.6),
    ),
    "nav_maze_static_02": Scores(
        random=Score(3.781, 2.945, 4.656),
        random_small=Score(5.438, 4.258, 6.68),
        oracle=Score(242.8, 232.4, 253.4),
        oracle_small=Score(222.5, 213.5, 232),
    ),
    "nav_maze_static_03": Scores(
        random=Score(2.617, 1.859, 3.399),
        random_small=Score(3.703, 2.844, 4.648),
        oracle=Score(193.3, 184.3, 202),
        oracle_small=Score(180.8, 172.7, 189),
    ),
    "nav_maze_static_04": Scores(
        random=Score(1.742, 1.219, 2.352),
        random_small=Score(3.414, 2.539, 4.336),
        oracle=Score(248.2, 236.8, 259.5),
        oracle_small=Score(228.9, 217.5, 240.1),
    ),
    "nav_maze_static_05": Scores(
        random=Score(1.836, 1.172, 2.641),
        random_small=Score(2.82, 2.094, 3.578),
        oracle=Score(215.9, 206.7, 225.1),
        oracle_small=Score(195.6, 187.4, 204),
    ),
    "nav_maze_static_06": Scores(
        random=Score(1.305, 0.7967, 1.899),
        random_small=Score(1.492, 0.9766, 2.102),
        oracle=Score(178.4, 171.1, 185.5),
        oracle_small=Score(166, 158.1, 173.3),
    ),
    "nav_maze_static_07": Scores(
        random=Score(0.5703, 0.2889, 0.9531),
        random_small=Score(1.234, 0.7656, 1.82),
        oracle=Score(117.9, 112.3, 123.8),
        oracle_small=Score(105.8, 100.3, 110.8),
    ),
    "nav_maze_static_08": Scores(
        random=Score(0.5156, 0.2812, 0.8283),
        random_small=Score(0.9844, 0.6014, 1.453),
        oracle=Score(109.6, 105.7, 113.4),
        oracle_small=Score(100.8, 97.05, 104.8),
    ),
}
