"""The recurrent state-space model: what DreamerV2 remembers and imagines.

    h_t = GRU(h_{t−1}, f(z_{t−1}, a_{t−1}))        deterministic
    z_t ~ q(z | h_t, x_t)                          posterior, with the observation
    ẑ_t ~ p(z | h_t)                               prior, without

The GRU has one layer norm over its three pre-activations and bias −1 on the update gate:

    r, c, u = split(LN(W [x, h] + b)),   h' = σ(u − 1) tanh(σ(r) c) + (1 − σ(u − 1)) h

What does not depend on the state is computed for all steps outside the loop: the
embedding's part of the posterior's first layer, and the prior.

Variants: the norm (none, or RMS), and ``blocks`` > 1, in which the state falls into blocks
with recurrent weights of their own that all see the whole input (in the manner of
DreamerV3's block-diagonal GRU).

Ref: Hafner et al. 2021 (arXiv:2010.02193), equation 1.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from mtrl_jax.networks import latents, layers, product
from mtrl_jax.types import Array, Key, Scalar, Tree

UPDATE_BIAS = -1.0


@dataclasses.dataclass(frozen=True)
class RSSMConfig:
    """Sizes of the state and of the layers around it."""

    latent: latents.LatentConfig = dataclasses.field(
        default_factory=latents.LatentConfig
    )
    deter: int = 600  # units of the GRU
    hidden: int = 600  # of the layers before and after it
    activation: str = "elu"
    norm: str = "none"  # of those layers
    gru_norm: str = "layer"
    blocks: int = 1

    @property
    def feature_size(self) -> int:
        """Returns the length of a state's features."""
        return self.latent.size + self.deter


class State(NamedTuple):
    """Where the model is; ``[...]`` are the leading axes."""

    deter: Array  # [..., deter] float32
    stoch: Array  # [..., latent size] float32, a flat sample


class Observed(NamedTuple):
    """States after T observations, and what was expected."""

    state: State  # [T, B, ...]
    posterior: Array  # [T, B, raw_size]
    prior: Array  # [T, B, raw_size]


def init(key: Key, config: RSSMConfig, embed: int, action: int) -> Tree:
    """Returns the parameters for embeddings and encoded actions of these sizes."""
    check(config)
    into, gru, prior, prior_out, post, post_out = jax.random.split(key, 6)
    raw, deter, hidden = config.latent.raw_size, config.deter, config.hidden
    params = {
        "input": layers.dense_init(into, config.latent.size + action, hidden),
        "gru": _gru_init(gru, config),
        "prior": layers.dense_init(prior, deter, hidden),
        "prior_out": layers.dense_init(prior_out, hidden, raw),
        "posterior": layers.dense_init(post, deter + embed, hidden),
        "posterior_out": layers.dense_init(post_out, hidden, raw),
    }
    if config.norm != "none":
        for name in ("input", "prior", "posterior"):
            params[f"{name}_norm"] = layers.norm_init(config.norm, hidden)
    return params


def initial(config: RSSMConfig, batch: int) -> State:
    """Returns the state [batch] before anything was seen: zeros."""
    return State(
        jnp.zeros((batch, config.deter)), jnp.zeros((batch, config.latent.size))
    )


def features(state: State) -> Array:
    """Returns what heads and policies read, [..., latent size + deter]."""
    return jnp.concatenate([state.stoch, state.deter], axis=-1)


def observe(
    params: Tree,
    config: RSSMConfig,
    state: State,
    embed: Array,
    action_tm1: Array,
    first: Array,
    key: Key,
    *,
    unimix: Scalar = 0.0,
    dtype: str = "float32",
) -> Observed:
    """Returns the states of a sequence: ``embed`` [T, B, E], ``action_tm1`` [T, B, A].

    ``action_tm1`` [t] is the encoded action that led to observation t, ``state`` [B] what
    was before the first. Where ``first`` [T, B] holds, state and action are zero: nothing
    of what came before reaches the step.
    """
    chex.assert_rank([embed, action_tm1, first], [3, 3, 2])
    seen = _embedded(params, config, embed, dtype)
    keys = jax.random.split(key, embed.shape[0])

    def step(state: State, now: tuple) -> tuple[State, tuple[State, Array]]:
        seen, action, first, key = now
        state, raw = _observe_step(
            params, config, state, seen, action, first, key, unimix, dtype
        )
        return state, (state, raw)

    _, (states, posterior) = jax.lax.scan(step, state, (seen, action_tm1, first, keys))
    return Observed(states, posterior, prior(params, config, states.deter, dtype))


def observe_step(
    params: Tree,
    config: RSSMConfig,
    state: State,
    embed: Array,
    action_tm1: Array,
    first: Array,
    key: Key,
    *,
    unimix: Scalar = 0.0,
    dtype: str = "float32",
) -> State:
    """Returns the state [B] after one observation; ``observe`` of one step."""
    seen = _embedded(params, config, embed, dtype)
    return _observe_step(
        params, config, state, seen, action_tm1, first, key, unimix, dtype
    )[0]


def imagine_step(
    params: Tree,
    config: RSSMConfig,
    state: State,
    action: Array,
    key: Key,
    *,
    unimix: Scalar = 0.0,
    dtype: str = "float32",
) -> State:
    """Returns the state [...] expected after ``action`` [..., A], without observation."""
    deter = _recur(params, config, state, action, dtype)
    raw = prior(params, config, deter, dtype)
    return State(deter, latents.sample(config.latent, key, raw, unimix))


def imagine(
    params: Tree,
    config: RSSMConfig,
    state: State,
    action: Array,
    key: Key,
    *,
    unimix: Scalar = 0.0,
    dtype: str = "float32",
) -> State:
    """Returns the states [T, B] expected after each of the actions [T, B, A]."""

    def step(state: State, now: tuple[Array, Key]) -> tuple[State, State]:
        state = imagine_step(params, config, state, *now, unimix=unimix, dtype=dtype)
        return state, state

    keys = jax.random.split(key, action.shape[0])
    return jax.lax.scan(step, state, (action, keys))[1]


def prior(params: Tree, config: RSSMConfig, deter: Array, dtype: str) -> Array:
    """Returns the raw parameters [..., raw_size] of p(z | h)."""
    x = _activated(params, config, "prior", layers.dense(params["prior"], deter, dtype))
    return layers.dense(params["prior_out"], x, dtype).astype(jnp.float32)


def check(config: RSSMConfig) -> None:
    """Raises ValueError unless fields are known, large enough and divide."""
    latents.check(config.latent)
    for field in ("deter", "hidden", "blocks"):
        if getattr(config, field) < 1:
            raise ValueError(f"{field}: got {getattr(config, field)}, give at least 1")
    for field, known in (
        ("activation", tuple(layers.ACTIVATIONS)),
        ("norm", layers.NORMS),
        ("gru_norm", layers.NORMS),
    ):
        if getattr(config, field) not in known:
            raise ValueError(
                f"{field}: {getattr(config, field)!r} is not known, use one of {known}"
            )
    if config.deter % config.blocks:
        raise ValueError(
            f"blocks: {config.deter} units do not divide into {config.blocks} blocks"
        )


def _observe_step(
    params: Tree,
    config: RSSMConfig,
    state: State,
    seen: Array,
    action_tm1: Array,
    first: Array,
    key: Key,
    unimix: Scalar,
    dtype: str,
) -> tuple[State, Array]:
    """Returns (state, posterior); ``seen`` is the embedding's part of its first layer."""
    live = ~first[..., None]
    state, action = jax.tree.map(
        lambda x: jnp.where(live, x, jnp.zeros_like(x)), (state, action_tm1)
    )
    deter = _recur(params, config, state, action, dtype)
    kernel = params["posterior"]["kernel"][: config.deter].astype(dtype)
    x = product.product(deter.astype(dtype), kernel) + seen
    x = _activated(params, config, "posterior", x)
    raw = layers.dense(params["posterior_out"], x, dtype).astype(jnp.float32)
    return State(deter, latents.sample(config.latent, key, raw, unimix)), raw


def _embedded(params: Tree, config: RSSMConfig, embed: Array, dtype: str) -> Array:
    posterior = params["posterior"]
    own = {"kernel": posterior["kernel"][config.deter :], "bias": posterior["bias"]}
    return layers.dense(own, embed, dtype)


def _recur(
    params: Tree, config: RSSMConfig, state: State, action: Array, dtype: str
) -> Array:
    """Returns h after ``state`` and ``action``."""
    x = jnp.concatenate([state.stoch, action], axis=-1)
    x = _activated(params, config, "input", layers.dense(params["input"], x, dtype))
    gates = _gates(params["gru"], config, x, state.deter, dtype)
    gates = layers.norm(config.gru_norm, params["gru"].get("norm", {}), gates)
    reset, candidate, update = jnp.split(gates.astype(jnp.float32), 3, axis=-1)
    candidate = jnp.tanh(jax.nn.sigmoid(reset) * candidate)
    update = jax.nn.sigmoid(update + UPDATE_BIAS)
    return update * candidate + (1.0 - update) * state.deter


def _gru_init(key: Key, config: RSSMConfig) -> Tree:
    inputs, outputs = config.hidden + config.deter, 3 * config.deter
    if config.blocks == 1:
        params = layers.dense_init(key, inputs, outputs)
    else:
        size = config.deter // config.blocks
        keys = jax.random.split(key, config.blocks)
        kernel = jax.vmap(lambda k: layers.glorot(k, (config.hidden + size, 3 * size)))
        params = {"kernel": kernel(keys), "bias": jnp.zeros(outputs)}
    if config.gru_norm != "none":
        params["norm"] = layers.norm_init(config.gru_norm, outputs)
    return params


def _gates(gru: Tree, config: RSSMConfig, x: Array, deter: Array, dtype: str) -> Array:
    """Returns W [x, h] + b, [..., 3 deter], in the order reset, candidate, update."""
    if config.blocks == 1:
        return layers.dense(gru, jnp.concatenate([x, deter.astype(x.dtype)], -1), dtype)
    lead, size = deter.shape[:-1], config.deter // config.blocks
    own = deter.astype(x.dtype).reshape(*lead, config.blocks, size)
    shared = jnp.broadcast_to(x[..., None, :], (*lead, config.blocks, x.shape[-1]))
    inputs = jnp.concatenate([shared, own], axis=-1)
    y = jnp.einsum("...bi,bio->...bo", inputs, gru["kernel"].astype(dtype))
    y = y.reshape(*lead, config.blocks, 3, size)
    y = jnp.swapaxes(y, -3, -2).reshape(*lead, -1)
    return y + layers.like(gru["bias"].astype(dtype), y)


def _activated(params: Tree, config: RSSMConfig, name: str, x: Array) -> Array:
    x = layers.norm(config.norm, params.get(f"{name}_norm", {}), x)
    return layers.ACTIVATIONS[config.activation](x)
