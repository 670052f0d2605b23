"""Runs read by their folders: their settings, and what of them can be drawn or tested."""

from __future__ import annotations

import pathlib
from typing import Any

from mtrl_jax import errors, metrics
from mtrl_jax.config import loading, stage_schema
from mtrl_jax.experiments import kinds
from mtrl_jax.training import run_folder


def load_config(folder: pathlib.Path) -> Any:
    """Returns the settings of the run in ``folder``; of stages, or a stage, if it is one.

    Raises:
      ConfigError: there is no run.
    """
    if not (folder / run_folder.CONFIG).is_file():
        raise errors.ConfigError(
            f"{folder}: no run here (there is no {run_folder.CONFIG}); give the folder "
            "of a run"
        )
    return loading.load(folder / run_folder.CONFIG)


def stage_at(folder: pathlib.Path) -> tuple[kinds.Run, stage_schema.Stage]:
    """Returns (run, stage) of a run's folder, or of a stage's: RUN/stages/NAME.

    The run has all its stages, as a stage may need others to be built.

    Raises:
      ConfigError: there is no run, or one in stages, or no such stage of it.
    """
    whole = run_folder.whole(folder)
    run = kinds.run_of(load_config(whole), whole)
    if run.is_plain:
        return run, run.stages[0]
    if whole == folder:
        names = ", ".join(stage.name for stage in run.stages)
        raise errors.ConfigError(
            f"{folder}: a run in stages; give the folder of one, "
            f"{folder / run_folder.STAGES}/NAME of {names}"
        )
    load_config(folder)  # Says if there is no run.
    return run, run.stage(folder.absolute().name)


def with_environments(
    folder: pathlib.Path, allowed: tuple[str, ...] = ("online", "collect")
) -> tuple[kinds.Run, Any]:
    """Returns (run, stage) of a folder, as ``stage_at``, that trains in environments.

    ``allowed`` are the kinds of stages that will do.

    Raises:
      ConfigError: there is no run, or it is of stages, or a stage of another kind.
    """
    config = load_config(folder)
    kind = "stages" if isinstance(config, stage_schema.Staged) else config.kind
    if kind not in allowed:
        what = "is in stages" if kind == "stages" else f"is a stage of kind {kind}"
        raise errors.ConfigError(
            f"{folder}: the run {what}; give the folder of one that trains in "
            f"environments, RUN/stages/NAME of a stage of kind {' or '.join(allowed)}"
        )
    return stage_at(folder)


def parts(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of the stages with rows, of any other run its own."""
    run = kinds.run_of(load_config(folder), folder)
    if run.is_plain:
        return [folder]
    found = [run.folder_of(stage) for stage in run.stages]
    begun = [path for path in found if (path / run_folder.CONFIG).exists()]
    # One that has only just begun has nothing to show; if all have, that is the error.
    return [path for path in begun if metrics.has_rows(path)] or begun


def check_drawable(folder: pathlib.Path) -> None:
    """Raises ConfigError unless ``folder`` holds a run that has logged something."""
    if isinstance(load_config(folder), stage_schema.Staged):
        raise errors.ConfigError(
            f"{folder}: a run in stages; give the folders of stages, RUN/stages/NAME"
        )
    try:
        metrics.read_metrics(folder)
    except ValueError as error:
        raise errors.ConfigError(str(error)) from None
