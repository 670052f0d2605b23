"""What a sequence policy learns of what is to come, and the columns that tell it.

    returns   CE of the bin of R_t, at o_t
    reward    CE of the sign of r_t, given a_t
    next      squared error of the next vector, given a_t; summed over its numbers
    td        (y - Q(a_t))² / 2, y = r_t + γ m v_{t+1}, m = 1 within an episode and
              ``beyond`` at its end; v = max_a Q̄ over legal a, or V where that is learned;
              t + 1 is the next step: beyond a row that resets, where these are kept
    cql       logsumexp_a Q - Q(a_t) over legal a
    expectile |τ - 1[u < 0]| u², u = Q̄(a_t) - V_t: V is what the better of the actions
              in the data are worth, and none that is not there
    advantage -w log π(a_t), w = min(exp(β u), 100): actions better than V are imitated
              more; of one state, with weights below their limit, π becomes μ exp(β u)
              over its sum, where the data's actions are of μ

each a mean over the steps of which it is known; metrics are ``return_loss, reward_loss,
next_loss, td_loss, cql_loss, expectile_loss, advantage_loss`` of those there are. V is
learned where ``expectile_cost`` is above 0; no other cost moves its head, and w moves
nothing.

Refs of the last four: Mnih et al. 2015; Kumar et al. 2020 (arXiv:2006.04779), eq. 4;
Kostrikov et al. 2021 (arXiv:2110.06169), eqs. 5 and 6, and eq. 7, which is Peng et al.
2019 (arXiv:1910.00177). Liu et al. 2025 (arXiv:2506.01299) limit weights at 1,000.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import types
from mtrl_jax.agents.common import exploration
from mtrl_jax.data.columns import Columns
from mtrl_jax.losses import policy_gradient
from mtrl_jax.networks.transformers import outlook
from mtrl_jax.types import ILLEGAL, Array

WEIGHT_LIMIT = 100.0  # of an action's imitation by its advantage


def columns_of(rollout: types.Rollout) -> Columns:
    """Returns the columns [T, B] of a rollout: a dataset's, or what it says itself.

    Of itself it knows the returns of episodes that end within it, and no ranks: these
    are 1 of whole episodes.
    """
    known = getattr(rollout.extras, "columns", None)
    return _own_columns(rollout.ts) if known is None else known


def losses(
    config: outlook.Outlook,
    out: outlook.Outputs,
    behind: Array | None,
    rollout: types.Rollout,
    teaches: Array,
    columns: Columns,
    hp: Any,
    severed: Array | None = None,
) -> tuple[Array | float, dict[str, Array]]:
    """Returns (sum of the costs, metrics) of what there are heads for.

    ``out`` [T, B] of the steps, ``behind`` [T, B, A] by Q̄; ``teaches`` [T, B] the steps
    that were a learner's choice, ``severed`` [T, B] those that the next knows nothing of:
    its value is no target of theirs.
    """
    found: dict[str, tuple[Any, Array]] = {}
    if out.returns is not None:
        task = rollout.ts.task[:-1]
        scaled = outlook.scaled(config, columns.return_to_go, task)
        bins = outlook.bin_of(config, scaled)
        nats = optax.softmax_cross_entropy_with_integer_labels(out.returns, bins)
        found["return"] = hp.return_cost, _mean(nats, teaches & columns.complete)
    if out.reward is not None:
        sign = jnp.sign(rollout.ts.reward[1:]).astype(jnp.int32) + 1
        nats = optax.softmax_cross_entropy_with_integer_labels(out.reward, sign)
        found["reward"] = hp.reward_cost, _mean(nats, teaches)
    if out.next_vector is not None:
        followed = getattr(rollout.extras, "followed", None)
        known = teaches if followed is None else teaches & followed
        found["next"] = hp.next_cost, _next(out.next_vector, rollout.ts, known)
    if out.values is not None:
        found |= _values(out, behind, rollout, teaches, severed, hp)
    total = sum((cost * x for cost, x in found.values()), start=0.0)
    return total, {f"{name}_loss": x for name, (_, x) in found.items()}


def weighted_cloning(
    out: outlook.Outputs,
    behind: Any,
    action: Array,
    log_prob: Array,
    imitated: Array,
    hp: Any,
) -> tuple[Array, dict[str, Array]]:
    """Returns (cost, metrics) of imitating ``action`` [T, B] by its advantage.

    ``log_prob`` [T, B] is the policy's of it, ``behind`` [T, B, A] by Q̄; ``imitated``
    [T, B] the steps whose actions are.
    """
    assert out.value is not None
    better = exploration.entry(behind, action) - out.value
    nats = -advantage_weight(better, hp.advantage_beta) * log_prob
    loss = _mean(nats, imitated)
    return hp.advantage_cost * loss, {"advantage_loss": loss}


def advantage_weight(advantage: Array, beta: Any) -> Array:
    """Returns min(exp(β A), 100) [...] of advantages A, through which nothing flows."""
    weight = jnp.minimum(jnp.exp(beta * advantage), WEIGHT_LIMIT)
    return jax.lax.stop_gradient(weight)


def td_targets(
    r_t: Array, last_t: Array, q_t: Array, discount: Any, beyond: Any
) -> Array:
    """Returns r_t + γ m q_t [...]; m is 1, or ``beyond`` where ``last_t``."""
    bootstrap = jnp.where(last_t, beyond, 1.0)
    return r_t + discount * bootstrap * q_t


def conservatism(q: Array, action: Array) -> Array:
    """Returns logsumexp_a q - q(action) [...] of q [..., A]."""
    return jax.nn.logsumexp(q, axis=-1) - exploration.entry(q, action)


def expectile_loss(error: Array, expectile: Any) -> Array:
    """Returns |τ - 1[u < 0]| u² [...] of errors u: τ is the weight of those above 0."""
    return jnp.where(error < 0, 1.0 - expectile, expectile) * error**2


def _next(out: Array, ts: types.TimeStep, teaches: Array) -> Array:
    """Returns the mean squared error of next vectors [T, B, N], summed over N."""
    square = jnp.sum((out - ts.obs["vector"][1:]) ** 2, axis=-1)
    # Where reset rows are left out, the next row may be of another episode.
    return _mean(square, teaches & ~ts.first[1:])


def _values(
    out: outlook.Outputs,
    behind: Any,
    rollout: types.Rollout,
    teaches: Array,
    severed: Array | None,
    hp: Any,
) -> dict[str, tuple[Any, Array]]:
    """Returns the costs of values; the last row of a window has no row to follow it."""
    ts, q_tm1, value = rollout.ts, out.values, out.value
    assert q_tm1 is not None and value is not None
    legal = ts.action_mask[:-1]
    best = jnp.max(jnp.where(legal, behind, ILLEGAL), axis=-1)
    best = jnp.where(hp.expectile_cost > 0, value, best)
    last = ts.last[1:]
    resets = last & ~ts.first[1:]  # The next row: nothing is chosen in it.

    def following(x: Array) -> Array:
        return jnp.where(resets, _later(_later(x)), _later(x))

    y = td_targets(ts.reward[1:], last, following(best), hp.discount, hp.beyond)
    # An episode that was cut off has no end, and the row after it is another's.
    there = following(teaches) & (last | ~ts.first[1:])
    if severed is not None:
        there &= ~jnp.where(resets, _later(severed), severed)
    known = teaches & (there | (last & (hp.beyond <= 0)))
    error = jax.lax.stop_gradient(y) - exploration.entry(q_tm1, rollout.action)
    over = conservatism(jnp.where(legal, q_tm1, ILLEGAL), rollout.action)
    better = exploration.entry(behind, rollout.action) - value
    asymmetric = expectile_loss(better, hp.expectile)
    return {
        "td": (hp.td_cost, _mean(0.5 * error**2, known)),
        "cql": (hp.cql_cost, _mean(over, teaches)),
        "expectile": (hp.expectile_cost, _mean(asymmetric, teaches)),
    }


def _own_columns(ts: types.TimeStep) -> Columns:
    """Returns what a rollout knows of itself, summed backwards."""
    reward, last, first = ts.reward[1:], ts.last[1:], ts.first[:-1]

    def back(later, now):
        to_go, complete = later
        reward, last = now
        to_go = reward + jnp.where(last, 0.0, to_go)
        complete = last | complete
        return (to_go, complete), (to_go, complete)

    nothing = jnp.zeros_like(reward[0]), jnp.zeros_like(last[0])
    _, (to_go, complete) = jax.lax.scan(back, nothing, (reward, last), reverse=True)
    row = jnp.broadcast_to(jnp.arange(len(reward))[:, None], reward.shape)
    begin = jax.lax.cummax(jnp.where(first, row, 0), axis=0)
    # A reset row is of the episode that it ends, and nothing is to come of it.
    reset = ts.last[:-1] & ~first
    to_go = jnp.where(reset, 0.0, to_go)
    return Columns(to_go, row - begin, complete.astype(jnp.float32), complete)


def _later(x: Array) -> Array:
    """Returns what is one row later; zeros after the last."""
    return jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])


def _mean(x: Array, live: Array) -> Array:
    return policy_gradient.masked_mean(x, live)
