"""What the tasks' networks have in common, as an option of the actor-critic learner.

    hard          one network; ``task_heads`` gives each task its own heads
    cross_stitch  columns of the tasks, mixed after every layer (networks/shared_trunks.py)
    experts       a mixture of orthonormal experts, combined by task (likewise)
    modules       modules that a routing network connects by task and state (likewise)
    soft          a network a task on its own slots (networks/task_networks.py), and
                  + distance_cost · distance to each other (losses/soft_sharing.py)

The cost of the distance is traced: at 0 the networks are independent, each clipped to
its own norm, but for the number of live steps that the loss is a mean over, which is
common; without bound they are one. With a scale of values their heads are left out of it:
each is in its task's own units, and of the values of all tasks a network learns one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from mtrl_jax import types
from mtrl_jax.agents.common import minibatches, objective
from mtrl_jax.hparams import Amount
from mtrl_jax.losses import soft_sharing
from mtrl_jax.networks import actor_critic, task_networks
from mtrl_jax.networks.network_config import NetworkConfig
from mtrl_jax.types import Tree


class Hparams(NamedTuple):
    """Of soft sharing; not read without it."""

    distance_cost: Amount = 0.0


class Sharing(NamedTuple):
    """The network, as acting and as learning see it, and what ties those of the tasks.

    ``acting`` is for the slots of a rollout; ``learned(columns)`` for minibatches of so
    many columns, ``[T, columns]``. ``groups(rows)`` are the tasks of a rollout's rows,
    slots or single steps, () where minibatches need not be alike.
    """

    acting: actor_critic.Network
    learned: Callable[[int], actor_critic.Network]
    groups: Callable[[int], tuple[int, ...]]
    losses: Callable[[Tree, Hparams], dict[str, objective.Weighted]]


def idle(config: Any) -> dict[str, types.Idle]:
    """Returns the hyperparameters that an agent's ``config`` leaves unread."""
    if config.network.sharing == "soft":
        return {}
    return {"distance_cost": types.Idle(0.0, "network.sharing=soft")}


def make(
    spec: types.EnvSpec,
    config: NetworkConfig,
    distance: str,
    steps: int,
    *,
    num_values: int | None = None,
    untied: Sequence[str] = (),
) -> Sharing:
    """Returns the network of ``config`` for ``spec``.

    ``steps`` are the gradient steps of an update: of more than one the rows are shuffled
    within their tasks. The parts called ``untied`` are in no distance.

    Raises:
      ValueError: an option of the network or a distance that is unknown, or not possible.
    """
    if distance not in soft_sharing.DISTANCES:
        soft_sharing.distance(distance, ())
    if config.sharing != "soft":
        single = actor_critic.make(spec, config, num_values=num_values)
        return Sharing(single, lambda columns: single, lambda rows: (), lambda *_: {})
    what = "network.sharing: 'soft' is between tasks"
    types.check_several_tasks(spec, what, "sharing 'hard'")
    if config.task_heads:
        raise ValueError(
            "network.task_heads: under sharing 'soft' every task has a network, and so "
            "heads, of its own; use false"
        )
    own = dataclasses.replace(config, sharing="hard")
    slots = spec.slot_tasks

    def made(slot_tasks: tuple[int, ...]) -> actor_critic.Network:
        known = spec._replace(slot_tasks=slot_tasks)
        return task_networks.make(known, own, num_values=num_values)

    def groups(rows: int) -> tuple[int, ...]:
        return slots * (rows // len(slots)) if slots else ()

    def learned(columns: int) -> actor_critic.Network:
        if not slots or steps == 1:
            return made(groups(columns))
        whole = len(slots) * columns
        return made(minibatches.grouped(groups(whole), whole // columns))

    def losses(params: Tree, hp: Hparams) -> dict[str, objective.Weighted]:
        apart = (objective.HEADS, *untied)
        tied = {name: x for name, x in params.items() if name not in apart}
        found = soft_sharing.distance(distance, tied)
        return {"distance": objective.Weighted(hp.distance_cost, found)}

    return Sharing(made(slots), learned, groups, losses)
