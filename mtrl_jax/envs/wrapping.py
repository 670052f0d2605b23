"""How a wrapper is put around an environment; ``wrappers`` has those that are ready-made.

A wrapper is what becomes of the time steps of one slot before an agent sees them, a
function of an EnvSpec to a ``Wrapper``:

    def negative(spec):
        def step(memory, ts):
            return memory, ts._replace(reward=-ts.reward)
        return wrapping.Wrapper(spec, lambda ts: (), step)

    task = wrapping.wrap(task, negative)

Draws and episodes stay as they were. A PureTask only notes its wrappers down: ``core``
puts them around its slots, so that tasks that differ in numbers alone still share code.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from mtrl_jax import tree, types
from mtrl_jax.envs.core import PureTask
from mtrl_jax.types import Array, Key, Tree

Wrapped = TypeVar("Wrapped", PureTask, types.Env, types.HostEnv)


class Wrapper(NamedTuple):
    """What is made of the time steps of one slot; nothing here has batch axes.

    ``init(ts)`` returns what is remembered before the first step ``ts`` of an episode,
    ``step(memory, ts)`` returns (memory, the time step as the agent sees it). Where
    ``ts.first``, memory is as ``init`` made it. It may change which actions are legal:
    ``EnvSpec.masks``, legal actions for good, stays where it hands ``action_mask`` on.
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


def observing(spec: types.EnvSpec, more: Callable[[dict], dict]) -> types.EnvSpec:
    """Returns the spec with ``more(obs)`` of its own and of each task.

    Of how many frames another image is a stack (``TaskSpec.frames``) nobody says then.

    >>> spec = types.EnvSpec({"a": 1}, None, (types.TaskSpec("x", {"a": 2}, None),))
    >>> wider = observing(spec, lambda obs: {**obs, "b": 0})
    >>> wider.obs, wider.tasks[0].obs
    ({'a': 1, 'b': 0}, {'a': 2, 'b': 0})
    """

    def seen(task: types.TaskSpec) -> types.TaskSpec:
        obs = more(task.obs)
        is_same = obs.get("image") == task.obs.get("image")
        return task._replace(obs=obs, frames=task.frames if is_same else None)

    return spec._replace(obs=more(spec.obs), tasks=tuple(map(seen, spec.tasks)))


def _around(env: Any, make: Callable[[types.EnvSpec], Wrapper]) -> Any:
    wrapper = make(env.spec)
    if not _hands_masks_on(wrapper, env.spec):
        wrapper = wrapper._replace(spec=wrapper.spec._replace(masks=()))
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


def _hands_masks_on(wrapper: Wrapper, spec: types.EnvSpec) -> bool:
    """Returns whether legal actions are those of the environment, found out by tracing."""

    number, flag = jnp.zeros(()), jnp.bool_(False)
    mask = jnp.ones(types.action_mask_size(spec.action), bool)
    ts = types.TimeStep(spec.obs, number, number, flag, flag, jnp.int32(0), mask)

    def seen(ts: types.TimeStep) -> Array:
        return wrapper.step(wrapper.init(ts), ts)[1].action_mask

    program = jax.make_jaxpr(seen)(ts).jaxpr
    return program.outvars[0] is program.invars[-1]


def _around_host(env: types.HostEnv, spec: types.EnvSpec, arrive: Callable) -> Any:
    held: dict[str, Tree] = {"memory": None}

    def seen(ts: types.TimeStep) -> types.TimeStep:
        held["memory"], ts = arrive(held["memory"], ts)
        return ts

    def afresh(reset: Callable[..., types.TimeStep], *keys: Any) -> types.TimeStep:
        held["memory"] = None
        return seen(reset(*keys))

    return env._replace(
        spec=spec,
        reset=functools.partial(afresh, env.reset),
        recv=lambda: seen(env.recv()),
        restart=env.restart and functools.partial(afresh, env.restart),
    )


def _arrive(
    wrapper: Wrapper, memory: Tree, ts: types.TimeStep
) -> tuple[Tree, types.TimeStep]:
    """Returns (memory, time step) ``[P, B, ...]``; memory is None after a reset."""
    ts = jax.tree.map(jnp.asarray, ts)
    fresh = jax.vmap(jax.vmap(wrapper.init))(ts)
    memory = fresh if memory is None else tree.where(ts.first, fresh, memory)
    return jax.vmap(jax.vmap(wrapper.step))(memory, ts)
