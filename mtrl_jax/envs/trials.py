"""Trials: several episodes of one task, played as a single one.

An agent with memory that learns from trials is paid for finding out in the first
episodes what it needs in the later ones: RL² (Duan et al. 2016, arXiv:1611.02779; Wang
et al. 2016, arXiv:1611.05763). A trial begins with its first episode and ends with its
last, terminal if that is; in between they follow each other within a step, whose reward
is that of the one that ended and whose observation is the first of the next.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import errors, tree, types
from mtrl_jax.envs import observations
from mtrl_jax.types import Array, Key, Scalar, Tree

if TYPE_CHECKING:
    from mtrl_jax.envs.core import PureTask

_LONGEST = 10_000


class State(NamedTuple):
    """A trial so far."""

    episode: Array  # [] int32, episodes that have ended
    over: Array  # bool, the next one is to begin
    total: Array  # float32, the return so far of the one in progress
    measures: dict[str, Array]  # float32, of the one that ended last, 0 before there is
    inner: Tree  # the task's own state


def of(task: PureTask, n: int) -> PureTask:
    """Returns the task of which an episode is ``n`` episodes of ``task``.

    What an episode is about stays for all n: params are dealt once a trial. Also observed,
    as the last number of "vector", is whether an episode begins. Scores and longest
    episode are n times as large. Measures are those of the episode that ended last, with
    its return (``episode_return``), and how many have ended (``trial_episode``). Trials
    of tasks that share their functions share theirs.

    Raises ValueError for an ``n`` below 1 and for a trial of trials.
    """
    errors.integer("options.trial", n, 1, _LONGEST)
    spec = task.spec
    if spec.trial > 1:
        raise ValueError(f"trial: {spec.name} is one of {spec.trial} episodes already")
    functions = (task.reset, task.step, task.action_mask, task.info, task.renew)
    code = _code(_Functions(*functions, task.wants_renewal), n)
    vector = spec.obs.get("vector", _struct(0)).shape[0]
    spec = spec._replace(
        obs=spec.obs | {"vector": _struct(vector + 1)},
        random_score=_times(spec.random_score, n),
        reference_score=_times(spec.reference_score, n),
        max_steps=_times(spec.max_steps, n),
        trial=n,
        measures=(*spec.measures, "episode_return", "trial_episode"),
    )
    return task._replace(
        spec=spec,
        **code._asdict(),
        observe=None,  # What is seen is more than what the state of the task says.
        render=task.render and functools.partial(_render, task.render),
    )


def per_episode(spec: types.EnvSpec) -> types.EnvSpec:
    """Returns the spec with scores and longest episode of the episodes within trials."""
    tasks = [
        task._replace(
            random_score=_times(task.random_score, 1 / task.trial),
            reference_score=_times(task.reference_score, 1 / task.trial),
            max_steps=task.max_steps and task.max_steps // task.trial,
        )
        for task in spec.tasks
    ]
    return spec._replace(tasks=tuple(tasks))


class _Functions(NamedTuple):
    """What a task does; hashable."""

    reset: Callable
    step: Callable
    action_mask: Callable | None
    info: Callable | None
    renew: Callable | None
    wants_renewal: Callable | None


@functools.cache
def _code(task: _Functions, n: int) -> _Functions:
    """Returns the functions of trials; cached, so that tasks of one code still share it.

    The next episode begins by renewal, which slots that want none do not pay for.
    """

    def measured(inner: Tree, total: Scalar, params: Tree) -> dict[str, Array]:
        own = {} if task.info is None else task.info(inner, params)
        own = {**own, "episode_return": total}
        return {name: jnp.asarray(x, jnp.float32) for name, x in own.items()}

    def reset(key: Key, params: Tree):
        inner, obs = task.reset(key, params)
        none = {
            name: jnp.zeros_like(x) for name, x in measured(inner, 0.0, params).items()
        }
        state = State(jnp.int32(0), jnp.bool_(False), jnp.float32(0), none, inner)
        return state, _observed(obs, True)

    def step(key: Key, state: State, action: Array, params: Tree):
        inner, obs, reward, terminated, truncated = task.step(
            key, state.inner, action, params
        )
        ended = jnp.asarray(terminated) | jnp.asarray(truncated)
        total, episode = state.total + reward, state.episode + ended
        last = episode >= n
        measures = tree.where(ended, measured(inner, total, params), state.measures)
        total = jnp.where(ended, 0.0, total)
        state = State(episode, ended & ~last, total, measures, inner)
        return state, _observed(obs, False), reward, terminated & last, truncated & last

    def wants_renewal(state: State) -> Array:
        if task.wants_renewal is None:
            return state.over
        return state.over | task.wants_renewal(state.inner)

    def renew(state: State, begun: tuple[State, Tree], params: Tree):
        fresh, shown = begun
        own = fresh.inner, {**shown, "vector": shown["vector"][:-1]}
        renewed = own if task.renew is None else task.renew(state.inner, own, params)
        inner, obs = tree.where(
            state.over, (fresh.inner, shown), (renewed[0], _observed(renewed[1], False))
        )
        return state._replace(over=jnp.bool_(False), inner=inner), obs

    def action_mask(state: State, params: Tree) -> Array:
        assert task.action_mask is not None
        return task.action_mask(state.inner, params)

    def info(state: State, params: Tree) -> dict[str, Array]:
        return {**state.measures, "trial_episode": state.episode}

    mask = None if task.action_mask is None else action_mask
    return _Functions(reset, step, mask, info, renew, wants_renewal)


def _observed(obs: Tree, begins: Array | bool) -> dict[str, Array]:
    obs = observations.canonical(obs)
    vector = obs.get("vector", jnp.zeros(0))
    return {**obs, "vector": jnp.append(vector, jnp.asarray(begins, vector.dtype))}


def _render(draw: Callable, state: State, params: Tree) -> Any:
    return draw(state.inner, params)


def _times(value: Any, n: float) -> Any:
    return None if value is None else value * n


def _struct(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((size,), jnp.float32)
