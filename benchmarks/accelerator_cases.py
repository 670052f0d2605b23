"""What accelerator.py measures: a name for each row and the work behind it.

Training chunks are put together as the engine does for a run: PPO on CartPole with two
hidden layers of 64, 64 slots x 128 steps, 4 epochs x 4 minibatches (one chunk is one
program for all members); V-trace on MinAtar's Breakout with an MLP, 32 slots x 20 steps.
The Atari-size torso is V-trace's update alone, on random frames: emulators run on the
host; so is DreamerV2 at the size of Atari, too large for the test. The other rows are those of the benchmarks whose modules are imported here.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import accelerator_measure as measure
import accelerator_training as training
import convolutions
import cores
import dreamer
import flops
import jax
import jax.numpy as jnp
import labyrinth_speed
import throughput
import transformer_mtrl
import transformer_step
from accelerator_measure import Limits, Work

Row = dict[str, Any]
HOSTED = "envpool/Pong-v5"
# What is listed is measured, in this order: what matters most comes first.
FULL: dict[str, Any] = {
    "limits": measure.FULL, "matrix": 8192,
    "ppo": (1, 64, 1024, 2048), "ppo slots": 64, "ppo unroll": 128, "updates": 16,
    "vtrace": (1, 64, 1024), "atari": (1, 8, 32), "atari slots": 32,
    "labyrinth slots": 4096, "labyrinth steps": 64,
    "sizes": ("small", "paper"), "dtypes": ("float32", "bfloat16"), "windows": 64,
    "dreamer": (("small", 1), ("small", 64)), "dreamer atari": (1, 8),
    "cores": (1, 16), "core shape": (256, 16, 64),
    "torsos": ("nature", "impala_deep"), "members": (1, 8), "shrink": 1,
    "hosted slots": 64, "hosted turns": 5,
}  # fmt: skip
TINY: dict[str, Any] = {
    "limits": measure.TINY, "matrix": 64,
    "ppo": (1, 2), "ppo slots": 4, "ppo unroll": 8, "updates": 1,
    "vtrace": (2,), "atari": (1,), "atari slots": 2,
    "labyrinth slots": 2, "labyrinth steps": 2,
    "sizes": ("small",), "dtypes": ("float32",), "windows": 2,
    "dreamer": (("tiny", 1),), "dreamer atari": (),
    "cores": (2,), "core shape": (8, 2, 4),
    "torsos": ("nature",), "members": (2,), "shrink": 64,
    "hosted slots": 2, "hosted turns": 1,
}  # fmt: skip


def cases(tiny: bool) -> dict[str, Callable[[], Row]]:
    """Returns {name: a function that measures the row}; ``tiny`` sizes are a test."""
    size = TINY if tiny else FULL
    limits: Limits = size["limits"]
    found: dict[str, Callable[[], Row]] = {
        "ceilings": lambda: measure.ceilings(size["matrix"], limits)
    }

    def add(name: str, make: Callable[..., Work], *args: Any) -> None:
        found[name] = lambda: measure.measured(make(*args), limits)

    for p in size["ppo"]:
        add(f"ppo P={p}", training.ppo, p, size)
    for p in size["vtrace"]:
        add(f"vtrace mlp P={p}", training.vtrace, p, size)
    for p in size["atari"]:
        add(f"vtrace atari P={p}", training.atari, p, size["atari slots"])
    for seen in ("rays", "pixels"):
        add(f"labyrinth {seen}", labyrinth, seen, size)
    for name in size["sizes"]:
        for dtype in size["dtypes"]:
            add(f"transformer {name} {dtype}", transformer, name, dtype, size)
    for name, p in size["dreamer"]:
        add(f"dreamer {name} P={p}", dream, name, p)
    for p in size["dreamer atari"]:
        add(f"dreamer atari P={p}", training.dreaming, p)
    for kind in cores.KINDS:
        for p in size["cores"]:
            add(f"core {kind} P={p}", core, kind, p, size["core shape"])
    for torso in size["torsos"]:
        for p in size["members"]:
            for way in ("matmul", "lax"):
                name = f"convolutions {torso} {way} P={p}"
                add(name, convolution, torso, way, p, size["shrink"])
    found[f"host {HOSTED}"] = functools.partial(hosted, size)
    return found


def labyrinth(seen: str, size: Mapping[str, Any]) -> Work:
    """Returns random play in a maze; every observation is written and read."""
    steps, slots = size["labyrinth steps"], size["labyrinth slots"]
    options = labyrinth_speed.PIXELS if seen == "pixels" else {}
    maze = "labyrinth/explore_object_locations_small"
    case = labyrinth_speed.Case(maze, slots, steps, options)
    with contextlib.ExitStack() as stack:
        call, (shape, width), _ = labyrinth_speed.roll(case, stack)
    written = 2 * steps * slots * width * int(jnp.prod(jnp.asarray(shape)))
    return Work(call, steps * slots, "frames", bytes=written, loops=steps)


def transformer(name: str, dtype: str, size: Mapping[str, Any]) -> Work:
    """Returns offline updates of Algorithm Distillation's transformer."""
    model, updates = transformer_step.SIZES[name]
    updates = 1 if size is TINY else 16 * updates
    with tempfile.TemporaryDirectory() as folder:
        data = str(pathlib.Path(folder) / "data.npz")
        transformer_step.write_histories(data, model["actions"])
        settings = {**transformer_step.SETTINGS, "data": data, "updates": updates}
        settings |= {"model": {**model, "dtype": dtype}, "batch": size["windows"]}
        trainer = transformer_mtrl.Trainer(settings)
    shapes = jax.eval_shape(lambda: (trainer.state, trainer.hp, trainer.data))
    operations = flops.of(trainer.runner.chunk, *shapes)
    return Work(trainer.train, updates, "updates", operations, dtype=dtype)


def dream(name: str, members: int) -> Work:
    """Returns DreamerV2's training on MinAtar's Breakout, one chunk."""
    _, operations = dreamer.counted(*dreamer.traced(name))
    steps = members * dreamer.UPDATES * dreamer.STEPS
    call = dreamer.chunk(name, members, prefill=0)
    return Work(call, steps, "gradient steps of all members", steps * operations)


def core(kind: str, members: int, shape: tuple[int, int, int]) -> Work:
    """Returns gradient steps through one memory."""
    unroll, slots, units = shape
    x = jax.random.normal(jax.random.key(0), (members, unroll, slots, units))
    run, arguments = cores.program(cores.ours(kind, units), x)
    compiled = jax.jit(run)
    return Work(
        lambda: compiled(*arguments),
        members * unroll * slots * cores.STEPS,
        "env steps of all members",
        flops.of(run, *arguments),
    )


def convolution(torso: str, way: str, members: int, shrink: int) -> Work:
    """Returns gradient steps of a torso in a scan, by ``matmul`` or ``lax``."""
    batch = max(1, convolutions.BATCHES[torso] // shrink)
    case = convolutions.Case(torso, members, in_scan=True, batch=batch)
    run, arguments = convolutions.program(case, way)
    compiled = jax.jit(run)
    return Work(
        lambda: compiled(*arguments),
        convolutions.STEPS * members,
        "gradient steps of all members",
        flops.of(run, *arguments),
    )


def hosted(size: Mapping[str, Any]) -> Row:
    """Returns the row of emulators driven from Python: the whole beside its parts.

    Its ceiling is the pool alone, stepped in the same turns.
    """
    slots, turns = size["hosted slots"], size["hosted turns"]
    config = {"network.torso": "impala_shallow"}
    case = throughput.Case(HOSTED, "impala", slots, 1, config=config)
    row = throughput.measure("host", case, turns)[-1]
    rates = {part: row[f"{part}_steps_per_s"] for part in throughput.RATES}
    return {
        "unit": "env steps",
        "per s": rates["whole"],
        "of parts": row["ratio"],
        "of pool": rates["whole"] / rates["env"],
        **rates,
    }
