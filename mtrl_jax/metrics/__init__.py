"""What a run writes down while it trains, and how to read it again.

    metrics.jsonl   one object a chunk: update, env_steps, wall_s, steps_per_s, compiles,
                    metrics {name: [P]}, returns {task: [P]}, hparams {name: [P]},
                    and after a test evaluation {task: [P]}
    lineage.jsonl   one object a PBT round: update, score [P], source [P], ancestor [P],
                    hparams_before {name: [P]}, hparams_after {name: [P]}
    summary.json    the outcome; ``tasks`` maps a task to what is known of it
    tensorboard/    the population's mean and best per task, its middle per hyperparameter

What is not a finite number is null. Every line is complete or (after a kill) cut off,
which the readers and ``MetricsWriter`` forgive; nothing is rewritten but by renaming.
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import IO, Any, NamedTuple

import numpy as np

from mtrl_jax.metrics import boards

METRICS = "metrics.jsonl"
LINEAGE = "lineage.jsonl"
SUMMARY = "summary.json"


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


class MetricsWriter:
    """Appends to the files of one run folder; every row is on its way to disk at once.

    Args:
        run: the folder, made if missing.
        resume_after: the update a resumed run goes on from: later rows (of a process
            that was killed after its last checkpoint) and a half-written last line are
            dropped. None: a new run, nothing is dropped.
        tensorboard: whether to write TensorBoard events as well.
        wandb: arguments of ``wandb.init`` (project, name, …); None: no W&B.

    Raises:
        ValueError: W&B is asked for and not installed.
    """

    def __init__(
        self,
        run: str | os.PathLike,
        *,
        resume_after: int | None = None,
        tensorboard: bool = True,
        wandb: Mapping[str, Any] | None = None,
    ):
        # First what may fail, so that nothing is written if it does.
        self._wandb = None if wandb is None else boards.open_wandb(wandb, run)
        self._run = pathlib.Path(run)
        self._run.mkdir(parents=True, exist_ok=True)
        if resume_after is not None:
            truncate_after(self._run, resume_after)
        self._files: dict[str, IO[bytes]] = {
            name: open(self._run / name, "ab")  # noqa: SIM115
            for name in (METRICS, LINEAGE)
        }
        self._board = None
        if tensorboard:
            purge = None if resume_after is None else _next_step(self._run)
            self._board = boards.open_tensorboard(self._run, purge)

    def write(
        self,
        *,
        update: int,
        env_steps: int,
        wall_s: float,
        steps_per_s: float,
        compiles: int,
        metrics: Mapping[str, Any],
        returns: Mapping[str, Any],
        hparams: Mapping[str, Any],
        evaluation: Mapping[str, Any] | None = None,
    ) -> None:
        """Returns after appending one chunk's row; values per member are arrays [P].

        ``evaluation`` has a task's mean return where members were tested after the
        chunk; a row without one has no such field.
        """
        fields = {
            "update": update,
            "env_steps": env_steps,
            "wall_s": wall_s,
            "steps_per_s": steps_per_s,
            "compiles": compiles,
            "metrics": metrics,
            "returns": returns,
            "hparams": hparams,
        }
        if evaluation is not None:
            fields["evaluation"] = evaluation
        row = _plain(fields)
        _append(self._files[METRICS], row)
        scalars = boards.scalars(row)
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, env_steps)
        if self._wandb is not None:
            self._wandb.log({"update": update, **scalars}, step=env_steps)

    def write_lineage(
        self,
        *,
        update: int,
        score: Any,
        source: Any,
        ancestor: Any,
        hparams_before: Mapping[str, Any],
        hparams_after: Mapping[str, Any],
    ) -> None:
        """Returns after appending one PBT round; ``ancestor`` is that after the copies."""
        row = {
            "update": update,
            "score": score,
            "source": source,
            "ancestor": ancestor,
            "hparams_before": hparams_before,
            "hparams_after": hparams_after,
        }
        _append(self._files[LINEAGE], _plain(row))

    def flush(self) -> None:
        """Returns once all rows are on disk: call it before saving a checkpoint.

        A checkpoint whose rows were lost (a power cut) could not get them back.
        """
        for file in self._files.values():
            os.fsync(file.fileno())
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Returns once everything is written and closed; a second call does nothing."""
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()
        self._board = self._wandb = None

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def truncate_after(run: str | os.PathLike, update: int) -> None:
    """Returns after dropping the rows of both files beyond ``update`` and cut-off lines.

    The kept lines stay byte for byte; a file changes by renaming, or not at all.
    """
    for name in (METRICS, LINEAGE):
        path = pathlib.Path(run) / name
        if not path.exists():
            continue
        old = path.read_bytes()
        kept = [line for line, row in _rows(path, old) if row["update"] <= update]
        new = b"".join(line + b"\n" for line in kept)
        if new != old:
            _replace(path, new)


def read_metrics(run: str | os.PathLike) -> Metrics:
    """Returns a run's metrics.jsonl as arrays.

    Raises:
        ValueError: the folder has no metrics.jsonl, or there is no row in it.
    """
    rows = _read(pathlib.Path(run) / METRICS)
    if not rows:
        raise ValueError(
            f"{pathlib.Path(run) / METRICS} has no rows: nothing was logged"
        )

    def scalar(name):
        return np.array([_number(row.get(name)) for row in rows])

    def table(group):
        names = dict.fromkeys(name for row in rows for name in row.get(group, {}))
        return {
            name: _columns([row.get(group, {}).get(name) for row in rows])
            for name in names
        }

    scalars = (scalar(name) for name in Metrics._fields[:5])
    return Metrics(*scalars, *(table(group) for group in Metrics._fields[5:]))


def read_lineage(run: str | os.PathLike) -> list[dict[str, Any]]:
    """Returns a run's PBT rounds in order, [] if there was none; null as NaN in arrays."""
    path = pathlib.Path(run) / LINEAGE
    return [_arrays(row) for row in _read(path)] if path.exists() else []


def write_summary(run: str | os.PathLike, summary: Mapping[str, Any]) -> None:
    """Returns after summary.json holds ``summary``; readers see the old or the new one."""
    _replace(pathlib.Path(run) / SUMMARY, (to_json(summary) + "\n").encode())


def to_json(values: Mapping[str, Any]) -> str:
    """Returns indented JSON of nested values; arrays as lists, NaN as null."""
    return json.dumps(_plain(values), indent=2, allow_nan=False)


def read_summary(run: str | os.PathLike) -> dict[str, Any]:
    """Returns summary.json, {} if there is none yet."""
    path = pathlib.Path(run) / SUMMARY
    return json.loads(path.read_text()) if path.exists() else {}


def _next_step(run: pathlib.Path) -> int:
    """Returns the first env step that no row has reached; what is later is made again."""
    rows = _read(run / METRICS) if (run / METRICS).exists() else []
    return rows[-1]["env_steps"] + 1 if rows else 0


def _append(file: IO[bytes], row: Any) -> None:
    # One write call: a kill leaves a whole line or the beginning of one.
    file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
    file.flush()


def _replace(path: pathlib.Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: pathlib.Path) -> list[dict[str, Any]]:
    if not path.exists():
        raise ValueError(f"there is no {path}: not a run folder, or nothing logged yet")
    return [row for _, row in _rows(path, path.read_bytes())]


def _rows(path: pathlib.Path, content: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """Returns (line, row) of every line that is a whole row."""
    lines = content.split(b"\n")
    rows = []
    # What follows the last newline is nothing, or the beginning of a row.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            row["update"] + 0
        except (ValueError, KeyError, TypeError):
            warnings.warn(f"{path}:{number} is no row of a run; skipped", stacklevel=3)
        else:
            rows.append((line, row))
    return rows


def _plain(x: Any) -> Any:
    """Returns what JSON can hold: arrays as lists, what is not finite as None."""
    if isinstance(x, Mapping):
        return {str(name): _plain(value) for name, value in x.items()}
    if isinstance(x, str | bool) or x is None:
        return x
    if isinstance(x, list | tuple):
        return [_plain(value) for value in x]
    if hasattr(x, "shape"):
        return _plain(np.asarray(x).tolist())
    if isinstance(x, float) and not math.isfinite(x):
        return None
    return x


def _arrays(x: Any) -> Any:
    if isinstance(x, dict):
        return {name: _arrays(value) for name, value in x.items()}
    return np.array([_number(v) for v in x]) if isinstance(x, list) else x


def _number(x: Any) -> float:
    return math.nan if x is None else float(x)


def _columns(cells: list[list | None]) -> np.ndarray:
    """Returns [N, P], with rows of NaN where there was none."""
    P = max(len(cell) for cell in cells if cell is not None)
    blank = [None] * P
    return np.array([[_number(x) for x in (cell or blank)] for cell in cells])
