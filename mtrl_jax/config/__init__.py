"""A run's settings: read from YAML, overridden by dotted names, checked, written back.

Every mistake is one line that says where, what was given and what would work. The checks
that need the environments (action spaces that do not mix) are made when they are built,
also before anything is written.
"""

from __future__ import annotations

import contextlib
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pydantic
import yaml

from mtrl_jax.config import schema, strict
from mtrl_jax.envs import errors


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


def load(path: pathlib.Path, overrides: Sequence[str] = ()) -> schema.ExperimentConfig:
    """Returns the checked settings of a YAML file with ``key=value`` overrides applied.

    Raises:
      ConfigError: the file cannot be read, or a setting cannot work.
    """
    return from_dict(override(read_yaml(path), overrides), where=str(path))


def from_dict(values: dict, where: str = "config") -> schema.ExperimentConfig:
    """Returns the checked settings; agent config and hparams filled with defaults.

    Raises:
      ConfigError: naming ``where``, the field, what was given and what would work.
    """
    try:
        config = schema.ExperimentConfig.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(
            f"{where}: {strict.explain(error, schema.ExperimentConfig)}"
        ) from None
    try:
        config = _complete(config)
        _check_numbers(values, config)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    return config


def dump(config: schema.ExperimentConfig) -> str:
    """Returns the YAML of the resolved settings; loading it gives them back."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def to_dict(config: schema.ExperimentConfig) -> dict:
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


def differences(
    old: schema.ExperimentConfig, new: schema.ExperimentConfig
) -> dict[str, tuple]:
    """Returns {dotted name: (old, new)} of the settings that differ."""
    before, after = _flat(to_dict(old)), _flat(to_dict(new))
    names = sorted(before.keys() | after.keys())
    return {
        name: (before.get(name), after.get(name))
        for name in names
        if before.get(name) != after.get(name)
    }


def check_resumable(
    old: schema.ExperimentConfig, new: schema.ExperimentConfig
) -> dict[str, tuple]:
    """Returns the differences if a run may continue with them.

    Raises:
      ConfigError: naming the first setting that would need another program or state.
    """
    changed = differences(old, new)
    for name, (was, now) in changed.items():
        if not any(name == ok or name.startswith(ok + ".") for ok in RESUMABLE):
            raise ConfigError(
                f"{name}: the run has {was!r}, {now!r} given; a running experiment "
                f"keeps it (changeable: {', '.join(RESUMABLE)})"
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


def agent_module(config: schema.ExperimentConfig):
    """Returns the module of the configured agent."""
    from mtrl_jax import agents

    return agents.get(config.agent.name)


def agent_config(config: schema.ExperimentConfig):
    """Returns the agent's frozen static Config."""
    return strict.build(
        agent_module(config).Config, config.agent.config, "agent.config"
    )


def agent_hparams(config: schema.ExperimentConfig):
    """Returns the agent's Hparams as Python floats."""
    return agent_module(config).Hparams(**config.agent.hparams)


def _complete(config: schema.ExperimentConfig) -> schema.ExperimentConfig:
    """Checks what one section says of another and fills in the agent's defaults."""
    from mtrl_jax import agents
    from mtrl_jax.engine import pbt_config

    if config.agent.name not in agents.AGENTS:
        hint = errors.suggest(config.agent.name, agents.AGENTS)
        raise ValueError(f"agent.name={config.agent.name!r} is unknown{hint}")
    module = agents.get(config.agent.name)
    static = strict.build(module.Config, config.agent.config, "agent.config")
    fields = module.Hparams._fields  # type: ignore[attr-defined]
    for path, given in (
        ("agent.hparams", config.agent.hparams),
        ("agent.schedules", config.agent.schedules),
        ("evaluation.hparams", config.evaluation.hparams),
        ("population.search", config.population.search),
    ):
        for name in given:
            if name not in fields:
                hint = errors.suggest(name, fields)
                raise ValueError(f"{path}.{name} is unknown{hint}")
    population = config.population
    if population.pbt is not None:
        try:
            pbt_config.validate(
                population.pbt, population.search, fields, population.size
            )
        except ValueError as error:
            raise ValueError(f"population.size={population.size}: {error}") from None
    if (
        population.fitness.source == "evaluation"
        and not config.evaluation.every_updates
    ):
        raise ValueError(
            "evaluation.every_updates=0 with population.fitness.source='evaluation': "
            "members are judged by evaluations, give their interval"
        )
    starts = _starts(config)
    hparams = {**module.Hparams()._asdict(), **config.agent.hparams, **starts}  # type: ignore[attr-defined]
    agent = config.agent.model_copy(
        update={"config": strict.plain(static), "hparams": hparams}
    )
    return config.model_copy(update={"agent": agent})


def _starts(config: schema.ExperimentConfig) -> dict[str, float]:
    """Returns where the scheduled hyperparameters start, if nothing else sets them."""
    schedules = config.agent.schedules
    for name, schedule in schedules.items():
        if name in config.population.search:
            raise ValueError(
                f"agent.schedules.{name}: population.search.{name} draws the same "
                "hyperparameter; leave one of them out"
            )
        given = config.agent.hparams.get(name, schedule.low)
        if given != schedule.low:
            raise ValueError(
                f"agent.hparams.{name}={given}: agent.schedules.{name} sets it, from "
                f"low={schedule.low} on; leave it out"
            )
    return {name: schedule.low for name, schedule in schedules.items()}


def _check_numbers(given: dict, config: schema.ExperimentConfig) -> None:
    """Raises ValueError for NaN, and for yes or no where Python would make it 1 or 0."""
    said = _flat(given)
    for name, value in _flat(to_dict(config)).items():
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{name}=nan: must be a number")
        if isinstance(said.get(name), bool) and not isinstance(value, bool):
            raise ValueError(
                f"{name}={said[name]}: must be a number, not true or false"
            )


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


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, (dict, list)) or not value:
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    flat: dict[str, Any] = {}
    for key, inner in items:
        flat |= _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: 1e-3 is a float, as everyone who writes it expects."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)$"),
    list("-+0123456789."),
)
