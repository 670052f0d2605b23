"""Environments that say what is best to do, for an agent that demonstrates it.

The observation gets one leaf more, ``types.OPTIMAL``. Who collects histories leaves it
out of what is written down, unless it is asked for as a label: those who learn from them
must not see it.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.types import Array, Tree


def give(env: types.Env, optimal: Callable[[Tree], Array]) -> types.Env:
    """Returns ``env`` with the action ``optimal(env state)`` [P, B] as an observation.

    Everything else, every draw included, stays as it was.
    """

    def labelled(state: Tree, ts: types.TimeStep) -> tuple[Tree, types.TimeStep]:
        best = optimal(state).astype(jnp.int32)
        return state, ts._replace(obs={**ts.obs, types.OPTIMAL: best})

    return env._replace(
        spec=_with(env.spec, {types.OPTIMAL: jax.ShapeDtypeStruct((), jnp.int32)}),
        reset=lambda key, params: labelled(*env.reset(key, params)),
        step=lambda state, action, params: labelled(*env.step(state, action, params)),
    )


def without(spec: types.EnvSpec) -> types.EnvSpec:
    """Returns the spec without the labels, whether it has them or not."""
    return _with(spec, {})


def _with(spec: types.EnvSpec, more: Tree) -> types.EnvSpec:
    def changed(obs: Tree) -> Tree:
        kept = {name: x for name, x in obs.items() if name != types.OPTIMAL}
        return {**kept, **more}

    tasks = tuple(task._replace(obs=changed(task.obs)) for task in spec.tasks)
    return spec._replace(obs=changed(spec.obs), tasks=tasks)
