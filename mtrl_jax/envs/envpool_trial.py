"""Options of a pool, tried in a process of their own first.

envpool's C++ checks no option: a maze of size 1 or a lake of size 0 ends the
whole process, and a run with it. What a user gives beside the kit's own, bounded options
is therefore played for a few steps by a child, which may die of it.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

_STEPS = 50
_MEMORY = 16 << 30  # bytes of address space
_SECONDS = 120
# Reads [task, settings], plays, and says why not.
_CHILD = f"""
import json, resource, sys
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
if hard == resource.RLIM_INFINITY or hard > {_MEMORY}:
    resource.setrlimit(resource.RLIMIT_AS, ({_MEMORY}, hard))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
import envpool, numpy as np
task, settings = json.loads(sys.argv[1])
tuples = {{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}}
try:
    env = envpool.make(
        task, env_type="gymnasium", num_envs=1, num_threads=1, seed=1, **tuples
    )
    env.action_space.seed(0)
    env.reset()
    for _ in range({_STEPS}):
        env.step(np.stack([env.action_space.sample()]))
except Exception as error:
    print(f"{{type(error).__name__}}: {{error}}", file=sys.stdout)
    sys.exit(3)
"""


def check(
    name: str, task: str, settings: dict[str, Any], given: Mapping[str, Any]
) -> None:
    """Raises ValueError unless a pool with these settings can be made and stepped.

    ``given`` are the options to name.
    It costs a few seconds the first time, nothing when asked again.
    """
    problem = _problem(task, json.dumps(settings, sort_keys=True))
    if problem:
        options = ", ".join(f"{field}={value!r}" for field, value in given.items())
        raise ValueError(f"{name}: {problem} with options {options}; give others")


@functools.cache
def _problem(task: str, settings: str) -> str:
    """Returns what happened to the child, "" if nothing did."""
    # One CPU is enough, and the parent's accelerator is not the child's.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
    try:
        child = subprocess.run(
            [sys.executable, "-c", _CHILD, f"[{json.dumps(task)}, {settings}]"],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"envpool did not play {_STEPS} steps in {_SECONDS} s"
    if child.returncode == 0:
        return ""
    if child.returncode < 0:
        return f"envpool crashes ({_signal(-child.returncode)})"
    said = (child.stdout or child.stderr).strip().splitlines() or ["it fails"]
    return f"envpool refuses ({said[-1][:160]})"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
