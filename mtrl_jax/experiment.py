"""A run from its first step to its summary: the loop on the host.

The loop starts a chunk and, while the device works on it, writes down what the chunk
before it brought. PBT, evaluation and checkpoints happen between chunks. Everything the
loop calls is compiled before the first chunk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from mtrl_jax import build, checkpoint, metrics, progress, report
from mtrl_jax import config as config_lib
from mtrl_jax.engine import fused_runner, pbt
from mtrl_jax.types import Tree


class RunError(RuntimeError):
    """A run that cannot go on; the message is one line for the user."""


class Saved(NamedTuple):
    """What a checkpoint holds."""

    run: fused_runner.RunState
    hparams: Tree
    pbt: pbt.PbtState


class Pending(NamedTuple):
    """A chunk whose numbers are still on their way from the device."""

    update: int
    output: fused_runner.ChunkOutput | None
    hparams: Tree
    evaluation: Any
    record: build.RoundRecord | None


@dataclasses.dataclass
class Session:
    """A run in progress. ``update`` counts the updates every member has made."""

    config: config_lib.ExperimentConfig
    folder: pathlib.Path
    pieces: build.Pieces
    programs: Programs
    manager: checkpoint.Manager
    writer: metrics.MetricsWriter
    state: fused_runner.RunState
    hparams: Tree
    pbt: pbt.PbtState
    update: int
    bar: progress.Progress
    wall_s: float  # of earlier processes
    started: float = dataclasses.field(default_factory=time.monotonic)
    logged_at: float = dataclasses.field(default_factory=time.monotonic)
    compiles: int = 0


class Programs(NamedTuple):
    """The compiled functions of a run."""

    chunk: Callable
    evaluate: Callable
    pbt_round: Callable | None


def train(config: config_lib.ExperimentConfig, folder: pathlib.Path) -> int:
    """Returns the exit code of a new run in ``folder``: 0, or 130 or 143 if stopped.

    Raises:
      ConfigError: a setting that cannot work, or a folder that is something else;
        nothing was written.
      RunError, CheckpointError: the run could not go on; what was saved is kept.
    """
    check_new_folder(folder)
    pieces = build.pieces(config)
    with _open(config, folder, pieces, new=True) as session:
        save(session)
        return loop(session)
