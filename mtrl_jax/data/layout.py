"""What a folder of learning histories holds: one file per field, and a description.

``N`` histories of ``L`` time steps, history-major: a field is ``FIELD.npy``, ``[N, L,
...]``, so a whole history is one stretch of a file. A history is one slot's stream of time
steps as its learner met them, from the first to the last. Row t of it holds

    obs, first, action_mask   of time step t, that the action was chosen from
    action                    chosen at t
    reward, discount, last    that *arrived* with time step t + 1
    reset                     time step t ended an episode (it was ``last``)

A label, what had been best to do at t, is stored as one more observation (and windows
keep it apart from those, see ``windows.Extras``). What acting noted down and a
collector was asked to keep, action values or log-probabilities, is ``recorded.NAME``.

Under next-step autoreset the action of a ``reset`` row was ignored: its observation is
the episode's final one, its reward 0. Without the reset rows an episode of l steps is
exactly l rows, the first with ``first``, the l-th with ``last``; that is how windows
leave them (``rows.keep``). With them the file is the source's stream, nothing lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mtrl_jax import types

# 2: as 1, with something recorded.
FORMATS = (1, 2)
_SPACES: dict[str, Any] = {
    "discrete": types.Discrete,
    "factorised": types.Factorised,
    "box": types.Box,
}


class Field(NamedTuple):
    """One file of a folder."""

    name: str  # of the file, without .npy; a leaf of the observation is "obs.LEAF"
    shape: tuple[int, ...]  # of one row
    dtype: np.dtype


class Contents(NamedTuple):
    """What the rows of a dataset hold."""

    spec: types.EnvSpec  # observations, labels among them, actions, a task a name
    recorded: Mapping[str, jax.ShapeDtypeStruct]  # of one row, by name
    task: tuple[int, ...] = ()  # of each history, index into spec.tasks; (): not known


def fields(
    spec: types.EnvSpec,
    masks: bool = False,
    recorded: Mapping[str, jax.ShapeDtypeStruct] = {},
) -> tuple[Field, ...]:
    """Returns the fields of histories of ``spec``.

    Action masks only with ``masks``; of what acting noted down, what is ``recorded``.
    """
    out = [
        Field(f"obs.{name}", tuple(struct.shape), np.dtype(struct.dtype))
        for name, struct in sorted(spec.obs.items())
    ]
    action = types.action_shape(spec.action)
    out.append(Field("action", tuple(action.shape), np.dtype(action.dtype)))
    out += [Field(name, (), np.dtype(np.float32)) for name in ("reward", "discount")]
    out += [Field(name, (), np.dtype(bool)) for name in ("first", "last", "reset")]
    if masks:
        size = types.action_mask_size(spec.action)
        out.append(Field("action_mask", (size,), np.dtype(bool)))
    out += [
        Field(f"recorded.{name}", tuple(struct.shape), np.dtype(struct.dtype))
        for name, struct in sorted(recorded.items())
    ]
    return tuple(out)


def row_bytes(field: Field) -> int:
    """Returns the size of one row."""
    return int(np.prod(field.shape, dtype=np.int64)) * field.dtype.itemsize


def plan(
    spec: types.EnvSpec,
    histories: int,
    steps: int,
    *,
    masks: bool = False,
    recorded: Mapping[str, jax.ShapeDtypeStruct] = {},
) -> int:
    """Returns the bytes that N ``histories`` of L ``steps`` take on disk.

    Without the description, some 10 bytes per history. Reset rows are among the steps.
    """
    return histories * steps * sum(map(row_bytes, fields(spec, masks, recorded)))


def describe(
    spec: types.EnvSpec,
    tasks: Sequence[str],
    steps: int,
    masks: bool,
    config: Any,
    recorded: Mapping[str, jax.ShapeDtypeStruct] = {},
) -> dict[str, Any]:
    """Returns what JSON can hold of a dataset, all that is known before its first step.

    ``tasks`` names each history's task; one of ``spec`` keeps its own actions, which
    are fewer than the padded ones. Raises ValueError for no history or no step.
    """
    if not tasks or steps < 1:
        raise ValueError(
            f"tasks, steps: got {len(tasks)} histories of {steps} steps; "
            "give at least 1 of each"
        )
    names = list(dict.fromkeys(tasks))
    number = {name: i for i, name in enumerate(names)}
    return {
        "format": FORMATS[1] if recorded else FORMATS[0],
        "obs": _to_json(spec.obs),
        "action": _space_to_json(spec.action),
        "masks": masks,
        "histories": len(tasks),
        "steps": steps,
        "names": names,
        "task": [number[name] for name in tasks],
        "config": config,
        **_own_actions(spec, names),
        **({"recorded": _to_json(recorded)} if recorded else {}),
    }


def contents_of(meta: Mapping[str, Any]) -> Contents:
    """Returns what the rows of a described dataset hold."""
    recorded = _from_json(meta.get("recorded", {}))
    return Contents(spec_of(meta), recorded, tuple(meta["task"]))


def fields_of(meta: Mapping[str, Any]) -> tuple[Field, ...]:
    """Returns the fields of a described dataset."""
    known = contents_of(meta)
    return fields(known.spec, meta["masks"], known.recorded)


def spec_of(meta: Mapping[str, Any]) -> types.EnvSpec:
    """Returns the EnvSpec of a described dataset: a task for each name."""
    obs = _from_json(meta["obs"])
    action = _space_from_json(meta["action"])
    own = meta.get("task_actions", {})
    tasks = tuple(
        types.TaskSpec(
            name, obs, _space_from_json(own[name]) if name in own else action
        )
        for name in meta["names"]
    )
    return types.EnvSpec(obs, action, tasks)


def _own_actions(spec: types.EnvSpec, names: Sequence[str]) -> dict[str, Any]:
    """Returns what a description has of tasks whose actions are not all of the space's."""
    own = {
        task.name: _space_to_json(task.action)
        for task in spec.tasks
        if task.name in names and task.action != spec.action
    }
    return {"task_actions": own} if own else {}


def _to_json(leaves: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, Any]:
    return {
        name: {"shape": list(struct.shape), "dtype": str(np.dtype(struct.dtype))}
        for name, struct in sorted(leaves.items())
    }


def _from_json(leaves: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct(tuple(leaf["shape"]), np.dtype(leaf["dtype"]))
        for name, leaf in leaves.items()
    }


def _space_to_json(space: types.ActionSpace) -> dict[str, Any]:
    kind = next(name for name, cls in _SPACES.items() if isinstance(space, cls))
    return {"kind": kind, **space._asdict()}


def _space_from_json(space: Mapping[str, Any]) -> types.ActionSpace:
    values = {k: v for k, v in space.items() if k != "kind"}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return _SPACES[space["kind"]](**values)
