"""What the start of a run costs: initial weights, and large programs compiled again.

Rows ``weights``: processor seconds of compiling the initial weights of four members, drawn
leaf by leaf and by a few hashes together (``engine.batched_draws``). Rows ``cache``:
processor seconds of a whole short run of ``configs/quickstart.yaml`` in a process of its
own, without ``JAX_COMPILATION_CACHE_DIR``, with an empty folder and with the one that this
filled. Ways are measured in turn; the ratio, of the first way over a way, is taken within
a turn, and what is shown is the median over turns.

    python benchmarks/startup.py [--quick] [--turns 3]
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import common
import jax
import jax.numpy as jnp

from mtrl_jax import agents, envs, random
from mtrl_jax.config import agent_settings, loading
from mtrl_jax.engine import batched_draws

CONFIGS = pathlib.Path(__file__).resolve().parent.parent / "configs"
MEMBERS = 4
WEIGHTS = {
    "quickstart": "gymnax/CartPole-v1",
    "minatar_ppo": "gymnax/Breakout-MinAtar",
    "dreamer_v2_minatar": "gymnax/Breakout-MinAtar",
}
ENV_STEPS = 60_000
COLUMNS = {
    "part": "<8",
    "case": "<20",
    "way": "<14",
    "cpu_s": ">8.1f",
    "ratio": ">6.2f",
    "low": ">6.2f",
    "high": ">6.2f",
}


def main() -> None:
    """Measures, prints and writes after every case."""
    args = arguments()
    rows: list[dict[str, Any]] = []
    print(common.header(COLUMNS), flush=True)

    def add(part: str, case: str, taken: dict[str, list[float]]) -> None:
        for row in rows_of(part, case, taken):
            rows.append(row)
            print(common.line(row, COLUMNS), flush=True)
        result = {"machine": common.environment(), "turns": args.turns, "rows": rows}
        common.write(args.out, "startup", result)

    for case in args.weights:
        add("weights", case, in_turn(weights(case), args.turns))
    if not args.quick:
        taken: dict[str, list[float]] = {}
        for _ in range(args.turns):
            for way, seconds in short_runs().items():
                taken.setdefault(way, []).append(seconds)
        add("cache", "quickstart", taken)


def rows_of(part: str, case: str, taken: dict[str, list[float]]) -> list[dict]:
    """Returns a row for each way from its seconds in every turn."""
    first = next(iter(taken.values()))
    made = []
    for way, seconds in taken.items():
        ratios = [x / y for x, y in zip(first, seconds, strict=True)]
        made.append(
            {
                "part": part,
                "case": case,
                "way": way,
                "cpu_s": statistics.median(seconds),
                "ratio": statistics.median(ratios),
                "low": min(ratios),
                "high": max(ratios),
            }
        )
    return made


def in_turn(ways: dict[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """Returns {way: seconds of each turn}."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, call in ways.items():
            taken[way].append(call())
    return taken


def weights(case: str) -> dict[str, Callable[[], float]]:
    """Returns the two ways to compile the initial weights of the agent of a config."""
    settings = loading.from_dict(loading.read_yaml(CONFIGS / f"{case}.yaml"))
    module = agents.get(settings.agent.name)
    spec = envs.make(WEIGHTS[case], (MEMBERS, 1)).spec
    agent = module.make(spec, agent_settings.config(settings))
    hparams = module.Hparams()
    hp = jax.tree.map(lambda x: jnp.full(MEMBERS, x, jnp.float32), hparams)
    keys = random.roots(0, MEMBERS)

    def compiled(init: Callable) -> float:
        # A function of its own, so that nothing is known of it from the turn before.
        lowered = jax.jit(jax.vmap(lambda key, hp: init(key, hp))).lower(keys, hp)
        begun = time.process_time()
        lowered.compile()
        return time.process_time() - begun

    return {
        "leaf by leaf": lambda: compiled(agent.init),
        "together": lambda: compiled(batched_draws.batch_draws(agent.init)),
    }


def short_runs() -> dict[str, float]:
    """Returns {way: processor seconds of a short run of the quickstart}."""
    with tempfile.TemporaryDirectory() as folder:
        cache = f"JAX_COMPILATION_CACHE_DIR={folder}/cache"
        return {
            "no cache": short_run(pathlib.Path(folder) / "none", []),
            "empty cache": short_run(pathlib.Path(folder) / "empty", [cache]),
            "filled cache": short_run(pathlib.Path(folder) / "filled", [cache]),
        }


def short_run(folder: pathlib.Path, variables: list[str]) -> float:
    """Returns the processor seconds of a run in ``folder``, in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    unset = ["env", "-u", "JAX_COMPILATION_CACHE_DIR"]
    command = [sys.executable, "-m", "mtrl_jax", "train", f"{CONFIGS}/quickstart.yaml"]
    changes = [f"training.env_steps={ENV_STEPS}", "--run-dir", str(folder)]
    subprocess.run(
        [*unset, *variables, *command, *changes],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    user = after.ru_utime - before.ru_utime
    return user + after.ru_stime - before.ru_stime


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(__doc__ or "", "initial weights of PPO, one turn")
    made.add_argument("--turns", type=int, default=3)
    made.add_argument("--weights", nargs="*", choices=WEIGHTS, default=list(WEIGHTS))
    args = made.parse_args()
    if args.quick:
        args.turns, args.weights = 1, ["minatar_ppo"]
    return args


if __name__ == "__main__":
    main()
