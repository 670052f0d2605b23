"""Settings of the process: for the compiler before JAX starts, for the allocator."""

from __future__ import annotations

import ctypes
import os

# The scheduler that runs independent parts of a CPU program at the same time loses
# wake-ups in jaxlib 0.10.2: a training step on three tasks stopped for ever, all worker
# threads idle, in 8 of 8 runs on 2 cores, and in none without it. On one task both ran at
# the same speed (205 to 255 k and 218 to 220 k steps/s of PPO on CartPole).
_CPU_FLAGS = ("--xla_cpu_enable_concurrency_optimized_scheduler=false",)


def set_flags() -> None:
    """Returns nothing; adds the kit's flags to XLA_FLAGS where the user set none.

    It must run before the first computation, hence on ``import mtrl_jax``.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in _CPU_FLAGS if flag.split("=")[0] not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *missing]).strip()


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
