"""What a member is worth: from its recent episodes or from an evaluation to one score."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.engine import pbt, statistics
from mtrl_jax.engine.evaluate import Evaluation
from mtrl_jax.types import Array

METRICS = ("return", "normalised", "capped")


class Metric(NamedTuple):
    """How returns become a score; built once from the environment's spec.

    A task's mean return is mapped to ``(mean − low) / (high − low)``, limited to ``cap``,
    and averaged over the tasks with ``weight``. The limit is of the mean, not of single
    episodes (returns of 0 and 2 are a mean of 1): as in Espeholt et al. 2018.
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
      ValueError: no such metric or task, or a task without the two scores it would need,
        the reference score above the random one.
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
        if not t.random_score < t.reference_score:
            raise ValueError(
                f"population.fitness.metric={name!r} needs a reference score above the "
                f"random one, but {t.name} has random and reference score "
                f"{t.random_score} and {t.reference_score}; use 'return'"
            )
    scored = [t if w else None for t, w in zip(spec.tasks, weight)]
    low = tuple(float(t.random_score or 0.0) if t else 0.0 for t in scored)
    high = tuple(float(t.reference_score or 0.0) if t else 1.0 for t in scored)
    return Metric(low, high, 1.0 if name == "capped" else float("inf"), weight)


def of_training(
    metric: Metric, stats: statistics.EpisodeStats, task: Array, finite: Array
) -> pbt.Fitness:
    """Returns the fitness by the episodes since each member's last copy.

    ``task`` is ``[P, B]``, ``finite`` is ``[P]``. The score is NaN while a slot of a task
    that counts has no finished episode (``statistics.balanced``); ``episodes`` is that of
    the task with fewest. Of a member that has some of the tasks alone these count.
    """
    tasks = len(metric.weight)
    mean, number = statistics.recent_mean(stats, task, tasks)
    members = task.shape[0]
    valid = statistics.balanced(stats, task, tasks)
    slots = jnp.broadcast_to(task[..., None], valid.shape)
    values, valid, slots = (
        x.reshape(members, -1) for x in (stats.recent, valid, slots)
    )
    return _fitness(metric, mean, number, finite, values, valid, slots)


def values_of(metric: Metric, result: Evaluation) -> Array:
    """Returns what ``metric`` judges by of each episode [P, N]: returns, or a measure.

    >>> metric = Metric((0.0,), (1.0,), 1.0, (1.0,), measure="success")
    >>> values_of(metric, Evaluation([[7.0]], [[9]], [[True]], [[0]], {"success": [[1.0]]}))
    [[1.0]]
    """
    by_return = metric.measure == "return"
    return result.returns if by_return else result.info[metric.measure]


def of_evaluation(metric: Metric, result: Evaluation, finite: Array) -> pbt.Fitness:
    """Returns the fitness by an evaluation's episodes, as many of every slot.

    An episode that ``evaluation.max_steps`` cuts counts with what it had by then: without
    those, a member that lives long would be judged by its failures alone.
    """
    values = values_of(metric, result)
    tasks = jnp.arange(len(metric.weight))[None, None]
    counted = result.task[..., None] == tasks
    number = jnp.sum(counted, axis=1)
    mean = jnp.sum(jnp.where(counted, values[..., None], 0.0), axis=1) / number
    valid = jnp.ones_like(result.complete)
    return _fitness(metric, mean, number, finite, values, valid, result.task)


def task_scores(metric: Metric, mean: Any) -> Any:
    """Returns [P, K] from mean returns [P, K]: mapped and limited, of either library.

    >>> spec = types.TaskSpec("x", {}, None, random_score=1.0, reference_score=3.0)
    >>> metric = make_metric(types.EnvSpec({}, None, (spec,)), "capped")
    >>> task_scores(metric, np.array([[1.0], [2.0], [5.0]])).tolist()
    [[0.0], [0.5], [1.0]]
    """
    low, high = (np.asarray(x)[None] for x in (metric.low, metric.high))
    return ((mean - low) / (high - low)).clip(None, metric.cap)


def _fitness(
    metric: Metric,
    mean: Array,
    number: Array,
    finite: Array,
    values: Array,
    valid: Array,
    task: Array,
) -> pbt.Fitness:
    """Returns the fitness from task means [P, K] and the episodes [P, N] behind them."""
    low, high = _per_slot(metric.low, task), _per_slot(metric.high, task)
    weight = _weights(metric, task)
    counted = jnp.asarray([k for k, w in enumerate(metric.weight) if w > 0])
    return pbt.Fitness(
        score=_score(metric, mean, weight),
        finite=finite,
        episodes=_fewest(weight, number),
        returns=(values - low) / (high - low),
        valid=valid[:, None] & (task[:, None] == counted[None, :, None]),
        cap=jnp.full(mean.shape[0], metric.cap, jnp.float32),
    )


def _weights(metric: Metric, task: Array) -> Array:
    """Returns the weights of the tasks [P, K], 0 of those that a member has no slot of."""
    own = task[..., None] == jnp.arange(len(metric.weight))[None, None]
    return jnp.where(jnp.any(own, axis=1), jnp.asarray(metric.weight)[None], 0.0)


def _score(metric: Metric, mean: Array, weight: Array) -> Array:
    """Returns [P] from mean returns [P, K]; NaN of tasks that do not count is ignored."""
    value = task_scores(metric, mean)
    return jnp.sum(jnp.where(weight > 0, value * weight, 0.0), 1) / jnp.sum(weight, 1)


def _fewest(weight: Array, number: Array) -> Array:
    most = jnp.iinfo(jnp.int32).max
    least = jnp.min(jnp.where(weight > 0, number, most), axis=1)
    return jnp.where(jnp.any(weight > 0, axis=1), least, 0).astype(jnp.int32)


def _per_slot(values: tuple[float, ...], task: Array) -> Array:
    return jax.tree.map(lambda x: x[task], jnp.asarray(values, jnp.float32))
