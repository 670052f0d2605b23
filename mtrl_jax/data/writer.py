"""Writing folders of learning histories; ``layout`` says what they hold.

A Writer takes time steps as a fused scan gives them and puts them at their place:
rows first, flushed, then a description that says how far they go. A process killed at
any moment leaves what was complete, and goes on from there; steps given again (from a
checkpoint that is older) replace what is there. One Writer at a time per folder.
"""

from __future__ import annotations

import json
import operator
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mtrl_jax import errors, types
from mtrl_jax.data import files, layout
from mtrl_jax.types import Array

# ts [T+1, P, B, ...], action [T, P, B, ...] and, where something is recorded, {name:
# [T, P, B, ...]}, which a Rollout has as its extras; its carry is not read.
Chunk = (
    tuple[types.TimeStep, Array]
    | tuple[types.TimeStep, Array, Mapping[str, Array]]
    | types.Rollout
)


class GapError(errors.DatasetError):
    """Steps that others are to follow are missing; ``sound`` are there."""

    def __init__(self, message: str, sound: int):
        super().__init__(message)
        self.sound = sound


class Writer:
    """A folder being filled: ``write`` chunk after chunk, then ``close``.

    ``complete_steps`` of ``steps`` are on disk. The histories of a chunk ``[T, P, B]``
    are its slots, member by member: number p·B + b.
    """

    complete_steps: int
    steps: int

    def __init__(
        self,
        folder: str | os.PathLike,
        spec: types.EnvSpec,
        tasks: Sequence[str],
        steps: int,
        *,
        masks: bool = False,
        recorded: Mapping[str, jax.ShapeDtypeStruct] = {},
        config: Any = None,
        resume: bool = True,
        after: int = 0,
        same: Callable[[Any, Any], bool] = operator.eq,
    ):
        """Open a new folder, or with ``resume`` one of the same dataset to go on with.

        Args:
          folder: made if it does not exist; its whole size (``plan``) is set aside.
          spec: observations and actions.
          tasks: the name of each history's task, N = P·B of them.
          steps: L, time steps of each history, resets included; more are dropped.
          masks: also store action masks; without, every action must be legal.
          recorded: what acting noted down and is stored, shape and dtype of one row.
          config: what makes the histories, anything JSON can hold.
          resume: False: a folder that holds a dataset is refused.
          after: the steps that must be there: what is written first follows them.
          same: (config there, config) -> whether both make the same histories.

        Raises:
          GapError: fewer than ``after`` steps are there and sound.
          DatasetError: it cannot be made or written, holds something else, is damaged.
          ValueError: no history or step; the dataset there is another one.
        """
        self._folder = pathlib.Path(folder)
        self._same, config = same, json.loads(json.dumps(config))
        self._meta = layout.describe(spec, list(tasks), steps, masks, config, recorded)
        self._fields = layout.fields_of(self._meta)
        self.steps = steps
        try:
            if (self._folder / files.META).exists():
                self._reopen(resume, after)
            else:
                self._check_gap(0, after, "")
                self._create()
            self._fds = {
                f.name: os.open(files.path_of(self._folder, f), os.O_RDWR)
                for f in self._fields
            }
        except OSError as error:
            message = f"cannot write to {self._folder}: {files.one_line(error)}"
            raise errors.DatasetError(message) from error
        self._maps = files.open_maps(self._folder, self._meta)

    def write(self, chunk: Chunk, at: int | None = None) -> None:
        """Write a chunk of T steps; when it returns they are on disk for good.

        Args:
          chunk: as an unroll gives them: each chunk's first time step is the last of
            the one before, or of an environment that had to begin again.
          at: the number of its first step; default: the next one. Less than
            ``complete_steps``: what is there from ``at`` on is replaced.

        Raises:
          ValueError: it does not fit the dataset, or steps before it are missing.
          DatasetError: not written; ``complete_steps`` and what they are stay.
        """
        at = self.complete_steps if at is None else at
        if not 0 <= at <= self.complete_steps:
            raise ValueError(
                f"at: step {at} does not follow the {self.complete_steps} "
                "complete steps; give these or fewer"
            )
        columns = self._columns(chunk, self.steps - at)
        try:
            if at < self.complete_steps:
                self._rewind(at)
            if columns["reward"].shape[1]:
                self._append(columns)
        except OSError as error:
            raise errors.DatasetError(
                f"cannot write to {self._folder}: {files.one_line(error)}; "
                f"{self.complete_steps} of {self.steps} steps are complete"
            ) from error

    def close(self) -> None:
        """Close the files; every chunk written is already on disk."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds = {}

    def _create(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        paths = [files.path_of(self._folder, f) for f in self._fields]
        # Ours are left where a process was killed before there was a description.
        ours = {*(path.name for path in paths), f".{files.META}"}
        others = sorted({path.name for path in self._folder.iterdir()} - ours)
        if others:
            raise errors.DatasetError(
                f"{self._folder} holds {others[0]} and no dataset; give an empty folder"
            )
        shape = (self._meta["histories"], self.steps)
        try:
            for path, field in zip(paths, self._fields):
                files.create(path, (*shape, *field.shape), field.dtype)
            self._commit([])
        except OSError:
            for path in paths:
                path.unlink(missing_ok=True)
            raise

    def _check_gap(self, sound: int, after: int, damage: str) -> None:
        if sound < after:
            found = damage or f"{self._folder}: {sound} of {self.steps} steps are there"
            raise GapError(f"{found}; {after} sound steps are needed to go on", sound)

    def _reopen(self, resume: bool, after: int) -> None:
        if not resume:
            raise errors.DatasetError(
                f"{self._folder} holds a dataset; resume it or give another folder"
            )
        there = files.read_meta(self._folder)
        for name, given in self._meta.items():
            is_same = self._same if name == "config" else operator.eq
            if not is_same(there.get(name), given):
                raise ValueError(
                    f"{name}: the dataset in {self._folder} has "
                    f"{_short(there.get(name))}, given {_short(given)}; "
                    "give the same or another folder"
                )
        maps = files.open_maps(self._folder, there)
        sound, damage = files.sound_steps(self._folder, there, maps, check=True)
        self._check_gap(sound, after, damage)
        if damage:
            warnings.warn(f"{damage}; going on from step {sound}", stacklevel=3)
        self._parts = [part for part in there["parts"] if part[0] <= sound]
        self.complete_steps = sound

    def _columns(self, chunk: Chunk, room: int) -> dict[str, np.ndarray]:
        """Returns each field's columns [N, T, ...], of at most ``room`` steps."""
        read = 3 if "recorded" in self._meta else 2
        ts, action, *extras = jax.tree.map(np.asarray, tuple(chunk[:read]))
        steps = min(action.shape[0], room)
        now, after = (jax.tree.map(lambda x, i=i: x[i : i + steps], ts) for i in (0, 1))
        found = {f"obs.{name}": x for name, x in now.obs.items()}
        if action.dtype.kind == "f":
            # Of a broken policy, which rows outlive.
            action = np.nan_to_num(action, posinf=0.0, neginf=0.0)
        found |= {"action": action[:steps], "reset": now.last}
        found |= {"reward": after.reward, "discount": after.discount}
        found |= {"first": now.first, "last": after.last}
        found |= {"action_mask": now.action_mask}
        for recorded in extras:
            found |= {f"recorded.{name}": x[:steps] for name, x in recorded.items()}
        if not self._meta["masks"] and not now.action_mask.all():
            raise ValueError("action_mask: some actions are illegal; give masks=True")
        return {f.name: self._by_history(f, found.get(f.name)) for f in self._fields}

    def _by_history(self, field: layout.Field, x: np.ndarray | None) -> np.ndarray:
        """Returns [N, T, ...] of [T, P, B, ...]."""
        number = self._meta["histories"]
        fits = x is not None and x.dtype == field.dtype and x.shape[3:] == field.shape
        if x is None or not fits or x.shape[1] * x.shape[2] != number:
            given = "nothing" if x is None else f"{x.dtype}{list(x.shape)}"
            wanted = f"{field.dtype} [T, P, B, {list(field.shape)}], P·B = {number}"
            raise ValueError(f"{field.name}: got {given}, the dataset takes {wanted}")
        rows = x.reshape(x.shape[0], number, *field.shape)
        return np.ascontiguousarray(np.swapaxes(rows, 0, 1))

    def _append(self, columns: dict[str, np.ndarray]) -> None:
        start, crcs = self.complete_steps, {}
        for name, x in columns.items():
            offset = self._maps[name].offset
            files.write_columns(self._fds[name], offset, x, start, self.steps)
            crcs[name] = files.checksum(x, 0, x.shape[1])
        for fd in self._fds.values():
            os.fsync(fd)
        self._commit([*self._parts, [start + columns["reward"].shape[1], crcs]])

    def _rewind(self, at: int) -> None:
        """Forget the steps from ``at`` on, before any of them is overwritten."""
        kept = [part for part in self._parts if part[0] <= at]
        start = kept[-1][0] if kept else 0
        if start < at:
            crcs = {n: files.checksum(x, start, at) for n, x in self._maps.items()}
            kept.append([at, crcs])
        self._commit(kept)

    def _commit(self, parts: list) -> None:
        complete = parts[-1][0] if parts else 0
        progress = {"complete": complete, "parts": parts}
        files.write_meta(self._folder, {**self._meta, **progress})
        self._parts, self.complete_steps = parts, complete


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:56]} ..."
