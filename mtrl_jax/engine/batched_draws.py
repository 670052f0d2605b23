"""All random draws of a function made by a few hashes, its numbers as they were.

Weights are drawn leaf by leaf, each with a key of its own. A compiler makes a loop of every
draw and unrolls it: a program that only drew 20 small leaves for four members compiled for
34 processor seconds. The draws that do not depend on each other are one hash of many (key,
counter) pairs here, and that program compiles in 3.

What is rearranged is the jaxpr of the function: its nested ``jit`` calls are opened, then
whatever is ready is evaluated, round by round, the draws of a round together. Layouts that
a nested ``jit`` asks for are lost by that (initial weights ask for none). Draws inside of
loops and branches and large ones (for whose keys there would have to be room) stay as they
are.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core

from mtrl_jax.types import Array, Key

_CALLS = ("jit", "pjit")
_DRAWS = ("random_bits", "random_split", "random_fold_in")
_LARGE = 1 << 16  # words of one draw: a hash keeps 20 bytes for each
_LITERAL = core.Literal
_EMPTY = jax.make_jaxpr(lambda: ())().jaxpr


class Value(NamedTuple):
    """A constant, or the number (0, 1, ...) of what is given or computed."""

    constant: Any = None
    number: int = -1


class Step(NamedTuple):
    """One operation, where its inputs are and where its outputs go."""

    equation: core.JaxprEqn
    inputs: Sequence[Value]
    outputs: Sequence[Value]


class Request(NamedTuple):
    """Hashes to make, and what is made of them.

    ``data`` [..., 2] are words of keys, ``counters`` [...] what is folded into each;
    ``finish`` takes the words [..., 2] of all the keys that come of it.
    """

    data: Array
    counters: Array
    finish: Callable[[Array], Array]


def batch_draws(fun: Callable) -> Callable:
    """Returns ``fun`` with its independent random draws made together.

    Its values are the same bits wherever the compiler rounds what follows alike.
    Positional arguments only; it may be mapped, differentiated and compiled as ``fun`` may.
    """

    @functools.wraps(fun)
    def batched(*args):
        jaxpr, shapes = jax.make_jaxpr(fun, return_shape=True)(*args)
        steps: list[Step] = []
        given = [Value(number=i) for i in range(len(jaxpr.in_avals))]
        outputs = _open(jaxpr, given, steps, [len(given)])
        values = dict(enumerate(jax.tree.leaves(args)))
        _evaluate(_needed(steps, outputs), values)
        found = [_look_up(output, values) for output in outputs]
        return jax.tree.unflatten(jax.tree.structure(shapes), found)

    return batched


def _open(
    jaxpr: core.ClosedJaxpr,
    inputs: Sequence[Value],
    steps: list[Step],
    count: list[int],
) -> list[Value]:
    """Append the steps of ``jaxpr`` and of the calls in it; returns its outputs."""
    places = dict(zip(jaxpr.jaxpr.invars, inputs, strict=True))
    constants = zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True)
    places |= {name: Value(constant) for name, constant in constants}

    def place(x: Any) -> Value:
        return Value(x.val) if isinstance(x, _LITERAL) else places[x]

    for equation in jaxpr.jaxpr.eqns:
        given = [place(x) for x in equation.invars]
        if equation.primitive.name in _CALLS:
            made = _open(equation.params["jaxpr"], given, steps, count)
        else:
            first = count[0]
            count[0] += len(equation.outvars)
            made = [Value(number=i) for i in range(first, count[0])]
            steps.append(Step(equation, given, made))
        places |= dict(zip(equation.outvars, made, strict=True))
    return [place(x) for x in jaxpr.jaxpr.outvars]


def _needed(steps: Sequence[Step], outputs: Sequence[Value]) -> list[Step]:
    """Returns the steps that ``outputs`` depend on or that have effects."""
    needed = {output.number for output in outputs}
    kept = []
    for step in reversed(steps):
        if step.equation.effects or any(x.number in needed for x in step.outputs):
            kept.append(step)
            needed |= {x.number for x in step.inputs}
    return kept[::-1]


def _evaluate(steps: Sequence[Step], values: dict[int, Any]) -> None:
    """Add to ``values`` what every step makes, draws of a round together."""
    while steps:
        waiting, draws = [], []
        for step in steps:
            if not all(x.number < 0 or x.number in values for x in step.inputs):
                waiting.append(step)
            elif (request := _request(step, values)) is not None:
                draws.append((step, request))
            else:
                _store(step, _apply(step, values), values)
        for (step, _), drawn in zip(draws, _hash([r for _, r in draws]), strict=True):
            _store(step, [drawn], values)
        steps = waiting


def _look_up(x: Value, values: dict[int, Any]) -> Any:
    return x.constant if x.number < 0 else values[x.number]


def _store(step: Step, found: Sequence[Any], values: dict[int, Any]) -> None:
    values.update({x.number: y for x, y in zip(step.outputs, found, strict=True)})


def _apply(step: Step, values: dict[int, Any]) -> Sequence[Any]:
    """Returns what a step's operation makes of its inputs."""
    equation, outputs = step.equation, step.equation.outvars
    places = zip(equation.invars, step.inputs, strict=True)
    inputs = {
        x: _look_up(at, values) for x, at in places if not isinstance(x, _LITERAL)
    }
    jaxpr = _EMPTY.replace(invars=list(inputs), outvars=outputs, eqns=[equation])
    return jax.core.eval_jaxpr(jaxpr, (), *inputs.values())


def _request(step: Step, values: dict[int, Any]) -> Request | None:
    """Returns the hashes of a draw, None of anything that stays as it is.

    Of Threefry's keys that count (jax's default), word i of a draw is the two words of
    ``fold_in(key, i)``, one xor the other, and key i of a split is ``fold_in(key, i)``.
    """
    name, params = step.equation.primitive.name, step.equation.params
    if name not in _DRAWS or params.get("bit_width", 32) != 32:
        return None
    key, *counter = (_look_up(x, values) for x in step.inputs)
    large = key.size * math.prod(params.get("shape", ())) > _LARGE
    if large or not _counts(key):
        return None
    data = jax.random.key_data(key)
    if name == "random_fold_in":
        return Request(*_paired(data, counter[0]), jax.random.wrap_key_data)
    shape = params["shape"]
    counters = jnp.arange(math.prod(shape), dtype=jnp.uint32)

    def bits(words: Array) -> Array:
        return (words[..., 0] ^ words[..., 1]).reshape(*key.shape, *shape)

    def keys(words: Array) -> Key:
        return jax.random.wrap_key_data(words.reshape(*key.shape, *shape, 2))

    paired = _paired(data[..., None, :], counters)
    return Request(*paired, bits if name == "random_bits" else keys)


def _counts(key: Key) -> bool:
    """Returns True if a draw's words are hashes of its key and their numbers."""
    impl = str(jax.random.key_impl(key))
    return impl == "threefry2x32" and bool(jax.threefry_partitionable.value)


def _paired(data: Array, counters: Array) -> tuple[Array, Array]:
    """Returns (words [..., 2], counters [...]) of keys and counters, broadcast."""
    counters = jnp.asarray(counters).astype(jnp.uint32)
    shape = jnp.broadcast_shapes(data.shape[:-1], counters.shape)
    return jnp.broadcast_to(data, (*shape, 2)), jnp.broadcast_to(counters, shape)


def _hash(requests: Sequence[Request]) -> list[Array]:
    """Returns what each request asked for, of one hash of all their pairs."""
    if not requests:
        return []
    data = jnp.concatenate([request.data.reshape(-1, 2) for request in requests])
    counters = jnp.concatenate([request.counters.reshape(-1) for request in requests])
    keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(data), counters)
    ends = itertools.accumulate(request.counters.size for request in requests)
    parts = jnp.split(jax.random.key_data(keys), list(ends)[:-1])
    return [
        request.finish(part.reshape(request.data.shape))
        for request, part in zip(requests, parts, strict=True)
    ]
