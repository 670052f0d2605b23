"""What a transformer is made of, and what does not go together."""

from __future__ import annotations

import dataclasses

from mtrl_jax import types
from mtrl_jax.networks import conv, layers, mlp
from mtrl_jax.networks.transformers import attention, history_tokens, tokeniser

POSITIONS = ("rotary", "learned", "none")
ACTING = ("auto", "cache", "recompute")


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """What a transformer is made of; every field is static."""

    layers: int = 4
    width: int = 64
    heads: int = 4
    feedforward: int = 2048
    context: int = 100  # in steps
    ngram: int = 0  # n of an n-gram head before the last layer, see ngrams; 0: none
    encoding: str = "step"  # step, triple, set; see history_tokens
    numbers: str = "none"  # none, mu_law, bounded: vectors as tokens, see tokeniser
    positions: str = "rotary"  # rotary, learned, none
    acting: str = "auto"  # cache, recompute; auto: cache, unless positions are learned
    dropout: float = 0.0  # of what a layer adds
    attention_dropout: float = 0.0
    embedding_dropout: float = 0.0
    torso: str = "auto"  # auto, mlp, minatar, impala_shallow, impala_deep, nature
    hidden: tuple[int, ...] = ()  # of the MLP that reads vectors before the embedding
    activation: str = "gelu"  # of that MLP: tanh, relu, elu, gelu, silu
    convolution: str = "auto"  # auto, matmul, lax; see conv.conv2d
    attention: str = "auto"  # see attention.attend
    # bfloat16: of products and cache on accelerators; CPUs, slower in it, stay float32.
    dtype: str = "float32"


def acting(config: TransformerConfig) -> str:
    """Returns "cache" or "recompute", with "auto" resolved."""
    if config.acting != "auto":
        return config.acting
    return "recompute" if config.positions == "learned" else "cache"


def check(spec: types.EnvSpec, config: TransformerConfig) -> None:
    """Raises ValueError unless a transformer of this config can be made for ``spec``."""
    for field, known in (
        ("encoding", history_tokens.ENCODINGS),
        ("positions", POSITIONS),
        ("acting", ACTING),
        ("activation", tuple(mlp.ACTIVATIONS)),
        ("convolution", conv.IMPLEMENTATIONS),
        ("attention", attention.IMPLEMENTATIONS),
        ("dtype", layers.DTYPES),
        ("numbers", tokeniser.KINDS),
    ):
        if getattr(config, field) not in known:
            raise ValueError(
                f"{field}: {getattr(config, field)!r} is not known, use one of {known}"
            )
    for field in ("layers", "width", "heads", "feedforward", "context"):
        if getattr(config, field) < 1:
            raise ValueError(f"{field}: {getattr(config, field)}, use 1 or more")
    for field in ("dropout", "attention_dropout", "embedding_dropout"):
        if not 0 <= getattr(config, field) < 1:
            raise ValueError(f"{field}: {getattr(config, field)}, use 0 <= rate < 1")
    if any(size < 1 for size in config.hidden):
        raise ValueError(f"hidden: {config.hidden}, use sizes of 1 or more, or ()")
    _check_heads(config)
    _check_ngram(config)
    if config.positions == "learned" and config.acting == "cache":
        raise ValueError(
            "acting: 'cache' with learned positions, which shift when a step falls out "
            "of the window; use 'recompute' or positions 'rotary'"
        )
    if config.encoding == "set" and config.numbers != "none":
        raise ValueError(
            f"numbers: {config.numbers!r} with encoding 'set'; use 'none', or encoding "
            "'step' or 'triple'"
        )
    if config.encoding == "set" and config.positions != "none":
        raise ValueError(
            f"positions: {config.positions!r} with encoding 'set', which has no order; "
            "use 'none'"
        )
    if isinstance(spec.action, types.Box):
        raise ValueError(
            f"action: {spec.action} is continuous; logits need Discrete or Factorised"
        )


def _check_heads(config: TransformerConfig) -> None:
    multiple = config.heads * (2 if config.positions == "rotary" else 1)
    if config.width % multiple:
        raise ValueError(
            f"width: {config.width} is no multiple of {multiple} (heads={config.heads}, "
            f"positions={config.positions!r}); use {-(-config.width // multiple) * multiple}"
        )
    if config.attention == "cudnn" and (config.attention_dropout > 0):
        raise ValueError(
            "attention: 'cudnn' has no attention dropout; use 'auto' or "
            "attention_dropout 0"
        )


def _check_ngram(config: TransformerConfig) -> None:
    if not 0 <= config.ngram < max(config.context - 1, 1):
        raise ValueError(
            f"ngram: {config.ngram} with context={config.context}; use 0 for no head, or "
            "n, of a match that fits the context with a step to spare"
        )
    if config.ngram and config.encoding != "step":
        raise ValueError(
            f"ngram: {config.ngram} with encoding {config.encoding!r}, of which no token "
            "says what was done and what came of it; use encoding 'step', or 0"
        )
