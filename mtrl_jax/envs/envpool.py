"""envpool's tasks as environments of the kit: Atari, DM Control, Meta-World and more.

``make`` gives an Env whose step runs inside the compiled program (CPU); ``make_host``
gives the same batch driven from Python, for programs on an accelerator. Both are one
pool of P * B environments and give the same TimeSteps by the same code.

A pool cannot be seeded again, copied or saved: its seeds are fixed by ``make``, the key
given to ``reset`` is not used, and a resumed run starts with fresh episodes. A second
``reset`` begins new episodes from where each environment's stream stands; do not reset
while a program is stepping the pool.

Standard protocol of Atari: sticky actions 0.25, all 18 actions, no life loss, 108,000
frames (27,000 steps), 84 x 84 grey, 4 frames, no clipping; ``protocol: noop`` is the
one of DQN. See ``envpool_families`` for every family's options.

A ViZDoom environment is a process of its own. ``close`` and an orderly end stop it;
after ``kill -9`` of a run it stays, as a ``vizdoom`` without a parent that ignores
SIGTERM, and so do three files, ``/dev/shm/ViZDoom{MQCtr,MQDoom,SM}*``. Nothing sweeps
them up, as they might be another run's: ``pkill -KILL -P 1 -x vizdoom``, and remove the
files while no run uses ViZDoom.
"""

from __future__ import annotations

import dataclasses
import functools
import uuid
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.envs import envpool_pool, envpool_scores, envpool_steps, envpool_xla
from mtrl_jax.types import Array, Key, Tree

names = envpool_pool.names
describe = envpool_pool.describe
SUITES = envpool_scores.SUITES


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["handle", "memory"],
    meta_fields=["pool"],
)
@dataclasses.dataclass(frozen=True)
class PoolState:
    """A place in the order of a pool's steps. It means nothing to another pool."""

    handle: Array  # [8] uint8, whose data dependency is the order
    memory: envpool_steps.Memory  # [P, B]
    pool: str  # static, so that a state of another pool is refused when tracing


def make(
    name: str,
    batch: tuple[int, int],
    options: dict[str, Any] | None = None,
    seed: int = 0,
) -> types.Env:
    """Returns the Env of a new pool, to be stepped inside a compiled program.

    ``Env.info`` reports ``success`` (its maximum over the episode) for Meta-World,
    robotics and MyoSuite. A state that is used twice, or stepped after the pool was
    reset or closed, stops the program with an error.

    Raises:
      ValueError: as ``make_host``, and on a backend other than the CPU.
    """
    envpool_xla.check_platform(name)
    pool = envpool_pool.make(name, batch, options, seed)
    adapter = envpool_steps.adapter(pool)
    engine, token = pool.engine, uuid.uuid4().hex
    raw_step = envpool_xla.step(engine, adapter.keys)
    raw_reset = envpool_xla.reset(engine, adapter.keys)

    # Compiled here, so that a reset outside a program compiles once and not each time.
    @jax.jit
    def begin() -> tuple[PoolState, types.TimeStep]:
        handle, raw = raw_reset()
        memory = envpool_steps.fresh(adapter, jnp)
        memory, ts, _ = envpool_steps.arrive(adapter, memory, raw, jnp)
        return PoolState(handle, memory, token), ts

    def reset(key: Key, params: Tree = ()) -> tuple[PoolState, types.TimeStep]:
        _refuse_closed(pool)
        return begin()

    def step(
        state: PoolState, action: Array, params: Tree = ()
    ) -> tuple[PoolState, types.TimeStep]:
        _refuse_closed(pool)
        if state.pool != token:
            raise ValueError(f"{pool.task}: this state belongs to another pool")
        encode = functools.partial(envpool_steps.encode_action, adapter, action, xp=jnp)
        handle, raw = raw_step(state.handle, encode)
        memory, ts, in_order = envpool_steps.arrive(adapter, state.memory, raw, jnp)
        envpool_xla.require(in_order, _out_of_order(pool), keep_alive=pool)
        return PoolState(handle, memory, token), ts

    # The one way back from an Env to its pool, for close().
    step.pool = pool  # type: ignore[attr-defined]
    return types.Env(
        spec=adapter.spec,
        batch=pool.batch,
        reset=reset,
        step=step,
        pure=False,
        info=lambda state: state.memory.info,
    )


def close(env: types.Env) -> None:
    """Close the pool of an Env: what is traced or run with it afterwards is an error.

    Resetting the environments makes programs that are already compiled fail their
    order check; the pool is freed when the last of them is.
    """
    pool = env.step.pool  # type: ignore[attr-defined]
    if not pool.engine.closed:
        envpool_xla.reset_now(pool.engine)
        pool.engine.close()


def make_host(
    name: str,
    batch: tuple[int, int],
    options: dict[str, Any] | None = None,
    seed: int = 0,
    first_slot: int = 0,
) -> types.HostEnv:
    """Returns the HostEnv of a new pool: numpy in, TimeSteps of numpy out.

    Two HostEnvs of B/2 slots, the second with ``first_slot = B/2``, are the slots of one
    of B. The environments work between ``send`` and ``recv``.

    Raises:
      ValueError: unknown name or option, bad batch, missing system library, an envpool
        that has not been admitted; later ``send`` without ``recv``, ``recv`` without
        ``send``, any call after ``close``.
    """
    pool = envpool_pool.make(name, batch, options, seed, first_slot)
    adapter = envpool_steps.adapter(pool)
    held: dict[str, Any] = {"engine": pool.engine, "sent": False, "memory": None}
    pool = pool._replace(engine=None)  # close() must be able to free the pool

    def expect(sent: bool, call: str) -> Any:
        if held["engine"] is None:
            raise ValueError(f"{pool.task}: {call} after close")
        if held["memory"] is None and call != "reset":
            raise ValueError(f"{pool.task}: {call} before reset")
        if held["sent"] != sent:
            raise ValueError(
                f"{pool.task}: {call} {'without' if sent else 'before the recv of'} a send"
            )
        return held["engine"]

    def arrive(memory: envpool_steps.Memory, raw: dict[str, Any]) -> types.TimeStep:
        memory, ts, in_order = envpool_steps.arrive(adapter, memory, raw, np)
        if not in_order:
            raise ValueError(_out_of_order(pool))
        held["memory"] = memory
        return ts

    def reset() -> types.TimeStep:
        engine = expect(False, "reset")
        return arrive(envpool_steps.fresh(adapter, np), envpool_xla.reset_now(engine))

    def send(action: Any) -> None:
        engine = expect(False, "send")
        encode = functools.partial(
            envpool_steps.encode_action, adapter, np.asarray(action), xp=np
        )
        envpool_xla.send_now(engine, encode)
        held["sent"] = True

    def recv() -> types.TimeStep:
        engine = expect(True, "recv")
        held["sent"] = False
        return arrive(held["memory"], envpool_xla.receive_now(engine))

    def close() -> None:
        if held["engine"] is not None:
            held["engine"].close()
        held["engine"] = None

    def info() -> dict[str, Any]:
        if held["memory"] is None:
            raise ValueError(f"{pool.task}: info before reset")
        return held["memory"].info

    return types.HostEnv(adapter.spec, pool.batch, reset, send, recv, close, info)


def _refuse_closed(pool: envpool_pool.Pool) -> None:
    if pool.engine.closed:
        raise ValueError(f"{pool.task}: the pool is closed; make a new one")


def _out_of_order(pool: envpool_pool.Pool) -> str:
    return (
        f"{pool.task}: the pool is not where this state left it: a state was used "
        "twice, or the pool was reset or closed; thread the newest state, or reset"
    )
