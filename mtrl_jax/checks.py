"""What can be found out about an agent and PBT without compiling anything."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import config as config_lib
from mtrl_jax import types


def check_agent(
    agent: types.Agent,
    config: Any,
    spec: types.EnvSpec,
    slots: int,
    length: int,
    extras: types.Tree = None,
) -> dict[str, Any]:
    """Returns the metrics' shapes if the agent can act and learn on rollouts ``[T, B]``.

    ``length`` is T, ``slots`` is B; ``extras`` [T, B, ...] stand in the place of what
    its own acting gives, as those of a dataset do.

    One update is traced, nothing is compiled: what an agent finds out about its sizes
    when it is traced is found out here, and not when the run folder exists.

    Raises:
      ValueError: whatever the agent has against them.
    """

    def update(key, hp, ts, unroll):
        state, carry = agent.init(key, hp), agent.carry(slots)
        action, _, own = agent.act(state, carry, ts, key, hp)
        action, own = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (length, *x.shape)), (action, own)
        )
        rollout = types.Rollout(
            unroll, action, own if extras is None else extras, carry
        )
        return agent.update(state, rollout, key, hp)[1]

    return jax.eval_shape(
        update,
        jax.random.key(0),
        jax.tree.map(jnp.float32, config_lib.agent_hparams(config)),
        _time_step_shapes(spec, slots),
        _time_step_shapes(spec, length + 1, slots),
    )


def check_rounds(config: Any) -> None:
    """Returns nothing if members can ever have the episodes that PBT asks of them.

    Raises:
      ValueError: they are judged by fewer than ``min_episodes``, so none would be copied.
    """
    settings, choice = config.population.pbt, config.population.fitness
    if settings is None or settings.exploit == "none":
        return
    where, known = "population.fitness.window", choice.window
    if choice.source == "evaluation":
        where, known = "evaluation.episodes", config.evaluation.episodes
    if settings.min_episodes > known:
        raise ValueError(
            f"population.pbt.min_episodes={settings.min_episodes}: members are judged by "
            f"{known} episodes of a task ({where}), so none would ever be copied; give "
            f"at most {known}, or more of these"
        )


def _time_step_shapes(spec: types.EnvSpec, *leading: int) -> types.TimeStep:
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
