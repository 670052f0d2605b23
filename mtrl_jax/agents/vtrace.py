"""The V-trace learner: its loss, and the gradient steps of an update.

What policy acts is not its business: it is given the log-probabilities, entropies and
values of a rollout. IMPALA's is one network; Mix&Match's is a mixture of several.

Ref: Espeholt et al. 2018 (arXiv:1802.01561), section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import tree, types
from mtrl_jax.agents import actor_critic, optimiser, shuffling
from mtrl_jax.losses import policy_gradient
from mtrl_jax.types import Array, Key, Tree

Metrics = dict[str, Array]


def loss(
    now: actor_critic.Evaluated,
    rollout: types.Rollout,
    transform: Callable[[Array], Array],
    hp: Any,
    normalise: bool = False,
) -> tuple[Array, Metrics]:
    """Returns (loss, metrics): policy gradient, value error and entropy of live steps.

    L = mean(−A log π(a)) + value_cost · mean(½ (v − V)²) − entropy_cost · mean(H), with
    V-trace's advantages A and targets v. ``hp`` has the fields of ``impala.Hparams``
    but those of the optimiser. ``rollout.extras.log_prob`` is the behaviour's.
    ``normalise`` gives the live advantages mean 0 and variance 1; ``hp.clip_epsilon``
    above 0 takes out the steps whose policy has moved that far already.
    """
    r_t, discount_t, first_t = actor_critic.arrivals(
        rollout, hp.reward_scale, transform, hp.discount
    )
    log_ratio = now.log_prob - rollout.extras.log_prob
    rho_tm1 = jnp.exp(log_ratio)

    # Targets of every slot; no gradient flows through them.
    def targets_of(*slot):
        return policy_gradient.vtrace(
            *slot,
            lambda_=hp.lambda_,
            clip_rho=hp.clip_rho,
            clip_pg_rho=hp.clip_pg_rho,
        )

    v_tm1, v_t = now.value[:-1], now.value[1:]
    targets = jax.vmap(targets_of, in_axes=1, out_axes=1)(
        *jax.lax.stop_gradient((v_tm1, v_t, r_t, discount_t, rho_tm1)), first_t
    )

    def mean(x: Array) -> Array:
        return policy_gradient.masked_mean(x, ~first_t)

    advantage = targets.advantage
    if normalise:
        advantage = policy_gradient.normalised(advantage, ~first_t)
    trusted = policy_gradient.within_trust(log_ratio, advantage, hp.clip_epsilon)
    policy_loss = mean(jnp.where(trusted, -advantage * now.log_prob, 0.0))
    value_loss = mean(0.5 * jnp.square(targets.value - v_tm1))
    entropy = mean(now.entropy)
    total = policy_loss + hp.value_cost * value_loss - hp.entropy_cost * entropy
    return total, {
        "loss": total,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "rho": mean(rho_tm1),
        "value": mean(v_tm1),
    }


def update(
    loss_fn: Callable[[Tree, types.Rollout, Any], tuple[Array, Metrics]],
    config: Any,
    learner: actor_critic.Learner,
    rollout: types.Rollout,
    key: Key,
    hp: Any,
) -> tuple[actor_critic.Learner, Metrics, tuple[()]]:
    """Returns (learner, metrics, ()) after the gradient steps on one rollout.

    ``config`` has ``optimiser, epochs, minibatches``: every epoch takes all slots once,
    in ``minibatches`` random groups of whole unrolls; metrics are means over the steps.
    Importance ratios correct for the steps already made, as for old actors.
    """
    steps = config.epochs * config.minibatches
    optimise = optimiser.make(config.optimiser, hp, steps)

    def step(carry, rollout):
        params, opt = carry
        (_, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, rollout, hp
        )
        metrics["grad_norm"] = optax.tree.norm(grads)
        updates, opt = optimise.update(grads, opt)
        return (optax.apply_updates(params, updates), opt), metrics

    carry = (learner.params, learner.opt)
    if steps == 1:
        carry, metrics = step(carry, rollout)
    else:
        groups = _groups(key, config, rollout.ts.first.shape[1])
        groups = tree.shard(groups, axis=1)
        carry, metrics = jax.lax.scan(
            lambda carry, slots: step(carry, take_slots(rollout, slots)), carry, groups
        )
        metrics = jax.tree.map(jnp.mean, metrics)
    learner = actor_critic.Learner(*carry, learner.updates + 1)
    return learner, metrics, ()


def init(params: Tree, config: Any, hp: Any) -> actor_critic.Learner:
    """Returns a learner that has made no update."""
    steps = config.epochs * config.minibatches
    opt = optimiser.make(config.optimiser, hp, steps).init(params)
    return actor_critic.Learner(params, opt, jnp.zeros((), jnp.int32))


def take_slots(rollout: types.Rollout, slots: Array) -> types.Rollout:
    """Returns the rollout of some slots; its carry has no time axis."""
    timed = jax.tree.map(lambda x: x[:, slots], rollout._replace(carry=()))
    return timed._replace(carry=jax.tree.map(lambda x: x[slots], rollout.carry))


def _groups(key: Key, config: Any, slots: int) -> Array:
    """Returns int32 [epochs · minibatches, slots / minibatches]."""
    if slots % config.minibatches:
        raise ValueError(
            f"minibatches: {config.minibatches} does not divide the {slots} slots"
        )
    order = [shuffling.shuffled(k, slots) for k in jax.random.split(key, config.epochs)]
    return jnp.stack(order).reshape(config.epochs * config.minibatches, -1)
