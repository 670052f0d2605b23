"""What an actor-critic network is made of, and what cannot be."""

from __future__ import annotations

import dataclasses

from mtrl_jax import errors, types
from mtrl_jax.networks import conv, cores, layers, mlp

SHARING = ("hard", "soft", "cross_stitch", "experts", "modules")
# Those whose trunk reads flat inputs.
TRUNKS = ("cross_stitch", "experts", "modules")


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """What a network is made of; every field is static."""

    torso: str = "auto"  # auto, mlp, minatar, impala_shallow, impala_deep, nature
    # Of a torso that reads images: filters of each layer, units of the last one; () and
    # 0: the paper's, see image_stacks.FILTERS.
    filters: tuple[int, ...] = ()
    features: int = 0
    hidden: tuple[int, ...] = (64, 64)  # of the MLP that reads vectors
    sequence: tuple[int, ...] = ()  # at a vector's front, see sequence_conv
    activation: str = "tanh"  # of that MLP: tanh, relu, elu, gelu, silu
    core: str = "none"  # none, linear, lstm, gru, mingru
    core_size: int = 128
    core_memory: int = 0  # steps that a core's gates start out for, see cores; 0: few
    skip: bool = False  # the heads read the torso's features beside the core's output
    last_action_reward: bool = True  # as inputs; the reward clipped to [-1, 1]
    task_embedding: bool = False  # one-hot task as input
    separate_value: bool = False  # a torso and a core of its own for the value
    sharing: str = "hard"  # hard, cross_stitch, experts, modules, soft
    experts: int = 4  # of sharing: experts
    modules: int = 4  # of each layer, of sharing: modules
    task_heads: bool = False  # policy and value heads of each task's own
    convolution: str = "auto"  # auto, matmul, lax; see conv.conv2d
    # bfloat16: of the torso's products on accelerators; CPUs, slower in it, stay float32.
    dtype: str = "float32"


@dataclasses.dataclass(frozen=True)
class Config:
    """Of an agent with a network; fields of its Config, see ``policy_learner``."""

    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)


def check(config: NetworkConfig, num_values: int | None = None) -> None:
    """Raises ValueError unless fields are known, large enough and go together."""
    known = {
        "sharing": SHARING,
        "activation": tuple(mlp.ACTIVATIONS),
        "core": cores.CORES,
        "convolution": conv.IMPLEMENTATIONS,
        "dtype": layers.DTYPES,
    }
    errors.check_choices(config, known)
    if not config.hidden or min(config.hidden) < 1:
        raise ValueError(
            f"hidden: got {config.hidden}, give at least one positive size"
        )
    for name in ("experts", "modules"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: got {getattr(config, name)}, give at least 1")
    if config.sharing == "experts" and config.experts > config.hidden[-1]:
        raise ValueError(
            f"experts: got {config.experts} with a last layer of "
            f"{config.hidden[-1]} units, where no more can be orthogonal; give fewer "
            "experts, or a larger layer"
        )
    if config.sharing == "modules" and len(config.hidden) < 2:
        raise ValueError(
            f"hidden: got {config.hidden}; sharing 'modules' has a first layer that all "
            "read, and layers of modules; give at least two sizes"
        )
    if num_values is not None and num_values < 1:
        raise ValueError(
            f"num_values: got {num_values}, give None or a positive number"
        )
    if config.dtype != "float32" and config.sharing in TRUNKS:
        raise ValueError(
            f"dtype: {config.dtype!r} is for torsos without a trunk for all tasks, the "
            f"sharing is {config.sharing!r}; use dtype 'float32', or sharing 'hard' or "
            "'soft'"
        )
    _check_core(config)


def check_sharing(config: NetworkConfig, spec: types.EnvSpec) -> None:
    """Raises ValueError unless a network, ``torso`` chosen, is one for a member's tasks."""
    if config.sharing == "soft":
        raise ValueError(
            "sharing: 'soft' is a network for each task, which impala and ppo have; use "
            f"'hard', {', '.join(map(repr, TRUNKS))} here"
        )
    if config.sharing in TRUNKS:
        what = f"network.sharing: {config.sharing!r} is between tasks"
        types.check_several_tasks(spec, what, "sharing 'hard'")
    if config.task_heads:
        what = "network.task_heads: they are of several tasks"
        types.check_several_tasks(spec, what, "task_heads false")
    if config.sharing in TRUNKS and config.torso != "mlp":
        raise ValueError(
            f"sharing: {config.sharing!r} has flat layers, the torso is "
            f"{config.torso!r}; use torso 'mlp', or sharing 'hard' or 'soft'"
        )


def check_single(config: NetworkConfig) -> None:
    """Raises ValueError unless the network has no other sharing than one for all."""
    if config.sharing != "hard" or config.task_heads:
        raise ValueError(
            f"sharing: {config.sharing!r} with task_heads={config.task_heads} is for "
            "networks of impala and ppo; use sharing 'hard' without task_heads here"
        )


def _check_core(config: NetworkConfig) -> None:
    if config.core_size < 1:
        raise ValueError(f"core_size: got {config.core_size}, give a positive size")
    if config.core_memory != 0 and config.core_memory < 2:
        raise ValueError(
            f"core_memory: got {config.core_memory}, give 0, or 2 steps on"
        )
    if config.core_memory and not cores.has_memory(config.core):
        raise ValueError(
            f"core_memory: core {config.core!r} has no memory, use 'lstm', 'gru' or "
            "'mingru', or leave it out"
        )
    if config.skip and config.core == "none":
        raise ValueError(
            "skip: there is no core to pass by with core 'none', use one of "
            f"{cores.CORES[1:]} or leave it out"
        )
