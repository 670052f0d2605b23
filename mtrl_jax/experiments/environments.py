"""The environments of a run, made from the names in its config.

A config lists tasks and suites; a run trains on one mixture of them and is tested on
another, with slots and seeds of its own. Where every environment is a pure function, or
the device is a CPU, the mixture is one Env inside the compiled program; otherwise it is
stepped from Python, as two halves that take turns (engine/host_runner.py).
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from mtrl_jax import envs, errors, types
from mtrl_jax.config import schema, stage_schema
from mtrl_jax.envs import core, mixture
from mtrl_jax.experiments import device_memory


class World(NamedTuple):
    """The environments of a run: to train on, and others to test on."""

    kind: str  # "fused": each an Env; "host": two halves to train on, one HostEnv
    train: Any
    test: Any
    spec: types.EnvSpec
    batch: tuple[int, int]
    pure: bool
    close: Callable[[], None]
    # Batches of the parts that ``train`` is a mixture of; tasks can share one.
    parts: tuple[tuple[int, int], ...] = ()


class Task(NamedTuple):
    """One environment of the mixture with its place in it."""

    field: str  # where the config names it
    env: str
    slots: int
    options: dict[str, Any]
    entry: int  # of the config's tasks
    first_slot: int = 0  # of the environment's own, where it is the other half of one


def make_world(config: schema.ExperimentConfig, seed: str) -> World:
    """Returns the environments of a run, of the kind its runner needs.

    Raises:
      ConfigError: an unknown task, an option, size or combination that cannot work.
    """
    tasks, slots = tasks_of(config), config.evaluation.slots
    if runner_kind(config, tasks) == "fused":
        parts = _joined(config, tasks, f"{seed}/train")
        env = _learned(config, _mixed(config, parts))
        test = _learned(config, make_env(config, tasks, f"{seed}/test", slots))
        sizes = tuple(part.batch for part in parts)
        world = World("fused", env, test, env.spec, env.batch, env.pure, lambda: None)
        return world._replace(parts=sizes)
    halves = make_halves(config, tasks, f"{seed}/train")
    hosted = _learned(config, make_host_env(config, tasks, f"{seed}/test", slots))
    batch = (config.population.size, sum(half.batch[1] for half in halves))
    close = functools.partial(mixture.close, [*halves, hosted])
    own = tuple(task for half in halves for task in half.spec.slot_tasks)
    spec = hosted.spec._replace(slot_tasks=own)
    return World("host", halves, hosted, spec, batch, False, close)


def _learned(config: schema.ExperimentConfig, env: Any) -> Any:
    """Returns ``env``, whose spec says whether members learn one of the tasks each.

    Learners of another stage know the tasks of that one, whichever they play here.
    """
    links = stage_schema.links(config)
    by_member = config.population.axis == "population" and len(env.spec.tasks) > 1
    is_fresh = links.of is None and links.init_from is None
    return env._replace(spec=env.spec._replace(one_each=by_member and is_fresh))


def tasks_of(config: schema.ExperimentConfig) -> list[Task]:
    """Returns the tasks with suites expanded.

    Raises:
      ConfigError: an unknown environment or suite, by field.
    """
    tasks = []
    for i, task in enumerate(config.tasks):
        with errors.at(f"tasks.{i}", task):
            names = envs.suite(task.suite) if task.suite else [str(task.env)]
        tasks += [Task(f"tasks.{i}", n, task.slots, task.options, i) for n in names]
    return tasks


def emulators(config: schema.ExperimentConfig) -> tuple[int, int]:
    """Returns how many environments outside the program are trained and tested in.

    Of all members; of those with a task each, each in its own.
    """
    tasks, members = tasks_of(config), config.population.size
    if config.population.axis == "population":
        members //= len(tasks)
    slots = [task.slots for task in tasks if envs.runs_on_host(task.env)]
    return members * sum(slots), members * len(slots) * config.evaluation.slots


def runner_kind(config: schema.ExperimentConfig, tasks: list[Task]) -> str:
    """Returns "fused" or "host": where the environments are stepped.

    ``auto`` steps everything inside the compiled program, except envpool on an
    accelerator, which the host runner overlaps with the device.
    """
    if config.training.runner != "auto":
        return config.training.runner
    if jax.default_backend() == "cpu":
        return "fused"
    hosted = False
    for t in tasks:
        with errors.at(t.field, config.tasks[t.entry]):
            hosted |= envs.runs_on_host(t.env)
    return "host" if hosted else "fused"


def make_env(
    config: schema.ExperimentConfig,
    tasks: list[Task],
    seed: str,
    slots: int | None = None,
) -> types.Env:
    """Returns the mixture ``[P, B]``; ``slots`` replaces every task's own number.

    Neighbours that differ in numbers alone (levels of Labyrinth) are compiled once.

    Raises:
      ConfigError: an option, size or combination that cannot work.
    """
    return _mixed(config, _joined(config, tasks, seed, slots))


def _joined(
    config: schema.ExperimentConfig,
    tasks: list[Task],
    seed: str,
    slots: int | None = None,
) -> list[types.Env]:
    """Returns the parts of the mixture, one for neighbours of the same code."""

    def part(task, batch, pool_seed):
        given = task.env, batch, task.options, pool_seed
        pure = envs.pure_task(task.env, task.options)
        return (pure, batch) if pure else envs.make(*given)

    parts = _parts(config, tasks, seed, slots, part)
    with errors.at("tasks"):
        return core.join(parts, config.population.axis)


def _mixed(config: schema.ExperimentConfig, parts: list[types.Env]) -> types.Env:
    with errors.at("tasks"):
        return mixture.make(parts, config.population.axis)


def make_host_env(
    config: schema.ExperimentConfig,
    tasks: list[Task],
    seed: str,
    slots: int | None = None,
) -> types.HostEnv:
    """Returns the mixture ``[P, B]`` driven from Python; arguments as for make_env."""

    def part(task, batch, pool_seed):
        given = task.env, batch, task.options, pool_seed
        return envs.make_host(*given, task.first_slot)

    parts = _parts(config, tasks, seed, slots, part)
    with errors.at("tasks"):
        return mixture.make_host(parts, config.population.axis)


def make_halves(
    config: schema.ExperimentConfig, tasks: list[Task], seed: str
) -> list[types.HostEnv]:
    """Returns two host-driven mixtures that hold half of every task's slots each.

    Together their slots are those of the mixture ``[P, B]``, with the same seeds.

    Raises:
      ConfigError: as ``make_env``, or a task with an odd number of slots.
    """
    for t in tasks:
        if t.slots % 2:
            raise errors.ConfigError(
                f"{t.field}.slots={t.slots} with the host runner: it steps two halves, "
                "give an even number"
            )
    halves = []
    for half in range(2):
        own = [
            t._replace(slots=t.slots // 2, first_slot=half * (t.slots // 2))
            for t in tasks
        ]
        halves.append(make_host_env(config, own, seed))
    return halves


def describe(config: schema.ExperimentConfig, restart: int = 0) -> dict[str, Any]:
    """Returns what is worth recording of each environment: options, seeds, versions."""
    described = {}
    seed = f"{config.seed}/{restart}/train"
    for k, (task, batch) in enumerate(batches(config)):
        record = envs.describe(task.env, batch, task.options, pool_seed(seed, k))
        described[f"{k}: {task.env}"] = {"slots": batch[1], **record}
    return described


def _parts(config, tasks, seed, slots, make) -> list:
    """Returns the environments of the mixture, one for each task."""
    parts = []
    for k, (task, batch) in enumerate(batches(config, tasks, slots)):
        with errors.at(task.field, config.tasks[task.entry]):
            parts.append(make(task, batch, pool_seed(seed, k)))
    return parts


def batches(
    config: schema.ExperimentConfig,
    tasks: list[Task] | None = None,
    slots: int | None = None,
) -> list[tuple[Task, tuple[int, int]]]:
    """Returns each task with its part ``(P_k, B_k)`` of the population's slots.

    ``tasks`` default to the config's, ``slots`` of a task to its own.

    Raises:
      ConfigError: a population that the tasks do not divide, more slots than there is
        memory for.
    """
    tasks = tasks_of(config) if tasks is None else tasks
    members = config.population.size
    check_number(config, tasks, slots)
    if config.population.axis == "population":
        if members % len(tasks):
            fits = -(-members // len(tasks)) * len(tasks)
            raise errors.ConfigError(
                f"population.size={members} is not divisible by {len(tasks)} tasks "
                f"(population.axis='population'); try {fits}"
            )
        members //= len(tasks)
    return [(task, (members, slots or task.slots)) for task in tasks]


def check_number(
    config: schema.ExperimentConfig, tasks: list[Task], slots: int | None
) -> None:
    """Raises ConfigError unless so many slots could fit; it names the largest factor.

    Of training, that is without a number of ``slots``, with its rollout.
    """
    members = config.population.size
    length = config.training.unroll_length if slots is None else 0
    largest = max(tasks, key=lambda task: task.slots)
    name, most = f"{largest.field}.slots", largest.slots
    if slots is not None:
        name, most = "evaluation.episodes", config.evaluation.episodes
    if members > (slots or most):
        name, most = "population.size", members
    number = members * sum(slots or task.slots for task in tasks)
    device_memory.check_slots(f"{name}={most}", number, length)
    if slots is not None:
        episodes = config.evaluation.episodes
        device_memory.check_results(
            f"evaluation.episodes={episodes}", members * len(tasks) * episodes
        )


def pool_seed(seed: str, part: int) -> int:
    """Returns the seed of part ``part`` of the environments that ``seed`` names."""
    return zlib.crc32(f"{seed}/{part}".encode())
