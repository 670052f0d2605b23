"""What fits the memory of a device, found out before anything is allocated."""

from __future__ import annotations

import os
from typing import Any

import jax

from mtrl_jax import errors, types
from mtrl_jax.config import agent_settings
from mtrl_jax.data import replay
from mtrl_jax.engine import sharding
from mtrl_jax.training import progress

# How much of a device data or replays may take; a training step needs some too.
SHARE = 0.7


def room(mesh: sharding.Mesh) -> float:
    """Returns the bytes that a device has for data; all CPU devices share one memory."""
    device = mesh.devices.ravel()[0]
    return SHARE * _bytes(device) / (mesh.size if device.platform == "cpu" else 1)


def check_replays(
    agent: types.Agent, config: Any, slots: int, mesh: sharding.Mesh
) -> None:
    """Raises ConfigError unless the replays of the members fit their devices.

    The largest ``agent.config.capacity`` that fits is named, where there is one.
    """
    if agent.replay is None:
        return
    members = config.population.size
    each = replay.bytes_of(agent.replay, slots)
    have = room(mesh) * mesh.size
    if each * members <= have:
        return
    line = (
        f"replays of {progress.si(each)}B for each of {members} members need "
        f"{progress.si(each * members)}B, and there is room for {progress.si(have)}B"
    )
    capacity = getattr(agent_settings.config(config), "capacity", None)
    if capacity is None:
        raise errors.ConfigError(f"agent.name: {line}; give fewer members")
    # Bytes are proportional to it, up to the sums of priorities.
    most = int(capacity * have / (each * members)) // slots * slots
    raise errors.ConfigError(
        f"agent.config.capacity={capacity}: {line}; give at most {most}, or fewer members"
    )


def _bytes(device: jax.Device) -> int:
    """Returns the bytes of a device; of a CPU, of the machine."""
    known = device.memory_stats() or {}
    if "bytes_limit" in known:
        return known["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
