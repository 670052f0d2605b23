"""A network of its own for each task: stacked parameters, each on its own slots.

    params [K, ...],    out_b = network(params[task_b], x_b)

Where the tasks of the slots are static (``EnvSpec.slot_tasks``) the slots are grouped as
``[K, most]`` and the network is mapped over K: a step costs what one network costs, and
of tasks with unlike numbers of slots what the largest would. Otherwise, and for any
other number of slots than those, all K networks see all slots and each slot keeps its
own task's: right for any slots, at K times the cost; tests and single plays do so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.networks import actor_critic
from mtrl_jax.networks.actor_critic import Network
from mtrl_jax.networks.network_config import NetworkConfig
from mtrl_jax.types import Array, Tree


class Groups(NamedTuple):
    """Slots by task; numpy, static."""

    slots: np.ndarray  # [K, most]; a task with fewer repeats one, and 0 stands for none
    task: np.ndarray  # [B] of each slot
    place: np.ndarray  # [B] its place among the slots of its task


def make(
    spec: types.EnvSpec,
    config: NetworkConfig,
    *,
    num_values: int | None = None,
) -> Network:
    """Returns the networks of ``spec.tasks`` as one; see ``actor_critic.Network``.

    Every leaf of its parameters is ``[K, ...]``. Memories are those of a single network:
    a slot has one. Raises ValueError as ``actor_critic.make`` does.
    """
    single = actor_critic.make(spec, config, num_values=num_values)
    tasks = len(spec.tasks)
    known = groups(spec.slot_tasks, tasks) if spec.slot_tasks else None

    def init(key):
        return jax.vmap(single.init)(jax.random.split(key, tasks))

    def unroll(params, state, ts, prev_action):
        if tasks == 1:
            one = jax.tree.map(lambda x: x[0], params)
            return single.unroll(one, state, ts, prev_action)
        if known is not None and len(known.task) == ts.first.shape[1]:
            return _by_group(single, known, params, state, ts, prev_action)
        return _by_choice(single, tasks, params, state, ts, prev_action)

    return Network(
        init, single.initial_state, unroll, single.distribution, single.recurrent
    )


def groups(slot_tasks: Sequence[int], tasks: int) -> Groups:
    """Returns the slots of each of so many tasks."""
    task = np.asarray(slot_tasks, np.int32)
    own = [np.flatnonzero(task == k) for k in range(tasks)]
    most = max(map(len, own))
    place = np.zeros(len(task), np.int32)
    slots = np.zeros((tasks, most), np.int32)
    for k, mine in enumerate(own):
        place[mine] = np.arange(len(mine))
        slots[k] = np.pad(mine, (0, most - len(mine)), mode="edge") if len(mine) else 0
    return Groups(slots, task, place)


def _by_group(
    single: Network,
    known: Groups,
    params: Tree,
    state: Tree,
    ts: types.TimeStep,
    prev_action: Array,
) -> tuple[actor_critic.PolicyValue, Tree]:
    def of_groups(x: Array) -> Array:  # [T, B, ...] -> [K, T, most, ...]
        return jnp.moveaxis(x[:, known.slots], 1, 0)

    def of_slots(x: Array) -> Array:  # and back
        return jnp.moveaxis(x[known.task, :, known.place], 0, 1)

    timed = jax.tree.map(of_groups, (ts, prev_action))
    memory = jax.tree.map(lambda x: x[known.slots], state)
    out, memory = jax.vmap(single.unroll)(params, memory, *timed)
    memory = jax.tree.map(lambda x: x[known.task, known.place], memory)
    return jax.tree.map(of_slots, out), memory


def _by_choice(
    single: Network,
    tasks: int,
    params: Tree,
    state: Tree,
    ts: types.TimeStep,
    prev_action: Array,
) -> tuple[actor_critic.PolicyValue, Tree]:
    out, memory = jax.vmap(single.unroll, (0, None, None, None))(
        params, state, ts, prev_action
    )

    def own(task: Array, axes: int):
        """Returns x [task, ...] of x [K, ...], a task for each of ``axes`` axes."""

        def chosen(x: Array) -> Array:
            index = task.reshape(1, *task.shape, *(1,) * (x.ndim - 1 - axes))
            return jnp.take_along_axis(x, index, axis=0)[0]

        return chosen

    out = jax.tree.map(own(ts.task, 2), out)
    # A slot that changes its task at a step begins an episode there, without a memory.
    return out, jax.tree.map(own(ts.task[-1], 1), memory)
