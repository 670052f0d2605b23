"""DreamerV2: behaviour learned inside a world model of discrete latents.

The model (``networks/world_model``) is fitted to sequences from the replay
(``common/model_learning``); from each of their states the actor imagines H steps, which
train critic and actor (``common/behaviour_learning``).

Ref: Hafner et al. 2021, "Mastering Atari with discrete world models" (arXiv:2010.02193).

Deviations: model, actor and critic take their steps together, from the parameters before
the step (the authors' program imagines with the model just updated). Weight decay is
multiplied by the learning rate. No gradient steps are made at once after the prefill (100
in continuous control). Sequences begin at any step, also across ends of episodes, without
a bias towards them, and from a state of zeros and the action that led to the first step.
Legal actions of imagined states are those of the state imagined from. Images may be
Bernoulli instead of Gaussian (``observation.likelihood``). A Box policy is a Gaussian of
mean tanh(m) and deviation 2 σ(s / 2) + 0.1, in units of half the range, clipped by the
environment.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import errors, tree, types
from mtrl_jax.agents.common import (
    behaviour_learning,
    imagination,
    learning,
    model_learning,
    model_optimiser,
    sequences,
    unrolls,
)
from mtrl_jax.agents.common.behaviour_learning import Critic, Parts
from mtrl_jax.hparams import Amount
from mtrl_jax.losses import rewards
from mtrl_jax.networks import layers
from mtrl_jax.networks.world_models import observation_config, rssm
from mtrl_jax.networks.world_models import world_model as networks
from mtrl_jax.types import Array, Key


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program; the sizes are the paper's for Atari."""

    rssm: rssm.RSSMConfig = dataclasses.field(default_factory=rssm.RSSMConfig)
    observation: observation_config.ObservationConfig = dataclasses.field(
        default_factory=observation_config.ObservationConfig
    )
    units: int = 400  # of heads, actor and critic
    layers: int = 4
    replay: sequences.SequenceConfig = dataclasses.field(
        default_factory=sequences.SequenceConfig
    )
    horizon: int = 15
    # reinforce, dynamics, or mix: both, by ``reinforce``; auto: dynamics for Box.
    actor_gradient: str = "auto"
    # none, clip, tanh, oac_paper, oac_code, symlog, signed_hyperbolic
    rewards: str = "tanh"
    discount_head: bool = True  # False: the discount of imagined steps is constant
    slow_critic_period: int = 100  # gradient steps
    # bfloat16: of products on accelerators; CPUs, slower in it, stay float32.
    dtype: str = "float32"
    # DreamerV3's, see configs/dreamer_v3_like_minatar.yaml.
    two_hot: bool = False
    free_nats_each: bool = False
    normalise_returns: bool = False


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    optimiser: model_optimiser.Hparams = model_optimiser.Hparams()
    model: model_learning.Hparams = model_learning.Hparams()
    behaviour: behaviour_learning.Hparams = behaviour_learning.Hparams()
    temperature: Amount = 1.0  # of acting; 0 is greedy


class Carry(NamedTuple):
    """What acting remembers of a slot."""

    state: rssm.State  # [B, ...]
    action: Array  # [B, A] encoded, that led to the next step


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the DreamerV2 agent for environments of ``spec``.

    Metrics: ``loss, model_loss, image_loss`` (of all observations), ``reward_loss,
    discount_loss, kl`` (as it is), ``kl_loss`` (balanced, no less than the free nats),
    ``prior_entropy, posterior_entropy, actor_loss, critic_loss, entropy,
    imagined_return, imagined_reward`` (of imagined states, as likely as they are
    reached), ``seen_reward`` (of the states imagined from; far above ``imagined_reward``
    where the model does not foresee rewards), ``grad_norm``, means over the gradient
    steps; 0 while it waits for its first.

    Raises:
      ValueError: an unknown option, sizes below 1, an image that the encoder cannot take,
        REINFORCE alone for Box actions; at trace time, sequences longer than the replay
        keeps, or no gradient step an update.
    """
    parts = _parts(spec, config)
    model, actor, critic = parts.model, parts.actor, parts.critic
    learn = _learn(parts, config)

    def init(key: Key, hp: Hparams) -> learning.Learner:
        model_key, actor_key, critic_key = jax.random.split(key, 3)
        params = {
            "model": model.init(model_key),
            "actor": actor.init(actor_key),
            "critic": critic.init(critic_key),
        }
        stats = behaviour_learning.init_stats(params["critic"], len(spec.tasks))
        return learning.init(params, model_optimiser.make(hp.optimiser), stats)

    def carry(batch: int) -> Carry:
        size = types.action_mask_size(spec.action)
        return Carry(model.initial(batch), jnp.zeros((batch, size)))

    def act(learner, carry, ts, key, hp):
        params = learner.params
        state_key, action_key = jax.random.split(key)
        state = model.observe_step(
            params["model"], carry.state, ts.obs, carry.action, ts.first, state_key,
            hp.model.unimix,
        )  # fmt: skip
        x = rssm.features(state)
        policy = actor.policy(params["actor"], x, ts.action_mask, hp.temperature)
        action, log_prob = policy.sample_and_log_prob(action_key)
        extras = unrolls.Extras(log_prob, critic.value(params["critic"], x))
        return action, Carry(state, actor.encode(action)), extras

    def update(learner, drawn, key, hp, step):
        waits = sequences.waits(config.replay, drawn.live.shape[0])
        learner, metrics = learning.after(waits, step, learn, learner, drawn, key, hp)
        return learner, metrics, ()

    return types.Agent(init, carry, act, update, sequences.make(spec, config.replay))


def make_model(spec: types.EnvSpec, config: Config) -> networks.WorldModel:
    """Returns the agent's model, whose parameters are ``learner.params["model"]``."""
    return networks.make(
        spec, config.rssm, config.observation,
        hidden=(config.units,) * config.layers, two_hot=config.two_hot,
        dtype=layers.fast_dtype(config.dtype),
    )  # fmt: skip


def open_loop(spec: types.EnvSpec, config: Config) -> Callable[..., dict[str, Array]]:
    """Returns ``predict(learner, ts, action, key, hp, context)``.

    See ``model_learning.open_loop``.
    """
    model = make_model(spec, config)

    def predict(learner, ts, action, key, hp, context: int):
        params, unimix = learner.params["model"], hp.model.unimix
        return model_learning.open_loop(
            model, spec, params, ts, action, key, unimix, context
        )

    return predict


def _learn(parts: Parts, config: Config) -> Callable[..., tuple]:
    """Returns ``learn(learner, drawn, key, hp) -> (learner, metrics)``.

    It takes a gradient step on each of the batches that were drawn.
    """
    loss = _loss(parts, config)

    def gradient_step(learner, rows, key, hp):
        batch = model_learning.sequences_of(parts.actor.encode, rows)
        learner, metrics = learning.gradient_step(
            loss,
            model_optimiser.make(hp.optimiser),
            learner,
            model_learning.shard(batch),
            key,
            hp,
        )
        stats = behaviour_learning.slow_copy(
            learner.stats, learner.params["critic"], hp.behaviour,
            config.slow_critic_period,
        )  # fmt: skip
        return learner._replace(stats=stats), metrics

    def learn(learner, drawn, key, hp):
        keys = jax.random.split(key, drawn.live.shape[0])
        after, metrics = jax.lax.scan(
            lambda learner, now: gradient_step(learner, *now, hp),
            learner,
            (drawn.rows, keys),
        )
        metrics = jax.tree.map(jnp.mean, metrics)
        # A replay shorter than a sequence teaches nothing: it has none to draw.
        nothing = learner, jax.tree.map(jnp.zeros_like, metrics)
        learner, metrics = tree.where(jnp.any(drawn.live), (after, metrics), nothing)
        return learner._replace(updates=learner.updates + 1), metrics

    return learn


def _loss(parts: Parts, config: Config) -> learning.Loss:
    """Returns the sum of the losses of model, actor and critic."""
    transform = rewards.get(config.rewards)

    def loss(params, stats, batch, key, hp):
        model_key, dream_key = jax.random.split(key)
        fit, metrics, states = model_learning.loss(
            parts.model, params["model"], batch, model_key, hp.model,
            hp.behaviour.discount, transform=transform,
            discount_head=config.discount_head, free_nats_each=config.free_nats_each,
        )  # fmt: skip
        act, more, stats = behaviour_learning.loss(
            parts, params, stats, states, batch, dream_key, hp.behaviour,
            hp.model.unimix,
        )  # fmt: skip
        total = fit + act
        return total, learning.Aux(metrics | more | {"loss": total}, stats)

    return loss


def _parts(spec: types.EnvSpec, config: Config) -> Parts:
    """Returns model, actor and critic; raises ValueError for what cannot be."""
    errors.check_choices(config, {"dtype": layers.DTYPES})
    errors.check_sizes(config, ("units", "layers", "horizon", "slow_critic_period"))
    if config.horizon < 2:
        raise ValueError("horizon: the last action has no target, give at least 2")
    gradient = imagination.actor_gradient(spec.action, config.actor_gradient)
    hidden, model = (config.units,) * config.layers, make_model(spec, config)
    dtype = layers.fast_dtype(config.dtype)
    return Parts(
        model,
        imagination.actor(spec.action, config.rssm, hidden, dtype),
        Critic(
            config.rssm.feature_size, hidden, model.scalar, config.rssm.activation,
            dtype, zero=config.two_hot,
        ),
        config.horizon, gradient, config.discount_head, config.normalise_returns,
    )  # fmt: skip


def idle(config: Config) -> dict[str, types.Idle]:
    """Returns the hyperparameters that the program of ``config`` does not read."""
    found = {
        "reinforce": (config.actor_gradient == "mix", "actor_gradient=mix"),
        "discount_loss_scale": (config.discount_head, "discount_head=true"),
        "unimix": (
            config.rssm.latent.kind == "categorical",
            "rssm.latent.kind=categorical",
        ),
    }
    return {
        name: types.Idle(None, needs)
        for name, (is_read, needs) in found.items()
        if not is_read
    }


INFO = types.AgentInfo(
    "DreamerV2: behaviour learned in a discrete world model (Hafner et al. 2021)",
    open_loop=open_loop,
    idle=idle,
    capacity="replay.capacity",
    waits=lambda config: {"replay.prefill": types.Wait(steps=config.replay.prefill)},
)
