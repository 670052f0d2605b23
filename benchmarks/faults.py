"""Faults on purpose: what is lost when runs of every kind meet kills, disks and NaN.

    python benchmarks/faults.py [--quick] [--out FOLDER]

Every kind of run (online, host, and stages: collect, offline, in context) is killed and
resumed, has its checkpoints damaged, its disk filled and its numbers broken; careless
settings are checked. The aim is 0 lost runs, 0 tracebacks, 0 folders that can neither be
gone on with nor begun in anew. A run is lost if it does not end with the rows and results
of one that was left alone. Writes faults.json.
"""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator

import common
import faults_configs
import faults_runs
import yaml

KILLS, STORMS, DAMAGES, CONFIGS = 50, 10, 40, 300
# Every reward, or observation, of the probes is NaN from now and then on.
_BROKEN = """
import jax, jax.numpy as jnp
from mtrl_jax.envs import probes
_task = probes.task
def task(name, options=None):
    made = _task(name, options)
    def step(key, state, action, params):
        state, obs, reward, *rest = made.step(key, state, action, params)
        broken = jax.random.uniform(jax.random.fold_in(key, 7)) < {share}
        worse = lambda x: jnp.where(broken, {value}, x).astype(x.dtype)
        {line}
        return (state, obs, reward, *rest)
    return made._replace(step=step)
probes.task = task
"""
_REWARD, _OBS = "reward = worse(reward)", "obs = jax.tree.map(worse, obs)"
_RAISES = _BROKEN.replace("{line}", "raise ZeroDivisionError('an environment fails')")


def scenarios(lab: faults_runs.Lab, scale: float) -> dict[str, Callable[[], Iterator]]:
    """Returns {name: what yields the counts of each try}; ``scale`` of the full number."""
    kinds = list(faults_configs.kinds())

    def tries(full: int) -> Iterator[tuple[int, str]]:
        for seed in range(max(1, round(scale * full))):
            yield seed, kinds[seed % len(kinds)]

    def killed():
        for seed, kind in tries(KILLS):
            yield faults_runs.stopped(lab, kind, seed, [signal.SIGKILL])

    def stormed():
        for seed, kind in tries(STORMS):
            yield faults_runs.stopped(lab, kind, seed, [signal.SIGTERM] * 5)

    def damaged():
        for seed, _ in tries(DAMAGES):
            yield faults_runs.damaged(lab, "online", seed)

    def crowded():
        for _, kind in tries(len(kinds)):
            yield faults_runs.two_at_once(lab, kind)

    def disks():
        for options, after in (
            ("size=64k", ""),
            ("size=400k", ""),
            ("size=1m", ""),
            ("size=64m", "remount,ro"),
        ):
            if found := faults_runs.on_disk(lab, "online", options, after):
                yield found

    return {
        "kill -9": killed,
        "SIGTERM storm": stormed,
        "damaged checkpoint": damaged,
        "two processes": crowded,
        "full or read-only disk": disks,
        "NaN and infinity": lambda: broken_numbers(lab),
        "careless settings": lambda: careless(round(scale * CONFIGS), lab.folder),
    }


def broken_numbers(lab: faults_runs.Lab) -> Iterator[dict[str, int]]:
    """Yields the counts of runs whose numbers break, of one member and of all."""
    search = "population.search={learning_rate: {low: 1e-3, high: 1e30, log: true, "
    yield faults_runs.broken_numbers(
        lab, "", search + "initial: [1e-3,1e-3,1e-3,1e30]}}"
    )
    yield faults_runs.broken_numbers(
        lab, "", search + "initial: [1e30,1e30,1e30,1e30]}}"
    )
    for share in (0.002, 1.1):
        for line in (_REWARD, _OBS):
            for value in ("jnp.nan", "jnp.inf"):
                code = _BROKEN.format(share=share, value=value, line=line)
                yield faults_runs.broken_numbers(lab, code)


def careless(number: int, folder: pathlib.Path) -> Iterator[dict[str, int]]:
    """Yields the counts of mutated settings: checked, nothing is trained.

    A child checks them, so that one that ends the process is noticed and counted.
    """
    seed = 0
    while seed < number:
        code = (
            f"import faults; faults.check_settings({seed}, {number}, {str(folder)!r})"
        )
        child = subprocess.run(
            [sys.executable, "-c", code],
            cwd=pathlib.Path(__file__).parent,
            capture_output=True,
            text=True,
        )
        lines = [x for x in child.stdout.splitlines() if x.startswith("{")]
        for line in lines:
            yield json.loads(line)
        seed += len(lines)
        if seed < number:
            print(f"settings {seed}: the process ended with {child.returncode}")
            print(child.stderr[-300:])
            yield {"tried": 1, "lost": 1, "tracebacks": 0, "partial": 0}
            seed += 1


def check_settings(start: int, stop: int, folder: str) -> None:
    """Prints the counts of mutated settings, a line each: accepted, or one line."""
    import resource

    from mtrl_jax import errors, xla
    from mtrl_jax.config import loading
    from mtrl_jax.experiments import kinds, stages

    xla.prepare()
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, resource.RLIM_INFINITY))
    path, none = pathlib.Path(folder) / "careless.yaml", pathlib.Path(folder) / "none"
    for seed in range(start, stop):
        path.write_text(yaml.safe_dump(faults_configs.mutated(seed)))
        bad = 0
        try:
            run = kinds.run_of(loading.load(path), none)
            if run.is_plain:
                kinds.make_program(run, run.stages[0], for_check=True).close()
            else:
                stages.check(run)
        except errors.MtrlError as error:
            bad = int("\n" in str(error).strip())
        except Exception as error:
            print(f"settings {seed}: {type(error).__name__}: {str(error)[:200]}")
            bad = 1
        counts = {
            "tried": 1,
            "lost": 0,
            "tracebacks": bad,
            "partial": int(none.exists()),
        }
        print(json.dumps(counts), flush=True)


def total_of(tries: Iterable[dict[str, int]]) -> dict[str, int]:
    """Returns the sums of counts."""
    total = {"tried": 0, "lost": 0, "tracebacks": 0, "partial": 0}
    for counts in tries:
        total = {key: total[key] + counts[key] for key in total}
    return total


def measure(scale: float, folder: pathlib.Path) -> dict[str, dict[str, int]]:
    """Returns {scenario: counts} of all scenarios in a folder for their runs."""
    lab = faults_runs.Lab(folder, faults_configs.kinds())
    found = {}
    for name, tries in scenarios(lab, scale).items():
        found[name] = total_of(tries())
        line = "  ".join(f"{key} {n}" for key, n in found[name].items())
        print(f"{name:24s} {line}", flush=True)
    return found


def main() -> None:
    """Prints the table and writes faults.json."""
    arguments = common.parser(__doc__, "a few of each fault").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(0.04 if arguments.quick else 1.0, pathlib.Path(folder))
    result = {"environment": common.environment(), "faults": found}
    common.write(arguments.out, "faults", result)


if __name__ == "__main__":
    main()
