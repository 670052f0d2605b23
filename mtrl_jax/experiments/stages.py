"""An experiment as a list of stages, each a run in a folder of its own.

    RUN/config.yaml     every setting of every stage, resolved
    RUN/stages/NAME/    a run folder, see runs; of a collect stage also histories/
    RUN/summary.json    which stages are done, and the results of the last of them

Stages run one after the other. One that is done is never begun again, one that was
stopped goes on from its newest checkpoint; what that means is the business of the run
itself. Nothing here knows an algorithm: a stage names others for their data or weights.
"""

from __future__ import annotations

import contextlib
import pathlib
import shlex
import shutil
from collections.abc import Iterator
from typing import Any

from mtrl_jax import errors, metrics
from mtrl_jax.config import loading, resuming, stage_schema
from mtrl_jax.experiments import reporters, runs, staging
from mtrl_jax.training import lock, progress, report, run_folder
from mtrl_jax.training.program import Program


def train(settings: Any, folder: pathlib.Path, where: str = "config") -> int:
    """Returns the exit code of a new run, of stages or not; see runs.train."""
    if isinstance(settings, stage_schema.Stage):
        raise errors.ConfigError(
            f"{where}: kind={settings.kind!r} is of a stage; give it in a list stages"
        )
    if not isinstance(settings, stage_schema.Staged):
        return runs.train(settings, folder, where)
    run_folder.check_new(folder)
    with errors.within(where):
        check(settings, folder)
    with _held(folder):
        run_folder.check_new(folder)  # Another process may have been as fast.
        run_folder.write_config(folder, settings)
        return _run(settings, folder)


def resume(folder: pathlib.Path, overrides: list[str] | None = None) -> int:
    """Returns the exit code of a run gone on with, of stages or not.

    Of a stage that is done nothing can change, of one that has begun what its run could
    change, of the others everything.

    Raises:
      ConfigError: no run there, or an override that cannot be; see runs.resume.
    """
    old = runs.load_config(folder)
    if isinstance(old, stage_schema.Stage):
        if overrides:
            raise errors.ConfigError(
                f"{folder}: a stage; give overrides to the whole run, "
                f"`mtrl resume {shlex.quote(str(folder.absolute().parents[1]))} "
                "stages.0.…`"
            )
        return resume(folder.absolute().parents[1])
    if not isinstance(old, stage_schema.Staged):
        return runs.resume(folder, overrides)
    new = _changed(old, folder, overrides or [])
    with errors.within(str(folder / run_folder.CONFIG)):
        check(new, folder)
    with _held(folder):
        run_folder.write_config(folder, new)
        return _run(new, folder)


def check(staged: stage_schema.Staged, folder: pathlib.Path) -> None:
    """Returns nothing if every stage that is not done could be begun.

    Agents are traced, nothing is compiled, read or written.

    Raises:
      ConfigError: a setting that cannot work, or less space than histories will take.
    """
    need = 0
    for i, stage in enumerate(staged.stages):
        if reporters.is_done(staging.folder_of(folder, stage)):
            continue
        with errors.within(f"stages.{i}"):
            runs.check_logging(stage)
            made = staging.make_program(staged, stage, folder, for_check=True)
            made.close()
        begun = (staging.folder_of(folder, stage) / run_folder.CONFIG).exists()
        need += made.record.size if made.record is not None and not begun else 0
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise errors.ConfigError(
            f"stages: histories will take {progress.si(need)}B, {there} has "
            f"{progress.si(free)}B free; give fewer members or training.env_steps"
        )


def parts(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of the stages with rows, of any other run its own."""
    config = runs.load_config(folder)
    if not isinstance(config, stage_schema.Staged):
        return [folder]
    found = [staging.folder_of(folder, stage) for stage in config.stages]
    begun = [path for path in found if (path / run_folder.CONFIG).exists()]
    # One that has only just begun has nothing to show; if all have, that is the error.
    return [path for path in begun if metrics.has_rows(path)] or begun


def _run(staged: stage_schema.Staged, folder: pathlib.Path) -> int:
    """Returns the exit code after all stages, or of the one that a signal ended."""
    code = 0
    for i, stage in enumerate(staged.stages):
        own = staging.folder_of(folder, stage)
        if reporters.is_done(own):
            if not (own / "plots").exists():
                report.draw(own)  # It was stopped between its summary and this.
            continue
        label = f"[{i + 1}/{len(staged.stages)} {stage.name}]"
        code = _run_stage(staged, stage, folder, label)
        if code:
            break
    write_summary(folder, staged)
    return code


def _run_stage(staged, stage, folder: pathlib.Path, label: str) -> int:
    own = staging.folder_of(folder, stage)

    def make(restart: int) -> Program:
        return staging.make_program(staged, stage, folder, restart)

    if (own / run_folder.CONFIG).exists():
        return runs.go_on(stage, own, make, label)
    return runs.begin(stage, own, make(0), label)


def write_summary(folder: pathlib.Path, staged: stage_schema.Staged) -> None:
    """Returns after writing which stages are done, and what the last of them found."""
    done = {
        x.name: reporters.is_done(staging.folder_of(folder, x)) for x in staged.stages
    }
    last = [name for name, is_done in done.items() if is_done][-1:]
    results = [metrics.read_summary(staging.folder_of(folder, name)) for name in last]
    metrics.write_summary(
        folder,
        {
            "stages": {
                x.name: {"kind": x.kind, "done": done[x.name]} for x in staged.stages
            },
            "complete": all(done.values()),
            "results": {"stage": last[0], **results[0]} if last else {},
        },
    )


def _changed(
    old: stage_schema.Staged, folder: pathlib.Path, overrides: list[str]
) -> stage_schema.Staged:
    values = loading.to_dict(old)
    for stage in values["stages"]:
        if stage["kind"] == "evaluate":
            # Those of another stage, which may be the one that is changed.
            del stage["agent"], stage["population"]
    values = loading.override(values, overrides)
    new = loading.from_dict(values, where=str(folder / run_folder.CONFIG))
    if [(x.name, x.kind) for x in new.stages] != [(x.name, x.kind) for x in old.stages]:
        raise errors.ConfigError(
            "stages: a running experiment keeps its stages, their names and kinds"
        )
    if new.seed != old.seed:
        raise errors.ConfigError(
            f"seed: the run has {old.seed}, {new.seed} given; a running experiment keeps it"
        )
    for i, (was, now) in enumerate(zip(old.stages, new.stages)):
        own = staging.folder_of(folder, was)
        if was == now or not (own / run_folder.CONFIG).exists():
            continue
        if reporters.is_done(own):
            name = next(iter(resuming.differences(was, now)))
            raise errors.ConfigError(
                f"stages.{i}.{name}: stage {was.name!r} is done and keeps it"
            )
        with errors.within(f"stages.{i}"):
            resuming.check_resumable(was, now)
    return new


@contextlib.contextmanager
def _held(folder: pathlib.Path) -> Iterator[None]:
    """Returns a context in which this process alone works on the run.

    Raises:
      RunLockedError: another process does.
      RunError: the folder cannot be written to.
    """
    try:
        with lock.lock(folder):
            yield
    except OSError as error:
        raise errors.RunError(
            f"{folder}: the run stops: {error.strerror or error}"
        ) from error
