"""From a checked config to the program of a run: agent, runner and compiled functions.

Nothing below knows an agent or environment by name. Everything that can be wrong with a
config is found out here, before a run folder exists. The environments come from
``environments``, what judges the members from ``selection``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from mtrl_jax import errors, types
from mtrl_jax.config import agent_settings, schema, stage_schema
from mtrl_jax.engine import (
    fitness,
    fused_runner,
    host_runner,
)
from mtrl_jax.envs.curriculum import Curriculum
from mtrl_jax.experiments import (
    acting,
    build,
    checks,
    curricula,
    device_memory,
    environments,
    reporters,
    selection,
)
from mtrl_jax.training.program import Program, Recording, RunLength


def make_program(
    config: schema.ExperimentConfig,
    restart: int = 0,
    *,
    world: environments.World | None = None,
    make_agent: Callable[[types.EnvSpec], types.Agent] | None = None,
    record: Recording | None = None,
    check: bool = True,
) -> Program:
    """Returns everything a run needs.

    ``restart`` is the update a run is resumed at: environments that cannot be restored
    (envpool, and all that are mixed with it) get other seeds, so that they do not repeat
    the episodes already seen. It is -1 of what will not train (an evaluation, a film),
    which may be too short for it. ``world`` and ``make_agent`` replace what the config
    describes; with ``record`` every step is given out and goes there. An agent may rely on
    which slots have which task: the one that trains knows those it trains on, the one that
    is tested those of the tests, and the program's, which plays elsewhere, none. Settings
    that were checked before are not traced again without ``check``.

    Raises:
      ConfigError: a setting that does not fit the environments, agent or machine.
    """
    if world is None:
        world = environments.make_world(config, f"{config.seed}/{restart}")
    spec, batch = world.spec, world.batch
    make = make_agent or functools.partial(build.make_agent, config)
    _check_tasks(config, spec)
    agent = make(spec)
    length, trains = run_length(config, batch[1]), restart >= 0
    if trains:
        checks.check_counts(config, batch[1], length.updates)
    place = build.placement(config, batch[1], world.pure, meet=spec.one_each)
    sizes = _checked(config, agent, spec, batch[1], place) if check else None
    if check and restart == 0:
        tested = config.evaluation.hparams
        acting.check_played("evaluation.hparams", tested, agent, config, spec)
    if trains and stage_schema.links(config).of is None:
        checks.check_starts(config, length.updates, length.steps)
    choice = config.population.fitness
    with errors.at("population"):
        metric = fitness.make_metric(spec, choice.metric, choice.task)
        if trains:
            checks.check_rounds(config, _fewest_slots(config))
    course = curricula.make(config, world)
    runner = make_runner(
        config, agent, world, place, course,
        judged=metric.measure, record=record, restart=max(restart, 0),
    )  # fmt: skip
    return build.assemble(
        config,
        place,
        init=runner.init,
        chunk=runner.chunk,
        pure=world.pure,
        compiled=world.kind != "host",
        spec=spec,
        agent=make(spec._replace(slot_tasks=())),
        batch=batch,
        run_length=length,
        reporter=reporters.of_returns(config, spec, metric, world.kind),
        evaluate=selection.make_evaluate(config, make(world.test.spec), world),
        pbt_step=selection.make_pbt_step(config, agent, spec, batch, metric),
        metric=metric,
        close=world.close,
        memory=functools.partial(_memory, config, agent, spec, batch[1], place, sizes),
        record=record,
    )


def _checked(
    config: Any,
    agent: types.Agent,
    spec: types.EnvSpec,
    slots: int,
    place: build.Placement,
) -> checks.Sizes:
    """Returns the bytes of a member of an agent that can learn here and fits the devices.

    Raises:
      ConfigError: it cannot, or does not.
    """
    with errors.at("agent.config", agent_settings.config(config)):
        traced = checks.check_agent(
            agent, config, spec, slots, config.training.unroll_length
        )
    device_memory.check(agent, config, traced.sizes, slots, place.mesh, traced.drawn)
    return traced.sizes


def _memory(
    config: Any,
    agent: types.Agent,
    spec: types.EnvSpec,
    slots: int,
    place: build.Placement,
    sizes: checks.Sizes | None,
) -> str:
    """Returns a line of the bytes that members have, of ``sizes`` where they are known.

    And of how many emulators, whose bytes are known to nobody before they run.
    """
    length = config.training.unroll_length
    sizes = sizes or checks.sizes_of(agent, config, spec, slots, length)
    parts = device_memory.of_member(agent, sizes, slots)
    said = device_memory.line(parts, config.population.size, place.mesh)
    train, test = environments.emulators(config)
    if not test:
        return said
    return (
        f"{said}; beside it {train} emulators to train in and {test} to be tested in "
        "(evaluation.episodes of each member and task, over evaluation.rounds), each "
        "with a memory of its own"
    )


def _check_tasks(config: Any, spec: types.EnvSpec) -> None:
    """Raises ConfigError unless a member that learns has the tasks its agent is for."""
    fewest = agent_settings.module(config).INFO.fewest_tasks
    if spec.own_tasks < fewest:
        names = ", ".join(task.name for task in spec.tasks)
        there, more = f"there is {names}", "more tasks"
        if spec.one_each:
            there, more = f"each member has one of {names}", "population.axis=slot"
        raise errors.ConfigError(
            f"agent.name={config.agent.name!r}: it is for at least {fewest} tasks, "
            f"{there}; give {more}, or another agent"
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


def _fewest_slots(config: schema.ExperimentConfig) -> int:
    return min(task.slots for task in environments.tasks_of(config))


def make_runner(
    config: schema.ExperimentConfig,
    agent: types.Agent,
    world: environments.World,
    place: build.Placement,
    course: Curriculum | None,
    *,
    judged: str,
    record: Recording | None,
    restart: int,
) -> fused_runner.Runner:
    """Returns the runner of ``agent`` on the world's training environments."""
    options: dict[str, Any] = {
        "unroll_length": config.training.unroll_length,
        "updates_per_chunk": config.training.updates_per_chunk,
        "window": checks.kept_by_slot(config, _fewest_slots(config)),
        "at_once": place.at_once,
        "judged": judged,
    }
    if world.kind == "host":
        return host_runner.make(agent, world.train, **options)
    if record is not None:
        options |= {"record": True, "extras_of": record.extras}
    return fused_runner.make(
        agent, world.train,
        mesh=place.mesh, curriculum=course, restart=restart, **options,
    )  # fmt: skip
