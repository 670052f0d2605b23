"""The sheeprl side of dreamer_peers.py; runs in a venv of its own that has no mtrl_jax.

Trains sheeprl's own ``dreamer_v2_benchmarks`` by its command. Every gradient step waits
for a line on stdin and answers with one JSON object on stdout: the wall's and the
processor's seconds of it, and what it is of.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time

from sheeprl import cli
from sheeprl.algos.dreamer_v2 import dreamer_v2

PACKAGES = ("sheeprl", "torch", "lightning", "gymnasium")


def main() -> None:
    """Serves until stdin ends."""
    out, sys.stdout = sys.stdout, sys.stderr
    train = dreamer_v2.train

    def timed(*args, **options):
        if not sys.stdin.readline():
            os._exit(0)
        start, spent = time.perf_counter(), time.process_time()
        train(*args, **options)
        taken = {
            "seconds": time.perf_counter() - start,
            "cpu_seconds": time.process_time() - spent,
            "parameters": sum(
                x.numel() for module in args[1:4] for x in module.parameters()
            ),
            "batch": {name: list(x.shape) for name, x in args[8].items()},
            "versions": {x: importlib.metadata.version(x) for x in PACKAGES},
        }
        print(json.dumps(taken), file=out, flush=True)

    dreamer_v2.train = timed
    # Its authors' sizes; it learns sooner, at every step of the game, and saves nothing.
    sys.argv = [
        "sheeprl",
        "exp=dreamer_v2_benchmarks",
        "fabric.accelerator=cpu",
        "algo.learning_starts=64",
        "algo.replay_ratio=1",
        "buffer.checkpoint=False",
        "checkpoint.save_last=False",
        "checkpoint.every=1000000",
        "metric.log_level=0",
        f"hydra.run.dir={sys.argv[1]}",
    ]
    cli.run()


if __name__ == "__main__":
    main()
