"""A population of agents is an agent with one more leading axis."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from mtrl_jax import types
from mtrl_jax.engine import batched_draws, sharding
from mtrl_jax.tree import MEMBER_AXIS

# Where the members lie in a rollout, as a scan over time leaves it.
ROLLOUT_AXES = types.Rollout(ts=1, action=1, extras=1, carry=0)  # type: ignore[arg-type]


def population(
    agent: types.Agent,
    size: int,
    at_once: int | None = None,
    mesh: Mesh | None = None,
) -> types.Agent:
    """Returns the Agent whose learners, hyperparameters and keys start with ``[P]``.

    Memories and what is drawn from them do, too. A rollout is as a scan over time leaves
    it: ``ts``, ``action`` and ``extras`` are ``[T, P, B, ...]``, ``carry`` is
    ``[P, B, ...]``. ``update`` takes such a rollout of an agent without a replay, of
    others the batches ``[P, ...]`` that ``replay.observe`` drew. ``step`` is one number
    for all members.

    With ``at_once`` below P, members are updated that many at a time (one after the
    other for 1) on each device of the axis ``pop`` of ``mesh``, which trades time for
    memory; the numbers are the same to rounding. A replay's functions always work on all
    members together: mapped over members in turn, each memory would be copied. Where
    several devices of ``mesh`` share a member's slots, each does its part of what the
    agent shards (``tree.shard``).
    """

    def carry(batch: int) -> types.Tree:
        return _repeated(agent.carry(batch), size)

    def update(learner, batch, key, hp, step):
        with sharding.known(mesh):
            return update_all(learner, batch, key, hp, step)

    def update_all(learner, batch, key, hp, step):
        axes = ROLLOUT_AXES if agent.replay is None else 0
        if at_once is None or at_once >= size:
            return jax.vmap(agent.update, (0, axes, 0, 0, None))(
                learner, batch, key, hp, step
            )
        in_turn = _in_turn(agent.update, at_once)
        if mesh is not None and mesh.shape[MEMBER_AXIS] > 1:
            # Left to itself the compiler would gather all members on every device.
            own, same = PartitionSpec(MEMBER_AXIS), PartitionSpec()
            in_turn = jax.shard_map(
                in_turn, mesh=mesh, in_specs=(own, own, own, own, same), out_specs=own,
                axis_names={MEMBER_AXIS}, check_vma=False,
            )  # fmt: skip
        batch = _members_first(batch) if agent.replay is None else batch
        return in_turn(learner, batch, key, hp, step)

    return types.Agent(
        init=jax.vmap(batched_draws.batch_draws(agent.init)),
        carry=carry,
        act=jax.vmap(agent.act),
        update=update,
        replay=None if agent.replay is None else _replay(agent.replay, size, mesh),
    )


def _replay(replay: types.Replay, size: int, mesh: Mesh | None) -> types.Replay:
    """Returns the Replay of all members' memories ``[P, ...]``."""

    def init(slots: int) -> types.Tree:
        return _repeated(replay.init(slots), size)

    def observe(memory, rollout, key, hp, step):
        with sharding.known(mesh):
            return jax.vmap(replay.observe, (0, ROLLOUT_AXES, 0, 0, None))(
                memory, rollout, key, hp, step
            )

    def feedback(memory, found):
        with sharding.known(mesh):
            return jax.vmap(replay.feedback)(memory, found)

    return types.Replay(init, observe, feedback)


def _repeated(one: types.Tree, size: int) -> types.Tree:
    """Returns one member's tree for each of them, leaves ``[P, ...]``."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), one)


def _in_turn(update: Callable, at_once: int) -> Callable:
    """Returns ``update`` of ``[P, ...]`` arguments, ``at_once`` members at a time.

    Its last argument, ``step``, is the same for all of them.
    """
    batch_size = None if at_once == 1 else at_once

    def in_turn(*args):
        *members, step = args
        return jax.lax.map(
            lambda one: update(*one, step), tuple(members), batch_size=batch_size
        )

    return in_turn


def _members_first(rollout: types.Rollout) -> types.Rollout:
    def swap(steps: types.Tree) -> types.Tree:
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), steps)

    return rollout._replace(
        ts=swap(rollout.ts), action=swap(rollout.action), extras=swap(rollout.extras)
    )
