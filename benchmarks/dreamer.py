"""DreamerV2: operations and speed by size and members.

    python benchmarks/dreamer.py [--part flops speed] [--quick] [--out DIR]

flops: operations of a gradient step (``flops.py``) and what 40 % of an H100's would give;
the size "config" is that of ``configs/dreamer_v2_minatar.yaml``, "atari" the paper's,
which is only traced. speed: gradient steps and acting steps a second of all members
together, on MinAtar's Breakout, on the devices that a run has; P members as one program
against P runs of one after the other. Beside the wall's time that of the processor, in which
other work on the machine shows less.

Prints tables; each part writes dreamer_PART.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import statistics
from collections.abc import Callable, Mapping
from typing import Any

import common
import flops
import jax
import jax.numpy as jnp

from mtrl_jax import envs, hparams, random, types, xla
from mtrl_jax.agents import dreamer_v2
from mtrl_jax.agents.common import sequences
from mtrl_jax.config import agent_settings, loading
from mtrl_jax.engine import fused_runner, sharding
from mtrl_jax.networks.world_models import latents, observation_config, rssm

GAME, SLOTS, UNROLL, UPDATES, STEPS = "gymnax/Breakout-MinAtar", 16, 4, 4, 4
NEVER = 2**30  # steps before the first gradient step: acting alone
# As configs/dreamer_v2_minatar.yaml.
SETTINGS = {
    "model_lr": 1e-3, "actor_lr": 5e-4, "critic_lr": 1e-3, "discount": 0.97,
    "entropy_cost": 1e-2,
}  # fmt: skip
CONFIG = pathlib.Path(__file__).parent.parent / "configs/dreamer_v2_minatar.yaml"
SIZES = ("tiny", "small", "config", "atari")
SPEED = {"size": "<8", "members": "3d", "gradient steps/s": "9.2f", "acting steps/s": "9.0f",
         "CPU ms": "8.1f", "against runs in turn": "6.2f"}  # fmt: skip
FLOPS = {
    "size": "<8",
    "parameters": "12d",
    "GFLOP": "12.2f",
    "40 % of H100, 1/s": "12.1f",
}


def main() -> None:
    """Measures the parts asked for; prints and writes."""
    args = arguments()
    xla.configure_process()
    parts = {"flops": count, "speed": speeds}
    for name in args.part:
        result = {"machine": common.environment(), "rows": parts[name](args)}
        print(f"written: {common.write(args.out, f'dreamer_{name}', result)}")


def count(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns parameters and operations of one gradient step by size."""
    print(common.header(FLOPS))
    rows = []
    for size in args.sizes:
        parameters, operations = counted(*traced(size))
        row = {
            "size": size,
            "parameters": parameters,
            "GFLOP": operations / 1e9,
            "40 % of H100, 1/s": flops.per_second(operations),
        }
        print(common.line(row, FLOPS))
        rows.append(row)
    return rows


def counted(agent: types.Agent, drawn: Any) -> tuple[int, int]:
    """Returns (parameters, operations of an update) on batches of these shapes."""
    hp = dreamer_v2.Hparams()
    key = jax.eval_shape(lambda: jax.random.key(0))
    learner = jax.eval_shape(lambda key: agent.init(key, hp), key)

    def update(learner, drawn, key):
        return agent.update(learner, drawn, key, hp, jnp.int32(0))

    parameters = sum(x.size for x in jax.tree.leaves(learner.params))
    return parameters, flops.of(update, learner, drawn, key)


def traced(size: str, dtype: str = "float32") -> tuple[types.Agent, Any]:
    """Returns (agent, shapes of one batch as it is drawn); ``dtype`` is of "atari"."""
    if size == "atari":
        config, spec = dreamer_v2.Config(dtype=dtype), atari()
    else:
        config, spec = config_of(size, prefill=0), envs.make(GAME, (1, SLOTS)).spec
    steps = int(config.replay.train_every)
    one = sequences.SequenceConfig(
        10_000, config.replay.batch, config.replay.length, steps, prefill=0
    )
    replay = sequences.make(spec, one)

    def step(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((steps + 1, 1, *shape), dtype)

    ts = types.TimeStep(
        obs={name: step(x.dtype, *x.shape) for name, x in spec.obs.items()},
        reward=step(jnp.float32),
        discount=step(jnp.float32),
        first=step(jnp.bool_),
        last=step(jnp.bool_),
        task=step(jnp.int32),
        action_mask=step(jnp.bool_, types.action_mask_size(spec.action)),
    )

    def draw(ts, action, key):
        rollout = types.Rollout(ts, action, (), ())
        return replay.observe(replay.init(1), rollout, key, (), jnp.int32(0))[1]

    action = jax.ShapeDtypeStruct((steps, 1), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    agent = dreamer_v2.make(spec, dataclasses.replace(config, replay=one))
    return agent, jax.eval_shape(draw, ts, action, key)


def atari() -> types.EnvSpec:
    """Returns the spec of the paper's Atari: 64×64 grey, 18 actions."""
    spec = envs.make(GAME, (1, 1)).spec
    obs = {"image": jax.ShapeDtypeStruct((64, 64, 1), jnp.uint8)}
    task = spec.tasks[0]._replace(obs=obs)
    return spec._replace(obs=obs, action=types.Discrete(18), tasks=(task,))


def speeds(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Returns rates by size and members, the cases one after the other in every turn."""
    calls = {
        (size, members, kind): chunk(size, members, prefill)
        for size in args.sizes if size != "atari"
        for members in args.members
        for kind, prefill in (("train", 0), ("act", NEVER))
    }  # fmt: skip
    taken = in_turn(calls, args.turns)
    print(common.header(SPEED))
    rows = []
    for size, members in dict.fromkeys(key[:2] for key in calls):
        train, act = (taken[size, members, kind] for kind in ("train", "act"))
        alone = taken[size, args.members[0], "train"]
        steps = members * UPDATES * STEPS
        row = {
            "size": size,
            "members": members,
            "gradient steps/s": steps / train["wall"],
            "acting steps/s": members * UPDATES * UNROLL * SLOTS / act["wall"],
            "CPU ms": 1e3 * train["cpu"] / steps,
        }
        if args.members[0] == 1:
            row["against runs in turn"] = members * alone["wall"] / train["wall"]
        print(common.line(row, SPEED))
        rows.append(row)
    return rows


def in_turn(
    calls: Mapping[Any, Callable[[], Any]], turns: int
) -> dict[Any, dict[str, float]]:
    """Returns {name: median wall and CPU seconds}; a first turn is not counted."""
    return {
        name: dict(zip(("wall", "cpu"), map(statistics.median, zip(*own))))
        for name, own in common.both_in_turn(calls, turns).items()
    }


def chunk(size: str, members: int, prefill: int) -> Callable[[], Any]:
    """Returns a call that runs a chunk of updates."""
    env = envs.make(GAME, (members, SLOTS))
    mesh = sharding.make_mesh(members, SLOTS, sharding.devices(members, pure=True))
    made = fused_runner.make(
        dreamer_v2.make(env.spec, config_of(size, prefill)), env,
        unroll_length=UNROLL, updates_per_chunk=UPDATES, mesh=mesh,
        at_once=sharding.members_at_once(mesh),
    )  # fmt: skip
    own = hparams.override(dreamer_v2.Hparams(), SETTINGS)
    hp = jax.tree.map(lambda x: jnp.full(members, x, jnp.float32), own)
    given = sharding.on_devices((random.roots(0, members), hp), mesh, members)
    state = sharding.making_layout(made.init, mesh, members, *given)(*given)
    (_, hp), run, held = given, sharding.keeping_layout(made.chunk), [state]

    def call():
        held[0], out = run(held[0], hp)
        return out.metrics

    return call


def config_of(size: str, prefill: int) -> dreamer_v2.Config:
    """Returns the settings of "tiny", of "small" (an earlier config) or of CONFIG."""
    steps = UNROLL * SLOTS / STEPS
    if size == "config":
        config = agent_settings.config(loading.load(CONFIG))
        replay = dataclasses.replace(config.replay, prefill=prefill, train_every=steps)
        return dataclasses.replace(config, replay=replay)
    units, number, length, horizon = {"tiny": (32, 4, 8, 4), "small": (64, 8, 16, 6)}[
        size
    ]
    return dreamer_v2.Config(
        rssm.RSSMConfig(
            latents.LatentConfig("categorical", number, number), units, units
        ),
        observation_config.ObservationConfig(depth=16, units=units, layers=1),
        units=units,
        layers=2,
        replay=sequences.SequenceConfig(
            capacity=100_000, batch=16, length=length, prefill=prefill,
            train_every=steps,
        ),
        horizon=horizon,
        rewards="none",
    )  # fmt: skip


def arguments() -> argparse.Namespace:
    """Returns the parsed arguments."""
    parser = common.parser(__doc__, "the tiny model, two members, few steps")
    known = ["flops", "speed"]
    parser.add_argument("--part", nargs="+", choices=known, default=known)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--members", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    if args.quick:
        args.sizes, args.members, args.turns = ["tiny"], [1, 2], 1
    return args


if __name__ == "__main__":
    main()
