"""From a checked config to the pieces of a run: agent, runner and compiled functions.

Nothing below knows an agent or environment by name. Everything that can be wrong with a
config is found out here, before a run folder exists. The environments come from
``world``, what judges the members from ``judging``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import config as config_lib
from mtrl_jax import judging, random, types
from mtrl_jax import world as world_lib
from mtrl_jax.config import schema
from mtrl_jax.engine import (
    evaluate,
    fitness,
    fused_runner,
    host_runner,
    pbt,
    sharding,
)
from mtrl_jax.types import Tree


class Pieces(NamedTuple):
    """What a run is made of; functions compile when first called."""

    spec: types.EnvSpec
    agent: types.Agent
    batch: tuple[int, int]  # (P, B)
    pure: bool
    runner: str  # "fused" or "host"
    hparams: Tree  # [P] initial values, on their devices
    lineage: pbt.PbtState  # of generation 0, on its devices
    init: Callable[[Tree], fused_runner.RunState]
    chunk: Callable[[fused_runner.RunState, Tree], tuple]
    evaluate: Callable[[fused_runner.RunState, Tree], evaluate.Evaluation]
    pbt_round: Callable[..., tuple] | None
    metric: fitness.Metric
    close: Callable[[], None]


def pieces(config: schema.ExperimentConfig, restart: int = 0) -> Pieces:
    """Returns everything a run needs.

    ``restart`` is the update a run is resumed at: environments that cannot be restored
    (envpool) get other seeds, so that they do not repeat the episodes already seen.

    Raises:
      ConfigError: a setting that does not fit the environments, agent or machine.
    """
    world = world_lib.make_world(config, f"{config.seed}/{restart}")
    spec, batch = world.spec, world.batch
    with config_lib.errors_at("agent.config"):
        agent = config_lib.agent_module(config).make(
            spec, config_lib.agent_config(config)
        )
        check_agent(agent, spec, batch[1], config)
    choice = config.population.fitness
    with config_lib.errors_at("population"):
        metric = fitness.make_metric(spec, choice.metric, choice.task)
    members = config.population.size
    keys = random.roots(config.seed, members)
    mesh = sharding.make_mesh(members, batch[1], devices(members, world.pure))
    hparams, lineage = (
        jax.device_put(x, sharding.shardings(x, mesh, members))
        for x in (initial_hparams(config, keys), pbt.init(members))
    )
    runner = make_runner(config, agent, world, mesh)

    def init(hp: Tree) -> fused_runner.RunState:
        build = jax.jit(runner.init) if world.pure else runner.init
        state = build(keys, hp)
        if not world.pure:
            return state
        return jax.device_put(state, sharding.run_state_shardings(state, mesh, members))

    return Pieces(
        spec=spec,
        agent=agent,
        batch=batch,
        pure=world.pure,
        runner=world.kind,
        hparams=hparams,
        lineage=lineage,
        init=init,
        chunk=runner.chunk if world.kind == "host" else _keeping_layout(runner.chunk),
        evaluate=judging.make_evaluate(config, agent, world),
        pbt_round=judging.make_round(config, agent, spec, batch, metric),
        metric=metric,
        close=world.close,
    )


def initial_hparams(config: schema.ExperimentConfig, keys: types.Key) -> Tree:
    """Returns the members' hyperparameters ``[P]``: drawn where there is a range."""
    with config_lib.errors_at("population.search"):
        return pbt.sample_initial(
            random.at(keys, 0, random.SEARCH),
            config_lib.agent_hparams(config),
            config.population.search,
        )


def make_runner(
    config: schema.ExperimentConfig,
    agent: types.Agent,
    world: world_lib.World,
    mesh: sharding.Mesh,
) -> fused_runner.Runner:
    """Returns the runner of ``agent`` on the world's training environments."""
    slots_per_task = world.batch[1] / len(world.spec.tasks)
    options: dict[str, Any] = {
        "unroll_length": config.training.unroll_length,
        "updates_per_chunk": config.training.updates_per_chunk,
        "window": math.ceil(config.population.fitness.window / slots_per_task),
        "at_once": config.population.at_once or members_at_once(mesh),
    }
    if world.kind == "host":
        return host_runner.make(agent, world.train, **options)
    return fused_runner.make(agent, world.train, mesh=mesh, **options)


def devices(members: int, pure: bool) -> list[jax.Device]:
    """Returns the devices a run is split over.

    All there are; of CPU devices (cores) no more than the members divide into, because
    splitting the slots of one member costs more than it gains; one where the
    environments are not in the program.
    """
    found = jax.devices()
    if not pure:
        return found[:1]
    if jax.default_backend() == "cpu":
        return found[: math.gcd(members, len(found))]
    return found


def members_at_once(mesh: sharding.Mesh) -> int | None:
    """Returns how many members a device updates together where the config is silent.

    All of them, except where one CPU device has all: one after the other. Measured on 2
    cores (benchmarks/peers.py): one device, PPO on 16 members is 1.1 to 1.4 times as fast
    one by one; split over two devices it is 1.2 to 1.3 times as fast together.
    """
    alone = mesh.size == 1 and jax.default_backend() == "cpu"
    return 1 if alone else None


def check_agent(
    agent: types.Agent,
    spec: types.EnvSpec,
    slots: int,
    config: schema.ExperimentConfig,
) -> None:
    """Returns nothing if the agent can act and learn on rollouts of the config's sizes.

    One update is traced, nothing is compiled: what an agent finds out about its sizes
    when it is traced is found out here, and not when the run folder exists.

    Raises:
      ValueError: whatever the agent has against them.
    """
    length = config.training.unroll_length

    def update(key, hp, ts, unroll):
        state, carry = agent.init(key, hp), agent.carry(slots)
        action, _, extras = agent.act(state, carry, ts, key, hp)
        action, extras = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (length, *x.shape)), (action, extras)
        )
        rollout = types.Rollout(unroll, action, extras, carry)
        return agent.update(state, rollout, key, hp)

    jax.eval_shape(
        update,
        jax.random.key(0),
        jax.tree.map(jnp.float32, config_lib.agent_hparams(config)),
        _time_step_shapes(spec, slots),
        _time_step_shapes(spec, length + 1, slots),
    )


def _time_step_shapes(spec: types.EnvSpec, *leading: int) -> types.TimeStep:
    """Returns the ShapeDtypeStructs of time steps ``[*leading, ...]``."""

    def leaf(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((*leading, *shape), dtype)

    return types.TimeStep(
        obs={name: leaf(x.dtype, *x.shape) for name, x in spec.obs.items()},
        reward=leaf(jnp.float32),
        discount=leaf(jnp.float32),
        first=leaf(jnp.bool_),
        last=leaf(jnp.bool_),
        task=leaf(jnp.int32),
        action_mask=leaf(jnp.bool_, types.action_mask_size(spec.action)),
    )


def _keeping_layout(chunk: Callable) -> Callable:
    """Returns ``chunk`` jitted so that its result lies on the devices its input did.

    The input is donated. Without fixed layouts the second call could see others than
    the first and be compiled again.
    """
    compiled: list[Callable] = []

    def run(state, hp):
        if not compiled:
            layout = jax.tree.map(lambda x: x.sharding, state)
            compiled.append(
                jax.jit(chunk, donate_argnums=0, out_shardings=(layout, None))
            )
        return compiled[0](state, hp)

    return run
