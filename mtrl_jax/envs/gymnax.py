"""Tasks of gymnax 1.0: MinAtar, classic control, bsuite and its small ones.

gymnax's own ``step`` resets in the same step and hides the last observation; this
adapter is built from ``step_env``, ``reset_env`` and ``is_truncated`` instead. An
episode that ends by failing at the very step of its time limit counts as terminated.

MinAtar's planes are 0 and 1 and are kept as bool. Integer observations of a Discrete
space become one-hot. MNISTBandit is left out: making it downloads a data set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import errors, types
from mtrl_jax.envs import core, reference_scores

_LEFT_OUT = ("MNISTBandit-bsuite",)
# Constructor arguments that are not numbers a user could write in a config.
_NOT_OPTIONS = ("action_mapping_key",)
# Options with which random and best return stay what they are.
_SAME_SCORES = {
    "MemoryChain-bsuite": ("memory_length", "num_bits"),
    "UmbrellaChain-bsuite": ("chain_length", "n_distractor"),
}
# Whole numbers count something (a size, an interval) and are from 1 to this, as far as
# BOUNDS has no others.
_MOST = 10_000
# What steps are counted to: whole numbers, though some games have a default of 100.0.
_LIMITS = ("max_steps_in_episode", "t_max")
# By the kind of a state's ``time``, one less than it counts to: int32 or float32.
_MOST_STEPS = {"i": 2**31 - 2, "f": 2**24 - 1}
BOUNDS: dict[str, tuple[float, float]] = {
    "mapping_seed": (0, 2**31 - 1),
    "n_distractor": (0, _MOST),
    "rows": (2, 500),
    "columns": (1, 500),
    "size": (1, 100),
    "maze_size": (5, 99),
    "rf_size": (1, 99),
    "width": (4, 500),
    "height": (4, 500),
    "num_urchins": (1, 1_000),
    "num_joints": (1, 100),
    "num_bits": (1, 100),
    # What is divided by, or a length that has to be one.
    **dict.fromkeys(
        ("length", "m", "l", "masscart", "masspole", "total_mass"),
        (1e-6, 1e6),
    ),
    **dict.fromkeys(
        ("link_length_1", "link_length_2", "link_mass_1", "link_mass_2", "link_moi"),
        (1e-6, 1e6),
    ),
    **dict.fromkeys(("dt", "tau"), (1e-6, 1.0)),
    **dict.fromkeys(("link_com_pos_1", "link_com_pos_2"), (0.0, 100.0)),
    **dict.fromkeys(("fail_prob", "reward_prob", "success_rate"), (0.0, 1.0)),
    **dict.fromkeys(("sigma_p", "sigma_l", "torque_noise_max"), (0.0, 1e6)),
    **dict.fromkeys(("circle_radius", "goal_radius", "max_force"), (1e-6, 1e6)),
    **dict.fromkeys(("max_speed", "max_vel_1", "max_vel_2"), (1e-6, 1e6)),
}
_FLOAT = (-1e6, 1e6)
# The first is below the second.
_PAIRS = (
    ("min_position", "max_position"),
    ("min_action", "max_action"),
    ("min_lim", "max_lim"),
)


def names() -> list[str]:
    """Returns the names that ``task`` takes, without the family's prefix."""
    import gymnax

    return [name for name in gymnax.registered_envs if name not in _LEFT_OUT]


def numbers(name: str) -> dict[str, tuple[float, float]]:
    """Returns the bounds of every option of ``name`` that is a single number."""
    import gymnax

    env, params = gymnax.make(name)
    arguments, fields = _options(env, params)
    kinds = {k: np.asarray(x) for k, x in {**fields, **arguments}.items()}
    single = {k: x.dtype.kind for k, x in kinds.items() if x.ndim == 0}
    return {
        k: _bounds(env, params, k, kind) for k, kind in single.items() if kind in "if"
    }


def task(name: str, options: Mapping[str, Any] | None = None) -> core.PureTask:
    """Returns the gymnax environment ``name`` as a PureTask called ``gymnax/name``.

    ``options`` are fields of its EnvParams (traced, a curriculum may write them) and
    arguments of its constructor (static sizes, such as DeepSea's ``size``). With any but
    those of _SAME_SCORES there are no reference scores: they are of the game as it is.
    Raises ValueError for an unknown name or option, a value of another type or out of
    BOUNDS, and for values that cannot go together.
    """
    import gymnax

    errors.check("env", name, names())
    env, params = _configure(gymnax, name, dict(options or {}))
    if options:
        with _playable(name, options):
            _try(env, params)
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
    limit, ends = int(params.max_steps_in_episode), _end(name, env, params)
    random_score, reference_score = reference_scores.GYMNAX.get(name, (None, None))
    cut = ends is not None and ends > limit
    if cut or not set(options or {}) <= set(_SAME_SCORES.get(name, ())):
        random_score = reference_score = None
    return core.task(
        full_name,
        reset,
        step,
        action,
        params,
        random_score=random_score,
        reference_score=reference_score,
        max_steps=limit if ends is None else min(limit, ends),
        frames=1,
    )


def _end(name: str, env: Any, params: Any) -> int | None:
    """Returns the step that always ends the game, None where nothing but the limit does."""
    match name:
        case "Catch-bsuite":  # The ball falls a row a step.
            return env.rows - 1
        case "DeepSea-bsuite":
            return env.size
        case "MemoryChain-bsuite":
            return int(params.memory_length) + 1
        case "SimpleBandit-bsuite":
            return 1
        case "UmbrellaChain-bsuite":
            return int(params.chain_length)
    return None


@contextlib.contextmanager
def _playable(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Turn whatever an environment makes of odd options into a ValueError."""
    try:
        yield
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        given = ", ".join(f"{field}={value!r}" for field, value in options.items())
        raise ValueError(
            f"options: gymnax/{name} cannot be played with {given} ({said[:120]}); "
            "give others"
        ) from error


def _try(env: Any, params: Any) -> None:
    """Trace a reset and a step, which raises what does not fit together."""
    key = jax.random.key(0)
    with jax.numpy_rank_promotion("allow"):
        _, state = jax.eval_shape(env.reset_env, key, params)
        action = jax.eval_shape(env.action_space(params).sample, key)
        jax.eval_shape(env.step_env, key, state, action, params)


def _configure(gymnax: Any, name: str, options: dict[str, Any]) -> tuple[Any, Any]:
    """Returns (environment, params) with the options in the place each belongs to."""
    env, params = gymnax.make(name)
    arguments, fields = _options(env, params)
    errors.check_options(f"gymnax/{name}", options, [*fields, *arguments])
    like = functools.partial(_like, env, params)
    static = {
        key: like(key, options[key], arguments[key])
        for key in arguments
        if key in options
    }
    if static:
        with _playable(name, options):
            env, params = gymnax.make(name, **static)
        fields = {key: getattr(params, key) for key in fields}
    traced = {
        key: like(key, options[key], fields[key]) for key in fields if key in options
    }
    params = params.replace(**traced)
    _check_pairs(params)
    return env, params


def _options(env: Any, params: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the defaults of (static arguments, traced fields)."""
    arguments = {
        key: parameter.default
        for key, parameter in inspect.signature(type(env)).parameters.items()
        # Of a default of None nobody knows what else it may be.
        if key not in _NOT_OPTIONS and parameter.default is not None
    }
    fields = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
    return arguments, fields


def _bounds(env: Any, params: Any, key: str, kind: str) -> tuple[float, float]:
    if key in _LIMITS:
        return 1, _most_steps(env, params)
    return BOUNDS.get(key, (1, _MOST) if kind == "i" else _FLOAT)


def _most_steps(env: Any, params: Any) -> int:
    """Returns the longest time limit whose every step the game's state counts."""
    with jax.numpy_rank_promotion("allow"):
        _, state = jax.eval_shape(env.reset_env, jax.random.key(0), params)
    return _MOST_STEPS[state.time.dtype.kind]


def _check_pairs(params: Any) -> None:
    for low, high in _PAIRS:
        if hasattr(params, low) and not getattr(params, low) < getattr(params, high):
            raise ValueError(
                f"options.{low}: {getattr(params, low)!r} is not below "
                f"{high}={getattr(params, high)!r}"
            )


def _check_bounds(key: str, value: Any, kind: str, bounds: tuple[float, float]) -> None:
    """Raises ValueError unless each number means something to the environment."""
    low, high = bounds
    for x in np.asarray(value, np.float64).ravel():
        if not low <= x <= high or (kind == "i" and x % 1):
            what = f"a number from {low:g} to {high:g}"
            if kind == "i":
                what = f"an integer from {int(low)} to {int(high)}"
            raise ValueError(f"options.{key}: got {value!r}, give {what}")


def _like(env: Any, params: Any, key: str, value: Any, default: Any) -> Any:
    """Returns an option's value as the kind of its default, or raises ValueError."""
    like = np.asarray(default)
    try:
        array = np.asarray(value)
    except ValueError:  # A list of lists that are not alike.
        array = np.asarray(None)
    accepted = {"b": "b", "i": "iu", "f": "iuf"}.get(like.dtype.kind, like.dtype.kind)
    if array.dtype.kind not in accepted or array.shape != like.shape:
        raise ValueError(
            f"options.{key}: got {value!r}, give a value like {np.asarray(default).tolist()!r}"
        )
    if like.dtype.kind in "if":
        kind = "i" if key in _LIMITS else like.dtype.kind
        _check_bounds(key, value, kind, _bounds(env, params, key, kind))
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
