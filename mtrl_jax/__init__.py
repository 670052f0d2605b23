"""Populations of agents on mixtures of tasks as one compiled program.

The names below are the public interface; each is imported when first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from mtrl_jax import xla as _xla

_xla.set_flags()

_PUBLIC = {
    "Agent": "mtrl_jax.types",
    "Box": "mtrl_jax.types",
    "Discrete": "mtrl_jax.types",
    "Env": "mtrl_jax.types",
    "EnvSpec": "mtrl_jax.types",
    "Factorised": "mtrl_jax.types",
    "HostEnv": "mtrl_jax.types",
    "Replay": "mtrl_jax.types",
    "Rollout": "mtrl_jax.types",
    "TaskSpec": "mtrl_jax.types",
    "TimeStep": "mtrl_jax.types",
    "load": "mtrl_jax.experiments.loaded",
    "agents": None,
    "checkpoint": None,
    "config": None,
    "engine": None,
    "envs": None,
    "experiments": None,
    "losses": None,
    "metrics": None,
    "networks": None,
    "plots": None,
    "random": None,
    "training": None,
    "tree": None,
}

__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'mtrl_jax' has no attribute {name!r}")
    module = _PUBLIC[name]
    if module is None:
        return importlib.import_module(f"mtrl_jax.{name}")
    return getattr(importlib.import_module(module), name)
