"""The actor-critic network: torso, core, policy and value heads for one EnvSpec.

    features_t = torso(obs_t, side_t)     side: task, last action, last reward
    h_t, state_t = core(features_t, state_tm1)
    policy_t = linear(h_t), value_t = linear(h_t)

With ``skip`` the heads read [features_t, h_t], so that what takes no memory need not be
learned through it.

Everything is time-major ``[T, B]``; acting is an unroll of one step. Nothing here knows
of populations: all of it works under ``vmap`` over ``params``.

Ref: Espeholt et al. 2018, arXiv:1802.01561, figure 3. Head initialisation (orthogonal,
gain 0.01 for the policy and 1 for the value) follows common PPO practice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.networks import conv, cores, heads, initialisers, product, torsos
from mtrl_jax.types import Array, Key, Tree


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """What a network is made of; every field is static."""

    torso: str = "auto"  # see torsos.choose
    hidden: tuple[int, ...] = (64, 64)  # of the MLP that reads vectors
    activation: str = "tanh"  # of that MLP, see torsos.ACTIVATIONS
    core: str = "none"  # none, linear, lstm, gru
    core_size: int = 128
    core_memory: int = 0  # steps that a core's gates start out for, see cores; 0: few
    skip: bool = False  # the heads read the torso's features beside the core's output
    last_action_reward: bool = True  # as inputs; the reward clipped to [-1, 1]
    task_embedding: bool = False  # one-hot task as input
    separate_value: bool = False  # a torso of its own for the value; needs core "none"
    convolution: str = "auto"  # see conv.conv2d


class PolicyValue(NamedTuple):
    """What the network says of each step."""

    policy: Array  # [T, B, policy_params_size(space)]
    value: Array  # [T, B], or [T, B, num_values]


class Network(NamedTuple):
    """An actor-critic as pure functions.

    ``init(key)`` returns parameters, a dict whose "policy" and "value" are the heads.
    ``initial_state(batch)`` returns the core's state of ``batch`` fresh slots.
    ``unroll(params, state, ts, prev_action)`` returns (PolicyValue, state) of a TimeStep
    ``[T, B]``; ``prev_action[t]`` led to ``ts[t]`` and is masked where ``ts.first``.
    ``distribution(policy, action_mask, temperature=1.0)`` returns a ``heads.Policy``.
    ``recurrent`` says whether there is a memory.
    """

    init: Callable[[Key], Tree]
    initial_state: Callable[[int], Tree]
    unroll: Callable[[Tree, Tree, types.TimeStep, Array], tuple[PolicyValue, Tree]]
    distribution: Callable[..., heads.Policy]
    recurrent: bool


def make(
    spec: types.EnvSpec,
    config: NetworkConfig = NetworkConfig(),
    *,
    num_values: int | None = None,
) -> Network:
    """Returns the network for environments of ``spec``.

    ``num_values`` gives the value a last axis, for one value a task (PopArt).
    Raises ValueError for a config field that is unknown, non-positive, or does not go
    with the others or with the observations.
    """
    check(config, num_values)
    module = _ActorCritic(
        config=dataclasses.replace(config, torso=torsos.choose(config.torso, spec.obs)),
        space=spec.action,
        num_tasks=len(spec.tasks),
        num_values=num_values,
    )

    def init(key):
        state = initial_state(1)
        return module.init(key, state, *dummy(spec))["params"]

    def initial_state(batch):
        return cores.initial_state(config.core, config.core_size, batch)

    def unroll(params, state, ts, prev_action):
        chex.assert_rank(ts.first, 2)
        chex.assert_equal_shape_prefix([ts.first, prev_action], 2)
        return module.apply({"params": params}, state, ts, prev_action)

    def distribution(policy, action_mask, temperature=1.0):
        return heads.policy(spec.action, policy, action_mask, temperature)

    recurrent = cores.has_memory(config.core)
    return Network(init, initial_state, unroll, distribution, recurrent)


class _ActorCritic(nn.Module):
    """The network as a flax module; see the top of the file."""

    config: NetworkConfig
    space: types.ActionSpace
    num_tasks: int
    num_values: int | None

    @nn.compact
    def __call__(self, state: Tree, ts: types.TimeStep, prev_action: Array):
        config = self.config
        side = side_inputs(config, self.space, self.num_tasks, ts, prev_action)
        features = torso(config, "torso")(ts.obs, side)  # [T, B, F]
        core = cores.Core(
            config.core, config.core_size, config.core_memory, name="core"
        )
        hidden, state = core(features, state, ts.first)
        if config.skip:
            hidden = jnp.concatenate([features, hidden], axis=-1)
        policy = policy_head(self, self.space, hidden)
        if config.separate_value:
            hidden = torso(config, "value_torso")(ts.obs, side)
        value = value_head(hidden, self.num_values)
        return PolicyValue(policy, value), state


def torso(config: NetworkConfig, name: str) -> torsos.Torso:
    """Returns the torso of ``config`` as a part called ``name`` of the module calling."""
    return torsos.Torso(
        config.torso, config.hidden, config.activation, config.convolution, name=name
    )


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


def policy_head(module: nn.Module, space: types.ActionSpace, hidden: Array) -> Array:
    """Returns the raw parameters of a policy, [T, B, policy_params_size(space)].

    The head is the part "policy" of ``module``; a Gaussian's log standard deviation does
    not depend on the state and is the parameter "log_std" beside it.
    """
    size = types.action_mask_size(space)
    policy = _linear(size, gain=0.01, name="policy")(hidden)
    if not isinstance(space, types.Box):
        return policy
    zeros = nn.initializers.zeros_init()
    log_std = module.param("log_std", zeros, (size,))
    log_std = jnp.broadcast_to(log_std.reshape(1, 1, -1), policy.shape)
    return jnp.concatenate([policy, log_std], axis=-1)


def value_head(hidden: Array, num_values: int | None = None) -> Array:
    """Returns values [T, B], or [T, B, num_values]; the part is called "value"."""
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
    """Returns a TimeStep [1, 1] of zeros and the action before it, to build parameters."""

    def zeros(struct):
        return jnp.zeros((1, 1, *struct.shape), struct.dtype)

    ts = types.TimeStep(
        obs={name: zeros(struct) for name, struct in spec.obs.items()},
        reward=jnp.zeros((1, 1)),
        discount=jnp.ones((1, 1)),
        first=jnp.ones((1, 1), bool),
        last=jnp.zeros((1, 1), bool),
        task=jnp.zeros((1, 1), jnp.int32),
        action_mask=jnp.ones((1, 1, types.action_mask_size(spec.action)), bool),
    )
    return ts, zeros(types.action_shape(spec.action))


def check(config: NetworkConfig, num_values: int | None = None) -> None:
    """Returns nothing; for a field that cannot be it raises ValueError."""
    for field, known in (
        ("activation", tuple(torsos.ACTIVATIONS)),
        ("core", cores.CORES),
        ("convolution", conv.IMPLEMENTATIONS),
    ):
        if getattr(config, field) not in known:
            raise ValueError(
                f"{field}: {getattr(config, field)!r} is not known, use one of {known}"
            )
    if not config.hidden or min(config.hidden) < 1:
        raise ValueError(
            f"hidden: got {config.hidden}, give at least one positive size"
        )
    if config.core_size < 1:
        raise ValueError(f"core_size: got {config.core_size}, give a positive size")
    if config.core_memory != 0 and config.core_memory < 2:
        raise ValueError(
            f"core_memory: got {config.core_memory}, give 0, or 2 steps on"
        )
    if config.core_memory and not cores.has_memory(config.core):
        raise ValueError(
            f"core_memory: core {config.core!r} has no memory, use 'lstm' or 'gru' or "
            "leave it out"
        )
    if num_values is not None and num_values < 1:
        raise ValueError(
            f"num_values: got {num_values}, give None or a positive number"
        )
    if config.separate_value and config.core != "none":
        raise ValueError(
            f"separate_value: does not go with core {config.core!r}, use core 'none'"
        )
    if config.skip and config.core == "none":
        raise ValueError(
            "skip: there is no core to pass by with core 'none', use one of "
            f"{cores.CORES[1:]} or leave it out"
        )
