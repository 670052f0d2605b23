"""Distral's policies: a network for all tasks, and one of each task's own beside it.

h is the network of π_0, f_i that of a task, both of the same layers; π_0 ∝ exp h.

    columns    π_i ∝
    one        exp f_i
    two        exp(α h + f_i)
    added      exp(h + f_i)
    shared     exp h

π_0 is one for all tasks. Where it is what tasks are distilled into (``one``, ``two``) it
is not given the task, whatever ``task_embedding`` says.

Ref: Teh et al. 2017, "Distral: Robust multitask reinforcement learning"
(arXiv:1707.04175), equation 8 and section 3.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

from mtrl_jax import types
from mtrl_jax.networks import actor_critic, task_networks
from mtrl_jax.networks.network_config import NetworkConfig
from mtrl_jax.types import Array, Key, Scalar, Tree

COLUMNS = ("one", "two", "added", "shared")
DISTILLED = ("one", "two")  # of these, those with a policy that is


class Outputs(NamedTuple):
    """What the networks say of each step, ``[T, B, ...]``."""

    logits: Array  # of π_i
    prior_logits: Array  # of π_0
    value: Array


class Columns(NamedTuple):
    """The networks as one; parameters and memories are {"prior": …, "own": …}.

    Those of ``own`` are stacked, ``[K, ...]``; ``shared`` columns have none. ``unroll``
    takes (params, memories, ts, previous action, α) and returns (Outputs, memories);
    every memory advances on every step.
    """

    init: Callable[[Key], Tree]
    initial_state: Callable[[int], Tree]
    unroll: Callable[..., tuple[Outputs, Tree]]


def make(
    spec: types.EnvSpec,
    config: NetworkConfig,
    columns: str,
    *,
    num_values: int | None = None,
) -> Columns:
    """Returns the ``columns`` of networks of ``config`` for ``spec``.

    Raises:
      ValueError: a network or columns that are unknown, or do not go together.
    """
    check(config, columns)
    prior_config = config
    if columns in DISTILLED:
        prior_config = dataclasses.replace(config, task_embedding=False)
    prior = actor_critic.make(spec, prior_config, num_values=num_values)
    networks = {"prior": prior}
    if columns != "shared":
        networks["own"] = task_networks.make(spec, config, num_values=num_values)

    def init(key: Key) -> Tree:
        keys = dict(zip(("prior", "own"), jax.random.split(key)))
        return {name: x.init(keys[name]) for name, x in networks.items()}

    def initial_state(batch: int) -> Tree:
        return {name: x.initial_state(batch) for name, x in networks.items()}

    def unroll(
        params: Tree,
        memories: Tree,
        ts: types.TimeStep,
        prev_action: Array,
        alpha: Scalar,
    ) -> tuple[Outputs, Tree]:
        found = {
            name: x.unroll(params[name], memories[name], ts, prev_action)
            for name, x in networks.items()
        }
        after = {name: memory for name, (_, memory) in found.items()}
        shared = found["prior"][0]
        if columns == "shared":
            return Outputs(shared.policy, shared.policy, shared.value), after
        own = found["own"][0]
        logits = own.policy
        if columns == "two":
            logits = logits + alpha * shared.policy
        elif columns == "added":
            logits = logits + shared.policy
        return Outputs(logits, shared.policy, own.value), after

    return Columns(init, initial_state, unroll)


def check(config: NetworkConfig, columns: str) -> None:
    """Raises ValueError unless columns are known and π_0 is one for all tasks."""
    if columns not in COLUMNS:
        raise ValueError(f"columns: unknown {columns!r}; one of {', '.join(COLUMNS)}")
    if columns == "shared":
        return
    if config.sharing != "hard":
        raise ValueError(
            f"network.sharing: got {config.sharing!r} under columns {columns!r}; the "
            "distilled policy is one for all tasks, use 'hard', or columns 'shared'"
        )
    if config.task_heads:
        raise ValueError(
            f"network.task_heads: true under columns {columns!r}; the distilled policy "
            "is one for all tasks, use false, or columns 'shared'"
        )
