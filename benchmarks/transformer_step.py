"""The training step of Algorithm Distillation beside plain PyTorch: the same transformer.

One update on windows of dark-room histories: draw 64 windows of 100 steps, loss,
gradient, clipping, AdamW; float32, on the same cores. Ours is the chunk of updates that
``mtrl train`` compiles for an offline stage (a scan that draws its windows itself, state
donated, metrics included). Theirs is PyTorch as one would write it, in a venv of its own:
``nn.Module``, ``scaled_dot_product_attention(is_causal=True)``, AdamW, eager; and the same
model through ``torch.compile``. Each is a process that is warmed up; then they
train turn by turn, so that a change of the machine's load meets all of them.

    small   what configs/algorithm_distillation_dark_room.yaml trains
    paper   Laskin et al. 2023: 4 layers, feed-forward 2048

First the two are checked to be the same function: from the same parameters, the same
logits, and the same losses and gradient norms over ten updates. Differences that stay:
ours also computes accuracy and entropy, and heeds masks of actions and of steps that are
not there (here all are); theirs has one product for query, key and value, ours two. The
data are random: nothing here depends on what is learned.

Shown are medians over turns: seconds and processor seconds an update, and the ratios of
both, eager PyTorch's over a contender's within a turn (above 1: faster than PyTorch).
On a machine with other work read the rows of one core: PyTorch's threads wait for each
other in every operation, so that on two busy cores they took three times as long as one.

    python benchmarks/transformer_step.py [--quick] [--venv DIR] [--cores 1 2]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import common
import numpy as np
import peers

HERE = pathlib.Path(__file__).parent
# From PyTorch's own index: the wheels of PyPI bring CUDA along.
INDEX, REQUIREMENTS = "https://download.pytorch.org/whl/cpu", ("torch==2.13.0", "numpy")
_USUAL = {"width": 64, "heads": 4, "context": 100, "observation": 2, "actions": 5}
# Size: (the transformer, updates a turn: one to three seconds of them).
SIZES: dict[str, tuple[dict[str, Any], int]] = {
    "small": ({**_USUAL, "layers": 2, "feedforward": 256, "hidden": [128]}, 8),
    "paper": ({**_USUAL, "layers": 4, "feedforward": 2048, "hidden": []}, 2),
}
SETTINGS: dict[str, Any] = {
    "seed": 0,
    "batch": 64,
    "check_batch": 8,
    "check_updates": 10,
    "hparams": {
        "learning_rate": 2e-3,
        "warmup_updates": 100.0,
        "decay_updates": 1200.0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "adam_eps": 1e-8,
    },
}
OURS, PEER, COMPILED = CONTENDERS = ("mtrl", "torch", "torch.compile")
TOLERANCE = 1e-4  # of the largest logit, of a loss, of a gradient norm
COLUMNS = {
    "size": "<6",
    "cores": ">5d",
    "contender": "<14",
    "parameters": ">10,d",
    "s/update": ">9.4f",
    "cpu s": ">7.3f",
    "ratio": ">6.2f",
    "cpu ratio": ">9.2f",
}


def main() -> None:
    """Installs what is missing, checks, measures, prints and writes."""
    args = arguments()
    python = install(args.venv)
    result: dict[str, Any] = {"quick": args.quick, "settings": SETTINGS, "sizes": SIZES}
    result |= {"rows": [], "differences": {}}
    print(common.header(COLUMNS), flush=True)
    for size, cores in itertools.product(args.sizes, args.cores):
        with tempfile.TemporaryDirectory() as folder, on_cores(cores):
            measured = measure(size, python, pathlib.Path(folder), args)
        rows = measured.pop("rows")
        result["rows"] += rows
        result["differences"][size] = measured.pop("differences")
        result |= measured
        for row in rows:
            print(common.line(row, COLUMNS), flush=True)
        common.write(args.out, "transformer_step", result)
    for size, found in result["differences"].items():
        said = ", ".join(f"{k} {v:.1e}" for k, v in found.items())
        print(f"{size}: relative difference to torch: {said or 'not checked'}")
    print(f"written: {args.out / 'transformer_step.json'}")


@contextlib.contextmanager
def on_cores(number: int) -> Iterator[None]:
    """Yields with this process, and what it starts, on so many of its cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-number:])
    yield
    os.sched_setaffinity(0, before)


def install(venv: pathlib.Path) -> pathlib.Path:
    """Returns the python of the venv, which gets torch unless it has one already."""
    python = venv / "bin" / "python"
    if python.exists() and not _fails([python, "-c", "import numpy, torch"]):
        return python
    print(f"installing {', '.join(REQUIREMENTS)} into {venv}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    common.pip_install(python, "--extra-index-url", INDEX, *REQUIREMENTS)
    return python


def _fails(command: list[Any]) -> bool:
    return subprocess.run(command, stderr=subprocess.DEVNULL).returncode != 0


def measure(
    size: str, python: pathlib.Path, folder: pathlib.Path, args: argparse.Namespace
) -> dict[str, Any]:
    """Returns rows, a row for each contender, differences, and about the machines.

    Raises SystemExit where they are not the same model.
    """
    model, updates = SIZES[size]
    paths = {name: str(folder / f"{name}.npz") for name in ("data", "check")}
    write_histories(paths["data"], model["actions"])
    threads = len(os.sched_getaffinity(0))
    settings = {**SETTINGS, **paths, "model": model, "updates": updates}
    settings |= {"threads": threads}
    with contextlib.ExitStack() as stack:
        every = [start(stack, name, settings, python) for name in args.contenders]
        by_name = {c.name: c for c in every}
        about = {c.name: c.ask("hello") for c in every}
        sizes = {name: found["parameters"] for name, found in about.items()}
        if len(set(sizes.values())) > 1:
            raise SystemExit(f"{size}: not as many parameters: {sizes}")
        differences = {}
        if args.check and {OURS, PEER} <= by_name.keys():
            differences = compare(by_name[OURS], by_name[PEER])
        # The first turn compiles.
        for c in every:
            c.ask("train")
        turns = [{c.name: c.ask("train") for c in every} for _ in range(args.turns)]
    rows = [
        {"size": size, "cores": threads, "parameters": sizes[name]}
        | row(name, updates, turns)
        for name in by_name
    ]
    for found in about.values():
        found.pop("parameters")
    ours = {"machine": about[OURS]} if OURS in about else {}
    peer = {"peer": about[PEER]} if PEER in about else {}
    ended = {"ended": common.moment()}
    return {"rows": rows, "differences": differences, **ours, **peer, **ended}


def write_histories(path: str, actions: int) -> None:
    """Write 400 histories of 25 episodes of 20 random steps."""
    random, shape = np.random.default_rng(0), (400, 500)
    done = np.broadcast_to(np.arange(shape[1]) % 20 == 19, shape)
    np.savez(
        path,
        obs=random.random((*shape, 2), np.float32),
        action=random.integers(0, actions, shape, np.int32),
        reward=(random.random(shape) < 0.2).astype(np.float32),
        done=done,
    )


def start(
    stack: contextlib.ExitStack,
    name: str,
    settings: dict[str, Any],
    python: pathlib.Path,
) -> peers.Contender:
    """Returns a contender that starts up, and is ended with the stack."""
    script = HERE / ("transformer_mtrl.py" if name == OURS else "transformer_torch.py")
    process = subprocess.Popen(
        [sys.executable if name == OURS else python, script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    contender = peers.Contender(name, process)
    contender.say(json.dumps({**settings, "compiled": name == COMPILED}))
    return contender


def compare(ours: peers.Contender, peer: peers.Contender) -> dict[str, float]:
    """Returns the largest relative differences in logits, losses and gradient norms.

    Raises SystemExit where one is above TOLERANCE: they are not the same function.
    """
    # Ours writes the parameters and windows that the peer reads.
    mine, theirs = ours.ask("check"), peer.ask("check")
    found = {"logits": theirs["logits"]}
    for name in ("losses", "grad_norms"):
        expected = np.asarray(theirs[name])
        found[name] = float(np.max(np.abs(np.asarray(mine[name]) / expected - 1.0)))
    if not max(found.values()) < TOLERANCE:
        raise SystemExit(f"not the same function as in torch, off by {found}")
    return found


def row(
    name: str, updates: int, turns: list[dict[str, dict[str, float]]]
) -> dict[str, Any]:
    """Returns a contender's line of the table; a turn has so many ``updates``."""
    seconds = [turn[name]["seconds"] / updates for turn in turns]
    cpu = [turn[name]["cpu_seconds"] / updates for turn in turns]
    found: dict[str, Any] = {
        "contender": name,
        "s/update": statistics.median(seconds),
        "cpu s": statistics.median(cpu),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "losses": [turn[name]["loss"] for turn in turns],
    }
    if name != PEER and PEER in turns[0]:
        for column, what in (("ratio", "seconds"), ("cpu ratio", "cpu_seconds")):
            ratios = [turn[PEER][what] / turn[name][what] for turn in turns]
            found |= {column: statistics.median(ratios), f"{column}s": ratios}
    return found


def arguments() -> argparse.Namespace:
    """Returns the command line's settings."""
    made = common.parser(
        __doc__ or "", "small, one core, 3 turns, nothing compiled by torch"
    )
    cache = pathlib.Path(tempfile.gettempdir()) / "mtrl-jax-torch"
    made.add_argument("--venv", type=pathlib.Path, default=cache, help="with torch")
    made.add_argument("--sizes", nargs="+", choices=SIZES)
    made.add_argument("--contenders", nargs="+", choices=CONTENDERS)
    made.add_argument("--cores", type=int, nargs="+", help="default: 1 and all")
    made.add_argument("--turns", type=int, help="measured")
    made.add_argument("--check", action=argparse.BooleanOptionalAction, default=True)
    args = made.parse_args()
    args.sizes = args.sizes or (["small"] if args.quick else list(SIZES))
    args.contenders = args.contenders or list(CONTENDERS[: 2 if args.quick else None])
    args.turns = args.turns or (3 if args.quick else 9)
    every = len(os.sched_getaffinity(0))
    args.cores = args.cores or ([1] if args.quick else sorted({1, every}))
    if not all(1 <= n <= every for n in args.cores):
        made.error(f"--cores: {args.cores}, use 1 to {every}")
    return args


if __name__ == "__main__":
    main()
