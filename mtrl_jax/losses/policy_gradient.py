"""Actor-critic targets for streams in which one episode follows another.

Under next-step autoreset the transition that crosses into a new episode is no
transition at all: its action was ignored and its reward is 0. The functions below take
``first_t`` (True where the step arrived at is an episode's first) and make that
transition neutral, which gives exactly the targets of each episode on its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from mtrl_jax.types import Array, Scalar


class Targets(NamedTuple):
    """Both ``[T]``, without gradient."""

    value: Array  # regression target of v_tm1
    advantage: Array  # weight of grad log pi(a_tm1)


class WeightedTargets(NamedTuple):
    """All ``[T]``, without gradient; ``weight · advantage`` weighs grad log pi(a_tm1)."""

    value: Array  # regression target of v_tm1
    advantage: Array
    weight: Array  # clipped importance ratio


def vtrace(
    v_tm1: Array,
    v_t: Array,
    r_t: Array,
    discount_t: Array,
    rho_tm1: Array,
    first_t: Array,
    *,
    lambda_: Scalar = 1.0,
    clip_rho: Scalar = 1.0,
    clip_pg_rho: Scalar = 1.0,
) -> WeightedTargets:
    """Returns V-trace targets, policy-gradient advantages and their weights.

    v_s = V(x_s) + Σ_t (Π_{i<t} γ_i c_i) ρ_t (r_t + γ_t V(x_{t+1}) − V(x_t)) with
    ρ = min(clip_rho, ratio) and c = λ·min(1, ratio); the advantage is
    r + γ v_{s+1} − V(x_s) and its weight min(clip_pg_rho, ratio), where λ < 1 puts
    λ v_{s+1} + (1 − λ) V(x_{s+1}) in the place of v_{s+1}. All arrays are ``[T]``;
    ``rho_tm1`` is the unclipped ratio π/μ of the action taken.

    Ref: Espeholt et al. 2018 (arXiv:1802.01561), section 4.1; computed by rlax. rlax
    clips c at 1, so c̄ is not a parameter here.
    """
    import rlax

    chex.assert_rank([v_tm1, v_t, r_t, discount_t, rho_tm1, first_t], 1)
    # A ratio of zero has no temporal difference and lets no trace through.
    rho_tm1 = jnp.where(first_t, 0.0, rho_tm1)
    out = rlax.vtrace_td_error_and_advantage(
        v_tm1, v_t, r_t, discount_t, rho_tm1, lambda_, clip_rho, clip_pg_rho
    )
    return WeightedTargets(
        jax.lax.stop_gradient(out.errors + v_tm1),
        jax.lax.stop_gradient(out.q_estimate - v_tm1),
        jax.lax.stop_gradient(jnp.minimum(clip_pg_rho, rho_tm1)),
    )


def gae(
    v_tm1: Array,
    v_t: Array,
    r_t: Array,
    discount_t: Array,
    first_t: Array,
    *,
    lambda_: Scalar = 0.95,
) -> Targets:
    """Returns generalised advantage estimates and the λ-returns they imply.

    A_t = Σ_l (γλ)^l δ_{t+l} with δ = r_t + γ_t V(x_t) − V(x_{t−1}); the value target is
    A + V. All arrays are ``[T]``.

    Ref: Schulman et al. 2016 (arXiv:1506.02438), eq. 16; computed by rlax, which needs
    the T + 1 values in one array: only there do ``v_tm1`` and ``v_t`` have to agree.
    """
    import rlax

    chex.assert_rank([v_tm1, v_t, r_t, discount_t, first_t], 1)
    # The crossing becomes a terminal step that pays exactly its value: no error.
    r_t = jnp.where(first_t, v_tm1, r_t)
    discount_t = jnp.where(first_t, 0.0, discount_t)
    values = jnp.concatenate([v_tm1, v_t[-1:]])
    advantage = rlax.truncated_generalized_advantage_estimation(
        r_t, discount_t, lambda_, values, stop_target_gradients=True
    )
    return Targets(jax.lax.stop_gradient(advantage + v_tm1), advantage)


def clipped_surrogate(log_ratio: Array, advantage: Array, epsilon: Scalar) -> Array:
    """Returns −min(ρ·A, clip(ρ, 1 − ε, 1 + ε)·A) with ρ = exp(log_ratio), ``[...]``.

    Ref: Schulman et al. 2017 (arXiv:1707.06347), eq. 7. Deviation: ρ is at most e²⁰,
    beyond which it has no gradient, so that an action that was next to impossible
    cannot make the loss infinite, or NaN where A is 0 or the step is masked.
    """
    chex.assert_equal_shape([log_ratio, advantage])
    ratio = jnp.exp(jnp.minimum(log_ratio, 20.0))
    clipped = jnp.clip(ratio, 1.0 - epsilon, 1.0 + epsilon)
    return -jnp.minimum(ratio * advantage, clipped * advantage)


def within_trust(log_ratio: Array, advantage: Array, epsilon: Scalar) -> Array:
    """Returns bool [...]: where the clipped surrogate of PPO has a gradient.

    False where the ratio has passed 1 + ε with A > 0, or 1 − ε with A < 0: what was to
    be learned from the step has been. ε = 0 trusts every step; no ratio passes 1 − ε of
    an ε from 1 on.
    """
    chex.assert_equal_shape([log_ratio, advantage])
    left = jnp.where(
        advantage > 0,
        log_ratio > jnp.log1p(epsilon),
        log_ratio < jnp.log1p(-jnp.minimum(epsilon, 1.0)),
    )
    return ~left | (epsilon <= 0)


def clipped_value_error(
    value: Array, old_value: Array, target: Array, epsilon: Scalar
) -> Array:
    """Returns ½·max((V − G)², (V_old + clip(V − V_old, ±ε) − G)²), ``[...]``.

    PPO's companion to the clipped surrogate: the value may not move further than ε from
    where it was either. ε = 0 turns the clipping off: ½·(V − G)².
    """
    chex.assert_equal_shape([value, old_value, target])
    bound = jnp.where(epsilon > 0, epsilon, jnp.inf)
    clipped = old_value + jnp.clip(value - old_value, -bound, bound)
    return 0.5 * jnp.maximum((value - target) ** 2, (clipped - target) ** 2)


def normalised(advantage: Array, live: Array, task: Array, tasks: int) -> Array:
    """Returns advantages with mean 0 and variance 1 over the live steps of each task.

    All arrays are ``[...]``, ``task`` int in [0, tasks). Costs of entropy and the like
    then mean the same whatever the rewards of a task are worth.
    """
    mean = task_means(advantage, live, task, tasks)
    centred = advantage - of_task(mean, task)
    std = jnp.sqrt(task_means(jnp.square(centred), live, task, tasks))
    return centred / (of_task(std, task) + 1e-8)


def task_means(x: Array, live: Array, task: Array, tasks: int) -> Array:
    """Returns the mean of x over the live steps of each task, ``[tasks]``; 0 of none."""
    chex.assert_equal_shape([x, live, task])
    if tasks == 1:
        return masked_mean(x, live)[None]
    return jax.vmap(lambda k: masked_mean(x, live & (task == k)))(jnp.arange(tasks))


def task_shares(x: Array, live: Array, task: Array, tasks: int) -> Array:
    """Returns Σ over the live steps of each task · (tasks there are) / (live steps).

    ``[tasks]``; their mean over the tasks that have live steps is ``masked_mean``.
    """
    chex.assert_equal_shape([x, live, task])
    numbers = jnp.arange(tasks).reshape((1,) * x.ndim + (-1,))
    own = (task[..., None] == numbers) & live[..., None]
    axes = tuple(range(x.ndim))
    present = jnp.sum(jnp.any(own, axes))
    total = jnp.sum(jnp.where(own, x[..., None], 0.0), axes)
    return total * present / jnp.maximum(jnp.sum(live), 1)


def of_task(per_task: Array, task: Array) -> Array:
    """Returns each step's own entry of ``per_task`` [tasks], in the shape of ``task``.

    >>> of_task(jnp.array([10.0, 20.0]), jnp.array([[1, 0, 1]])).tolist()
    [[20.0, 10.0, 20.0]]
    """
    return (
        jnp.broadcast_to(per_task[0], task.shape)
        if len(per_task) == 1
        else per_task[task]
    )


def masked_mean(x: Array, live: Array) -> Array:
    """Returns Σ live·x / max(Σ live, 1): the mean over steps that are transitions."""
    chex.assert_equal_shape([x, live])
    return jnp.sum(jnp.where(live, x, 0.0)) / jnp.maximum(jnp.sum(live), 1)


def masked_means(parts: Mapping[str, Array], live: Array) -> dict[str, Array]:
    """Returns ``masked_mean`` of every part by name, in one reduction.

    >>> masked_means({"a": jnp.array([1.0, 3.0, 9.0])}, jnp.array([True, True, False]))
    {'a': Array(2., dtype=float32)}
    """
    chex.assert_equal_shape([*parts.values(), live])
    stacked = jnp.where(live[None], jnp.stack([*parts.values()]), 0.0)
    axes = tuple(range(1, stacked.ndim))
    means = jnp.sum(stacked, axis=axes) / jnp.maximum(jnp.sum(live), 1)
    return dict(zip(parts, means))
