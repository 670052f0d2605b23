"""How a session begins or goes on: from the start, or from a checkpoint, to compiled programs.

It begins at update 0 or at a checkpoint, and every checkpoint is enough to go on from:
``begin`` saves the first before there is a row.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from mtrl_jax import checkpoint, errors, metrics
from mtrl_jax.config import loading, modules, resuming
from mtrl_jax.training import (
    notices,
    pace,
    progress,
    run_folder,
    saved_state,
    scheduler,
    starting,
)
from mtrl_jax.training.program import Program, RunLength
from mtrl_jax.training.session import Programs, Session, save


class _Start(NamedTuple):
    """Where a session begins, and what there is of the run before it."""

    update: int = 0
    # The update of the rows to keep: None in a new folder, -1 if none.
    keep_rows: int | None = None
    test_due: bool = True
    meta: Mapping[str, Any] = {"wall_s": 0.0}  # noted in its checkpoint


def begin(
    config: Any,
    folder: pathlib.Path,
    program: Program,
    manager: checkpoint.Manager,
    *,
    resume_after: int | None = None,
    label: str = "",
) -> Session:
    """Returns the session of a run at update 0, its programs compiled, saved.

    ``resume_after`` is the update of the rows to keep: None in a new folder, -1 if none.
    ``label`` begins the progress line.
    """
    with starting.interruptible(folder, is_new=resume_after is None):
        state, hp = program.init(program.hparams), program.hparams
        if program.inherit is not None:
            state, hp = program.inherit(state, hp)
    fresh = saved_state.Saved(state, hp, program.lineage)
    start = _Start(keep_rows=resume_after)
    session = _open(config, folder, program, manager, fresh, start, label)
    # Complete before the first row: rows without a checkpoint are of no run.
    with session.bar.closed_on_error():
        session.bar.note(program.memory())
        save(session)
        checkpoint.wait(manager)
    return session


def resume(
    config: Any,
    folder: pathlib.Path,
    program: Program,
    manager: checkpoint.Manager,
    *,
    label: str = "",
) -> Session:
    """Returns the session of a saved run at its newest sound checkpoint.

    Raises:
      ConfigError: ``config`` needs another program or state than the checkpoint's own.
      CheckpointError: there is no sound checkpoint.
    """

    def changes(update: int, meta: dict[str, Any]) -> tuple[Any, dict[str, tuple]]:
        # Against the checkpoint's own settings: a process that was killed may have
        # written down a change that no checkpoint has seen.
        where = f"checkpoint {update}"
        own = modules.as_named_by(meta["config"], config, where)
        was = loading.from_dict(own, where=where)
        changed = resuming.check_resumable(was, config)
        resuming.check_sources(meta.get("sources", {}), program.sources())
        return was, changed

    update, saved, meta = read(program, manager, check=changes)
    was, changed = changes(update, meta)
    is_refilled = saved_state.lacks_memory(saved)
    if is_refilled:
        saved = saved_state.with_memory(saved, program.agent, program.batch)
    _check_length(program, update, changed)
    hparams = saved_state.with_changes(saved.hparams, changed, program.hparams)
    start = _Start(
        update=update,
        keep_rows=update or -1,  # The row of update 0 is written again.
        test_due=_is_tested(was, program.run_length, update),
        meta=meta,
    )
    begun_with = saved._replace(hparams=hparams)
    session = _open(config, folder, program, manager, begun_with, start, label)
    session.saved = update
    session.is_unchanged = not any(map(resuming.moves_results, changed))
    for name, change in changed.items():
        old, new = ("not given" if x is None else repr(x) for x in change)
        session.bar.note(f"{name}: {old} is now {new}")
    for line in notices.of_found(config, changed, saved.hparams):
        session.bar.note(line)
    for line in notices.of_longer(config, changed):
        session.bar.note(line)
    for line in notices.of_sources(meta.get("sources", {}), session.sources, update):
        session.bar.note(line)
    if is_refilled:
        session.bar.note(
            f"checkpoint.replay: checkpoint {update} has no replay: it is filled again "
            "from empty, and learning waits as at the start of a run"
        )
    if program.indivisible:
        session.bar.note("the environments cannot be restored: it is all played again")
    elif not program.pure:
        session.bar.note("the environments cannot be restored: new episodes begin")
    return session


def read(
    program: Program,
    manager: checkpoint.Manager,
    *,
    goes_on: bool = True,
    check: Callable[[int, dict[str, Any]], Any] = lambda update, meta: None,
) -> tuple[int, saved_state.Saved, dict[str, Any]]:
    """Returns (update, saved, meta) of the newest sound checkpoint.

    A world that is outside the program was not saved: it is at fresh episodes. Memories
    that were not saved are jax.ShapeDtypeStructs, see ``saved_state.with_memory``; of a
    run that does not go on, their large leaves, too: they stay unread. ``check`` may
    refuse a checkpoint by its (update, meta), before its arrays are held against the
    program's.

    Raises:
      CheckpointError: there is none, or it does not fit the program.
    """
    world = None
    if program.shapes is not None:
        run = program.shapes(program.hparams)
    else:
        run = program.init(program.hparams)
        world = saved_state.world_of(run)
    like = checkpoint.abstract(
        saved_state.without_world(
            saved_state.Saved(run, program.hparams, program.lineage), program.pure
        )
    )
    # Its memory is for what is restored.
    del run
    skip = () if goes_on else saved_state.MEMORY
    update, saved, meta = checkpoint.restore(manager, like, skip=skip, check=check)
    # Earlier versions do not say in which order slots were.
    now = program.spec.slot_tasks
    was = meta.get("slot_tasks", now)
    return update, saved_state.with_world(saved, world, was, now), meta


def _check_length(program: Program, update: int, changed: Mapping[str, Any]) -> None:
    """Raises ConfigError unless a run that was shortened has not gone further already."""
    length = program.run_length
    for name in ("training.env_steps", "training.updates"):
        if name in changed and length.updates < update:
            old, new = changed[name]
            raise errors.ConfigError(
                f"{name}={new}: {update} updates are done, and these are "
                f"{length.updates}; give more, or leave it at {old}"
            )


def _open(
    config: Any,
    folder: pathlib.Path,
    program: Program,
    manager: checkpoint.Manager,
    saved: saved_state.Saved,
    start: _Start,
    label: str,
) -> Session:
    """Returns the session that begins with ``saved``, its programs compiled."""
    update, meta, length = start.update, start.meta, program.run_length
    round_owed = meta.get("round_owed", False)
    bar = progress.Progress(length.updates, label=label)
    with bar.closed_on_error():
        before = notices.made_before(getattr(saved.run, "learner", None), update)
        for line in notices.at_start(config, program, before):
            bar.note(line)
        is_new = start.keep_rows is None
        with starting.interruptible(folder, is_new=is_new, say=bar.last_words):
            programs = _compiled(program, saved, config)
        session = Session(
            config=config,
            folder=folder,
            program=program,
            programs=programs,
            manager=manager,
            recorder=program.record and program.record.open(folder, update),
            writer=_writer(config, folder, start, round_owed),
            bar=bar,
            state=saved.run,
            hparams=saved.hparams,
            pbt=saved.pbt,
            scheduler=scheduler.make(config, program, meta.get("schedules")),
            pace=pace.Pace(length.updates),
            update=update,
            restart=update,
            # Checkpoints of earlier versions do not say.
            counted=meta.get("env_steps", update * length.steps * program.batch[0]),
            round_owed=round_owed,
            wall_s=meta["wall_s"],
            sources={**modules.sources(config), **program.sources()},
        )
    return session


def _is_tested(was: Any, length: RunLength, update: int) -> bool:
    """Returns whether a run of this length, with its settings, is tested at ``update``.

    One that ended there was, whatever its settings.
    """
    population = was.population
    by_round = population.pbt is not None and population.fitness.source == "evaluation"
    every = getattr(was.evaluation, "every_updates", 0)
    return (
        update >= length.updates
        or length.is_due(every, update)
        or (by_round and length.is_due(population.pbt.interval, update))
    )


def _writer(
    config: Any, folder: pathlib.Path, start: _Start, round_owed: bool
) -> metrics.MetricsWriter:
    moved = config.population.search if config.population.pbt is not None else ()
    return metrics.MetricsWriter(
        folder,
        resume_after=start.keep_rows,
        round_owed=round_owed,
        test_due=start.test_due,
        tensorboard=config.logging.tensorboard,
        wandb=_wandb(config, folder) if config.logging.wandb else None,
        curves={*moved, *config.agent.schedules},
    )


def _wandb(config: Any, folder: pathlib.Path) -> dict[str, Any]:
    """Returns the arguments of ``wandb.init``: runs of a config are a group, or stages."""
    folder = folder.resolve()
    whole = run_folder.whole(folder)
    stage = folder != whole
    return {
        "project": config.logging.wandb,
        "name": f"{whole.name}/{folder.name}" if stage else folder.name,
        "group": whole.name if stage else config.name,
        "config": loading.to_dict(config),
    }


def _compiled(program: Program, saved: saved_state.Saved, config: Any) -> Programs:
    """Returns the run's functions; PBT's is compiled now, others when first called."""
    if program.pbt_step is None:
        return Programs(program.chunk, program.evaluate, None)
    state, hparams, lineage = saved
    layout = jax.tree.map(lambda x: x.sharding, (state, hparams, lineage))
    by_test = config.population.fitness.source == "evaluation"
    test = None
    if by_test and program.evaluate is not None:
        test = program.evaluate(state, hparams)
    jitted = jax.jit(program.pbt_step, donate_argnums=0, out_shardings=(*layout, None))
    return Programs(
        program.chunk,
        program.evaluate,
        jitted.lower(state, hparams, lineage, test).compile(),
    )
