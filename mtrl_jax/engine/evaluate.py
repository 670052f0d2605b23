"""How good a population is right now, on environments of its own.

Evaluation takes the learners and gives numbers: it has its own slots and its own keys, so
doing it more often, or not at all, leaves training bit for bit as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import random, types
from mtrl_jax.engine import population, statistics, unchanging
from mtrl_jax.types import Array, Key, Tree


class Evaluation(NamedTuple):
    """The first R episodes of every slot, ``[P, R * B]``, all slots' first ones first."""

    returns: Array  # float32
    length: Array  # int32, environment steps
    complete: Array  # bool, False where the step limit came first
    task: Array  # int32
    info: dict[str, Array]  # float32, the environment's measures at the episode's end


class _Loop(NamedTuple):
    step: Array
    carry: Tree
    env: Tree
    ts: types.TimeStep
    result: Evaluation  # [P, R, B] while it is made


def make(
    agent: types.Agent, env: types.Env, max_steps: int, rounds: int = 1
) -> Callable[[Tree, Tree, Key, Tree, types.TimeStep], Evaluation]:
    """Returns ``evaluate(learner[P], hp[P], key[P], env_state, ts) -> Evaluation``.

    It acts with ``hp`` (temperature 0 is greedy where an agent has one) from a fresh
    reset ``(env_state, ts)`` until every slot has finished R = ``rounds`` episodes, or
    for R times ``max_steps`` environment steps (with a reset between two episodes); an
    episode that has not finished reports what it had, one that has not begun 0.
    """
    members, slots = env.batch
    agents, limit = population.population(agent, members), _limit(max_steps, rounds)

    def evaluate(learner, hp, key, env_state, ts):
        def body(loop: _Loop) -> _Loop:
            ts = unchanging.known(env.spec, loop.ts)
            action, carry, _ = agents.act(
                learner, loop.carry, ts, random.fold(key, loop.step), hp
            )
            env_state, ts = env.step(loop.env, action, env.params)
            paid = statistics.in_own_units(env.spec, ts)
            result = _record(loop.result, paid, env.info(env_state))
            return _Loop(loop.step + 1, carry, env_state, ts, result)

        def unfinished(loop: _Loop) -> Array:
            return (loop.step < limit) & ~jnp.all(loop.result.complete)

        result = _empty(rounds, ts, env.info(env_state))
        start = _Loop(
            jnp.zeros((), jnp.int32), agents.carry(slots), env_state, ts, result
        )
        return _joined(jax.lax.while_loop(unfinished, body, start).result)

    return evaluate


def make_host(
    agent: types.Agent, env: types.HostEnv, max_steps: int, rounds: int = 1
) -> Callable[..., Evaluation]:
    """Returns ``evaluate(learner[P], hp[P], key[P], start[P]) -> Evaluation``, by Python.

    The numbers are those of ``make`` over the same environment. ``env`` is reset by
    every call, and belongs to the evaluation: training needs one of its own. ``start``
    are the keys of the reset, of environments that take some; None: their own.
    """
    members, slots = env.batch
    agents = population.population(agent, members)

    @jax.jit
    def act(learner, carry, ts, step, key, hp):
        action, carry, _ = agents.act(learner, carry, ts, random.fold(key, step), hp)
        return action, carry

    @jax.jit
    def record(result, ts, info):
        result = _record(result, statistics.in_own_units(env.spec, ts), info)
        return result, jnp.all(result.complete)

    def evaluate(learner, hp, key, start=None):
        given = None if start is None else env.restart
        ts = jax.device_put(given(start) if given else env.reset())
        result = jax.jit(_empty, static_argnums=0)(rounds, ts, env.info())
        carry = agents.carry(slots)
        for step in range(_limit(max_steps, rounds)):
            action, carry = act(learner, carry, ts, step, key, hp)
            env.send(action)
            ts = jax.device_put(env.recv())
            result, finished = record(result, ts, env.info())
            if finished:
                break
        return jax.jit(_joined)(result)

    return evaluate


def _limit(max_steps: int, rounds: int) -> int:
    """Returns the steps of so many episodes, with a reset between two."""
    return rounds * max_steps + rounds - 1


def _empty(rounds: int, ts: types.TimeStep, info: dict[str, Array]) -> Evaluation:
    """Returns what is known before the first step, ``[P, R, B]``."""
    members, slots = ts.reward.shape
    shape = (members, rounds, slots)
    return Evaluation(
        returns=jnp.zeros(shape, jnp.float32),
        length=jnp.zeros(shape, jnp.int32),
        complete=jnp.zeros(shape, bool),
        task=jnp.broadcast_to(ts.task[:, None], shape),
        info=jax.tree.map(lambda x: jnp.zeros(shape, jnp.float32), info),
    )


def _record(
    result: Evaluation, ts: types.TimeStep, info: dict[str, Array]
) -> Evaluation:
    """Returns ``result`` [P, R, B] with what a step brought to each slot's open episode."""
    before = jnp.roll(result.complete, 1, axis=1).at[:, 0].set(True)
    # The step after an episode's end begins the next one, and is of neither.
    open_ = before & ~result.complete & ~ts.first[:, None]
    return Evaluation(
        returns=result.returns + jnp.where(open_, ts.reward[:, None], 0.0),
        length=result.length + open_,
        complete=result.complete | (open_ & ts.last[:, None]),
        task=result.task,
        info={
            name: jnp.where(open_, info[name][:, None], old)
            for name, old in result.info.items()
        },
    )


def _joined(result: Evaluation) -> Evaluation:
    """Returns ``[P, R, B]`` as ``[P, R * B]``."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0], -1), result)
