"""What fits the memory of a device, found out before anything is allocated."""

from __future__ import annotations

import operator
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from mtrl_jax import checkpoint, errors, types
from mtrl_jax.config import agent_settings
from mtrl_jax.data import replay
from mtrl_jax.engine import sharding
from mtrl_jax.experiments import checks
from mtrl_jax.training import progress

# How much of a device data or replays may take; a training step needs some too.
SHARE = 0.7
_SLOT = 32  # bytes: a key, counters and sums; what an environment adds is its own
_RESULT = (
    13  # bytes: of an episode that is tested the return, length, task, whether it ended
)
_STEP = 20  # bytes of a rollout's: a TimeStep and the action, both of the smallest
_MANY = 1_000_000  # slots that are laid out in no time
_CGROUPS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def room(mesh: sharding.Mesh) -> float:
    """Returns the bytes that a device has for data; all CPU devices share one memory."""
    device = mesh.devices.ravel()[0]
    return SHARE * _bytes(device) / (mesh.size if device.platform == "cpu" else 1)


def check_slots(field: str, number: int, length: int = 0) -> None:
    """Raises ConfigError unless ``number`` slots of all members could fit the devices.

    Of the least that an environment is, before one is made: with its observations it may
    be too large all the same, see ``check``. Where making one takes minutes, rollouts of
    ``length`` steps count, too.
    """
    each = _SLOT + (length * _STEP if number > _MANY else 0)
    device = jax.devices()[0]
    devices = 1 if device.platform == "cpu" else jax.device_count()
    most = int(SHARE * _bytes(device) * devices / each)
    if number > most:
        raise errors.ConfigError(
            f"{field}: {number} slots of all members together need "
            f"{progress.size(number * each)} at the least, and there is room for {most}; "
            "give fewer"
        )


def check_results(field: str, number: int) -> None:
    """Raises ConfigError unless the results of ``number`` episodes could fit a device."""
    most = int(SHARE * _bytes(jax.devices()[0]) / _RESULT)
    if number > most:
        raise errors.ConfigError(
            f"{field}: the results of {number} episodes of all members together need "
            f"{progress.size(number * _RESULT)} at the least, and there is room for "
            f"{most}; give fewer"
        )


def of_member(agent: types.Agent, sizes: checks.Sizes, slots: int) -> dict[str, int]:
    """Returns the bytes that a member has of each part, its replay among them."""
    memory = 0 if agent.replay is None else replay.bytes_of(agent.replay, slots)
    return {"learner": sizes.learner, "replay": memory, "rollout": sizes.rollout}


def line(
    parts: Mapping[str, int], members: int, mesh: sharding.Mesh, data: int = 0
) -> str:
    """Returns a line of what members have, ``data`` beside them on every device.

    What environments, gradients and a test take is not known before they are compiled.
    """
    size, each = progress.size, sum(parts.values())
    own = ", ".join(f"{name} {size(x)}" for name, x in parts.items() if x)
    beside = f" and {size(data)} of data on each device" if data else ""
    return (
        f"memory: {size(each)} a member ({own}), {size(each * members)} of all {members}"
        f"{beside}; there is room for {size(room(mesh) * mesh.size)}"
    )


def check(
    agent: types.Agent,
    config: Any,
    sizes: checks.Sizes,
    slots: int,
    mesh: sharding.Mesh,
    drawn: int = 0,
) -> None:
    """Raises ConfigError unless learners, replays and rollouts fit the devices.

    And the ``drawn`` bytes of what a replay draws for an update. The largest
    ``population.size`` that fits is named, and where there is a replay the largest
    capacity of the agent's config; where one member is too much, what it has most of.
    Nothing is allocated or compiled.
    """
    members = config.population.size
    learner, memory, rollout = of_member(agent, sizes, slots).values()
    each, have = learner + rollout + memory + drawn, room(mesh) * mesh.size
    if each * members <= have:
        return
    size = progress.size
    name = agent_settings.module(config).INFO.capacity
    fits = [f"a population.size of at most {int(have / each)}"] if have >= each else []
    field = f"population.size={members}"
    if memory and name is not None:
        capacity = operator.attrgetter(name)(agent_settings.config(config))
        left = have / members - learner - rollout - drawn
        # Bytes are proportional to it, up to the sums of priorities.
        most = int(capacity * left / memory) // slots * slots
        if most > 0:
            field = f"agent.config.{name}={capacity}"
            fits = [f"a capacity of at most {most}", *fits]
    if not fits:  # Of one member alone is too much, whatever their number.
        length = config.training.unroll_length
        is_rollout = rollout > max(learner, memory, drawn)
        field = f"training.unroll_length={length}" if is_rollout else "agent.config"
    batch = f", batch {size(drawn)}" if drawn else ""
    smaller = "a smaller network, fewer slots or shorter unrolls"
    smaller += ", or a smaller batch" if drawn else ""
    raise errors.ConfigError(
        f"{field}: each of {members} members needs {size(each)} (learner {size(learner)}, "
        f"replay {size(memory)}, rollout {size(rollout)}{batch}), "
        f"{size(each * members)} together, and there is room for {size(have)}; give "
        f"{' or '.join(fits) or smaller}"
    )


def share(sizes: checks.Sizes, members: int, mesh: sharding.Mesh) -> float:
    """Returns the bytes that learners and rollouts of all members take of each device.

    Without a replay. See ``check``.
    """
    return members * sum(sizes) / mesh.size


def check_acting(
    agent: types.Agent, config: Any, slots: int, mesh: sharding.Mesh
) -> dict[str, int]:
    """Returns the bytes of a member's frozen learner and of what its slots remember.

    A learner is there twice: as it was saved, and in the state that chunks donate. A plan
    has a memory of its own. Of environments nothing is known here. Nothing is allocated
    or compiled.

    Raises:
      ConfigError: those of all members do not fit the devices.
    """
    key, hp = checks.key_and_hparams(config)
    members, size = config.population.size, progress.size
    learner = 2 * checkpoint.bytes_of(jax.eval_shape(agent.init, key, hp))
    carry = checkpoint.bytes_of(jax.eval_shape(lambda: agent.carry(slots)))
    number = agent_settings.module(config).INFO.plans(agent_settings.config(config))
    memory, have = (1 + number) * carry, room(mesh) * mesh.size
    if (learner + memory) * members <= have:
        return {"learner, twice": learner, "carry": carry, "plans": number * carry}
    fits = [f"members: {int(have / (learner + memory))}"]
    fits = fits if have >= learner + memory else []
    most = int((have / members - learner) * slots / memory) if memory else 0
    fits += [f"at most {most} slots of all tasks together"] if most > 0 else []
    plans = f" and {number} plans of each" if number else ""
    raise errors.ConfigError(
        f"members={members}: each needs {size(learner + memory)} (twice its learner "
        f"{size(learner)}, what {slots} slots{plans} remember {size(memory)}), "
        f"{size((learner + memory) * members)} together, and there is room for "
        f"{size(have)}; give "
        f"{' or '.join(fits) or 'a smaller network, or fewer slots'}"
        f"{', or a smaller planning.beam' if number else ''}"
    )


def _bytes(device: jax.Device) -> int:
    """Returns the bytes of a device; of a CPU, what this process may have of them."""
    known = device.memory_stats() or {}
    if "bytes_limit" in known:
        return known["bytes_limit"]
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_limits()])


def _limits() -> list[int]:
    """Returns the limits that a container sets, of cgroups 2 or 1."""
    found = []
    for path in _CGROUPS:
        try:
            said = pathlib.Path(path).read_text().strip()
        except OSError:
            continue
        if said.isdigit():  # "max" where there is none.
            found.append(int(said))
    return found
