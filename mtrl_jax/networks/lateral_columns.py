"""Progressive networks: columns of layers, each reading those before it.

    h_1^(k) = relu(W_1 x)
    h_i^(k) = relu(W_i h_{i−1}^(k) + U_i relu(V_i [α_j h_{i−1}^(j)]_{j<k}))

and likewise for the policy and the value, which share V and α. V projects what the
columns before say to the size of the column's own layer, of maps pixel by pixel (a 1 x 1
convolution); U is a layer as W is; α_j is a learned scale. A column by itself is a plain
network; with U = 0 it is one, whatever came before.

Convolutions read an image, and dense layers what is left of it beside a vector. Without
them inputs are flat, an image among them. The columns before are given as parameters
that get no gradient, and without their heads: tasks may have other actions.

Ref: Rusu et al. 2016 (arXiv:1606.04671), section 2 and appendix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import conv, image_stacks, initialisers, product
from mtrl_jax.types import ILLEGAL, Array, Key, Tree

SCALES = (1.0, 0.1, 0.01)  # that α begins at, drawn
_orthogonal = initialisers.orthogonal


class Convolution(NamedTuple):
    """A VALID convolution of a column."""

    filters: int
    kernel: tuple[int, int]
    stride: int


# By torso: dense layers alone; one for small grids; those of the paper.
CONVOLUTIONS: dict[str, tuple[Convolution, ...]] = {
    "mlp": (),
    "minatar": (Convolution(16, (3, 3), 1),),
    "atari": (
        Convolution(12, (8, 8), 4),
        Convolution(12, (4, 4), 2),
        Convolution(12, (3, 4), 1),
    ),
}


class Column(NamedTuple):
    """What a column says of inputs ``[...]``."""

    policy: Array  # [..., policy size]
    value: Array  # [..., values]
    hidden: tuple[Array, ...]  # of each layer, [..., H, W, n] or [..., n]


class Columns(nn.Module):
    """One column; ``before`` are the hidden layers of those before it, in order.

    ``x`` is flat, ``[..., F]``; of a column with convolutions it is an image and that,
    ([..., H, W, C], [..., F]). ``nudges``, one of each layer, are added to activations.
    """

    hidden: tuple[int, ...]  # units of the dense layers
    policy: int
    values: int
    heads_only: bool = False  # the gradient stops below the heads
    headless: bool = False  # the hidden layers alone, of a column before
    convolutions: tuple[Convolution, ...] = ()  # before the dense layers

    @property
    def sizes(self) -> tuple[int, ...]:
        """The last axis of each layer."""
        return (*(x.filters for x in self.convolutions), *self.hidden)

    @nn.compact
    def __call__(
        self,
        x: Tree,
        before: Sequence[tuple[Array, ...]] = (),
        nudges: tuple[Array, ...] | None = None,
    ) -> Column:
        below, flat = x if self.convolutions else (x, x)
        hidden: list[Array] = []
        for i in range(len(self.sizes)):
            total = self._layer(i, f"layer_{i}")(below)
            if i and before:
                lateral = self._layer(i, f"lateral_{i}", bias=False)
                total = total + lateral(self._read(i, before))
            h = jax.nn.relu(total)
            if nudges is not None:
                h = h + nudges[i]
            hidden.append(h)
            below = self._below(i + 1, h)
            if i + 1 == len(self.convolutions):
                below = jnp.concatenate([below, flat], axis=-1)
        if self.headless:
            return Column(jnp.zeros(0), jnp.zeros(0), tuple(hidden))
        x = jax.lax.stop_gradient(below) if self.heads_only else below
        policy = _dense(self.policy, 0.01, "policy")(x)
        value = _dense(self.values, 1.0, "value")(x)
        if before:
            read = self._read(len(self.sizes), before)
            policy += _dense(self.policy, 0.01, "lateral_policy", bias=False)(read)
            value += _dense(self.values, 1.0, "lateral_value", bias=False)(read)
        return Column(policy, value, tuple(hidden))

    def _layer(self, i: int, name: str, bias: bool = True) -> nn.Module:
        """Returns a layer such as W_i."""
        if i >= len(self.convolutions):
            return _dense(self.sizes[i], 2**0.5, name, bias)
        filters, kernel, stride = self.convolutions[i]
        return conv.Conv(
            filters,
            kernel,
            strides=stride,
            padding="VALID",
            use_bias=bias,
            kernel_init=_orthogonal(2**0.5),
            name=name,
        )

    def _read(self, i: int, before: Sequence[tuple[Array, ...]]) -> Array:
        """Returns relu(V [α_j h_j]) of layer i − 1 of the columns before, for layer i."""
        scales = self.param(f"scale_{i}", _drawn_scale, (len(before),))
        said = [scale * column[i - 1] for scale, column in zip(scales, before)]
        adapter = _dense(self.sizes[i - 1], 2**0.5, f"adapter_{i}", bias=False)
        return self._below(i, jax.nn.relu(adapter(jnp.concatenate(said, axis=-1))))

    def _below(self, i: int, h: Array) -> Array:
        """Returns what layer ``i`` reads of the activations below it: maps, or ``[..., F]``."""
        return h.reshape(*h.shape[:-3], -1) if i == len(self.convolutions) > 0 else h


def run(
    module: Columns,
    frozen: Sequence[Tree],
    params: Tree,
    x: Tree,
    nudges: Sequence[tuple[Array, ...]] | None = None,
) -> tuple[Column, list[tuple[Array, ...]]]:
    """Returns (the last column, the hidden layers of all) of inputs, see ``Columns``.

    ``frozen`` are the parameters of the columns before, as ``headless`` gives them; they
    get no gradient. ``nudges`` are added to the activations, of each column one of each
    layer.
    """
    hidden: list[tuple[Array, ...]] = []
    before = module.clone(headless=True)
    each = [(before, jax.lax.stop_gradient(own)) for own in frozen]
    for k, (network, own) in enumerate([*each, (module, params)]):
        nudge = None if nudges is None else nudges[k]
        column: Any = network.apply({"params": own}, x, hidden, nudge)
        hidden = [*hidden, column.hidden]
    return column, hidden


def headless(params: Tree, layers: int) -> Tree:
    """Returns of a column's parameters those of its hidden layers."""
    heads = {"policy", "value", "lateral_policy", "lateral_value"}
    heads |= {f"adapter_{layers}", f"scale_{layers}"}
    return {name: x for name, x in params.items() if name not in heads}


def init(module: Columns, key: Key, columns: int, x: Tree) -> tuple[list[Tree], Tree]:
    """Returns (parameters of the columns before, those of the last) for inputs as ``x``.

    Those before are ``headless``.
    """
    made = []
    hidden: list[tuple[Array, ...]] = []
    for k in range(columns):
        said, variables = module.init_with_output(jax.random.fold_in(key, k), x, hidden)
        own, is_last = variables["params"], k == columns - 1
        made.append(own if is_last else headless(own, len(module.sizes)))
        hidden = [*hidden, said.hidden]
    return made[:-1], made[-1]


def sensitivities(
    module: Columns, frozen: Sequence[Tree], params: Tree, x: Tree, legal: Array
) -> Array:
    """Returns the average Fisher sensitivity, ``[columns, layers]``; 1 over the columns.

    F = E_x Σ_a π(a|x) (∂ log π(a|x) / ∂ ĥ)² of the normalised activations ĥ = h / std,
    of each column's each layer, summed over its units. Leaves of ``x`` and ``legal`` are
    [N, ...]; the policy is one categorical choice.

    Ref: Rusu et al. 2016, section 3, equation 4.
    """
    _, hidden = run(module, frozen, params, x)
    deviation = jax.tree.map(lambda h: jnp.std(h, axis=0), hidden)

    def log_policy(nudges: Tree, x: Tree, legal: Array) -> Array:
        scaled = jax.tree.map(lambda n, d: n * d, nudges, deviation)
        column, _ = run(module, frozen, params, x, scaled)
        return jax.nn.log_softmax(jnp.where(legal, column.policy, ILLEGAL))

    def of_one(x: Tree, legal: Array) -> Tree:
        still = jax.tree.map(jnp.zeros_like, deviation)
        slope = jax.jacrev(log_policy)(still, x, legal)  # leaves [A, ...]
        pi = jnp.where(legal, jnp.exp(log_policy(still, x, legal)), 0.0)
        return jax.tree.map(lambda s: jnp.sum(jnp.tensordot(pi, s * s, 1)), slope)

    each = jax.tree.map(jnp.mean, jax.vmap(of_one)(x, legal))
    fisher = jnp.stack([jnp.stack(layers) for layers in each])
    return fisher / jnp.maximum(jnp.sum(fisher, axis=0, keepdims=True), 1e-30)


def inputs(convolutions: Sequence[Convolution], obs: Tree, side: Array) -> Tree:
    """Returns what columns read of an observation and the numbers ``side`` beside it.

    All end to end, ``[..., F]``; where there are convolutions the image is left apart,
    ([..., H, W, C], [..., F]).
    """
    lead = side.shape[:-1]
    parts = {name: obs[name].astype(jnp.float32) for name in sorted(obs)}
    if "image" in obs:
        parts["image"] = image_stacks.scale_image(obs["image"])
    image = parts.pop("image") if convolutions else None
    flat = [*(x.reshape(*lead, -1) for x in parts.values()), side]
    joined = jnp.concatenate(flat, axis=-1)
    return (image, joined) if convolutions else joined


def check_image(torso: str, obs: Tree) -> None:
    """Raises ValueError unless ``torso`` is one of CONVOLUTIONS that can read ``obs``."""
    if torso not in CONVOLUTIONS:
        raise ValueError(f"torso: unknown {torso!r}; one of {', '.join(CONVOLUTIONS)}")
    if not CONVOLUTIONS[torso]:
        return
    if "image" not in obs:
        raise ValueError(
            f"torso: {torso!r} needs an image, the observation has only {sorted(obs)}; "
            "use 'mlp'"
        )
    least = [1, 1]
    for _, kernel, stride in reversed(CONVOLUTIONS[torso]):
        least = [(n - 1) * stride + k for n, k in zip(least, kernel)]
    height, width, _ = obs["image"].shape
    if height < least[0] or width < least[1]:
        raise ValueError(
            f"torso: {torso!r} needs an image of at least {least[0]}x{least[1]}, got "
            f"{height}x{width}; use 'minatar' or 'mlp'"
        )


def _drawn_scale(key: Key, shape: tuple[int, ...]) -> Array:
    """Returns scales drawn from SCALES, a column each."""
    return jax.random.choice(key, jnp.asarray(SCALES), shape)


def _dense(size: int, gain: float, name: str, bias: bool = True) -> nn.Dense:
    return nn.Dense(
        size,
        use_bias=bias,
        kernel_init=_orthogonal(gain),
        dot_general=product.dot_general,
        name=name,
    )
