"""Learning of a whole population from a dataset as one compiled program.

    windows [T, P, B] = sample(key[P], data)      every member draws its own
    learner'          = update(learner, windows)  K times in a scan: one chunk

Whatever agent there is, ``update`` is all that is asked of it: behaviour cloning, policy
distillation and Algorithm Distillation are the same to the runner. A replay stays out
of it: what there is to learn from is all in the data. These are an
argument of the program and lie on its devices; nothing is read while a chunk runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mtrl_jax import random, tree, types
from mtrl_jax.engine import fused_runner, population
from mtrl_jax.types import Array, Key, Tree

# One member's windows from its key and the data: a Rollout [T + 1, B, ...] whose extras
# are () and whose carry may be: then the windows begin with a fresh one.
Sample = Callable[[Key, Tree], types.Rollout]


class OfflineState(NamedTuple):
    """Everything an offline run is, beside hyperparameters and data. Leading axis P."""

    learner: Tree  # [P, ...]
    recent: Array  # [P] float32, the score's metric, mean of the last chunk
    step: Array  # [] int32, updates done
    key: Key  # [P] root keys, constant for the whole run


class Runner(NamedTuple):
    """``init(key[P], hp[P])``, ``chunk(state, hp[P], data)`` and, of other data,
    ``measure(state, hp[P], data) -> {metric: [P]}``; see make."""

    init: Callable[[Key, Tree], OfflineState]
    chunk: Callable[[OfflineState, Tree, Tree], tuple]
    measure: Callable[[OfflineState, Tree, Tree], dict[str, Array]]


def make(
    agent: types.Agent,
    sample: Sample,
    *,
    members: int,
    updates_per_chunk: int,
    metric: str = "loss",
    at_once: int | None = None,
    mesh: Mesh | None = None,
) -> Runner:
    """Returns the Runner of ``agent`` on what ``sample`` draws; nothing is jitted yet.

    ``metric`` is the one of the update's metrics that ``OfflineState.recent`` keeps.
    ``measure`` is an update whose outcome is thrown away: what it says of the windows it
    was given. They are the same for all members and at every call, so that neither
    members nor updates differ by what they were measured on.
    """
    agents = population.population(agent._replace(replay=None), members, at_once, mesh)
    axes = population.ROLLOUT_AXES
    draw = jax.vmap(sample, in_axes=(0, None), out_axes=axes)

    def windows(key: Key, data: Tree) -> types.Rollout:
        drawn = draw(key, data)
        if jax.tree.leaves(drawn.carry):
            return drawn
        return drawn._replace(carry=agents.carry(drawn.action.shape[2]))

    def init(key: Key, hp: Tree) -> OfflineState:
        return OfflineState(
            learner=jax.jit(agents.init)(random.at(key, 0, random.INIT), hp),
            recent=jnp.full(members, jnp.nan),
            step=jnp.zeros((), jnp.int32),
            key=key,
        )

    def train_step(state: OfflineState, hp: Tree, data: Tree):
        drawn = windows(random.at(state.key, state.step, random.DATA), data)
        key = random.at(state.key, state.step, random.UPDATE)
        learner, metrics, _ = agents.update(state.learner, drawn, key, hp, state.step)
        return state._replace(learner=learner, step=state.step + 1), metrics

    def chunk(state: OfflineState, hp: Tree, data: Tree):
        state, metrics = jax.lax.scan(
            lambda s, _: train_step(s, hp, data), state, None, length=updates_per_chunk
        )
        means = jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)
        finite = tree.all_finite(state.learner, axes=1)
        output = fused_runner.ChunkOutput(means, episodes={}, finite=finite)
        return state._replace(recent=means[metric]), output

    def measure(state: OfflineState, hp: Tree, data: Tree) -> dict[str, Array]:
        same = jnp.broadcast_to(state.key[:1], state.key.shape)
        key = random.at(same, 0, random.EVALUATE)
        drawn = windows(random.fold(key, 0), data)
        key = random.fold(key, 1)
        return agents.update(state.learner, drawn, key, hp, state.step)[1]

    return Runner(init, chunk, measure)
