"""The layers of the transformer as flax modules; see ``transformer`` for the equations."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.networks import heads, initialisers
from mtrl_jax.networks.transformers import (
    attention_windows,
    history_tokens,
    ngrams,
    outlook,
    transformer_blocks,
    transformer_config,
)
from mtrl_jax.types import Array


class Layers(nn.Module):
    """Returns (Outputs of Steps [T, B], cache); with a cache T is 1.

    With a ``horizon``, or where episodes may be ``alone``, the Steps are seen in segments
    (see ``attention_windows.cut``), and a ring no further than the horizon, but for its
    first ``kept`` [B] steps. ``newest``:
    outputs [1, B] of the last step alone. Given the ``action`` of each step, also
    what it leads to, [T, B]; given N of each, [T, N B], all of the first before all of the
    second. ``gate`` is the n-gram head's share. The ``encoding`` is the config's,
    or that with returns.
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
        gate: Array | None = None,
        kept: Array | None = None,
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
        seen: int | Array = window
        if cache is None:
            sight = attention_windows.of_sequence(
                steps, window, encoding, size, segments
            )
        else:
            if horizon is not None:
                seen = jnp.minimum(window, horizon)
            sight, cache = attention_windows.of_ring(
                steps, cache, seen, encoding, size, kept
            )
        keys: list[Array] = []
        values: list[Array] = []
        for i in range(config.layers):
            is_last = i == config.layers - 1
            if is_last and config.ngram:
                ngram = transformer_blocks.NgramBlock(
                    config,
                    deterministic,
                    history_tokens.TOKENS[encoding],
                    name="ngram",
                )
                x, cache = _read_ngrams(ngram, x, steps, sight, seen, cache, gate)
            goes_on = _saying(encoding, x.shape[1]) if is_last else slice(None)
            if is_last and newest:
                own = history_tokens.OWN[encoding]
                goes_on, sight = slice(-own, None), sight._replace(band=None)
            block = transformer_blocks.Block(config, deterministic, name=f"block_{i}")
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
            out = out._replace(
                values=self._head(after, size, "values"),
                value=self._head(after, 1, "value")[..., 0],
            )
        if action is None or not (config.rewards or config.vectors):
            return out
        taken = jnp.swapaxes(heads.encode(self.space, action), 0, 1)
        several = len(taken) // len(after)
        after = jnp.tile(after, (several, 1, 1)) if several > 1 else after
        y = jnp.concatenate([after, taken], axis=-1)
        y = nn.gelu(
            transformer_blocks.dense(
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
        y = transformer_blocks.dense(size, self.config.dtype, gain, name)(x).astype(
            jnp.float32
        )
        return jnp.swapaxes(y, 0, 1)


def _read_ngrams(
    block: transformer_blocks.NgramBlock,
    x: Array,
    steps: history_tokens.Steps,
    sight: attention_windows.Sight,
    window: int | Array,
    cache: attention_windows.Cache | None,
    gate: Array | None,
) -> tuple[Array, attention_windows.Cache | None]:
    """Returns (x after an n-gram head, cache)."""
    n, tokens, rows = block.config.ngram, block.tokens, ngrams.rows_of(steps)
    if cache is None or sight.written is None:
        shares = ngrams.in_sequence(n, rows, steps.live, sight, tokens, window)
        return block(x, shares, None, gate)[0], cache
    ring = cache.ngram
    rows = ngrams.write(ring.rows, rows, sight.written)
    shares = ngrams.in_ring(n, rows, sight, tokens, window)
    x, found = block(x, shares, ring.found, gate)
    found = jnp.where(sight.written[..., None], found, ring.found)
    return x, cache._replace(ngram=ngrams.Ring(rows, found))


def _saying(encoding: str, tokens: int) -> slice | np.ndarray:
    """Returns which of the ``tokens`` of a row are read at the end: those of OWN."""
    each, own = history_tokens.TOKENS[encoding], history_tokens.OWN[encoding]
    if own in (1, each):
        return slice(each - own, None, each // own)
    return np.arange(tokens).reshape(-1, each)[:, each - own :].ravel()


def _rotary_size(config: transformer_config.TransformerConfig) -> int | None:
    return config.width // config.heads if config.positions == "rotary" else None
