"""A population of agents is an agent with one more leading axis."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mtrl_jax import types


def population(
    agent: types.Agent, size: int, at_once: int | None = None
) -> types.Agent:
    """Returns the Agent whose states, hyperparameters, keys and data start with ``[P]``.

    ``update`` takes the rollout as a scan over time leaves it: ``ts``, ``action`` and
    ``extras`` are ``[T, P, B, ...]``, ``carry`` is ``[P, B, ...]``. With ``at_once``
    below P, members are updated that many at a time (one after the other for 1), which
    trades time for memory; the numbers are the same to rounding.
    """

    def carry(batch: int) -> types.Tree:
        one = agent.carry(batch)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), one)

    def update(state, rollout, key, hp):
        rollout_axes = types.Rollout(ts=1, action=1, extras=1, carry=0)  # type: ignore[arg-type]
        if at_once is None or at_once >= size:
            return jax.vmap(agent.update, (0, rollout_axes, 0, 0))(
                state, rollout, key, hp
            )
        rollout = _members_first(rollout)
        return jax.lax.map(
            lambda args: agent.update(*args),
            (state, rollout, key, hp),
            batch_size=None if at_once == 1 else at_once,
        )

    return types.Agent(
        init=jax.vmap(agent.init), carry=carry, act=jax.vmap(agent.act), update=update
    )


def _members_first(rollout: types.Rollout) -> types.Rollout:
    def swap(tree):
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)

    return rollout._replace(
        ts=swap(rollout.ts), action=swap(rollout.action), extras=swap(rollout.extras)
    )
