"""Some joint actions of a space as a policy of their own, embedded in that space.

A subset of n joint actions (say, nine of the 756 ways to move in DeepMind Lab) is a
categorical choice among n for the network that decides, and a policy over the whole
space, zero almost everywhere, for everybody else. Its table is int [n, G]: for each
action of the subset, the choice in each of the G groups of the space.

Ref: Czarnecki et al. 2018 (arXiv:1806.01780), section 4.1.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.networks import heads
from mtrl_jax.types import Array, Key


def table(space: types.ActionSpace, rows: types.ActionSet) -> np.ndarray:
    """Returns ``rows`` as int32 [n, G] after checking them against the space.

    Rows may repeat: their probabilities add up. Raises ValueError for a Box, for no
    rows, and for a row that is no action of the space.
    """
    groups = sizes(space)
    if len({len(row) for row in rows}) > 1:
        raise ValueError(
            f"actions: rows of {sorted({len(row) for row in rows})} choices; the space "
            f"{space} takes rows of {len(groups)}"
        )
    found = np.asarray(rows, np.int32)
    if found.ndim != 2 or found.shape[1] != len(groups) or not len(found):
        raise ValueError(
            f"actions: a table of shape {list(found.shape)}; the space {space} takes "
            f"rows of {len(groups)} choices"
        )
    wrong = np.flatnonzero(((found < 0) | (found >= np.asarray(groups))).any(1))
    if len(wrong):
        raise ValueError(
            f"actions: row {wrong[0]} is {found[wrong[0]].tolist()}, which is no action "
            f"of {space}"
        )
    return found


def every_action(space: types.ActionSpace) -> np.ndarray:
    """Returns int32 [n, G], all joint actions of the space in the order of their number.

    Raises ValueError for a Box.
    """
    groups = sizes(space)
    return np.indices(groups).reshape(len(groups), -1).T.astype(np.int32)


def number(space: types.ActionSpace, action: Array) -> Array:
    """Returns the number [...] of joint actions in the order of ``every_action``."""
    groups = sizes(space)
    columns = [action] if isinstance(space, types.Discrete) else _columns(action)
    strides = [math.prod(groups[g + 1 :]) for g in range(len(groups))]
    return sum(c * stride for c, stride in zip(columns, strides))  # type: ignore[return-value]


def legal(space: types.ActionSpace, rows: np.ndarray, action_mask: Array) -> Array:
    """Returns bool [..., n]: which rows the mask [..., M] allows in every group."""
    chosen = jnp.asarray(_one_hot(sizes(space), rows))
    forbidden = (~action_mask).astype(jnp.float32) @ chosen.T
    return forbidden < 0.5


@dataclasses.dataclass(frozen=True)
class Embedded:
    """A choice among the rows of a table, as a ``heads.Policy`` over the whole space."""

    choice: heads.Categoricals  # over n rows
    space: types.ActionSpace
    rows: np.ndarray  # [n, G]

    def sample_and_log_prob(self, key: Key) -> tuple[Array, Array]:
        """Returns (joint action, log_prob)."""
        row, _ = self.choice.sample_and_log_prob(key)
        action = self._action(row)
        return action, self.log_prob(action)

    def log_prob(self, action: Array) -> Array:
        """Returns log Σ p(row) over the rows that are ``action``."""
        columns = action[..., None] if self._is_scalar else action
        same = [
            columns[..., g, None] == _lift(self.rows[:, g], columns)
            for g in range(self.rows.shape[1])
        ]
        return self._log_sum(functools.reduce(jnp.logical_and, same), self._log_p)

    def log_prob_of(self, actions: np.ndarray) -> Array:
        """Returns log-probabilities [..., m] of static joint ``actions`` [m, G]."""
        same = (actions[:, None] == self.rows[None]).all(-1)  # [m, n]
        log_p = self._log_p[..., None, :]
        shape = (*log_p.shape[:-2], *same.shape)
        lifted = same.reshape((1,) * (log_p.ndim - 2) + same.shape)
        return self._log_sum(
            jnp.broadcast_to(lifted, shape), jnp.broadcast_to(log_p, shape)
        )

    def entropy(self) -> Array:
        """Returns the entropy in nats over distinct joint actions."""
        log_p = self.log_prob_of(self.actions)
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

    def mode(self) -> Array:
        """Returns the most probable joint action."""
        actions = self.actions
        best = jnp.asarray(actions)[jnp.argmax(self.log_prob_of(actions), axis=-1)]
        return best[..., 0] if self._is_scalar else best

    def kl(self, other) -> Array:
        """Returns KL(self ‖ other); ``other`` is any policy over the same space."""
        log_p, log_q = (policy.log_prob_of(self.actions) for policy in (self, other))
        p = jnp.exp(log_p)
        return jnp.sum(jnp.where(p > 0, p * (log_p - log_q), 0.0), axis=-1)

    @property
    def actions(self) -> np.ndarray:
        """The distinct joint actions [m, G]."""
        return np.unique(self.rows, axis=0)

    @property
    def _is_scalar(self) -> bool:
        return isinstance(self.space, types.Discrete)

    @property
    def _log_p(self) -> Array:
        return jnp.maximum(jax.nn.log_softmax(self.choice.logits), types.ILLEGAL)

    def _action(self, row: Array) -> Array:
        action = jnp.asarray(self.rows)[row]
        return action[..., 0] if self._is_scalar else action

    @staticmethod
    def _log_sum(same: Array, log_p: Array) -> Array:
        return jax.nn.logsumexp(jnp.where(same, log_p, types.ILLEGAL), axis=-1)


def sizes(space: types.ActionSpace) -> tuple[int, ...]:
    """Returns the number of choices in each group; ValueError for a Box."""
    match space:
        case types.Discrete(n):
            return (n,)
        case types.Factorised(sizes):
            return sizes
    raise ValueError(
        f"actions: {space} has no choices; a subset needs a discrete space"
    )


def _one_hot(groups: tuple[int, ...], rows: np.ndarray) -> np.ndarray:
    """Returns float32 [n, sum(groups)]: which choices a row is made of."""
    hot = [np.eye(size, dtype=np.float32)[rows[:, g]] for g, size in enumerate(groups)]
    return np.concatenate(hot, axis=-1)


def _columns(action: Array) -> list[Array]:
    return [action[..., g] for g in range(action.shape[-1])]


def _lift(x: np.ndarray, like: Array) -> Array:
    """Returns ``x`` [n] with the rank of ``like`` [..., G]."""
    return jnp.asarray(x).reshape((1,) * (like.ndim - 1) + (-1,))
