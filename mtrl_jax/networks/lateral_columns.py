"""Progressive networks: columns of dense layers, each reading those before it.

    h_1^(k) = relu(W_1 x)
    h_i^(k) = relu(W_i h_{i−1}^(k) + U_i relu(V_i [α_j h_{i−1}^(j)]_{j<k}))

and likewise for the policy and the value, which share V and α. V projects what the
columns before say to the size of the column's own layer, α_j is a learned scale. A column
by itself is a plain network; with U = 0 it is one, whatever came before.

The columns before are given as parameters that get no gradient, and without their heads:
tasks may have other actions. Inputs are flat, an image
among them.

Ref: Rusu et al. 2016 (arXiv:1606.04671), section 2 and appendix.

Deviation: dense layers alone, so that there are no 1 x 1 convolutions among the adapters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.networks import initialisers, product
from mtrl_jax.types import Array, Key, Tree

SCALES = (1.0, 0.1, 0.01)  # that α begins at, drawn
_orthogonal = initialisers.orthogonal


class Column(NamedTuple):
    """What a column says of inputs ``[..., F]``."""

    policy: Array  # [..., policy size]
    value: Array  # [..., values]
    hidden: tuple[Array, ...]  # of each layer, [..., n]


class Columns(nn.Module):
    """One column; ``before`` are the hidden layers of those before it, in order.

    ``nudges``, one of each layer of ``hidden``, are added to its activations.
    """

    hidden: tuple[int, ...]
    policy: int
    values: int
    heads_only: bool = False  # the gradient stops below the heads
    headless: bool = False  # the hidden layers alone, of a column before

    @nn.compact
    def __call__(
        self,
        x: Array,
        before: Sequence[tuple[Array, ...]] = (),
        nudges: tuple[Array, ...] | None = None,
    ) -> Column:
        hidden: list[Array] = []
        for i, size in enumerate(self.hidden):
            total = _dense(size, 2**0.5, f"layer_{i}")(x)
            if i and before:
                total = total + self._lateral(i, before, [(f"lateral_{i}", size)])[0]
            x = jax.nn.relu(total)
            if nudges is not None:
                x = x + nudges[i]
            hidden.append(x)
        if self.headless:
            return Column(jnp.zeros(0), jnp.zeros(0), tuple(hidden))
        x = jax.lax.stop_gradient(x) if self.heads_only else x
        policy = _dense(self.policy, 0.01, "policy")(x)
        value = _dense(self.values, 1.0, "value")(x)
        if before:
            heads = [("lateral_policy", self.policy), ("lateral_value", self.values)]
            of_policy, of_value = self._lateral(len(self.hidden), before, heads)
            policy, value = policy + of_policy, value + of_value
        return Column(policy, value, tuple(hidden))

    def _lateral(
        self,
        i: int,
        before: Sequence[tuple[Array, ...]],
        outputs: list[tuple[str, int]],
    ) -> list[Array]:
        """Returns U relu(V [α_j h_j]) of layer i − 1 of the columns before."""
        scales = self.param(f"scale_{i}", _drawn_scale, (len(before),))
        said = [scale * column[i - 1] for scale, column in zip(scales, before)]
        projected = _dense(self.hidden[i - 1], 2**0.5, f"adapter_{i}", bias=False)(
            jnp.concatenate(said, axis=-1)
        )
        read = jax.nn.relu(projected)
        gains = {"lateral_policy": 0.01, "lateral_value": 1.0}
        return [
            _dense(size, gains.get(name, 2**0.5), name, bias=False)(read)
            for name, size in outputs
        ]


def run(
    module: Columns,
    frozen: Sequence[Tree],
    params: Tree,
    x: Array,
    nudges: Sequence[tuple[Array, ...]] | None = None,
) -> tuple[Column, list[tuple[Array, ...]]]:
    """Returns (the last column, the hidden layers of all) of inputs ``[..., F]``.

    ``frozen`` are the parameters of the columns before, as ``headless`` gives them; they
    get no gradient. ``nudges`` are
    added to the activations, of each column one of each layer.
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


def init(module: Columns, key: Key, columns: int, size: int) -> tuple[list[Tree], Tree]:
    """Returns (parameters of the columns before, those of the last) for ``[F]`` inputs.

    Those before are ``headless``.
    """
    x, made = jnp.zeros((1, size)), []
    hidden: list[tuple[Array, ...]] = []
    for k in range(columns):
        own = module.init(jax.random.fold_in(key, k), x, hidden)["params"]
        is_last = k == columns - 1
        made.append(own if is_last else headless(own, len(module.hidden)))
        hidden = [*hidden, tuple(jnp.zeros((1, n)) for n in module.hidden)]
    return made[:-1], made[-1]


def sensitivities(
    module: Columns, frozen: Sequence[Tree], params: Tree, x: Array, legal: Array
) -> Array:
    """Returns the average Fisher sensitivity, ``[columns, layers]``; 1 over the columns.

    F = E_x Σ_a π(a|x) (∂ log π(a|x) / ∂ ĥ)² of the normalised activations ĥ = h / std,
    of each column's each layer, summed over its units. ``x`` [N, F], ``legal`` [N, A];
    the policy is one categorical choice.

    Ref: Rusu et al. 2016, section 3, equation 4.
    """
    _, hidden = run(module, frozen, params, x)
    deviation = jax.tree.map(lambda h: jnp.std(h, axis=0), hidden)

    def log_policy(nudges: Tree, x: Array, legal: Array) -> Array:
        scaled = jax.tree.map(lambda n, d: n * d, nudges, deviation)
        column, _ = run(module, frozen, params, x, scaled)
        return jax.nn.log_softmax(jnp.where(legal, column.policy, -1e30))

    def of_one(x: Array, legal: Array) -> Tree:
        still = jax.tree.map(jnp.zeros_like, deviation)
        slope = jax.jacrev(log_policy)(still, x, legal)  # leaves [A, n]
        pi = jnp.where(legal, jnp.exp(log_policy(still, x, legal)), 0.0)
        return jax.tree.map(lambda s: jnp.sum(pi[:, None] * jnp.square(s)), slope)

    each = jax.tree.map(jnp.mean, jax.vmap(of_one)(x, legal))
    fisher = jnp.stack([jnp.stack(layers) for layers in each])
    return fisher / jnp.maximum(jnp.sum(fisher, axis=0, keepdims=True), 1e-30)


def flat_inputs(obs: Tree, side: Array) -> Array:
    """Returns ``[..., F]``: vector, image and what is beside them, end to end."""
    lead = side.shape[:-1]
    parts = [obs[name].astype(jnp.float32) for name in sorted(obs)]
    if "image" in obs and obs["image"].dtype == jnp.uint8:
        index = sorted(obs).index("image")
        parts[index] = parts[index] / 255.0
    return jnp.concatenate([*(p.reshape(*lead, -1) for p in parts), side], axis=-1)


def input_size(spec: types.EnvSpec, side: int) -> int:
    """Returns F, of ``side`` numbers beside the observation."""
    return side + sum(math.prod(x.shape) for x in spec.obs.values())


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
