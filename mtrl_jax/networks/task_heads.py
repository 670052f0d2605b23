"""A network that says something of every action: torso, core, a head for each task.

    features = torso(obs, side)     h, state = core(features, state)
    y = relu(W_k h + b_k)           outputs = U_k y + c_k           of task k

A head decides on its task's own actions alone, so that games with three and with
eighteen actions have heads of three and of eighteen outputs. Without a hidden layer it
reads h. A single head for all tasks has an output for every action there is.

For a student that also predicts its teachers' features (Parisotto et al. 2016,
arXiv:1511.06342, section 3.2), f = F_k h + d_k, which its outputs do not read.

Ref: Rusu et al. 2016, "Policy Distillation" (arXiv:1511.06295), figure 1b: a trunk and a
"controller layer" for each task.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.linen as nn
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.networks import (
    cores,
    initialisers,
    network_config,
    network_module,
    product,
    sequence_conv,
    torsos,
)
from mtrl_jax.networks.network_config import NetworkConfig
from mtrl_jax.types import Array, Key, Tree

# Of an action that its task has not; it is masked wherever it is read.
ABSENT = 0.0
_NOTED = "noted"  # flax's collection; nothing is kept where it is not asked for


class Network(NamedTuple):
    """``init(key)`` returns parameters, ``initial_state(batch)`` memories.

    ``unroll(params, state, ts, prev_action)`` returns (outputs [T, B, A], state) of a
    TimeStep ``[T, B]``; ``prev_action[t]`` led to ``ts[t]``. ``predict`` takes the same
    and returns (outputs, predicted features [T, B, F]) of a network that has these.
    """

    init: Callable[[Key], Tree]
    initial_state: Callable[[int], Tree]
    unroll: Callable[[Tree, Tree, types.TimeStep, Array], tuple[Array, Tree]]
    predict: Callable[[Tree, Tree, types.TimeStep, Array], tuple[Array, Array]]


def make(
    spec: types.EnvSpec,
    config: NetworkConfig,
    *,
    per_task: bool,
    hidden: int,
    features: int = 0,
) -> Network:
    """Returns the network for environments of ``spec``.

    ``per_task``: a head for each task; ``hidden``: units of a head's own layer, 0: none;
    ``features``: how many a teacher has that are predicted, 0: none.

    Raises:
      ValueError: a field of the config that is unknown, too small or does not go with
        the others, a separate value, a negative ``hidden`` or ``features``.
    """
    network_config.check(config)
    network_config.check_single(config)
    if config.separate_value:
        raise ValueError("separate_value: there is no value here; leave it out")
    if hidden < 0:
        raise ValueError(f"head_hidden: got {hidden}, give 0 or a positive size")
    if features < 0:
        raise ValueError(f"feature_size: got {features}, give 0 or a positive size")
    sequence_conv.check(config.sequence, spec.obs)
    config = torsos.resolved(config, spec.obs)
    spaces = tuple(x.action for x in spec.tasks) if per_task else (spec.action,)
    module = _TaskHeads(config, spec.action, spaces, len(spec.tasks), hidden, features)

    def initial_state(batch: int) -> Tree:
        return cores.initial_state(config.core, config.core_size, batch)

    def init(key: Key) -> Tree:
        inputs = (initial_state(1), *network_module.dummy(spec))
        return module.init(key, *inputs)["params"]

    def unroll(params, state, ts, prev_action):
        chex.assert_rank(ts.first, 2)
        return module.apply({"params": params}, state, ts, prev_action)

    def predict(params, state, ts, prev_action):
        args = (state, ts, prev_action)
        (outputs, _), noted = module.apply({"params": params}, *args, mutable=[_NOTED])
        (predicted,) = noted[_NOTED]["features"]
        return outputs, predicted

    return Network(init, initial_state, unroll, predict)


class _TaskHeads(nn.Module):
    config: NetworkConfig
    space: types.ActionSpace
    spaces: tuple[types.ActionSpace, ...]  # of each head
    tasks: int
    hidden: int
    features: int

    @nn.compact
    def __call__(self, state: Tree, ts: types.TimeStep, prev_action: Array):
        config = self.config
        side = network_module.side_inputs(
            config, self.space, self.tasks, ts, prev_action
        )
        features = network_module.torso_of(config, "torso")(ts.obs, side)
        core = cores.Core(
            config.core, config.core_size, config.core_memory, name="core"
        )
        h, state = core(features, state, ts.first)
        if config.skip:
            h = jnp.concatenate([features, h], axis=-1)
        heads = range(len(self.spaces))
        if self.features:
            predicted = [
                _dense(self.features, 1.0, f"{self._name(k)}_features")(h)
                for k in heads
            ]
            self.sow(_NOTED, "features", _of_task(predicted, ts.task))
        outputs = [self._head(k, self.spaces[k], h) for k in heads]
        return _of_task(outputs, ts.task), state

    def _name(self, k: int) -> str:
        return f"task_{k}" if len(self.spaces) > 1 else "head"

    def _head(self, k: int, space: types.ActionSpace, h: Array) -> Array:
        """Returns the outputs [..., A] of head k, ABSENT where its task has no action."""
        name = self._name(k)
        if self.hidden:
            h = nn.relu(_dense(self.hidden, 2**0.5, f"{name}_hidden")(h))
        own = _dense(types.action_mask_size(space), 0.01, name)(h)
        return _padded(own, space, self.space)


def _of_task(every: list[Array], task: Array) -> Array:
    """Returns [T, B, N]: of each step that of its task, or of the only one."""
    if len(every) == 1:
        return every[0]
    stacked = jnp.stack(every, axis=-2)  # [T, B, K, N]
    return jnp.take_along_axis(stacked, task[..., None, None], axis=-2)[..., 0, :]


def _padded(x: Array, own: types.ActionSpace, space: types.ActionSpace) -> Array:
    """Returns ``x`` [..., m] of a task's space as [..., M] of the space of all."""
    if own == space:
        return x
    sizes, own_sizes = types.groups(space), types.groups(own)
    parts, start = [], 0
    for i, size in enumerate(sizes):
        n = own_sizes[i] if i < len(own_sizes) else 0
        widths = [(0, 0)] * (x.ndim - 1) + [(0, size - n)]
        part = x[..., start : start + n]
        parts.append(jnp.pad(part, widths, constant_values=ABSENT))
        start += n
    return jnp.concatenate(parts, axis=-1)


def _dense(size: int, gain: float, name: str) -> nn.Dense:
    return nn.Dense(
        size,
        kernel_init=initialisers.orthogonal(gain),
        dot_general=product.dot_general,
        name=name,
    )
