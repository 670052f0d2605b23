"""Networks of action values: a torso, then one stream or two.

    expected     q(s, ·) = h                     outputs = 1 a action
    dueling      V + A − mean_legal A            for every output
    categorical  softmax over atoms              quantile  the quantiles themselves

Refs: Wang et al. 2016, dueling (arXiv:1511.06581), eq. 9; Bellemare et al. 2017, atoms
(arXiv:1707.06887); Dabney et al. 2018, quantiles (arXiv:1710.10044). Deviation: the mean
of the advantages is over the legal actions, which padding does not change.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax import errors, types
from mtrl_jax.networks import (
    conv,
    initialisers,
    layers,
    mlp,
    network_module,
    noisy,
    product,
    torsos,
)
from mtrl_jax.types import Array, Key, Tree


@dataclasses.dataclass(frozen=True)
class QNetworkConfig:
    """What a network is made of; every field is static."""

    torso: str = "auto"  # auto, mlp, minatar, impala_shallow, impala_deep, nature
    # Of a torso that reads images: filters of each layer, units of the last one; () and
    # 0: the paper's, see image_stacks.FILTERS.
    filters: tuple[int, ...] = ()
    features: int = 0
    hidden: tuple[int, ...] = (64, 64)  # of the MLP that reads vectors
    activation: str = "relu"  # of that MLP: tanh, relu, elu, gelu, silu
    # Units of a hidden layer in each stream, in the place of an image torso's dense
    # layer; 0: the streams read the torso's features.
    stream: int = 0
    layer_norm: bool = False  # after every layer of the torso, before its activation
    task_embedding: bool = False  # one-hot task as input
    per_task: bool = False  # of the streams' last layer one for each task
    convolution: str = "auto"  # auto, matmul, lax; see conv.conv2d
    # bfloat16: of the torso's products on accelerators; CPUs, slower in it, stay float32.
    dtype: str = "float32"
    # Acting notes down the last hidden layer as ``features``, for students to predict.
    note_features: bool = False


class Head(NamedTuple):
    """What the streams end in."""

    outputs: int = 1  # of each action: 1 value, or its atoms or quantiles
    dueling: bool = False
    noisy: bool = False


_EXPECTED = Head()
_NOTED = "noted"  # flax's collection; nothing is kept where it is not asked for


class QNetwork(NamedTuple):
    """``init(key)`` returns params; ``apply(params, obs, task, legal, noise)`` outputs.

    Outputs are ``[..., A, outputs]`` of observations ``[..., ...]``; ``noise`` is read by
    noisy heads alone. ``noting`` takes the same and returns (outputs, features
    ``[..., F]``), () in their place where the config notes none down.
    """

    init: Callable[[Key], Tree]
    apply: Callable[..., Array]
    noting: Callable[..., tuple[Array, Tree]]


def make(
    spec: types.EnvSpec, config: QNetworkConfig, actions: int, head: Head = _EXPECTED
) -> QNetwork:
    """Returns the network of ``actions`` values for observations of ``spec``.

    Raises:
      ValueError: an unknown torso, activation or convolution, a size below 1, a layer
        norm in a torso that has none.
    """
    _check(config, head)
    if config.per_task:
        what = "network.per_task: a last layer is of each of several tasks"
        types.check_several_tasks(spec, what, "per_task false")
    config = torsos.resolved(config, spec.obs)
    if config.layer_norm and config.torso == "impala_deep":
        raise ValueError(
            "layer_norm: the torso 'impala_deep' has none, use 'nature' or "
            "'impala_shallow'"
        )
    module = _QModule(config, head, actions, len(spec.tasks))
    ts, _ = network_module.dummy(spec)
    dummy_noise = noisy.Noise(jax.random.key(0))

    def init(key: Key) -> Tree:
        args = (ts.obs, ts.task, ts.action_mask, dummy_noise)
        return module.init(key, *args)["params"]

    def apply(params, obs, task, legal, noise=dummy_noise):
        return module.apply({"params": params}, obs, task, legal, noise)

    def noting(params, obs, task, legal, noise=dummy_noise):
        if not config.note_features:
            return apply(params, obs, task, legal, noise), ()
        args = (obs, task, legal, noise)
        outputs, noted = module.apply({"params": params}, *args, mutable=[_NOTED])
        (features,) = noted[_NOTED]["features"]
        return outputs, features

    return QNetwork(init, apply, noting)


class _QModule(nn.Module):
    config: QNetworkConfig
    head: Head
    actions: int
    tasks: int

    @nn.compact
    def __call__(self, obs: Tree, task: Array, legal: Array, noise: noisy.Noise):
        config, head = self.config, self.head
        side = jnp.zeros((*task.shape, 0))
        if config.task_embedding:
            side = jax.nn.one_hot(task, self.tasks)
        features = torsos.Torso(
            config.torso,
            config.hidden,
            config.activation,
            config.convolution,
            config.layer_norm,
            not config.stream,
            config.filters,
            config.features,
            dtype=layers.fast_dtype(config.dtype),
            name="torso",
        )(obs, side)
        streams = functools.partial(self._stream, task=task, noise=noise)
        advantage = streams("advantage", 0, features, self.actions)
        if not head.dueling:
            return advantage
        value = streams("value", 2, features, 1)
        among = legal[..., None]
        number = jnp.maximum(jnp.sum(among, axis=-2, keepdims=True), 1)
        mean = jnp.sum(jnp.where(among, advantage, 0.0), -2, keepdims=True) / number
        return value + advantage - mean

    def _stream(
        self,
        name: str,
        place: int,
        x: Array,
        rows: int,
        task: Array,
        noise: noisy.Noise,
    ) -> Array:
        """Returns [..., rows, outputs]: a hidden layer if there is one, and a linear."""
        if self.config.stream:
            x = self._dense(f"{name}_hidden", place, self.config.stream, 2**0.5)(
                x, noise
            )
            x = jax.nn.relu(x)
        if name == "advantage":
            self.sow(_NOTED, "features", x)
        heads = self.tasks if self.config.per_task else 1
        size = heads * rows * self.head.outputs
        x = self._dense(name, place + 1, size, 1.0)(x, noise)
        every = x.reshape(*x.shape[:-1], heads, rows, self.head.outputs)
        if heads == 1:
            return every[..., 0, :, :]
        return jnp.take_along_axis(every, task[..., None, None, None], -3)[..., 0, :, :]

    def _dense(self, name: str, place: int, size: int, gain: float) -> Any:
        if self.head.noisy:
            return noisy.NoisyDense(size, place, name=name)
        layer = nn.Dense(
            size,
            kernel_init=initialisers.orthogonal(gain),
            dot_general=product.dot_general,
            name=name,
        )
        return lambda x, noise: layer(x)


def _check(config: QNetworkConfig, head: Head) -> None:
    """Raises ValueError unless the names are known and the sizes positive."""
    known = {
        "activation": tuple(mlp.ACTIVATIONS),
        "convolution": conv.IMPLEMENTATIONS,
        "dtype": layers.DTYPES,
    }
    errors.check_choices(config, known)
    if not config.hidden or min(config.hidden) < 1:
        raise ValueError(
            f"hidden: got {config.hidden}, give at least one positive size"
        )
    if config.stream < 0:
        raise ValueError(f"stream: got {config.stream}, give 0 or a positive size")
    if head.outputs < 1:
        raise ValueError(f"atoms: got {head.outputs}, give a positive number")
