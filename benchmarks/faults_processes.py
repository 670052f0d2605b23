"""The command ``mtrl`` in processes that are quick to start and can be signalled."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

_TIMEOUT_S = 1500
_HERE = str(pathlib.Path(__file__).parent)
# What a process has imported before it begins; none of it starts a thread or a device.
_IMPORTED = (
    *("mtrl_jax.cli", "mtrl_jax.experiments.runs", "mtrl_jax.plots"),
    *("optax", "distrax", "orbax.checkpoint", "matplotlib.pyplot", "rich.progress"),
)
_VARIABLES = {
    "JAX_PLATFORMS": "cpu",
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "MPLBACKEND": "agg",
}
# Nothing here is worth optimising.
_QUICK = "--xla_backend_optimization_level=0"


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    said: str

    @property
    def is_traceback(self) -> bool:
        """Whether it said more than one line of what is wrong."""
        return "Traceback (most recent call last)" in self.said


class Child(NamedTuple):
    """A started command."""

    pid: int
    code: Callable[[], int | None]  # None while it runs
    log: pathlib.Path

    def signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.code() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def end(self) -> Ended:
        """Returns how it ended; killed if it does not."""
        until, said = time.monotonic() + _TIMEOUT_S, ""
        while self.code() is None and time.monotonic() < until:
            time.sleep(0.02)
        if self.code() is None:
            self.signal(9)
            said = "Traceback (most recent call last): it did not end"
        while (code := self.code()) is None:
            time.sleep(0.02)
        return Ended(code, self.log.read_text(errors="replace") + said)


@contextlib.contextmanager
def started(programs: pathlib.Path, flags: str = _QUICK) -> Iterator[None]:
    """Start what forks the processes, with XLA's ``flags``.

    Compiled programs are kept in ``programs``.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_IMPORTED))
    before = dict(os.environ)
    kept = {"JAX_COMPILATION_CACHE_DIR": str(programs)}
    os.environ.update(_VARIABLES, XLA_FLAGS=flags, **kept)
    try:
        multiprocessing.forkserver.ensure_running()
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def fork(log: pathlib.Path, code: str, *arguments: Any) -> Child:
    """Returns the command in a process that has its imports done."""
    context = multiprocessing.get_context("forkserver")
    process = context.Process(
        target=_command, args=(str(log), code, list(map(str, arguments)))
    )
    log.touch()
    process.start()
    assert process.pid is not None
    return Child(process.pid, lambda: process.exitcode, log)


def execute(log: pathlib.Path, *arguments: Any) -> Child:
    """Returns the command in a process from its first instruction on."""
    with open(log, "w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mtrl_jax", *map(str, arguments)],
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    return Child(process.pid, process.poll, log)


def _command(log: str, code: str, arguments: list[str]) -> None:
    file = os.open(log, os.O_WRONLY | os.O_TRUNC)
    for number in (1, 2):
        os.dup2(file, number)
    sys.path.append(_HERE)
    sys.argv = ["mtrl", *arguments]
    exec(code)
    from mtrl_jax import cli

    cli.main()
