"""Where the settings of a run have the code of agents and environments from outside.

A file beside the config needs no folder in its name; the settings that are kept have it
(NAME@FOLDER, see ``plugins``), so that a run can be gone on with from anywhere.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Collection
from typing import Any

from mtrl_jax import agents, envs, errors, plugins
from mtrl_jax.config import strict

# Dotted names of the settings that may name a module.
_NAMED = re.compile(r"(stages\.\d+\.)?(agent\.name|tasks\.\d+\.env)")


def placed(values: dict, folder: pathlib.Path) -> dict:
    """Returns the settings as given in a file in ``folder``, with the folders of modules.

    Names of the package's own, of entry points and of modules elsewhere stay as they are.
    """

    return _changed(values, "", lambda name, value: at_home(name, value, folder))


def at_home(setting: str, value: str, folder: pathlib.Path) -> str:
    """Returns the ``value`` of a setting, with ``folder`` if its module is a file there.

    ``setting`` is a dotted name that ends in agent.name or env; names as in ``placed``.
    """
    known, group, module = _registry(setting, value)
    if module in known or module in plugins.entry_points(group):
        return value
    return plugins.place(value, folder)


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


def as_named_by(values: dict, config: Any, where: str) -> dict:
    """Returns settings that were saved, with the modules that ``config`` names.

    What was saved is data: nothing is imported because of it. Raises ConfigError,
    beginning with ``where``, if it names a module from outside that ``config`` does not.
    """
    named = strict.flat(config.model_dump(mode="json")).items()
    known = {value for name, value in named if _NAMED.fullmatch(name)}

    def own(name: str, value: str) -> str:
        for other in known:
            if isinstance(other, str) and plugins.is_elsewhere(value, other):
                return other
        names, _, module = _registry(name, value)
        if module in names and "@" not in value:
            return value
        raise errors.ConfigError(
            f"{where}: {name}={value!r}: the run's settings name no such module, and "
            "none is imported because a checkpoint names it"
        )

    return _changed(values, "", own)


def without_folders(values: Any) -> Any:
    """Returns settings with modules named as wherever they are.

    >>> without_folders({"tasks": [{"env": "corridor/short@/home/me"}]})
    {'tasks': [{'env': 'corridor/short'}]}
    """
    return _changed(values, "", lambda name, value: value.partition("@")[0])


def has_moved(name: str, was: Any, now: Any) -> bool:
    """Returns whether a setting names the same module as it did, in another folder."""
    named = _NAMED.fullmatch(name) and isinstance(was, str) and isinstance(now, str)
    return bool(named) and plugins.is_elsewhere(was, now)


def _changed(value: Any, name: str, of: Callable[[str, str], str]) -> Any:
    """Returns the settings with ``of(dotted name, module)`` for each module named."""
    if isinstance(value, dict):
        at = f"{name}." if name else ""
        return {k: _changed(x, f"{at}{k}", of) for k, x in value.items()}
    if isinstance(value, list):
        return [_changed(x, f"{name}.{i}", of) for i, x in enumerate(value)]
    named = isinstance(value, str) and _NAMED.fullmatch(name)
    return of(name, value) if named else value


def _registry(name: str, value: str) -> tuple[Collection[str], str, str]:
    """Returns (the package's own names, group of entry points, module) of a setting."""
    if name.endswith("env"):
        return envs.ENVS, envs.GROUP, value.partition("@")[0].partition("/")[0]
    return agents.AGENTS, agents.GROUP, value.partition("@")[0]
