"""What fits the memory of a device, found out before anything is allocated."""

from __future__ import annotations

import os
from typing import Any

import jax

from mtrl_jax import errors, types
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
    agent: types.Agent, config: Any, slots: int, members: int, mesh: sharding.Mesh
) -> None:
    """Raises ConfigError unless the replays of the members fit their devices.

    ``config`` is the agent's; the largest ``capacity`` of it that fits is named.
    """
    if agent.replay is None:
        return
    each = replay.bytes_of(agent.replay, slots)
    have = room(mesh) * mesh.size
    if each * members <= have:
        return
    line = (
        f"replays of {progress.si(each)}B for each of {members} members need "
        f"{progress.si(each * members)}B, and there is room for {progress.si(have)}B"
    )
    if hasattr(config, "capacity"):
        # Bytes are proportional to it, up to a few.
        most = int(config.capacity * have / (each * members)) // slots * slots
        line = f"capacity={config.capacity}: {line}; give at most {most}"
    raise errors.ConfigError(f"agent.config.{line}, or fewer members")


def _bytes(device: jax.Device) -> int:
    """Returns the bytes of a device; of a CPU, of the machine."""
    known = device.memory_stats() or {}
    if "bytes_limit" in known:
        return known["bytes_limit"]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
