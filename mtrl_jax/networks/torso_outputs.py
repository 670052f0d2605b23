"""A network's torso by itself: what its core would be given of each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from mtrl_jax import types
from mtrl_jax.networks import network_module, torsos
from mtrl_jax.networks.network_config import NetworkConfig
from mtrl_jax.types import Array, Tree


class TorsoOutputs(NamedTuple):
    """Of the torso of one network, whose parameters have it as ``torso``.

    ``apply(params, ts, previous)`` returns its features ``[T, B, size]``; ``previous``
    are the actions before each step.
    """

    apply: Callable[[Tree, types.TimeStep, Array], Array]
    size: int
    units: int  # the first features, which are no inputs that join them as they are


def make(spec: types.EnvSpec, config: NetworkConfig) -> TorsoOutputs:
    """Returns the TorsoOutputs of ``actor_critic.make(spec, config)``."""
    config, tasks = torsos.resolved(config, spec.obs), len(spec.tasks)
    torso = network_module.torso_of(config, "torso", tasks)

    def side(ts: types.TimeStep, previous: Array) -> Array:
        return network_module.side_inputs(config, spec.action, tasks, ts, previous)

    def apply(params: Tree, ts: types.TimeStep, previous: Array) -> Array:
        given = ts.obs, side(ts, previous), ts.task
        features: Any = torso.apply({"params": params["torso"]}, *given)
        return features

    def sizes() -> tuple[Array, Array]:
        ts, previous = network_module.dummy(spec)
        joining = side(ts, previous)
        given = jax.random.key(0), ts.obs, joining, ts.task
        features: Any = torso.init_with_output(*given)[0]
        return features, joining

    size, joining = (x.shape[-1] for x in jax.eval_shape(sizes))
    joins = torsos.joins_features(config.torso, spec.obs)
    return TorsoOutputs(apply, size, size - joining if joins else size)
