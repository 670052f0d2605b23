"""How tests start runs: through the command line, in this process or in another."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import pty
import select
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple
from unittest import mock

import jax
import numpy as np
import pytest
from tiny_settings import ONLINE as TINY

ROOT = pathlib.Path(__file__).resolve().parent.parent
UPDATES = 40
STEPS = 16  # environment steps of one update, per member
MAIN = "from mtrl_jax import cli; cli.main()"
# What two runs with the same numbers may differ in.
_OF_THE_PROCESS = ("wall_s", "steps_per_s", "compiles")


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line that a known error is; fails if it is anything else."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("mtrl: "), self.err
        return lines[0]


def mtrl(*arguments: Any) -> Outcome:
    """Returns the outcome of ``mtrl ARGUMENTS`` run in this process."""
    from mtrl_jax import cli

    argv = ["mtrl", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.object(sys, "argv", argv),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        warnings.catch_warnings(),
    ):
        # The command prints these for the user, and tests read it.
        warnings.simplefilter("always", UserWarning)
        try:
            cli.main()
        except SystemExit as left:
            code = int(left.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def refusal(config: pathlib.Path, overrides: str, run: pathlib.Path) -> str:
    """Returns the one line that a run of a config is refused with, before it is written.

    ``overrides`` are ``KEY=VALUE``, blanks between; a value may hold blanks, but not one
    before a ``stages.``. Below the command line, which adds "mtrl: " and exit code 2
    (tests/experiments/test_faults.py).
    """
    from mtrl_jax import errors
    from mtrl_jax.config import loading
    from mtrl_jax.experiments import runs

    parts = overrides.replace(" stages.", "\nstages.").split("\n")
    with pytest.raises(errors.ConfigError) as refused:
        runs.train(loading.load(config, parts), run, where=str(config))
    line = str(refused.value)
    assert "\n" not in line and not run.exists()
    assert line.startswith(f"{config}: "), line
    return line


def start(
    *arguments: Any, cache: pathlib.Path | None = None, before: str = ""
) -> subprocess.Popen:
    """Returns the process of ``mtrl ARGUMENTS``, started in the folder of the checkout.

    ``cache`` is where it keeps compiled programs, ``before`` Python that it runs first.
    """
    return subprocess.Popen(
        [sys.executable, "-c", f"{before}\n{MAIN}", *map(str, arguments)],
        cwd=ROOT,
        env=environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_in_terminal(
    *arguments: Any, cache: pathlib.Path | None = None
) -> tuple[subprocess.Popen, int]:
    """Returns the process of ``mtrl ARGUMENTS`` in a terminal of its own, and our end.

    What is written there it has typed; closing it hangs up.
    """
    ours, theirs = pty.openpty()
    control = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)"
    process = subprocess.Popen(
        [sys.executable, "-c", f"{control}\n{MAIN}", *map(str, arguments)],
        cwd=ROOT,
        env=environment(cache),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    return process, ours


def watch(terminal: int, happened: Callable[[], bool], timeout_s: float = 600) -> None:
    """Read what is on the terminal until ``happened()``; fails after ``timeout_s``."""
    until = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < until
        if select.select([terminal], [], [], 0.05)[0]:
            with contextlib.suppress(OSError):  # Nobody is at the other end any more.
                os.read(terminal, 1 << 16)


def environment(cache: pathlib.Path | None) -> dict[str, str]:
    """Returns the variables of a process that keeps compiled programs in ``cache``."""
    if cache is None:
        return dict(os.environ)
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def ended(process: subprocess.Popen, timeout_s: float = 300) -> Outcome:
    """Returns the outcome of a started process."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"the process did not end: {out}{err}") from None
    return Outcome(process.returncode, out, err)


def wait_for(
    process: subprocess.Popen, happened: Callable[[], bool], timeout_s: float = 300
) -> None:
    """Wait until ``happened()``; fail if the process ends before."""
    until = time.monotonic() + timeout_s
    while not happened():
        if process.poll() is not None:
            raise AssertionError(f"the run ended early: {ended(process).err}")
        if time.monotonic() > until:
            process.kill()
            raise AssertionError(f"nothing in {timeout_s} s: {ended(process).err}")
        time.sleep(0.02)


def newest_row(run: pathlib.Path) -> int:
    """Returns the update of the last whole line of metrics.jsonl, -1 if there is none."""
    path = run / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["update"] if lines else -1


def write(path: pathlib.Path, *changes: str) -> pathlib.Path:
    """Returns the path of a YAML file with the tiny settings."""
    import yaml

    from mtrl_jax import config

    path.write_text(yaml.safe_dump(config.override(TINY, changes)))
    return path


def train(folder: pathlib.Path, *changes: str) -> Outcome:
    """Returns the outcome of training the tiny settings, which must end well."""
    config = write(folder.with_name(f"{folder.name}.yaml"))
    outcome = mtrl("train", config, *changes, "--run-dir", folder)
    assert outcome.code == 0, outcome.err
    return outcome


@contextlib.contextmanager
def walks():
    """A list of the package's files on the stack, one of each loss that is traced."""
    from mtrl_jax.agents.common import objective

    package, total, found = ROOT / "mtrl_jax", objective.total, []

    def noted(*args):
        files = [pathlib.Path(x.filename) for x in traceback.extract_stack()]
        own = [x.relative_to(package) for x in files if x.is_relative_to(package)]
        found.append(list(dict.fromkeys(x.as_posix() for x in own)))
        return total(*args)

    with mock.patch.object(objective, "total", noted):
        yield found


class Ended(Exception):
    """Stands for the end of the process in tests that stay in one."""


def mtrl_ending_at(update: int, *arguments: Any) -> None:
    """Runs a command that ends before it logs ``update``; fails if it does not."""
    from mtrl_jax import metrics

    write = metrics.MetricsWriter.write

    def end(self, **row):
        if row["update"] == update:
            raise Ended
        write(self, **row)

    with mock.patch.object(metrics.MetricsWriter, "write", end):
        try:
            mtrl(*arguments)
        except Ended:
            return
    raise AssertionError(f"the command never came to update {update}")


def rows(run: pathlib.Path, *without: str) -> list[dict]:
    """Returns metrics.jsonl without what depends on the process, and ``without``."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    skipped = (*_OF_THE_PROCESS, *without)
    return [
        {name: x for name, x in json.loads(line).items() if name not in skipped}
        for line in lines
    ]


def compiles(run: pathlib.Path, after: int = -1) -> set[int]:
    """Returns the different numbers of compiled programs in the rows after ``after``."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return {row["compiles"] for row in found if row["update"] > after}


def checkpoints(run: pathlib.Path) -> list[int]:
    """Returns the updates a run has checkpoints of."""
    names = [path.name for path in (run / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def assert_same(run: pathlib.Path, other: pathlib.Path) -> None:
    """Fails where two runs differ in a row, a PBT round, a bit of state, or a result."""
    assert rows(run) == rows(other)
    lineages = [(folder / "lineage.jsonl").read_text() for folder in (run, other)]
    assert lineages[0] == lineages[1]
    own, others = bits(run), bits(other)
    assert own.keys() == others.keys()
    assert not [name for name in own if own[name] != others[name]]
    results = [json.loads((f / "summary.json").read_text()) for f in (run, other)]
    for name in ("tasks", "best_member", "score"):
        assert results[0][name] == results[1][name]


def bits(run: pathlib.Path, stage: str | None = None) -> dict[str, bytes]:
    """Returns every array of the newest checkpoint of a run, or of a stage of it.

    By name, as bytes.
    """
    from mtrl_jax.experiments import kinds, reading

    def plain(x) -> bytes:
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x = jax.random.key_data(x)
        return np.asarray(x).tobytes()

    whole = kinds.run_of(reading.load_config(run), run)
    chosen = whole.stage(stage) if stage else whole.stages[0]
    with kinds.restored(whole, chosen) as (update, _, saved):
        leaves = jax.tree_util.tree_leaves_with_path(saved)
        named = {jax.tree_util.keystr(path): plain(x) for path, x in leaves}
    return {"update": str(update).encode(), **named}
