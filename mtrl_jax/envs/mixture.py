"""Several environments as one: a mixture of tasks along the slot or population axis.

``axis="slot"`` gives every member all tasks, ``axis="population"`` gives each member
its own (specialists, teachers). Each part runs on a static slice: a ``lax.switch`` over
tasks would run every branch for every slot under vmap. Tasks that share their code and
differ in numbers alone belong in ``core.stack``, which compiles them once.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import random, types
from mtrl_jax.envs import padding as layouts
from mtrl_jax.types import Array, Key, Tree


def make(envs: Sequence[types.Env], axis: str = "slot") -> types.Env:
    """Returns the mixture of ``envs``; its state and params are tuples of theirs.

    Along "slot" each env has batch ``(P, B_k)`` and draws from ``fold_in(key, k)``;
    along "population" it has batch ``(P_k, B)`` and draws from its members' own keys.
    Observations are padded per leaf to the largest, actions to the most with
    ``action_mask``, ``task`` counts over all parts. ``info`` has the measures of all
    parts, 0 in slots of parts that lack one. Raises ValueError as ``layout.make`` does.
    """
    layout = layouts.make(envs, axis)

    def reset(key: Key, params: tuple) -> tuple[tuple, types.TimeStep]:
        keys = _part_keys(layout, key)
        return collect([env.reset(k, p) for env, k, p in zip(envs, keys, params)])

    def step(
        states: tuple, action: Array, params: tuple
    ) -> tuple[tuple, types.TimeStep]:
        own = layouts.split(layout, action)
        return collect(
            [env.step(s, a, p) for env, s, a, p in zip(envs, states, own, params)]
        )

    def collect(results: Sequence[tuple]) -> tuple[tuple, types.TimeStep]:
        states, steps = zip(*results)
        return tuple(states), layouts.join(layout, steps)

    def info(states: tuple) -> dict[str, Array]:
        parts = [env.info(state) for env, state in zip(envs, states)]
        return _join_measures(layout, parts)

    def render(states: tuple, member: int, slot: int) -> Any:
        k, own = layouts.owner(layout, member, slot)
        return envs[k].render(states[k], *own)

    params = tuple(env.params for env in envs)
    pure = all(env.pure for env in envs)
    return types.Env(layout.spec, layout.batch, reset, step, params, pure, info, render)


def make_host(envs: Sequence[types.HostEnv], axis: str = "slot") -> types.HostEnv:
    """Returns the mixture of host-driven ``envs``, with the padding done on the device.

    ``send`` starts every part before ``recv`` waits for the first, so the parts run at
    the same time. Raises ValueError as ``layout.make`` does.
    """
    layout = layouts.make(envs, axis)
    split = jax.jit(lambda action: layouts.split(layout, action))
    join = jax.jit(lambda parts: layouts.join(layout, parts))
    join_measures = jax.jit(lambda parts: _join_measures(layout, parts))

    def send(action: Array) -> None:
        for env, own in zip(envs, split(action)):
            env.send(own)

    def restart(key: Key) -> types.TimeStep:
        keys = _part_keys(layout, key)
        parts = zip(envs, keys)
        return join(tuple(x.restart(k) if x.restart else x.reset() for x, k in parts))

    def render(member: int, slot: int) -> Any:
        k, own = layouts.owner(layout, member, slot)
        return envs[k].render(*own)

    return types.HostEnv(
        spec=layout.spec,
        batch=layout.batch,
        reset=lambda: join(tuple(env.reset() for env in envs)),
        send=send,
        recv=lambda: join(tuple(env.recv() for env in envs)),
        close=functools.partial(close, envs),
        info=lambda: join_measures(tuple(env.info() for env in envs)),
        render=render,
        restart=restart if any(env.restart for env in envs) else None,
    )


def close(envs: Sequence[types.HostEnv]) -> None:
    """Close all of ``envs``, even if closing one of them raises."""
    with contextlib.ExitStack() as stack:
        for env in envs:
            stack.callback(env.close)


def host_from_pure(env: types.Env, key: Key, params: Tree = None) -> types.HostEnv:
    """Returns ``env`` behind the host interface; ``key`` is ``[P]``, as for reset.

    A step is dispatched by ``send`` and runs while Python goes on. Every ``reset``
    starts the same streams again, ``restart`` those of its keys. ``params`` defaults to ``env.params``. ``recv``
    without a ``send``, or two sends in a row, raise RuntimeError.
    """
    params = env.params if params is None else params
    jitted_reset, jitted_step = jax.jit(env.reset), jax.jit(env.step)
    jitted_info = jax.jit(env.info)
    held: dict[str, Tree] = {}

    def restart(key: Key) -> types.TimeStep:
        held.clear()
        held["state"], ts = jitted_reset(key, params)
        return ts

    def reset() -> types.TimeStep:
        return restart(key)

    def send(action: Array) -> None:
        if "state" not in held or "ts" in held:
            raise RuntimeError(
                "send: reset first, then give exactly one recv after each send"
            )
        held["state"], held["ts"] = jitted_step(held["state"], action, params)

    def recv() -> types.TimeStep:
        if "ts" not in held:
            raise RuntimeError("recv: nothing was sent, give one send before each recv")
        return held.pop("ts")

    def info() -> dict[str, Array]:
        if "state" not in held:
            raise RuntimeError("info: reset first, a measure is one of a step")
        return jitted_info(held["state"])

    def render(member: int, slot: int) -> Any:
        if "state" not in held:
            raise RuntimeError("render: reset first, a picture is one of a step")
        return env.render(held["state"], member, slot)

    return types.HostEnv(
        env.spec, env.batch, reset, send, recv, held.clear, info, render, restart
    )


def _part_keys(layout: layouts.Layout, key: Key) -> list[Key]:
    if layout.axis == layouts.AXES["slot"]:
        return [random.fold(key, k) for k in range(len(layout.parts))]
    return [key[start:stop] for start, stop in layout.bounds]


def _join_measures(
    layout: layouts.Layout, parts: Sequence[dict[str, Array]]
) -> dict[str, Array]:
    """Returns the measures of all parts ``[P, B]``, 0 in slots of parts without one."""
    zeros = [jnp.zeros(batch, jnp.float32) for batch in layout.batches]

    def joined(name: str) -> Array:
        found = [part.get(name, zero) for part, zero in zip(parts, zeros)]
        return jnp.concatenate(found, axis=layout.axis)

    return {name: joined(name) for name in sorted({n for part in parts for n in part})}
