"""Fixed types for environments: what a scan's carry and a cond's branches must have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.envs import observations
from mtrl_jax.types import Array, Tree


def fixed(task: Any) -> tuple[Callable, Callable, Callable]:
    """Returns reset, step and renew of a PureTask whose outputs have the same types.

    A scan and a cond need it; environments often begin with a Python 0 where a step
    returns float32. A state leaf gets the type that holds both. Observations are () of
    a task with ``observe``. Raises ValueError where observations or legal actions are
    not those of the spec.
    """
    key, params = jax.random.key(0), as_arrays(task.params)
    action = types.action_shape(task.spec.action)
    state, obs = jax.eval_shape(task.reset, key, params)
    stepped = jax.eval_shape(task.step, key, state, action, params)
    _check_observation(task.spec, obs)
    _check_observation(task.spec, stepped[1])
    dtypes = jax.tree.map(_common_dtype, state, stepped[0])

    def cast(state):
        return jax.tree.map(astype, state, dtypes)

    if task.observe is not None:
        seen = jax.eval_shape(lambda x, p: task.observe(cast(x), p), state, params)
        _check_observation(task.spec, seen)
    if task.action_mask is not None:
        mask = jax.eval_shape(lambda x, p: task.action_mask(cast(x), p), state, params)
        _check_mask(task.spec, mask)

    def canonical(obs):
        return observations.canonical(obs) if task.observe is None else ()

    def reset(key, params):
        state, obs = task.reset(key, params)
        return cast(state), canonical(obs)

    def step(key, state, action, params):
        state, obs, reward, terminated, truncated = task.step(
            key, state, action, params
        )
        obs = canonical(obs)
        reward = astype(reward, jnp.float32)
        return (
            cast(state),
            obs,
            reward,
            astype(terminated, bool),
            astype(truncated, bool),
        )

    def renew(state, begun, params):
        state, obs = task.renew(state, begun, params)
        return cast(state), canonical(obs)

    return reset, step, renew


def _common_dtype(x: jax.ShapeDtypeStruct, y: jax.ShapeDtypeStruct) -> Any:
    if x.shape != y.shape:
        raise ValueError(
            f"state: a leaf is {list(x.shape)} after reset and {list(y.shape)} after "
            "step; give it one shape"
        )
    # Key types cannot be promoted, and need not be.
    return x.dtype if x.dtype == y.dtype else jnp.promote_types(x.dtype, y.dtype)


def astype(x: Any, dtype: Any) -> Array:
    """Returns ``x``, a number or an array, as a strongly typed array of ``dtype``."""
    return jax.lax.convert_element_type(x, dtype) if _needs_cast(x, dtype) else x


def _needs_cast(x: Any, dtype: Any) -> bool:
    # Weak types differ from strong ones in a carry, so they are cast as well.
    return not isinstance(x, jax.Array) or x.dtype != dtype or jax.typeof(x).weak_type


def as_arrays(params: Tree) -> Tree:
    """Returns the tree with Python numbers turned into arrays of JAX's default types."""
    return jax.tree.map(lambda x: astype(x, jnp.asarray(x).dtype), params)


def _check_observation(spec: types.TaskSpec, obs: Tree) -> None:
    got = jax.eval_shape(observations.canonical, obs)
    want = {k: (v.shape, v.dtype) for k, v in spec.obs.items()}
    if {k: (v.shape, v.dtype) for k, v in got.items()} != want:
        raise ValueError(
            f"{spec.name}: observations are {got}, its spec says {spec.obs}"
        )


def _check_mask(spec: types.TaskSpec, mask: Any) -> None:
    want = f"bool[{types.action_mask_size(spec.action)}]"
    got = f"a {type(mask).__name__}"
    if hasattr(mask, "shape"):
        got = f"{mask.dtype}[{', '.join(map(str, mask.shape))}]"
    if got != want:
        raise ValueError(f"action_mask is {got}, give {want}")
