"""Wrappers: what an environment's time steps become before an agent sees them.

A wrapper is a function of a ``core.PureTask``, an ``Env`` or a ``HostEnv`` to one of the
same kind. Three are ready-made, and options of every environment in a config:

    options: {wrappers: {reward_scale: 0.1, frame_stack: 4, time_in_episode: true}}

Another one is a function of an EnvSpec to a ``Wrapper``, and ``wrap`` makes it one:

    def negative(spec):
        def step(memory, ts):
            return memory, ts._replace(reward=-ts.reward)
        return wrappers.Wrapper(spec, lambda ts: (), step)

    task = wrappers.wrap(task, negative)

Draws and episodes stay as they were. A PureTask only notes its wrappers down: ``core``
puts them around its slots, so that tasks that differ in numbers alone still share code.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from mtrl_jax import errors, tree, types
from mtrl_jax.envs.core import PureTask
from mtrl_jax.types import Array, Key, Tree

Wrapped = TypeVar("Wrapped", PureTask, types.Env, types.HostEnv)

OPTION = "wrappers"
_MOST_FRAMES = 64
_LONGEST = 10**9  # steps
_LARGEST_SCALE = 1e6


class Wrapper(NamedTuple):
    """What is made of the time steps of one slot; nothing here has batch axes.

    ``init(ts)`` returns what is remembered before the first step ``ts`` of an episode,
    ``step(memory, ts)`` returns (memory, the time step as the agent sees it). Where
    ``ts.first``, memory is as ``init`` made it.
    """

    spec: types.EnvSpec  # what agents see
    init: Callable[[types.TimeStep], Tree]
    step: Callable[[Tree, types.TimeStep], tuple[Tree, types.TimeStep]]


@dataclasses.dataclass(frozen=True)
class Around:
    """A wrapper of an Env or HostEnv; two are equal where ``make`` is the same."""

    make: Callable[[types.EnvSpec], Wrapper]

    def __call__(self, env: Any) -> Any:
        """Returns the Env or HostEnv, wrapped."""
        return _around(env, self.make)


class State(NamedTuple):
    """The state of a wrapped Env."""

    env: Tree
    memory: Tree  # [P, B, ...]

    @property
    def inner(self) -> Tree:
        """The task's own state, as in slots.EnvState."""
        return self.env.inner

    @property
    def params(self) -> Tree:
        """What the episode in progress is played by, as in slots.EnvState."""
        return self.env.params


def wrap(env: Wrapped, make: Callable[[types.EnvSpec], Wrapper]) -> Wrapped:
    """Returns the environment seen through the Wrapper that ``make`` gives for its spec.

    Tasks share code where they share ``make``.
    """
    if isinstance(env, PureTask):
        return env._replace(wrappers=(*env.wrappers, Around(make)))
    return Around(make)(env)


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
        is_scaled = Around(_own_scale) in env.wrappers
        env = env._replace(spec=scaled(env.spec))
        return env if is_scaled else wrap(env, _own_scale)
    tasks = tuple(scaled(task) for task in env.spec.tasks)
    return wrap(env, functools.partial(_scale_by, scale))._replace(
        spec=env.spec._replace(tasks=tasks)
    )


def frame_stack(env: Wrapped, frames: int) -> Wrapped:
    """Returns the environment that shows its newest ``frames`` observations at once.

    Oldest first: images along their channels, vectors one after the other. An episode
    begins with its first observation ``frames`` times. Raises ValueError unless
    ``frames`` is from 1 to 64.
    """
    errors.integer("frame_stack", frames, 1, _MOST_FRAMES)
    return wrap(env, _stacking(frames))


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
    return wrap(env, _timing(steps))


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


def _around(env: Any, make: Callable[[types.EnvSpec], Wrapper]) -> Any:
    wrapper = make(env.spec)
    arrive = jax.jit(functools.partial(_arrive, wrapper))
    if isinstance(env, types.HostEnv):
        return _around_host(env, wrapper.spec, arrive)

    def reset(key: Key, params: Tree = ()) -> tuple[State, types.TimeStep]:
        state, ts = env.reset(key, params)
        # Not the environment's own buffers: a runner may donate both.
        memory, ts = tree.copy(arrive(None, ts))
        return State(state, memory), ts

    def step(
        state: State, action: Array, params: Tree = ()
    ) -> tuple[State, types.TimeStep]:
        inner, ts = env.step(state.env, action, params)
        memory, ts = arrive(state.memory, ts)
        return State(inner, memory), ts

    # What a family hangs on its step (envpool: the pool to close).
    vars(step).update(vars(env.step))
    return env._replace(
        spec=wrapper.spec,
        reset=reset,
        step=step,
        info=lambda state: env.info(state.env),
        render=lambda state, member, slot: env.render(state.env, member, slot),
    )


def _around_host(env: types.HostEnv, spec: types.EnvSpec, arrive: Callable) -> Any:
    held: dict[str, Tree] = {"memory": None}

    def seen(ts: types.TimeStep) -> types.TimeStep:
        held["memory"], ts = arrive(held["memory"], ts)
        return ts

    def reset() -> types.TimeStep:
        held["memory"] = None
        return seen(env.reset())

    return env._replace(spec=spec, reset=reset, recv=lambda: seen(env.recv()))


def _arrive(
    wrapper: Wrapper, memory: Tree, ts: types.TimeStep
) -> tuple[Tree, types.TimeStep]:
    """Returns (memory, time step) ``[P, B, ...]``; memory is None after a reset."""
    ts = jax.tree.map(jnp.asarray, ts)
    fresh = jax.vmap(jax.vmap(wrapper.init))(ts)
    memory = fresh if memory is None else tree.where(ts.first, fresh, memory)
    return jax.vmap(jax.vmap(wrapper.step))(memory, ts)


def _own_scale(spec: types.EnvSpec) -> Wrapper:
    """Returns the Wrapper that scales by what each task's spec says."""
    scales = jnp.asarray([task.reward_scale for task in spec.tasks], jnp.float32)

    def step(memory, ts):
        return memory, ts._replace(reward=ts.reward * scales[ts.task])

    return Wrapper(spec, lambda ts: (), step)


def _scale_by(scale: float, spec: types.EnvSpec) -> Wrapper:
    def step(memory, ts):
        return memory, ts._replace(reward=ts.reward * jnp.float32(scale))

    return Wrapper(spec, lambda ts: (), step)


@functools.cache
def _stacking(frames: int) -> Callable[[types.EnvSpec], Wrapper]:
    def make(spec: types.EnvSpec) -> Wrapper:
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

        return Wrapper(_observing(spec, more), init, step)

    return make


@functools.lru_cache(maxsize=None, typed=True)  # 1 is not True
def _timing(steps: int | bool) -> Callable[[types.EnvSpec], Wrapper]:
    def make(spec: types.EnvSpec) -> Wrapper:
        longest = [task.max_steps if steps is True else steps for task in spec.tasks]
        unit = jnp.asarray(longest, jnp.float32)

        def more(obs: dict[str, jax.ShapeDtypeStruct]) -> dict:
            size = obs["vector"].shape[0] if "vector" in obs else 0
            return {**obs, "vector": jax.ShapeDtypeStruct((size + 1,), jnp.float32)}

        def step(time, ts):
            vector = ts.obs.get("vector", jnp.zeros(0))
            shown = jnp.append(vector, time.astype(jnp.float32) / unit[ts.task])
            return time + 1, ts._replace(obs={**ts.obs, "vector": shown})

        return Wrapper(_observing(spec, more), lambda ts: jnp.int32(0), step)

    return make


def _observing(spec: types.EnvSpec, more: Callable[[dict], dict]) -> types.EnvSpec:
    """Returns the spec with ``more(obs)`` of its own and of each task."""
    tasks = tuple(task._replace(obs=more(task.obs)) for task in spec.tasks)
    return spec._replace(obs=more(spec.obs), tasks=tasks)
