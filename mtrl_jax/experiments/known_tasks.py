"""Tests on tasks of the training: found from the settings, and said as a test begins."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from mtrl_jax import envs, errors, random, types
from mtrl_jax.config import loading, stage_schema
from mtrl_jax.envs import task_splits
from mtrl_jax.experiments import task_families
from mtrl_jax.training import run_folder

# Options of how a task is played and dealt; none makes it another.
_HOW = {"length", "pulls", "task", "trial", "wrappers", *task_splits.Split._fields}
_MEANT = ("all", "train")  # who asks for these knows


def remarks(run: Any, stage: stage_schema.EvaluateStage) -> Iterator[str]:
    """Yields a line for each family that is tested and of which some was trained on.

    That is what the learners of a stage, and of those that they began with or were
    taught by, learned in, and what was played for the data they learned from. A family
    that is asked for by ``tasks: train`` or ``all`` is tested so on purpose.
    """
    tested = [entry for entry in task_families.entries(stage) if _is_to_be_new(entry)]
    if not tested:
        return
    sources = {source.name: source for source in _sources(run, run.stage(stage.of))}
    for entry in tested:
        own, among, found = _each(entry), [], set[bytes]()
        for name, source in sources.items():
            trained = {
                task
                for other in _entries(source)
                if _is_same_world(entry, other)
                for task in _each(other)
            }
            among += [name] if trained & set(own) else []
            found |= trained
        if number := sum(task in found for task in own):
            yield (
                f"{entry.field}: {number} of its {entry.number} tasks are among those of "
                f"{' and '.join(among)}; {_instead(entry)}"
            )


def _is_to_be_new(entry: task_families.Spread) -> bool:
    split = entry.task.options.get("tasks")
    return split == "test" or (entry.number > 1 and split not in _MEANT)


def _instead(entry: task_families.Spread) -> str:
    """Returns what would keep the tasks of a test apart from those of the training."""
    if entry.task.options.get("tasks") == "test":
        return "the same split_seed and train_fraction keep them apart"
    if entry.name.startswith("bandit/"):
        return "options.seed draws others"
    return "options.tasks=test, of what was trained with tasks=train, has others"


def _sources(run: Any, stage: stage_schema.Stage) -> Iterator[stage_schema.Stage]:
    """Yields the stages in whose tasks the learners of ``stage`` learned."""
    init_from, of, teacher, _ = stage_schema.links(stage)
    for name in (of, init_from, teacher):
        if name is not None:
            yield from _sources(run, run.stage(name))
    if isinstance(stage, stage_schema.OfflineStage):
        if stage_schema.is_name(stage.data):
            yield run.stage(stage.data)
        else:
            yield from _of_folder(pathlib.Path(stage.data))
    elif of is None:  # Who plays ``of`` another stage learns nothing.
        yield stage


def _of_folder(data: pathlib.Path) -> Iterator[stage_schema.Stage]:
    """Yields the stage whose folder has the data, if it lies where it was collected."""
    try:
        settings = loading.load(data.parent / run_folder.CONFIG)
    except errors.ConfigError:
        return
    if isinstance(settings, stage_schema.CollectStage):
        yield settings


def _entries(stage: Any) -> Iterator[task_families.Spread]:
    """Yields the entries of a stage's tasks of which a list can be made.

    That is not where a curriculum moves levels, nor where there is no end of tasks.
    """
    for entry in stage.tasks:
        alone = stage.model_copy(update={"tasks": [entry]})
        with contextlib.suppress(errors.ConfigError):
            yield from task_families.entries(alone)


def _is_same_world(one: task_families.Spread, other: task_families.Spread) -> bool:
    """Returns whether equal params are the same task in both.

    The programs of reset and step are compared where options differ: one may say what is
    the other's default.
    """
    if one.name != other.name or one.pure is None or other.pure is None:
        return False
    left, right = (
        {k: x for k, x in entry.task.options.items() if k not in _HOW}
        for entry in (one, other)
    )
    return left == right or _program(one.name, left) == _program(one.name, right)


def _program(name: str, options: dict[str, Any]) -> tuple[str, ...]:
    """Returns what resets and steps an environment as text, and the arrays in it."""
    pure = envs.pure_task(name, options)
    key = random.roots(0, 1)[0]
    action = np.zeros(*_of_action(pure.spec.action))

    def both(key, params):
        state, _ = pure.reset(key, params)
        return pure.step(key, state, action, params)

    made = jax.make_jaxpr(both)(key, pure.params)
    return str(made.jaxpr), *(str(np.asarray(x).tolist()) for x in made.consts)


def _of_action(space: types.ActionSpace) -> tuple[tuple[int, ...], Any]:
    of_action = types.action_shape(space)
    return of_action.shape, of_action.dtype


def _each(entry: task_families.Spread) -> list[bytes]:
    """Returns each of an entry's tasks as bytes: its params; [] outside the program."""
    if entry.pure is None:
        return []
    leaves = [np.asarray(x) for x in jax.tree.leaves(entry.many or entry.pure.params)]
    if entry.many is None:
        leaves = [x[None] for x in leaves]
    number = len(leaves[0]) if leaves else 0
    return [b"".join(x[i].tobytes() for x in leaves) for i in range(number)]
