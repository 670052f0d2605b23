"""Bandits: arms that pay 1 with a probability of their own, and nothing to see.

An episode is ``pulls`` pulls of one bandit; an agent that remembers them finds the best
arm. The adversarial bandits of Algorithm Distillation (Laskin et al. 2023,
arXiv:2210.14215) differ in which arms are good, so that an agent that learned a prior
instead of exploration is found out: train on ``odd``, test on ``even``.

    odd, even   good arms pay U(0.5, 1), the others U(0, 0.5); in a share ``favoured`` of
                all bandits the odd (even) arms are good, in the rest the other ones
    uniform     every arm pays U(0, 1)

Arms are counted from 0. The probabilities are traced params.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import errors, random, types
from mtrl_jax.envs import core, task_splits
from mtrl_jax.types import Array, Key

_NAMES = ("odd", "even", "uniform")
_SIGHT = jnp.ones(1)
_MOST = 10**7  # probabilities in a table of bandits


class Params(NamedTuple):
    """A bandit."""

    probabilities: Array | np.ndarray  # [..., A] float32, that an arm pays 1


class State(NamedTuple):
    """An episode so far."""

    time: Array  # [] int32, pulls
    regret: Array  # [] float32, the sum of max p - p[arm]
    best: Array  # [] int32, pulls of a best arm


class _Kind(NamedTuple):
    """Which bandits there are; hashable."""

    name: str
    arms: int = 10
    pulls: int = 100
    favoured: float = 0.95


def names() -> list[str]:
    """Returns the names that ``task`` takes, without the family's prefix."""
    return list(_NAMES)


def task(name: str, options: Mapping[str, Any] | None = None) -> core.PureTask:
    """Returns ``bandit/name`` as a PureTask; observed is always [1].

    Options: ``arms`` (10), ``pulls`` (100), ``favoured`` (0.95; odd and even alone);
    ``probabilities``, a list, of the one bandit; otherwise they are dealt: ``task``
    "episode" (default: a new one each) or "slot" (one for good, drawn from the slot's
    key), any there can be or, with ``number``, one of so many drawn by ``seed`` (0).

    Reference score is always pulling the best arm, random score any; both are exact
    means over the bandits. Measures: ``regret`` and ``best_arm``, the share of pulls of
    a best arm. Raises ValueError for an unknown name or option and for a value that
    cannot be.
    """
    kind, fixed, options = _described(name, options)
    code = _code(kind.pulls)
    deal = None
    if fixed is None:
        number, seed = options.get("number"), options.get("seed", 0)
        deal = _deal(kind, task_splits.how_of(options), number, seed)
        fixed = _table(kind, number, seed) if number else None
    random_score, best_score = _scores(kind, fixed)
    default = np.full((1, kind.arms), 0.5, np.float32) if fixed is None else fixed
    return core.task(
        f"bandit/{name}",
        code.reset,
        code.step,
        types.Discrete(kind.arms),
        Params(jnp.asarray(default[0])),
        random_score=random_score,
        reference_score=best_score,
        max_steps=kind.pulls,
        info=code.info,
        render=_render,
        deal=deal,
    )


def tasks_of(name: str, options: Mapping[str, Any] | None = None) -> Params:
    """Returns the bandits that these options stand for, [N, A], for ``core.spread``.

    That is the one of ``probabilities`` or the ``number`` drawn by ``seed``: bandits of
    another seed are others. Raises ValueError as ``task`` and where neither is given.
    """
    kind, fixed, options = _described(name, options)
    if fixed is None:
        if "number" not in options:
            raise ValueError(
                f"options.number: bandit/{name} has no end of tasks, give how many"
            )
        fixed = _table(kind, options["number"], options.get("seed", 0))
    return Params(jnp.asarray(fixed))


def optimal_action_in(
    name: str, options: Mapping[str, Any] | None = None
) -> Callable[[Params, Any], Array]:
    """Returns what is best to do, whatever the name and options: ``optimal_action``."""
    del name, options
    return optimal_action


def optimal_action(params: Params, state: Any = None) -> Array:
    """Returns the best arm, [...] int32; of equal ones the first. ``state`` is not read."""
    del state
    return jnp.argmax(params.probabilities, axis=-1).astype(jnp.int32)


class _Code(NamedTuple):
    reset: Callable
    step: Callable
    info: Callable


@functools.cache
def _code(pulls: int) -> _Code:
    """Returns the functions of all bandits; cached, so that tasks share them."""

    def reset(key: Key, params: Params):
        state = State(jnp.int32(0), jnp.float32(0.0), jnp.int32(0))
        return state, {"vector": _SIGHT}

    def step(key: Key, state: State, action: Array, params: Params):
        chance, best = params.probabilities[action], jnp.max(params.probabilities)
        reward = jax.random.bernoulli(key, chance)
        time = state.time + 1
        state = State(time, state.regret + best - chance, state.best + (chance == best))
        return state, {"vector": _SIGHT}, reward, False, time >= pulls

    def info(state: State, params: Params) -> dict[str, Array]:
        share = state.best / jnp.maximum(state.time, 1)
        return {"regret": state.regret, "best_arm": share}

    return _Code(reset, step, info)


def _drawn(kind: _Kind, key: Key) -> Params:
    """Returns one bandit."""
    arms_key, side_key = jax.random.split(key)
    uniform = jax.random.uniform(arms_key, (kind.arms,))
    if kind.name == "uniform":
        return Params(uniform)
    as_named = jax.random.bernoulli(side_key, kind.favoured)
    is_odd = jnp.arange(kind.arms) % 2 == 1
    good = is_odd == (as_named == (kind.name == "odd"))
    return Params(0.5 * uniform + 0.5 * good)


@functools.cache
def _table(kind: _Kind, number: int, seed: int) -> np.ndarray:
    """Returns ``number`` bandits drawn by ``seed``, float32 [N, A].

    Fewer are the first of more.
    """
    keys = random.fold(jax.random.key(seed), jnp.arange(number))
    draw = jax.jit(jax.vmap(functools.partial(_drawn, kind)))
    return np.asarray(draw(keys).probabilities)


@functools.cache
def _deal(kind: _Kind, how: str, number: int | None, seed: int) -> Callable:
    """Returns PureTask.deal; cached, so that tasks that deal alike share it."""
    if number is None:
        return task_splits.by(how, functools.partial(_drawn, kind))
    return task_splits.by(how, task_splits.one_of(Params(_table(kind, number, seed))))


def _scores(kind: _Kind, table: np.ndarray | None) -> tuple[float, float]:
    """Returns the mean returns (of any arm, of the best) over the bandits."""
    if table is not None:
        means = float(table.mean(1).mean()), float(table.max(1).mean())
    elif kind.name == "uniform":
        means = 0.5, kind.arms / (kind.arms + 1)
    else:
        as_named = kind.favoured if kind.name == "odd" else 1 - kind.favoured
        odd, even = kind.arms // 2, kind.arms - kind.arms // 2
        # The largest of n uniform numbers is n / (n + 1) on average.
        sides = [
            (0.25 + 0.5 * n / kind.arms, 0.5 + 0.5 * n / (n + 1)) for n in (odd, even)
        ]
        means = tuple(as_named * x + (1 - as_named) * y for x, y in zip(*sides))
    return float(kind.pulls * means[0]), float(kind.pulls * means[1])


def _described(
    name: str, options: Mapping[str, Any] | None
) -> tuple[_Kind, np.ndarray | None, dict[str, Any]]:
    """Returns the kind, the one bandit [1, A] that is given if any, and all options."""
    errors.check("env", name, _NAMES)
    options = dict(options or {})
    known = ["arms", "pulls", "probabilities", "task", "number", "seed"]
    known += ["favoured"] if name != "uniform" else []
    errors.check_options(f"bandit/{name}", options, known)
    fixed = _given(options)
    arms = options.get("arms", 10) if fixed is None else fixed.shape[1]
    kind = _Kind(
        name,
        errors.integer("options.arms", arms, 2, 1000),
        errors.integer("options.pulls", options.get("pulls", 100), 1, 10**6),
        errors.number("options.favoured", options.get("favoured", 0.95), 0.0, 1.0),
    )
    if "number" in options:
        errors.integer("options.number", options["number"], 1, _MOST // kind.arms)
    errors.integer("options.seed", options.get("seed", 0), 0, 2**32 - 1)
    return kind, fixed, options


def _given(options: Mapping[str, Any]) -> np.ndarray | None:
    if "probabilities" not in options:
        return None
    for name in ("arms", "favoured", "task", "number", "seed"):
        if name in options:
            raise ValueError(
                f"options.{name}: with options.probabilities there is but one bandit; "
                "give one or the other"
            )
    value = options["probabilities"]
    numbers = isinstance(value, (list, tuple)) and all(
        isinstance(p, (int, float)) and not isinstance(p, bool) and 0 <= p <= 1
        for p in value
    )
    if not numbers or len(value) < 2:
        raise ValueError(
            f"options.probabilities: got {value!r}, give two or more from 0 to 1"
        )
    return np.asarray(value, np.float32)[None]


def _render(state: State, params: Params) -> np.ndarray:
    """Returns uint8 [200, W, 3]: a bar for each arm's probability, orange the best."""
    chances = np.asarray(params.probabilities)
    width = max(200 // len(chances), 2)
    picture = np.full((200, width * len(chances), 3), (18, 18, 24), np.uint8)
    for arm, chance in enumerate(chances):
        colour = (230, 159, 0) if chance == chances.max() else (86, 180, 233)
        picture[
            200 - round(200 * float(chance)) :, width * arm + 1 : width * (arm + 1)
        ] = colour
    return picture
