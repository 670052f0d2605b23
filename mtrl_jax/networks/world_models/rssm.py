"""The recurrent state-space model: what DreamerV2 remembers and imagines.

    h_t = GRU(h_{t−1}, f(z_{t−1}, a_{t−1}))        deterministic, see ``gru``
    z_t ~ q(z | h_t, x_t)                          posterior, with the observation
    ẑ_t ~ p(z | h_t)                               prior, without

What does not depend on the state is computed for all steps outside the loop: the
embedding's part of the posterior's first layer, the prior, and the weights' gradients
(see ``deferred``).

Ref: Hafner et al. 2021 (arXiv:2010.02193), equation 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from mtrl_jax import errors
from mtrl_jax.networks import layers
from mtrl_jax.networks.world_models import deferred, gru, latents
from mtrl_jax.types import Array, Key, Scalar, Tree


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
    into, core, prior, prior_out, post, post_out = jax.random.split(key, 6)
    raw, deter, hidden = config.latent.raw_size, config.deter, config.hidden
    params = {
        "input": layers.dense_init(into, config.latent.size + action, hidden),
        "gru": gru.init(
            core, hidden, deter, norm=config.gru_norm, blocks=config.blocks
        ),
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
    kernels, shifts = _observing(params, config, embed, dtype)
    shifts = {
        name: jnp.broadcast_to(x, (*first.shape, x.shape[-1]))
        for name, x in shifts.items()
    }

    def step(
        dense: deferred.Dense,
        consts: tuple[Tree, Array],
        state: State,
        now: tuple[Array, Array, Key],
    ) -> tuple[State, tuple[State, Array]]:
        params, unimix = consts
        state, raw = _observe_step(dense, params, config, state, *now, unimix)
        return state, (state, raw)

    inputs = action_tm1, first, jax.random.split(key, len(first))
    consts = params, jnp.asarray(unimix)
    _, (states, posterior) = deferred.scan(step, kernels, shifts, consts, state, inputs)
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
    dense = deferred.one_step(*_observing(params, config, embed, dtype))
    now = action_tm1, first, key
    return _observe_step(dense, params, config, state, *now, unimix)[0]


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
    dense = deferred.one_step(*_recurrent(params, config, dtype))
    deter = _recur(dense, params, config, state, action)
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

    def step(state: State, action: Array, key: Key) -> tuple[State, State]:
        state = imagine_step(
            params, config, state, action, key, unimix=unimix, dtype=dtype
        )
        return state, state

    return unroll(step, state, action, key)[1]


def unroll(
    step: Callable[[State, Tree, Key], tuple[State, Tree]],
    state: State,
    inputs: Tree,
    key: Key,
    steps: int | None = None,
) -> tuple[State, Tree]:
    """Returns (state after T steps, what they gave out [T, ...]), each with its own key.

    ``inputs`` [T, ...] are the steps'; () with ``steps`` = T if there are none.
    """
    length = len(jax.tree.leaves(inputs)[0]) if steps is None else steps

    def one(state: State, now: tuple[Tree, Key]) -> tuple[State, Tree]:
        return step(state, *now)

    return jax.lax.scan(one, state, (inputs, jax.random.split(key, length)))


def prior(params: Tree, config: RSSMConfig, deter: Array, dtype: str) -> Array:
    """Returns the raw parameters [..., raw_size] of p(z | h)."""
    x = _activated(params, config, "prior", layers.dense(params["prior"], deter, dtype))
    return layers.dense(params["prior_out"], x, dtype).astype(jnp.float32)


def check(config: RSSMConfig) -> None:
    """Raises ValueError unless fields are known, large enough and divide."""
    latents.check(config.latent)
    errors.check_sizes(config, ("deter", "hidden", "blocks"))
    errors.check_choices(
        config,
        {
            "activation": tuple(layers.ACTIVATIONS),
            "norm": layers.NORMS,
            "gru_norm": layers.NORMS,
        },
    )
    if config.deter % config.blocks:
        raise ValueError(
            f"blocks: {config.deter} units do not divide into {config.blocks} blocks"
        )


def _observe_step(
    dense: deferred.Dense,
    params: Tree,
    config: RSSMConfig,
    state: State,
    action_tm1: Array,
    first: Array,
    key: Key,
    unimix: Scalar,
) -> tuple[State, Array]:
    """Returns (state, posterior); ``dense`` has the layers of ``_observing``."""
    live = ~first[..., None]
    state, action = jax.tree.map(
        lambda x: jnp.where(live, x, jnp.zeros_like(x)), (state, action_tm1)
    )
    deter = _recur(dense, params, config, state, action)
    x = _activated(params, config, "posterior", dense("posterior", deter))
    raw = dense("posterior_out", x).astype(jnp.float32)
    return State(deter, latents.sample(config.latent, key, raw, unimix)), raw


def _recurrent(params: Tree, config: RSSMConfig, dtype: str) -> tuple[dict, dict]:
    """Returns ({layer: kernel}, {layer: bias}) of the dense layers before h."""
    names = ("input", "gru") if config.blocks == 1 else ("input",)
    return deferred.layers({name: params[name] for name in names}, dtype)


def _observing(
    params: Tree, config: RSSMConfig, embed: Array, dtype: str
) -> tuple[dict, dict]:
    """Returns the same of all in a step with an observation, ``embed`` [..., E].

    Instead of a bias the posterior's first layer has the embedding's part of it, too.
    """
    kernels, shifts = _recurrent(params, config, dtype)
    first, out = params["posterior"], params["posterior_out"]
    own = {"kernel": first["kernel"][config.deter :], "bias": first["bias"]}
    shifts["posterior"] = layers.dense(own, embed, dtype)
    kernels["posterior"] = first["kernel"][: config.deter].astype(dtype)
    more, biases = deferred.layers({"posterior_out": out}, dtype)
    return kernels | more, shifts | biases


def _recur(
    dense: deferred.Dense, params: Tree, config: RSSMConfig, state: State, action: Array
) -> Array:
    """Returns h after ``state`` and ``action``."""
    x = jnp.concatenate([state.stoch, action], axis=-1)
    x = _activated(params, config, "input", dense("input", x))
    return gru.step(
        params["gru"], x, state.deter, lambda both: dense("gru", both),
        norm=config.gru_norm, blocks=config.blocks,
    )  # fmt: skip


def _activated(params: Tree, config: RSSMConfig, name: str, x: Array) -> Array:
    x = layers.norm(config.norm, params.get(f"{name}_norm", {}), x)
    return layers.ACTIVATIONS[config.activation](x)
