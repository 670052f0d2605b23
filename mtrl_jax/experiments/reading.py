"""Runs read by their folders: their settings, and what of them can be drawn or tested."""

from __future__ import annotations

import numbers
import pathlib
import shlex
from typing import Any

import pydantic

from mtrl_jax import checkpoint, errors, metrics
from mtrl_jax.config import loading, schema, stage_schema
from mtrl_jax.experiments import kinds
from mtrl_jax.training import provenance, run_folder

_NAMES = pydantic.TypeAdapter(list[schema.Name])


def load_config(folder: pathlib.Path) -> Any:
    """Returns the settings of the run in ``folder``; of stages, or a stage, if it is one.

    Raises:
      ConfigError: there is no run, or another version wrote it, or an earlier build of
        this one, whose settings are not this one's.
    """
    try:
        return loading.load(_config_of(folder))
    except errors.ConfigError as error:
        writer, now = _writer(folder), provenance.version("mtrl-jax")
        if writer in ("", now) and not errors.is_of_renamed(error):
            raise
        by = checkpoint.written_by(writer, now)
        raise errors.ConfigError(
            f"{error}; the run was written by {by} that wrote it, or begin a new run"
        ) from None


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


def check_member(said: str, member: Any, members: int) -> None:
    """Raises ConfigError unless ``member`` is the number of one of ``members``."""
    is_number = isinstance(member, numbers.Integral)
    if not is_number or not 0 <= member < members:
        raise errors.ConfigError(f"{said}: the run has members 0 to {members - 1}")


def parts(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of the stages with rows, of any other run its own.

    Its settings are not checked: a run of another version can be drawn. Raises
    ConfigError where no stage has begun.
    """
    names = _stages_in(folder)
    if names is None:
        return [folder]
    found = [folder / run_folder.STAGES / name for name in names]
    begun = [path for path in found if (path / run_folder.CONFIG).exists()]
    if not begun:
        raise errors.ConfigError(
            f"{folder}: none of its stages has begun ({', '.join(names)}), so there is "
            f"nothing to draw; go on with `mtrl resume {shlex.quote(str(folder))}`"
        )
    # One that has only just begun has nothing to show; if all have, that is the error.
    return [path for path in begun if metrics.has_rows(path)] or begun


def check_drawable(folder: pathlib.Path) -> None:
    """Raises ConfigError unless ``folder`` holds a run that has logged something."""
    if _stages_in(folder) is not None:
        raise errors.ConfigError(
            f"{folder}: a run in stages; give the folders of stages, RUN/stages/NAME"
        )
    try:
        metrics.read_metrics(folder)
    except ValueError as error:
        raise errors.ConfigError(str(error)) from None


def _config_of(folder: pathlib.Path) -> pathlib.Path:
    """Returns the file with a run's settings; raises ConfigError if there is no run."""
    path = folder / run_folder.CONFIG
    if not path.is_file():
        raise errors.ConfigError(
            f"{folder}: no run here (there is no {run_folder.CONFIG}); give the folder "
            "of a run"
        )
    return path


def _stages_in(folder: pathlib.Path) -> list[str] | None:
    """Returns the names of a run's stages, None of a run of one kind."""
    path = _config_of(folder)
    values = loading.read_yaml(path)
    if "stages" not in values:
        return None
    try:
        return _NAMES.validate_python([stage["name"] for stage in values["stages"]])
    except (KeyError, TypeError, pydantic.ValidationError):
        raise errors.ConfigError(
            f"{path}: stages: must be a list of stages with a name each"
        ) from None


def _writer(folder: pathlib.Path) -> str:
    """Returns the version that wrote a run's checkpoints, "" where it is not known."""
    stages = sorted((folder / run_folder.STAGES).glob("*"))
    written = [checkpoint.writer(x / run_folder.CHECKPOINTS) for x in (folder, *stages)]
    return next(filter(None, written), "")
