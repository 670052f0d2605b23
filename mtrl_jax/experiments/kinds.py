"""The kinds of stages: from a stage's settings, and what it takes from others, a Program.

    online    a run in environments of its own        collect   whose every step is kept
    offline   learning from what is kept              evaluate  frozen weights, in context

A plain run is a run of one stage that lies in the run's own folder. A stage may take the
data, the weights or the curves of stages before it; ``Run`` says where they lie.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

from mtrl_jax import checkpoint, errors, tree, types
from mtrl_jax.config import stage_schema
from mtrl_jax.envs import expert_labels
from mtrl_jax.experiments import (
    collect,
    environments,
    episode_curves,
    in_context,
    offline,
    online,
    task_families,
)
from mtrl_jax.training import run_folder, session
from mtrl_jax.training.program import Program


class Run(NamedTuple):
    """A run's stages in order, and the folder they are in."""

    folder: pathlib.Path
    stages: tuple[stage_schema.Stage, ...]
    is_plain: bool  # one stage, in the folder itself

    def folder_of(self, stage: stage_schema.Stage | str) -> pathlib.Path:
        """Returns the run folder of a stage."""
        name = stage if isinstance(stage, str) else stage.name
        return self.folder if self.is_plain else self.folder / run_folder.STAGES / name

    def stage(self, name: str) -> stage_schema.Stage:
        """Returns the stage of that name."""
        return next(stage for stage in self.stages if stage.name == name)


def run_of(settings: Any, folder: pathlib.Path) -> Run:
    """Returns the run that ``settings``, of stages or of one, describe."""
    if isinstance(settings, stage_schema.Staged):
        return Run(folder, tuple(settings.stages), is_plain=False)
    return Run(folder, (settings,), is_plain=True)


def make_program(
    run: Run,
    stage: stage_schema.Stage,
    restart: int = 0,
    *,
    for_check: bool = False,
) -> Program:
    """Returns the Program of a stage of ``run``.

    ``restart`` is the update it is resumed at. ``for_check``: without what other stages
    have not made yet; good for finding mistakes alone.

    Raises:
      ConfigError: a setting that does not fit the environments, agent or machine.
    """
    return KINDS[stage.kind](run, stage, restart, for_check)


@contextlib.contextmanager
def restored(run: Run, stage: stage_schema.Stage):
    """Returns (update, program, saved) of a stage's newest checkpoint; writes nothing.

    Raises:
      ConfigError: there is no checkpoint.
      CheckpointError: there is no sound one.
    """
    folder = run.folder_of(stage)
    if not (folder / run_folder.CHECKPOINTS).is_dir():
        raise run_folder.no_checkpoint(folder)
    manager = checkpoint.open_manager(
        folder / run_folder.CHECKPOINTS, stage.checkpoint.keep, read_only=True
    )
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoint.close, manager)
        if checkpoint.latest_step(manager) is None:
            raise run_folder.no_checkpoint(folder)
        program = make_program(run, stage, -1)
        stack.callback(program.close)
        update, saved, _ = session.read(program, manager)
        yield update, program, saved


def spec_of(run: Run, stage: stage_schema.Stage) -> types.EnvSpec:
    """Returns the spec that the agent of a stage was built for."""
    if isinstance(stage, stage_schema.OfflineStage):
        return expert_labels.without(_data_of(run, stage)[0])
    if isinstance(stage, stage_schema.CollectStage):
        return task_families.collecting(stage)[0].spec
    if isinstance(stage, stage_schema.EvaluateStage):
        return spec_of(run, run.stage(stage.of))
    made = environments.make_world(stage, f"{stage.seed}/-1")
    with contextlib.closing(made):
        return made.spec


def _online(run: Run, stage, restart: int, for_check: bool) -> Program:
    return online.make_program(stage, restart)


def _collect(run: Run, stage, restart: int, for_check: bool) -> Program:
    return collect.make_program(stage, restart)


def _offline(run: Run, stage, restart: int, for_check: bool) -> Program:
    return offline.make_program(stage, *_data_of(run, stage))


def _evaluate(run: Run, stage, restart: int, for_check: bool) -> Program:
    def compared() -> dict[str, Any]:
        return {
            name: episode_curves.curve_of(run.folder_of(name), run.stage(name))
            for name in stage.compare
        }

    of = run.stage(stage.of)
    source = None if for_check else weights_of(run, of, stage.population.size)
    return in_context.make_program(stage, spec_of(run, of), source, compared)


KINDS: dict[str, Callable[..., Program]] = {
    "online": _online,
    "collect": _collect,
    "offline": _offline,
    "evaluate": _evaluate,
}


def weights_of(run: Run, stage: stage_schema.Stage, members: int) -> in_context.Source:
    """Returns (learners, hyperparameters) of the first ``members`` of a stage."""
    with restored(run, stage) as (_, _, saved):
        return tree.slice_axis((saved.run.learner, saved.hparams), 0, members, axis=0)


def _data_of(
    run: Run, stage: stage_schema.OfflineStage
) -> tuple[types.EnvSpec, pathlib.Path]:
    if not stage_schema.is_name(stage.data):
        path = pathlib.Path(stage.data)
        return offline.spec_in(path), path
    source = run.stage(stage.data)
    if not isinstance(source, stage_schema.CollectStage):
        raise errors.ConfigError(f"data={stage.data!r}: it is no stage of kind collect")
    return collect.spec_of(source), run.folder_of(source) / collect.FOLDER
