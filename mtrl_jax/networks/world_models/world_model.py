"""A world model: encoder, RSSM, decoder, reward and discount heads as pure functions.

Parameters are {encoder, rssm, decoder, reward, discount}. What is static is closed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from mtrl_jax import errors, tree, types
from mtrl_jax.losses import dreamer, symlog
from mtrl_jax.networks import layers
from mtrl_jax.networks.world_models import (
    latents,
    observation_config,
    observation_decoder,
    observation_encoder,
    rssm,
)
from mtrl_jax.types import Array, Key, Scalar, Tree


class ScalarHead(NamedTuple):
    """A scalar predicted by the output of an MLP, [..., size]."""

    size: int
    mean: Callable[[Array], Array]  # raw -> [...]
    error: Callable[[Array, Array], Array]  # (raw, x [...]) -> [...]


class WorldModel(NamedTuple):
    """Functions of the model's parameters; features are ``rssm.features``."""

    init: Callable[[Key], Tree]
    initial: Callable[[int], rssm.State]
    # (params, state [B], obs [T, B], action_tm1 [T, B, A], first [T, B], key, unimix)
    observe: Callable[..., rssm.Observed]
    # the same of one step [B] -> State
    observe_step: Callable[..., rssm.State]
    # (params, state [...], action [..., A], key, unimix) -> State
    imagine_step: Callable[..., rssm.State]
    # (params, state [B], action [T, B, A], key, unimix) -> State [T, B]
    imagine: Callable[..., rssm.State]
    decode: Callable[[Tree, Array], dict[str, Array]]  # (params, features)
    means: Callable[[dict], dict[str, Array]]  # decoded, see observation_decoder
    # (decoded, obs, task) -> [...] summed over entries
    observation_error: Callable[[dict, dict, Array], Array]
    reward: Callable[[Tree, Array], Array]  # (params, features) -> raw of the head
    discount: Callable[[Tree, Array], Array]  # (params, features) -> logit [...]
    kl: Callable[[Array, Array, Scalar], Array]
    entropy: Callable[[Array, Scalar], Array]
    scalar: ScalarHead


def make(
    spec: types.EnvSpec,
    config: rssm.RSSMConfig,
    observation: observation_config.ObservationConfig,
    *,
    hidden: tuple[int, ...],
    two_hot: bool,
    dtype: str,
) -> WorldModel:
    """Returns the world model of environments of ``spec``; ``hidden`` sizes its heads.

    ``two_hot`` predicts rewards as classes, see ``losses/symlog``; ``dtype`` is what
    products are computed in. Raises ValueError for an option that is unknown or an
    observation that the encoder cannot take.
    """
    with errors.part("rssm", config):
        rssm.check(config)
    with errors.part("observation", observation):
        observation = observation_config.choose(observation, spec.obs)
    embed = observation_encoder.size(observation, spec.obs)
    size, action = config.feature_size, types.action_mask_size(spec.action)
    present = observation_decoder.task_entries(spec)
    head = scalar_head(two_hot)

    def init(key: Key) -> Tree:
        encoder, core, decoder, reward, discount = jax.random.split(key, 5)
        return {
            "encoder": observation_encoder.init(encoder, observation, spec.obs),
            "rssm": rssm.init(core, config, embed, action),
            "decoder": observation_decoder.init(decoder, observation, spec.obs, size),
            "reward": layers.mlp_init(reward, size, hidden, head.size, zero=two_hot),
            "discount": layers.mlp_init(discount, size, hidden, 1),
        }

    def encode(params: Tree, obs: dict[str, Array]) -> Array:
        return observation_encoder.encode(params["encoder"], observation, obs, dtype)

    def observe(params, state, obs, action_tm1, first, key, unimix):
        return rssm.observe(
            params["rssm"], config, state, encode(params, obs), action_tm1, first, key,
            unimix=unimix, dtype=dtype,
        )  # fmt: skip

    def observe_step(params, state, obs, action_tm1, first, key, unimix):
        return rssm.observe_step(
            params["rssm"], config, state, encode(params, obs), action_tm1, first, key,
            unimix=unimix, dtype=dtype,
        )  # fmt: skip

    def imagine_step(params, state, action, key, unimix):
        return rssm.imagine_step(
            params["rssm"], config, state, action, key, unimix=unimix, dtype=dtype
        )

    def imagine(params, state, action, key, unimix):
        return rssm.imagine(
            params["rssm"], config, state, action, key, unimix=unimix, dtype=dtype
        )

    def decode(params: Tree, features: Array) -> dict[str, Array]:
        return observation_decoder.decode(
            params["decoder"], observation, spec.obs, features, dtype
        )

    def observation_error(decoded: dict, obs: dict, task: Array) -> Array:
        return observation_decoder.error(observation, decoded, obs, present, task)

    def mlp(params: Tree, x: Array) -> Array:
        return layers.mlp(params, x, activation=config.activation, dtype=dtype)

    return WorldModel(
        init=init,
        initial=lambda batch: rssm.initial(config, batch),
        observe=observe,
        observe_step=observe_step,
        imagine_step=imagine_step,
        imagine=imagine,
        decode=decode,
        means=lambda drawn: observation_decoder.means(observation, spec.obs, drawn),
        observation_error=observation_error,
        reward=lambda params, x: mlp(params["reward"], x),
        discount=lambda params, x: mlp(params["discount"], x)[..., 0],
        kl=lambda q, p, unimix: latents.kl(config.latent, q, p, unimix),
        entropy=lambda raw, unimix: latents.entropy(config.latent, raw, unimix),
        scalar=head,
    )


def scalar_head(two_hot: bool) -> ScalarHead:
    """Returns a Gaussian of unit variance, or classes in symlog."""
    if two_hot:
        return ScalarHead(symlog.BINS, symlog.mean, symlog.cross_entropy)

    def error(raw: Array, x: Array) -> Array:
        return dreamer.squared_error(raw[..., 0], jax.lax.stop_gradient(x))

    return ScalarHead(1, lambda raw: raw[..., 0], error)


def open_loop(
    model: WorldModel,
    params: Tree,
    obs: dict[str, Array],
    action_tm1: Array,
    first: Array,
    key: Key,
    *,
    context: int,
    unimix: Scalar = 0.0,
) -> dict[str, Array]:
    """Returns what the model says of a sequence of which it sees ``context`` steps.

    obs leaves, ``action_tm1`` and ``first`` are [T, B, ...]; the result's leaves are
    [T, B, *leaf], means as ``means`` scales them: reconstructions of the first ``context``
    steps, then predictions from the actions alone.
    """
    seen_key, key = jax.random.split(key)
    begin = jax.tree.map(lambda x: x[:context], (obs, action_tm1, first))
    start = model.initial(first.shape[1])
    seen = model.observe(params, start, *begin, seen_key, unimix).state

    last = jax.tree.map(lambda x: x[-1], seen)
    states = model.imagine(params, last, action_tm1[context:], key, unimix)
    states = tree.concatenate([seen, states])
    return model.means(model.decode(params, rssm.features(states)))
