"""Proximal policy optimisation.

Several passes of clipped policy-gradient steps over one batch of experience.

Ref: Schulman et al. 2017 (arXiv:1707.06347) with the details the field settled on:
generalised advantages, normalised per minibatch, gradients clipped by norm. Clipping the
value error is an option and off: the bound has the unit of returns, which differ by task.

Deviations: the rows of a long pass are ordered by an affine bijection of the index instead
of a full random permutation, which costs no sort (see shuffling.py). A recurrent network is
trained on whole unrolls, minibatches then being sets of slots.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import tree, types
from mtrl_jax.agents import actor_critic, optimiser, shuffling
from mtrl_jax.losses import policy_gradient, rewards
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.types import Array, Scalar, Tree

INFO = types.AgentInfo(
    "proximal policy optimisation (Schulman et al. 2017)",
    needs_extras=True,
    learns=actor_critic.LEARNS,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program."""

    network: networks.NetworkConfig = dataclasses.field(
        default_factory=networks.NetworkConfig
    )
    optimiser: str = "adam"  # see agents/optimiser.py
    rewards: str = "none"  # see losses/rewards.py
    epochs: int = 4
    minibatches: int = 4
    normalise_advantages: bool = True


class Hparams(NamedTuple):
    """What PBT may perturb; every field is traced."""

    learning_rate: Scalar = 2.5e-4
    decay_updates: Scalar = 0.0  # linear decay to 0 over this many updates, 0: constant
    entropy_cost: Scalar = 0.01
    value_cost: Scalar = 0.5
    discount: Scalar = 0.99
    lambda_: Scalar = 0.95
    clip_epsilon: Scalar = 0.2
    clip_value: Scalar = 0.0  # in units of value; 0: the value is not clipped
    reward_scale: Scalar = 1.0  # before the transform
    max_grad_norm: Scalar = 0.5
    epsilon: Scalar = 1e-5  # of the optimiser
    temperature: Scalar = 1.0  # of acting; 0 is greedy


class Batch(NamedTuple):
    """Rows ``[N, L, ...]`` of one pass: N sequences of length L."""

    ts: types.TimeStep
    prev_action: Array
    action: Array
    extras: actor_critic.Extras
    targets: policy_gradient.Targets
    live: Array  # bool, False where the transition crosses into a new episode


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the PPO agent for environments of ``spec``.

    Metrics: ``loss, policy_loss, value_loss, entropy, approx_kl`` (Schulman's
    (ρ − 1) − log ρ), ``clip_fraction, grad_norm``, means over minibatches.

    Raises:
      ValueError: an unknown option, or sizes below 1; at trace time, a rollout whose
        rows do not divide into the minibatches.
    """
    optimiser.check_passes(config)
    network = networks.make(spec, config.network)
    transform = rewards.get(config.rewards)
    steps = config.epochs * config.minibatches

    def init(key, hp):
        params = network.init(key)
        opt = optimiser.make(config.optimiser, hp, steps).init(params)
        return actor_critic.Learner(params, opt, jnp.zeros((), jnp.int32))

    def carry(batch):
        return actor_critic.initial_carry(network, spec.action, batch)

    def act(learner, carry, ts, key, hp):
        return actor_critic.act(network, learner.params, carry, ts, key, hp.temperature)

    def update(learner, rollout, key, hp, step):
        del step
        rows = rows_of(network, transform, learner.params, rollout, hp)
        size = _minibatch_size(rows[0].live.shape[0], config.minibatches)
        loss_fn = functools.partial(loss, network, config.normalise_advantages)

        def epoch(carry, epoch_key):
            index = shuffling.shuffled(epoch_key, size * config.minibatches)
            index = tree.shard(index.reshape(config.minibatches, size), axis=1)
            return jax.lax.scan(minibatch, carry, index)

        def minibatch(carry, index):
            params, opt = carry
            batch, core = jax.tree.map(lambda x: x[index], rows)
            grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
            (_, metrics), grads = grad_fn(params, batch, core, hp)
            optimise = optimiser.make(config.optimiser, hp, steps)
            updates, opt = optimise.update(grads, opt)
            metrics["grad_norm"] = optax.tree.norm(grads)
            return (optax.apply_updates(params, updates), opt), metrics

        (params, opt), metrics = jax.lax.scan(
            epoch, (learner.params, learner.opt), jax.random.split(key, config.epochs)
        )
        learner = actor_critic.Learner(params, opt, learner.updates + 1)
        return learner, jax.tree.map(jnp.mean, metrics), ()

    return types.Agent(init, carry, act, update)


def rows_of(
    network: networks.Network,
    transform: Callable[[Array], Array],
    params: Tree,
    rollout: types.Rollout,
    hp: Hparams,
) -> tuple[Batch, Tree]:
    """Returns (batch, core): the rows of a pass, and the core state each begins with.

    A row is the unroll of a slot where the network has a memory, else a single step; the
    targets are of the parameters before the first pass.
    """
    value = bootstrapped(network, params, rollout)
    r_t, discount_t, first_t = actor_critic.arrivals(
        rollout, hp.reward_scale, transform, hp.discount
    )

    def targets_of(*slot):
        return policy_gradient.gae(*slot, lambda_=hp.lambda_)

    targets = jax.vmap(targets_of, in_axes=1, out_axes=1)(
        value[:-1], value[1:], r_t, discount_t, first_t
    )
    batch = Batch(
        ts=jax.tree.map(lambda x: x[:-1], rollout.ts),
        prev_action=actor_critic.previous_actions(rollout)[:-1],
        action=rollout.action,
        extras=rollout.extras,
        targets=targets,
        live=~first_t,
    )
    if network.recurrent:
        by_slot = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), batch)
        return by_slot, rollout.carry.core
    return jax.tree.map(lambda x: x.reshape(-1, 1, *x.shape[2:]), batch), ()


def bootstrapped(
    network: networks.Network, params: Tree, rollout: types.Rollout
) -> Array:
    """Returns values ``[T + 1, B]``: T from acting, the last from the network.

    With a memory all are the network's: the last needs the unroll in any case.
    """
    prev_action = actor_critic.previous_actions(rollout)
    if network.recurrent:
        out, _ = network.unroll(params, rollout.carry.core, rollout.ts, prev_action)
        return out.value
    last = jax.tree.map(lambda x: x[-1:], (rollout.ts, prev_action))
    out, _ = network.unroll(params, rollout.carry.core, *last)
    return jnp.concatenate([rollout.extras.value, out.value])


def loss(
    network: networks.Network,
    normalise: bool,
    params: Tree,
    batch: Batch,
    core: Tree,
    hp: Hparams,
) -> tuple[Array, dict[str, Array]]:
    """Returns (loss, metrics) of a minibatch: clipped surrogate, value error, entropy.

    ``normalise`` gives the live advantages mean 0 and variance 1.
    """
    batch = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), batch)  # [L, N]
    out, _ = network.unroll(params, core, batch.ts, batch.prev_action)
    distribution = network.distribution(out.policy, batch.ts.action_mask)
    log_ratio = distribution.log_prob(batch.action) - batch.extras.log_prob

    def mean(x: Array) -> Array:
        return policy_gradient.masked_mean(x, batch.live)

    advantage = batch.targets.advantage
    if normalise:
        advantage = policy_gradient.normalised(advantage, batch.live)
    policy_loss = mean(
        policy_gradient.clipped_surrogate(log_ratio, advantage, hp.clip_epsilon)
    )
    value_loss = mean(
        policy_gradient.clipped_value_error(
            out.value, batch.extras.value, batch.targets.value, hp.clip_value
        )
    )
    entropy = mean(distribution.entropy())
    total = policy_loss + hp.value_cost * value_loss - hp.entropy_cost * entropy
    return total, {
        "loss": total,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approx_kl": mean(jnp.expm1(log_ratio) - log_ratio),
        "clip_fraction": mean(
            (jnp.abs(jnp.expm1(log_ratio)) > hp.clip_epsilon).astype(jnp.float32)
        ),
    }


def _minibatch_size(rows: int, minibatches: int) -> int:
    if rows % minibatches:
        raise ValueError(
            f"minibatches: {minibatches} does not divide the {rows} rows of "
            "a rollout (slots with a recurrent core, slots × unroll_length without)"
        )
    return rows // minibatches
