"""PopArt: value targets normalised per task by running statistics, outputs preserved.

    v_i(s) = σ_i n_i(s) + μ_i,     n_i(s) = w_i · h(s) + b_i

μ_i and σ_i follow the targets of task i (ART: adaptively rescaling targets); whenever
they move, w_i and b_i are rewritten such that v_i does not (POP: preserving outputs
precisely). Learning is in units of n, so each task's updates are of similar size.

Refs: van Hasselt et al. 2016 (arXiv:1602.07714); Hessel et al. 2018 (arXiv:1809.04474),
equations 3 to 6.

Deviation: the variance is kept in the place of the second moment, as ν − μ² cancels in
float32 where |μ| ≫ σ. The numbers are the same.
"""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from mtrl_jax.losses import policy_gradient
from mtrl_jax.types import Array, Scalar

# How a batch's targets of one task are folded in, with step size β: "sequential", one
# after the other; "mean", one step to their mean; "sum", β times the sum of the
# differences, which is a step of β · count (at most 1).
MODES = ("sequential", "mean", "sum")
STD_MAX = 1e6


class Statistics(NamedTuple):
    """Of the targets of N tasks, ``[N]``."""

    mean: Array
    variance: Array
    weight: Array  # of all targets seen, in [0, 1): what is not the initial values


class Head(NamedTuple):
    """A linear value head, one output a task."""

    kernel: Array  # [d, N]
    bias: Array  # [N]


def init(tasks: int) -> Statistics:
    """Returns μ = 0 and σ = 1 of every task."""
    return Statistics(jnp.zeros(tasks), jnp.ones(tasks), jnp.zeros(tasks))


def std(stats: Statistics, lowest: Scalar) -> Array:
    """Returns σ within [lowest, 1e6], ``[N]``."""
    return jnp.clip(jnp.sqrt(stats.variance), lowest, STD_MAX)


def update(
    stats: Statistics,
    target: Array,
    live: Array,
    task: Array,
    step_size: Scalar,
    *,
    mode: str = "mean",
    debias: bool = False,
) -> Statistics:
    """Returns the statistics after a batch of un-normalised targets, without gradient.

    μ ← (1 − β) μ + β G and ν ← (1 − β) ν + β G² of the tasks that have live targets; all
    arrays are ``[...]``, time first. ``debias`` takes out what is left of the initial
    values, as Adam does: the first batch alone decides then.
    """
    chex.assert_equal_shape([target, live, task])
    target = jax.lax.stop_gradient(target).ravel()
    live, task = live.ravel(), task.ravel()

    def of(own_task: Array, own: Statistics) -> Statistics:
        mine = live & (task == own_task)
        new = _folded(own, target, _weights(mine, step_size, mode), debias)
        return jax.tree.map(lambda x, y: jnp.where(jnp.any(mine), x, y), new, own)

    return jax.vmap(of)(jnp.arange(len(stats.mean)), stats)


def rewrite(
    head: Head, mean: Array, std: Array, new_mean: Array, new_std: Array
) -> Head:
    """Returns the head whose un-normalised outputs under the new μ, σ are the old ones.

    w' = w σ/σ', b' = (σ b + μ − μ')/σ'; all statistics ``[N]``. Where they have not
    moved the head keeps its bits: b is not added to μ, beside which it may be lost.
    """
    ratio = std / new_std
    bias = ratio * head.bias + (mean - new_mean) / new_std
    return Head(head.kernel * ratio[None], bias)


def unnormalised(n: Array, mean: Array, std: Array, task: Array) -> Array:
    """Returns σ_i n_i + μ_i of each step's own task i, ``[...]`` of n ``[..., N]``."""
    own = jnp.take_along_axis(n, task[..., None], axis=-1)[..., 0]
    of = policy_gradient.of_task
    return of(std, task) * own + of(mean, task)


def _folded(
    stats: Statistics, target: Array, weights: Array, debias: bool
) -> Statistics:
    """Returns one task's statistics ``[]`` after targets ``[n]`` that count so much."""
    total = jnp.sum(weights)
    share = weights / jnp.where(total > 0, total, 1.0)
    mean = jnp.sum(share * target)
    spread = jnp.sum(share * jnp.square(target - mean))
    step = jnp.minimum(total, 1.0)
    weight = 1.0 - (1.0 - stats.weight) * (1.0 - step)
    if debias:
        step = step / jnp.where(weight > 0, weight, 1.0)
    moved = mean - stats.mean
    variance = (1.0 - step) * (stats.variance + step * jnp.square(moved))
    return Statistics(stats.mean + step * moved, variance + step * spread, weight)


def _weights(own: Array, step_size: Scalar, mode: str) -> Array:
    """Returns what each target counts, ``[n]`` of bool ``own`` [n]."""
    count = jnp.sum(own)
    if mode == "sequential":
        after = count - jnp.cumsum(own)
        return jnp.where(own, step_size * jnp.power(1.0 - step_size, after), 0.0)
    each = step_size / jnp.maximum(count, 1) if mode == "mean" else step_size
    return jnp.where(own, each, 0.0)
