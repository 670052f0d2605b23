"""Runs as processes, what is done to them, and what must be left of them."""

from __future__ import annotations

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple

import yaml

# What two runs with the same numbers may differ in.
_OF_THE_PROCESS = ("wall_s", "steps_per_s", "compiles")
_TIMEOUT_S = 400


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    said: str

    @property
    def is_traceback(self) -> bool:
        """Whether it said more than one line of what is wrong."""
        return "Traceback (most recent call last)" in self.said


class Lab:
    """A folder of runs, the reference of every kind, one cache of compiled programs."""

    def __init__(
        self,
        folder: pathlib.Path,
        kinds: dict[str, dict[str, Any]],
        programs: pathlib.Path | None = None,
    ):
        self.folder = folder
        self.programs = programs or folder / "programs"
        self.seconds: dict[str, float] = {}  # of a whole run with compiled programs
        self._count = 0
        for kind, settings in kinds.items():
            folder.mkdir(parents=True, exist_ok=True)
            self.config(kind).write_text(yaml.safe_dump(settings))
            if programs is None:  # Compile first, then take the time.
                self.ended("train", self.config(kind), "--run-dir", self.new())
            begun = time.monotonic()
            ended = self.ended(
                "train", self.config(kind), "--run-dir", self.whole(kind)
            )
            self.seconds[kind] = time.monotonic() - begun
            assert ended.code == 0, ended.said

    def config(self, kind: str) -> pathlib.Path:
        """Returns the settings of a kind."""
        return self.folder / f"{kind}.yaml"

    def whole(self, kind: str) -> pathlib.Path:
        """Returns a run of a kind that nothing happened to."""
        return self.folder / f"{kind}-whole"

    def new(self) -> pathlib.Path:
        """Returns a path that no run has."""
        self._count += 1
        return self.folder / f"run {self._count}"

    def start(self, *arguments: Any, code: str = "") -> subprocess.Popen:
        """Returns the process of ``mtrl ARGUMENTS``, after Python ``code``."""
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(self.programs),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        program = f"{code}\nfrom mtrl_jax import cli; cli.main()"
        return subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ended(self, *arguments: Any, code: str = "") -> Ended:
        """Returns how ``mtrl ARGUMENTS`` ended."""
        return end(self.start(*arguments, code=code))

    def is_same(self, kind: str, run: pathlib.Path) -> bool:
        """Returns whether a run has the rows and results of the one left alone."""
        return outcome_of(run) == outcome_of(self.whole(kind))


def end(process: subprocess.Popen) -> Ended:
    """Returns how a started process ended; killed if it does not."""
    try:
        said, _ = process.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        said, _ = process.communicate()
        said += "\nTraceback (most recent call last): it did not end"
    return Ended(process.returncode, said)


def outcome_of(run: pathlib.Path) -> dict[str, Any]:
    """Returns {file: content} of all rows, rounds and results in a run's folder."""
    found: dict[str, Any] = {}
    for path in sorted(run.rglob("*.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            for name in _OF_THE_PROCESS:
                row.pop(name, None)
        found[str(path.relative_to(run))] = rows
    for path in sorted(run.rglob("summary.json")):
        summary = json.loads(path.read_text())
        keys = ("tasks", "score", "best_member", "complete")
        found[str(path.relative_to(run))] = {k: summary.get(k) for k in keys}
    return found


def is_partial(run: pathlib.Path) -> bool:
    """Returns whether a folder can neither be gone on with nor begun in anew."""
    if not run.exists() or (run / "config.yaml").exists():
        return False
    left = {path.name for path in run.iterdir()}
    return not left <= {".lock", "checkpoints", ".config.yaml.tmp"}


def gone_on(lab: Lab, kind: str, run: pathlib.Path) -> Ended:
    """Returns how a run ended that was stopped anywhere: resumed, or begun anew."""
    if (run / "config.yaml").exists():
        return lab.ended("resume", run)
    return lab.ended("train", lab.config(kind), "--run-dir", run)


def stopped(lab: Lab, kind: str, seed: int, numbers: list[int]) -> dict[str, int]:
    """Returns the counts of a run that signals stop up to three times, then goes on."""
    rng, run = random.Random(seed), lab.new()
    tracebacks = 0
    for attempt in range(rng.randint(1, 3)):
        begun = attempt and (run / "config.yaml").exists()
        arguments = ("resume", run) if begun else ("train", lab.config(kind))
        more = () if begun else ("--run-dir", run)
        process = lab.start(*arguments, *more)
        time.sleep(rng.uniform(0.0, 1.1 * lab.seconds[kind]))
        for number in numbers:
            if process.poll() is None:
                process.send_signal(number)
        ended = end(process)
        # A signal while Python itself starts or ends is Python's to answer.
        early = ended.code == -signal.SIGINT or not run.exists()
        tracebacks += ended.is_traceback and not early
    partial = is_partial(run)
    last = gone_on(lab, kind, run)
    lost = last.code != 0 or not lab.is_same(kind, run)
    return _counts(1, lost, tracebacks + last.is_traceback, partial)


def damaged(lab: Lab, kind: str, seed: int) -> dict[str, int]:
    """Returns the counts of a run with a cut or flipped file in its newest checkpoint."""
    rng, run = random.Random(seed), lab.new()
    subprocess.run(["cp", "-r", lab.whole(kind), run], check=True)
    newest = max((run / "checkpoints").iterdir(), key=lambda p: int(_number(p)))
    files = sorted(p for p in newest.rglob("*") if p.is_file() and p.stat().st_size)
    victim = rng.choice(files)
    content = bytearray(victim.read_bytes())
    if seed % 2:
        content = content[: rng.randrange(len(content))]
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    victim.write_bytes(bytes(content))
    ended = lab.ended("resume", run)
    lost = ended.code != 0 or not lab.is_same(kind, run)
    return _counts(1, lost, ended.is_traceback, is_partial(run))


def _number(path: pathlib.Path) -> str:
    return path.name if path.name.isdigit() else "-1"


def two_at_once(lab: Lab, kind: str) -> dict[str, int]:
    """Returns the counts of two processes in one folder: one trains, one is refused."""
    run = lab.new()
    command = ("train", lab.config(kind), "--run-dir", run)
    both = [end(p) for p in [lab.start(*command), lab.start(*command)]]
    codes = sorted(ended.code for ended in both)
    lost = codes != [0, 2] or not lab.is_same(kind, run)
    tracebacks = sum(ended.is_traceback for ended in both)
    return _counts(1, lost, tracebacks, is_partial(run))


def on_disk(lab: Lab, kind: str, options: str, after: str) -> dict[str, int] | None:
    """Returns the counts of a run on a small or read-only disk, None without mounts.

    ``options`` are of its tmpfs, ``after`` of a second mount before the run; given space
    and leave to write it goes on.
    """
    disk = lab.new()
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(disk), "-o"]
    try:
        if subprocess.run([*mount, options], capture_output=True).returncode:
            return None
    except OSError:
        return None
    try:
        run = disk / "run"
        if after:
            subprocess.run(["mount", "-o", after, str(disk)], check=True)
        ended = lab.ended("train", lab.config(kind), "--run-dir", run)
        partial = is_partial(run)
        subprocess.run(["mount", "-o", "remount,rw,size=64m", str(disk)], check=True)
        last = gone_on(lab, kind, run) if ended.code else ended
        lost = last.code != 0 or not lab.is_same(kind, run)
        return _counts(1, lost, ended.is_traceback + last.is_traceback, partial)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def broken_numbers(lab: Lab, code: str, *changes: str) -> dict[str, int]:
    """Returns the counts of a run that meets NaN: it ends well, or says so in a line."""
    run = lab.new()
    command = ("train", lab.config("online"), *changes, "--run-dir", run)
    ended = lab.ended(*command, code=code)
    kept = any(p.name.isdigit() for p in (run / "checkpoints").glob("*"))
    lost = ended.code not in (0, 1) or not kept
    return _counts(1, lost, ended.is_traceback, is_partial(run))


def _counts(tried: int, lost: int, tracebacks: int, partial: int) -> dict[str, int]:
    return {
        "tried": tried,
        "lost": int(lost),
        "tracebacks": int(tracebacks),
        "partial": int(partial),
    }
