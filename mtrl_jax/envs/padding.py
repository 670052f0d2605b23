"""How the tasks of a mixture lie beside each other in one batch ``[P, B]``.

Each part owns a static slice of one axis. ``split`` cuts an action and takes away the
padding, ``join`` pads the parts' time steps and lays them side by side. Pure and
host-driven mixtures use the same two functions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.envs import actions, observations
from mtrl_jax.types import Array

AXES = {"population": 0, "slot": 1}


class Layout(NamedTuple):
    """Where part k lies: ``bounds[k]`` of ``axis``, its tasks from ``first_task[k]``."""

    spec: types.EnvSpec
    batch: tuple[int, int]
    axis: int  # 0 population, 1 slot
    bounds: tuple[tuple[int, int], ...]
    parts: tuple[types.EnvSpec, ...]
    batches: tuple[tuple[int, int], ...]
    first_task: tuple[int, ...]


def make(envs: Sequence[types.Env | types.HostEnv], axis: str) -> Layout:
    """Returns the Layout of ``envs`` along ``axis`` ("slot" or "population").

    Tasks with the same name are numbered ("name", "name#2", ...), so that returns
    have names of their own. Raises ValueError for no envs, an unknown axis, batches that do not
    fit together and action spaces that cannot be combined.
    """
    if axis not in AXES:
        raise ValueError(f"axis: got {axis!r}, give one of {sorted(AXES)}")
    if not envs:
        raise ValueError("envs: a mixture of no tasks, give at least one")
    dim = AXES[axis]
    sizes = [env.batch[dim] for env in envs]
    others = {env.batch[1 - dim] for env in envs}
    if len(others) > 1:
        name = ("slots", "members")[dim]
        raise ValueError(
            f"envs: parts of a mixture along {axis} have {sorted(others)} {name}; "
            "give all the same number"
        )
    parts = tuple(env.spec for env in envs)
    stops = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    total = (stops[-1], others.pop())
    return Layout(
        spec=combine_specs(parts)._replace(slot_tasks=_slot_tasks(parts, axis)),
        batch=total if dim == 0 else (total[1], total[0]),
        axis=dim,
        bounds=tuple((stop - size, stop) for size, stop in zip(sizes, stops)),
        parts=parts,
        batches=tuple(env.batch for env in envs),
        first_task=tuple(
            sum(len(part.tasks) for part in parts[:k]) for k in range(len(parts))
        ),
    )


def combine_specs(specs: Sequence[types.EnvSpec]) -> types.EnvSpec:
    """Returns the padded spec over all parts, their tasks one after the other.

    >>> spec = types.EnvSpec({}, types.Discrete(2), (types.TaskSpec("x", {}, None),))
    >>> [task.name for task in combine_specs([spec, spec]).tasks]
    ['x', 'x#2']
    """
    tasks: list[types.TaskSpec] = []
    for one in (one for spec in specs for one in spec.tasks):
        taken, name, number = {t.name for t in tasks}, one.name, 2
        base = re.sub(r"#\d+$", "", one.name)
        while name in taken:
            name, number = f"{base}#{number}", number + 1
        tasks.append(one._replace(name=name))
    space = actions.combine([spec.action for spec in specs])
    return types.EnvSpec(
        observations.combine([spec.obs for spec in specs]),
        space,
        tuple(tasks),
        actions.common_sets(tasks),
        masks=_masks(specs, space),
    )


def _masks(
    specs: Sequence[types.EnvSpec], space: types.ActionSpace
) -> tuple[tuple[bool, ...], ...]:
    """Returns ``EnvSpec.masks`` of all tasks in the combined space."""
    if not all(spec.masks for spec in specs):
        return ()
    with jax.ensure_compile_time_eval():
        masks = [
            actions.pad_mask(space, spec.action, jnp.asarray(spec.masks))
            for spec in specs
        ]
        rows = jnp.concatenate(masks).tolist()
    return tuple(map(tuple, rows))


def _slot_tasks(parts: Sequence[types.EnvSpec], axis: str) -> tuple[int, ...]:
    """Returns the task of each slot [B], () where not all members have it there."""
    if len(parts) == 1:
        return parts[0].slot_tasks
    if axis != "slot" or not all(part.slot_tasks for part in parts):
        return ()
    found: list[int] = []
    first = 0
    for part in parts:
        found += [first + task for task in part.slot_tasks]
        first += len(part.tasks)
    return tuple(found)


def owner(layout: Layout, member: int, slot: int) -> tuple[int, tuple[int, int]]:
    """Returns the part that owns a slot, and its (member, slot) in there."""
    place = [member, slot]
    for k, (start, stop) in enumerate(layout.bounds):
        if start <= place[layout.axis] < stop:
            place[layout.axis] -= start
            return k, (place[0], place[1])
    raise IndexError(f"member {member}, slot {slot}: the mixture is {layout.batch}")


def split(layout: Layout, action: Array) -> tuple[Array, ...]:
    """Returns each part's own action from the mixture's ``[P, B, ...]``."""
    action = actions.sanitise(layout.spec.action, action, layout.batch)

    def part(k: int) -> Array:
        start, stop = layout.bounds[k]
        mine = jax.lax.slice_in_dim(action, start, stop, axis=layout.axis)
        space = layout.parts[k].action
        own = actions.unpad(layout.spec.action, space, mine)
        # Host-driven parts get actions as they are, so the range is kept here.
        return actions.sanitise(space, own, layout.batches[k])

    return tuple(part(k) for k in range(len(layout.parts)))


def join(layout: Layout, parts: Sequence[types.TimeStep]) -> types.TimeStep:
    """Returns the mixture's TimeStep ``[P, B, ...]`` from those of its parts."""
    padded = [_pad(layout, k, ts) for k, ts in enumerate(parts)]
    return jax.tree.map(lambda *xs: jnp.concatenate(xs, layout.axis), *padded)


def _pad(layout: Layout, k: int, ts: types.TimeStep) -> types.TimeStep:
    spec, own = layout.spec, layout.parts[k]
    mask = jnp.asarray(ts.action_mask)
    return ts._replace(
        obs=observations.pad(ts.obs, spec.obs, layout.batches[k]),
        task=jnp.asarray(ts.task) + layout.first_task[k],
        action_mask=actions.pad_mask(spec.action, own.action, mask),
    )
