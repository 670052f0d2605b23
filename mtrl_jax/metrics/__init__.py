"""What a run writes down while it trains, and how to read it again.

    metrics.jsonl   one object a chunk: update, env_steps, wall_s, steps_per_s, compiles,
                    metrics {name: [P]}, returns {task: [P]}, hparams {name: [P]},
                    after a test, such as the last row's, evaluation {task: [P]} (metrics
                    "held_out/NAME" of data), and lost [members] where there are any
                    whose weights are not finite: they have no returns
    lineage.jsonl   one object a PBT round: update, score [P], source [P], ancestor [P],
                    hparams_before {name: [P]}, hparams_after {name: [P]}
    summary.json    the outcome; ``tasks`` maps a task to what is known of it
    tensorboard/    the population's mean and best per task, its middle per hyperparameter

What is not a finite number is null. Every line is complete or (after a kill) cut off,
which the readers and ``MetricsWriter`` forgive; nothing is rewritten but by renaming.
"""

from __future__ import annotations

import json
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax.metrics import jsonl
from mtrl_jax.metrics.metrics_writer import (
    HELD_OUT,
    LINEAGE,
    METRICS,
    MetricsWriter,
    truncate_after,
)

SUMMARY = "summary.json"

__all__ = [
    "HELD_OUT",
    "LINEAGE",
    "METRICS",
    "SUMMARY",
    "Metrics",
    "MetricsWriter",
    "best_member",
    "has_rows",
    "is_tested",
    "read_lineage",
    "read_metrics",
    "read_summary",
    "to_json",
    "truncate_after",
    "write_summary",
]


class Metrics(NamedTuple):
    """A run's metrics.jsonl as float64 arrays over its N chunks; NaN where unknown."""

    update: np.ndarray  # [N]
    env_steps: np.ndarray  # [N], per member
    wall_s: np.ndarray  # [N]
    steps_per_s: np.ndarray  # [N]
    compiles: np.ndarray  # [N]
    metrics: dict[str, np.ndarray]  # name -> [N, P]
    returns: dict[str, np.ndarray]  # task -> [N, P]
    hparams: dict[str, np.ndarray]  # name -> [N, P]
    evaluation: dict[str, np.ndarray]  # task -> [N, P], NaN in rows without a test
    lost: np.ndarray  # [N, P] bool, the member's weights are not finite


def read_metrics(run: str | os.PathLike) -> Metrics:
    """Returns a run's metrics.jsonl as arrays.

    Raises:
        ValueError: the folder has no metrics.jsonl, or there is no row in it.
    """
    rows = jsonl.read(pathlib.Path(run) / METRICS)
    if not rows:
        raise ValueError(
            f"{pathlib.Path(run) / METRICS} has no rows: nothing was logged"
        )

    def scalar(name):
        return np.array([jsonl.number(row.get(name)) for row in rows])

    def table(group):
        names = dict.fromkeys(name for row in rows for name in row.get(group, {}))
        return {
            name: jsonl.columns([row.get(group, {}).get(name) for row in rows])
            for name in names
        }

    scalars = (scalar(name) for name in Metrics._fields[:5])
    tables = [table(group) for group in Metrics._fields[5:-1]]
    return Metrics._make([*scalars, *tables, _lost(rows)])


def _lost(rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Returns bool [N, P] from rows that list the members lost, if there are any."""
    groups = [row.get(group, {}) for row in rows for group in ("hparams", "returns")]
    listed = [member + 1 for row in rows for member in row.get("lost", [])]
    members = max([len(x) for group in groups for x in group.values()] + listed or [1])
    lost = np.zeros((len(rows), members), bool)
    for n, row in enumerate(rows):
        lost[n, row.get("lost", [])] = True
    return lost


def has_rows(run: str | os.PathLike) -> bool:
    """Returns whether anything was logged of a run, so that it can be read."""
    path = pathlib.Path(run) / METRICS
    return path.exists() and bool(jsonl.read(path))


def is_tested(run: str | os.PathLike) -> bool:
    """Returns whether the last row of a run's metrics.jsonl has a test in it."""
    rows = jsonl.read(pathlib.Path(run) / METRICS) if has_rows(run) else []
    return any(
        "evaluation" in row or any(name.startswith(HELD_OUT) for name in row["metrics"])
        for row in rows[-1:]
    )


def read_lineage(run: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns a run's PBT rounds in order, [] if there was none; null as NaN in arrays."""
    path = pathlib.Path(run) / LINEAGE
    return [jsonl.arrays(row) for row in jsonl.read(path)] if path.exists() else []


def write_summary(run: str | os.PathLike, summary: Mapping[str, Any]) -> None:
    """Write ``summary`` as summary.json; readers see the old or the new one."""
    write_json(pathlib.Path(run) / SUMMARY, summary)


def write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    """Write nested values as JSON in a folder made for it; readers see old or new ones."""
    path.parent.mkdir(parents=True, exist_ok=True)
    jsonl.replace(path, (to_json(values) + "\n").encode())


def to_json(values: Mapping[str, Any]) -> str:
    """Returns indented JSON of nested values; arrays as lists, NaN as null."""
    return json.dumps(jsonl.plain(values), indent=2, allow_nan=False)


def read_summary(run: str | os.PathLike) -> dict[str, Any]:
    """Returns summary.json, {} if there is none yet, or none that can be read."""
    path = pathlib.Path(run) / SUMMARY
    if not path.exists():
        return {}
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(summary, dict):
            return summary
    except ValueError:
        pass
    warnings.warn(
        f"{path} is empty or damaged and is left out; `mtrl resume` writes it again",
        stacklevel=2,
    )
    return {}


def best_member(summary: Mapping[str, Any], update: float) -> int | None:
    """Returns a summary's best member; None where it is of another ``update``, or has none.

    A run that ended may be lengthened: until it ends again its summary is of other weights.
    """
    best = summary.get("best_member")
    measured_at = summary.get("totals", {}).get("updates", update)
    return None if best is None or measured_at != update else int(best)
