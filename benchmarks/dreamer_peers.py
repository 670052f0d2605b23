"""Gradient steps of DreamerV2 beside sheeprl's, at its own benchmark's sizes, turn by turn.

sheeprl's ``dreamer_v2_benchmarks``: 64×64 RGB pictures of MsPacman, 16 sequences of 50
steps, imagination of 15, four latents of four classes, layers of 8 units; float32. It is
trained by its own command in a venv of its own (PyTorch on CPU) and waits between its
gradient steps; ours are of the same shapes, drawn from a filled replay, of P members as
one program. A turn is one gradient step of each contender. Medians over turns, a first one
is not counted.

    python benchmarks/dreamer_peers.py [--venv DIR] [--turns 11] [--members 1 4]
"""

from __future__ import annotations

import json
import pathlib
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
import numpy as np

from mtrl_jax import envs, random, types, xla
from mtrl_jax.agents import dreamer_v2
from mtrl_jax.agents.common import sequences
from mtrl_jax.engine import population
from mtrl_jax.networks.world_models import latents, observation_config, rssm

HERE = pathlib.Path(__file__).resolve().parent
REQUIREMENTS = ("torch", "sheeprl[atari]==0.8.4")
PEER, ACTIONS, FILLED = "sheeprl", 9, 1_000
COLUMNS = {
    "contender": "<10",
    "P": ">2d",
    "parameters": ">10,d",
    "ms": ">9.1f",
    "gradient steps/s": ">8.2f",
    "CPU ms": ">8.1f",
    "over sheeprl": ">6.2f",
    "over P = 1 in turn": ">6.2f",
}


def main() -> None:
    """Install what is missing, measure, print and write."""
    made = common.parser(__doc__ or "", "two turns of one member")
    made.add_argument("--turns", type=int, default=11)
    made.add_argument("--members", type=int, nargs="+", default=[1, 4])
    made.add_argument(
        "--venv",
        type=pathlib.Path,
        default=pathlib.Path(tempfile.gettempdir()) / "mtrl-jax-sheeprl",
    )
    args = made.parse_args()
    if args.quick:
        args.turns, args.members = 2, [1]
    xla.configure_process()
    with tempfile.TemporaryDirectory() as folder:
        rows, peer = measure(args.members, args.turns, install(args.venv), folder)
    print(common.header(COLUMNS))
    for row in rows:
        print(common.line(row, COLUMNS))
    result = {"machine": common.environment(), "peer": peer, "rows": rows}
    print(f"written: {common.write(args.out, 'dreamer_peers', result)}")


def measure(
    sizes: list[int], turns: int, python: pathlib.Path, folder: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns (a row for each contender, what the peer says of itself)."""
    with subprocess.Popen(
        [python, HERE / "dreamer_sheeprl.py", folder],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        own = {members: contender(members) for members in sizes}
        taken: dict[Any, list[tuple[float, float]]] = {k: [] for k in (PEER, *own)}
        for turn in range(turns + 1):
            about = _asked(process)
            found: dict[Any, tuple[float, float]] = {}
            found[PEER] = about["seconds"], about["cpu_seconds"]
            for members, (call, _) in own.items():
                found[members] = _timed(call)
            for name, seconds in found.items() if turn else ():
                taken[name].append(seconds)
        assert process.stdin is not None
        process.stdin.close()
        process.kill()
    medians = {
        name: tuple(map(statistics.median, zip(*x))) for name, x in taken.items()
    }
    rows = []
    for name, (wall, cpu) in medians.items():
        members = 1 if name == PEER else name
        parameters = about["parameters"] if name == PEER else own[name][1]
        row = {
            "contender": PEER if name == PEER else "mtrl_jax",
            "P": members,
            "parameters": parameters,
            "ms": 1e3 * wall,
            "gradient steps/s": members / wall,
            "CPU ms": 1e3 * cpu / members,
            "over sheeprl": members * medians[PEER][0] / wall,
        }
        if name != PEER and 1 in medians:
            row["over P = 1 in turn"] = members * medians[1][0] / wall
        rows.append(row)
    return rows, {key: about[key] for key in ("versions", "batch")}


def contender(members: int) -> tuple[Callable[[], Any], int]:
    """Returns (a call that makes a gradient step of every member, parameters of one)."""
    one = sequences.SequenceConfig(2 * FILLED, 16, 50, FILLED, prefill=0)
    config = dreamer_v2.Config(
        rssm.RSSMConfig(latents.LatentConfig("categorical", 4, 4), 8, 8),
        observation_config.ObservationConfig(depth=2, units=8, layers=1),
        units=8,
        layers=1,
        replay=one,
        horizon=15,
    )
    agent = dreamer_v2.make(spec(), config)
    several = population.population(agent, members)
    hp = jax.tree.map(lambda x: jnp.full(members, x, jnp.float32), dreamer_v2.Hparams())
    key = random.roots(0, members)
    learner = jax.jit(several.init)(key, hp)
    drawn = jax.jit(jax.vmap(drawing(spec(), one)))(key)
    update = jax.jit(several.update, donate_argnums=0)
    held = [learner]

    def call() -> Any:
        held[0], metrics, _ = update(held[0], drawn, key, hp, jnp.int32(0))
        return metrics

    return call, sum(x.size for x in jax.tree.leaves(learner.params)) // members


def spec() -> types.EnvSpec:
    """Returns the spec of a game of 64×64 colour pictures with MsPacman's actions."""
    made = envs.make("gymnax/Breakout-MinAtar", (1, 1)).spec
    obs = {"image": jax.ShapeDtypeStruct((64, 64, 3), jnp.uint8)}
    action = types.Discrete(ACTIONS)
    task = made.tasks[0]._replace(obs=obs, action=action)
    return made._replace(obs=obs, action=action, tasks=(task,))


def drawing(env: types.EnvSpec, config: sequences.SequenceConfig) -> Callable:
    """Returns a function of a key: a batch from a replay filled with noise."""
    replay = sequences.make(env, config)

    def draw(key: types.Key) -> Any:
        picture, act, own = jax.random.split(key, 3)
        rows = FILLED + 1
        ts = types.TimeStep(
            obs={"image": jax.random.bits(picture, (rows, 1, 64, 64, 3), jnp.uint8)},
            reward=jnp.zeros((rows, 1)),
            discount=jnp.ones((rows, 1)),
            first=(jnp.arange(rows) == 0)[:, None],
            last=jnp.zeros((rows, 1), bool),
            task=jnp.zeros((rows, 1), jnp.int32),
            action_mask=jnp.ones((rows, 1, ACTIONS), bool),
        )
        action = jax.random.randint(act, (FILLED, 1), 0, ACTIONS)
        rollout = types.Rollout(ts, action, (), ())
        return replay.observe(replay.init(1), rollout, own, (), jnp.int32(0))[1]

    return draw


def install(venv: pathlib.Path) -> pathlib.Path:
    """Returns the python of the peer's venv, made if it is not there."""
    python = venv / "bin" / "python"
    if not (venv / "lib").exists() or not list(venv.rglob("sheeprl/__init__.py")):
        print(f"installing {', '.join(REQUIREMENTS)} into {venv}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
        common.pip_install(python, *REQUIREMENTS)
    return python


def _asked(process: subprocess.Popen) -> dict[str, Any]:
    """Returns what the peer says of its next gradient step."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    if not (line := process.stdout.readline()):
        raise SystemExit(f"sheeprl ended; to see why: {process.args!r}")
    return json.loads(line)


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    """Returns wall's and processor's seconds of a call, with its results computed."""
    spent = time.process_time()
    wall, found = common.timed(call)
    assert found and all(np.isfinite(x).all() for x in jax.tree.leaves(found))
    return wall, time.process_time() - spent


if __name__ == "__main__":
    main()
