"""Planning with a sequence policy's own predictions: a beam search over its next steps.

A plan is actions a_0 ... a_{D-1} from now on. What each leads to is what the model itself
says, the likeliest sign of the reward and the next vector, which it reads as if they had
come:

    r̂_d = argmax P(sgn r | h_d, a_d),  ô_{d+1} = E[o | h_d, a_d],  h_{d+1} = h_d a_d r̂_d ô_{d+1}
    best = argmax over plans of Σ_d r̂_d

Of all extensions of the ``beam`` best plans so far by one action the ``beam`` best are
gone on with. Plans as good as each other are ordered by what the policy says: by
g(a_0) + Σ_{d>0} (log π(a_d) - max log π), where g(a_0) is log π(a_0) with Gumbel noise. So
where no plan is better than another the first action is a draw from the policy: who has
found nothing yet explores as it learned to.

Deviations: signs of rewards and means of vectors where the paper's model has classes of
both, read at a token of the action; it plans from the first step on, not once its context
is full; ties are not broken by the policy there. A plan knows of no episode's end, and a
return that is asked for stays as it is.

Ref: Son et al. 2025, "Distilling Reinforcement Learning Algorithms for In-Context
Model-Based Planning" (arXiv:2502.19009): beam 10, depth at most 8.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.networks.transformers import history_tokens, outlook
from mtrl_jax.types import Array, Key, Tree

# What ties are worth: less together than the sign of one reward.
_TIE, _MOST = 1e-3, 100.0

# (memory of N slots, steps [N]) -> (Outputs, with outcomes [N, A, ...], memory)
Read = Callable[[Tree, history_tokens.Steps], tuple[outlook.Outputs, Tree]]


@dataclasses.dataclass(frozen=True)
class Planning:
    """How many plans are gone on with, and how far they go; both are static."""

    beam: int = 0  # 0: no planning
    depth: int = 4  # actions of a plan


class _Plans(NamedTuple):
    """K plans of each of B slots; leaves [B K, ...] where nothing else is said."""

    last: history_tokens.Steps  # the step each has come to
    out: outlook.Outputs  # what is said there
    memory: Tree
    total: Array  # [B, K] sum of rewards
    tie: Array  # [B, K]
    first: Array  # [B, K] int32


def check(config: Planning, spec: types.EnvSpec, given: outlook.Outlook) -> None:
    """Raises ValueError unless plans can be made: of choices, with heads for outcomes."""
    for name, value in (("beam", config.beam), ("depth", config.depth)):
        least = 0 if name == "beam" else 1
        if value < least:
            raise ValueError(f"planning.{name}: {value}; use {least} or more")
    if not config.beam:
        return
    if not (given.rewards and given.vectors):
        raise ValueError(
            f"planning.beam: {config.beam}, but outlook.rewards={given.rewards} and "
            f"outlook.vectors={given.vectors}: what an action leads to is not predicted; "
            "give both true, or beam 0"
        )
    if not isinstance(spec.action, types.Discrete) or set(spec.obs) != {"vector"}:
        raise ValueError(
            f"planning.beam: {config.beam}, but plans are of Discrete actions with a "
            f"vector alone to observe, not of {spec.action} and {sorted(spec.obs)}; use 0"
        )


def first_actions(
    key: Key,
    read: Read,
    out: outlook.Outputs,
    memory: Tree,
    now: history_tokens.Steps,
    log_prob: Array,
    config: Planning,
) -> Array:
    """Returns the first action [B] of each slot's best plan.

    Args:
      key: of the noise.
      read: what the model says after one more step, see ``Read``.
      out, memory: after the step at hand, ``now``, with outcomes [B, A, ...].
      log_prob: [B, A] of the first action, as acting draws it; -inf of what is illegal.
        Later ones may be any.
      config: with a beam of at least 1.
    """
    batch, actions = out.action.shape
    legal = log_prob > -jnp.inf
    noisy = log_prob + jax.random.gumbel(key, log_prob.shape)

    def of_beam(x: Tree) -> Tree:
        return jax.tree.map(lambda leaf: jnp.repeat(leaf, config.beam, axis=0), x)

    none = jnp.zeros((batch, config.beam))
    # At first there is one plan, of no action.
    alone = jnp.where(jnp.arange(config.beam) == 0, none, -jnp.inf)
    first = none.astype(jnp.int32)
    plans = _Plans(of_beam(now), of_beam(out), of_beam(memory), alone, none, first)

    def extended(plans: _Plans, depth: Array) -> tuple[_Plans, Array, Array]:
        """Returns (plans but for what they lead to, parents [B, K], actions [B, K])."""
        shape, is_first = (batch, config.beam, actions), depth == 0
        log_prob = jax.nn.log_softmax(plans.out.action).reshape(shape)
        later = log_prob - jnp.max(log_prob, axis=-1, keepdims=True)
        tie = plans.tie[..., None] + jnp.where(is_first, noisy[:, None], later)
        total = plans.total[..., None] + _reward(plans.out).reshape(shape)
        total = jnp.where(is_first & ~legal[:, None], -jnp.inf, total)
        worth = total + _TIE * jnp.clip(tie, -_MOST, _MOST)
        _, best = jax.lax.top_k(worth.reshape(batch, -1), config.beam)
        parent, action = jnp.divmod(best, actions)
        total, tie = (
            jnp.take_along_axis(x.reshape(batch, -1), best, 1) for x in (total, tie)
        )
        first = jnp.take_along_axis(plans.first, parent, axis=1)
        first = jnp.where(is_first, action, first)
        return plans._replace(total=total, tie=tie, first=first), parent, action

    def deeper(plans: _Plans, depth: Array) -> tuple[_Plans, None]:
        plans, parent, action = extended(plans, depth)
        rows = (parent + config.beam * jnp.arange(batch)[:, None]).reshape(-1)
        come = (plans.last, plans.out, plans.memory)
        last, out, memory = jax.tree.map(lambda x: x[rows], come)
        last = _next(last, out, action.reshape(-1))
        out, memory = read(memory, last)
        return plans._replace(last=last, out=out, memory=memory), None

    depths = jnp.arange(config.depth)
    plans, _ = jax.lax.scan(deeper, plans, depths[:-1])
    plans, _, _ = extended(plans, depths[-1])
    return plans.first[:, 0]


def _reward(out: outlook.Outputs) -> Array:
    """Returns the likeliest sign of each action's reward, [N, A]."""
    assert out.reward is not None
    return (jnp.argmax(out.reward, axis=-1) - 1).astype(jnp.float32)


def _next(
    last: history_tokens.Steps, out: outlook.Outputs, action: Array
) -> history_tokens.Steps:
    """Returns the steps [N] that ``action`` [N] is said to lead to after the last ones."""

    def of_action(x: Any) -> Array:
        return jnp.take_along_axis(x, action[:, None, None], axis=1)[:, 0]

    reward = of_action(_reward(out)[..., None])[:, 0]
    place = last.episode_step
    return last._replace(
        obs={"vector": of_action(out.next_vector).astype(last.obs["vector"].dtype)},
        prev_obs=None if last.prev_obs is None else last.obs,
        prev_action=action.astype(last.prev_action.dtype),
        prev_reward=reward,
        prev_done=jnp.zeros_like(last.prev_done),
        has_prev=jnp.ones_like(last.has_prev),
        episode_step=None if place is None else place + 1,
    )
