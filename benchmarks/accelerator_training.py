"""Training for accelerator.py: PPO and V-trace put together as the engine does for a run.

Of IMPALA's torso and of DreamerV2 at the size of Atari it is the update alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import common
import dreamer
import flops
import jax
import jax.numpy as jnp
from accelerator_measure import Work

from mtrl_jax import agents, envs, random, types
from mtrl_jax.agents import dreamer_v2
from mtrl_jax.engine import fused_runner, population
from mtrl_jax.envs import mixture
from mtrl_jax.networks import network_config


def ppo(members: int, size: Mapping[str, Any]) -> Work:
    """Returns the training of ``members`` members of PPO on CartPole, one chunk."""
    module: Any = agents.get("ppo")
    network = network_config.NetworkConfig(hidden=(64, 64))
    updates = max(1, size["updates"] // members)
    steps, slots = size["ppo unroll"], size["ppo slots"]
    config = module.Config(network=network, epochs=4, minibatches=4)
    work = training(
        "gymnax/CartPole-v1", module, config, members, slots, steps, updates
    )
    return work._replace(loops=updates * (steps + 16))


def vtrace(members: int, size: Mapping[str, Any]) -> Work:
    """Returns the training of ``members`` V-trace agents with an MLP, one chunk."""
    module: Any = agents.get("impala")
    network = network_config.NetworkConfig(torso="mlp", hidden=(128,))
    updates, steps = max(1, 2 * size["updates"] // members), 20
    config = module.Config(network=network)
    game = "gymnax/Breakout-MinAtar"
    work = training(game, module, config, members, 32, steps, updates)
    return work._replace(loops=updates * (steps + 1))


def training(
    env: str,
    module: Any,
    config: Any,
    members: int,
    slots: int,
    steps: int,
    updates: int,
) -> Work:
    """Returns a chunk of training as the engine compiles it."""
    world = mixture.make([envs.make(env, (members, slots))])
    agent, hp = module.make(world.spec, config), repeated(module.Hparams(), members)
    runner = fused_runner.make(
        agent, world, unroll_length=steps, updates_per_chunk=updates
    )
    keys = random.roots(0, members)
    operations = flops.of(runner.chunk, jax.eval_shape(runner.init, keys, hp), hp)
    held = [jax.jit(runner.init)(keys, hp)]
    chunk = jax.jit(runner.chunk, donate_argnums=0)

    def call() -> Any:
        held[0], output = chunk(held[0], hp)
        return output

    done = updates * steps * slots * members
    return Work(call, done, "env steps of all members", operations)


def atari(members: int, slots: int, steps: int = 20) -> Work:
    """Returns V-trace updates of IMPALA's shallow torso on random frames."""
    module: Any = agents.get("impala")
    spec = frames()
    network = network_config.NetworkConfig(torso="impala_shallow")
    agent = module.make(spec, module.Config(network=network))
    every, hp = (
        population.population(agent, members),
        repeated(module.Hparams(), members),
    )
    keys = random.roots(0, members)
    learner, carry = jax.jit(every.init)(keys, hp), every.carry(slots)
    ts = random_steps(spec, (members, slots))
    action, _, extras = jax.jit(every.act)(learner, carry, ts, keys, hp)

    def over_time(tree: Any, length: int) -> Any:
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (length, *x.shape)), tree)

    actions, noted = over_time((action, extras), steps)
    rollout = types.Rollout(over_time(ts, steps + 1), actions, noted, carry)

    def update(learner: Any, rollout: Any) -> Any:
        return every.update(learner, rollout, keys, hp, jnp.int32(0))[:2]

    operations = flops.of(update, learner, rollout)
    held, run = [learner], jax.jit(update, donate_argnums=0)

    def call() -> Any:
        held[0], metrics = run(held[0], rollout)
        return metrics

    return Work(call, members * slots * steps, "frames learned from", operations)


def dreaming(members: int) -> Work:
    """Returns gradient steps of DreamerV2 at the paper's size on random frames.

    Batches of 50 sequences of 50 steps, dreams of 15, products in bfloat16.
    """
    every, shapes = dreamers(members)
    hp, keys = repeated(dreamer_v2.Hparams(), members), random.roots(0, members)

    def drawn(x: jax.ShapeDtypeStruct) -> Any:
        if x.dtype != jnp.uint8:
            return jnp.zeros(x.shape, x.dtype)
        return jax.random.randint(jax.random.key(0), x.shape, 0, 256, jnp.uint8)

    batch = jax.tree.map(drawn, shapes)

    def update(learner: Any) -> Any:
        return every.update(learner, batch, keys, hp, jnp.int32(0))[:2]

    held, run = [jax.jit(every.init)(keys, hp)], jax.jit(update, donate_argnums=0)

    def call() -> Any:
        held[0], metrics = run(held[0])
        return metrics

    unit = "gradient steps of all members"
    return Work(call, members, unit, members * paper_operations(), dtype="bfloat16")


def paper_operations() -> int:
    """Returns the operations of one such gradient step, those of the page on DreamerV2.

    A trace on this device would count its own way of doing transposed convolutions.
    """
    rows = json.loads((common.RESULTS / "dreamer_flops.json").read_text())["rows"]
    (row,) = [row for row in rows if row["size"] == "atari"]
    return round(1e9 * row["GFLOP"])


def dreamers(members: int) -> tuple[types.Agent, Any]:
    """Returns (population, shapes of its batches ``[P, ...]``)."""
    agent, one = dreamer.traced("atari", dtype="bfloat16")

    def repeat(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((members, *x.shape), x.dtype)

    every = population.population(agent, members)
    return every, jax.tree.map(repeat, one)


def frames() -> types.EnvSpec:
    """Returns the spec of Atari: four grey frames of 84×84, 18 actions."""
    spec = envs.make("gymnax/Breakout-MinAtar", (1, 1)).spec
    obs = {"image": jax.ShapeDtypeStruct((84, 84, 4), jnp.uint8)}
    task = spec.tasks[0]._replace(obs=obs)
    return spec._replace(obs=obs, action=types.Discrete(18), tasks=(task,))


def random_steps(spec: types.EnvSpec, batch: tuple[int, int]) -> types.TimeStep:
    """Returns a TimeStep ``[P, B]`` in the middle of an episode, its pictures random."""
    ((name, image),) = spec.obs.items()
    shape = (*batch, *image.shape)
    return types.TimeStep(
        obs={name: jax.random.randint(jax.random.key(0), shape, 0, 256, jnp.uint8)},
        reward=jnp.ones(batch),
        discount=jnp.ones(batch),
        first=jnp.zeros(batch, bool),
        last=jnp.zeros(batch, bool),
        task=jnp.zeros(batch, jnp.int32),
        action_mask=jnp.ones((*batch, types.action_mask_size(spec.action)), bool),
    )


def repeated(hp: Any, members: int) -> Any:
    """Returns hyperparameters ``[P]``, every member's the same."""
    return jax.tree.map(lambda x: jnp.full(members, x, jnp.float32), hp)
