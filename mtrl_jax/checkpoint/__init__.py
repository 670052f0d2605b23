"""Saving and restoring whole runs: asynchronous, checked, never at the cost of an older one.

A checkpoint is a pytree (arrays and typed PRNG keys, bit for bit) and a small dict of
plain values. Orbax writes it in the background into a folder of its own that gets its
name only once complete, so a killed process leaves the older steps as they were. Large
leaves (``pieces.LARGE``) are files of their own beside it, written before ``save``
returns. Beside the arrays go their names, shapes and checksums: a step that was damaged
on disk is not one that does not fit the program, and only the former is skipped.

``save`` may be followed at once by a call that donates the saved buffers: orbax takes
its copy (on a CPU: a reference that keeps XLA from reusing the buffer) before it returns.

Where something large can be made again, ``save(..., drop=("run.memory",))`` leaves it
out, and ``restore`` puts a ``jax.ShapeDtypeStruct`` in the place of each of its leaves:
``missing`` names them, for the caller to make them and to say so. What a reader has no
use for, ``restore(..., skip=("run.memory",))`` leaves on disk in the same way.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import shutil
import warnings
from typing import Any

from mtrl_jax import errors
from mtrl_jax.checkpoint import checksums, failures, pieces, records
from mtrl_jax.checkpoint.records import writer, written_by
from mtrl_jax.checkpoint.trees import abstract, bytes_of, missing
from mtrl_jax.types import Tree

__all__ = [
    "Manager",
    "abstract",
    "bytes_of",
    "close",
    "latest_step",
    "missing",
    "newest_whole",
    "open_manager",
    "restore",
    "save",
    "wait",
    "writer",
    "written_by",
]

_TEMPORARY = ".orbax-checkpoint-tmp"
# How often a list of checkpoints that has moved on is read anew.
_LOOKS = 10


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


def save(
    manager: Manager,
    step: int,
    state: Tree,
    meta: dict[str, Any],
    *,
    drop: tuple[str, ...] = (),
) -> None:
    """Save ``state``, which may be donated afterwards; the writing goes on in the background.

    Waits for the save before this one; does nothing if the very same state is already
    saved under this step. Older steps than the newest ``keep`` are deleted
    only after this one is complete. Steps at or after ``step`` (left by a run that was
    resumed from before them) and steps found damaged are moved to ``superseded/``.

    Args:
        manager: of the folder.
        step: number of the checkpoint.
        state: a pytree of arrays and typed keys.
        meta: what JSON can hold.
        drop: subtrees to leave out, each called by the fields, keys and indices that
            lead to it ("run.memory"). One without leaves is none.

    Raises:
        CheckpointError: this save, or the one before it in the background, failed; all
            complete checkpoints are as they were.
    """
    from mtrl_jax.checkpoint import store

    wait(manager)
    contents = records.contents(state, meta, drop)
    if _is_saved(manager, step, contents):
        return
    stale = [s for s in _steps(manager) if s >= step or s in manager.damaged]
    _move_aside(manager, stale)
    with _failed_save(manager, step):
        store.write(manager.orbax, step, *contents)


def wait(manager: Manager) -> None:
    """Wait until nothing is being written any more.

    Raises:
        CheckpointError: the save in the background failed.
    """
    with _failed_save(manager, None):
        manager.orbax.wait_until_finished()


def latest_step(manager: Manager) -> int | None:
    """Returns the newest complete step, None if there is none; it may be damaged."""
    return max(_steps(manager), default=None)


def newest_whole(manager: Manager) -> int | None:
    """Returns the newest step that is on disk now; safe beside a save under way."""
    names = (path.name for path in manager.directory.iterdir())
    return max((int(name) for name in names if name.isdigit()), default=None)


def restore(
    manager: Manager,
    like: Tree,
    step: int | None = None,
    *,
    skip: tuple[str, ...] = (),
) -> tuple[int, Tree, dict[str, Any]]:
    """Returns (step, state, meta) of ``step``, else of the newest step that is sound.

    A damaged step is skipped with a warning that names it and the one restored instead;
    one that this process cannot read, or has no memory for, is not.
    Beside a training that replaces checkpoints while they are read, it looks again.
    Nothing is written or deleted.

    Args:
        manager: of the folder.
        like: the saved tree's structure; arrays or ``jax.ShapeDtypeStruct`` (such as
            ``abstract`` makes), restored with their ``sharding`` (default: the first
            device). Leaves that are NumPy's or Python's come back as NumPy arrays.
            Dropped leaves need not be as they were.
        step: a certain step; then there is no falling back.
        skip: subtrees, called as for ``save``, whose large leaves are not read: they
            are missing, as dropped ones are.

    Raises:
        CheckpointError: there is no (sound) checkpoint, or the saved tree has another
            structure, shape or dtype than ``like``, or is of a format to come; names the
            first leaf, or the version. A file outside of the checkpoint is named in it.
    """
    with failures.one_line("the last checkpoint could not be written"):
        manager.orbax.wait_until_finished()
    if step is not None:
        if step not in _steps(manager):
            raise errors.CheckpointError(
                f"no checkpoint of step {step} in {manager.directory}"
            )
        return _restore_newest(manager, [step], like, skip)
    for _ in range(_LOOKS):
        steps = sorted(_steps(manager), reverse=True)
        try:
            return _restore_newest(manager, steps, like, skip)
        except _MovedOnError:
            continue
    raise errors.CheckpointError(
        f"the checkpoints in {manager.directory} are replaced faster than they can be "
        "read; try again when the run is over"
    )


def close(manager: Manager) -> None:
    """Wait until all is written, and end the threads."""
    try:
        wait(manager)
    finally:
        manager.orbax.close()


class _MovedOnError(Exception):
    """A running training has other checkpoints by now than there were."""


def _restore_newest(
    manager: Manager, steps: list[int], like: Tree, skip: tuple[str, ...]
) -> tuple[int, Tree, dict[str, Any]]:
    """Returns the first sound one of ``steps``, which go from the newest down."""
    if not steps:
        raise errors.CheckpointError(f"no checkpoint in {manager.directory}")
    for index, candidate in enumerate(steps):
        try:
            state, meta = _restore_step(manager, candidate, like, skip)
        except errors.CheckpointError:
            raise
        except Exception as error:
            _check_machine(candidate, error)
            # Whatever orbax, tensorstore or JSON make of bytes they do not understand.
            manager.orbax.reload()
            if set(_steps(manager)) - set(steps):
                raise _MovedOnError from error
            manager.damaged.add(candidate)
            rest = steps[index + 1 :]
            message = (
                f"checkpoint {candidate} is damaged ({failures.first_line(error)})"
            )
            if not rest:
                raise errors.CheckpointError(
                    f"{message}; no older one is left"
                ) from error
            warnings.warn(f"{message}; going back to {rest[0]}", stacklevel=3)
        else:
            return candidate, state, meta
    raise AssertionError("unreachable")


def _check_machine(step: int, error: Exception) -> None:
    """Raises CheckpointError, or what memory lacks, unless the files are to blame.

    Where memory, rights or open files are short the step may be sound: going back to
    an older one would lose what was trained since.
    """
    cause = failures.of_machine(error)
    if cause is not None and failures.is_out_of_memory(cause):
        raise cause
    if cause is not None:
        raise errors.CheckpointError(
            f"checkpoint {step} cannot be read here: {failures.first_line(cause)}; it may "
            "be sound: try again when that is mended"
        ) from error


def _restore_step(
    manager: Manager, step: int, like: Tree, skip: tuple[str, ...]
) -> tuple[Tree, dict]:
    from mtrl_jax.checkpoint import store

    record = records.parse(store.read_meta(manager.orbax, step), step)
    targets = records.targets(record, like, step)
    small = {n: x for n, x in targets.items() if n not in record.large}
    arrays = store.read_small(manager.orbax, step, small)
    if checksums.of_leaves([arrays[n] for n in small]) != record.checksums:
        raise ValueError("its checksums do not match")
    large = records.large_without(record, like, skip)
    if large:
        folder = manager.directory / str(step) / store.LARGE
        manifest = pieces.manifest_of(folder)
        for number in large:
            arrays[number] = pieces.read(folder, manifest[number], targets[number])
    return records.rebuilt(record, like, arrays), record.meta


def _is_saved(manager: Manager, step: int, contents: records.Contents) -> bool:
    from mtrl_jax.checkpoint import store

    if step not in _steps(manager) or step in manager.damaged:
        return False
    try:
        saved = store.read_meta(manager.orbax, step)
    except Exception:
        return False
    if saved != contents.record:
        return False
    folder = manager.directory / str(step) / store.LARGE
    return not contents.large or pieces.hold(folder, contents.large)


def _prepare(directory: pathlib.Path) -> None:
    probe = directory / f".writable-{os.getpid()}"
    with failures.one_line(f"cannot write to {directory}"):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            # More than a few bytes: an inode alone may still fit on a full disk.
            probe.write_bytes(bytes(1 << 16))
        finally:
            probe.unlink(missing_ok=True)
    _remove_temporary(directory)


def _remove_temporary(directory: pathlib.Path) -> None:
    for path in directory.glob(f"*{_TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def _steps(manager: Manager) -> list[int]:
    return list(manager.orbax.all_steps())


def _move_aside(manager: Manager, steps: list[int]) -> None:
    if not steps:
        return
    with failures.one_line(f"could not move checkpoints {steps} aside"):
        aside = manager.directory / "superseded"
        aside.mkdir(exist_ok=True)
        for step in steps:
            shutil.rmtree(aside / str(step), ignore_errors=True)
            os.replace(manager.directory / str(step), aside / str(step))
    manager.damaged.difference_update(steps)
    manager.orbax.reload()


class _failed_save(failures.one_line):
    """The same, and frees the space of what was written of the step."""

    def __init__(self, manager: Manager, step: int | None):
        which = "the last checkpoint" if step is None else f"checkpoint {step}"
        super().__init__(f"could not save {which} in {manager.directory}")
        self._manager = manager

    def clean(self):
        _remove_temporary(self._manager.directory)
        self._manager.orbax.reload()
