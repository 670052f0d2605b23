"""Settings of the process: for the compiler before JAX starts, for the allocator."""

from __future__ import annotations

import ctypes
import math
import os
import pathlib

# The scheduler that runs independent parts of a CPU program at the same time loses
# wake-ups in jaxlib 0.10.2: a training step on three tasks stopped for ever, all worker
# threads idle, in 8 of 8 runs on 2 cores, and in none without it. On one task both ran at
# the same speed (205 to 255 k and 218 to 220 k steps/s of PPO on CartPole).
_CPU_FLAGS = ("--xla_cpu_enable_concurrency_optimized_scheduler=false",)

_HAS_AFFINITY = hasattr(os, "sched_getaffinity")  # not on macOS


def set_flags() -> None:
    """Add the kit's flags to XLA_FLAGS where the user set none.

    It must run before the first computation, hence on ``import mtrl_jax``.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in _CPU_FLAGS if flag.split("=")[0] not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *missing]).strip()


def configure_process() -> None:
    """Configure XLA's devices and allocator for a standalone program.

    Cores as devices and kept memory, for the command line or a benchmark. A library must
    not do this to its host, so it does not come with the import. Call it before the first
    JAX computation.
    """
    # XLA's alarm of a slow compilation looks like an error, and is logged as one. What
    # fails is raised all the same.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    use_cores()
    keep_memory()


def use_cores() -> None:
    """Make a CPU device of every core unless the user set a number.

    A single device that splits small operations over cores loses more by it than it
    gains: PPO on 16 members ran at 161 to 202 k steps/s on one device of 2 cores, 267 to
    448 k with half of the members on each of two (and one member on one core of them as
    fast as on both).
    """
    flag = "--xla_force_host_platform_device_count"
    flags = os.environ.get("XLA_FLAGS", "")
    if flag not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}={cores()}".strip()


def cores(system: str = "/") -> int:
    """Returns how many cores this process may use at once: affinity and quota.

    A container's quota is not in the affinity: 16 members on a device of each of 16
    cores that share the time of 2 ran at a fifth of the speed of 2 devices. ``system``
    is the root of the file system.
    """
    affinity = len(os.sched_getaffinity(0)) if _HAS_AFFINITY else os.cpu_count() or 1
    return max(1, int(min(affinity, _quota(pathlib.Path(system)))))


def _quota(system: pathlib.Path) -> float:
    """Returns the cores' worth of time that the control groups allow; inf without."""
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return math.inf  # Not Linux.
    found = [math.inf]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = system / "sys/fs/cgroup" / controllers
        own = root / path.lstrip("/")
        # Inside a container the own group is often mounted as the root; every group
        # above limits too.
        for group in {root, own, *(p for p in own.parents if root in p.parents)}:
            found.append(_quota_of(group))
    return min(found)


def _quota_of(group: pathlib.Path) -> float:
    """Returns the limit of one group, of version 2 or 1."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return math.inf
    try:
        limit = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return math.inf  # "max"
    return limit if limit > 0 else math.inf  # Version 1 has -1.


def keep_memory() -> bool:
    """Returns whether the allocator now keeps freed memory for the next call.

    A compiled CPU program frees its temporaries when it returns; by default the C library
    gives large ones back to the system, and the next call has every page mapped and
    cleared again. A third of a V-trace update on Atari frames was spent on that (305 ms
    against 195 ms): it matters where Python calls a program per update, not inside a
    scan. The process then stays as large as it once was. Only with glibc, and only for
    threads started later: an entry point calls it before the first computation.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    # malloc.h: one arena, never a mapping of its own, trim above 2 GiB of free memory.
    arena_max, mmap_max, trim_threshold = -8, -4, -1
    settings = {arena_max: 1, mmap_max: 0, trim_threshold: 2**31 - 1}
    return all([mallopt(name, value) == 1 for name, value in settings.items()])
