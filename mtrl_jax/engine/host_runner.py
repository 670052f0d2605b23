"""The training loop for environments that are stepped from Python.

Acting, statistics and learning are compiled; the steps are not. The slots are split in
two halves, each a HostEnv of its own: while the emulators of one half work, the device
chooses the other half's actions. Rollouts are put together on the device, so a step
costs one transfer of observations in and one of actions out.

    for t:  for half:  receive its step of t - 1 · act · send its step of t

The weights change only when every half has arrived at the end of the unroll: the
rollout is the fused runner's, no action is chosen by older weights than it says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import random, tree, types
from mtrl_jax.engine import fused_runner, population, statistics
from mtrl_jax.engine.fused_runner import ChunkOutput, Runner, RunState
from mtrl_jax.types import Array, Key, Tree

SLOT = 1  # the axis that halves are joined along


class HalfStep(NamedTuple):
    """One step of one half: what was seen, done, and where it led."""

    ts: types.TimeStep  # [P, b, ...] before the action
    action: Array  # [P, b, ...]
    extras: Tree  # [P, b, ...]
    measures: dict[str, Array]  # [P, b] of the step that the action led to


def make(
    agent: types.Agent,
    halves: Sequence[types.HostEnv],
    *,
    unroll_length: int,
    updates_per_chunk: int,
    window: int = 8,
    at_once: int | None = None,
    judged: str = "return",
) -> Runner:
    """Returns the Runner of ``agent`` on ``halves``, with the fused runner's signature.

    Neither ``init`` nor ``chunk`` may be jitted: they drive the environments. ``chunk``
    donates its state's buffers. Arguments are the fused runner's; the slots of the
    RunState are those of the halves one after the other. With one half the random
    numbers are the fused runner's too; with more, each half has a key of its own.

    Raises:
      ValueError: no halves, or halves that differ in members or spec; from ``chunk``, a
        state that is not the one the environments are at.
    """
    _check(halves)
    agents = population.population(agent, halves[0].batch[0], at_once)
    begin = _make_begin(agents, halves, window)
    unroll = _make_unroll(agents, halves, unroll_length)
    learn = jax.jit(_make_learn(agents, halves[0].spec, judged), donate_argnums=0)
    start_chunk = jax.jit(
        lambda s: s._replace(stats=statistics.start_chunk(s.stats)), donate_argnums=0
    )
    summarise = jax.jit(lambda s, m: fused_runner.summarise(s, tree.stack(m)))
    steps_taken = [0]  # by the environments, which only go forward

    def init(key: Key, hp: Tree) -> RunState:
        return begin(key, hp, steps_taken[0])

    def chunk(state: RunState, hp: Tree) -> tuple[RunState, ChunkOutput]:
        if int(state.env) != steps_taken[0]:
            raise ValueError(
                f"state: it is from step {int(state.env)} of its environments, which "
                f"are at step {steps_taken[0]}; give the newest state, or init again"
            )
        state = start_chunk(state)
        metrics = []
        for _ in range(updates_per_chunk):
            half_steps, carries, ts = unroll(state, hp)
            steps_taken[0] = (steps_taken[0] + unroll_length) % 2**32
            state, one = learn(state, half_steps, carries, ts, hp)
            metrics.append(one)
        return state, summarise(state, metrics)

    return Runner(init, chunk)


def view(spec: types.EnvSpec, batch: tuple[int, int]) -> types.Env:
    """Returns what statistics read of host-driven environments; its state are measures."""
    return types.Env(spec, batch, _no_env, _no_env, info=lambda measures: measures)


def _make_begin(
    agents: types.Agent, halves: Sequence[types.HostEnv], window: int
) -> Callable:
    """Returns ``begin(key, hp, steps_taken) -> state`` with the environments reset."""
    members, slots = halves[0].batch[0], sum(half.batch[SLOT] for half in halves)
    seen = view(halves[0].spec, (members, slots))

    def begin(key: Key, hp: Tree, steps_taken: int) -> RunState:
        ts = [jax.device_put(half.reset()) for half in halves]
        measures = _join([_measures(half) for half in halves])
        return RunState(
            learner=jax.jit(agents.init)(random.at(key, 0, random.INIT), hp),
            memory=fused_runner.init_memory(agents, slots),
            carry=tree.copy(agents.carry(slots)),
            env=jnp.asarray(steps_taken, jnp.uint32),
            ts=jax.jit(_join)(ts),
            stats=statistics.init(seen, measures, window),
            curriculum=(),
            step=jnp.zeros((), jnp.int32),
            key=jnp.copy(key),
            emptied=() if agents.replay is None else jnp.zeros((), jnp.int32),
        )

    return begin


def _make_unroll(
    agents: types.Agent, halves: Sequence[types.HostEnv], unroll_length: int
) -> Callable:
    """Returns ``unroll(state, hp) -> (half_steps, carries, ts)``, lists with a half each.

    ``half_steps`` are each half's T steps; carries and time steps are where it has arrived.
    """
    sizes = [half.batch[SLOT] for half in halves]
    split = jax.jit(lambda whole: _split(whole, sizes))
    act = _make_act(agents, len(halves))

    def unroll(state: RunState, hp: Tree) -> tuple[list, list, list]:
        carries, ts = list(split(state.carry)), list(split(state.ts))
        half_steps: list[list[HalfStep]] = [[] for _ in halves]

        def arrive(h: int) -> None:
            ts[h] = jax.device_put(halves[h].recv())
            half_steps[h][-1] = half_steps[h][-1]._replace(
                measures=_measures(halves[h])
            )

        for t in range(unroll_length):
            for h, half in enumerate(halves):
                if t > 0:
                    arrive(h)
                action, carries[h], extras = act(state, carries[h], ts[h], t, h, hp)
                half.send(action)
                half_steps[h].append(HalfStep(ts[h], action, extras, {}))
        for h in range(len(halves)):
            arrive(h)
        return half_steps, carries, ts

    return unroll


def _make_act(agents: types.Agent, halves: int) -> Callable:
    @jax.jit
    def act(learner, root, step, carry, ts, t, half, hp):
        key = random.fold(random.at(root, step, random.ACT), t)
        if halves > 1:
            key = random.fold(key, half)
        return agents.act(learner, carry, ts, key, hp)

    def of_half(state: RunState, carry: Tree, ts: types.TimeStep, t: int, h: int, hp):
        return act(state.learner, state.key, state.step, carry, ts, t, h, hp)

    return of_half


def _make_learn(agents: types.Agent, spec: types.EnvSpec, judged: str) -> Callable:
    """Returns ``learn(state, half_steps, carries, ts, hp) -> (state, metrics[P])``.

    It joins the halves to the rollout, counts its episodes and updates every member.
    """

    def learn(state: RunState, half_steps, carries, last, hp):
        whole = _join([tree.stack(half) for half in half_steps], axis=SLOT + 1)
        ts = fused_runner.append(whole.ts, _join(last))
        rollout = types.Rollout(ts, whole.action, whole.extras, state.carry)
        stats, _ = jax.lax.scan(
            lambda stats, arrived: (statistics.update(stats, *arrived, judged), None),
            state.stats,
            (
                statistics.in_own_units(spec, jax.tree.map(lambda x: x[1:], ts)),
                whole.measures,
            ),
        )
        learner, memory, metrics = fused_runner.learn(agents, state, rollout, hp)
        steps = whole.action.shape[0]
        state = state._replace(
            learner=learner,
            memory=memory,
            carry=_join(carries),
            env=state.env + jnp.asarray(steps, jnp.uint32),
            ts=_join(last),
            stats=stats,
            step=state.step + 1,
        )
        return state, metrics

    return learn


def _join(parts: Sequence[Tree], axis: int = SLOT) -> Tree:
    return tree.concatenate(parts, axis)


def _split(whole: Tree, sizes: Sequence[int]) -> list[Tree]:
    stops = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [
        tree.slice_axis(whole, stop - n, stop, SLOT) for n, stop in zip(sizes, stops)
    ]


def _measures(half: types.HostEnv) -> dict[str, Array]:
    """Returns the half's measures beside the return, on the device."""
    return jax.device_put(half.info())


def _check(halves: Sequence[types.HostEnv]) -> None:
    if not halves:
        raise ValueError("halves: none given, the host runner needs at least one")
    members = [half.batch[0] for half in halves]
    if len(set(members)) > 1:
        raise ValueError(f"halves: they have {members} members, give all the same")
    specs = [half.spec._replace(slot_tasks=()) for half in halves]
    if any(spec != specs[0] for spec in specs):
        raise ValueError("halves: their specs differ, give halves of the same tasks")


def _no_env(*_: Any) -> Any:
    raise TypeError("a host-driven environment has no step inside the program")
