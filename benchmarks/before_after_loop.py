"""One loop of an earlier checkout's benchmarks or today's, run as before_after.py asks.

Imports the scripts of the checkout that is on the path, whose parts have other names in
the earlier one. Reads one JSON object from the first line of stdin, ``{"script": "throughput",
"case", "runner"}``, ``{"script": "convolutions", "case": [torso, population]}`` or
``{"script": "labyrinth_speed", "case": the case's number}``, and answers every further line
with the seconds of a chunk and the steps that it makes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from collections.abc import Callable
from typing import Any

import common

from mtrl_jax import xla


def main() -> None:
    """Serves until stdin ends."""
    asked = json.loads(sys.stdin.readline())
    # Of earlier checkouts it is ``prepare``.
    named = hasattr(xla, "configure_process")
    getattr(xla, "configure_process" if named else "prepare")()
    kinds: dict[str, Callable[..., Any]] = {
        "throughput": training,
        "convolutions": convolution,
        "labyrinth_speed": labyrinth,
    }
    with contextlib.ExitStack() as stack:
        chunk, steps = kinds[asked.pop("script")](stack, **asked)
        for _ in sys.stdin:
            seconds, _ = common.timed(chunk)
            print(json.dumps({"seconds": seconds, "steps": steps}), flush=True)


def training(_: Any, case: str, runner: str) -> tuple[Callable[[], Any], int]:
    """Returns (a chunk of a training loop, its environment steps)."""
    found = script("throughput").CASES[case]
    try:
        loops = script("throughput_loops").loops
    except ImportError:
        loops = script("throughput")._loops
    chosen = next(loop for loop in loops(found) if loop.name == runner)
    return chosen.train, found.steps


def convolution(_: Any, case: tuple[str, int]) -> tuple[Callable[[], Any], int]:
    """Returns (gradient steps of a torso in a scan, by products; how many)."""
    module, (torso, population) = script("convolutions"), case
    given = module.Case(torso, population, True, module.BATCHES[torso])
    timed: list[Callable[[], Any]] = []

    def note(call: Callable[[], Any]) -> tuple[float, None]:
        timed.append(call)
        return 0.0, None

    # What it would time is what is wanted.
    before, common.timed = common.timed, note  # type: ignore[assignment]
    module.milliseconds(given, "matmul", 1)
    common.timed = before
    return timed[0], module.STEPS


def labyrinth(stack: Any, case: int) -> tuple[Callable[[], Any], int]:
    """Returns (decisions of all slots at random, how many)."""
    module = script("labyrinth_speed")
    given = module.CASES[case]
    roll = getattr(module, "roll", None) or module._roll
    return roll(given, stack)[0], given.steps * given.slots


def script(name: str) -> Any:
    """Returns a script of the checkout; raises ImportError where it has none."""
    return importlib.import_module(name)


if __name__ == "__main__":
    main()
