"""Runs by their folders: train a new one, resume one.

    config.yaml     the settings, as they are resolved; a folder with one holds a run
    checkpoints/    the newest few, see checkpoint
    metrics.jsonl … the rows, summary and pictures, see metrics and plots
    stages/NAME/    of a run in stages: each of them, a run folder like this one

What is wrong with the settings or the folder is found out before anything is written;
``session`` is what a run holds while it goes on, ``loop`` what happens to it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import pathlib
import shlex
from collections.abc import Callable, Iterator
from typing import Any

from mtrl_jax import checkpoint, errors, metrics
from mtrl_jax.config import loading, resuming, stage_schema
from mtrl_jax.experiments import kinds, reading, stages
from mtrl_jax.metrics import jsonl
from mtrl_jax.training import lock, loop, notices, opening, report, run_folder
from mtrl_jax.training.program import Program


def train(settings: Any, folder: pathlib.Path, where: str = "config") -> int:
    """Train a new run; return the exit code: 0, or 130 or 143 if a signal ended it.

    ``where`` is what errors call the place the settings come from.

    Raises:
      ConfigError: a setting that cannot work, or a folder that is something else;
        nothing was written.
      RunError, CheckpointError: the run could not go on; what was saved is kept.
    """
    run = _new(settings, folder, where)
    if run.is_plain:
        with errors.within(where):
            program = kinds.make_program(run, settings)
        return begin(settings, folder, program)
    with errors.within(where):
        stages.check(run)
    with held(folder):
        run_folder.check_new(folder)  # Another process may have been as fast.
        run_folder.write_config(folder, settings)
        return _train_stages(run)


def check(settings: Any, folder: pathlib.Path, where: str = "config") -> list[str]:
    """Returns what a new run would be, and say at its start; nothing is written.

    All is built but what has to be compiled.

    Raises:
      ConfigError: whatever ``train`` would refuse before it writes anything.
    """
    run = _new(settings, folder, where)
    with errors.within(where):
        if not run.is_plain:
            return stages.check(run)
        with contextlib.closing(kinds.make_program(run, settings)) as program:
            line = notices.outline(settings, program)
            return [line, *notices.at_start(settings, program)]


def _new(settings: Any, folder: pathlib.Path, where: str) -> kinds.Run:
    """Returns the new run that ``settings`` describe, as far as they alone say.

    Raises:
      ConfigError: they are of no run, or there is no place for it.
    """
    if not isinstance(settings, stage_schema.Staged) and settings.kind != "online":
        raise errors.ConfigError(
            f"{where}: kind={settings.kind!r} is of a stage; give it in a list stages"
        )
    if isinstance(settings, stage_schema.OnlineStage):
        raise errors.ConfigError(
            f"{where}: init_from={settings.init_from!r} is of a stage; give it in a list "
            "stages"
        )
    run = kinds.run_of(settings, folder)
    run_folder.check_new(folder)
    with errors.within(where):
        for stage in run.stages:
            check_logging(stage)
    return run


def resume(folder: pathlib.Path, overrides: list[str] | None = None) -> int:
    """Continue a run from its newest sound checkpoint; return the exit code.

    ``overrides`` may change what config.resuming names; a hyperparameter given here is
    set for all members. Of a stage that is done nothing can change, of one that has begun
    what its run could change, of the others everything.

    Raises:
      ConfigError: no run there, none of its checkpoints, or an override that needs
        another program or state.
      RunLockedError: another process is at it.
      CheckpointError: there is no sound checkpoint.
    """
    old, whole = reading.load_config(folder), run_folder.whole(folder)
    if whole != folder:
        if overrides:
            raise errors.ConfigError(
                f"{folder}: a stage; give overrides to the whole run, "
                f"`mtrl resume {shlex.quote(str(whole))} stages.0.…`"
            )
        return resume(whole)
    where = str(folder / run_folder.CONFIG)
    if isinstance(old, stage_schema.Staged):
        settings = stages.changed(old, folder, overrides or [])
        run = kinds.run_of(settings, folder)
        with errors.within(where):
            for stage in run.stages:
                check_logging(stage)
            stages.check(run)
        with held(folder):
            # Not before a stage that has begun takes its changes.
            write = functools.partial(run_folder.write_config, folder, settings)
            return _train_stages(run, write)
    values = loading.override(loading.to_dict(old), overrides or [])
    resuming.check_agent("agent.name", old.agent.name, values)
    settings = loading.from_dict(values, where=where)
    resuming.check_resumable(old, settings)
    check_logging(settings)
    run = kinds.run_of(settings, folder)
    return resume_with(
        settings, folder, lambda restart: kinds.make_program(run, settings, restart)
    )


def begin(config: Any, folder: pathlib.Path, program: Program, label: str = "") -> int:
    """Train ``program`` in a new run folder; return the exit code, as ``train`` does.

    ``config`` are a stage's settings; ``label`` begins the progress line.

    Raises:
      RunError: what it is to learn from cannot be used. Nothing is written.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(program))
        program.prepare()
        manager = stack.enter_context(_opened(folder, config))
        run_folder.check_new(folder)  # Another process may have been as fast.
        run_folder.write_config(folder, config)
        metrics.write_summary(folder, program.reporter.begin())
        return loop.run(opening.begin(config, folder, program, manager, label=label))


def resume_with(
    config: Any,
    folder: pathlib.Path,
    make: Callable[[int], Program],
    label: str = "",
    write: Callable[[], None] = lambda: None,
) -> int:
    """Continue the run in ``folder`` with ``config``; return the exit code.

    ``make(restart)`` gives its program, ``restart`` being the update it goes on from.
    ``write`` is called when nothing can be refused any more, before ``config`` is written.
    """
    with _opened(folder, config) as manager:
        latest = checkpoint.latest_step(manager)
        if latest is None:
            run_folder.check_untrained(folder)
        program = make(latest or 0)
        with contextlib.closing(program):
            if latest is None:
                begun = opening.begin(
                    config, folder, program, manager, resume_after=-1, label=label
                )
            else:
                begun = opening.resume(config, folder, program, manager, label=label)
            # Only now is it certain that the run goes on with it.
            with begun.bar.closed_on_error():
                write()
                run_folder.write_config(folder, config)
            return loop.run(begun)


def check_logging(config: Any) -> None:
    """Raises ConfigError unless what the run should report to is installed."""
    project = config.logging.wandb
    if project is not None and importlib.util.find_spec("wandb") is None:
        raise errors.ConfigError(
            f"logging.wandb={project!r}: wandb is not installed; run: "
            "pip install mtrl-jax[wandb], or leave it out"
        )


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Returns a context in which this process alone works on the run.

    Raises:
      RunLockedError: another process does.
      RunError: the folder cannot be written to, or no longer.
    """
    try:
        with lock.lock(folder):
            yield
    except OSError as error:
        raise errors.RunError(
            f"{folder}: the run stops: {error.strerror or error}; its checkpoints are "
            "as they were"
        ) from error


@contextlib.contextmanager
def _opened(folder: pathlib.Path, config: Any) -> Iterator[checkpoint.Manager]:
    """Returns the checkpoint manager of a held run folder, closed on leaving."""
    with held(folder):
        jsonl.clear(folder)
        manager = checkpoint.open_manager(
            folder / run_folder.CHECKPOINTS, config.checkpoint.keep
        )
        try:
            yield manager
        finally:
            checkpoint.close(manager)


def _train_stages(run: kinds.Run, write: Callable[[], None] = lambda: None) -> int:
    """Returns the exit code after all stages, or of the one that a signal ended.

    ``write`` is called when the next stage cannot be refused any more.
    """
    code = 0
    for i, stage in enumerate(run.stages):
        own = run.folder_of(stage)
        if run_folder.is_done(own):
            if stage.logging.plots and not (own / "plots").exists():
                report.draw(own)  # It was stopped between its summary and this.
            continue
        label = f"[{i + 1}/{len(run.stages)} {stage.name}]"
        if (own / run_folder.CONFIG).exists():
            make = functools.partial(kinds.make_program, run, stage, is_checked=True)
            with errors.within(f"stages.{i}"):
                code = resume_with(stage, own, make, label, write)
        else:
            write()
            program = kinds.make_program(run, stage, is_checked=True)
            code = begin(stage, own, program, label)
        if code:
            break
    stages.write_summary(run)
    return code
