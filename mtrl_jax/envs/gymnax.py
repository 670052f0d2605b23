"""Tasks of gymnax 1.0: MinAtar, classic control, bsuite and its small ones.

gymnax's own ``step`` resets in the same step and hides the last observation; this
adapter is built from ``step_env``, ``reset_env`` and ``is_truncated`` instead. An
episode that ends by failing at the very step of its time limit counts as terminated.

MinAtar's planes are 0 and 1 and are kept as bool. Integer observations of a Discrete
space become one-hot. MNISTBandit is left out: making it downloads a data set.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import errors, types
from mtrl_jax.envs import core, reference_scores

_LEFT_OUT = ("MNISTBandit-bsuite",)
# Constructor arguments that are not numbers a user could write in a config.
_NOT_OPTIONS = ("action_mapping_key",)


def names() -> list[str]:
    """Returns the names that ``task`` takes, without the family's prefix."""
    import gymnax

    return [name for name in gymnax.registered_envs if name not in _LEFT_OUT]


def task(name: str, options: Mapping[str, Any] | None = None) -> core.PureTask:
    """Returns the gymnax environment ``name`` as a PureTask called ``gymnax/name``.

    ``options`` are fields of its EnvParams (traced, a curriculum may write them) and
    arguments of its constructor (static sizes, such as DeepSea's ``size``). With another
    length of episodes there are no reference scores. Raises
    ValueError for an unknown name or option and for a value of another type.
    """
    import gymnax

    errors.check("env", name, names())
    env, params = _configure(gymnax, name, dict(options or {}))
    action = _action_space(name, env.action_space(params))
    observe = _observe(name, env.observation_space(params))

    def reset(key, params):
        with jax.numpy_rank_promotion("allow"):  # gymnax relies on it
            obs, state = env.reset_env(key, params)
        return state, observe(obs)

    def step(key, state, action, params):
        with jax.numpy_rank_promotion("allow"):
            obs, state, reward, terminated, _ = env.step_env(key, state, action, params)
            truncated = env.is_truncated(state, params)
        return state, observe(obs), reward, terminated, truncated

    full_name = f"gymnax/{name}"
    random_score, reference_score = reference_scores.lookup(full_name)
    if "max_steps_in_episode" in (options or {}):
        # They are of episodes of the usual length.
        random_score = reference_score = None
    return core.task(
        full_name,
        reset,
        step,
        action,
        params,
        random_score=random_score,
        reference_score=reference_score,
        max_steps=int(params.max_steps_in_episode),
    )


def _configure(gymnax: Any, name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Returns (environment, params) with the options in the place each belongs to."""
    env, params = gymnax.make(name)
    arguments = {
        key: parameter.default
        for key, parameter in inspect.signature(type(env)).parameters.items()
        if key not in _NOT_OPTIONS
    }
    fields = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    errors.check_options(f"gymnax/{name}", options, [*fields, *arguments])
    static = {
        key: _like(key, options[key], arguments[key])
        for key in arguments
        if key in options
    }
    if static:
        env, params = gymnax.make(name, **static)
        fields = {key: getattr(params, key) for key in fields}
    traced = {
        key: _like(key, options[key], fields[key]) for key in fields if key in options
    }
    return env, params.replace(**traced)


def _like(key: str, value: Any, default: Any) -> Any:
    """Returns an option's value as the kind of its default, or raises ValueError."""
    array, like = np.asarray(value), np.asarray(default)
    accepted = {"b": "b", "i": "iu", "f": "iuf"}.get(like.dtype.kind, like.dtype.kind)
    if array.dtype.kind not in accepted or array.shape != like.shape:
        raise ValueError(
            f"options.{key}: got {value!r}, give a value like {np.asarray(default).tolist()!r}"
        )
    if like.ndim == 0 and not isinstance(default, jax.Array):
        return type(default)(value)
    return jnp.asarray(array.astype(like.dtype))


def _action_space(name: str, space: Any) -> types.ActionSpace:
    kind = type(space).__name__
    if kind == "Discrete":
        return types.Discrete(int(space.n))
    if kind == "Box" and len(space.shape) == 1:
        low, high = (np.broadcast_to(x, space.shape) for x in (space.low, space.high))
        return types.Box(tuple(map(float, low)), tuple(map(float, high)))
    raise ValueError(
        f"gymnax/{name}: action space {space!r}; Discrete and flat Box are known"
    )


def _observe(name: str, space: Any) -> Callable:
    """Returns what turns gymnax's observation into one of ours."""
    if type(space).__name__ == "Discrete":
        return lambda obs: jax.nn.one_hot(obs, space.n)
    if name.endswith("-MinAtar"):
        return lambda obs: obs.astype(bool)
    return lambda obs: obs
