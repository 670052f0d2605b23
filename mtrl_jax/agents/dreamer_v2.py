"""DreamerV2: behaviour learned inside a world model of discrete latents.

The model (``networks/world_model``) is fitted to sequences from the replay; from each of
their states the actor imagines H steps, whose λ-returns by a slow copy of the critic
train critic and actor (``losses/world_model``, which has all indices).

Ref: Hafner et al. 2021, "Mastering Atari with discrete world models" (arXiv:2010.02193).

Deviations: model, actor and critic take their steps together, from the parameters before
the step (the authors' program imagines with the model just updated). Weight decay is
multiplied by the learning rate. Sequences begin at any step, also across ends of
episodes, without a bias towards them, and from a state of zeros. Legal actions of imagined
states are those of the state imagined from. A Box policy is a Gaussian of mean tanh(m)
and deviation 2 σ(s / 2) + 0.1, in units of half the range, clipped by the environment.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import tree, types
from mtrl_jax.agents.common import imagination, learning, optimiser, sequences, unrolls
from mtrl_jax.hparams import Amount, Share
from mtrl_jax.losses import rewards, world_model
from mtrl_jax.networks import layers, observation_model, rssm
from mtrl_jax.networks import world_model as networks
from mtrl_jax.types import Array, Key, Scalar, Tree

INFO = types.AgentInfo(
    "DreamerV2: behaviour learned in a discrete world model (Hafner et al. 2021)"
)

RANGE_RATE = 0.01  # of the moving average of the returns' range (DreamerV3)


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program; the sizes are the paper's for Atari."""

    rssm: rssm.RSSMConfig = dataclasses.field(default_factory=rssm.RSSMConfig)
    observation: observation_model.ObservationConfig = dataclasses.field(
        default_factory=observation_model.ObservationConfig
    )
    units: int = 400  # of heads, actor and critic
    layers: int = 4
    replay: sequences.SequenceConfig = dataclasses.field(
        default_factory=sequences.SequenceConfig
    )
    horizon: int = 15
    # reinforce, dynamics, or mix: both, by ``reinforce``; auto: dynamics for Box.
    actor_gradient: str = "auto"
    rewards: str = "tanh"  # see losses/rewards.py
    discount_head: bool = True  # False: the discount of imagined steps is constant
    slow_critic_period: int = 100  # gradient steps
    precision: str = "float32"  # bfloat16: of products, on accelerators
    # DreamerV3's, see configs/dreamer_v3_like_minatar.yaml.
    two_hot: bool = False
    free_nats_each: bool = False
    normalise_returns: bool = False


class Model(NamedTuple):
    """Hyperparameters of the world model's loss."""

    kl_scale: Amount = 0.1
    # Share of the KL's gradient for the prior. Without balancing: 0.5 at twice the scale.
    kl_balance: Share = 0.8
    free_nats: Amount = 0.0
    discount_loss_scale: Amount = 5.0
    # Of the gradients of what is predicted, how much reaches the model's states.
    image_gradient: Share = 1.0
    reward_gradient: Share = 1.0
    unimix: Share = 0.0  # of uniform in latents


class Behaviour(NamedTuple):
    """Hyperparameters of actor and critic."""

    discount: Share = 0.999
    lambda_: Share = 0.95
    reinforce: Share = 1.0  # ρ of "mix": REINFORCE against gradients of the dynamics
    entropy_cost: Amount = 1e-3
    slow_critic_rate: Share = 1.0  # 1: a copy


class Optimiser(NamedTuple):
    """Hyperparameters of three Adams with decoupled weight decay."""

    model_lr: Amount = 2e-4
    actor_lr: Amount = 4e-5
    critic_lr: Amount = 1e-4
    max_grad_norm: Amount = 100.0  # of each
    adam_eps: Amount = 1e-5
    weight_decay: Amount = 1e-6


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    optimiser: Optimiser = Optimiser()
    model: Model = Model()
    behaviour: Behaviour = Behaviour()
    temperature: Amount = 1.0  # of acting; 0 is greedy


class Carry(NamedTuple):
    """What acting remembers of a slot."""

    state: rssm.State  # [B, ...]
    action: Array  # [B, A] encoded, that led to the next step


class Stats(NamedTuple):
    """What no gradient trains."""

    slow_critic: Tree
    return_range: Array  # [] moving average, read where returns are normalised
    steps: Array  # [] int32 gradient steps


class Sequences(NamedTuple):
    """A batch of N sequences of L steps."""

    ts: types.TimeStep  # [L, N, ...]; ``last`` is not known
    action_tm1: Array  # [L, N, A] encoded
    live: Array  # [N] 1, or 0 of what is no sequence


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the DreamerV2 agent for environments of ``spec``.

    Metrics: ``loss, model_loss, image_loss`` (of all observations), ``reward_loss,
    discount_loss, kl, prior_entropy, posterior_entropy, actor_loss, critic_loss, entropy,
    imagined_return, imagined_reward, grad_norm``, means over the gradient steps; 0 while
    it waits for its first.

    Raises:
      ValueError: an unknown option, sizes below 1, an image that the encoder cannot take,
        a replay beyond the machine's memory, REINFORCE alone for Box actions; at trace
        time, sequences longer than the replay keeps, or no gradient step an update.
    """
    gradient = _check(spec, config)
    hidden = (config.units,) * config.layers
    model = networks.make(
        spec, config.rssm, config.observation,
        hidden=hidden, two_hot=config.two_hot, precision=config.precision,
    )  # fmt: skip
    actor = imagination.actor(spec.action, config.rssm, hidden, config.precision)
    transform = rewards.get(config.rewards)
    feature_size = config.rssm.feature_size

    def critic(params: Tree, x: Array) -> Array:
        return layers.mlp(
            params, x, activation=config.rssm.activation, dtype=config.precision
        )

    def init(key: Key, hp: Hparams) -> learning.Learner:
        model_key, actor_key, critic_key = jax.random.split(key, 3)
        head = model.scalar.size
        params = {
            "model": model.init(model_key),
            "actor": actor.init(actor_key),
            "critic": layers.mlp_init(
                critic_key, feature_size, hidden, head, zero=config.two_hot
            ),
        }
        slow = jax.tree.map(jnp.copy, params["critic"])
        stats = Stats(slow, jnp.zeros(()), jnp.zeros((), jnp.int32))
        return learning.init(params, optimise(hp.optimiser), stats)

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
        value = model.scalar.mean(critic(params["critic"], x))
        extras = unrolls.Extras(log_prob, value)
        return action, Carry(state, actor.encode(action)), extras

    def model_loss(params, batch: Sequences, key, hp: Model, discount: Scalar):
        ts, live = batch.ts, _per_step(batch)
        start = model.initial(live.shape[1])
        found = model.observe(
            params, start, ts.obs, batch.action_tm1, ts.first, key, hp.unimix
        )
        x = rssm.features(found.state)
        drawn = model.decode(params, world_model.gradient_share(x, hp.image_gradient))
        image = model.observation_error(drawn, ts.obs, ts.task)
        reward = model.scalar.error(
            model.reward(params, world_model.gradient_share(x, hp.reward_gradient)),
            transform(ts.reward),
        )
        ends = jnp.zeros_like(reward)
        if config.discount_head:
            logit = model.discount(params, x)
            ends = world_model.discount_error(logit, ts.discount * discount)
        posterior, prior = found.posterior, found.prior
        kl = world_model.balanced_kl(
            model.kl(world_model.sg(posterior), prior, hp.unimix),
            model.kl(posterior, world_model.sg(prior), hp.unimix),
            hp.kl_balance, hp.free_nats, live, free_each=config.free_nats_each,
        )  # fmt: skip

        def mean(x: Array) -> Array:
            return world_model.masked_mean(x, live)

        terms = {"image_loss": image, "reward_loss": reward, "discount_loss": ends}
        terms |= {
            "posterior_entropy": model.entropy(posterior, hp.unimix),
            "prior_entropy": model.entropy(prior, hp.unimix),
        }
        metrics = {name: mean(x) for name, x in terms.items()} | {"kl": kl}
        loss = metrics["image_loss"] + metrics["reward_loss"] + hp.kl_scale * kl
        loss = loss + hp.discount_loss_scale * metrics["discount_loss"]
        return loss, metrics | {"model_loss": loss}, found.state

    def behaviour_loss(params, stats: Stats, states, batch: Sequences, key, hp):
        frozen, hp, mixing = world_model.sg(params["model"]), hp.behaviour, hp.model
        starts, mask, live, ends = jax.tree.map(
            lambda x: x.reshape(-1, *x.shape[2:]),
            (world_model.sg(states), batch.ts.action_mask, _per_step(batch),
             batch.ts.discount),
        )  # fmt: skip

        def step(state: rssm.State, action: Array, key: Key) -> rssm.State:
            return model.imagine_step(frozen, state, action, key, mixing.unimix)

        dreamt = imagination.imagine(
            actor, params["actor"], step, starts, mask, key, config.horizon,
            differentiated=gradient != "reinforce",
        )  # fmt: skip
        x = dreamt.features  # [H + 1, N, F]
        discount = jnp.broadcast_to(jnp.asarray(hp.discount), x.shape[:2])
        if config.discount_head:
            discount = jax.nn.sigmoid(model.discount(frozen, x))
        discount = discount.at[0].set(ends * hp.discount)
        reward = model.scalar.mean(model.reward(frozen, x))
        value = model.scalar.mean(critic(world_model.sg(stats.slow_critic), x))
        found = world_model.behaviour(
            world_model.Imagined(reward, discount, value), hp.lambda_
        )
        scale: Scalar = 1.0
        if config.normalise_returns:
            spread = world_model.return_range(found.target, live)
            spread += (1.0 - RANGE_RATE) * (stats.return_range - spread)
            stats = stats._replace(return_range=spread)
            scale = jnp.maximum(spread, 1.0)
        chosen = world_model.sg(jax.tree.map(lambda x: x[:-1], dreamt.action))
        policy = actor.policy(params["actor"], world_model.sg(x[:-2]), mask)
        entropy = policy.entropy()
        rho = {"reinforce": 1.0, "dynamics": 0.0}.get(gradient, hp.reinforce)
        actor_loss = world_model.actor_loss(
            policy.log_prob(chosen), entropy, found, live,
            reinforce=rho, entropy_cost=hp.entropy_cost, scale=scale,
        )  # fmt: skip
        error = model.scalar.error(
            critic(params["critic"], world_model.sg(x[:-1])), found.target
        )
        critic_loss = world_model.critic_loss(error, found, live)
        metrics = {
            "actor_loss": actor_loss,
            "critic_loss": critic_loss,
            "entropy": jnp.mean(entropy),
            "imagined_return": jnp.mean(found.target),
            "imagined_reward": jnp.mean(reward),
        }
        return actor_loss + critic_loss, metrics, stats

    def loss(params, stats, batch, key, hp):
        model_key, dream_key = jax.random.split(key)
        discount = hp.behaviour.discount
        fit, metrics, states = model_loss(
            params["model"], batch, model_key, hp.model, discount
        )
        act, more, stats = behaviour_loss(params, stats, states, batch, dream_key, hp)
        total = fit + act
        return total, learning.Aux(metrics | more | {"loss": total}, stats)

    def gradient_step(learner, now, hp):
        drawn, key = now
        batch = tree.shard(sequences_of(actor, drawn), axis=-1)
        after, metrics = learning.gradient_step(
            loss, optimise(hp.optimiser), learner, batch, key, hp
        )
        # A batch without any sequence teaches nothing.
        after = tree.where(jnp.any(drawn[1]), after, learner)
        stats = slow_copy(
            after.stats, after.params["critic"], hp.behaviour, config.slow_critic_period
        )
        return after._replace(stats=stats), metrics

    def update(learner, drawn, key, hp, step):
        batches = drawn.live.shape[0]

        def train(learner):
            keys = jax.random.split(key, batches)
            learner, metrics = jax.lax.scan(
                lambda x, now: gradient_step(x, now, hp),
                learner,
                ((drawn.rows, drawn.live), keys),
            )
            metrics = jax.tree.map(jnp.mean, metrics)
            return learner._replace(updates=learner.updates + 1), metrics

        waits = sequences.waits(config.replay, batches)
        if not waits:
            return *train(learner), ()
        _, shapes = jax.eval_shape(train, learner)
        none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        learner, metrics = jax.lax.cond(
            step >= waits, train, lambda x: (x, none), learner
        )
        return learner, metrics, ()

    return types.Agent(init, carry, act, update, sequences.make(spec, config.replay))


def optimise(hp: Optimiser) -> optax.GradientTransformation:
    """Returns an Adam for each of model, actor and critic, clipped on its own."""

    def adam(rate: Scalar) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(hp.max_grad_norm),
            optax.scale_by_adam(eps=hp.adam_eps),
            optax.add_decayed_weights(hp.weight_decay),
            optax.scale_by_learning_rate(rate),
        )

    rates = {"model": hp.model_lr, "actor": hp.actor_lr, "critic": hp.critic_lr}
    return optimiser.grouped({name: adam(rate) for name, rate in rates.items()})


def slow_copy(stats: Stats, critic: Tree, hp: Behaviour, period: int) -> Stats:
    """Returns the statistics one gradient step on; each ``period``-th the critic's copy.

    ``slow_critic_rate`` below 1 moves the copy that share of the way.
    """
    steps = stats.steps + 1
    is_due = steps % period == 0

    def moved(slow: Array, fast: Array) -> Array:
        part = jnp.asarray(hp.slow_critic_rate)
        return jnp.where(
            is_due, jnp.where(part == 1, fast, slow + part * (fast - slow)), slow
        )

    slow = jax.tree.map(moved, stats.slow_critic, critic)
    return stats._replace(slow_critic=slow, steps=steps)


def sequences_of(actor: imagination.Actor, drawn: tuple) -> Sequences:
    """Returns N sequences of L steps from ``(rows [L + 1, N], live [N])``.

    Of the first row there is only the action, which led to the second.
    """
    rows, live = drawn
    now = jax.tree.map(lambda x: x[1:], rows)
    ts = types.TimeStep(
        now.obs, now.reward, now.discount, now.first, jnp.zeros_like(now.first),
        now.task, now.action_mask,
    )  # fmt: skip
    return Sequences(ts, actor.encode(rows.action[:-1]), live.astype(jnp.float32))


def _per_step(batch: Sequences) -> Array:
    return jnp.broadcast_to(batch.live[None], batch.ts.reward.shape)


def _check(spec: types.EnvSpec, config: Config) -> str:
    """Returns the actor's gradient; raises ValueError for what cannot be."""
    networks.check_precision(config.precision)
    for field in ("units", "layers", "horizon", "slow_critic_period"):
        if getattr(config, field) < 1:
            raise ValueError(f"{field}: got {getattr(config, field)}, give at least 1")
    if config.horizon < 2:
        raise ValueError("horizon: the last action has no target, give at least 2")
    return imagination.actor_gradient(spec.action, config.actor_gradient)
