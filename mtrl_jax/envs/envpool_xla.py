"""A step of a pool inside a compiled program, guarded.

Stock ``env.xla()`` tells XLA that float64 arrays are float32 while the pool copies 8
bytes an element: it overwrites memory for every MuJoCo, Meta-World and ViZDoom task. It
checks shapes once per pool and indices never. This module calls the same two foreign
functions with their true shapes and dtypes.

Order comes only from threading the handle; its content means nothing to the pool. A
pool is tied to its program: one process, one device (XLA refuses to partition the call
over several).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from mtrl_jax.types import Array

Raw = dict[str, Array]
_NARROW = {np.dtype(np.float64): np.float32, np.dtype(np.int64): np.int32}


def check_platform(name: str) -> None:
    """Raises ValueError unless programs run on the CPU.

    envpool also registers a CUDA function that copies through the host; it is not
    admitted here before it has been run.
    """
    platform = jax.default_backend()
    if platform != "cpu":
        raise ValueError(
            f"{name}: envpool steps inside a program only on the cpu backend, this is "
            f"{platform}; use the host runner (make_host)"
        )


def step(engine: Any, keys: tuple[str, ...]) -> Callable[[Array, Any], tuple]:
    """Returns ``step(handle, encode) -> (handle, raw)`` for use under jit and scan.

    ``encode(shape, dtype)`` must give the action as the pool takes it; ``raw`` holds the
    arrays named in ``keys`` with float64 as float32. All environments step together.
    Raises ValueError for a pool in asynchronous mode.
    """
    number = int(engine.config["num_envs"])
    if int(engine.config["batch_size"]) not in (0, number):
        raise ValueError("envpool: a pool that steps in parts cannot be compiled")
    send, action_spec = _foreign(engine, "send")
    receive, _ = _foreign(engine, "recv")
    ids = np.arange(number, dtype=np.int32)

    def call(handle: Array, encode: Callable[[Any, Any], Array]) -> tuple[Array, Raw]:
        action = encode(action_spec.shape, _narrow(action_spec.dtype))
        with jax.enable_x64(True):
            handle = send(handle, ids, ids, action.astype(action_spec.dtype))
            handle, *arrays = receive(handle)
            raw = dict(zip(engine._state_keys, arrays))
            return handle, {k: raw[k].astype(_narrow(raw[k].dtype)) for k in keys}

    return call


def reset(engine: Any, keys: tuple[str, ...]) -> Callable[[], tuple[Array, Raw]]:
    """Returns ``reset() -> (handle, raw)``, which resets every environment on the host.

    The new handle orders the first step after it. Programs that still step the pool
    from an older state fail their order check.
    """
    results = _foreign_results(engine)
    shapes = {k: jax.ShapeDtypeStruct(s, _narrow(d)) for k, (s, d) in results.items()}
    handle = jax.ShapeDtypeStruct((8,), jnp.uint8)

    def on_host():
        raw = reset_now(engine)
        arrays = {k: raw[k].astype(_narrow(raw[k].dtype)) for k in keys}
        return np.zeros(8, np.uint8), arrays

    return lambda: io_callback(on_host, (handle, {k: shapes[k] for k in keys}))


def reset_now(engine: Any) -> dict[str, np.ndarray]:
    """Returns the pool's arrays after resetting every environment, from Python."""
    engine._reset(np.arange(engine.config["num_envs"], dtype=np.int32))
    return receive_now(engine)


def send_now(engine: Any, encode: Callable[[Any, Any], np.ndarray]) -> None:
    """Start a step of all environments from Python and return at once."""
    ids = np.arange(engine.config["num_envs"], dtype=np.int32)
    spec = _foreign_arguments(engine)
    action = np.ascontiguousarray(encode(spec.shape, spec.dtype))
    engine._send([ids, ids, action])


def receive_now(engine: Any) -> dict[str, np.ndarray]:
    """Returns the pool's arrays of the step that was sent, waiting for it."""
    return dict(zip(engine._state_keys, engine._recv()))


def require(condition: Array, message: str, keep_alive: Any) -> None:
    """Stop the running program with ``message`` where ``condition`` is False.

    The program then also holds ``keep_alive``: one compiled ahead of time would
    otherwise outlive the pool that it calls by address.
    """

    def fail(_held=keep_alive):
        raise RuntimeError(message)

    jax.lax.cond(condition, lambda: None, lambda: io_callback(fail, None))


def _foreign(engine: Any, name: str) -> tuple[Callable, Any]:
    """Returns a foreign function with its true dtypes, and the spec of its action."""
    handle, (arguments, results), (cpu, _) = dict(engine._xla())[name]
    # One function per kind of pool; which pool is an argument. An address in the name
    # would clash when it is used again by a pool of another kind.
    kind = type(engine).__mro__[1]
    target = f"mtrl_{kind.__module__}.{kind.__qualname__}.{name}"
    jax.ffi.register_ffi_target(target, cpu, platform="cpu", api_version=1)
    single = len(results) == 1
    structs = tuple(_struct(spec) for spec in results)
    function = jax.ffi.ffi_call(
        target,
        structs[0] if single else structs,
        has_side_effect=True,
        input_layouts=[_layout(spec) for spec in arguments],
        output_layouts=_layout(results[0])
        if single
        else [_layout(spec) for spec in results],
        input_output_aliases={0: 0},
    )
    address = int.from_bytes(handle, sys.byteorder)
    expected = [_struct(spec) for spec in arguments]

    def call(*args):
        for x, struct in zip(args, expected, strict=True):
            if x.shape != struct.shape or x.dtype != struct.dtype:
                raise ValueError(f"envpool {name}: {x.dtype}{x.shape} for {struct}")
        return function(*args, handle=address)

    return call, expected[-1]


def _foreign_arguments(engine: Any) -> Any:
    return _struct(dict(engine._xla())["send"][1][0][-1])


def _foreign_results(engine: Any) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    results = dict(engine._xla())["recv"][1][1][1:]
    return {
        key: (tuple(shape), np.dtype(dtype))
        for key, (dtype, shape) in zip(engine._state_keys, results)
    }


def _struct(spec: tuple[Any, Any]) -> Any:
    dtype, shape = spec
    with jax.enable_x64(True):
        return jax.ShapeDtypeStruct(tuple(shape), dtype)


def _layout(spec: tuple[Any, Any]) -> tuple[int, ...]:
    return tuple(range(len(spec[1])))


def _narrow(dtype: Any) -> Any:
    return _NARROW.get(np.dtype(dtype), np.dtype(dtype))
