"""Actor-critics as one flax module: a single one, or several that share parts.

    features = torso(obs, side)     h, state = core(features, state)
    policy = linear(h)              value = linear(h)

A net names its parts; nets whose parts have the same name share them. Everything is
time-major ``[T, B]``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.networks import cores, heads, initialisers, layers, product, torsos
from mtrl_jax.networks.network_config import NetworkConfig
from mtrl_jax.types import Array, Tree


class PolicyValue(NamedTuple):
    """What a net says of each step."""

    policy: Array  # [T, B, policy_params_size(space)]
    value: Array  # [T, B], or [T, B, num_values]
    features: Array  # [T, B, F] that the policy's head reads


class Stream(NamedTuple):
    """What a head reads, and the memory that goes with it: names of torso and core."""

    torso: str
    core: str

    @property
    def name(self) -> str:
        """Its name in a network's state."""
        return f"{self.torso}/{self.core}"


class Net(NamedTuple):
    """One actor-critic: its settings, and the names of its parts."""

    config: NetworkConfig  # torso chosen
    space: types.ActionSpace  # what the policy's head decides on
    policy: str
    value: str
    of_policy: Stream
    of_value: Stream  # the same, unless the value is separate


def net_of(
    config: NetworkConfig,
    space: types.ActionSpace,
    torso: str = "torso",
    core: str = "core",
    policy: str = "policy",
    value: str = "value",
) -> Net:
    """Returns the net with parts of these names; ``config.torso`` has been chosen."""
    own = "value_" if config.separate_value else ""
    streams = Stream(torso, core), Stream(own + torso, own + core)
    return Net(config, space, policy, value, *streams)


def initial_state(nets: Sequence[Net], batch: int) -> dict[str, Tree]:
    """Returns the memories of ``batch`` fresh slots, by the names of the streams."""
    return {
        stream.name: cores.initial_state(net.config.core, net.config.core_size, batch)
        for net in nets
        for stream in (net.of_policy, net.of_value)
    }


class ActorCritics(nn.Module):
    """Returns (a PolicyValue for each net, state) of inputs ``[T, B]``.

    What is the same for two nets is computed once. Every memory advances on every step.
    The heads of a single net are parts of the network itself; of several each is a
    module of its own.
    """

    nets: tuple[Net, ...]
    space: types.ActionSpace
    num_tasks: int
    num_values: int | None = None
    is_single: bool = False

    @nn.compact
    def __call__(self, state: Tree, ts: types.TimeStep, prev_action: Array):
        common = self.nets[0].config
        side = side_inputs(common, self.space, self.num_tasks, ts, prev_action)
        parts = _bodies(self.nets, self.num_tasks) | self._heads(ts.task)
        seen: dict[str, Array] = {}  # by torso
        read: dict[str, Array] = {}  # by stream
        said: dict[tuple[str, str], Array] = {}  # by stream and head
        after: dict[str, Tree] = {}
        for net in self.nets:
            for stream, head in (
                (net.of_policy, net.policy),
                (net.of_value, net.value),
            ):
                at = stream.name
                if stream.torso not in seen:
                    seen[stream.torso] = parts[stream.torso](ts.obs, side, ts.task)
                if at not in read:
                    features = seen[stream.torso]
                    hidden, after[at] = parts[stream.core](
                        features, state[at], ts.first
                    )
                    skipped = [features] if net.config.skip else []
                    read[at] = _joined([*skipped, hidden])
                if (at, head) not in said:
                    said[at, head] = parts[head](read[at])
        outputs = tuple(
            PolicyValue(
                said[net.of_policy.name, net.policy],
                said[net.of_value.name, net.value],
                read[net.of_policy.name],
            )
            for net in self.nets
        )
        return outputs, after

    def _heads(self, task: Array) -> dict[str, Callable[[Array], Array]]:
        """Returns the heads by name; ``task`` [T, B] is of those a task has its own of."""
        makers: dict[str, Callable[..., Any]] = {}
        for net in self.nets:
            if self.is_single:
                own = _Own(task, self.num_tasks) if net.config.task_heads else None
                return {
                    net.policy: functools.partial(
                        policy_head, self, net.space, own=own
                    ),
                    net.value: functools.partial(
                        value_head, num_values=self.num_values, own=own
                    ),
                }
            makers.setdefault(net.policy, functools.partial(_PolicyHead, net.space))
            makers.setdefault(net.value, functools.partial(_ValueHead, self.num_values))
        return {name: make(name=name) for name, make in makers.items()}


def _bodies(nets: Sequence[Net], num_tasks: int) -> dict[str, Callable[..., Any]]:
    """Returns torsos and cores by name; a shared one is made once."""
    made: dict[str, Callable[..., Any]] = {}
    for net in nets:
        config = net.config
        for torso, core in (net.of_policy, net.of_value):
            if torso not in made:
                made[torso] = torso_of(config, torso, num_tasks)
            if core not in made:
                made[core] = cores.Core(
                    config.core, config.core_size, config.core_memory, name=core
                )
    return made


def torso_of(config: NetworkConfig, name: str, num_tasks: int = 1) -> torsos.Torso:
    """Returns the torso of settings whose torso has been chosen."""
    return torsos.Torso(
        config.torso,
        config.hidden,
        config.activation,
        config.convolution,
        filters=config.filters,
        features=config.features,
        sharing=config.sharing,
        tasks=num_tasks,
        experts=config.experts,
        modules=config.modules,
        sequence=config.sequence,
        dtype=layers.fast_dtype(config.dtype),
        name=name,
    )


def _joined(parts: list[Array]) -> Array:
    return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


class _Own(NamedTuple):
    """Which of the heads of so many tasks each step reads."""

    task: Array  # [T, B] int32
    tasks: int

    def of(self, x: Array) -> Array:
        """Returns ``[T, B, n]`` of each step's task, of ``[T, B, tasks · n]``."""
        each = x.reshape(*self.task.shape, self.tasks, -1)
        return jnp.take_along_axis(each, self.task[..., None, None], axis=2)[:, :, 0]


class _PolicyHead(nn.Module):
    """The policy's raw parameters; a Gaussian's deviations are in here too."""

    space: types.ActionSpace

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        return policy_head(self, self.space, hidden)


class _ValueHead(nn.Module):
    num_values: int | None

    @nn.compact
    def __call__(self, hidden: Array) -> Array:
        return value_head(hidden, self.num_values)


def side_inputs(
    config: NetworkConfig,
    space: types.ActionSpace,
    num_tasks: int,
    ts: types.TimeStep,
    prev_action: Array,
) -> Array:
    """Returns the inputs beside the observation, [T, B, S]: task, last action, reward."""
    parts = [jnp.zeros((*ts.first.shape, 0))]
    if config.task_embedding:
        parts.append(jax.nn.one_hot(ts.task, num_tasks))
    if config.last_action_reward:
        action = heads.encode(space, prev_action)
        reward = jnp.clip(ts.reward, -1.0, 1.0)[..., None]
        last = jnp.concatenate([action, reward], axis=-1)
        # The action before an episode's first step was ignored by the environment.
        parts.append(jnp.where(ts.first[..., None], 0.0, last))
    return jnp.concatenate(parts, axis=-1)


def policy_head(
    module: nn.Module,
    space: types.ActionSpace,
    hidden: Array,
    own: _Own | None = None,
) -> Array:
    """Returns the raw parameters of a policy, [T, B, policy_params_size(space)].

    The head is the part "policy" of ``module``; a Gaussian's log standard deviation does
    not depend on the state and is the parameter "log_std" beside it. With ``own`` there
    is one for each task, side by side.
    """
    size = types.action_mask_size(space)
    sizes = size * (own.tasks if own else 1)
    policy = _linear(sizes, gain=0.01, name="policy")(hidden)
    if isinstance(space, types.Box):
        zeros = nn.initializers.zeros_init()
        log_std = module.param("log_std", zeros, (sizes,))
        log_std = jnp.broadcast_to(log_std.reshape(1, 1, -1), policy.shape)
        parts = (own.of(x) if own else x for x in (policy, log_std))
        return jnp.concatenate([*parts], axis=-1)
    return own.of(policy) if own else policy


def value_head(
    hidden: Array, num_values: int | None = None, own: _Own | None = None
) -> Array:
    """Returns values [T, B], or [T, B, num_values]; the part is called "value".

    With ``own`` and without ``num_values`` it is the value of each step's own task.
    """
    if own and not num_values:
        return own.of(_linear(own.tasks, gain=1.0, name="value")(hidden))[..., 0]
    value = _linear(num_values or 1, gain=1.0, name="value")(hidden)
    return value if num_values else value[..., 0]


def _linear(size: int, *, gain: float, name: str) -> nn.Dense:
    return nn.Dense(
        size,
        kernel_init=initialisers.orthogonal(gain),
        dot_general=product.dot_general,
        name=name,
    )


def dummy(spec: types.EnvSpec) -> tuple[types.TimeStep, Array]:
    """Returns a TimeStep [1, 1] of zeros and the action before it, to build parameters.

    They are numpy's: making them compiles nothing.
    """

    def full(value: float, dtype: Any, shape: tuple[int, ...] = ()) -> Any:
        return np.full((1, 1, *shape), value, dtype)

    def zeros(struct):
        return full(0, struct.dtype, struct.shape)

    ts = types.TimeStep(
        obs={name: zeros(struct) for name, struct in spec.obs.items()},
        reward=full(0, np.float32),
        discount=full(1, np.float32),
        first=full(True, bool),
        last=full(False, bool),
        task=full(0, np.int32),
        action_mask=full(True, bool, (types.action_mask_size(spec.action),)),
    )
    return ts, zeros(types.action_shape(spec.action))
