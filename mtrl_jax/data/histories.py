"""Reading folders of learning histories; ``layout`` says what they hold, ``writer`` how
they come to be.

Everything is checked before it is used: files, shapes, dtypes, how far the steps go,
and a checksum per part that was written, which tells damage from data.
"""

from __future__ import annotations

import os
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mtrl_jax import errors, types
from mtrl_jax.data import files, layout
from mtrl_jax.data.layout import plan
from mtrl_jax.data.writer import GapError, Writer

__all__ = ["GapError", "Histories", "Writer", "load", "plan"]


class Histories(NamedTuple):
    """A dataset as read-only memory maps; see ``layout`` for what a row is."""

    obs: dict[str, np.ndarray]  # [N, L, ...]
    action: np.ndarray  # [N, L, ...]
    reward: np.ndarray  # [N, L]
    discount: np.ndarray  # [N, L]
    first: np.ndarray  # [N, L] bool
    last: np.ndarray  # [N, L] bool
    reset: np.ndarray  # [N, L] bool
    action_mask: np.ndarray | None  # [N, L, M] bool; None: everything was legal
    task: np.ndarray  # [N] int32, index into spec.tasks
    spec: types.EnvSpec  # observations, actions, and a task for each name
    config: Any  # what made it
    recorded: Mapping[str, np.ndarray] = {}  # [N, L, ...] that acting noted down


def load(
    folder: str | os.PathLike, *, partial: bool = False, check: bool = True
) -> Histories:
    """Returns the dataset in ``folder``, checked.

    ``partial`` takes one that is not finished or is damaged from some step on: what is
    sound, with a warning. ``check`` reads everything once for its checksums (about a
    gigabyte a second); without it only names, shapes, dtypes and progress are checked.

    Raises DatasetError where there is no dataset, a file is missing or is not what the
    description says, and, without ``partial``, where not all steps are there and sound.
    """
    folder = pathlib.Path(folder)
    meta = files.read_meta(folder)
    maps = files.open_maps(folder, meta)
    sound, damage = files.sound_steps(folder, meta, maps, check)
    if sound < meta["steps"]:
        message = damage or f"{folder}: {sound} of {meta['steps']} steps are complete"
        if not partial or not sound:
            advice = "; partial=True takes the steps before" if sound else ""
            raise errors.DatasetError(message + advice)
        warnings.warn(f"{message}; using the first {sound}", stacklevel=2)
    cut = {name: array[:, :sound] for name, array in maps.items()}
    spec, recorded, _ = layout.contents_of(meta)
    return Histories(
        recorded={name: cut.pop(f"recorded.{name}") for name in recorded},
        obs={name: cut.pop(f"obs.{name}") for name in spec.obs},
        action_mask=cut.pop("action_mask", None),
        task=np.asarray(meta["task"], np.int32),
        spec=spec,
        config=meta["config"],
        **cut,
    )
