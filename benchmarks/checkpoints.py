"""What saving and restoring a large leaf costs: peak memory and time, in both ways.

A population's memory of uint8 pixels, ``--megabytes`` of them in one leaf [2, ...]:

    orbax     the leaf is written by orbax in the background, as small leaves are
    pieces    the leaf is written in pieces before ``save`` returns (mtrl_jax's own way)

Columns, each the median over ``--turns``: MB above what the process held before (the
leaf itself is held before a save, not before a restore) and seconds.

    save MB, s      until ``save`` returns and the state may be donated
    written s       until the checkpoint is complete, from the call on
    donate MB       peak of a save and a chunk that donates the leaf at once
    restore MB, s   from shapes and shardings alone; the leaf itself is among the MB

Every way has a process of its own. ``--package`` measures another copy of mtrl_jax, of
before there were pieces for instance; it has one way only.

    python benchmarks/checkpoints.py [--quick] [--megabytes 256] [--package FOLDER]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import common

ORBAX, PIECES = "orbax", "pieces"
COLUMNS = {
    "way": "<8",
    "leaf MB": ">8d",
    "save MB": ">8.0f",
    "save s": ">7.2f",
    "written s": ">10.2f",
    "donate MB": ">10.0f",
    "restore MB": ">11.0f",
    "restore s": ">10.2f",
}


def main() -> None:
    """Measures every way in a process of its own, prints the table, writes JSON."""
    args = arguments()
    if args.way:
        print(json.dumps(measure(args.way, args.megabytes, args.turns)))
        return
    print(common.header(COLUMNS), flush=True)
    rows = []
    for way in (args.label,) if args.package else (ORBAX, PIECES):
        rows.append(in_process(way, args))
        print(common.line(rows[-1], COLUMNS), flush=True)
    name = f"checkpoints_{args.label}" if args.package else "checkpoints"
    result = {"machine": common.environment(), "quick": args.quick, "rows": rows}
    print(f"written: {common.write(args.out, name, result)}")


def in_process(way: str, args: argparse.Namespace) -> dict[str, Any]:
    """Returns the row of one way, measured in a new process."""
    given = ["--megabytes", str(args.megabytes), "--turns", str(args.turns)]
    root = args.package or pathlib.Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, __file__, "--way", way, *given],
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(way: str, megabytes: int, turns: int) -> dict[str, Any]:
    """Returns the row: the median over turns, each on a leaf of other bits."""
    import jax
    import jax.numpy as jnp

    from mtrl_jax import checkpoint

    if way == ORBAX:
        from mtrl_jax.checkpoint import pieces

        pieces.LARGE = 1 << 62
    change = jax.jit(lambda x: x + 1, donate_argnums=0)
    leaf = jnp.zeros((2, megabytes << 19), jnp.uint8).block_until_ready()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        manager = checkpoint.open_manager(folder, 1)
        # The first turn imports and compiles.
        for turn in range(turns + 1):
            leaf = change(leaf).block_until_ready()
            row, leaf = one_turn(checkpoint, manager, 2 * turn, leaf, change)
            found.append(row)
        checkpoint.close(manager)
    kept = found[1:]
    median = {name: statistics.median(x[name] for x in kept) for name in kept[0]}
    return {"way": way, "leaf MB": megabytes, **median, "values": kept}


def one_turn(
    checkpoint: Any, manager: Any, step: int, leaf: Any, change: Callable
) -> tuple[dict[str, float], Any]:
    """Returns (the turn's measurements, the leaf as it was restored)."""
    import jax

    like = {"obs": jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)}
    row: dict[str, float] = {}

    def save() -> None:
        start = time.perf_counter()
        checkpoint.save(manager, step, {"obs": leaf}, {})
        row["save s"] = time.perf_counter() - start
        checkpoint.wait(manager)
        row["written s"] = time.perf_counter() - start

    def save_and_donate() -> None:
        checkpoint.save(manager, step + 1, {"obs": leaf}, {})
        # The result is let go, so that what is restored is the only leaf.
        change(leaf).block_until_ready()
        checkpoint.wait(manager)

    def restore() -> Any:
        start = time.perf_counter()
        _, state, _ = checkpoint.restore(manager, like)
        row["restore s"] = time.perf_counter() - start
        return state["obs"]

    row["save MB"], _ = peak(save)
    row["donate MB"], _ = peak(save_and_donate)
    row["restore MB"], restored = peak(restore)
    return row, restored


def peak(call: Callable[[], Any]) -> tuple[float, Any]:
    """Returns (MB at most beyond those held before, result of the call)."""
    gc.collect()
    # Linux: forget the peak so far.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    result = call()
    return memory("VmHWM") - before, result


def memory(name: str) -> float:
    """Returns MB of this process: VmRSS as it is, VmHWM at its highest."""
    status = pathlib.Path("/proc/self/status").read_text().splitlines()
    line = next(x for x in status if x.startswith(f"{name}:"))
    return int(line.split()[1]) / 1024


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    parser = common.parser(__doc__, "64 MB, one turn")
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--package", type=pathlib.Path, help="folder of mtrl_jax")
    parser.add_argument("--label", default="before", help="of --package's row")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.megabytes, args.turns = 64, 1
    return args


if __name__ == "__main__":
    main()
