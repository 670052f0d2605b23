"""Vector observations in units of their own mean and deviation, an option of agents.

    x' = clip((x − μ_i) / sqrt(σ_i² + ε), −10, 10)

of every entry of a vector, μ_i and σ_i over all that was seen of its task i. What pads a
task's vector in a mixture stays as it is, and pictures have a scale of their own.

A learner acts, and learns from a rollout, under the statistics that it acted with, so
that no ratio of probabilities moves but by learning; an update ends with adding the
rollout to them. Nothing else changes them: evaluation and rendering see them frozen.

Ref: the running statistics of VecNormalize (Dhariwal et al. 2017, OpenAI Baselines), its
clip and ε. Deviation: they are a task's own, and a first rollout is only clipped.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.types import Array, Tree

CLIP = 10.0
EPSILON = 1e-8


class Moments(NamedTuple):
    """Of what was seen of N tasks, of a vector of D entries."""

    seen: Array  # [N] float32, observations
    mean: Array  # [N, D]
    variance: Array  # [N, D], 1 where nothing was seen


@dataclasses.dataclass(frozen=True)
class Config:
    """Of the normaliser; fields of an agent's Config, see ``policy_learner``."""

    normalise_observations: bool = False


@dataclasses.dataclass(frozen=True)
class Normaliser:
    """The vectors that are normalised, and the entries that each task has of them."""

    used: dict[str, np.ndarray]  # {leaf: bool [N, D]}; empty: nothing is normalised

    def init(self) -> Tree:
        """Returns the statistics of a fresh learner, () where nothing is normalised."""
        if not self.used:
            return ()
        return {
            name: Moments(
                jnp.zeros(len(used)), jnp.zeros(used.shape), jnp.ones(used.shape)
            )
            for name, used in self.used.items()
        }

    def apply(self, stats: Tree, ts: types.TimeStep) -> types.TimeStep:
        """Returns time steps ``[...]`` with their vectors normalised."""
        if not self.used:
            return ts
        own = {
            name: _normalised(stats[name], used, ts.obs[name], ts.task)
            for name, used in self.used.items()
        }
        return ts._replace(obs={**ts.obs, **own})

    def after(self, stats: Tree, rollout: types.Rollout) -> Tree:
        """Returns the statistics after the observations that a rollout acted on.

        The last of its T + 1 is the first of the next rollout.
        """
        if not self.used:
            return stats
        ts = jax.tree.map(lambda x: x[:-1], rollout.ts)
        return {
            name: merged(stats[name], ts.obs[name], ts.task, used)
            for name, used in self.used.items()
        }


def make(spec: types.EnvSpec, wanted: bool) -> Normaliser:
    """Returns the normaliser of the vectors of ``spec``; of nothing unless ``wanted``.

    Raises ValueError where there is no vector.
    """
    if not wanted:
        return Normaliser({})
    vectors = [name for name, leaf in spec.obs.items() if len(leaf.shape) == 1]
    if not vectors:
        raise ValueError(
            "normalise_observations: true given, and there is no vector among the "
            f"observations ({', '.join(sorted(spec.obs))}); use false"
        )
    return Normaliser({name: _used(spec, name) for name in vectors})


def merged(stats: Moments, x: Array, task: Array, used: np.ndarray) -> Moments:
    """Returns the moments after observations ``[..., D]`` of tasks ``[...]``.

    With n of a task seen before and m now, their means apart by δ:

        n' = n + m,   μ' = μ + δ m/n',   σ'² = (n σ² + m σ_m² + δ² n m/n') / n'

    Entries that are not ``used`` [N, D] stay as they are. Ref: Chan et al. 1979, eq. 2.1.
    """
    x = jax.lax.stop_gradient(x).reshape(-1, x.shape[-1]).astype(jnp.float32)
    task = task.reshape(-1)

    def of(own_task: Array, own: Moments, used: Array) -> Moments:
        mine = (task == own_task).astype(jnp.float32)
        more = jnp.sum(mine)
        share = (mine / jnp.maximum(more, 1.0))[:, None]
        mean = jnp.sum(share * x, axis=0)
        variance = jnp.sum(share * jnp.square(x - mean[None]), axis=0)
        seen = own.seen + more
        fresh = more / jnp.maximum(seen, 1.0)  # the share of what came now
        apart = mean - own.mean
        spread = (1.0 - fresh) * (own.variance + fresh * jnp.square(apart))
        changes = used & (more > 0)
        return Moments(
            seen,
            jnp.where(changes, own.mean + fresh * apart, own.mean),
            jnp.where(changes, spread + fresh * variance, own.variance),
        )

    return jax.vmap(of)(jnp.arange(len(used)), stats, jnp.asarray(used))


def _normalised(stats: Moments, used: np.ndarray, x: Array, task: Array) -> Array:
    own = jax.tree.map(lambda y: y[task], (stats, jnp.asarray(used)))
    moments, mine = jax.lax.stop_gradient(own)
    scaled = (x - moments.mean) * jax.lax.rsqrt(moments.variance + EPSILON)
    return jnp.where(mine, jnp.clip(scaled, -CLIP, CLIP), x)


def _used(spec: types.EnvSpec, name: str) -> np.ndarray:
    """Returns bool [N, D]: which entries of a vector each task has."""
    size = spec.obs[name].shape[0]

    def own(task: Any) -> int:
        return task.obs[name].shape[0] if name in task.obs else 0

    return np.stack([np.arange(size) < own(task) for task in spec.tasks])
