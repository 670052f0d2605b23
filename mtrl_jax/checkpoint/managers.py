"""One folder of checkpoints: opened, waited for, closed; which steps it has."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
from typing import Any

from mtrl_jax import errors
from mtrl_jax.checkpoint import failures

_TEMPORARY = ".orbax-checkpoint-tmp"


@dataclasses.dataclass
class Manager:
    """One folder of checkpoints, opened by ``open_manager``; not for concurrent use."""

    directory: pathlib.Path
    orbax: Any  # orbax.checkpoint.CheckpointManager
    damaged: set[int]  # Steps that failed to restore; moved aside by the next save.


def open_manager(
    directory: str | os.PathLike, keep: int, *, read_only: bool = False
) -> Manager:
    """Returns the manager of a folder that keeps its newest ``keep`` steps.

    The folder is made if it does not exist, written to once (a folder that cannot be
    written to is found out before a run starts, not at its first checkpoint), and freed
    of what a killed process left half-written. ``read_only`` does none of these.

    Raises:
        CheckpointError: the folder cannot be made, written to or (read_only) found.
        ValueError: keep < 1.
    """
    if keep < 1:
        raise ValueError(f"keep={keep} is too small; keep at least 1 checkpoint")
    directory = pathlib.Path(directory).absolute()
    if read_only and not directory.is_dir():
        raise errors.CheckpointError(
            f"no checkpoints at {directory}: there is no such folder"
        )
    if not read_only:
        _prepare(directory)
    # Takes seconds to import, which "mtrl list" need not wait for.
    from mtrl_jax.checkpoint import store

    failures.quieten()
    with failures.one_line(f"could not open the checkpoints in {directory}"):
        return Manager(directory, store.open_steps(directory, keep, read_only), set())


def wait(manager: Manager) -> None:
    """Wait until nothing is being written any more.

    Raises:
        CheckpointError: the save in the background failed.
    """
    with failed_save(manager, None):
        manager.orbax.wait_until_finished()


def close(manager: Manager) -> None:
    """Wait until all is written, and end the threads."""
    try:
        wait(manager)
    finally:
        manager.orbax.close()


def latest_step(manager: Manager) -> int | None:
    """Returns the newest complete step, None if there is none; it may be damaged."""
    return max(steps_of(manager), default=None)


def newest_whole(manager: Manager) -> int | None:
    """Returns the newest step that is on disk now; safe beside a save under way.

    None where there is none, nor a folder any more.
    """
    try:
        names = os.listdir(manager.directory)
    except OSError:
        return None
    return max((int(name) for name in names if name.isdigit()), default=None)


def steps_of(manager: Manager) -> list[int]:
    """Returns the complete steps as they were last looked at."""
    return list(manager.orbax.all_steps())


class failed_save(failures.one_line):
    """Turns errors into one line, as its base does, and frees what was written of the step."""

    def __init__(self, manager: Manager, step: int | None):
        which = "the last checkpoint" if step is None else f"checkpoint {step}"
        super().__init__(f"could not save {which} in {manager.directory}")
        self._manager = manager

    def clean(self):
        _remove_temporary(self._manager.directory)
        self._manager.orbax.reload()


def _prepare(directory: pathlib.Path) -> None:
    probe = directory / f"{errors.PROBE}{os.getpid()}"
    with failures.one_line(f"cannot write to {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            # More than a few bytes: an inode alone may still fit on a full disk.
            probe.write_bytes(bytes(1 << 16))
        finally:
            probe.unlink(missing_ok=True)
    for left in directory.glob(f"{errors.PROBE}*"):
        left.unlink(missing_ok=True)
    _remove_temporary(directory)


def _remove_temporary(directory: pathlib.Path) -> None:
    for path in directory.glob(f"*{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)
