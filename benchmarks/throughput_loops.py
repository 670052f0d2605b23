"""The parts of a training loop and the whole, as calls that throughput.py measures."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import agents, config, envs, random, tree, types
from mtrl_jax.config import agent_settings
from mtrl_jax.engine import fused_runner, host_runner, population
from mtrl_jax.envs import mixture
from mtrl_jax.types import Tree


@dataclasses.dataclass(frozen=True)
class Case:
    """One experiment; ``updates`` are made in a row each time it is measured."""

    env: str
    agent: str
    slots: int
    population: int
    unroll: int = 20
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    updates: int = 4

    @property
    def steps(self) -> int:
        """Environment steps of one measurement."""
        return self.updates * self.unroll * self.slots * self.population


class Loop(NamedTuple):
    """One way to step the environments: calls that make a measurement's steps."""

    name: str  # fused or host
    spec: types.EnvSpec
    learner: Tree  # [P], fresh
    play: Callable[[], types.TimeStep]  # env only; returns ts [T+1, P, B]
    train: Callable[[], None]  # the whole
    close: Callable[[], None]


def loops(case: Case) -> Iterator[Loop]:
    """Yields the runners of a case: fused where it can be, host where it has to be."""
    hosted = envs.runs_on_host(case.env)
    if not hosted or jax.default_backend() == "cpu":
        yield _fused(case, pure=not hosted)
    if hosted:
        yield _host(case)


def _fused(case: Case, pure: bool) -> Loop:
    batch = (case.population, case.slots)
    env, whole = (envs.make(case.env, batch, None, seed) for seed in (1, 2))
    actions = random_actions(env.spec.action, (case.unroll, *batch))
    reset = jax.jit(env.reset) if pure else env.reset
    played = reset(random.roots(0, batch[0]), env.params)

    @jax.jit
    def unroll(state, ts):
        def step(carry, action):
            carry, ts = env.step(carry, action, env.params)
            return carry, ts

        state, later = jax.lax.scan(step, state, actions)
        both = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), ts, later)
        return state, both, jax.tree.map(lambda x: x[-1], later)

    def play() -> types.TimeStep:
        nonlocal played
        for _ in range(case.updates):
            state, ts, last = unroll(*played)
            played = state, last
        return jax.block_until_ready(ts)

    mixed = mixture.make([whole])
    agent, hp = agent_of(case, mixed.spec)
    runner = fused_runner.make(agent, mixed, **_lengths(case))
    init = jax.jit(runner.init) if pure else runner.init
    chunk = jax.jit(runner.chunk, donate_argnums=0)
    close = (lambda: None) if pure else (lambda: _close_pools(env, whole))
    fresh, train = _trainer(init, chunk, hp)
    return Loop("fused", env.spec, fresh, play, train, close)


def _host(case: Case) -> Loop:
    members, half = case.population, case.slots // 2
    pools = [
        envs.make_host(case.env, (members, half), None, seed, first * half)
        for seed in (1, 2)
        for first in (0, 1)
    ]
    alone, halves = pools[:2], [mixture.make_host([p]) for p in pools[2:]]
    actions = np.asarray(
        random_actions(alone[0].spec.action, (case.unroll, members, half)), order="C"
    )
    last = [pool.reset() for pool in alone]

    def play() -> types.TimeStep:
        for _ in range(case.updates):
            steps = [list(last)]
            for action in actions:
                for pool in alone:
                    pool.send(action)
                steps.append([pool.recv() for pool in alone])
            last[:] = steps[-1]
        joined = [
            jax.tree.map(lambda *xs: np.concatenate(xs, axis=1), *step)
            for step in steps
        ]
        return jax.tree.map(lambda *xs: np.stack(xs), *joined)

    agent, hp = agent_of(case, halves[0].spec)
    runner = host_runner.make(agent, halves, **_lengths(case))

    def close() -> None:
        for pool in pools:
            pool.close()

    fresh, train = _trainer(runner.init, runner.chunk, hp)
    return Loop("host", alone[0].spec, fresh, play, train, close)


def _trainer(
    init: Callable, chunk: Callable, hp: Any
) -> tuple[Tree, Callable[[], None]]:
    """Returns (fresh learners [P], a call that trains them for one measurement)."""
    state = init(random.roots(0, jax.tree.leaves(hp)[0].shape[0]), hp)
    fresh = tree.copy(state.learner)

    def train() -> None:
        nonlocal state
        state, output = chunk(state, hp)
        jax.block_until_ready((state.ts, output))

    return fresh, train


def learner(case: Case, loop: Loop) -> tuple[Callable, Callable]:
    """Returns (act, learn) of the loop's agents on TimeSteps that it played."""
    ts, fresh = jax.device_put(loop.play()), loop.learner
    agent, hp = agent_of(case, loop.spec)
    members = population.population(agent, case.population)
    key = random.roots(1, case.population)
    carry = members.carry(case.slots)
    before = jax.tree.map(lambda x: x[:-1], ts)

    @jax.jit
    def act_unroll(learner, carry, count):
        def step(carry, xs):
            ts, t = xs
            now = random.fold(random.at(key, count, random.ACT), t)
            action, carry, extras = members.act(learner, carry, ts, now, hp)
            return carry, (action, extras)

        return jax.lax.scan(step, carry, (before, jnp.arange(case.unroll)))

    _, (action, extras) = act_unroll(fresh, carry, 0)
    rollout = types.Rollout(ts, action, extras, carry)
    # Two, used in turn: on one and the same, part of the work would leave the loop.
    rollouts = jax.tree.map(lambda x: jnp.stack([x, x]), rollout)

    @functools.partial(jax.jit, donate_argnums=0)
    def updates(learner, rollouts):
        def one(learner, count):
            rollout = jax.tree.map(lambda x: x[count % 2], rollouts)
            now = random.at(key, count, random.UPDATE)
            return members.update(learner, rollout, now, hp, count)[:2]

        return jax.lax.scan(one, learner, jnp.arange(case.updates))

    learning = tree.copy(fresh)

    def act() -> None:
        out = carry
        for count in range(case.updates):
            out, taken = act_unroll(fresh, out, count)
        jax.block_until_ready((out, taken))

    def learn() -> None:
        nonlocal learning
        learning, metrics = updates(learning, rollouts)
        jax.block_until_ready(metrics)

    return act, learn


def agent_of(case: Case, spec: types.EnvSpec) -> tuple[types.Agent, Any]:
    """Returns the case's agent and its hyperparameters [P]."""
    values: dict[str, Any] = {"tasks": [{"env": case.env}], "agent": {}}
    values["agent"] = {"name": case.agent, "config": {}}
    values = config.override(
        values, [f"agent.config.{name}={value}" for name, value in case.config.items()]
    )
    settings = config.from_dict(values)
    module = agents.get(case.agent)
    hp = jax.tree.map(
        lambda x: jnp.full(case.population, x, jnp.float32), module.Hparams()
    )
    return module.make(spec, agent_settings.config(settings)), hp


def random_actions(space: types.ActionSpace, lead: tuple[int, ...]) -> jax.Array:
    """Returns uniformly random actions ``[*lead, ...]``."""
    shape = (*lead, *types.action_shape(space).shape)
    key = jax.random.key(0)
    match space:
        case types.Discrete(n):
            return jax.random.randint(key, shape, 0, n)
        case types.Factorised(sizes):
            choices = jnp.broadcast_to(jnp.asarray(sizes), shape)
            return jax.random.randint(key, shape, 0, choices)
        case types.Box(low, high):
            least, most = (jnp.broadcast_to(jnp.asarray(x), shape) for x in (low, high))
            return jax.random.uniform(key, shape, minval=least, maxval=most)
    raise AssertionError(space)


def _lengths(case: Case) -> dict[str, Any]:
    return {"unroll_length": case.unroll, "updates_per_chunk": case.updates}


def _close_pools(*pools: types.Env) -> None:
    from mtrl_jax.envs import envpool

    for pool in pools:
        envpool.close(pool)
