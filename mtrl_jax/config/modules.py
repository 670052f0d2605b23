"""Where the settings of a run have the code of agents and environments from outside.

A file beside the config needs no folder in its name; the settings that are kept have it
(NAME@FOLDER, see ``plugins``), so that a run can be gone on with from anywhere.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Collection
from typing import Any

from mtrl_jax import agents, envs, plugins
from mtrl_jax.config import strict

# Dotted names of the settings that may name a module.
_NAMED = re.compile(r"(stages\.\d+\.)?(agent\.name|tasks\.\d+\.env)")


def placed(values: dict, folder: pathlib.Path) -> dict:
    """Returns the settings as given in a file in ``folder``, with the folders of modules.

    Names of the package's own, of entry points and of modules elsewhere stay as they are.
    """
    return _placed(values, "", folder)


def sources(config: Any) -> dict[str, str]:
    """Returns {module: SHA-256 of its file} of the code from outside that is configured.

    Modules are named without their folders: one that has only moved is the same.
    """
    found = {}
    for name, value in strict.flat(config.model_dump(mode="json")).items():
        if not isinstance(value, str) or not _NAMED.fullmatch(name):
            continue
        known, group, module = _registry(name, value)
        if module not in known:
            found[module] = plugins.fingerprint(module, group)
    return found


def has_moved(name: str, was: Any, now: Any) -> bool:
    """Returns whether a setting names the same module as it did, in another folder."""
    named = _NAMED.fullmatch(name) and isinstance(was, str) and isinstance(now, str)
    return bool(named) and plugins.is_elsewhere(was, now)


def _placed(value: Any, name: str, folder: pathlib.Path) -> Any:
    if isinstance(value, dict):
        at = f"{name}." if name else ""
        return {k: _placed(x, f"{at}{k}", folder) for k, x in value.items()}
    if isinstance(value, list):
        return [_placed(x, f"{name}.{i}", folder) for i, x in enumerate(value)]
    if not isinstance(value, str) or not _NAMED.fullmatch(name):
        return value
    known, group, module = _registry(name, value)
    if module in known or module in plugins.entry_points(group):
        return value
    return plugins.place(value, folder)


def _registry(name: str, value: str) -> tuple[Collection[str], str, str]:
    """Returns (the package's own names, group of entry points, module) of a setting."""
    if name.endswith("env"):
        return envs.ENVS, envs.GROUP, value.partition("@")[0].partition("/")[0]
    return agents.AGENTS, agents.GROUP, value.partition("@")[0]
