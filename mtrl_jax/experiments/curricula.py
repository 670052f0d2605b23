"""From ``tasks.N.curriculum`` to the Curriculum of a run's environments."""

from __future__ import annotations

from collections.abc import Sequence

from mtrl_jax import envs, errors, types
from mtrl_jax.config import schema
from mtrl_jax.envs import curriculum
from mtrl_jax.experiments import environments
from mtrl_jax.types import Tree

_AXES = {"population": 0, "slot": 1}


def make(
    config: schema.ExperimentConfig, world: environments.World
) -> curriculum.Curriculum | None:
    """Returns the curriculum of the environments to train on, None without any.

    Raises:
      ConfigError: a curriculum that its task, or the runner, cannot follow.
    """
    if all(task.curriculum is None for task in config.tasks):
        return None
    axis = _AXES[config.population.axis]
    sizes = [batch[axis] for batch in world.parts]
    courses, first = [], 0
    for k, (task, batch) in enumerate(environments.batches(config)):
        rows, first = slice(first, first + batch[axis]), first + batch[axis]
        settings = config.tasks[task.entry].curriculum
        if settings is None:
            continue
        with errors.at(f"{task.field}.curriculum", settings):
            if world.kind == "host":
                raise ValueError(
                    "training.runner='host' steps environments outside the program, "
                    "where no level moves; give training.runner=fused"
                )
            found = _course(task, settings, world.spec.tasks[k])
        part, own = _place(rows, sizes)
        members = rows if axis == 0 else slice(None)
        courses.append(found._replace(task=k, part=part, rows=own, members=members))
    return curriculum.make(world.train.params, world.batch, axis, courses)


def _course(
    task: environments.Task, settings: schema.CurriculumConfig, spec: types.TaskSpec
) -> curriculum.Course:
    """Returns the Course of a task that is a whole mixture by itself.

    Raises ValueError for a measure or options that the task has not.
    """
    errors.check("metric", settings.metric, ("return", *spec.measures))
    return curriculum.Course(
        name=spec.name,
        task=0,
        part=0,
        rows=slice(None),
        members=slice(None),
        start=_start(task, settings),
        measure=settings.metric,
        threshold=settings.threshold,
        steps=settings.steps,
        min_episodes=settings.min_episodes,
    )


def _start(task: environments.Task, settings: schema.CurriculumConfig) -> Tree:
    """Returns the params that the task starts from, every level on the way checked."""
    pure = envs.pure_task(task.env, task.options)
    if pure is None:
        raise ValueError(f"{task.env} runs outside the program, where no level moves")
    try:
        easy = envs.pure_task(task.env, task.options | settings.start)
    except ValueError as error:
        raise ValueError(f"start: {error}") from None
    start = curriculum.start_of(pure, easy, list(settings.start))
    curriculum.check_levels(pure, start, settings.steps)
    return start


def _place(rows: slice, sizes: Sequence[int]) -> tuple[int, slice]:
    """Returns (part, rows in it) of ``rows`` of a whole of parts of ``sizes``."""
    first = 0
    for part, size in enumerate(sizes):
        if rows.start < first + size:
            return part, slice(rows.start - first, rows.stop - first)
        first += size
    raise IndexError(f"{rows} of parts of {list(sizes)}")
