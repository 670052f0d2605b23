"""The schedules of a run in progress: what they have observed, and their values.

The loop asks before every chunk and gives every row. Rows come one chunk behind, and
sooner where a checkpoint waits for them, so a plateau observes a chunk only
two chunks later, however soon its row was there. Its memory is a few numbers that go
with every checkpoint: a resumed run needs no rows to go on with the same values.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mtrl_jax import hparams
from mtrl_jax.engine import fitness, schedules
from mtrl_jax.training import report
from mtrl_jax.training.program import Program
from mtrl_jax.types import Tree


@dataclasses.dataclass
class Scheduler:
    """The schedules by hyperparameter, and plateaus with their memories."""

    given: Mapping[str, schedules.Schedule]
    updates: int  # of the run
    chunk: int  # updates of a chunk
    metric: fitness.Metric | None  # None where there are no returns, and no plateau
    tasks: list[str]
    latest: list[float]  # mean returns over members of the tasks, NaN before the first
    waiting: list[tuple[int, float]]  # (update, mean return), not to be observed yet
    plateaus: dict[str, schedules.Plateau]

    def apply(self, hp: Tree, update: int) -> Tree:
        """Returns ``hp`` for the chunk that starts at ``update``.

        Scheduled leaves ``[P]`` are new, of the same dtype and on the same devices.
        """
        self._advance(update - self.chunk)
        old = hparams.flatten(hp)
        new = {
            name: _filled(old[name], self._value(name, update)) for name in self.given
        }
        return hparams.override(hp, new)

    def observe(self, update: int, returns: Mapping[str, Any]) -> None:
        """Take in a row: mean returns ``[P]`` per task, NaN where no episode ended."""
        if self.plateaus:
            self.waiting.append((update, self._mean_return(returns)))

    def state_dict(self) -> dict[str, Any]:
        """Returns what ``make`` needs to go on from here, as JSON can hold it."""
        return {
            "latest": [_or_none(x) for x in self.latest],
            "waiting": [[update, _or_none(x)] for update, x in self.waiting],
            "plateaus": {name: x._asdict() for name, x in self.plateaus.items()},
        }

    def _value(self, name: str, update: int) -> float:
        schedule = self.given[name]
        if name in self.plateaus:
            return schedules.value_after(schedule, self.plateaus[name])
        return schedules.value_at(schedule, update / self.updates)

    def _advance(self, until: int) -> None:
        """Advance the plateaus by the rows up to the update ``until``."""
        while self.waiting and self.waiting[0][0] <= until:
            _, mean_return = self.waiting.pop(0)
            for name, plateau in self.plateaus.items():
                self.plateaus[name] = schedules.plateau_update(
                    self.given[name], plateau, mean_return
                )

    def _mean_return(self, returns: Mapping[str, Any]) -> float:
        """Returns the mean return over members and tasks, as population.fitness counts.

        A task in which no episode ended counts with its latest mean, so that the number
        does not jump with the tasks at hand. NaN where no task has news, and until every
        task has had some.
        """
        assert self.metric is not None
        counted = [weight > 0 for weight in self.metric.weight]
        news = [_mean(returns.get(task, ())) for task in self.tasks]
        pairs = zip(news, self.latest)
        self.latest = [new if math.isfinite(new) else old for new, old in pairs]
        known = np.isfinite([news, self.latest])[:, counted]
        if not known[0].any() or not known[1].all():
            return math.nan
        return float(report.scores(self.metric, np.array([self.latest]))[0])


def make(
    config: Any, program: Program, memory: Mapping[str, Any] | None = None
) -> Scheduler:
    """Returns the schedules of a run, new or with a checkpoint's memory."""
    given = config.agent.schedules
    memory = memory or {}
    tasks = [task.name for task in program.spec.tasks]
    plateaus = memory.get("plateaus", {})
    return Scheduler(
        given=given,
        updates=program.run_length.updates,
        chunk=program.run_length.per_chunk,
        metric=program.metric,
        tasks=tasks,
        latest=[_or_nan(x) for x in memory.get("latest", [None] * len(tasks))],
        waiting=[(update, _or_nan(x)) for update, x in memory.get("waiting", [])],
        plateaus={
            name: schedules.Plateau(**plateaus.get(name, {}))
            for name, schedule in given.items()
            if schedule.kind == "plateau"
        },
    )


def _filled(like: jax.Array, value: float) -> jax.Array:
    """Returns ``value`` in the shape, dtype and place of ``like``: no new program."""
    return jax.device_put(np.full(like.shape, value, like.dtype), like.sharding)


def _mean(values: Any) -> float:
    """Returns the mean of what is finite, NaN where nothing is."""
    known = np.asarray(values, np.float64)
    known = known[np.isfinite(known)]
    return float(known.mean()) if known.size else math.nan


def _or_none(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else x
