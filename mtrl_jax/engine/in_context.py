"""What frozen weights learn from their own past: episode after episode, nothing reset.

The environments reset themselves at the end of an episode; the agent's carry is never
touched, and ``update`` is never called. An agent that masks its memory by ``ts.first``
plays every episode as its first; one that learns in context gets better, and the return
per episode is how fast.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import random, tree, types
from mtrl_jax.engine import fused_runner, statistics
from mtrl_jax.engine import population as population_lib
from mtrl_jax.types import Array, Key, Tree


class ContextState(NamedTuple):
    """Everything such an evaluation is, beside hyperparameters. Leading axes P, B."""

    agent: types.AgentState  # [P, ...], the same from the first step to the last
    carry: Tree  # [P, B, ...]
    env: Tree
    ts: types.TimeStep  # [P, B, ...]
    stats: statistics.EpisodeStats
    returns: Array  # [P, B, E] float32, NaN of episodes that have not ended
    episode: Array  # [P, B] int32, episodes that have ended
    step: Array  # [] int32, environment steps
    key: Key  # [P] root keys, constant


class Runner(NamedTuple):
    """``init(key[P], agent_state[P])`` and ``chunk(state, hp[P])``; see make."""

    init: Callable[[Key, types.AgentState], ContextState]
    chunk: Callable[[ContextState, Tree], tuple]


def make(
    agent: types.Agent, env: types.Env, *, episodes: int, steps_per_chunk: int
) -> Runner:
    """Returns the Runner of E ``episodes`` in every slot; neither function is jitted yet.

    ``init(key, agent_state)`` resets the environments, once. ``chunk(state, hp)`` acts
    for ``steps_per_chunk`` environment steps, a reset counting as one; after a slot's
    E-th episode it plays on and nothing is written down.
    """
    members, slots = env.batch
    agents = population_lib.population(agent, members)

    def init(key: Key, agent_state: types.AgentState) -> ContextState:
        env_state, ts = env.reset(random.at(key, 0, random.ENV), env.params)
        return ContextState(
            agent=agent_state,
            carry=agents.carry(slots),
            env=env_state,
            ts=ts,
            stats=statistics.init(env, env_state, window=1),
            returns=jnp.full((members, slots, episodes), jnp.nan),
            episode=jnp.zeros((members, slots), jnp.int32),
            step=jnp.zeros((), jnp.int32),
            key=key,
        )

    def act_and_step(state: ContextState, hp: Tree) -> ContextState:
        key = random.at(state.key, state.step, random.ACT)
        action, carry, _ = agents.act(state.agent, state.carry, state.ts, key, hp)
        env_state, ts = env.step(state.env, action, env.params)
        stats = statistics.update(state.stats, ts, env.info(env_state))
        # Out of range, and so nowhere, from the slot's E-th episode on.
        ended = ts.last[..., None] & (
            jnp.arange(episodes)[None, None] == state.episode[..., None]
        )
        return state._replace(
            carry=carry,
            env=env_state,
            ts=ts,
            stats=stats,
            returns=jnp.where(ended, stats.partial_return[..., None], state.returns),
            episode=state.episode + ts.last,
            step=state.step + 1,
        )

    def chunk(state: ContextState, hp: Tree):
        state = state._replace(stats=statistics.start_chunk(state.stats))
        state, _ = jax.lax.scan(
            lambda s, _: (act_and_step(s, hp), None), state, None, steps_per_chunk
        )
        finite = tree.all_finite(state.agent.learner, axes=1)
        return state, fused_runner.ChunkOutput({}, state.stats.chunk, finite)

    return Runner(init, chunk)
