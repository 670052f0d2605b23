"""How many decisions a second labyrinths make, in pictures and rays, beside ViZDoom.

Everything is stepped by a random policy inside one jit(scan), every observation is
written and read. A decision is four frames of a game of 60 a second (labyrinths) or of
35 (ViZDoom, through envpool); pictures have the same size. All rows are measured in
turn, so that a change of the machine's load meets them alike.

    python benchmarks/labyrinth_speed.py [--quick] [--out benchmarks/results]

``GB/s`` is what the observations alone take of the memory's bandwidth: bytes of an
observation x decisions a second, written once. ``/core s`` are decisions in a second of
one core's work, on CPUs: it holds on a machine that others use as well, and is not known
of ViZDoom, which works in processes of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import common
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import envs, random, xla
from mtrl_jax.envs import actions, envpool

COLUMNS = {
    "env": "<40",
    "obs": "<7",
    "shape": "<11",
    "slots": ">5d",
    "decisions/s": ">12,.0f",
    "low": ">10,.0f",
    "high": ">10,.0f",
    "/core s": ">9,.0f",
    "GB/s": ">7.3f",
    "x ViZDoom": ">9.1f",
}
SIZE = (72, 96)
PIXELS = {"observation": "pixels", "size": list(SIZE)}
DOOM = {"img_height": SIZE[0], "img_width": SIZE[1], "stack_num": 1, "frame_skip": 4}


@dataclasses.dataclass(frozen=True)
class Case:
    """One row; ``steps`` decisions of every slot are one measurement."""

    env: str
    slots: int
    steps: int
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def obs(self) -> str:
        """What is observed."""
        if self.env.startswith("envpool/"):
            return "pixels"
        return self.options.get("observation", "rays")


_MAZE, _TAG = (
    "labyrinth/explore_object_locations_small",
    "labyrinth/lasertag_three_opponents_small",
)
_DOOM = "envpool/HealthGatheringSupreme-v1"
CASES = [
    *(Case(_MAZE, slots, 8192 // slots * 4, PIXELS) for slots in (64, 256, 1024)),
    Case(_TAG, 256, 64, PIXELS),
    Case("labyrinth/rooms_keys_doors_puzzle", 256, 64, PIXELS),
    *(Case(_MAZE, slots, 65536 // slots * 4) for slots in (256, 1024)),
    Case(_TAG, 1024, 128),
    Case(_DOOM, 8, 100, DOOM),
]
QUICK = [Case(_MAZE, 64, 128, PIXELS), Case(_MAZE, 1024, 64), Case(_DOOM, 8, 50, DOOM)]


def main() -> None:
    """Measures, prints and writes."""
    parser = common.parser(__doc__, "a maze as pixels and rays, and ViZDoom")
    parser.add_argument("--turns", type=int, default=7, help="measurements of each row")
    args = parser.parse_args()
    xla.configure_process()
    cases = QUICK if args.quick else CASES
    with contextlib.ExitStack() as stack:
        calls, shapes, work = zip(*(roll(case, stack) for case in cases))
        number = 3 if args.quick else args.turns
        turns = common.in_turn(dict(enumerate(calls)), number)
    rows = _rows(cases, turns, shapes, work)
    print(common.header(COLUMNS))
    for row in rows:
        print(common.line(row, COLUMNS))
    result = {"machine": common.environment(), "turns": number, "rows": rows}
    written = common.write(args.out, "labyrinth_speed", result)
    draw(rows, args.out / "labyrinth_speed.png")
    print(f"written: {written}, {args.out / 'labyrinth_speed.png'}")


def draw(rows: list[dict], path) -> None:
    """Writes the picture: decisions a second, low to high over the turns."""
    title = f"Decisions a second, random policy, {jax.default_backend()}"
    with common.figure(path, [title], (8, 0.5 + 0.45 * len(rows))) as (axes,):
        rate = [row["decisions/s"] for row in rows]
        spread = [
            [r - row["low"] for r, row in zip(rate, rows)],
            [row["high"] - r for r, row in zip(rate, rows)],
        ]
        labels = [
            f"{row['env'].split('/')[1]}\n{row['obs']} {row['shape']}, {row['slots']} slots"
            for row in rows
        ]
        colours = {"pixels": "#0072b2", "rays": "#e69f00"}
        shown = [
            "#999999" if "envpool" in row["env"] else colours[row["obs"]]
            for row in rows
        ]
        axes.barh(range(len(rows)), rate, xerr=spread, color=shown)
        axes.set_yticks(range(len(rows)), labels, fontsize="small")
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.grid(axis="x", alpha=0.3)


def roll(
    case: Case, stack: contextlib.ExitStack
) -> tuple[Callable[[], Any], tuple, list[float]]:
    """Returns (call, (shape, bytes) of an observation, cores' seconds of each call).

    A call makes ``case.steps`` decisions in every slot.
    """
    env = envs.make(case.env, (1, case.slots), case.options)
    reset: Callable[..., Any] = jax.jit(env.reset) if env.pure else env.reset
    if not env.pure:
        stack.callback(envpool.close, env)
    ((name, obs),) = env.spec.obs.items()
    state, ts = reset(random.roots(0, 1), env.params)

    @jax.jit
    def steps(state, last, key):
        def step(carry, t):
            state, _ = carry
            action = actions.sample(env.spec.action, random.fold(key, t), env.batch)
            state, ts = env.step(state, action, env.params)
            # Carried, and so written; of the sum something is read.
            return (state, ts.obs[name]), ts.obs[name][:, :, -1].sum()

        return jax.lax.scan(step, (state, last), jnp.arange(case.steps))

    held, keys = [(state, ts.obs[name])], iter(range(1 << 30))

    work: list[float] = []

    def call() -> Any:
        start = time.process_time()
        held[0], read = steps(*held[0], jax.random.key(next(keys)))
        jax.block_until_ready(read)
        work.append(time.process_time() - start)
        return read

    return call, (obs.shape, np.dtype(obs.dtype).itemsize), work


def _rows(
    cases: list[Case], turns: dict, shapes: Sequence, work: Sequence[list[float]]
) -> list[dict]:
    """Returns the rows of the table; ratios to ViZDoom are taken within a turn."""
    rows = []
    every = [
        [case.steps * case.slots / s for s in turns[k]] for k, case in enumerate(cases)
    ]
    theirs = every[[case.env for case in cases].index(_DOOM)]
    for case, rates, (shape, size), spent in zip(cases, every, shapes, work):
        middle = statistics.median(rates)
        rows.append(
            {
                "env": case.env,
                "obs": case.obs,
                "shape": "x".join(map(str, shape)),
                "slots": case.slots,
                "decisions/s": middle,
                "low": min(rates),
                "high": max(rates),
                "/core s": _per_core(case, spent),
                "GB/s": middle * np.prod(shape).item() * size / 1e9,
                "x ViZDoom": statistics.median(a / b for a, b in zip(rates, theirs)),
            }
        )
    return rows


def _per_core(case: Case, spent: list[float]) -> float | None:
    """Returns decisions in a second of a core; the first call compiled."""
    if case.env == _DOOM or jax.default_backend() != "cpu":
        return None
    return case.steps * case.slots / statistics.median(spent[1:])


if __name__ == "__main__":
    main()
