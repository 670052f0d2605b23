"""What a run was made with: versions and devices."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

_PACKAGES = [
    "mtrl-jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "distrax",
    "rlax",
    "orbax-checkpoint",
    "envpool",
    "gymnax",
    "numpy",
]


def versions() -> dict[str, str]:
    """Returns the installed versions that numbers may depend on."""
    found = {"python": platform.python_version()}
    return found | {name: version(name) for name in _PACKAGES}


def version(package: str) -> str:
    """Returns the installed version of a package, or that it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def machine() -> dict[str, Any]:
    """Returns the devices a run was made on."""
    import jax

    devices = jax.devices()
    return {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "cores": os.cpu_count(),
    }
