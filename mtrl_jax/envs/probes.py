"""Tiny tasks whose values are known exactly, to find what an agent cannot learn.

Each isolates one part of an agent: the value head (constant), its inputs (observation),
the discount (delayed), the policy (action), the policy's inputs (both), masking
(masked), memory (memory). An agent that fails one shows where to look. Variants with
factorised and Box actions and with an image test the same for other heads and torsos.
γ is the agent's discount; values are of the first step of an episode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import errors, types
from mtrl_jax.envs import core
from mtrl_jax.types import Array

_DISCRETE = types.Discrete(2)
_FACTORISED = types.Factorised((2, 3))
_BOX = types.Box((-1.0, -1.0), (1.0, 1.0))
_BLANK = jnp.zeros(1)
_LONGEST, _MOST = 10**9, 1e6


class State(NamedTuple):
    """``cue`` is what the episode is about, ``time`` the steps since its reset."""

    cue: Array  # [] int32
    time: Array  # [] int32


class Length(NamedTuple):
    """Parameters of the tasks whose reward comes late."""

    length: Array | int = 2  # steps until the reward, at least 1


class Reward(NamedTuple):
    """Parameters of the constant task."""

    reward: Array | float = 1.0


def constant() -> core.PureTask:
    """Returns ``probe/constant``: one step, no observation, reward 1.

    V = 1 and every return is 1, whatever is done (param ``reward``).
    """

    def step(key, state, action, params):
        return state, _BLANK, params.reward, True, False

    return _task("constant", _cue(1), lambda state: _BLANK, step, Reward(), best=None)


def observation() -> core.PureTask:
    """Returns ``probe/observation``: one step, reward = observation, -1 or 1.

    V(obs) = obs; the mean return is 0, whatever is done.
    """

    def step(key, state, action, params):
        return state, _sign(state), _sign(state)[0], True, False

    return _task("observation", _cue(2), _sign, step, best=None)


def delayed() -> core.PureTask:
    """Returns ``probe/delayed``: reward 1 at the last of ``length`` = 2 steps.

    The observation is the time t: V(t) = γ^(length - 1 - t), so V(0) = γ, V(1) = 1.
    Every return is 1, whatever is done.
    """

    def step(key, state, action, params):
        state = state._replace(time=state.time + 1)
        ended = state.time >= params.length
        return state, _time(state), jnp.where(ended, 1.0, 0.0), ended, False

    return _task("delayed", _cue(1), _time, step, Length(2), best=None, max_steps=2)


def action(space: types.ActionSpace = _DISCRETE) -> core.PureTask:
    """Returns ``probe/action``: one step, no observation, reward for one action.

    Discrete: 1 for action 1, else -1. Factorised: 1 if all groups choose 1, else -1.
    Box: 1 - mean((a - 0.5)²). The best return, and V of the best policy, is 1. A random
    policy gets 0, -2/3 for the groups (2, 3), 5/12 for the Box.
    """

    def step(key, state, action, params):
        return state, _BLANK, _match(space, action, jnp.int32(1)), True, False

    return _task(
        _variant("action", space), _cue(1), lambda state: _BLANK, step, space=space
    )


def both(space: types.ActionSpace = _DISCRETE, image: bool = False) -> core.PureTask:
    """Returns ``probe/both``: one step, the reward depends on observation and action.

    A cue c in {0, 1} is seen as 2c - 1 (or, ``image``, as the lit half of a uint8
    picture 10x10x3). Discrete and factorised: 1 if all choices equal c, else -1.
    Box: 1 - mean((a - (c - 0.5))²). The best return, and V of the best policy, is 1. A
    random policy gets 0, -2/3 for the groups (2, 3), 5/12 for the Box; the best that
    ignores the observation gets 0, 0 and 3/4.
    """
    observe = _picture if image else _sign

    def step(key, state, action, params):
        return state, observe(state), _match(space, action, state.cue), True, False

    name = "both_image" if image else _variant("both", space)
    return _task(name, _cue(2), observe, step, space=space)


def masked() -> core.PureTask:
    """Returns ``probe/masked``: one step, one of three actions is illegal.

    Reward 1 for the larger legal action, 0 for the smaller, -10 for the illegal one,
    which the observation does not show. The best return, and V of the best policy, is
    1; the mean over legal actions is 0.5.
    """
    space = types.Discrete(3)

    def step(key, state, action, params):
        best = jnp.where(state.cue == 2, 1, 2)
        reward = jnp.where(action == best, 1.0, 0.0)
        reward = jnp.where(action == state.cue, -10.0, reward)
        return state, _BLANK, reward, True, False

    def legal(state, params):
        return jnp.arange(3) != state.cue

    return _task(
        "masked", _cue(3), lambda state: _BLANK, step, space=space, action_mask=legal,
        random_score=0.5,
    )  # fmt: skip


def memory() -> core.PureTask:
    """Returns ``probe/memory``: the first observation tells what to do at the last step.

    Observed: (cue as -1 or 1 at the first step, else 0; 1 at the last step, else 0).
    ``length`` = 4 steps; the last action earns 1 if it equals the cue, else -1. Best
    return 1, V(t) = γ^(length - 1 - t); without memory the best mean return is 0.
    """

    def observe(state, params):
        shown = jnp.where(state.time == 0, 2.0 * state.cue - 1.0, 0.0)
        asked = jnp.where(state.time == params.length - 1, 1.0, 0.0)
        return jnp.stack([shown, asked])

    def reset(key, params):
        state = _cue(2)(key)
        return state, observe(state, params)

    def step(key, state, action, params):
        state = state._replace(time=state.time + 1)
        ended = state.time >= params.length
        reward = jnp.where(ended, _match(_DISCRETE, action, state.cue), 0.0)
        return state, observe(state, params), reward, ended, False

    return core.task(
        "probe/memory", reset, step, _DISCRETE, Length(4),
        random_score=0.0, reference_score=1.0, max_steps=4,
    )  # fmt: skip


PROBES: dict[str, Callable[[], core.PureTask]] = {
    "constant": constant,
    "observation": observation,
    "delayed": delayed,
    "action": action,
    "action_factorised": lambda: action(_FACTORISED),
    "action_box": lambda: action(_BOX),
    "both": both,
    "both_factorised": lambda: both(_FACTORISED),
    "both_box": lambda: both(_BOX),
    "both_image": lambda: both(image=True),
    "masked": masked,
    "memory": memory,
}


def names() -> list[str]:
    """Returns the names that ``task`` takes, without the family's prefix."""
    return list(PROBES)


def task(name: str, options: Mapping[str, Any] | None = None) -> core.PureTask:
    """Returns the probe ``name``; ``options`` are the fields of its params, if any.

    Raises ValueError for an unknown name or option and for a value out of bounds.
    """
    errors.check("env", name, PROBES)
    probe, options = PROBES[name](), dict(options or {})
    errors.check_options(f"probe/{name}", options, getattr(probe.params, "_fields", ()))
    if not options:
        return probe
    if "length" in options:
        length = errors.integer("options.length", options["length"], 1, _LONGEST)
        probe = probe._replace(spec=probe.spec._replace(max_steps=length))
    if "reward" in options:
        reward = errors.number("options.reward", options["reward"], -_MOST, _MOST)
        options["reward"] = reward
        spec = probe.spec._replace(random_score=None, reference_score=reward)
        probe = probe._replace(spec=spec)
    return probe._replace(params=probe.params._replace(**options))


def _task(
    name: str,
    draw: Callable,
    observe: Callable,
    step: Callable,
    params: Any = (),
    *,
    space: types.ActionSpace = _DISCRETE,
    best: float | None = 1.0,
    random_score: float | None = None,
    max_steps: int = 1,
    **optional: Any,
) -> core.PureTask:
    def reset(key, params):
        state = draw(key)
        return state, observe(state)

    # Nothing to normalise by where the return does not depend on what is done.
    if best is not None and random_score is None:
        random_score = _random_score(space)
    return core.task(
        f"probe/{name}", reset, step, space, params,
        random_score=random_score, reference_score=best, max_steps=max_steps, frames=1,
        **optional,
    )  # fmt: skip


def _cue(n: int) -> Callable:
    def draw(key):
        return State(jax.random.randint(key, (), 0, n), jnp.int32(0))

    return draw


def _sign(state: State) -> Array:
    return 2.0 * state.cue[None] - 1.0


def _time(state: State) -> Array:
    return state.time[None].astype(jnp.float32)


def _picture(state: State) -> Array:
    right = jnp.arange(10) >= 5
    lit = jnp.where(right, state.cue, 1 - state.cue) * 255
    return jnp.broadcast_to(lit[None, :, None], (10, 10, 3)).astype(jnp.uint8)


def _match(space: types.ActionSpace, action: Array, cue: Array) -> Array:
    """Returns the reward of ``action`` where ``cue`` is asked for."""
    if isinstance(space, types.Box):
        return 1.0 - jnp.mean(jnp.square(action - (cue - 0.5)))
    return jnp.where(jnp.all(action == cue), 1.0, -1.0)


def _random_score(space: types.ActionSpace) -> float:
    """Returns the mean of ``_match`` under uniform actions."""
    match space:
        case types.Discrete(n):
            hit = 1 / n
        case types.Factorised(sizes):
            hit = 1.0
            for size in sizes:
                hit /= size
        case types.Box():
            # Uniform on [-1, 1] has variance 1/3; the target lies 1/2 from its mean.
            return 1 - (1 / 3 + 1 / 4)
    return 2 * hit - 1


def _variant(name: str, space: types.ActionSpace) -> str:
    suffix = {types.Discrete: "", types.Factorised: "_factorised", types.Box: "_box"}
    return name + suffix[type(space)]
