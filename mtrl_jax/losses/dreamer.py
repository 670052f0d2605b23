"""The terms of DreamerV2: learning a world model, and behaviour within it.

Indices of an imagined trajectory of H steps: states z_0 … z_H, of which z_0 was seen;
action a_{k+1} is chosen at z_k and leads into z_{k+1}; reward r_k, discount γ_k and value
v_k are predicted at z_k. Targets V_0 … V_{H−1} (``lambda_returns``):

    V_k = r_k + γ_k ((1 − λ) v_{k+1} + λ V_{k+1}),     V_H = v_H

The critic learns V_k at states 0 … H−1 with weight w_k; the actor's action chosen at
state k is judged by V_{k+1} against the baseline v_k, k = 0 … H−2 (``behaviour_terms``),
for the last action has no target.

Ref: Hafner et al. 2021 (arXiv:2010.02193), equations 2–6 and algorithm 2.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from mtrl_jax.types import Array, Scalar

sg = jax.lax.stop_gradient


class Imagined(NamedTuple):
    """What is predicted along trajectories, time first: H + 1 states, N trajectories."""

    reward: Array  # [H + 1, N]
    discount: Array  # [H + 1, N], of the first the true one
    value: Array  # [H + 1, N] of the slow critic


class Behaviour(NamedTuple):
    """What actor and critic learn from; see the module's indices."""

    target: Array  # [H, N] V_0 … V_{H−1}
    weight: Array  # [H, N] w_0 … w_{H−1}, not differentiated
    advantage: Array  # [H − 1, N] V_{k+1} − v_k, not differentiated


def gradient_share(x: Array, share: Scalar) -> Array:
    """Returns ``x``, of whose gradient ``share`` passes: 0 is a stop-gradient."""
    return sg(x) + share * (x - sg(x))


def balanced_kl(
    to_prior: Array,
    to_posterior: Array,
    balance: Scalar,
    free_nats: Scalar,
    *,
    free_each: bool = False,
) -> Array:
    """Returns α KL(sg(q) ‖ p) + (1 − α) KL(q ‖ sg(p)), the mean over steps, [].

    ``to_prior`` [T, B] is KL(sg(q) ‖ p), which trains the prior, ``to_posterior`` KL(q ‖
    sg(p)); α is ``balance``. Neither counts below ``free_nats``: of its mean, as in
    DreamerV2, or of each step with ``free_each``, as in DreamerV3.
    """

    def clipped(x: Array) -> Array:
        if free_each:
            return jnp.mean(jnp.maximum(x, free_nats))
        return jnp.maximum(jnp.mean(x), free_nats)

    return balance * clipped(to_prior) + (1.0 - balance) * clipped(to_posterior)


def squared_error(mean: Array, x: Array) -> Array:
    """Returns −log N(x; mean, 1) up to its constant: ½ (x − mean)²."""
    return 0.5 * jnp.square(x - mean)


def bernoulli_error(logit: Array, x: Array) -> Array:
    """Returns −x log p − (1 − x) log(1 − p), p = σ(logit), of a soft label x in [0, 1].

    Of discounts x is the agent's γ, 0 at a terminal step. In logits l it is max(l, 0) −
    x l + log(1 + exp(−|l|)): one logarithm, not two.
    """
    # By selects: the slopes of max and |l| at 0 would not add up to p.
    is_negative = logit < 0.0
    rest = jnp.log1p(jnp.exp(jnp.where(is_negative, logit, -logit)))
    return jnp.where(is_negative, 0.0, logit) - x * logit + rest


def lambda_returns(
    r_t: Array, discount_t: Array, v_tp1: Array, lambda_: Scalar
) -> Array:
    """Returns V_t = r_t + γ_t ((1 − λ) v_{t+1} + λ V_{t+1}), V_T = v_T; all [T, ...].

    Entries t = 0 … T − 1; ``v_tp1`` [t] is the value of the state after, of which the
    last is what is bootstrapped from. Gradients pass.

    >>> print(lambda_returns(jnp.array([1.0, 0.0, 2.0]), jnp.full(3, 0.5),
    ...                      jnp.array([1.0, 1.0, 2.0]), 0.5))
    [1.5 1.  3. ]
    """
    chex.assert_equal_shape([r_t, discount_t, v_tp1])

    def step(later: Array, now: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        r, discount, value = now
        target = r + discount * ((1.0 - lambda_) * value + lambda_ * later)
        return target, target

    return jax.lax.scan(step, v_tp1[-1], (r_t, discount_t, v_tp1), reverse=True)[1]


def discount_weights(discount: Array) -> Array:
    """Returns w_0 = 1, w_t = Π_{k<t} γ_k: how probably step t is reached, [T, ...]."""
    reached = jnp.concatenate([jnp.ones_like(discount[:1]), discount[:-1]])
    return sg(jnp.cumprod(reached, axis=0))


def behaviour(imagined: Imagined, lambda_: Scalar) -> Behaviour:
    """Returns targets, weights and advantages of imagined trajectories.

    Gradients pass through the targets alone: they are the dynamics term of the actor.
    """
    chex.assert_equal_shape(imagined)
    reward, discount, value = imagined
    target = lambda_returns(reward[:-1], discount[:-1], value[1:], lambda_)
    return Behaviour(
        target=target,
        weight=discount_weights(discount)[:-1],
        advantage=sg(target[1:] - value[:-2]),
    )


def actor_loss(
    log_prob: Array,
    entropy: Array,
    found: Behaviour,
    *,
    reinforce: Scalar,
    entropy_cost: Scalar,
    scale: Array | float = 1.0,
) -> Array:
    """Returns −mean w (ρ log π(a) A + (1 − ρ) V + η H), [].

    ``log_prob, entropy`` [H − 1, N] are of the actions chosen at states 0 … H − 2, ρ is
    ``reinforce``; V carries gradients of the dynamics, A none. Both are divided by
    ``scale``, a number or [1, N]: 1 in DreamerV2.
    """
    chex.assert_equal_shape([log_prob, entropy, found.advantage])
    gain = reinforce * log_prob * found.advantage + (1.0 - reinforce) * found.target[1:]
    objective = gain / scale + entropy_cost * entropy
    return -jnp.mean(found.weight[:-1] * objective)


def critic_loss(error: Array, found: Behaviour) -> Array:
    """Returns mean w error, [], of the critic's error [H, N] against sg(V)."""
    chex.assert_equal_shape([error, found.weight])
    return jnp.mean(found.weight * error)


def return_range(target: Array, mine: Array) -> Array:
    """Returns the 95th minus the 5th percentile of targets [H, N] that are ``mine`` [N].

    [], NaN where none is. Ref: Hafner et al. 2023 (arXiv:2301.04104), return
    normalisation.
    """
    own = jnp.where(mine[None], sg(target), jnp.nan)
    low, high = jnp.nanpercentile(own, jnp.array([5.0, 95.0]))
    return high - low
