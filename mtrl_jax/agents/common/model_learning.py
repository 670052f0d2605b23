"""Learning a world model from sequences of a replay.

    L = −log p(x) − log p(r) − c log p(γ) + β KL_α(q ‖ p)

of observations, rewards and discounts predicted at each state, with the KL balanced by α
(``losses/dreamer``); the mean over steps and sequences.

Ref: Hafner et al. 2021 (arXiv:2010.02193), equation 2 and algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from mtrl_jax import tree, types
from mtrl_jax.data import replay_ring
from mtrl_jax.hparams import Amount, Share
from mtrl_jax.losses import dreamer
from mtrl_jax.networks import heads
from mtrl_jax.networks.world_models import rssm
from mtrl_jax.networks.world_models import world_model as networks
from mtrl_jax.types import Array, Key, Scalar, Tree


class Hparams(NamedTuple):
    """Of the loss."""

    kl_scale: Amount = 0.1
    # Share of the KL's gradient for the prior. Without balancing: 0.5 at twice the scale.
    kl_balance: Share = 0.8
    free_nats: Amount = 0.0
    discount_loss_scale: Amount = 5.0
    # Of the gradients of what is predicted, how much reaches the model's states.
    image_gradient: Share = 1.0
    reward_gradient: Share = 1.0
    unimix: Share = 0.0  # of uniform in latents


class Sequences(NamedTuple):
    """A batch of N sequences of L steps."""

    ts: types.TimeStep  # [L, N, ...]; ``last`` is not known
    action_tm1: Array  # [L, N, A] encoded, that led to the step


def shard(batch: Sequences) -> Sequences:
    """Returns the batch, its N sequences split over a member's devices."""
    return tree.shard(batch, axis=1)


def sequences_of(encode: Callable[[Array], Array], rows: replay_ring.Row) -> Sequences:
    """Returns N sequences of L steps from ``rows`` [L + 1, N]."""
    ts, previous = replay_ring.time_steps(rows)
    return Sequences(ts, encode(previous))


def loss(
    model: networks.WorldModel,
    params: Tree,
    batch: Sequences,
    key: Key,
    hp: Hparams,
    discount: Scalar,
    *,
    transform: Callable[[Array], Array],
    discount_head: bool,
    free_nats_each: bool,
) -> tuple[Array, dict[str, Array], rssm.State]:
    """Returns (loss [], metrics, posterior states [L, N]).

    ``discount`` γ is the label of a step that is not terminal, ``transform`` that of the
    rewards; without ``discount_head`` discounts are not learned. ``free_nats_each`` as
    in ``dreamer.balanced_kl``.
    """
    found = model.observe(
        params, model.initial(batch.ts.first.shape[1]), batch.ts.obs, batch.action_tm1,
        batch.ts.first, key, hp.unimix,
    )  # fmt: skip
    terms = _prediction_errors(
        model, params, rssm.features(found.state), batch.ts, hp, discount,
        transform=transform, discount_head=discount_head,
    )  # fmt: skip
    terms |= {
        "posterior_entropy": model.entropy(found.posterior, hp.unimix),
        "prior_entropy": model.entropy(found.prior, hp.unimix),
        # As far as the prior is to learn from it.
        "kl": model.kl(dreamer.sg(found.posterior), found.prior, hp.unimix),
    }
    metrics = {name: jnp.mean(x) for name, x in terms.items()}
    to_posterior = model.kl(found.posterior, dreamer.sg(found.prior), hp.unimix)
    metrics["kl_loss"] = dreamer.balanced_kl(
        terms["kl"], to_posterior, hp.kl_balance, hp.free_nats,
        free_each=free_nats_each,
    )  # fmt: skip
    total = metrics["image_loss"] + metrics["reward_loss"]
    if discount_head:
        total += hp.discount_loss_scale * metrics["discount_loss"]
    total += hp.kl_scale * metrics["kl_loss"]
    return total, metrics | {"model_loss": total}, found.state


def open_loop(
    model: networks.WorldModel,
    spec: types.EnvSpec,
    params: Tree,
    ts: types.TimeStep,
    action: Array,
    key: Key,
    unimix: Scalar,
    context: int,
) -> dict[str, Array]:
    """Returns what the model says is to be seen, {leaf: [T, B, *leaf]}.

    ``ts`` [T, B] and the actions [T - 1, B] taken between. Of the first ``context`` steps
    the model sees the observations, of the others the actions alone. An image is between
    0 and 1, all is float32.
    """
    encoded = heads.encode(spec.action, action)
    encoded = jnp.concatenate([jnp.zeros_like(encoded[:1]), encoded])
    return networks.open_loop(
        model, params, ts.obs, encoded, ts.first, key, context=context, unimix=unimix
    )


def _prediction_errors(
    model: networks.WorldModel,
    params: Tree,
    x: Array,
    ts: types.TimeStep,
    hp: Hparams,
    discount: Scalar,
    *,
    transform: Callable[[Array], Array],
    discount_head: bool,
) -> dict[str, Array]:
    """Returns −log p of each step, up to constants, [L, N], of features x [L, N, F]."""
    drawn = model.decode(params, dreamer.gradient_share(x, hp.image_gradient))
    reward = model.reward(params, dreamer.gradient_share(x, hp.reward_gradient))
    ends = jnp.zeros_like(ts.reward)
    if discount_head:
        logit = model.discount(params, x)
        ends = dreamer.bernoulli_error(logit, ts.discount * discount)
    return {
        "image_loss": model.observation_error(drawn, ts.obs, ts.task),
        "reward_loss": model.scalar.error(reward, transform(ts.reward)),
        "discount_loss": ends,
    }
