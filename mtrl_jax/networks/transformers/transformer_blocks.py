"""The blocks that a transformer's layers are made of; see ``transformer`` and ``ngrams``."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax.networks import product
from mtrl_jax.networks.transformers import (
    attention,
    attention_windows,
    transformer_config,
)
from mtrl_jax.types import Array


class _Residual(nn.Module):
    """What blocks have in common: norms, products, dropout of what is added to x."""

    config: transformer_config.TransformerConfig
    deterministic: bool

    def _feed_forward(self, x: Array) -> Array:
        """Returns what W2 gelu(W1 norm(x)) adds to x."""
        y = self._linear(self.config.feedforward, "expand")(self._norm("norm")(x))
        return self._drop(self._output("contract")(nn.gelu(y)))

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(dtype=self.config.dtype, name=name)

    def _linear(self, size: int, name: str) -> nn.Dense:
        return dense(size, self.config.dtype, nn.initializers.lecun_normal(), name)

    def _output(self, name: str) -> nn.Dense:
        """Returns a layer whose output is added to x: small, to keep the sum's scale."""
        scale = 1.0 / (2 * self.config.layers)
        init = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
        return dense(self.config.width, self.config.dtype, init, name)

    def _drop(self, x: Array) -> Array:
        return nn.Dropout(self.config.dropout)(x, deterministic=self.deterministic)


class Block(_Residual):
    """Returns (x [B, S, width], (keys, values) as attention read them).

    Of the tokens only those ``going_on`` are returned: of the last block, those that
    predict.
    """

    @nn.compact
    def __call__(
        self,
        x: Array,
        sight: attention_windows.Sight,
        memory: tuple[Array, Array] | None,
        going_on: slice | np.ndarray,
    ) -> tuple[Array, tuple[Array, Array]]:
        y = self._norm("attention_norm")(x)
        query, key, value = self._query_key_value(y, going_on, sight.rotation)
        if memory is not None and sight.written is not None:
            key = attention_windows.write(memory[0], key, sight.written)
            value = attention_windows.write(memory[1], value, sight.written)
        y = self._attend(query, key, value, sight, going_on)
        x = x[:, going_on] + self._drop(y)
        return x + self._feed_forward(x), (key, value)

    def _query_key_value(
        self, y: Array, going_on: slice | np.ndarray, rotation
    ) -> list[Array]:
        """Returns [query, key, value], each [B, H, S, D]; queries where we go on."""
        config = self.config
        query = self._linear(config.width, "query")(y[:, going_on])
        both = self._linear(2 * config.width, "key_value")(y)
        query, key, value = (
            jnp.swapaxes(x.reshape(*x.shape[:2], config.heads, -1), 1, 2)
            for x in (query, *jnp.split(both, 2, axis=-1))
        )
        if rotation is not None:
            key = attention.rotate(key, rotation)
            ours = jax.tree.map(lambda x: x[:, :, going_on], rotation)
            query = attention.rotate(query, ours)
        return [query, key, value]

    def _attend(
        self,
        query: Array,
        key: Array,
        value: Array,
        sight: attention_windows.Sight,
        going_on,
    ) -> Array:
        """Returns what attention read, mapped back to [B, S, width]."""
        config = self.config
        drops = config.attention_dropout > 0 and not self.deterministic
        y = attention.attend(
            query,
            key,
            value,
            sight.allowed[:, going_on],
            band=sight.band,
            dropout=config.attention_dropout,
            dropout_key=self.make_rng("dropout") if drops else None,
            # A few queries on a ring are too little for a fused kernel.
            implementation="plain" if sight.written is not None else config.attention,
        )
        y = jnp.swapaxes(y, 1, 2)
        return self._output("output")(y.reshape(*y.shape[:2], config.width))


class NgramBlock(_Residual):
    """Returns (x [B, S, width], W2 h [B, T, width] as the head read it).

    ``shares`` [B, T, K] say how much each step reads of which (``ngrams``): of these
    steps, or of those of a ring, whose W2 h are the ``memory`` [B, K, width]. Of the
    ``tokens`` of a step the first is read, and all read. A share ``gate`` of what the block
    adds to x is added.
    """

    tokens: int

    @nn.compact
    def __call__(
        self,
        x: Array,
        shares: Array,
        memory: Array | None,
        gate: Array | None,
    ) -> tuple[Array, Array]:
        y = self._norm("ngram_norm")(x)
        found = self._output("found")(y[:, :: self.tokens])
        known = found if memory is None else memory
        read = jnp.einsum("btk,bkw->btw", shares.astype(known.dtype), known)
        read = jnp.repeat(read, self.tokens, axis=1)
        after = x + self._drop(self._output("own")(y) + read)
        after = after + self._feed_forward(after)
        return after if gate is None else x + gate * (after - x), found


def dense(size: int, dtype: str, init: Callable, name: str) -> nn.Dense:
    """Returns a dense layer whose products are the kit's."""
    return nn.Dense(
        size, dtype=dtype, kernel_init=init, dot_general=product.dot_general, name=name
    )
