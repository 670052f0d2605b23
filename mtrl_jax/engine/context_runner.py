"""What frozen weights learn from their own past: episode after episode, nothing reset.

The environments reset themselves at the end of an episode; the agent's carry is never
touched, and ``update`` is never called. An agent that masks its memory by ``ts.first``
plays every episode as its first; one that learns in context gets better, and the return
per episode is how fast. Where there is but one episode, so is the reward per step. Of a
trial (envs/trials.py) every episode within counts, and ``ts.first`` comes but once.

With a prompt another policy plays each slot's first episodes, and the agent watches: its
carry advances as if it had chosen those actions, and is where it goes on from.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import random, tree, types
from mtrl_jax.engine import fused_runner, host_runner, population, statistics
from mtrl_jax.types import Array, Key, Tree


class ContextState(NamedTuple):
    """Everything such an evaluation is, beside hyperparameters. Leading axes P, B."""

    learner: Tree  # [P, ...], the same from the first step to the last
    carry: Tree  # [P, B, ...]
    env: Tree
    ts: types.TimeStep  # [P, B, ...]
    stats: statistics.EpisodeStats
    returns: Array  # [P, B, E] float32, NaN of episodes that have not ended
    rewards: Tree  # [P, B, L] of the one episode, NaN of what is not yet; () of several
    episode: Array  # [P, B] int32, episodes that have ended
    step: Array  # [] int32, environment steps
    key: Key  # [P] root keys, constant


class Prompt(NamedTuple):
    """Who plays first, and how the agent takes it."""

    episodes: int  # of every slot, at its beginning
    # (key [P], env state, action_mask [P, B, A]) -> actions [P, B, ...]
    play: Callable[[Key, Tree, Array], Array]
    # (carry, ts, action), [B, ...] -> the carry that ``act`` returned, as if it had
    # chosen this action
    observe_action: Callable[[Tree, types.TimeStep, Array], Tree]
    # (carry, ts), [B, ...] -> the carry to which this step is one of a prompt; None
    # where that makes no difference
    keep_prompt: Callable[[Tree, types.TimeStep], Tree] | None = None


class Runner(NamedTuple):
    """``init(key[P], learner[P])`` and ``chunk(state, hp[P])``; see make."""

    init: Callable[[Key, Tree], ContextState]
    chunk: Callable[[ContextState, Tree], tuple]


class Setting(NamedTuple):
    """What such an evaluation is made of; ``make`` has the arguments."""

    agents: types.Agent  # of the whole population
    env: types.Env
    episodes: int
    longest: int
    prompt: Prompt | None


def make(
    agent: types.Agent,
    env: types.Env,
    *,
    episodes: int,
    steps_per_chunk: int,
    longest: int = 0,
    prompt: Prompt | None = None,
) -> Runner:
    """Returns the Runner of E ``episodes`` in every slot; neither function is jitted yet.

    ``init(key, learner)`` resets the environments, once. ``chunk(state, hp)`` acts
    for ``steps_per_chunk`` environment steps, a reset counting as one; after a slot's
    E-th episode it plays on and nothing is written down. Of a single episode the rewards
    of its first ``longest`` steps are, too.
    """
    agents = population.population(agent, env.batch[0])
    setting = Setting(agents, env, episodes, longest, prompt)

    def init(key: Key, learner: Tree) -> ContextState:
        begun = env.reset(random.at(key, 0, random.ENV), env.params)
        return begin(setting, key, learner, *begun)

    def act_and_step(state: ContextState, hp: Tree) -> ContextState:
        action, carry = act(setting, state, hp)
        return arrive(setting, state, carry, *env.step(state.env, action, env.params))

    def chunk(state: ContextState, hp: Tree) -> tuple[ContextState, Any]:
        state = state._replace(stats=statistics.start_chunk(state.stats))
        state, _ = jax.lax.scan(
            lambda s, _: (act_and_step(s, hp), None), state, None, steps_per_chunk
        )
        return state, summarise(state)

    return Runner(init, chunk)


def make_host(
    agent: types.Agent,
    env: types.HostEnv,
    *,
    episodes: int,
    steps_per_chunk: int,
    longest: int = 0,
) -> Runner:
    """Returns the Runner of environments that are stepped from Python.

    Arguments and numbers are those of ``make``; neither function may be jitted, and
    ``chunk`` donates its state. The state's ``env`` are the measures of its steps.
    """
    agents = population.population(agent, env.batch[0])
    view = host_runner.view(env.spec, env.batch)
    setting = Setting(agents, view, episodes, longest, None)
    choose = jax.jit(functools.partial(act, setting))
    follow = jax.jit(functools.partial(arrive, setting), donate_argnums=0)
    start_chunk = jax.jit(
        lambda s: s._replace(stats=statistics.start_chunk(s.stats)), donate_argnums=0
    )
    output = jax.jit(summarise)

    def init(key: Key, learner: Tree) -> ContextState:
        ts = jax.device_put(env.reset())
        state = begin(setting, key, learner, jax.device_put(env.info()), ts)
        return tree.copy(state)  # Its buffers are donated, those of others are not.

    def chunk(state: ContextState, hp: Tree) -> tuple[ContextState, Any]:
        state = start_chunk(state)
        for _ in range(steps_per_chunk):
            action, carry = choose(state, hp)
            env.send(action)
            ts = jax.device_put(env.recv())
            state = follow(state, carry, jax.device_put(env.info()), ts)
        return state, output(state)

    return Runner(init, chunk)


def begin(
    setting: Setting, key: Key, learner: Tree, env_state: Tree, ts: types.TimeStep
) -> ContextState:
    """Returns the state at the first step ``ts``, before anything is remembered."""
    (members, slots), episodes = setting.env.batch, setting.episodes
    shape = (members, slots, setting.longest)
    return ContextState(
        learner=learner,
        carry=setting.agents.carry(slots),
        env=env_state,
        ts=ts,
        stats=statistics.init(setting.env, env_state, window=1),
        returns=jnp.full((members, slots, episodes), jnp.nan),
        rewards=jnp.full(shape, jnp.nan) if episodes == 1 and setting.longest else (),
        episode=jnp.zeros((members, slots), jnp.int32),
        step=jnp.zeros((), jnp.int32),
        key=key,
    )


def act(setting: Setting, state: ContextState, hp: Tree) -> tuple[Array, Tree]:
    """Returns (actions, carries) [P, B, ...] of the agents, or of the prompt."""
    prompt = setting.prompt
    key = random.at(state.key, state.step, random.ACT)
    action, carry, _ = setting.agents.act(state.learner, state.carry, state.ts, key, hp)
    if prompt is None:
        return action, carry
    key = random.at(state.key, state.step, random.PROMPT)
    shown = prompt.play(key, state.env, state.ts.action_mask)
    is_shown = state.episode < prompt.episodes
    action = tree.where(is_shown, shown, action)
    carry = jax.vmap(prompt.observe_action)(carry, state.ts, action)
    if prompt.keep_prompt is not None:
        kept = jax.vmap(prompt.keep_prompt)(carry, state.ts)
        carry = tree.where(is_shown, kept, carry)
    return action, carry


def arrive(
    setting: Setting,
    state: ContextState,
    carry: Tree,
    env_state: Tree,
    ts: types.TimeStep,
) -> ContextState:
    """Returns the state after a step to ``ts``, with what it brought written down."""
    env = setting.env
    ended = _ended(env, state.env, env_state, ts)
    paid = statistics.in_own_units(env.spec, ts)
    stats = statistics.update(
        state.stats, paid._replace(last=ended), env.info(env_state)
    )
    # Out of range, and so nowhere, from the slot's E-th episode on.
    written = _is_at(state.episode, setting.episodes) & ended[..., None]
    # The first step of an episode, of length 0, brings no reward and is written nowhere.
    now = _is_at(stats.partial_length - 1, setting.longest)
    now &= (state.episode == 0)[..., None]
    return state._replace(
        carry=carry,
        env=env_state,
        ts=ts,
        stats=_begun(stats, ended & ~ts.last),
        returns=jnp.where(written, stats.partial_return[..., None], state.returns),
        rewards=jax.tree.map(
            lambda old: jnp.where(now, paid.reward[..., None], old), state.rewards
        ),
        episode=state.episode + ended,
        step=state.step + 1,
    )


def summarise(state: ContextState) -> fused_runner.ChunkOutput:
    """Returns a chunk's output from its final state."""
    finite = tree.all_finite(state.learner, axes=1)
    return fused_runner.ChunkOutput({}, state.stats.chunk, finite)


def _is_at(index: Array, size: int) -> Array:
    """Returns where of ``size`` places each index [P, B] is, bool [P, B, size]."""
    return jnp.arange(size)[None, None] == index[..., None]


def _ended(env: types.Env, before: Tree, after: Tree, ts: types.TimeStep) -> Array:
    """Returns where an episode has ended, bool [P, B]: of a trial, each of its own."""
    trial = [task.trial > 1 for task in env.spec.tasks]
    if not any(trial):
        return ts.last
    count, counted = (env.info(x)["trial_episode"] for x in (after, before))
    return jnp.where(jnp.asarray(trial)[ts.task], count > counted, ts.last)


def _begun(stats: statistics.EpisodeStats, within: Array) -> statistics.EpisodeStats:
    """Returns the statistics where in a trial the next episode begins without a reset."""
    return stats._replace(
        partial_return=jnp.where(within, 0.0, stats.partial_return),
        partial_length=jnp.where(within, 0, stats.partial_length),
    )
