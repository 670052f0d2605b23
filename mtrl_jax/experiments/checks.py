"""What can be found out about an agent and PBT without compiling anything."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import checkpoint, errors, types
from mtrl_jax.config import agent_settings
from mtrl_jax.experiments import agent_checks


class Sizes(NamedTuple):
    """Bytes of one member."""

    learner: int
    rollout: int  # [T, B]


class Traced(NamedTuple):
    """What is known of an agent once an update of it was traced."""

    metrics: dict[str, Any]  # their shapes
    sizes: Sizes
    drawn: int = 0  # bytes of what its replay draws for an update


def check_agent(
    agent: types.Agent,
    config: Any,
    spec: types.EnvSpec,
    slots: int,
    length: int,
    extras: types.Tree = None,
) -> Traced:
    """Returns what is known of an agent that can act and learn on rollouts ``[T, B]``.

    ``length`` is T, ``slots`` is B; ``extras`` [T, B, ...] stand in the place of what
    its own acting gives, as those of a dataset do: then it learns without its replay.

    One update is traced, nothing is compiled: what an agent finds out about its sizes
    when it is traced is found out here, and not when the run folder exists.

    Raises:
      ConfigError: it does not do what types.Agent says, or is not the package's and fails.
      ValueError: whatever the agent has against them.
    """

    def update(key, hp, step, ts, unroll, extras):
        learner = agent.init(key, hp)
        fresh, batch = learner, _acted(agent, learner, key, hp, ts, unroll)
        rollout, drawn = batch, ()
        if extras is not None:
            batch = batch._replace(extras=extras)
        elif agent.replay is not None:
            memory = agent.replay.init(slots)
            memory, batch = agent.replay.observe(memory, batch, key, hp, step)
            drawn = batch
        learner, metrics, feedback = agent.update(learner, batch, key, hp, step)
        if extras is None and agent.replay is not None:
            agent.replay.feedback(memory, feedback)
        return metrics, fresh, rollout, drawn

    name, given = config.agent.name, (*_arguments(config, spec, slots, length), extras)
    agent = agent_checks.checked(agent, f"agent.name={name!r}", spec.action)
    with agent_checks.errors_named(name, agent_settings.config(config)):
        metrics, *parts = jax.eval_shape(update, *given)
    learner, rollout, drawn = map(checkpoint.bytes_of, parts)
    return Traced(metrics, Sizes(learner, rollout), drawn)


def check_counts(config: Any, slots: int, updates: int) -> None:
    """Raises ConfigError unless what is counted in int32 can be.

    That are the steps of an update, ``slots`` in all, and a run's ``updates``.
    """
    most, length = 2**31 - 1, config.training.unroll_length
    if slots * length > most:
        raise errors.ConfigError(
            f"training.unroll_length={length}: of {slots} slots these are "
            f"{slots * length} steps an update; give at most {most // slots}"
        )
    if updates > most:
        raise errors.ConfigError(
            f"training.env_steps={config.training.env_steps}: {updates} updates; give at "
            f"most {most * slots * length}, or longer unrolls"
        )


def sizes_of(
    agent: types.Agent, config: Any, spec: types.EnvSpec, slots: int, length: int
) -> Sizes:
    """Returns the bytes of one member's learner and rollout ``[T, B]``, see check_agent.

    Without an update, which takes longest to trace.
    """

    def begin(key, hp, step, ts, unroll):
        del step
        learner = agent.init(key, hp)
        return learner, _acted(agent, learner, key, hp, ts, unroll)

    given = _arguments(config, spec, slots, length)
    return Sizes(*map(checkpoint.bytes_of, jax.eval_shape(begin, *given)))


def check_learns_from_rollouts(
    agent: types.Agent, config: Any, spec: types.EnvSpec, slots: int, length: int
) -> None:
    """Raises ConfigError unless the agent's ``update`` takes rollouts as a dataset has.

    It does without a replay, and with one that draws a single Rollout ``[T, B]``.
    """
    replay = agent.replay
    if replay is None:
        return

    def observed(key, hp, step, ts, unroll):
        rollout = _acted(agent, agent.init(key, hp), key, hp, ts, unroll)
        return replay.observe(replay.init(slots), rollout, key, hp, step)[1]

    batch = jax.eval_shape(observed, *_arguments(config, spec, slots, length))
    if isinstance(batch, types.Rollout) and len(batch.ts.reward.shape) == 2:
        return
    raise errors.ConfigError(
        f"agent.name={config.agent.name!r} learns from batches that its replay draws, a "
        "dataset gives plain windows; give an agent that learns from these, such as "
        "behaviour_cloning"
    )


def check_starts(config: Any, updates: int, steps: int) -> None:
    """Raises ConfigError unless a run goes on until its agent learns.

    It has so many ``updates`` of so many ``steps`` of a member; agents say for how long
    they wait (``AgentInfo.waits``).
    """
    info = agent_settings.module(config).INFO
    for name, wait in info.waits(agent_settings.config(config)).items():
        waits, most = wait.updates, updates - 1
        if wait.steps:
            waits, most = wait.steps, most * steps
        if waits > most:
            raise errors.ConfigError(
                f"agent.config.{name}={waits}: the run has {updates} updates of {steps} "
                f"steps and would learn nothing; give at most {most}, or more "
                "training.env_steps"
            )


def kept_by_slot(config: Any, slots: int) -> int:
    """Returns of how many episodes a slot keeps the returns; ``slots`` of a task, fewest."""
    return math.ceil(config.population.fitness.window / slots)


def check_rounds(config: Any, slots: int) -> None:
    """Raises ValueError unless members can have the episodes that PBT asks of them.

    Judged by fewer than ``min_episodes``, none would ever be copied. ``slots`` are those
    of the task with fewest.
    """
    settings, choice = config.population.pbt, config.population.fitness
    if settings is None or settings.exploit == "none":
        return
    where = f"population.fitness.window={choice.window} in {slots} slots"
    known = kept_by_slot(config, slots) * slots
    if choice.source == "evaluation":
        where, known = "evaluation.episodes", config.evaluation.episodes
    if settings.min_episodes > known:
        raise ValueError(
            f"population.pbt.min_episodes={settings.min_episodes}: members are judged by "
            f"{known} episodes of a task ({where}), so none would ever be copied; give "
            f"at most {known}, or more of these"
        )


def _arguments(config: Any, spec: types.EnvSpec, slots: int, length: int) -> tuple:
    """Returns shapes (key, hp, step, ts ``[B]``, ts ``[T + 1, B]``) to trace with."""
    return (
        *key_and_hparams(config),
        jax.ShapeDtypeStruct((), jnp.int32),
        time_step_shapes(spec, slots),
        time_step_shapes(spec, length + 1, slots),
    )


def key_and_hparams(config: Any) -> tuple[types.Key, types.Tree]:
    """Returns a key and the configured hyperparameters of one member."""
    hp = jax.tree.map(jnp.float32, agent_settings.hparams(config))
    return jax.random.key(0), hp


def _acted(
    agent: types.Agent,
    learner: types.Tree,
    key: types.Key,
    hp: types.Tree,
    ts: types.TimeStep,
    unroll: types.TimeStep,
) -> types.Rollout:
    """Returns a rollout over ``unroll`` [T + 1, B] of what the agent does at ``ts``."""
    length, slots = unroll.reward.shape[0] - 1, unroll.reward.shape[1]
    carry = agent.carry(slots)
    action, _, extras = agent.act(learner, carry, ts, key, hp)
    action, extras = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (length, *x.shape)), (action, extras)
    )
    return types.Rollout(unroll, action, extras, carry)


def time_step_shapes(spec: types.EnvSpec, *leading: int) -> types.TimeStep:
    """Returns the ShapeDtypeStructs of time steps ``[*leading, ...]``."""

    def leaf(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((*leading, *shape), dtype)

    return types.TimeStep(
        obs={name: leaf(x.dtype, *x.shape) for name, x in spec.obs.items()},
        reward=leaf(jnp.float32),
        discount=leaf(jnp.float32),
        first=leaf(jnp.bool_),
        last=leaf(jnp.bool_),
        task=leaf(jnp.int32),
        action_mask=leaf(jnp.bool_, types.action_mask_size(spec.action)),
    )
