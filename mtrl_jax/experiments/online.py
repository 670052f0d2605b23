"""From a checked config to the program of a run: agent, runner and compiled functions.

Nothing below knows an agent or environment by name. Everything that can be wrong with a
config is found out here, before a run folder exists. The environments come from
``environments``, what judges the members from ``selection``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax

from mtrl_jax import errors, random, types
from mtrl_jax.config import agent_settings, schema
from mtrl_jax.engine import (
    fitness,
    fused_runner,
    host_runner,
    pbt,
    sharding,
)
from mtrl_jax.experiments import checks, environments, reporters, selection
from mtrl_jax.training.program import Program, Recording, RunLength
from mtrl_jax.types import Tree


def make_program(
    config: schema.ExperimentConfig,
    restart: int = 0,
    *,
    world: environments.World | None = None,
    record: Recording | None = None,
) -> Program:
    """Returns everything a run needs.

    ``restart`` is the update a run is resumed at: environments that cannot be restored
    (envpool) get other seeds, so that they do not repeat the episodes already seen.
    ``world`` replaces the mixture that the config describes; with ``record`` every step
    is given out and goes there.

    Raises:
      ConfigError: a setting that does not fit the environments, agent or machine.
    """
    if world is None:
        world = environments.make_world(config, f"{config.seed}/{restart}")
    spec, batch = world.spec, world.batch
    with errors.at("agent.config"):
        agent = agent_settings.module(config).make(spec, agent_settings.config(config))
        length = config.training.unroll_length
        checks.check_agent(agent, config, spec, batch[1], length)
    choice = config.population.fitness
    with errors.at("population"):
        metric = fitness.make_metric(spec, choice.metric, choice.task)
        checks.check_rounds(config)
    members = config.population.size
    keys = random.roots(config.seed, members)
    mesh = sharding.make_mesh(members, batch[1], devices(members, world.pure))
    hparams, lineage = on_devices(
        (initial_hparams(config, keys), pbt.init(members)), mesh, members
    )
    runner = make_runner(
        config, agent, world, mesh, judged=metric.measure, record=record is not None
    )

    def init(hp: Tree) -> fused_runner.RunState:
        build = jax.jit(runner.init) if world.pure else runner.init
        state = build(keys, hp)
        if not world.pure:
            return state
        return jax.device_put(state, sharding.run_state_shardings(state, mesh, members))

    return Program(
        spec=spec,
        agent=agent,
        batch=batch,
        pure=world.pure,
        run_length=run_length(config, batch[1]),
        reporter=reporters.of_returns(config, spec, metric, world.kind),
        hparams=hparams,
        lineage=lineage,
        init=init,
        chunk=runner.chunk if world.kind == "host" else keeping_layout(runner.chunk),
        evaluate=selection.make_evaluate(config, agent, world),
        pbt_round=selection.make_round(config, agent, spec, batch, metric),
        metric=metric,
        close=world.close,
        record=record,
    )


def run_length(config: schema.ExperimentConfig, slots: int) -> RunLength:
    """Returns the length of a run: ``env_steps`` per member, up to whole chunks."""
    t = config.training
    steps = t.unroll_length * slots
    chunks = math.ceil(t.env_steps / (t.updates_per_chunk * steps))
    return RunLength(
        updates=chunks * t.updates_per_chunk,
        per_chunk=t.updates_per_chunk,
        steps=steps,
        test_every=config.evaluation.every_updates,
        save_every=config.checkpoint.every_updates,
    )


def on_devices(trees: Any, mesh: sharding.Mesh, members: int) -> Any:
    """Returns the trees with leaves that start with P split over the mesh's members."""
    return jax.device_put(trees, sharding.shardings(trees, mesh, members))


def initial_hparams(config: Any, keys: types.Key) -> Tree:
    """Returns the members' hyperparameters ``[P]``: drawn where there is a range."""
    with errors.at("population.search"):
        return pbt.sample_initial(
            random.at(keys, 0, random.SEARCH),
            agent_settings.hparams(config),
            config.population.search,
        )


def make_runner(
    config: schema.ExperimentConfig,
    agent: types.Agent,
    world: environments.World,
    mesh: sharding.Mesh,
    *,
    judged: str,
    record: bool,
) -> fused_runner.Runner:
    """Returns the runner of ``agent`` on the world's training environments."""
    fewest = min(task.slots for task in environments.tasks_of(config))
    options: dict[str, Any] = {
        "unroll_length": config.training.unroll_length,
        "updates_per_chunk": config.training.updates_per_chunk,
        "window": math.ceil(config.population.fitness.window / fewest),
        "at_once": config.population.at_once or members_at_once(mesh),
        "judged": judged,
    }
    if world.kind == "host":
        return host_runner.make(agent, world.train, **options)
    return fused_runner.make(agent, world.train, mesh=mesh, record=record, **options)


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


def keeping_layout(chunk: Callable) -> Callable:
    """Returns ``chunk`` jitted so that its result lies on the devices its input did.

    ``chunk(state, hp, *more)``; the state is donated. Without fixed layouts the second
    call could see others than the first and be compiled again.
    """
    compiled: list[Callable] = []

    def run(state, hp, *more):
        if not compiled:
            layout = jax.tree.map(lambda x: x.sharding, state)
            compiled.append(
                jax.jit(chunk, donate_argnums=0, out_shardings=(layout, None))
            )
        return compiled[0](state, hp, *more)

    return run
