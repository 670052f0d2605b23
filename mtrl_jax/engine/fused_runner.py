"""Acting, environments and learning of a whole population as one compiled program.

``chunk`` scans K training steps; a training step is T times act-and-step, then, where the
agent has a replay, adding to it and drawing from it, then one update. Python is not
involved until the chunk ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mtrl_jax import random, tree, types
from mtrl_jax.engine import population, sharding, statistics, unchanging
from mtrl_jax.types import Array, Key, Tree


class RunState(NamedTuple):
    """Everything a run is, beside its hyperparameters. Leading axis P, then B."""

    learner: Tree  # [P, ...] what acting needs and PBT copies
    memory: Tree  # [P, ...] the members' replays, which never travel; () without one
    carry: Tree  # [P, B, ...]
    env: Tree
    ts: types.TimeStep  # [P, B, ...]
    stats: statistics.EpisodeStats
    curriculum: Tree
    step: Array  # [] int32, updates done: steps would overflow
    key: Key  # [P] root keys, constant for the whole run
    # [] int32, the update at which memories were empty; () without any.
    emptied: Tree = ()


class ChunkOutput(NamedTuple):
    """Metrics and episode statistics of one chunk, fetched to the host."""

    metrics: dict[str, Array]  # [P] means over the chunk's updates
    episodes: dict[str, Array]  # [P, K] sums over its finished episodes
    finite: Array  # [P] bool, all learner floats finite at the end
    # With ``record``, all the chunk's steps as one Rollout [T K + 1, P, B, ...] (its last
    # ts is the next one's first); extras as asked for, carry is ().
    history: Any = ()
    # [P, K] what members are judged by (statistics.recent_mean), NaN where a slot of the
    # task has ended no episode, and who plays it; () without environments.
    recent: Any = ()
    plays: Any = ()


class Runner(NamedTuple):
    """``init(key[P], hp[P])`` and ``chunk(state, hp[P])``; see make."""

    init: Callable[[Key, Tree], RunState]
    chunk: Callable[[RunState, Tree], tuple[RunState, ChunkOutput]]


class Setting(NamedTuple):
    """What a training step is made of; ``make`` has the arguments."""

    agents: types.Agent  # of the whole population
    env: types.Env
    curriculum: Any
    unroll_length: int
    window: int
    judged: str
    extras_of: Callable[[Tree], Tree] | None  # None: steps are not recorded
    mesh: Mesh | None
    restart: int = 0


def make(
    agent: types.Agent,
    env: types.Env,
    *,
    unroll_length: int,
    updates_per_chunk: int,
    window: int = 8,
    curriculum: Any = None,
    at_once: int | None = None,
    mesh: Mesh | None = None,
    record: bool = False,
    extras_of: Callable[[Tree], Tree] = lambda extras: (),
    judged: str = "return",
    restart: int = 0,
) -> Runner:
    """Returns the Runner of ``agent`` on ``env``; neither function is jitted yet.

    ``unroll_length`` is T in environment steps per slot, ``updates_per_chunk`` is K,
    ``window`` the returns kept per slot for PBT, or what else of an episode is
    ``judged`` (a measure of ``env.info``). ``curriculum`` is a Curriculum (see
    ``envs/curriculum.py``) or None for the environment's own parameters. ``record``
    gives every step out with the chunk's output, with ``extras_of`` what acting noted
    down. ``init`` draws the first episodes for ``restart``, the update of a run that goes
    on without its environments: they are not those that it began with.
    """
    agents = population.population(agent, env.batch[0], at_once, mesh)
    recorded = extras_of if record else None
    # Members with tasks of their own lie in parts that the devices do not share evenly.
    apart = mesh if env.spec.slot_tasks else None
    setting = Setting(
        agents, env, curriculum, unroll_length, window, judged, recorded, apart, restart
    )

    def chunk(state: RunState, hp: Tree) -> tuple[RunState, ChunkOutput]:
        state = state._replace(stats=statistics.start_chunk(state.stats))
        state, (metrics, steps) = jax.lax.scan(
            lambda s, _: train_step(setting, s, hp),
            state,
            None,
            length=updates_per_chunk,
        )
        output = summarise(state, metrics)
        if curriculum is not None:
            levels = curriculum.metrics(state.curriculum)
            output = output._replace(metrics=output.metrics | levels)
        return state, output._replace(history=one_rollout(*steps)) if record else output

    return Runner(lambda key, hp: begin(setting, key, hp), chunk)


def begin(setting: Setting, key: Key, hp: Tree) -> RunState:
    """Returns the state ``[P]`` before the first update, all drawn from ``key``."""
    agents, env, curriculum = setting.agents, setting.env, setting.curriculum
    slots = env.batch[1]
    course = () if curriculum is None else curriculum.init()
    reset_key = random.at(key, setting.restart, random.ENV)
    env_state, ts = env.reset(reset_key, params_of(setting, course))
    return RunState(
        learner=jax.jit(agents.init)(random.at(key, 0, random.INIT), hp),
        memory=init_memory(agents, slots),
        carry=agents.carry(slots),
        env=env_state,
        ts=ts,
        stats=statistics.init(env, env_state, setting.window),
        curriculum=course,
        step=jnp.zeros((), jnp.int32),
        key=key,
        emptied=() if agents.replay is None else jnp.zeros((), jnp.int32),
    )


def train_step(
    setting: Setting, state: RunState, hp: Tree
) -> tuple[RunState, tuple[dict[str, Array], tuple]]:
    """Returns (state, (metrics [P], its steps if recorded)) after one update."""
    state, rollout = unroll(setting, state, hp)
    learner, memory, metrics = learn(setting.agents, state, rollout, hp)
    state = state._replace(learner=learner, memory=memory, step=state.step + 1)
    if setting.curriculum is not None:
        course = setting.curriculum.update(state.curriculum, state.ts)
        state = state._replace(curriculum=course)
    if setting.extras_of is None:
        return state, (metrics, ())
    steps = rollout.ts, rollout.action, setting.extras_of(rollout.extras)
    return state, (metrics, steps)


def unroll(
    setting: Setting, state: RunState, hp: Tree
) -> tuple[RunState, types.Rollout]:
    """Returns (state, Rollout [T, P, B]) after T steps of every slot, weights as they are."""
    agents, env = setting.agents, setting.env
    params = params_of(setting, state.curriculum)
    key = random.at(state.key, state.step, random.ACT)
    # All at once: hashing a key in the loop costs as much as a small network.
    keys = random.fold(key[None], jnp.arange(setting.unroll_length)[:, None])  # [T, P]

    def act_and_step(scanned, key):
        carry, env_state, ts, stats, course = scanned
        ts = unchanging.known(env.spec, ts)
        action, carry, extras = agents.act(state.learner, carry, ts, key, hp)
        with sharding.known(setting.mesh):
            env_state, next_ts = env.step(env_state, action, params)
        next_ts = unchanging.known(env.spec, next_ts)
        paid = statistics.in_own_units(env.spec, next_ts)
        info = env.info(env_state)
        stats = statistics.update(stats, paid, info, setting.judged)
        if setting.curriculum is not None:
            values = {"return": stats.partial_return, **info}
            course = setting.curriculum.observe(course, paid, values)
        return (carry, env_state, next_ts, stats, course), (ts, action, extras)

    scanned = (state.carry, state.env, state.ts, state.stats, state.curriculum)
    scanned, (ts, action, extras) = jax.lax.scan(act_and_step, scanned, keys)
    carry, env_state, last_ts, stats, course = scanned
    seen = unchanging.known(env.spec, append(ts, last_ts))
    rollout = types.Rollout(seen, action, extras, state.carry)
    after = {"carry": carry, "env": env_state, "ts": last_ts, "stats": stats}
    return state._replace(**after, curriculum=course), rollout


def params_of(setting: Setting, course: Tree) -> Tree:
    """Returns the environment's params ``[P, B]`` at a curriculum's state."""
    if setting.curriculum is None:
        return setting.env.params
    return setting.curriculum.params(course)


def init_memory(agents: types.Agent, slots: int, shardings: Any = None) -> Tree:
    """Returns the empty memories ``[P, ...]`` of a population, () without a replay.

    ``shardings`` say where each leaf is made; by default, where the caller computes.
    """
    replay = agents.replay
    if replay is None:
        return ()
    return jax.jit(lambda: replay.init(slots), out_shardings=shardings)()


def learn(
    agents: types.Agent, state: RunState, rollout: types.Rollout, hp: Tree
) -> tuple[Tree, Tree, dict[str, Array]]:
    """Returns (learner, memory, metrics ``[P]``) after one update of a population.

    observe, update, feedback: the memory is written before it is read and nothing but
    ``observe`` and ``feedback`` touches it, so it stays in place. With a replay ``step``
    counts from where it was empty, so that what is not written yet is not read and
    learning waits as at the start.
    """
    batch, memory, replay = rollout, state.memory, agents.replay
    step = state.step
    if replay is not None:
        key = random.at(state.key, state.step, random.REPLAY)
        step = state.step - state.emptied
        memory, batch = replay.observe(memory, rollout, key, hp, step)
    key = random.at(state.key, state.step, random.UPDATE)
    learner, metrics, feedback = agents.update(state.learner, batch, key, hp, step)
    if replay is not None:
        memory = replay.feedback(memory, feedback)
    return learner, memory, metrics


def append(ts: types.TimeStep, last: types.TimeStep) -> types.TimeStep:
    """Returns ``[T+1, ...]`` from ``[T, ...]`` and the step that follows."""
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), ts, last)


def one_rollout(ts: types.TimeStep, action: Array, extras: Tree) -> types.Rollout:
    """Returns the Rollout ``[K T + 1]`` of K that follow each other, ts [K, T + 1].

    >>> reward = jnp.array([[0.0, 1.0, 2.0], [2.0, 3.0, 4.0]])  # K = 2, T = 2
    >>> ts = types.TimeStep({}, *[reward] * 6)
    >>> one_rollout(ts, jnp.array([[5, 6], [7, 8]]), ()).ts.reward.tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0]
    """

    def flat(x: Array) -> Array:
        return x.reshape(-1, *x.shape[2:])

    steps = jax.tree.map(lambda x: flat(x[:, :-1]), ts)
    last = jax.tree.map(lambda x: x[-1, -1], ts)
    extras = jax.tree.map(flat, extras)
    return types.Rollout(append(steps, last), flat(action), extras, ())


def summarise(state: RunState, metrics: dict[str, Array]) -> ChunkOutput:
    """Returns the chunk's output from its final state and metrics ``[K, P]``."""
    tasks = state.stats.chunk["episodes"].shape[1]
    recent, _ = statistics.recent_mean(state.stats, state.ts.task, tasks)
    plays = state.ts.task[..., None] == jnp.arange(tasks)[None, None]
    return ChunkOutput(
        metrics=jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics),
        episodes=state.stats.chunk,
        finite=tree.all_finite(state.learner, axes=1),
        recent=recent,
        plays=jnp.any(plays, axis=1),
    )
