"""Restoring a step: the newest that is sound, whatever is wrong with those after it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from mtrl_jax import errors
from mtrl_jax.checkpoint import checksums, failures, pieces, records
from mtrl_jax.checkpoint.managers import Manager, steps_of
from mtrl_jax.types import Tree

# How often a list of checkpoints that has moved on is read anew.
_LOOKS = 10


def restore(
    manager: Manager,
    like: Tree,
    step: int | None = None,
    *,
    skip: tuple[str, ...] = (),
    check: Callable[[int, dict[str, Any]], None] = lambda step, meta: None,
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
        check: called with (step, meta) before the arrays of a step are looked at; an
            MtrlError that it raises is raised.

    Raises:
        CheckpointError: there is no (sound) checkpoint, or the saved tree has another
            structure, shape or dtype than ``like``, or is of a format to come; names the
            first leaf, or the version. A file outside of the checkpoint is named in it.
    """
    with failures.one_line("the last checkpoint could not be written"):
        manager.orbax.wait_until_finished()
    if step is not None:
        if step not in steps_of(manager):
            raise errors.CheckpointError(
                f"no checkpoint of step {step} in {manager.directory}"
            )
        return _restore_newest(manager, [step], like, skip, check)
    for _ in range(_LOOKS):
        steps = sorted(steps_of(manager), reverse=True)
        try:
            return _restore_newest(manager, steps, like, skip, check)
        except _MovedOnError:
            continue
    raise errors.CheckpointError(
        f"the checkpoints in {manager.directory} are replaced faster than they can be "
        "read; try again when the run is over"
    )


class _MovedOnError(Exception):
    """A running training has other checkpoints by now than there were."""


def _restore_newest(
    manager: Manager,
    steps: list[int],
    like: Tree,
    skip: tuple[str, ...],
    check: Callable,
) -> tuple[int, Tree, dict[str, Any]]:
    """Returns the first sound one of ``steps``, which go from the newest down."""
    if not steps:
        raise errors.CheckpointError(f"no checkpoint in {manager.directory}")
    for index, candidate in enumerate(steps):
        try:
            state, meta = _restore_step(manager, candidate, like, skip, check)
        except errors.MtrlError:
            raise
        except Exception as error:
            _check_machine(candidate, error)
            # Whatever orbax, tensorstore or JSON make of bytes they do not understand.
            manager.orbax.reload()
            if set(steps_of(manager)) - set(steps):
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
    manager: Manager, step: int, like: Tree, skip: tuple[str, ...], check: Callable
) -> tuple[Tree, dict]:
    from mtrl_jax.checkpoint import store

    record = records.parse(store.read_meta(manager.orbax, step), step)
    check(step, record.meta)
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
