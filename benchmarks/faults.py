"""Faults on purpose: what is lost when runs of every kind meet kills, disks and NaN.

    python benchmarks/faults.py [--quick] [--out FOLDER] [--only PART ...]

Every kind of run (online, host, and stages: collect, offline, in context) is killed and
resumed, has its checkpoints damaged, its disk filled and its numbers broken; careless
settings are checked. The aim is 0 lost runs, 0 tracebacks, 0 folders that can neither be
gone on with nor begun in anew. A run is lost if it does not end with the rows, results and
pictures of one that was left alone.

Writes faults.json after every try. ``--only`` makes some of the parts and keeps the others
as they are there; with ``--go-on`` parts go on after the tries that it has of them.
"""

from __future__ import annotations

import functools
import itertools
import json
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import common
import faults_configs
import faults_numbers
import faults_processes
import faults_runs
import yaml

KILLS, THRICE, STORMS, DAMAGES, CONFIGS = 50, 3, 10, 20, 300
# Of a tmpfs: from no room for anything on; the last has room but few files.
DISKS = ("size=64k", "size=256k", "size=400k", "size=1m", "nr_inodes=40", "ro")
Tries = Iterator[faults_runs.Counts]
Try = Callable[[], faults_runs.Counts | None]  # None of one that cannot be made here


def parts(lab: faults_runs.Lab, scale: float) -> dict[str, Callable[[int], Tries]]:
    """Returns {part: what yields the counts of each try}; ``scale`` of the full number.

    Each is called with the number of its tries that have been made before.
    """
    kinds = ("online", "host", "stages")

    def tries(full: int, among: Iterable[Any] = kinds) -> Iterator[tuple[int, Any]]:
        return zip(range(max(1, round(scale * full))), itertools.cycle(among))

    def some(*choices: Iterable[Any]) -> Iterator[tuple]:
        every = list(itertools.product(*choices))
        return iter(every[: max(1, round(scale * len(every)))])

    def stopped(full: int, numbers: list[int], times: int = 1) -> Iterator[Try]:
        # Stages are three kinds of runs.
        for seed, kind in tries(full, ("online", "stages", "host", "stages")):
            yield functools.partial(
                faults_runs.stopped, lab, kind, seed, numbers, times
            )

    def damaged() -> Iterator[Try]:
        whole = [("online",), ("host",)]
        for seed, place in tries(
            DAMAGES, [*whole, *(("stages", n) for n in faults_runs.STAGES)]
        ):
            # Cut and flipped of each.
            which = seed + seed // 5
            yield functools.partial(
                faults_runs.damaged, lab, place[0], which, *place[1:]
            )

    def crowded() -> Iterator[Try]:
        for kind, is_begun in some(kinds, (False, True)):
            yield functools.partial(faults_runs.two_at_once, lab, kind, is_begun)

    def disks() -> Iterator[Try]:
        every = [("online", options) for options in DISKS] + [("stages", "size=400k")]
        for kind, options in every[: max(1, round(scale * len(every)))]:
            yield functools.partial(faults_runs.on_disk, lab, kind, options)

    def numbers() -> Iterator[Try]:
        every = faults_numbers.VALUES, faults_numbers.BROKEN
        for value, what, kind in some(*every, ("sweep", "online", "host")):
            if (value, kind) != ("inf", "host"):
                yield functools.partial(faults_numbers.broken, lab, what, value, kind)

    def raising() -> Iterator[Try]:
        for when in list(faults_numbers.WHEN)[: max(1, round(scale * 5))]:
            yield functools.partial(faults_numbers.raising, lab, when, "outside")
        if scale == 1.0:
            when = faults_numbers.WHEN[-1]
            yield functools.partial(faults_numbers.raising, lab, when, "outside host")

    def after(tries: Iterator[Try]) -> Callable[[int], Tries]:
        """Returns what makes them, but for a number of the first."""
        return lambda done: filter(
            None, (x() for x in itertools.islice(tries, done, None))
        )

    return {
        "kill -9": after(stopped(KILLS, [signal.SIGKILL])),
        "kill -9, three times": after(stopped(THRICE, [signal.SIGKILL], times=3)),
        "SIGTERM storm": after(stopped(STORMS, [signal.SIGTERM] * 5)),
        "damaged checkpoint": after(damaged()),
        "two processes": after(crowded()),
        "disk": after(disks()),
        "numbers": after(numbers()),
        "environment": after(raising()),
        "settings": lambda done: careless(round(scale * CONFIGS), lab.folder, done),
    }


def careless(number: int, folder: pathlib.Path, seed: int = 0) -> Tries:
    """Yields the counts of mutated settings from ``seed`` on; nothing is trained.

    A child checks them, so that one that ends the process is noticed and counted.
    """
    while seed < number:
        code = (
            f"import faults; faults.check_settings({seed}, {number}, {str(folder)!r})"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=pathlib.Path(__file__).parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert child.stdout is not None
        for line in child.stdout:
            if not line.startswith("{"):
                print(line, end="", flush=True)
                continue
            seed += 1
            yield json.loads(line)
        child.wait()
        if seed < number:
            print(f"settings {seed}: the process ended with {child.returncode}")
            yield {
                "where": "checked",
                "tried": 1,
                "lost": 1,
                "tracebacks": 0,
                "partial": 0,
            }
            seed += 1


def check_settings(start: int, stop: int, folder: str) -> None:
    """Print the counts of mutated settings, a line each: accepted, or one line."""
    import resource

    from mtrl_jax import errors, xla
    from mtrl_jax.config import loading
    from mtrl_jax.experiments import kinds, stages

    xla.configure_process()
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, resource.RLIM_INFINITY))
    path, none = pathlib.Path(folder) / "careless.yaml", pathlib.Path(folder) / "none"
    for seed in range(start, stop):
        path.write_text(yaml.safe_dump(faults_configs.mutated(seed)))
        where, bad = "accepted", 0
        try:
            run = kinds.run_of(loading.load(path), none)
            if run.is_plain:
                kinds.make_program(run, run.stages[0], for_check=True).close()
            else:
                stages.check(run)
        except errors.MtrlError as error:
            where, bad = "refused", int("\n" in str(error).strip())
        except Exception as error:
            print(f"settings {seed}: {type(error).__name__}: {str(error)[:200]}")
            where, bad = "refused", 1
        counts = {"tried": 1, "lost": 0, "tracebacks": bad, "partial": none.exists()}
        print(json.dumps({"where": where, **counts}), flush=True)


def total_of(tries: Iterable[faults_runs.Counts]) -> dict[str, int]:
    """Returns the sums of counts."""
    total = dict.fromkeys(faults_runs.COUNTED, 0)
    for counts in tries:
        total = {key: total[key] + int(counts[key]) for key in total}
    return total


def by_place(tries: Iterable[faults_runs.Counts]) -> dict[str, dict[str, int]]:
    """Returns {where: the sums of counts} in the order of first mention."""
    tries = list(tries)
    places = dict.fromkeys(counts["where"] for counts in tries)
    return {x: total_of(c for c in tries if c["where"] == x) for x in places}


def main() -> None:
    """Print the table and write faults.json."""
    parser = common.parser(__doc__, "a few of each fault")
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts alone")
    parser.add_argument("--go-on", action="store_true", help="after earlier tries")
    parser.add_argument(
        "--programs", type=pathlib.Path, help="compiled programs of an earlier call"
    )
    arguments = parser.parse_args()
    written = arguments.out / "faults.json"
    found: dict[str, Any] = {}
    if (arguments.only or arguments.go_on) and written.exists():
        found = json.loads(written.read_text())["faults"]
    with (
        tempfile.TemporaryDirectory() as temporary,
        faults_processes.started(arguments.programs or pathlib.Path(temporary) / "xla"),
    ):
        folder = pathlib.Path(temporary)
        faults_numbers.write_flaky(folder, "never")
        lab = faults_runs.Lab(folder, faults_configs.kinds(), not arguments.programs)
        for name, tries in parts(lab, 0.04 if arguments.quick else 1.0).items():
            if arguments.only and name not in arguments.only:
                continue
            places = found.get(name, {}) if arguments.go_on else {}
            done = [{"where": place, **total} for place, total in places.items()]
            for counts in tries(total_of(done)["tried"]):
                done.append(counts)
                found[name] = by_place(done)
                result = {"environment": common.environment(), "faults": found}
                common.write(arguments.out, "faults", result)
            line = "  ".join(f"{key} {n}" for key, n in total_of(done).items())
            print(f"{name:24s} {line}", flush=True)


if __name__ == "__main__":
    main()
