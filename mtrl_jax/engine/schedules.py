"""Hyperparameters that move while a run trains: by how far it is, or by how it goes.

``linear``, ``cosine`` and ``step`` are functions of the share of the run's updates that is
done. ``plateau`` is a fold over the run's mean returns, one number a chunk,
and moves on each time they have stopped rising. Nothing here knows JAX.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, NamedTuple, get_args

Kind = Literal["linear", "cosine", "step", "plateau"]

# What each kind looks at, beside low and high.
_READS: dict[str, tuple[str, ...]] = {
    "linear": ("begin", "end"),
    "cosine": ("begin", "end"),
    "step": ("begin",),
    "plateau": ("step", "patience", "tolerance"),
}


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How one hyperparameter goes from ``low``, where it starts, to ``high``.

    ``high`` may be below ``low``. ``linear`` and ``cosine`` (half a cosine) are at low
    until ``begin`` and at high from ``end``; ``step`` jumps at ``begin``. ``plateau``
    moves by ``step`` each time the mean return has not risen for ``patience`` chunks by
    more than ``tolerance``, which is relative to the range of the returns so far.

    Raises:
        ValueError: naming the field, what was given and what would work.
    """

    kind: Kind
    low: float
    high: float
    begin: float = 0.0  # of the run's updates
    end: float = 1.0  # of the run's updates
    step: float | None = None  # in units of the hyperparameter
    patience: int = 10  # chunks in which an episode ended
    tolerance: float = 0.05

    def __post_init__(self):
        if self.kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise ValueError(f"kind={self.kind!r} is unknown; use one of {known}")
        for name in ("low", "high"):
            value = getattr(self, name)
            _check(name, value, math.isfinite(value), "it must be a finite number")
        if self.low == self.high:
            raise ValueError(
                f"high={self.high} is low; for a constant use agent.hparams"
            )
        self._check_unread()
        if "begin" in _READS[self.kind]:
            self._check_times()
        else:
            self._check_plateau()

    def _check_unread(self):
        reads = {"kind", "low", "high", *_READS[self.kind]}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in reads and value != field.default:
                raise ValueError(
                    f"{field.name}={value} is nothing to kind={self.kind!r}, which reads "
                    f"{', '.join(_READS[self.kind])}; leave it out"
                )

    def _check_times(self):
        if self.kind == "step":
            needs = "kind='step' needs a fraction above 0 and below 1"
            _check("begin", self.begin, 0 < self.begin < 1, needs)
            return
        needs = "it must be a fraction, at least 0 and below 1"
        _check("begin", self.begin, 0 <= self.begin < 1, needs)
        needs = f"it must be above begin={self.begin} and at most 1"
        _check("end", self.end, self.begin < self.end <= 1, needs)

    def _check_plateau(self):
        if self.step is None:
            raise ValueError("step is missing: how far kind='plateau' moves at a time")
        most = abs(self.high - self.low)
        needs = f"it must be above 0 and at most the way from low to high, {most:.6g}"
        # A little more than all of the way is how its difference may be rounded.
        _check("step", self.step, 0 < self.step <= most * (1 + 1e-9), needs)
        _check("patience", self.patience, self.patience >= 1, "it must be at least 1")
        needs = "it must be at least 0 and below 1"
        _check("tolerance", self.tolerance, 0 <= self.tolerance < 1, needs)


class Plateau(NamedTuple):
    """What a ``plateau`` remembers of the mean returns so far."""

    moves: int = 0
    waited: int = 0  # chunks without a rise, since the last rise or move
    best: float | None = None  # since the last move; None before the first return
    bottom: float | None = None  # of all
    top: float | None = None  # of all


def value_at(schedule: Schedule, fraction: float) -> float:
    """Returns the value of ``linear``, ``cosine`` or ``step`` at a share of the updates.

    low + w · (high − low), with x = (fraction − begin) / (end − begin) in [0, 1]:
    w = x (linear), w = (1 − cos πx) / 2 (cosine), w = [fraction ≥ begin] (step).
    """
    if schedule.kind == "step":
        return schedule.high if fraction >= schedule.begin else schedule.low
    x = (fraction - schedule.begin) / (schedule.end - schedule.begin)
    x = min(max(x, 0.0), 1.0)
    if schedule.kind == "cosine":
        x = (1 - math.cos(math.pi * x)) / 2
    return _between(schedule, x)


def value_after(schedule: Schedule, plateau: Plateau) -> float:
    """Returns the value of a ``plateau`` schedule after what it has observed."""
    assert schedule.step is not None
    way = plateau.moves * schedule.step / abs(schedule.high - schedule.low)
    return _between(schedule, min(way, 1.0))


def plateau_update(schedule: Schedule, plateau: Plateau, mean_return: float) -> Plateau:
    """Returns what a ``plateau`` remembers after one more chunk: a step of the fold.

    A rise is a mean return above the best by more than tolerance · (top − bottom). A move
    begins the comparison again, from its chunk's return: what the new value has cost
    need not be made up for before anything counts as a rise. A return that is not finite
    (no episode ended) is no chunk at all.
    """
    if not math.isfinite(mean_return):
        return plateau
    if plateau.best is None:
        return plateau._replace(best=mean_return, bottom=mean_return, top=mean_return)
    assert plateau.bottom is not None and plateau.top is not None
    bottom = min(plateau.bottom, mean_return)
    top = max(plateau.top, mean_return)
    moves, waited, best = plateau.moves, plateau.waited + 1, plateau.best
    if mean_return > best + schedule.tolerance * (top - bottom):
        waited, best = 0, mean_return
    elif waited >= schedule.patience:
        moves, waited, best = moves + 1, 0, mean_return
    return Plateau(moves, waited, best, bottom, top)


def _between(schedule: Schedule, x: float) -> float:
    # In this form both ends are met exactly.
    return (1 - x) * schedule.low + x * schedule.high


def _check(field: str, value: float, fine: bool, needs: str) -> None:
    if not fine:
        raise ValueError(f"{field}={value} is out of range: {needs}")
