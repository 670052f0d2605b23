"""What the pictures show, from the files in a run's folder: curves, ranks, the best."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax import metrics


class Run(NamedTuple):
    """A run as its files tell it."""

    name: str
    rows: metrics.Metrics
    rounds: list[dict[str, Any]]
    search: Mapping[str, Any] | None  # population.search of config.yaml
    schedules: Mapping[str, Any]  # agent.schedules of config.yaml
    tasks: Mapping[str, Any]  # of summary.json
    best: int
    compared: Mapping[str, Any]  # of summary.json: curves of other stages
    by: str = "training"  # whose returns the rows have: "frozen weights" learn nothing


def load(run: str | os.PathLike) -> Run:
    """Returns the run in a folder; config.yaml and summary.json are a help, no need.

    Raises:
        ValueError: the folder holds no metrics.
    """
    path = pathlib.Path(run).resolve()
    rows = metrics.read_metrics(path)
    summary = metrics.read_summary(path)
    best = metrics.best_member(summary, rows.update[-1]) if len(rows.update) else None
    config = path / "config.yaml"
    search: Any = None
    schedules: Any = {}
    by = "training"
    if config.exists():
        import yaml

        settings = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
        search = (settings.get("population") or {}).get("search")
        schedules = (settings.get("agent") or {}).get("schedules") or {}
        by = "training" if settings.get("of") is None else "frozen weights"
    return Run(
        path.name,
        rows,
        metrics.read_lineage(path),
        search,
        schedules,
        _by_task(summary.get("tasks")),
        _best(rows) if best is None else best,
        summary.get("compared") or {},
        by,
    )


def distinct_names(runs: Sequence[str | os.PathLike]) -> list[str]:
    """Returns as much of the ends of the paths as tells the runs apart."""
    parts = [pathlib.Path(run).resolve().parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def curve(rows: metrics.Metrics, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (env steps [n], returns [n, P]), smoothed over 1 % of the run.

    Chunks in which no member finished an episode are left out.
    """
    if task not in rows.returns:
        return np.zeros(0), np.zeros((0, 1))
    return smoothed(rows.env_steps, rows.returns[task])


def tested(rows: metrics.Metrics, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns (env steps [n], mean returns [n, P]) of the evaluations between chunks."""
    values = rows.evaluation.get(task)
    if values is None:
        return np.zeros(0), np.zeros((0, 1))
    some = ~np.isnan(values).all(axis=1)
    return rows.env_steps[some], values[some]


def lost_at(rows: metrics.Metrics) -> dict[int, int]:
    """Returns {member: row} of the members that are lost at the end.

    The row is the one after the last with finite weights.
    """
    found = {}
    for member in np.flatnonzero(rows.lost[-1]):
        alive = np.flatnonzero(~rows.lost[:, member])
        found[int(member)] = int(alive[-1]) + 1 if len(alive) else 0
    return found


def tasks_of(rows: metrics.Metrics) -> list[str]:
    """Returns the tasks that there are returns of, in training or in evaluations."""
    return list(dict.fromkeys([*rows.returns, *rows.evaluation]))


_BLOCK = 1_000  # rows that are smoothed at once


def smoothed(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (steps [n], values [n, P]): means over 1 % of the run, without empty rows."""
    window = max(1, len(values) // 100)
    before = np.full((window - 1, *values.shape[1:]), np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(
        np.concatenate([before, values]), window, axis=0
    )
    # Blocks, as a window of each row would be a hundredth of the run's square.
    blocks = range(0, len(values), _BLOCK)
    smooth = np.concatenate(
        [_nan(np.nanmean, windows[i : i + _BLOCK], axis=-1) for i in blocks]
    )
    some = ~np.isnan(smooth).all(axis=1)
    return steps[some], smooth[some]


def searched(run: Run) -> list[str]:
    """Returns the hyperparameters that are searched, scheduled or decay, in rows' order.

    Without a config.yaml that says so, those that are not all one value.
    """
    names = list(run.rows.hparams)
    moved = {n for n in names if n in run.rows.metrics}  # measured where it decays
    if run.search is not None:
        moved |= {*run.search, *run.schedules}
        return [name for name in names if name in moved]
    return [
        n
        for n in names
        if n in moved
        or np.nanmin(run.rows.hparams[n]) != np.nanmax(run.rows.hparams[n])
    ]


def scale_of(run: Run, name: str) -> str:
    """Returns the axis a hyperparameter wants by its range, or spread: linear, log.

    Or complement, that is 1 - x on a logarithmic one, as a discount is drawn. Values that
    are dealt from a list are not drawn: their spread says it.
    """
    values = run.rows.hparams[name]
    low, high = np.nanmin(values), np.nanmax(values)
    drawn = (run.search or {}).get(name) or {}
    if run.search is None or isinstance(drawn.get("initial"), (list, tuple)):
        return "log" if low > 0 and high > 30 * low else "linear"
    if not drawn.get("log"):
        return "linear"
    if drawn.get("complement"):
        return "complement" if high < 1 else "linear"
    return "log" if low > 0 else "linear"


def steps_name(rows: metrics.Metrics) -> str:
    """Returns what a run's steps are: played, or of a dataset that it learns from."""
    played = rows.returns or rows.evaluation
    return "env steps per member" if played else "steps learned from"


def ranks(score: np.ndarray) -> np.ndarray:
    """Returns ranks [P] from 0, the lowest score, to 1; NaN is lowest, equals share one."""
    if len(score) == 1:
        return np.ones(1)
    filled = np.where(np.isnan(score), -np.inf, score)
    lower = (filled[:, None] > filled).sum(axis=1)
    equal = (filled[:, None] == filled).sum(axis=1) - 1
    return (lower + equal / 2) / (len(score) - 1)


def _by_task(tasks: Any) -> Mapping[str, Any]:
    """Returns the summary's tasks by name, whether it is a mapping or a list."""
    if isinstance(tasks, list):
        return {task["name"]: task for task in tasks if "name" in task}
    return tasks or {}


def _best(rows: metrics.Metrics) -> int:
    """Returns the member with the best mean rank over tasks in the last tenth.

    The first one of a run without returns that has not said itself.
    """
    measured = rows.returns or rows.evaluation
    if not measured:
        return 0
    placed = []
    for returns in measured.values():
        last = returns[-max(1, len(returns) // 10) :]
        placed.append(ranks(_nan(np.nanmean, last, axis=0)))
    return int(np.argmax(np.mean(placed, axis=0)))


def _nan(statistic: Any, x: np.ndarray, **arguments: Any) -> Any:
    import warnings

    with warnings.catch_warnings():
        # A column of NaN is NaN: nothing to warn of.
        warnings.simplefilter("ignore", RuntimeWarning)
        return statistic(x, **arguments)
