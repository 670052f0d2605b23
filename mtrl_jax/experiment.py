"""A run from its first step to its summary: the loop on the host.

The loop starts a chunk and, while the device works on it, writes down what the chunk
before it brought. Tests, PBT and checkpoints happen between chunks, in this order, and
everything is compiled before the first chunk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import math
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from mtrl_jax import build, checkpoint, metrics, progress, report
from mtrl_jax import config as config_lib
from mtrl_jax.engine import fused_runner, pbt, statistics
from mtrl_jax.types import Tree

CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"


class RunError(RuntimeError):
    """A run that cannot go on; the message is one line for the user."""


class Saved(NamedTuple):
    """What a checkpoint holds."""

    run: fused_runner.RunState
    hparams: Tree
    pbt: pbt.PbtState


class Programs(NamedTuple):
    """The compiled functions of a run; see build.Pieces."""

    chunk: Callable
    evaluate: Callable
    pbt_round: Callable | None


class Pending(NamedTuple):
    """A chunk whose numbers may still be on their way from the device."""

    update: int
    output: fused_runner.ChunkOutput | None  # None before the first chunk
    hparams: Tree  # the chunk was trained with
    evaluation: Any = None
    record: build.RoundRecord | None = None


@dataclasses.dataclass
class Session:
    """A run in progress. ``update`` counts the updates every member has made."""

    config: config_lib.ExperimentConfig
    folder: pathlib.Path
    pieces: build.Pieces
    programs: Programs
    manager: checkpoint.Manager
    writer: metrics.MetricsWriter
    bar: progress.Progress
    state: fused_runner.RunState
    hparams: Tree
    pbt: pbt.PbtState
    update: int = 0
    restart: int = 0  # the update this process began at
    saved: int | None = None  # the newest checkpoint that holds this run's state
    wall_s: float = 0.0  # of earlier processes
    started: float = dataclasses.field(default_factory=time.monotonic)
    logged: tuple[float, int] = (0.0, 0)  # when, up to which update


def train(
    config: config_lib.ExperimentConfig, folder: pathlib.Path, where: str = "config"
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
        report.write_tasks(folder, pieces.spec, build.describe(config))
        session = _session(config, folder, pieces, manager, resume_after=None)
        return _run(session)


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
                session = _session(config, folder, pieces, manager, resume_after=-1)
            else:
                session = _restored(config, folder, pieces, manager)
            # Only now is it certain that the run goes on with it.
            _write_config(folder, config)
            return _run(session)


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
    folder: pathlib.Path, config: config_lib.ExperimentConfig
) -> Iterator[tuple[int, build.Pieces, Saved]]:
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
        state = pieces.init(pieces.hparams)
        empty = Saved(state, pieces.hparams, pieces.lineage)
        update, saved, _ = checkpoint.restore(manager, _saveable(empty, pieces.pure))
        yield update, pieces, _rejoin(saved, state, pieces.pure)


def load_config(folder: pathlib.Path) -> config_lib.ExperimentConfig:
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
    found = {path.name for path in folder.iterdir()} - {metrics.LOCK, CHECKPOINTS}
    saves = folder / CHECKPOINTS
    if found or (saves.exists() and any(saves.iterdir())):
        raise config_lib.ConfigError(
            f"--run-dir {folder}: not empty and no run; give a new or empty folder"
        )


def check_logging(config: config_lib.ExperimentConfig) -> None:
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


def total_updates(config: config_lib.ExperimentConfig, slots: int) -> int:
    """Returns the updates of a run: ``env_steps`` per member, up to whole chunks."""
    t = config.training
    chunk = t.updates_per_chunk * t.unroll_length * slots
    return math.ceil(t.env_steps / chunk) * t.updates_per_chunk


def count_compilations() -> Callable[[], int]:
    """Returns a function that says how many programs XLA has compiled since this call."""
    seen = []

    def listen(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return lambda: len(seen)


_compilations = count_compilations()


def _run(session: Session) -> int:
    """Returns the exit code after training to the end or to a signal."""
    try:
        with _signals() as caught:
            _loop(session, caught)
            if caught:
                _save(session)
                checkpoint.wait(session.manager)
                session.bar.note(
                    f"stopped at update {session.update}; go on with "
                    f"`mtrl resume {session.folder}`"
                )
            else:
                _finish(session)
        return 128 + caught[0] if caught else 0
    finally:
        session.bar.close()
        session.writer.close()
        problem = report.draw(session.folder)
        if problem:
            session.bar.note(problem)


def _loop(session: Session, caught: list[int]) -> None:
    settings = session.config
    total = total_updates(settings, session.pieces.batch[1])
    source = settings.population.fitness.source
    pending = None
    if session.update < total and settings.evaluation.every_updates:
        # Of a resumed run the result is dropped: nothing is compiled later on.
        test = _test(session)
        if session.update == 0:
            pending = Pending(0, None, session.hparams, test)
    while session.update < total and not caught:
        hparams, before = session.hparams, session.update
        session.state, output = session.programs.chunk(session.state, hparams)
        session.update += settings.training.updates_per_chunk
        due = _due(before, session.update)
        round_due = settings.population.pbt and due(settings.population.pbt.interval)
        judging = round_due and source == "evaluation"
        tested = judging or due(settings.evaluation.every_updates)
        test = _test(session) if tested else None
        record = _round(session, test if judging else None) if round_due else None
        _write(session, pending)
        pending = Pending(session.update, output, hparams, test, record)
        if due(settings.checkpoint.every_updates):
            _write(session, pending)
            pending = None
            _save(session)
    _write(session, pending)


def _test(session: Session) -> Any:
    return session.programs.evaluate(session.state, session.hparams)


def _round(session: Session, test: Any) -> build.RoundRecord:
    assert session.programs.pbt_round is not None
    session.state, session.hparams, session.pbt, record = session.programs.pbt_round(
        session.state, session.hparams, session.pbt, test
    )
    return record


def _write(session: Session, pending: Pending | None) -> None:
    """Writes a chunk's row, once the device has it, and stops a run that is lost."""
    if pending is None:
        return
    pending = jax.device_get(pending)
    spec, slots = session.pieces.spec, session.pieces.batch[1]
    row = report.row(spec, pending.output, pending.evaluation)
    now = time.monotonic()
    per_update = session.config.training.unroll_length * slots
    when, update = session.logged
    trained = (pending.update - update) * per_update * session.pieces.batch[0]
    rate = trained / max(now - when, 1e-9)
    session.logged = (now, pending.update)
    session.writer.write(
        update=pending.update,
        env_steps=pending.update * per_update,
        wall_s=round(session.wall_s + now - session.started, 3),
        steps_per_s=round(rate, 1),
        compiles=_compilations(),
        hparams=pending.hparams._asdict(),
        **row,
    )
    if pending.record is not None:
        _write_round(session, pending)
    session.bar.update(
        pending.update * per_update * session.pieces.batch[0],
        rate,
        row["returns"] or row.get("evaluation", {}),
        report.best_member(session.pieces.metric, spec, row),
    )
    if pending.output is not None:
        _check_finite(session, pending)


def _write_round(session: Session, pending: Pending) -> None:
    record = pending.record
    assert record is not None
    session.writer.write_lineage(
        update=pending.update,
        score=record.score,
        source=record.source,
        ancestor=record.ancestor,
        hparams_before=record.before._asdict(),
        hparams_after=record.after._asdict(),
    )
    for member in np.flatnonzero(~record.finite):
        session.bar.note(
            f"member {member} is not finite at update {pending.update}; it goes on as a "
            f"copy of member {record.source[member]}"
        )


def _check_finite(session: Session, pending: Pending) -> None:
    """Raises RunError where members are lost for good."""
    assert pending.output is not None
    finite = np.asarray(pending.output.finite)
    settings = session.config.population.pbt
    rescued = settings is not None and settings.exploit != "none"
    if np.all(finite) or (rescued and np.any(finite)):
        return
    members = ", ".join(str(m) for m in np.flatnonzero(~finite))
    kept = checkpoint.latest_step(session.manager)
    raise RunError(
        f"member {members} is not finite at update {pending.update}: the run stops "
        f"(checkpoint {kept} is kept); lower the learning rate, or let PBT replace "
        "such members"
    )


def _save(session: Session) -> None:
    """Saves the session, unless that is what the newest checkpoint holds."""
    session.writer.flush()
    if session.saved == session.update:
        return
    saved = Saved(session.state, session.hparams, session.pbt)
    meta = {
        "versions": report.versions(),
        "wall_s": session.wall_s + time.monotonic() - session.started,
        "config": config_lib.to_dict(session.config),
    }
    checkpoint.save(
        session.manager, session.update, _saveable(saved, session.pieces.pure), meta
    )
    session.saved = session.update


def _finish(session: Session) -> None:
    """Saves, tests every member once more and writes the summary."""
    _save(session)
    session.bar.note("final evaluation …")
    result = jax.device_get(_test(session))
    checkpoint.wait(session.manager)
    spec = session.pieces.spec
    score, _ = build.recent_score(session.pieces, session.state)
    summary = report.summary(
        spec,
        session.pieces.metric,
        result,
        selection=np.asarray(score),
        totals={
            "updates": session.update,
            "env_steps_per_member": session.update
            * session.config.training.unroll_length
            * session.pieces.batch[1],
            "population": session.pieces.batch[0],
            "wall_s": session.wall_s + time.monotonic() - session.started,
            "runner": session.pieces.runner,
        },
        environment=build.describe(session.config, session.restart),
    )
    metrics.write_summary(session.folder, summary)
    session.bar.note(report.table(summary))


def _session(
    config, folder, pieces, manager, resume_after, saved=None, update=0, wall_s=0.0
) -> Session:
    """Returns the session of a run, with its programs compiled.

    ``resume_after`` is the update of the rows to keep: None in a new folder, -1 if none.
    """
    state = pieces.init(pieces.hparams) if saved is None else saved.run
    hparams = pieces.hparams if saved is None else saved.hparams
    lineage = pieces.lineage if saved is None else saved.pbt
    slots = pieces.batch[1]
    total = total_updates(config, slots) * config.training.unroll_length * slots
    session = Session(
        config=config,
        folder=folder,
        pieces=pieces,
        programs=_compiled(pieces, state, hparams, lineage, config),
        manager=manager,
        writer=metrics.MetricsWriter(
            folder,
            resume_after=resume_after,
            tensorboard=config.logging.tensorboard,
            wandb={"project": config.logging.wandb} if config.logging.wandb else None,
        ),
        bar=progress.Progress(total * config.population.size),
        state=state,
        hparams=hparams,
        pbt=lineage,
        update=update,
        restart=update,
        saved=None if saved is None else update,
        wall_s=wall_s,
    )
    session.started = time.monotonic()
    session.logged = (session.started, session.update)
    if saved is None:
        # Complete before the first row: rows without a checkpoint are of no run.
        _save(session)
        checkpoint.wait(manager)
    return session


def _restored(config, folder, pieces, manager) -> Session:
    """Returns the session of a saved run at its newest sound checkpoint."""
    state = pieces.init(pieces.hparams)
    empty = Saved(state, pieces.hparams, pieces.lineage)
    update, saved, meta = checkpoint.restore(manager, _saveable(empty, pieces.pure))
    saved = _rejoin(saved, state, pieces.pure)
    # Against the checkpoint's own settings: a process that was killed may have written
    # down a change that no checkpoint has seen.
    was = config_lib.from_dict(meta["config"], where=f"checkpoint {update}")
    changed = config_lib.check_resumable(was, config)
    hparams = _with_changes(saved.hparams, changed, pieces.hparams)
    session = _session(
        config,
        folder,
        pieces,
        manager,
        # The row of update 0 is written again.
        resume_after=update or -1,
        saved=saved._replace(hparams=hparams),
        update=update,
        wall_s=meta["wall_s"],
    )
    for name, (old, new) in changed.items():
        session.bar.note(f"{name}: {old!r} is now {new!r}")
    if not pieces.pure:
        session.bar.note("the environments cannot be restored: new episodes begin")
    return session


def _with_changes(hparams: Tree, changed: dict[str, tuple], like: Tree) -> Tree:
    """Returns the hyperparameters with what was changed set for all members."""
    given = {n.removeprefix("agent.hparams."): new for n, (_, new) in changed.items()}
    own = {n: v for n, v in given.items() if n in hparams._fields}
    hparams = hparams._replace(
        **{n: jax.numpy.full_like(getattr(hparams, n), v) for n, v in own.items()}
    )
    return jax.tree.map(lambda new, x: jax.device_put(new, x.sharding), hparams, like)


def _saveable(saved: Saved, pure: bool) -> Saved:
    """Returns what can be written to disk: a world outside the program cannot."""
    if pure:
        return saved
    nothing: Any = ()
    return saved._replace(
        run=saved.run._replace(env=nothing, ts=nothing, carry=nothing)
    )


def _rejoin(saved: Saved, fresh: fused_runner.RunState, pure: bool) -> Saved:
    """Returns the restored state; where the world was not saved, at fresh episodes."""
    if pure:
        return saved
    return saved._replace(
        run=saved.run._replace(
            env=fresh.env,
            ts=fresh.ts,
            carry=fresh.carry,
            stats=statistics.restart_episodes(saved.run.stats),
        )
    )


def _compiled(pieces, state, hparams, lineage, config) -> Programs:
    """Returns the run's functions; PBT's is compiled now, others when first called."""
    if pieces.pbt_round is None:
        return Programs(pieces.chunk, pieces.evaluate, None)
    layout = jax.tree.map(lambda x: x.sharding, (state, hparams, lineage))
    test = None
    if config.population.fitness.source == "evaluation":
        test = pieces.evaluate(state, hparams)
    jitted = jax.jit(pieces.pbt_round, donate_argnums=0, out_shardings=(*layout, None))
    return Programs(
        pieces.chunk,
        pieces.evaluate,
        jitted.lower(state, hparams, lineage, test).compile(),
    )


@contextlib.contextmanager
def _folder(
    folder: pathlib.Path, config: config_lib.ExperimentConfig
) -> Iterator[checkpoint.Manager]:
    """Returns the checkpoint manager of a locked run folder, closed on leaving.

    Raises:
      RunError: the folder cannot be written to, or no longer.
    """
    try:
        with metrics.lock(folder):
            manager = checkpoint.open_manager(
                folder / CHECKPOINTS, config.checkpoint.keep
            )
            try:
                yield manager
            finally:
                checkpoint.close(manager)
    except OSError as error:
        raise RunError(
            f"{folder}: the run stops: {error.strerror or error}; its checkpoints are "
            "as they were"
        ) from error


def _write_config(folder: pathlib.Path, config: config_lib.ExperimentConfig) -> None:
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


def _due(before: int, after: int) -> Callable[[int], bool]:
    """Returns whether a multiple of ``every`` lies in (before, after]; 0: never."""
    return lambda every: every > 0 and after // every > before // every


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Returns a list that SIGINT and SIGTERM add themselves to, the first time only.

    A second signal acts as it would without us.
    """
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def catch(number: int, _: Any) -> None:
        caught.append(number)
        restore()

    def restore() -> None:
        for number, handler in old.items():
            signal.signal(number, handler)

    for number in old:
        signal.signal(number, catch)
    try:
        yield caught
    finally:
        restore()
