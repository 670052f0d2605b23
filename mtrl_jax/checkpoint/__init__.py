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

from mtrl_jax.checkpoint.managers import (
    Manager,
    close,
    latest_step,
    newest_whole,
    open_manager,
    wait,
)
from mtrl_jax.checkpoint.records import writer, written_by
from mtrl_jax.checkpoint.restoring import restore
from mtrl_jax.checkpoint.saving import save
from mtrl_jax.checkpoint.trees import abstract, bytes_of, missing

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
