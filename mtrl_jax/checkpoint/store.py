"""One step on disk, by orbax: a folder that gets its name once all is written.

Its items: ``meta`` (JSON), ``state`` (small leaves by number, in the background) and
``large`` (large leaves in pieces, written before ``write`` returns).
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from mtrl_jax.checkpoint import pieces

# Orbax takes the items by their names: what may fail at once comes first.
LARGE = "large"


def open_steps(
    directory: pathlib.Path, keep: int, read_only: bool
) -> ocp.CheckpointManager:
    """Returns orbax's manager of the steps in ``directory``."""
    _write_one_replica()
    options = ocp.CheckpointManagerOptions(
        max_to_keep=None if read_only else keep,
        read_only=read_only,
        create=False,
        enable_async_checkpointing=not read_only,
        # Pieces are written at once and need their folder.
        async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False),
    )
    return ocp.CheckpointManager(directory, options=options)


def write(
    steps: ocp.CheckpointManager,
    step: int,
    meta: dict[str, Any],
    small: dict[str, Any],
    large: dict[str, Any],
) -> None:
    """Write ``large`` {number: leaf} and start the writing of the rest."""
    items: dict[str, Any] = {"meta": ocp.args.JsonSave(meta)}
    # Orbax refuses an empty item.
    if small:
        items["state"] = ocp.args.StandardSave(small)
    if large:
        items[LARGE] = _PiecesSave(large)
    steps.save(step, args=ocp.args.Composite(**items), force=True)


def read_meta(steps: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    """Returns what ``write`` was given."""
    return _read(steps, step, meta=ocp.args.JsonRestore())["meta"]


def read_small(
    steps: ocp.CheckpointManager, step: int, targets: dict[str, Any]
) -> dict[str, Any]:
    """Returns {number: leaf} as ``trees.target`` says."""
    if not targets:
        return {}
    return _read(steps, step, state=ocp.args.StandardRestore(targets))["state"]


def _read(steps: ocp.CheckpointManager, step: int, **items) -> Any:
    return steps.restore(step, args=ocp.args.Composite(**items))


class _PiecesHandler(ocp.CheckpointHandler):
    """Writes the item ``large``; it is read without orbax."""

    def save(self, directory: Any, args: _PiecesSave) -> None:  # type: ignore[override]
        """Write the leaves into the item's folder."""
        pieces.write(pathlib.Path(directory), args.leaves)

    def restore(self, directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Raises NotImplementedError: ``pieces.read`` does this leaf by leaf."""
        raise NotImplementedError


@ocp.args.register_with_handler(_PiecesHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class _PiecesSave(ocp.args.CheckpointArgs):
    leaves: dict[str, Any]


def _write_one_replica() -> None:
    """Make orbax write one device's copy of what several devices hold.

    By default each of them writes a slice, and every slice is a program to compile: in
    a resumed process at its first save, in the middle of training.
    """
    default = ocp.type_handlers.get_type_handler(jax.Array)
    handler = ocp.type_handlers.ArrayHandler(
        use_replica_parallel=False,
        array_metadata_store=getattr(default, "_array_metadata_store", None),
    )
    ocp.type_handlers.register_type_handler(jax.Array, handler, override=True)
