"""Runs as processes, what is done to them, and what must be left of them."""

from __future__ import annotations

import contextlib
import pathlib
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import faults_outcomes as outcomes
import yaml
from faults_processes import Child, Ended, execute, fork

_UNDRAWN = "from mtrl_jax.training import report; report.draw = lambda folder: ''"
Counts = dict[str, Any]  # where it happened, and 0 or 1 of each of COUNTED
COUNTED = ("tried", "lost", "tracebacks", "partial")
# Stages of a run, by the kind that each is of.
STAGES = {"source": "collect", "model": "offline", "in_context": "in context"}


class Lab:
    """A folder of runs and the reference of every kind, made when first asked for.

    ``is_cold``: what they compile is not kept yet.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        kinds: dict[str, dict[str, Any]],
        is_cold: bool = True,
    ):
        self.folder, self._is_cold = folder, is_cold
        self._times: dict[str, tuple[float, float]] = {}
        self._wholes = {kind: folder / f"{kind}-whole" for kind in kinds}
        self._count = 0
        folder.mkdir(parents=True, exist_ok=True)
        for kind, settings in kinds.items():
            self.config(kind).write_text(yaml.safe_dump(settings))

    def config(self, kind: str) -> pathlib.Path:
        """Returns the settings of a kind."""
        return self.folder / f"{kind}.yaml"

    def whole(self, kind: str) -> pathlib.Path:
        """Returns a run of a kind that nothing happened to."""
        self.times(kind)
        return self._wholes[kind]

    def know(self, kind: str, whole: pathlib.Path, times: tuple[float, float]) -> None:
        """Take a run that was made before, and its ``times``, for that of a kind."""
        self._wholes[kind], self._times[kind] = whole, times

    def times(self, kind: str) -> tuple[float, float]:
        """Returns the seconds of a whole run of a kind: to its first file, to its end.

        Programs are compiled and kept before the time is taken.
        """
        if kind not in self._times:
            whole = self._wholes[kind]
            for run in (self.new(), whole) if self._is_cold else (whole,):
                begun = time.monotonic()
                child = self.start("train", self.config(kind), "--run-dir", run)
                wait_for_run(child, run)
                first = time.monotonic() - begun
                ended = child.end()
                self._times[kind] = first, time.monotonic() - begun
                assert ended.code == 0, ended.said
        return self._times[kind]

    def new(self) -> pathlib.Path:
        """Returns a path that no run has."""
        self._count += 1
        return self.folder / f"run {self._count}"

    def start(self, *arguments: Any, code: str = "", is_new: bool = False) -> Child:
        """Returns the process of ``mtrl ARGUMENTS``, after Python ``code``.

        One that ``is_new`` has nothing imported.
        """
        self._count += 1
        log = self.folder / f"log {self._count}"
        return execute(log, *arguments) if is_new else fork(log, code, *arguments)

    def ended(self, *arguments: Any, code: str = "") -> Ended:
        """Returns how ``mtrl ARGUMENTS`` ended."""
        return self.start(*arguments, code=code).end()

    def is_same(
        self,
        kind: str,
        run: pathlib.Path,
        pictures: bool = True,
        restart: int | None = None,
    ) -> bool:
        """Returns whether a run has the rows and results of the one left alone.

        Where environments cannot be restored, and new episodes began at ``restart``, as
        far as they could be the same.
        """
        found, known = outcomes.of(run), outcomes.of(self.whole(kind))
        if not pictures:
            found.pop("pictures"), known.pop("pictures")
        if "host" in kind and restart is not None:
            found = outcomes.after_restart(found, restart)
            known = outcomes.after_restart(known, restart)
        return found == known


def wait_for_run(child: Child, run: pathlib.Path) -> None:
    """Wait until there is a run in the folder, or its process has ended."""
    while child.code() is None and not (run / "config.yaml").exists():
        time.sleep(0.02)


def wait_for_rows(child: Child, run: pathlib.Path, rows: int) -> None:
    """Wait until a run has as many rows, or its process has ended."""
    while child.code() is None and outcomes.rows_of(run) < rows:
        time.sleep(0.01)


def stage_of(kind: str, run: pathlib.Path) -> str:
    """Returns what a run is at: its kind, that of its stage, or that it only begins."""
    if not (run / "config.yaml").exists():
        return "starting"
    begun = [n for n in STAGES if (run / "stages" / n / "config.yaml").exists()]
    return (
        STAGES[begun[-1]] if begun else STAGES["source"] if kind == "stages" else kind
    )


def gone_on(lab: Lab, kind: str, run: pathlib.Path, code: str = "") -> Ended:
    """Returns how a run ended that was stopped anywhere: resumed, or begun anew."""
    if (run / "config.yaml").exists():
        return lab.ended("resume", run, code=code)
    return lab.ended("train", lab.config(kind), "--run-dir", run, code=code)


def counts(
    where: str,
    *endings: Ended,
    lost: bool,
    run: pathlib.Path,
    partial: bool = False,
) -> Counts:
    """Returns the counts of one try; what went wrong is printed."""
    tracebacks = sum(ended.is_traceback for ended in endings)
    partial = partial or outcomes.is_partial(run)
    if lost or tracebacks or partial:
        print(
            f"{where}: lost {lost}, tracebacks {tracebacks}, partial {partial}: {run}"
        )
        for ended in endings:
            print(f"  exit {ended.code}: {ended.said[-1500:]}", flush=True)
    numbers = (1, int(lost), tracebacks, int(partial))
    return {"where": where, **dict(zip(COUNTED, numbers))}


def stopped(
    lab: Lab, kind: str, seed: int, numbers: list[int], times: int = 1
) -> Counts:
    """Returns the counts of a run that signals stop ``times`` times, then goes on.

    Of every third try the first signal comes anywhere, starting and drawing included; of
    the others while there is a run, at a random time or, every third, at a random row of
    it, and no pictures are drawn.
    """
    rng, run = random.Random(seed), lab.new()
    first, whole = lab.times(kind)
    is_anywhere, is_at_row = seed % 3 == 0, seed % 3 == 2
    code = "" if is_anywhere else _UNDRAWN
    endings, where, partial, restarts = [], "starting", False, []
    for attempt in range(times):
        is_run = (run / "config.yaml").exists()
        new = ("train", lab.config(kind), "--run-dir", run)
        arguments: tuple[Any, ...] = ("resume", run) if is_run else new
        is_new = is_anywhere and not attempt
        child = lab.start(*arguments, code=code, is_new=is_new)
        if is_new:
            time.sleep(rng.uniform(0.0, whole))
        elif is_at_row:
            had, rows = outcomes.rows_of(run), outcomes.rows_of(lab.whole(kind))
            wait_for_rows(child, run, rng.randint(min(had + 1, rows), rows))
            time.sleep(rng.uniform(0.0, 0.1))
        else:
            wait_for_run(child, run)
            time.sleep(
                (first if is_run else 0.0) + rng.uniform(0.0, 0.8) * (whole - first)
            )
        where = stage_of(kind, run)
        for number in numbers:
            child.signal(number)
        endings.append(child.end())
        partial |= outcomes.is_partial(run)
        restarts.append(outcomes.gone_on_from(run))
    if all(ended.code == 0 for ended in endings):
        where = "ended before"
    last = gone_on(lab, kind, run, code)
    restart = min((x for x in restarts if x is not None), default=None)
    is_same = lab.is_same(kind, run, pictures=is_anywhere, restart=restart)
    lost = last.code != 0 or not is_same
    return counts(where, *endings, last, lost=lost, run=run, partial=partial)


def damaged(lab: Lab, kind: str, seed: int, stage: str | None = None) -> Counts:
    """Returns the counts of a run with a cut or flipped file in its newest checkpoint.

    With a ``stage`` the run was stopped at the end of that one.
    """
    rng, run = random.Random(seed), lab.new()
    subprocess.run(["cp", "-r", lab.whole(kind), run], check=True)
    own = run
    if stage is not None:
        own = run / "stages" / stage
        later = list(STAGES)[list(STAGES).index(stage) + 1 :]
        removed = [run / "stages" / name for name in later]
        removed += [own / "summary.json", run / "summary.json"]
        subprocess.run(["rm", "-rf", *removed], check=True)
    saved = [p for p in (own / "checkpoints").iterdir() if p.name.isdigit()]
    *_, before, newest = sorted(saved, key=lambda p: int(p.name))
    files = sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)
    victim = rng.choice(files)
    content = bytearray(victim.read_bytes())
    if seed % 2:
        content = content[: rng.randrange(len(content))]
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    victim.write_bytes(bytes(content))
    ended = lab.ended("resume", run)
    is_same = lab.is_same(kind, run, restart=int(before.name))
    lost = ended.code != 0 or not is_same
    where = kind if stage is None else STAGES[stage]
    return counts(where, ended, lost=lost, run=run)


def two_at_once(lab: Lab, kind: str, is_begun: bool) -> Counts:
    """Returns the counts of two processes in one folder: one trains, one is refused.

    Where the run ``is_begun`` both resume one that was killed.
    """
    run, where = lab.new(), f"{kind}, {'resume' if is_begun else 'train'}"
    command: tuple[Any, ...] = ("train", lab.config(kind), "--run-dir", run)
    if is_begun:
        child = lab.start(*command)
        wait_for_run(child, run)
        first, whole = lab.times(kind)
        time.sleep((whole - first) / 2)
        child.signal(signal.SIGKILL)
        child.end()
        command = ("resume", run)
    restart = outcomes.gone_on_from(run) if is_begun else None
    both = [p.end() for p in [lab.start(*command), lab.start(*command)]]
    codes = sorted(ended.code for ended in both)
    # Where the first had ended before the second began there was nothing to refuse.
    allowed = ([0, 0], [0, 2]) if is_begun else ([0, 2],)
    lost = codes not in allowed or not lab.is_same(kind, run, restart=restart)
    return counts(where, *both, lost=lost, run=run)


@contextlib.contextmanager
def disk(lab: Lab, options: str) -> Iterator[pathlib.Path | None]:
    """Yields the folder of a file system in memory, None where none can be mounted."""
    folder = lab.new()
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "tmpfs", str(folder), "-o", options]
    try:
        is_mounted = subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        is_mounted = False
    try:
        yield folder if is_mounted else None
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def on_disk(lab: Lab, kind: str, options: str) -> Counts | None:
    """Returns the counts of a run on a small disk, or on one that cannot be written to.

    ``options`` are of its tmpfs, ``ro`` among them for the second. Given space and leave
    to write the run goes on. None where nothing can be mounted.
    """
    with disk(lab, options.replace("ro", "size=64m")) as folder:
        if folder is None:
            return None
        run = folder / "run"
        if options == "ro":
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        ended = lab.ended("train", lab.config(kind), "--run-dir", run)
        partial = outcomes.is_partial(run)
        again = "remount,rw,size=64m,nr_inodes=0"
        subprocess.run(["mount", "-o", again, str(folder)], check=True)
        # Pictures alone may be missing of a run that ended; it says so.
        undrawn = ended.code == 0 and "plots were not drawn" in ended.said
        last = lab.ended("plot", run) if undrawn else ended
        last = gone_on(lab, kind, run) if ended.code else last
        lost = last.code != 0 or not lab.is_same(kind, run)
        where = f"{kind}, {'read-only' if options == 'ro' else options}"
        endings = (ended, last) if ended.code else (ended,)
        return counts(where, *endings, lost=lost, run=run, partial=partial)
