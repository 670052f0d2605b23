"""The schedules of a run in progress: what they have observed, and their values.

The loop asks before every chunk and gives every chunk's output. That comes one chunk
behind, and sooner where a checkpoint waits for it, so a plateau observes a chunk only
two chunks later, however soon its output was there. Its memory is a few numbers that go
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
from mtrl_jax.engine import fitness, fused_runner, schedules
from mtrl_jax.training.program import Program
from mtrl_jax.types import Tree


@dataclasses.dataclass
class Scheduler:
    """The schedules by hyperparameter, and plateaus with their memories."""

    given: Mapping[str, schedules.Schedule]
    updates: int  # of the run
    chunk: int  # updates of a chunk
    metric: fitness.Metric | None  # None where there are no returns, and no plateau
    latest: np.ndarray | None  # [P, K] what members had last, NaN before the first
    waiting: list[tuple[int, float]]  # (update, mean score), not to be observed yet
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

    def observe(self, update: int, output: fused_runner.ChunkOutput | None) -> None:
        """Take in what a chunk brought; None is before the first."""
        if self.plateaus and output is not None:
            self.waiting.append((update, self._mean_score(output)))

    def state_dict(self) -> dict[str, Any]:
        """Returns what ``make`` needs to go on from here, as JSON can hold it."""
        return {
            "latest": None
            if self.latest is None
            else [[_or_none(x) for x in row] for row in self.latest.tolist()],
            "waiting": [[update, _or_none(x)] for update, x in self.waiting],
            "plateaus": {name: x._asdict() for name, x in self.plateaus.items()},
        }

    def _value(self, name: str, update: int) -> float:
        schedule = self.given[name]
        if name in self.plateaus:
            return schedules.value_after(schedule, self.plateaus[name])
        return schedules.value_at(schedule, update / self.updates)

    def _advance(self, until: int) -> None:
        """Advance the plateaus by the chunks up to the update ``until``."""
        while self.waiting and self.waiting[0][0] <= until:
            _, mean_score = self.waiting.pop(0)
            for name, plateau in self.plateaus.items():
                self.plateaus[name] = schedules.plateau_update(
                    self.given[name], plateau, mean_score
                )

    def _mean_score(self, output: fused_runner.ChunkOutput) -> float:
        """Returns the mean over members, and tasks, of what population.fitness counts.

        By its means of recent episodes (``ChunkOutput.recent``): those that ended in the
        chunk are too short, and lucky where success is. Scores are limited member by
        member, so one above the cap hides no other's rise. Where no episode ended in the
        chunk, or a copy has none yet, the latest mean stays, so that the number does not
        jump with the episodes at hand. A member that is lost counts for nothing. NaN
        where nothing is new, and until every member has each of its tasks.
        """
        assert self.metric is not None
        counts = np.asarray(output.plays) & np.asarray(output.finite)[:, None]
        counts &= np.asarray(self.metric.weight)[None] > 0
        recent = np.asarray(output.recent, np.float64)
        ended = np.asarray(output.episodes["episodes"]) > 0
        new = counts & ended & np.isfinite(recent)
        latest = np.full_like(recent, np.nan) if self.latest is None else self.latest
        self.latest = latest = np.where(new, recent, np.where(counts, latest, np.nan))
        if not new.any():
            return math.nan
        scores = np.where(counts, fitness.task_scores(self.metric, latest), 0.0)
        members = counts.sum(axis=0)
        return float((scores.sum(axis=0)[members > 0] / members[members > 0]).mean())


def make(
    config: Any, program: Program, memory: Mapping[str, Any] | None = None
) -> Scheduler:
    """Returns the schedules of a run, new or with a checkpoint's memory."""
    given = config.agent.schedules
    memory = memory or {}
    plateaus = memory.get("plateaus", {})
    return Scheduler(
        given=given,
        updates=program.run_length.updates,
        chunk=program.run_length.per_chunk,
        metric=program.metric,
        latest=_latest(memory.get("latest")),
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


def _latest(saved: Any) -> np.ndarray | None:
    """Returns [P, K] from a checkpoint; None of one that has means over members, [K]."""
    if not saved or not isinstance(saved[0], list):
        return None
    return np.array([[_or_nan(x) for x in row] for row in saved])


def _or_none(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _or_nan(x: float | None) -> float:
    return math.nan if x is None else x
