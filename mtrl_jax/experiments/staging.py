"""The program of a stage, with what it takes from the stages that it names."""

from __future__ import annotations

import contextlib
import pathlib
from typing import Any

from mtrl_jax import tree, types
from mtrl_jax.config import stage_schema
from mtrl_jax.envs import expert_labels
from mtrl_jax.experiments import (
    collect,
    environments,
    episode_curves,
    in_context,
    offline,
    online,
    runs,
    task_families,
)
from mtrl_jax.training.program import Program

FOLDER = "stages"


def folder_of(folder: pathlib.Path, stage: stage_schema.Stage | str) -> pathlib.Path:
    """Returns the run folder of a stage of the run in ``folder``."""
    return folder / FOLDER / (stage if isinstance(stage, str) else stage.name)


def make_program(
    staged: stage_schema.Staged,
    stage: stage_schema.Stage,
    folder: pathlib.Path,
    restart: int = 0,
    *,
    for_check: bool = False,
) -> Program:
    """Returns the program of a stage, with what it takes from the stages it names.

    ``for_check``: without what these have not made yet; good for finding mistakes alone.
    """
    if isinstance(stage, stage_schema.OnlineStage):
        return online.make_program(stage, restart)
    if isinstance(stage, stage_schema.CollectStage):
        return collect.make_program(stage, restart)
    if isinstance(stage, stage_schema.OfflineStage):
        return offline.make_program(stage, *_data_of(staged, stage, folder))

    def compared() -> dict[str, Any]:
        names = {x.name: x for x in staged.stages if x.name in stage.compare}
        return {
            n: episode_curves.curve_of(folder_of(folder, n), x)
            for n, x in names.items()
        }

    of = _named(staged, stage.of)
    source = None if for_check else _weights(staged, stage, of, folder)
    return in_context.make_program(
        stage, _spec_of(staged, of, folder), source, compared
    )


def _weights(
    staged,
    stage: stage_schema.EvaluateStage,
    of: stage_schema.Stage,
    folder: pathlib.Path,
) -> in_context.Source:
    def make(config: Any, restart: int) -> Program:
        return make_program(staged, config, folder, restart)

    with runs.restored(folder_of(folder, of), of, make) as (_, _, saved):
        return tree.slice_axis(
            (saved.run.learner, saved.hparams), 0, stage.population.size, axis=0
        )


def _spec_of(staged, stage: stage_schema.Stage, folder: pathlib.Path) -> types.EnvSpec:
    """Returns the spec that the agent of a stage was built for."""
    if isinstance(stage, stage_schema.OfflineStage):
        return expert_labels.without(_data_of(staged, stage, folder)[0])
    if isinstance(stage, stage_schema.CollectStage):
        return task_families.collecting(stage)[0].spec
    assert isinstance(stage, stage_schema.OnlineStage)
    made = environments.make_world(stage, f"{stage.seed}/-1")
    with contextlib.closing(made):
        return made.spec


def _data_of(
    staged, stage: stage_schema.OfflineStage, folder: pathlib.Path
) -> tuple[types.EnvSpec, pathlib.Path]:
    if not stage_schema.is_name(stage.data):
        path = pathlib.Path(stage.data)
        return offline.spec_in(path), path
    source = _named(staged, stage.data)
    assert isinstance(source, stage_schema.CollectStage)
    path = folder_of(folder, source) / collect.FOLDER
    return collect.spec_of(source), path


def _named(staged: stage_schema.Staged, name: str) -> stage_schema.Stage:
    return next(stage for stage in staged.stages if stage.name == name)
