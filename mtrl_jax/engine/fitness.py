"""What a member is worth: from its recent episodes or from an evaluation to one score."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.engine import pbt, statistics
from mtrl_jax.engine.evaluate import Evaluation
from mtrl_jax.types import Array

METRICS = ("return", "normalised", "capped")


class Metric(NamedTuple):
    """How returns become a score; built once from the environment's spec.

    A return is mapped to ``(return − low) / (high − low)``, limited to ``cap``, and
    averaged over the tasks with ``weight``.
    """

    low: tuple[float, ...]  # [K]
    high: tuple[float, ...]  # [K]
    cap: float
    weight: tuple[float, ...]  # [K], 0 for tasks that do not count
    measure: str = "return"  # or what else of an episode takes the return's place


def make_metric(spec: types.EnvSpec, name: str, task: str | None = None) -> Metric:
    """Returns the metric ``return``, ``normalised`` or ``capped`` over the spec's tasks.

    Or a measure that the environments take of an episode (``success``), as it is.
    ``task`` restricts it to the tasks of that name.

    Raises:
      ValueError: no such metric or task, or a task without the two different reference
        scores it would need.
    """
    names = [t.name for t in spec.tasks]
    if task is not None and task not in names:
        raise ValueError(
            f"population.fitness.task={task!r} is none of the tasks: {', '.join(names)}"
        )
    counted = [t for t in spec.tasks if task in (None, t.name)]
    measures = set.intersection(*(set(t.measures) for t in counted))
    if name not in METRICS and name not in measures:
        known = ", ".join([*METRICS, *sorted(measures)])
        raise ValueError(f"population.fitness.metric={name!r} is none of {known}")
    weight = tuple(1.0 if task in (None, t.name) else 0.0 for t in spec.tasks)
    if name not in ("normalised", "capped"):
        zeros, ones = (0.0,) * len(names), (1.0,) * len(names)
        return Metric(zeros, ones, float("inf"), weight, name)
    for t in counted:
        if t.random_score is None or t.reference_score is None:
            raise ValueError(
                f"population.fitness.metric={name!r} needs reference scores and "
                f"{t.name} has none; use 'return'"
            )
        if t.random_score == t.reference_score:
            raise ValueError(
                f"population.fitness.metric={name!r} divides by the difference, but "
                f"{t.name} has random and reference score {t.random_score}; use 'return'"
            )
    scored = [t if w else None for t, w in zip(spec.tasks, weight)]
    low = tuple(float(t.random_score or 0.0) if t else 0.0 for t in scored)
    high = tuple(float(t.reference_score or 0.0) if t else 1.0 for t in scored)
    return Metric(low, high, 1.0 if name == "capped" else float("inf"), weight)


def of_training(
    metric: Metric, stats: statistics.EpisodeStats, task: Array, finite: Array
) -> pbt.Fitness:
    """Returns the fitness by the episodes since each member's last copy.

    ``task`` is ``[P, B]``, ``finite`` is ``[P]``. The score is NaN while a task that
    counts has no finished episode; ``episodes`` is that of the task with fewest.
    """
    tasks = len(metric.weight)
    mean, number = statistics.recent_mean(stats, task, tasks)
    members, slots, window = stats.recent.shape
    valid = (
        statistics.recent_valid(stats) & (_per_slot(metric.weight, task) > 0)[..., None]
    )
    low, high = _per_slot(metric.low, task), _per_slot(metric.high, task)
    samples = (stats.recent - low[..., None]) / (high - low)[..., None]
    return pbt.Fitness(
        score=_score(metric, mean),
        finite=finite,
        episodes=_fewest(metric, number),
        returns=jnp.minimum(samples, metric.cap).reshape(members, slots * window),
        valid=valid.reshape(members, slots * window),
    )


def values_of(metric: Metric, result: Evaluation) -> Array:
    """Returns what ``metric`` judges by of each episode [P, N]: returns, or a measure."""
    by_return = metric.measure == "return"
    return result.returns if by_return else result.info[metric.measure]


def of_evaluation(metric: Metric, result: Evaluation, finite: Array) -> pbt.Fitness:
    """Returns the fitness by the complete episodes of an evaluation."""
    values = values_of(metric, result)
    tasks = jnp.arange(len(metric.weight))[None, None]
    counted = result.complete[..., None] & (result.task[..., None] == tasks)
    number = jnp.sum(counted, axis=1)
    mean = jnp.sum(jnp.where(counted, values[..., None], 0.0), axis=1) / number
    low, high = _per_slot(metric.low, result.task), _per_slot(metric.high, result.task)
    samples = jnp.minimum((values - low) / (high - low), metric.cap)
    return pbt.Fitness(
        score=_score(metric, mean),
        finite=finite,
        episodes=_fewest(metric, number),
        returns=samples,
        valid=result.complete & (_per_slot(metric.weight, result.task) > 0),
    )


def _score(metric: Metric, mean: Array) -> Array:
    """Returns [P] from mean returns [P, K]; NaN of tasks that do not count is ignored."""
    low, high, weight = (
        jnp.asarray(x)[None] for x in (metric.low, metric.high, metric.weight)
    )
    value = jnp.minimum((mean - low) / (high - low), metric.cap)
    return jnp.sum(jnp.where(weight > 0, value * weight, 0.0), 1) / jnp.sum(weight)


def _fewest(metric: Metric, number: Array) -> Array:
    counts = jnp.asarray(metric.weight)[None] > 0
    most = jnp.iinfo(jnp.int32).max
    return jnp.min(jnp.where(counts, number, most), axis=1).astype(jnp.int32)


def _per_slot(values: tuple[float, ...], task: Array) -> Array:
    return jax.tree.map(lambda x: x[task], jnp.asarray(values, jnp.float32))
