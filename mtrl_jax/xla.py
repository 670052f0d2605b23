"""Compiler settings that have to be made before JAX starts its backend."""

from __future__ import annotations

import os

# The scheduler that runs independent parts of a CPU program at the same time loses
# wake-ups in jaxlib 0.10.2: a training step on three tasks stopped for ever, all worker
# threads idle, in 8 of 8 runs on 2 cores, and in none without it, at no cost in speed.
_CPU_FLAGS = ("--xla_cpu_enable_concurrency_optimized_scheduler=false",)


def set_flags() -> None:
    """Returns nothing; adds the kit's flags to XLA_FLAGS where the user set none.

    It must run before the first computation, hence on ``import mtrl_jax``.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    missing = [flag for flag in _CPU_FLAGS if flag.split("=")[0] not in flags]
    os.environ["XLA_FLAGS"] = " ".join([flags, *missing]).strip()
