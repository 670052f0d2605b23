"""Runs by their folders: train a new one, go on with one, test it, read it.

    config.yaml     the settings, as they are resolved; a folder with one holds a run
    checkpoints/    the newest few, see checkpoint
    metrics.jsonl … the rows, summary and pictures, see metrics and plots

What is wrong with the settings or the folder is found out before anything is written;
``session`` is what a run holds while it goes on, ``loop`` what happens to it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from mtrl_jax import build, checkpoint, loop, metrics, report, session, world
from mtrl_jax import config as config_lib
from mtrl_jax.config import schema
from mtrl_jax.metrics import locks

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"


def train(
    config: schema.ExperimentConfig, folder: pathlib.Path, where: str = "config"
) -> int:
    """Returns the exit code of a new run: 0, or 130 or 143 if a signal ended it.

    ``where`` is what errors call the place the settings come from.

    Raises:
      ConfigError: a setting that cannot work, or a folder that is something else;
        nothing was written.
      RunError, CheckpointError: the run could not go on; what was saved is kept.
    """
    check_new_folder(folder)
    check_logging(config)
    with config_lib.errors_in(where):
        pieces = build.pieces(config)
    with _folder(folder, config) as manager, contextlib.closing(pieces):
        check_new_folder(folder)  # Another process may have been as fast.
        _write_config(folder, config)
        report.write_tasks(folder, pieces.spec, world.describe(config))
        return loop.run(session.begin(config, folder, pieces, manager))


def resume(folder: pathlib.Path, overrides: list[str] | None = None) -> int:
    """Returns the exit code of a run gone on with, as ``train`` does.

    ``overrides`` may change what config.RESUMABLE names; a hyperparameter given here is
    set for all members.

    Raises:
      ConfigError: no run there, none of its checkpoints, or an override that needs
        another program or state.
      RunLockedError: another process is at it.
      CheckpointError: there is no sound checkpoint.
    """
    old = load_config(folder)
    changes = config_lib.override(config_lib.to_dict(old), overrides or [])
    config = config_lib.from_dict(changes, where=str(folder / CONFIG))
    config_lib.check_resumable(old, config)
    check_logging(config)
    with _folder(folder, config) as manager:
        latest = checkpoint.latest_step(manager)
        if latest is None:
            _check_untrained(folder)
        pieces = build.pieces(config, restart=latest or 0)
        with contextlib.closing(pieces):
            if latest is None:
                begun = session.begin(config, folder, pieces, manager, resume_after=-1)
            else:
                begun = session.go_on(config, folder, pieces, manager)
            # Only now is it certain that the run goes on with it.
            _write_config(folder, config)
            return loop.run(begun)


def evaluate(
    folder: pathlib.Path, episodes: int | None = None
) -> tuple[int, dict[str, Any]]:
    """Returns (update, report.evaluation_table) of a run's newest checkpoint.

    Raises:
      ConfigError: no run there, or none of its checkpoints.
      CheckpointError: there is no sound checkpoint.
    """
    config = load_config(folder)
    if episodes is not None:
        given = {**config_lib.to_dict(config)}
        given["evaluation"] = {**given["evaluation"], "episodes": episodes}
        config = config_lib.from_dict(given, where="--episodes")
    with restored(folder, config) as (update, pieces, saved):
        result = jax.device_get(pieces.evaluate(saved.run, saved.hparams))
        return update, report.evaluation_table(pieces.spec, result)


@contextlib.contextmanager
def restored(
    folder: pathlib.Path, config: schema.ExperimentConfig
) -> Iterator[tuple[int, build.Pieces, session.Saved]]:
    """Returns (update, pieces, saved) of the newest checkpoint; nothing is written."""
    if not (folder / CHECKPOINTS).is_dir():
        raise _no_checkpoint(folder)
    manager = checkpoint.open_manager(
        folder / CHECKPOINTS, config.checkpoint.keep, read_only=True
    )
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoint.close, manager)
        if checkpoint.latest_step(manager) is None:
            raise _no_checkpoint(folder)
        pieces = build.pieces(config, restart=-1)
        stack.callback(pieces.close)
        update, saved, _ = session.read(pieces, manager)
        yield update, pieces, saved


def load_config(folder: pathlib.Path) -> schema.ExperimentConfig:
    """Returns the settings of the run in ``folder``.

    Raises:
      ConfigError: there is no run.
    """
    if not (folder / CONFIG).is_file():
        raise config_lib.ConfigError(
            f"{folder}: no run here (there is no {CONFIG}); give the folder of a run"
        )
    return config_lib.load(folder / CONFIG)


def check_drawable(folder: pathlib.Path) -> None:
    """Returns nothing if ``folder`` holds a run that has logged something.

    Raises:
      ConfigError: there is no run, or not a row of it.
    """
    load_config(folder)
    try:
        metrics.read_metrics(folder)
    except ValueError as error:
        raise config_lib.ConfigError(str(error)) from None


def check_new_folder(folder: pathlib.Path) -> None:
    """Returns nothing if a run may begin in ``folder``.

    Raises:
      ConfigError: it is a file, holds a run already, or holds something else.
    """
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise config_lib.ConfigError(
            f"--run-dir {folder}: {there} is a file; give a folder"
        )
    if not folder.exists():
        return
    if (folder / CONFIG).exists():
        raise config_lib.ConfigError(
            f"--run-dir {folder}: holds a run; go on with `mtrl resume {folder}` or "
            "give another folder"
        )
    # A process that did not get as far as a run leaves its lock and an empty folder.
    found = {path.name for path in folder.iterdir()} - {locks.LOCK, CHECKPOINTS}
    saves = folder / CHECKPOINTS
    if found or (saves.exists() and any(saves.iterdir())):
        raise config_lib.ConfigError(
            f"--run-dir {folder}: not empty and no run; give a new or empty folder"
        )


def check_logging(config: schema.ExperimentConfig) -> None:
    """Returns nothing if what the run should report to is there.

    Raises:
      ConfigError: W&B is asked for and not installed.
    """
    project = config.logging.wandb
    if project is not None and importlib.util.find_spec("wandb") is None:
        raise config_lib.ConfigError(
            f"logging.wandb={project!r}: wandb is not installed; run: "
            "pip install mtrl-jax[wandb], or leave it out"
        )


@contextlib.contextmanager
def _folder(
    folder: pathlib.Path, config: schema.ExperimentConfig
) -> Iterator[checkpoint.Manager]:
    """Returns the checkpoint manager of a locked run folder, closed on leaving.

    Raises:
      RunError: the folder cannot be written to, or no longer.
    """
    try:
        with locks.lock(folder):
            manager = checkpoint.open_manager(
                folder / CHECKPOINTS, config.checkpoint.keep
            )
            try:
                yield manager
            finally:
                checkpoint.close(manager)
    except OSError as error:
        raise session.RunError(
            f"{folder}: the run stops: {error.strerror or error}; its checkpoints are "
            "as they were"
        ) from error


def _write_config(folder: pathlib.Path, config: schema.ExperimentConfig) -> None:
    """Writes config.yaml, or leaves it as it was: a run without it is lost."""
    temporary = folder / f".{CONFIG}.tmp"
    temporary.write_text(config_lib.dump(config))
    os.replace(temporary, folder / CONFIG)


def _check_untrained(folder: pathlib.Path) -> None:
    """Raises ConfigError if a run without checkpoints ever had one."""
    rows = folder / metrics.METRICS
    if rows.exists() and rows.stat().st_size:
        raise _no_checkpoint(folder)


def _no_checkpoint(folder: pathlib.Path) -> config_lib.ConfigError:
    return config_lib.ConfigError(
        f"{folder}: there is no checkpoint in {folder / CHECKPOINTS}; give a run that "
        "has one"
    )
