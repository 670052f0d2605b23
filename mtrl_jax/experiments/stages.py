"""What a list of stages needs beside its stages: checks, changes on resume, a summary.

    RUN/config.yaml     every setting of every stage, resolved
    RUN/stages/NAME/    a run folder; of a collect stage also histories/
    RUN/summary.json    which stages are done, and the results of the last of them

Stages run one after the other. One that is done is never begun again, one that was
stopped goes on from its newest checkpoint; what that means is the business of the run
itself. Nothing here knows an algorithm.
"""

from __future__ import annotations

import contextlib
import pathlib
import shutil

from mtrl_jax import errors, metrics
from mtrl_jax.config import loading, modules, resuming, stage_schema
from mtrl_jax.experiments import kinds, reading
from mtrl_jax.training import notices, progress, run_folder


def check(run: kinds.Run) -> list[str]:
    """Returns what every stage that is not done would be, in a line and what it says first.

    Agents are traced, nothing is compiled, read or written.

    Raises:
      ConfigError: a stage could not be begun, or there is less space than the histories
        of the run will take.
    """
    need, lines = 0, []
    for i, stage in enumerate(run.stages):
        own = run.folder_of(stage)
        if run_folder.is_done(own):
            continue
        with errors.within(f"stages.{i}", stage):
            program = kinds.make_program(run, stage, for_check=True)
            with contextlib.closing(program):
                lines.append(f"{stage.name}: {notices.outline(stage, program)}")
                lines += notices.at_start(stage, program)
        begun = (own / run_folder.CONFIG).exists()
        need += program.record.size if program.record and not begun else 0
    parents = (run.folder, *run.folder.absolute().parents)
    there = next(path for path in parents if path.exists())
    free = shutil.disk_usage(there).free
    if need > free:
        raise errors.ConfigError(
            f"stages: histories will take {progress.size(need)}, {there} has "
            f"{progress.size(free)} free; give fewer members or training.env_steps"
        )
    return lines


def write_summary(run: kinds.Run) -> None:
    """Write which stages are done, and what the last of them found."""
    done = {x.name: run_folder.is_done(run.folder_of(x)) for x in run.stages}
    last = [name for name, is_done in done.items() if is_done][-1:]
    results = [metrics.read_summary(run.folder_of(name)) for name in last]
    metrics.write_summary(
        run.folder,
        {
            "stages": {
                x.name: {"kind": x.kind, "done": done[x.name]} for x in run.stages
            },
            "complete": all(done.values()),
            "results": {"stage": last[0], **results[0]} if last else {},
        },
    )


def changed(
    old: stage_schema.Staged, folder: pathlib.Path, overrides: list[str]
) -> stage_schema.Staged:
    """Returns the settings of a run in stages with ``overrides``.

    Raises:
      ConfigError: a change that a running experiment, or one of its stages, cannot take.
    """
    values = loading.to_dict(old)
    for stage in values["stages"]:
        # Those of another stage, which may be the one that is changed.
        if stage.get("of") is not None:
            del stage["agent"]
        if stage.get("teacher") is not None:
            del stage["agent"]["config"]["teacher"]
        if stage["kind"] == "evaluate":
            del stage["population"]
    values = loading.override(values, overrides)
    run = kinds.run_of(old, folder)
    for i, (was, given) in enumerate(zip(old.stages, values["stages"])):
        if (run.folder_of(was) / run_folder.CONFIG).exists():
            resuming.check_agent(f"stages.{i}.agent.name", was.agent.name, given)
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
        own = run.folder_of(was)
        if not (own / run_folder.CONFIG).exists():
            continue
        # As the stage has it: the whole run's file may have been edited.
        kept = reading.load_config(own)
        if run_folder.is_done(own):
            for name, pair in resuming.differences(kept, now).items():
                if not modules.has_moved(name, *pair):
                    raise errors.ConfigError(
                        f"stages.{i}.{name}: stage {was.name!r} is done and keeps it"
                    )
        with errors.within(f"stages.{i}", now):
            resuming.check_resumable(kept, now)
    return new
