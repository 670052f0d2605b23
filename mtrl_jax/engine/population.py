"""A population of agents is an agent with one more leading axis."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from mtrl_jax import tree, types


def population(
    agent: types.Agent,
    size: int,
    at_once: int | None = None,
    mesh: Mesh | None = None,
) -> types.Agent:
    """Returns the Agent whose states, hyperparameters, keys and data start with ``[P]``.

    ``update`` takes the rollout as a scan over time leaves it: ``ts``, ``action`` and
    ``extras`` are ``[T, P, B, ...]``, ``carry`` is ``[P, B, ...]``. With ``at_once``
    below P, members are updated that many at a time (one after the other for 1) on each
    device of the axis ``pop`` of ``mesh``, which trades time for memory; the numbers are
    the same to rounding. Where several devices of ``mesh`` share a member's slots, each
    does its part of what the agent shards (``tree.shard``).
    """

    def carry(batch: int) -> types.Tree:
        one = agent.carry(batch)
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), one)

    def update(state, rollout, key, hp):
        with _known(mesh):
            return update_all(state, rollout, key, hp)

    def update_all(state, rollout, key, hp):
        rollout_axes = types.Rollout(ts=1, action=1, extras=1, carry=0)  # type: ignore[arg-type]
        if at_once is None or at_once >= size:
            return jax.vmap(agent.update, (0, rollout_axes, 0, 0))(
                state, rollout, key, hp
            )
        in_turn = _in_turn(agent.update, at_once)
        if mesh is not None and mesh.shape["pop"] > 1:
            # Left to itself the compiler would gather all members on every device.
            own = PartitionSpec("pop")
            in_turn = jax.shard_map(
                in_turn, mesh=mesh, in_specs=own, out_specs=own, axis_names={"pop"},
                check_vma=False,
            )  # fmt: skip
        return in_turn(state, _members_first(rollout), key, hp)

    return types.Agent(
        init=jax.vmap(agent.init), carry=carry, act=jax.vmap(agent.act), update=update
    )


def _known(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Returns the context in which agents may split their rows, see ``tree.shard``."""
    if mesh is None or mesh.shape.get(tree.SLOT_AXIS, 1) == 1:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def _in_turn(update: Callable, at_once: int) -> Callable:
    """Returns ``update`` of ``[P, ...]`` arguments, ``at_once`` members at a time."""
    batch_size = None if at_once == 1 else at_once
    return lambda *args: jax.lax.map(lambda x: update(*x), args, batch_size=batch_size)


def _members_first(rollout: types.Rollout) -> types.Rollout:
    def swap(tree):
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), tree)

    return rollout._replace(
        ts=swap(rollout.ts), action=swap(rollout.action), extras=swap(rollout.extras)
    )
