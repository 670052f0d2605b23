"""What is filled in once the settings are read, and what one says of another."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from mtrl_jax import errors, hparams, types
from mtrl_jax.config import stage_schema, strict

# Hyperparameters that had another name -> what they are called now.
RENAMED = {"epsilon": ("adam_eps", "rmsprop_eps")}


def complete(config: Any) -> Any:
    """Returns the settings with the agent's defaults filled in.

    Raises:
      ValueError: a section says what cannot be with what another says.
    """
    from mtrl_jax import agents
    from mtrl_jax.engine import pbt_config

    module = agents.get(config.agent.name)
    static = strict.build(module.Config, config.agent.config, "agent.config")
    fields = hparams.names(module.Hparams)
    _check_hparams(config, module.Hparams)
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
    _check_fitness_of_levels(config)
    links = stage_schema.links(config)
    # Who plays a student has its teacher with its weights.
    unnamed = links.teacher is None and links.of is None
    if unnamed and config.agent.config.get("teacher") is not None:
        raise ValueError(
            "agent.config.teacher: there is nobody of that network; give the stage that "
            "the learners come from, teacher=NAME, beside the stage's name"
        )
    defaults = hparams.flatten(module.Hparams())
    filled = defaults | config.agent.hparams | _starts(config)
    _check_read(config, module.INFO.idle(static), filled, defaults)
    _check_limits(config, module.INFO.limits(static), defaults)
    # What plays another's learners has none of their searches, and trains nothing.
    if links.of is None:
        _check_starts(config, filled)
        _check_together(config, module.INFO, static, filled)
    agent = config.agent.model_copy(
        update={"config": strict.plain(static), "hparams": filled}
    )
    return config.model_copy(update={"agent": agent})


def _check_fitness_of_levels(config: Any) -> None:
    """Raises ValueError unless PBT compares members at the same level of a curriculum."""
    pbt, fitness = config.population.pbt, config.population.fitness
    if pbt is None or pbt.exploit == "none" or fitness.source == "evaluation":
        return
    for i, task in enumerate(() if config.kind == "offline" else config.tasks):
        if task.curriculum is not None:
            raise ValueError(
                f"tasks.{i}.curriculum with population.fitness.source='training': members "
                "at easier levels would be judged better; give source=evaluation"
            )


def _check_hparams(config: Any, known: type) -> None:
    """Raises ValueError unless every hyperparameter is one, and within its bounds."""
    fields = hparams.names(known)
    for path, name, end, number in _values(config):
        if name not in fields:
            now = [x for x in RENAMED.get(name, ()) if x in fields]
            if now:
                raise errors.RenamedError(f"{path}.{name} is now {' or '.join(now)}")
            hint = errors.suggest(name, fields)
            raise ValueError(f"{path}.{name} is unknown{hint}")
        try:
            hparams.check_bounds(known, name, number)
        except ValueError as error:
            raise ValueError(f"{path}.{name}{end}{error}") from None


def _check_read(
    config: Any,
    idle: dict[str, types.Idle],
    filled: dict[str, float],
    defaults: dict[str, float],
) -> None:
    """Raises ValueError unless the program reads every value that is not off."""
    found = {x: defaults[x] if one.off is None else one.off for x, one in idle.items()}
    for path, name, end, number in _values(config, filled):
        if name in found and number != found[name]:
            raise ValueError(
                f"{path}.{name}{end}={number:g}: nothing reads it; give agent.config."
                f"{idle[name].needs}, or {found[name]!r}"
            )


def _check_limits(
    config: Any, limits: dict[str, types.Extent], defaults: dict[str, float]
) -> None:
    """Raises ValueError unless values are on their scale; a default is no choice."""
    for path, name, end, number in _values(config):
        if name not in limits or number == defaults[name]:
            continue
        low, high, of = limits[name]
        if not low <= number <= high:
            raise ValueError(
                f"{path}.{name}{end}={number:g}: is counted from {low:g} to {high:g}, by "
                f"agent.config.{of}; give a value between, or change these"
            )


def _check_starts(config: Any, filled: dict[str, float]) -> None:
    """Raises ValueError unless a search that begins at a default's value has it."""
    for name, given in config.population.search.items():
        if given.initial == "default" and not given.low <= filled[name] <= given.high:
            raise ValueError(
                f"population.search.{name}.initial=default: agent.hparams.{name}="
                f"{filled[name]:g} is not between low={given.low:g} and high="
                f"{given.high:g}; give it a value between, or a wider range"
            )


def _check_together(
    config: Any, info: types.AgentInfo, static: Any, filled: dict[str, float]
) -> None:
    """Raises ValueError unless the values that every member has go together.

    Without PBT a list of initial values is its members' to the end. Other values of a
    search, and those of a schedule, are not known.
    """
    population = config.population
    drawn = {*population.search, *config.agent.schedules}
    fixed = {name: value for name, value in filled.items() if name not in drawn}
    _check_ordered(config, info.ordered(static), fixed)
    with errors.at("agent.hparams", filled):
        info.check_hparams(static, fixed)
    lists = {
        name: given.initial
        for name, given in population.search.items()
        if population.pbt is None and not isinstance(given.initial, str)
    }
    alike = math.lcm(*map(len, lists.values()))
    for member in range(min(population.size, alike)) if lists else ():
        own = {name: values[member % len(values)] for name, values in lists.items()}
        with errors.at(f"population.search: member {member}"):
            info.check_hparams(static, fixed | own)


def _check_ordered(
    config: Any, pairs: Sequence[tuple[str, str]], fixed: dict[str, float]
) -> None:
    """Raises ValueError unless every value of the first of a pair is below the second's."""
    found: dict[str, list[tuple[float, str, str]]] = {}
    for path, name, end, number in _values(config, fixed):
        found.setdefault(name, []).append((number, path, f"{name}{end}={number:g}"))
    for names in pairs:
        low, high = max(found[names[0]]), min(found[names[1]])
        if not low[0] < high[0]:
            there = "" if low[1] == high[1] else f"{high[1]}."
            raise ValueError(f"{low[1]}.{low[2]} is not below {there}{high[2]}")


def _values(
    config: Any, filled: dict[str, float] | None = None
) -> Iterator[tuple[str, str, str, float]]:
    """Yields (path, hyperparameter, end of the path, value), ``filled`` after all given."""
    more = [("agent.hparams", name, {"": x}) for name, x in (filled or {}).items()]
    for path, name, ends in [*_given(config), *more]:
        for end, number in ends.items():
            yield path, name, end, number


def _given(config: Any) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Yields (path, hyperparameter, its values by the end of their path)."""
    for path, given in (
        ("agent.hparams", config.agent.hparams),
        ("agent.schedules", config.agent.schedules),
        ("evaluation.hparams", config.evaluation.hparams),
        ("play.hparams", config.play.hparams if config.kind == "collect" else {}),
        ("population.search", config.population.search),
    ):
        for name, value in given.items():
            if isinstance(value, float):
                yield path, name, {"": value}
            else:  # a range or a schedule
                yield path, name, {".low": value.low, ".high": value.high}


def _starts(config: Any) -> dict[str, float]:
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


def check_numbers(given: dict, config: Any) -> None:
    """Raises ValueError unless what should be a number is one.

    NaN is none, and neither is yes or no, which Python would make 1 or 0.
    """
    said = strict.flat(given)
    for name, value in strict.flat(config.model_dump(mode="json")).items():
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{name}=nan: must be a number")
        if isinstance(said.get(name), bool) and not isinstance(value, bool):
            raise ValueError(
                f"{name}={said[name]}: must be a number, not true or false"
            )
