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
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

from mtrl_jax import checkpoint, errors, metrics
from mtrl_jax.config import loading, resuming, schema
from mtrl_jax.experiments import collect, online
from mtrl_jax.training import (
    lock,
    loop,
    report,
    run_folder,
    saved_state,
    session,
)
from mtrl_jax.training.program import Program

CONFIG = run_folder.CONFIG


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
    run_folder.check_new(folder)
    check_logging(config)
    with errors.within(where):
        program = online.make_program(config)
    return begin(config, folder, program)


def begin(config: Any, folder: pathlib.Path, program: Program, label: str = "") -> int:
    """Returns the exit code of a new run made of ``program``, as ``train`` does.

    ``config`` may be a stage's settings; ``label`` begins the progress line.
    """
    with _folder(folder, config) as manager, contextlib.closing(program):
        run_folder.check_new(folder)  # Another process may have been as fast.
        run_folder.write_config(folder, config)
        metrics.write_summary(folder, program.reporter.begin())
        return loop.run(session.begin(config, folder, program, manager, label=label))


def resume(folder: pathlib.Path, overrides: list[str] | None = None) -> int:
    """Returns the exit code of a run gone on with, as ``train`` does.

    ``overrides`` may change what resuming.RESUMABLE names; a hyperparameter given here is
    set for all members.

    Raises:
      ConfigError: no run there, none of its checkpoints, or an override that needs
        another program or state.
      RunLockedError: another process is at it.
      CheckpointError: there is no sound checkpoint.
    """
    old = load_config(folder)
    changes = loading.override(loading.to_dict(old), overrides or [])
    config = loading.from_dict(changes, where=str(folder / run_folder.CONFIG))
    resuming.check_resumable(old, config)
    check_logging(config)
    return go_on(config, folder, lambda restart: online.make_program(config, restart))


def go_on(
    config: Any,
    folder: pathlib.Path,
    make: Callable[[int], Program],
    label: str = "",
) -> int:
    """Returns the exit code of a run that goes on with ``config``, as ``resume`` does.

    ``make(restart)`` gives its program, ``restart`` being the update it goes on from.
    """
    with _folder(folder, config) as manager:
        latest = checkpoint.latest_step(manager)
        if latest is None:
            run_folder.check_untrained(folder)
        program = make(latest or 0)
        with contextlib.closing(program):
            if latest is None:
                begun = session.begin(
                    config, folder, program, manager, resume_after=-1, label=label
                )
            else:
                begun = session.go_on(config, folder, program, manager, label=label)
            # Only now is it certain that the run goes on with it.
            with begun.bar.closed_on_error():
                run_folder.write_config(folder, config)
            return loop.run(begun)


def evaluate(
    folder: pathlib.Path, episodes: int | None = None
) -> tuple[int, dict[str, Any]]:
    """Returns (update, report.evaluation_table) of a run's newest checkpoint.

    Raises:
      ConfigError: no run there, or none of its checkpoints.
      CheckpointError: there is no sound checkpoint.
    """
    config, make = with_environments(folder)
    if episodes is not None:
        given = {**loading.to_dict(config)}
        given["evaluation"] = {**given["evaluation"], "episodes": episodes}
        config = loading.from_dict(given, where="--episodes")
    with restored(folder, config, make) as (update, program, saved):
        assert program.evaluate is not None
        result = jax.device_get(program.evaluate(saved.run, saved.hparams))
        return update, report.evaluation_table(program.spec, result)


@contextlib.contextmanager
def restored(
    folder: pathlib.Path,
    config: Any,
    make: Callable[[Any, int], Program] = online.make_program,
) -> Iterator[tuple[int, Program, saved_state.Saved]]:
    """Returns (update, program, saved) of the newest checkpoint; nothing is written."""
    if not (folder / run_folder.CHECKPOINTS).is_dir():
        raise run_folder.no_checkpoint(folder)
    manager = checkpoint.open_manager(
        folder / run_folder.CHECKPOINTS, config.checkpoint.keep, read_only=True
    )
    with contextlib.ExitStack() as stack:
        stack.callback(checkpoint.close, manager)
        if checkpoint.latest_step(manager) is None:
            raise run_folder.no_checkpoint(folder)
        program = make(config, -1)
        stack.callback(program.close)
        update, saved, _ = session.read(program, manager)
        yield update, program, saved


def with_environments(
    folder: pathlib.Path, kinds: tuple[str, ...] = ("online", "collect")
) -> tuple[Any, Callable]:
    """Returns (settings, what makes the program) of a run that trains in environments.

    ``kinds`` are the stages that will do.

    Raises:
      ConfigError: there is no run, or it is of stages, or a stage of another kind.
    """
    config = load_config(folder)
    kind = "stages" if hasattr(config, "stages") else getattr(config, "kind", "online")
    makers = {"online": online.make_program, "collect": collect.make_program}
    if kind not in kinds:
        what = "is in stages" if kind == "stages" else f"is a stage of kind {kind}"
        raise errors.ConfigError(
            f"{folder}: the run {what}; give the folder of one that trains in "
            f"environments, RUN/stages/NAME of a stage of kind {' or '.join(kinds)}"
        )
    return config, makers[kind]


def load_config(folder: pathlib.Path) -> Any:
    """Returns the settings of the run in ``folder``; of stages, or a stage, if it is one.

    Raises:
      ConfigError: there is no run.
    """
    if not (folder / run_folder.CONFIG).is_file():
        raise errors.ConfigError(
            f"{folder}: no run here (there is no {run_folder.CONFIG}); give the folder of a run"
        )
    return loading.load(folder / run_folder.CONFIG)


def check_drawable(folder: pathlib.Path) -> None:
    """Returns nothing if ``folder`` holds a run that has logged something.

    Raises:
      ConfigError: there is no run, or not a row of it.
    """
    if hasattr(load_config(folder), "stages"):
        raise errors.ConfigError(
            f"{folder}: a run in stages; give the folders of stages, RUN/stages/NAME"
        )
    try:
        metrics.read_metrics(folder)
    except ValueError as error:
        raise errors.ConfigError(str(error)) from None


def check_logging(config: Any) -> None:
    """Returns nothing if what the run should report to is there.

    Raises:
      ConfigError: W&B is asked for and not installed.
    """
    project = config.logging.wandb
    if project is not None and importlib.util.find_spec("wandb") is None:
        raise errors.ConfigError(
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
        with lock.lock(folder):
            manager = checkpoint.open_manager(
                folder / run_folder.CHECKPOINTS, config.checkpoint.keep
            )
            try:
                yield manager
            finally:
                checkpoint.close(manager)
    except OSError as error:
        raise errors.RunError(
            f"{folder}: the run stops: {error.strerror or error}; its checkpoints are "
            "as they were"
        ) from error
