"""How fast training is on an accelerator, each row as a share of what the device can do.

    python benchmarks/accelerator.py [--wheels DIR] [--only NAME ...] [--out DIR]

One command on a bare machine with a GPU or TPU, under 8 minutes.
Rows, most important first: PPO with a small network, V-trace with an MLP and on frames
of Atari's size, against the number of members P; Labyrinth as rays and pixels; updates of
transformers and of DreamerV2; memories; convolutions; emulators driven from Python.
Ceilings are measured in the same run: a large matrix product, a copy, an empty loop, the
pool of emulators alone (``accelerator_measure.py``); sizes: ``accelerator_cases.py``.

Every row is written to accelerator.json as soon as it is there and is not measured again:
a run that is stopped, or out of time, goes on where it was. A case that fails, ends its
process or takes longer than ``--limit`` is reported in its row, and the others go on;
``--again`` measures what failed anew. ``--cpu`` is a test of all this at tiny sizes, with
numbers that mean nothing, in accelerator_cpu.json.

What is not installed travels as wheels (``accelerator_wheels.py`` says which):

    python benchmarks/accelerator.py --requirements > wheels.txt    # where the kit is
    pip download --no-deps -r wheels.txt -d wheels                  # for that machine
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import accelerator_measure as measure
import accelerator_wheels as wheels
import common

COLUMNS = {
    "case": "<34",
    "unit": "<30",
    "per s": ">14,.0f",
    "ms": ">10.2f",
    "first s": ">8.1f",
    "of flops": ">9.3f",
    "of bytes": ">9.3f",
    "of loop": ">8.3f",
    "of parts": ">9.3f",
    "of pool": ">8.3f",
}
LEAST = 20.0  # seconds that have to be left for a case to begin


class Ended(Exception):
    """The worker gave no answer; its text says why."""


def main() -> int:
    """Measure what is not yet there; print and write row by row; returns the exit code."""
    args = arguments()
    if args.requirements:
        print("\n".join(wheels.requirements(args.have)))
        return 0
    if args.wheels is not None:
        wheels.install(args.wheels)
    if lacking := wheels.missing():
        print(wheels.advice(lacking), file=sys.stderr)
        return 2
    if args.cpu:
        os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        return run(args, time.monotonic() + 60 * args.minutes)
    except Ended as error:
        print(error, file=sys.stderr)
        return 2


def run(args: argparse.Namespace, deadline: float) -> int:
    """Returns 0 if every case asked for has a row and none failed, else 1."""
    name = "accelerator_cpu" if args.cpu else "accelerator"
    with Worker(args.cpu) as worker:
        result = begun(args.out / f"{name}.json", worker.machine)
        todo = chosen(args, worker.cases, result["rows"])
        print(common.header(COLUMNS), flush=True)
        while todo and deadline - time.monotonic() > min(LEAST, args.limit):
            case = todo.pop(0)
            row = attempt(worker, case, args.limit, deadline)
            if row is None:
                todo.insert(0, case)
                break
            most = result["rows"].get("ceilings", {})
            row |= measure.fractions(row, most) | {"date": common.moment()["date"]}
            result["rows"][case] = row
            print(shown(case, row), flush=True)
            written = common.write(args.out, name, result)
            print(f"written: {written}", file=sys.stderr)
    failed = [case for case, row in result["rows"].items() if "failed" in row]
    if failed:
        print(f"failed: {', '.join(failed)}; --again measures them anew")
    if todo:
        print(f"out of time, left: {', '.join(todo)}; the same command goes on")
    return int(bool(failed or todo))


def attempt(
    worker: Worker, case: str, limit: float, deadline: float
) -> dict[str, Any] | None:
    """Returns the row of a case, its failure, or None if the whole run is out of time."""
    left = deadline - time.monotonic()
    try:
        return worker.ask(case, min(limit, left))
    except Ended as error:
        if left < limit and time.monotonic() >= deadline:
            return None
        worker.start()
        return {"failed": str(error)}


def begun(path: pathlib.Path, machine: dict[str, Any]) -> dict[str, Any]:
    """Returns the result in ``path`` if it is of this kind of device, else a new one."""
    if path.exists():
        result = json.loads(path.read_text())
        if result["machine"]["device"] == machine["device"]:
            return result
        print(f"{path} is of {result['machine']['device']}: it is written anew")
    return {"machine": machine, "rows": {}}


def chosen(
    args: argparse.Namespace, cases: list[str], rows: dict[str, Any]
) -> list[str]:
    """Returns the cases to measure; raises Ended for a name that none has."""
    wanted = args.only or cases
    if unknown := [name for name in wanted if name not in cases]:
        raise Ended(f"--only: there is no {unknown[0]!r}, use {', '.join(cases)}")
    return [c for c in wanted if c not in rows or (args.again and "failed" in rows[c])]


def shown(case: str, row: dict[str, Any]) -> str:
    """Returns the line of a row."""
    if "failed" in row:
        return f"{case:<34} failed: {row['failed']}"
    if case == "ceilings":
        most = [f"{name}: {x:,.1f}" for name, x in row.items() if isinstance(x, float)]
        return f"{case:<34} {', '.join(most)}"
    return common.line(row | {"case": case}, COLUMNS)


class Worker:
    """A process that measures a case when asked to; one that ends harms no other case."""

    def __init__(self, tiny: bool, serve: Callable[..., None] | None = None) -> None:
        self._tiny, self._serve = tiny, serve or serving
        self._process: Any = None

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.stop()

    def start(self) -> None:
        """Begin a new process; what it is and can measure becomes known."""
        self.stop()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=self._serve, args=(theirs, self._tiny), daemon=True
        )
        self._process.start()
        theirs.close()
        hello = self._answer(120.0)
        if "failed" in hello:
            raise Ended(hello["failed"])
        self.machine, self.cases = hello["machine"], hello["cases"]

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def ask(self, case: str, seconds: float) -> dict[str, Any]:
        """Returns a case's row; raises Ended if none comes in so many seconds."""
        self._pipe.send(case)
        return self._answer(seconds)

    def _answer(self, seconds: float) -> dict[str, Any]:
        if not self._pipe.poll(seconds):
            raise Ended(f"no answer in {seconds:.0f} s")
        try:
            return self._pipe.recv()
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            raise Ended(f"its process ended with code {code}") from None


def serving(pipe: Any, tiny: bool) -> None:
    """Measure the cases whose names arrive until the other end closes."""
    from mtrl_jax import xla

    xla.configure_process()
    import jax

    if jax.default_backend() == "cpu" and not tiny:
        pipe.send({"failed": "no accelerator is here; --cpu is a test without one"})
        return
    import accelerator_cases

    found = accelerator_cases.cases(tiny)
    pipe.send({"machine": common.environment(), "cases": list(found)})
    with contextlib.suppress(EOFError, BrokenPipeError):  # nobody asks any more
        while True:
            pipe.send(row_of(found[pipe.recv()]))
            # What a case compiled is of no use to the next, and its memory is.
            jax.clear_caches()


def row_of(case: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns a case's row, or what went wrong as the first line of its error."""
    try:
        return case()
    except Exception as error:
        text = str(error).strip().splitlines()
        return {"failed": f"{type(error).__name__}: {(text or [''])[0]}"[:300]}


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    made.add_argument("--out", type=pathlib.Path, default=common.RESULTS)
    made.add_argument("--cpu", action="store_true", help="tiny sizes, a test")
    made.add_argument("--only", nargs="+", metavar="NAME", help="cases, by name")
    made.add_argument("--again", action="store_true", help="measure failed cases anew")
    made.add_argument("--minutes", type=float, default=8.0, help="of the whole run")
    made.add_argument("--limit", type=float, default=120.0, help="seconds of a case")
    made.add_argument("--wheels", type=pathlib.Path, help="a folder to install from")
    made.add_argument(
        "--requirements", action="store_true", help="print wheels to bring"
    )
    made.add_argument("--have", nargs="+", default=wheels.HAVE, help="what is there")
    return made.parse_args()


if __name__ == "__main__":
    sys.exit(main())
