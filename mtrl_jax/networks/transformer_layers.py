"""The layers of the transformer as flax modules; see ``transformer`` for the equations."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.networks import (
    attention,
    attention_windows,
    heads,
    history_tokens,
    initialisers,
    outlook,
    product,
    transformer_config,
)
from mtrl_jax.types import Array


class Layers(nn.Module):
    """Returns (Outputs of Steps [T, B], cache); with a cache T is 1.

    With a ``horizon``, or where episodes may be ``alone``, the Steps are seen in segments
    (see ``attention_windows.cut``), and a ring no further than the horizon. ``newest``:
    outputs [1, B] of the last step alone. Given the ``action`` of each step, also
    what it leads to. The ``encoding`` is the config's, or that with returns.
    """

    config: transformer_config.TransformerConfig
    space: types.ActionSpace
    given: outlook.Outlook
    encoding: str
    vector: int = 0  # numbers of an observation that are predicted

    @nn.compact
    def __call__(
        self,
        steps: history_tokens.Steps,
        window: int,
        cache: attention_windows.Cache | None = None,
        deterministic: bool = True,
        horizon: Array | None = None,
        newest: bool = False,
        alone: Array | None = None,
        action: Array | None = None,
    ) -> tuple[outlook.Outputs, attention_windows.Cache | None]:
        config, segments = self.config, None
        is_cut = any(x is not None for x in (horizon, alone, steps.prompt))
        if is_cut and cache is None:
            segments = attention_windows.cut(steps, horizon, alone)
            steps = attention_windows.begun(steps, segments, alone)
        x = self._tokens()(steps)  # [B, S, width]
        if config.positions == "learned":
            x = x + self._positions(steps, segments)
        x = nn.Dropout(config.embedding_dropout)(x, deterministic=deterministic)
        encoding, size = self.encoding, _rotary_size(config)
        if cache is None:
            sight = attention_windows.of_sequence(
                steps, window, encoding, size, segments
            )
        else:
            seen = window if horizon is None else jnp.minimum(window, horizon)
            sight, cache = attention_windows.of_ring(steps, cache, seen, encoding, size)
        keys, values = [], []
        for i in range(config.layers):
            is_last = i == config.layers - 1
            goes_on = _saying(encoding, x.shape[1]) if is_last else slice(None)
            if is_last and newest:
                own = history_tokens.OWN[encoding]
                goes_on, sight = slice(-own, None), sight._replace(band=None)
            block = _Block(config, deterministic, name=f"block_{i}")
            memory = None if cache is None else (cache.keys[i], cache.values[i])
            x, (key, value) = block(x, sight, memory, goes_on)
            keys.append(key)
            values.append(value)
        if cache is not None:
            cache = cache._replace(keys=tuple(keys), values=tuple(values))
        return self._outputs(x, action), cache

    def _tokens(self) -> history_tokens.Tokens:
        config = self.config
        return history_tokens.Tokens(
            self.encoding,
            config.width,
            self.space,
            config.torso,
            config.hidden,
            config.activation,
            config.convolution,
            config.dtype,
            config.numbers,
            self.given,
            name="tokens",
        )

    def _positions(
        self, steps: history_tokens.Steps, segments: attention_windows.Segments | None
    ) -> Array:
        """Returns what is added to the tokens of each step, [B or 1, S, width]."""
        config = self.config
        shape = (config.context, config.width)
        table = self.param("positions", nn.initializers.normal(0.02), shape)
        if segments is None:
            length = steps.has_prev.shape[0]
            position = attention_windows.positions(steps.live, length)
        else:
            position = segments.position
        each = jnp.take(table, position, axis=0)
        return jnp.repeat(each, history_tokens.TOKENS[self.encoding], axis=1)

    def _outputs(self, x: Array, action: Array | None) -> outlook.Outputs:
        """Returns the outputs at the last layer's tokens [B, T own, width].

        In float32, whatever the products were in. Of a step with a return the first of
        these has not seen it, and the last has.
        """
        config, size = self.given, types.action_mask_size(self.space)
        x = nn.LayerNorm(dtype=self.config.dtype, name="norm")(x)
        own = history_tokens.OWN[self.encoding]
        before, after = x[:, ::own], x[:, own - 1 :: own]
        out = outlook.Outputs(self._head(after, size, "policy"))
        if config.bins:
            out = out._replace(returns=self._head(before, config.bins, "returns"))
        if config.values:
            out = out._replace(values=self._head(after, size, "values"))
        if action is None or not (config.rewards or config.vectors):
            return out
        taken = jnp.swapaxes(heads.encode(self.space, action), 0, 1)
        y = jnp.concatenate([after, taken], axis=-1)
        y = nn.gelu(
            _dense(
                self.config.width,
                self.config.dtype,
                nn.initializers.lecun_normal(),
                "outcome",
            )(y)
        )
        if config.rewards:
            out = out._replace(reward=self._head(y, outlook.REWARDS, "reward"))
        if config.vectors:
            vector = self._head(y, self.vector, "next_vector")
            out = out._replace(next_vector=vector)
        return out

    def _head(self, x: Array, size: int, name: str) -> Array:
        """Returns [T, B, size] of x [B, T, width], small at the beginning."""
        gain = initialisers.orthogonal(0.01)
        y = _dense(size, self.config.dtype, gain, name)(x).astype(jnp.float32)
        return jnp.swapaxes(y, 0, 1)


class _Block(nn.Module):
    """Returns (x [B, S, width], (keys, values) as attention read them).

    Of the tokens only those ``going_on`` are returned: of the last block, those that
    predict.
    """

    config: transformer_config.TransformerConfig
    deterministic: bool

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
        y = self._linear(self.config.feedforward, "expand")(self._norm("norm")(x))
        y = self._output("contract")(nn.gelu(y))
        return x + self._drop(y), (key, value)

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

    def _norm(self, name: str) -> nn.LayerNorm:
        return nn.LayerNorm(dtype=self.config.dtype, name=name)

    def _linear(self, size: int, name: str) -> nn.Dense:
        return _dense(size, self.config.dtype, nn.initializers.lecun_normal(), name)

    def _output(self, name: str) -> nn.Dense:
        """Returns a layer whose output is added to x: small, to keep the sum's scale."""
        scale = 1.0 / (2 * self.config.layers)
        init = nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
        return _dense(self.config.width, self.config.dtype, init, name)

    def _drop(self, x: Array) -> Array:
        return nn.Dropout(self.config.dropout)(x, deterministic=self.deterministic)


def _dense(size: int, dtype: str, init: Callable, name: str) -> nn.Dense:
    return nn.Dense(
        size, dtype=dtype, kernel_init=init, dot_general=product.dot_general, name=name
    )


def _saying(encoding: str, tokens: int) -> slice | np.ndarray:
    """Returns which of the ``tokens`` of a row are read at the end: those of OWN."""
    each, own = history_tokens.TOKENS[encoding], history_tokens.OWN[encoding]
    if own in (1, each):
        return slice(each - own, None, each // own)
    return np.arange(tokens).reshape(-1, each)[:, each - own :].ravel()


def _rotary_size(config: transformer_config.TransformerConfig) -> int | None:
    return config.width // config.heads if config.positions == "rotary" else None
