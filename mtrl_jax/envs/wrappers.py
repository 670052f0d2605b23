"""Ready-made wrappers: what agents see of an environment, as options of a config.

    options: {wrappers: {reward_scale: 0.1, frame_stack: 4, time_in_episode: true}}

Each is a function of a ``core.PureTask``, an ``Env`` or a ``HostEnv`` to one of the same
kind; one of your own is made by ``wrapping.wrap``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import errors, types
from mtrl_jax.envs import wrapping
from mtrl_jax.envs.core import PureTask
from mtrl_jax.envs.wrapping import Wrapped

OPTION = "wrappers"
_MOST_FRAMES = 64
_LONGEST = 10**9  # steps
_LARGEST_SCALE = 1e6


def reward_scale(env: Wrapped, scale: float) -> Wrapped:
    """Returns the environment with its rewards times ``scale``.

    Agents see the product; returns, scores and what they are compared with are reported
    in the environment's own unit (``TaskSpec.reward_scale`` undoes it). Raises ValueError
    unless ``scale`` is from 1e-6 to 1e6.
    """
    scale = errors.number("reward_scale", scale, 1.0 / _LARGEST_SCALE, _LARGEST_SCALE)

    def scaled(task: types.TaskSpec) -> types.TaskSpec:
        return task._replace(reward_scale=task.reward_scale * scale)

    if isinstance(env, PureTask):
        # Its number is in the spec alone: tasks of different scales still share code.
        is_scaled = wrapping.Around(_own_scale) in env.wrappers
        env = env._replace(spec=scaled(env.spec))
        return env if is_scaled else wrapping.wrap(env, _own_scale)
    tasks = tuple(scaled(task) for task in env.spec.tasks)
    return wrapping.wrap(env, functools.partial(_scale_by, scale))._replace(
        spec=env.spec._replace(tasks=tasks)
    )


def frame_stack(env: Wrapped, frames: int) -> Wrapped:
    """Returns the environment that shows its newest ``frames`` observations at once.

    Oldest first: images along their channels, vectors one after the other. An episode
    begins with its first observation ``frames`` times. Raises ValueError unless
    ``frames`` is from 1 to 64.
    """
    errors.integer("frame_stack", frames, 1, _MOST_FRAMES)
    return wrapping.wrap(env, _stacking(frames))


def time_in_episode(env: Wrapped, steps: int | bool = True) -> Wrapped:
    """Returns the environment that also shows t / ``steps``, as the last of "vector".

    t counts the steps since the episode began; True divides by the longest episode
    (with a limit that is not observed a task is not Markov). Raises ValueError for other
    than True and positive integers, and for True of a task without a limit.

    Ref: Pardo et al. 2018 (arXiv:1712.00378). Deviation: they show the time that is left.
    """
    if steps is not True:
        errors.integer("time_in_episode", steps, 1, _LONGEST)
    specs = [env.spec] if isinstance(env, PureTask) else env.spec.tasks
    for task in specs:
        if steps is True and task.max_steps is None:
            raise ValueError(
                f"time_in_episode: {task.name} knows no longest episode, give the steps "
                "to divide by (time_in_episode: 1000)"
            )
    return wrapping.wrap(env, _timing(steps))


# Ready-made, in the order in which they are applied: time is not stacked.
READY: dict[str, Callable[..., Any]] = {
    "reward_scale": reward_scale,
    "frame_stack": frame_stack,
    "time_in_episode": time_in_episode,
}


def split(options: Mapping[str, Any] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns (the environment's own options, its wrappers).

    Raises ValueError for wrappers that there are not.
    """
    own = dict(options or {})
    given = own.pop(OPTION, {})
    if not isinstance(given, Mapping):
        raise ValueError(
            f"options.{OPTION}={given!r}: give a mapping, such as {{frame_stack: 4}}"
        )
    for name in given:
        if name not in READY:
            raise ValueError(
                f"options.{OPTION}.{name} is unknown{errors.suggest(name, READY)}"
            )
    return own, dict(given)


def apply(env: Wrapped, given: Mapping[str, Any]) -> Wrapped:
    """Returns the environment with ready-made wrappers ``{name: value}``; False is none.

    Raises ValueError, naming the option, for a value that cannot be.
    """
    for name, make in READY.items():
        if given.get(name, False) is False:
            continue
        try:
            env = make(env, given[name])
        except ValueError as error:
            raise ValueError(f"options.{OPTION}.{error}") from None
    return env


def _own_scale(spec: types.EnvSpec) -> wrapping.Wrapper:
    """Returns the Wrapper that scales by what each task's spec says."""
    scales = jnp.asarray([task.reward_scale for task in spec.tasks], jnp.float32)

    def step(memory, ts):
        return memory, ts._replace(reward=ts.reward * scales[ts.task])

    return wrapping.Wrapper(spec, lambda ts: (), step)


def _scale_by(scale: float, spec: types.EnvSpec) -> wrapping.Wrapper:
    def step(memory, ts):
        return memory, ts._replace(reward=ts.reward * jnp.float32(scale))

    return wrapping.Wrapper(spec, lambda ts: (), step)


@functools.cache
def _stacking(frames: int) -> Callable[[types.EnvSpec], wrapping.Wrapper]:
    def make(spec: types.EnvSpec) -> wrapping.Wrapper:
        def more(obs: dict[str, jax.ShapeDtypeStruct]) -> dict:
            return {
                name: jax.ShapeDtypeStruct(
                    (*x.shape[:-1], frames * x.shape[-1]), x.dtype
                )
                for name, x in obs.items()
            }

        def init(ts):
            return jax.tree.map(lambda x: jnp.concatenate([x] * (frames - 1), -1)
                                if frames > 1 else x[..., :0], ts.obs)  # fmt: skip

        def step(memory, ts):
            obs = jax.tree.map(lambda *x: jnp.concatenate(x, -1), memory, ts.obs)
            memory = jax.tree.map(lambda x, new: x[..., new.shape[-1] :], obs, ts.obs)
            return memory, ts._replace(obs=obs)

        seen = wrapping.observing(spec, more)
        if frames > 1:
            # Of what was one observation, a stack in itself or not.
            tasks = tuple(task._replace(frames=frames) for task in seen.tasks)
            seen = seen._replace(tasks=tasks)
        return wrapping.Wrapper(seen, init, step)

    return make


@functools.lru_cache(maxsize=None, typed=True)  # 1 is not True
def _timing(steps: int | bool) -> Callable[[types.EnvSpec], wrapping.Wrapper]:
    def make(spec: types.EnvSpec) -> wrapping.Wrapper:
        longest = [task.max_steps if steps is True else steps for task in spec.tasks]
        unit = jnp.asarray(longest, jnp.float32)

        def more(obs: dict[str, jax.ShapeDtypeStruct]) -> dict:
            size = obs["vector"].shape[0] if "vector" in obs else 0
            return {**obs, "vector": jax.ShapeDtypeStruct((size + 1,), jnp.float32)}

        def step(time, ts):
            vector = ts.obs.get("vector", jnp.zeros(0))
            shown = jnp.append(vector, time.astype(jnp.float32) / unit[ts.task])
            return time + 1, ts._replace(obs={**ts.obs, "vector": shown})

        return wrapping.Wrapper(
            wrapping.observing(spec, more), lambda ts: jnp.int32(0), step
        )

    return make
