"""What a population of students costs beside the largest of them alone.

    python benchmarks/students.py [--quick] [--students 1 6 18] [--sizes 1/4] [--turns 5]

Milliseconds of an update of policy distillation (batch and network of
configs/policy_distillation_minatar.yaml, at a size of distillation.py) of all students of one
program, and of the processor: losses and τ are traced, so that N students are N members. A size
is a program; "all sizes" are its programs one after the other, beside the largest alone.
The data are drawn (20,000 steps of four games): what is learned costs nothing more or less.

Prints a table; writes students.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import common
import distillation_arms as arms
import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import envs, random, types, xla
from mtrl_jax.agents import policy_distillation
from mtrl_jax.config import strict
from mtrl_jax.data import windows
from mtrl_jax.engine import offline_runner, sharding
from mtrl_jax.envs import mixture

UPDATES = 20  # of a chunk
HISTORIES, STEPS = 16, 1_250
ALL = "all sizes"
COLUMNS = {
    "size": "<10",
    "students": ">8d",
    "ms": ">8.2f",
    "CPU ms": ">8.2f",
    "ms a student": ">12.2f",
    "over one": ">8.2f",
    "CPU over one": ">12.2f",
}


def main() -> None:
    """Measures all cases in turn; prints and writes."""
    args = arguments()
    xla.configure_process()
    spec, data = games()
    cases = {
        (size, number): chunk(spec, data, size, number)
        for size in args.sizes
        for number in args.students
    }
    taken = common.both_in_turn(cases, args.turns)
    rows = rows_of({key: np.asarray(x) for key, x in taken.items()})
    print(common.header(COLUMNS))
    for row in rows:
        print(common.line(row, COLUMNS))
    result = {"machine": common.environment(), "settings": common.settings(args)}
    common.write(args.out, "students", result | {"rows": rows})


def rows_of(taken: dict[tuple[str, int], np.ndarray]) -> list[dict[str, Any]]:
    """Returns a row a case; ``over one`` is of the largest size's least population.

    Ratios are taken within a turn, then their median.
    """
    largest, fewest = next(iter(taken))
    one = taken[largest, fewest] / fewest
    sums = {
        (ALL, n): sum(x for (_, m), x in taken.items() if m == n)
        for n in dict.fromkeys(n for _, n in taken)
        if len({size for size, _ in taken}) > 1
    }
    rows = []
    for (size, number), spent in (taken | sums).items():
        wall, processor = 1e3 * np.median(spent, axis=0) / UPDATES
        ratios = np.median(spent / one, axis=0)
        rows.append(
            {
                "size": size,
                "students": number,
                "ms": float(wall),
                "CPU ms": float(processor),
                "ms a student": float(wall / number),
                "over one": float(ratios[0]),
                "CPU over one": float(ratios[1]),
            }
        )
    return rows


def games() -> tuple[types.EnvSpec, windows.Data]:
    """Returns the games' spec and drawn steps with a value of each action."""
    tasks = [envs.make(f"gymnax/{game}-MinAtar", (1, 1)) for game in envs.MINATAR]
    spec = mixture.make(tasks).spec
    rng, shape = np.random.default_rng(0), (HISTORIES, STEPS)
    actions = types.action_mask_size(spec.action)
    task = np.arange(HISTORIES) % len(spec.tasks)
    data = windows.Data(
        obs={
            name: (rng.random((*shape, *x.shape)) < 0.05).astype(x.dtype)
            for name, x in spec.obs.items()
        },
        action=np.zeros(shape, np.int32),
        reward=np.zeros(shape, np.float32),
        discount=np.ones(shape, np.float32),
        first=np.zeros(shape, bool),
        last=np.zeros(shape, bool),
        action_mask=np.ones((1, 1, actions), bool),
        task=task.astype(np.int32),
        counts=np.full(HISTORIES, STEPS, np.int32),
        recorded={"q": rng.random((*shape, actions), np.float32)},
    )
    return spec, jax.tree.map(jnp.asarray, data)


def chunk(
    spec: types.EnvSpec, data: windows.Data, size: str, number: int
) -> Callable[[], Any]:
    """Returns a call that makes a chunk of updates of so many students of a size."""
    args = argparse.Namespace(quick=False, env_steps=1, play_steps=1, slots=1)
    (given,) = arms.stages_of(args, ("student",))["stages"]
    settings = given["agent"]["config"]
    settings["network"] |= arms.torso(size)
    config = strict.build(policy_distillation.Config, settings, "agent.config")
    batch = given["training"]["batch"]
    mesh = sharding.make_mesh(number, 1, sharding.devices(number, True))
    runner = offline_runner.make(
        policy_distillation.make(spec, config),
        lambda key, data: windows.sample(key, data, batch, 1),
        members=number,
        updates_per_chunk=UPDATES,
        at_once=sharding.members_at_once(mesh),
        mesh=mesh,
    )
    hp = jax.tree.map(
        lambda x: jnp.full(number, x, jnp.float32), policy_distillation.Hparams()
    )
    hp = hp._replace(tau=jnp.geomspace(1e-3, 1.0, number))
    hp = sharding.on_devices(hp, mesh, number)
    state = jax.jit(runner.init)(random.roots(0, number), hp)
    held = [sharding.on_devices(state, mesh, number)]
    run = sharding.keeping_layout(runner.chunk)

    def call() -> Any:
        held[0], output = run(held[0], hp, data)
        return output

    return call


def arguments() -> argparse.Namespace:
    """Returns the parsed arguments."""
    made = common.parser(__doc__ or "", "two students of the least size, one turn")
    made.add_argument("--students", nargs="+", type=int, default=[1, 6, 12, 18])
    made.add_argument("--sizes", nargs="+", choices=arms.SIZES, default=["1/4", "1/15"])
    made.add_argument("--turns", type=int, default=7)
    args = made.parse_args()
    if args.quick:
        args.students, args.sizes, args.turns = [1, 2], ["1/60"], 1
    return args


if __name__ == "__main__":
    main()
