"""A collect stage: a run of learners whose every step goes to disk, history by history.

Member p's slot b is one history: a learner's stream of steps on one task, from its first
random action to its last. The file says where every step belongs, so a process that was
killed after its last checkpoint writes the same steps to the same places again.
"""

from __future__ import annotations

import pathlib

from mtrl_jax import errors, types
from mtrl_jax.config import loading, stage_schema
from mtrl_jax.data import histories, layout
from mtrl_jax.envs import expert_labels
from mtrl_jax.experiments import environments, online, task_families
from mtrl_jax.training import progress
from mtrl_jax.training.program import Program, Recorder, Recording

FOLDER = "histories"


def make_program(config: stage_schema.CollectStage, restart: int = 0) -> Program:
    """Returns the program of a collect stage; see ``online.make_program``.

    Raises:
      ConfigError: a setting that does not fit the environments, agent or machine.
    """
    world, names, masks = task_families.collecting(config)
    record = _record(config, _written(config, world), names, masks, world.batch[1])
    return online.make_program(config, restart, world=world, record=record)


def spec_of(config: stage_schema.CollectStage) -> types.EnvSpec:
    """Returns the spec that the stage's dataset will have: a task for each name."""
    world, names, masks = task_families.collecting(config)
    spec = _written(config, world)
    return layout.spec_of(layout.describe(spec, names, 1, masks, None))


def _written(
    config: stage_schema.CollectStage, world: environments.World
) -> types.EnvSpec:
    """Returns the spec of what is written: with labels, what is best is an observation.

    Raises:
      ConfigError: labels of a stage whose environments do not say what is best.
    """
    if not config.labels:
        return expert_labels.without(world.spec)
    if types.OPTIMAL not in world.spec.obs:
        raise errors.ConfigError(
            f"labels=True: what is best is told to demonstrators alone, not to "
            f"{config.agent.name}; give agent.name=demonstrator"
        )
    return world.spec


def _record(
    config: stage_schema.CollectStage,
    spec: types.EnvSpec,
    names: list[str],
    masks: bool,
    slots: int,
) -> Recording:
    length = config.training.unroll_length
    steps = online.run_length(config, slots).updates * length
    size = histories.plan(spec, len(names), steps, masks=masks)
    told = (
        f"{len(names)} histories of {steps} steps on {len(set(names))} tasks: "
        f"{progress.si(size)}B on disk"
    )
    # What makes the steps. More of the settings would forbid changes that do not.
    made_by = {
        name: value
        for name, value in loading.to_dict(config).items()
        if name in ("seed", "tasks", "name")
    }

    def open_(folder: pathlib.Path) -> Recorder:
        try:
            writer = histories.Writer(
                folder / FOLDER, spec, names, steps, masks=masks, config=made_by
            )
        except ValueError as error:
            raise errors.DatasetError(str(error)) from error

        def write(history: types.Rollout, update: int) -> None:
            try:
                at = update * length - history.action.shape[0]
                writer.write((history.ts, history.action), at=at)
            except ValueError as error:
                raise errors.DatasetError(f"{folder / FOLDER}: {error}") from error

        return Recorder(write, writer.close)

    return Recording(told, size, open_)
