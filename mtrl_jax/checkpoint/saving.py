"""Saving a step: nothing that is complete is touched before it is whole."""

from __future__ import annotations

import os
import shutil
from typing import Any

from mtrl_jax.checkpoint import failures, pieces, records
from mtrl_jax.checkpoint.managers import Manager, failed_save, steps_of, wait
from mtrl_jax.types import Tree


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
    stale = [s for s in steps_of(manager) if s >= step or s in manager.damaged]
    _move_aside(manager, stale)
    with failed_save(manager, step):
        store.write(manager.orbax, step, *contents)


def _is_saved(manager: Manager, step: int, contents: records.Contents) -> bool:
    from mtrl_jax.checkpoint import store

    if step not in steps_of(manager) or step in manager.damaged:
        return False
    try:
        saved = store.read_meta(manager.orbax, step)
    except Exception:
        return False
    if saved != contents.record:
        return False
    folder = manager.directory / str(step) / store.LARGE
    return not contents.large or pieces.hold(folder, contents.large)


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
