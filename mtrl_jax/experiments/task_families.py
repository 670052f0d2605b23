"""The environments of stages: every task of a family at once, each with its own place.

An entry that stands for many tasks (a dark room, a bandit) is spread: in a collect stage
each member has one of them for good, in an evaluate stage each slot. An entry that is
one task is as in any run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from mtrl_jax import envs, errors, random, tree, types
from mtrl_jax.config import agent_settings, stage_schema
from mtrl_jax.envs import core, expert_labels, mixture
from mtrl_jax.experiments import device_memory, environments
from mtrl_jax.experiments.environments import World


class Spread(NamedTuple):
    """An entry of ``tasks``: its code and, where there are many, all that it stands for."""

    field: str  # where the config names it
    task: stage_schema.StageTask
    name: str  # of the environment; a suite has an entry for each
    pure: core.PureTask | None  # None outside the program (envpool)
    many: types.Tree | None  # params [N, ...]

    @property
    def number(self) -> int:
        """N, the tasks that the entry stands for."""
        return 1 if self.many is None else len(jax.tree.leaves(self.many)[0])


def entries(config: Any) -> list[Spread]:
    """Returns the entries of a stage's ``tasks``, suites expanded.

    Raises:
      ConfigError: an unknown environment or option.
    """
    found = []
    for i, entry in enumerate(config.tasks):
        with errors.at(f"tasks.{i}", entry):
            if entry.curriculum is not None:
                raise ValueError(
                    f"curriculum with kind={config.kind!r}: levels move in online runs "
                    "and stages alone; leave it out"
                )
            found += [_entry(f"tasks.{i}", entry, name) for name in _names(entry)]
    return found


def collecting(
    config: stage_schema.CollectStage, restart: int = 0
) -> tuple[World, list[str], bool]:
    """Returns (world, task name of each history, whether actions may be illegal).

    ``restart`` is the update that the run goes on from: of other seeds are environments
    outside the program.

    Raises:
      ConfigError: a task or size that cannot be; several tasks where one is a family.
    """
    if config.training.runner == "host":
        raise errors.ConfigError(
            "training.runner='host' with kind='collect': steps are kept by the compiled "
            "program; give auto or fused"
        )
    found, members = entries(config), config.population.size
    labelled = _labeller(config)
    asks = _asks(config) and found[0].pure is not None
    if not asks and all(spread.many is None for spread in found):
        return _mixture(config, found, restart)
    if len(found) > 1:
        shown = f"{config.agent.name} sees what is best in one alone"
        raise errors.ConfigError(
            f"tasks: {len(found)} given, and "
            f"{shown if asks else 'among them a family of tasks'}; a collect "
            "stage spreads one family over its members, give it a stage of its own"
        )
    (one,) = found
    assert one.pure is not None
    for slots in (None, config.evaluation.slots):
        environments.check_number(config, environments.tasks_of(config), slots)
    train, test = (
        labelled(_spread(one, (members, slots), "population"))
        for slots in (one.task.slots, config.evaluation.slots)
    )
    world = World("fused", train, test, train.spec, train.batch, True, lambda: None)
    names = [
        f"{one.pure.spec.name} {p % one.number}"
        for p in range(members)
        for _ in range(one.task.slots)
    ]
    return world, names, one.pure.action_mask is not None


def testing(config: stage_schema.EvaluateStage) -> types.Env | types.HostEnv:
    """Returns all tasks of all entries as slots of every member.

    Slot b of an entry's N x ``slots`` plays its task b mod N. A HostEnv, stepped from
    Python, where an entry runs outside the program (envpool).

    Raises:
      ConfigError: tasks that cannot be, or not be together.
    """
    found, labelled = entries(config), _labeller(config)
    largest = max(found, key=lambda x: x.number * x.task.slots)
    number = config.population.size * sum(x.number * x.task.slots for x in found)
    device_memory.check_slots(f"{largest.field}.slots={largest.task.slots}", number)
    hosted = any(spread.pure is None for spread in found)
    parts: list[Any] = []
    for k, spread in enumerate(found):
        batch = (config.population.size, spread.number * spread.task.slots)
        seed = environments.pool_seed(f"{config.seed}/test", k)
        with errors.at(spread.field, spread.task):
            parts.append(
                _hosted(spread, batch, seed) if hosted else _spread(spread, batch)
            )
    with errors.at("tasks"):
        if hosted:
            return mixture.make_host(parts) if len(parts) > 1 else parts[0]
        return labelled(mixture.make(parts) if len(parts) > 1 else parts[0])


def _spread(entry: Spread, batch: tuple[int, int], axis: str = "slot") -> types.Env:
    assert entry.pure is not None
    if entry.many is None:
        return core.vectorise(entry.pure, batch)
    return core.spread(entry.pure, entry.many, batch, axis)


def _hosted(entry: Spread, batch: tuple[int, int], seed: int) -> types.HostEnv:
    if entry.pure is None:
        return envs.make_host(entry.name, batch, entry.task.options, seed)
    key = random.at(random.roots(seed, batch[0]), 0, random.ENV)
    return mixture.host_from_pure(_spread(entry, batch), key)


def optimal(config: Any) -> Callable[[types.Tree], types.Array]:
    """Returns what is best to do in a stage's environments: env state -> actions [P, B].

    Raises:
      ConfigError: a task of which that is not known.
    """
    best = []
    for i, entry in enumerate(config.tasks):
        with errors.at(f"tasks.{i}", entry):
            best += [envs.optimal_action(x, entry.options) for x in _names(entry)]
        if "trial" in entry.options:
            raise errors.ConfigError(
                f"tasks.{i}.options.trial={entry.options['trial']}: an episode is so "
                "many of them, and nobody shows how to play that; leave it out"
            )

    def actions(state: types.Tree) -> types.Array:
        parts = [state] if len(best) == 1 else state
        found = [f(x.params, x.inner) for f, x in zip(best, parts)]
        return tree.concatenate(found, axis=1)

    return actions


def _labeller(config: Any) -> Callable[[types.Env], types.Env]:
    """Returns what makes environments say what is best, if the stage's agent asks."""
    if not _asks(config):
        return lambda env: env
    best = optimal(config)
    return lambda env: expert_labels.give(env, best)


def _asks(config: Any) -> bool:
    """Returns whether the stage's agent sees what is best."""
    return agent_settings.module(config).INFO.reads_expert_labels


def _mixture(
    config: stage_schema.CollectStage, found: list[Spread], restart: int
) -> tuple[World, list[str], bool]:
    world = environments.make_world(config, f"{config.seed}/{restart}")
    if world.kind != "fused":
        world.close()
        raise errors.ConfigError(
            "tasks: stepped from Python on this machine's accelerator, and steps are "
            "kept by the compiled program; collect on a CPU"
        )
    members, by_member = config.population.size, config.population.axis == "population"
    each = members // len(found) if by_member else 1
    # In the order of members, then slots.
    named = zip(world.spec.tasks, found)
    names = [task.name for task, x in named for _ in range(each * x.task.slots)]
    names = names if by_member else names * members
    # Padded to each other, some actions are illegal in some tasks.
    masks = len(found) > 1 or (found[0].pure is not None and not world.spec.masks)
    return world, names, masks


def _names(entry: stage_schema.StageTask) -> list[str]:
    return envs.suite(entry.suite) if entry.suite else [str(entry.env)]


def _entry(field: str, entry: stage_schema.StageTask, name: str) -> Spread:
    pure = envs.pure_task(name, entry.options)
    if pure is None:
        return Spread(field, entry, name, None, None)
    many = envs.is_many(name, entry.options)
    tasks = envs.tasks_of(name, entry.options) if many else None
    return Spread(field, entry, name, pure, tasks)
