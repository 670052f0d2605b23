"""A run's settings: read from YAML, overridden by dotted names, checked, written back.

Every mistake is one line that says where, what was given and what would work. The checks
that need the environments (action spaces that do not mix) are made when they are built,
also before anything is written.
"""

from __future__ import annotations

import contextlib
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pydantic
import yaml

from mtrl_jax import hparams
from mtrl_jax.config import completion, modules, schema, strict


class ConfigError(ValueError):
    """A setting that cannot work; the message is one line for the user."""


# What may differ between a run and its continuation.
RESUMABLE = (
    "agent.hparams",
    "training.env_steps",
    "evaluation",
    "checkpoint",
    "logging",
)
# And in a stage that is not online, by its kind.
_OF_KIND = {
    "offline": (
        "agent.hparams",
        "training.updates",
        "evaluation.every_updates",
        "evaluation.hparams",
        "checkpoint",
        "logging",
    ),
    # Of another number of steps or episodes it would be another dataset, or result.
    "collect": tuple(x for x in RESUMABLE if x != "training.env_steps"),
    "evaluate": ("checkpoint", "logging"),
}


def load(path: pathlib.Path, overrides: Sequence[str] = ()) -> Any:
    """Returns the checked settings of a YAML file with ``key=value`` overrides applied.

    Agents and environments may come from files beside it, see ``modules``. An ExperimentConfig or, of an experiment in stages, a ``stages.Staged``.

    Raises:
      ConfigError: the file cannot be read, or a setting cannot work.
    """
    values = modules.placed(override(read_yaml(path), overrides), path.parent)
    return from_dict(values, where=str(path))


def from_dict(values: dict, where: str = "config") -> Any:
    """Returns the checked settings; agent config and hparams filled with defaults.

    An ExperimentConfig; of values with ``stages`` a ``stages.Staged``, of values with a
    ``kind`` the stage that they are.

    Raises:
      ConfigError: naming ``where``, the field, what was given and what would work.
    """
    if "stages" in values or "kind" in values:
        from mtrl_jax.config import stage_lists

        return stage_lists.from_dict(values, where)
    try:
        config = schema.ExperimentConfig.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(
            f"{where}: {strict.explain(error, schema.ExperimentConfig)}"
        ) from None
    try:
        config = completion.complete(config)
        completion.check_numbers(values, config)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    return config


def dump(config: Any) -> str:
    """Returns the YAML of the resolved settings; loading it gives them back."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def to_dict(config: Any) -> dict:
    """Returns the settings as plain dicts, lists and numbers."""
    return config.model_dump(mode="json")


def read_yaml(path: pathlib.Path) -> dict:
    """Returns the mapping in a YAML file; ``1e-3`` is a number.

    Raises:
      ConfigError: no such file, not readable, not YAML, or no mapping.
    """
    try:
        values = yaml.load(path.read_text(), _Loader)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        what = getattr(error, "problem", None) or "unreadable"
        raise ConfigError(f"{path}: not valid YAML{line}: {what}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a mapping is needed, got {type(values).__name__}")
    return values


def override(values: dict, overrides: Iterable[str]) -> dict:
    """Returns ``values`` with each dotted ``key=value`` set; list items by number.

    Raises:
      ConfigError: an override without ``=``, or a path through something that is no
        section.
    """
    values = _copied(values)
    for item in overrides:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise ConfigError(f"override {item!r}: write key=value")
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError:
            raise ConfigError(f"override {item!r}: the value is not YAML") from None
        _set(values, key.split("."), value, item)
    return values


def differences(old: Any, new: Any) -> dict[str, tuple]:
    """Returns {dotted name: (old, new)} of the settings that differ."""
    before, after = strict.flat(to_dict(old)), strict.flat(to_dict(new))
    names = sorted(before.keys() | after.keys())
    return {
        name: (before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    }


def check_resumable(old: Any, new: Any) -> dict[str, tuple]:
    """Returns the differences if a run may continue with them.

    Raises:
      ConfigError: naming the first setting that would need another program or state.
    """
    changed = differences(old, new)
    may_change = _OF_KIND.get(getattr(new, "kind", "online"), RESUMABLE)
    for name, (was, now) in changed.items():
        if modules.has_moved(name, was, now):
            continue
        if not any(name == ok or name.startswith(ok + ".") for ok in may_change):
            raise ConfigError(
                f"{name}: the run has {was!r}, {now!r} given; a running experiment "
                f"keeps it (changeable: {', '.join(may_change)})"
            )
    return changed


@contextlib.contextmanager
def errors_in(where: str) -> Iterator[None]:
    """Puts ``where`` before the ConfigErrors raised inside."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


@contextlib.contextmanager
def errors_at(field: str) -> Iterator[None]:
    """Turns the one-line errors of the parts into ConfigErrors that name the field."""
    try:
        yield
    except ConfigError:
        raise
    except (ValueError, ImportError, OSError) as error:
        line = " ".join(str(error).split())
        named = line if line.startswith(field) else f"{field}: {line}"
        raise ConfigError(named) from error


def agent_module(config: Any):
    """Returns the module of the configured agent."""
    from mtrl_jax import agents

    return agents.get(config.agent.name)


def agent_config(config: Any):
    """Returns the agent's frozen static Config."""
    return strict.build(
        agent_module(config).Config, config.agent.config, "agent.config"
    )


def agent_hparams(config: Any):
    """Returns the agent's Hparams as Python floats."""
    return hparams.override(agent_module(config).Hparams(), config.agent.hparams)


def _set(values: Any, path: list[str], value: Any, item: str) -> None:
    for here, part in enumerate(path):
        last = here == len(path) - 1
        if isinstance(values, list):
            if not part.isdigit() or int(part) >= len(values):
                raise ConfigError(
                    f"override {item!r}: {part!r} is no index below {len(values)}"
                )
            key: Any = int(part)
        elif isinstance(values, dict):
            key = part
            if not last and values.get(key) is None:
                values[key] = {}
        else:
            raise ConfigError(f"override {item!r}: {path[here - 1]!r} has no parts")
        if last:
            values[key] = value
        else:
            values = values[key]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list) else value


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: 1e-3 is a float, as everyone who writes it expects."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)
