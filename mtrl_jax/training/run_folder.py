"""What is in a run's folder, and whether it is one."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import shlex
import time
from collections.abc import Iterator
from typing import Any

from mtrl_jax import errors, metrics
from mtrl_jax.config import loading
from mtrl_jax.metrics import jsonl
from mtrl_jax.training import lock

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
STAGES = "stages"  # of a run in stages: a folder of theirs


def names(parent: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """Yields ``parent/name-TIME``, and the same with -2, -3 and so on."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for i in itertools.count(1):
        yield parent / f"{name}-{stamp}{f'-{i}' if i > 1 else ''}"


@contextlib.contextmanager
def claimed(parent: pathlib.Path, name: str) -> Iterator[pathlib.Path]:
    """Returns a new folder ``parent/name-TIME`` that no other process has.

    Of several made in the same second the others are called TIME-2, TIME-3 and so on.
    It is gone again if nothing was written into it.
    """
    folder = parent
    for folder in names(parent, name):
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            errors.check_folder(f"--run-dir {folder}", folder)
            raise
        try:
            folder.mkdir()  # Atomic: one process alone succeeds.
        except FileExistsError:
            continue
        except FileNotFoundError:
            continue  # Another's ``parent`` was empty and is gone.
        except OSError:
            errors.check_folder(f"--run-dir {folder}", folder)
            raise
        break
    try:
        yield folder
    finally:
        for empty in (folder, parent):
            with contextlib.suppress(OSError):  # It is not empty.
                empty.rmdir()


def check_new(folder: pathlib.Path) -> None:
    """Raises ConfigError unless a run may begin in ``folder``.

    It may not where nothing can be written, or what is there is a run or something else.
    """
    if os.path.isdir(folder):
        _check_empty(folder)
    errors.check_folder(f"--run-dir {folder}", folder)


def _check_empty(folder: pathlib.Path) -> None:
    """Raises ConfigError unless all that is there is what a killed start leaves."""
    if (folder / CONFIG).exists():
        raise errors.ConfigError(
            f"--run-dir {folder}: holds a run; go on with `mtrl resume {shlex.quote(str(folder))}` or "
            "give another folder"
        )
    # A process that did not get as far as a run leaves its lock, an empty folder and
    # perhaps half of its settings.
    ours = {lock.LOCK, CHECKPOINTS}
    left = {x.name for x in folder.glob(f".{CONFIG}*.tmp")}
    found = _names(folder) - ours - left
    saves = folder / CHECKPOINTS
    if found or (saves.exists() and _names(saves)):
        raise errors.ConfigError(
            f"--run-dir {folder}: not empty and no run; give a new or empty folder"
        )


def _names(folder: pathlib.Path) -> set[str]:
    """Returns what is in a folder but for files that tried whether it can be written to."""
    names = {path.name for path in folder.iterdir()}
    return {name for name in names if not name.startswith(errors.PROBE)}


def write_config(folder: pathlib.Path, config: Any) -> None:
    """Write config.yaml, or leave it as it was: a run needs one."""
    jsonl.replace(folder / CONFIG, loading.dump(config).encode())


def check_untrained(folder: pathlib.Path) -> None:
    """Raises ConfigError unless a run without checkpoints never had one.

    No run has rows before its first checkpoint.
    """
    rows = folder / metrics.METRICS
    if rows.exists() and rows.stat().st_size:
        raise no_checkpoint(folder)


def no_checkpoint(folder: pathlib.Path) -> errors.ConfigError:
    """Returns the error that there is no checkpoint."""
    return errors.ConfigError(
        f"{folder}: there is no checkpoint in {folder / CHECKPOINTS}; give a run that "
        "has one"
    )


def is_done(folder: Any) -> bool:
    """Returns whether the summary in ``folder`` is that of a run that has ended."""
    summary = metrics.read_summary(folder)
    return bool(summary) and summary.get("complete", True)


def whole(folder: pathlib.Path) -> pathlib.Path:
    """Returns the folder of the run that ``folder`` is a stage of, else ``folder``."""
    stages = folder.absolute().parent
    is_stage = stages.name == STAGES and (stages.parent / CONFIG).is_file()
    return stages.parent if is_stage else folder
