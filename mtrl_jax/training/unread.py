"""Settings that are given and that nothing reads, as others are: a line for each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mtrl_jax.config import agent_settings
from mtrl_jax.engine.pbt_config import PbtConfig, SearchRange

# Fields of PBT -> the rule that reads them.
_OF_EXPLOIT = {
    "fraction": "truncation",
    "margin": "fixed_margin",
    "p_value": "t_test",
    "alternative": "t_test",
}
_MOVES = ("rule", "factor", "step", "resample_probability")


def lines(config: Any) -> Iterator[str]:
    """Yields a line for every setting that another one leaves without effect.

    What is as it is by default was not given.
    """
    yield from _of_pbt(config.population.pbt)
    for name, given in config.population.search.items():
        yield from _of_search(f"population.search.{name}", given, config.population)
    yield from _of_agent(config)
    yield from _of_replay(config)
    yield from _of_prompt(config)


def _of_pbt(pbt: PbtConfig | None) -> Iterator[str]:
    if pbt is None:
        return
    defaults = PbtConfig()
    for name, rule in _OF_EXPLOIT.items():
        value = getattr(pbt, name)
        if value != getattr(defaults, name) and pbt.exploit != rule:
            yield (
                f"population.pbt.{name}={value}: nothing reads it, it is of "
                f"exploit={rule}"
            )


def _of_search(path: str, given: SearchRange, population: Any) -> Iterator[str]:
    dealt = () if isinstance(given.initial, str) else given.initial
    if len(dealt) > population.size:
        yield (
            f"{path}.initial: {len(dealt)} values for population.size="
            f"{population.size}, the last {len(dealt) - population.size} are no member's"
        )
    defaults = SearchRange(given.low, given.high)
    for name in _MOVES if population.pbt is None else ():
        value = getattr(given, name)
        if value != getattr(defaults, name):
            yield (
                f"{path}.{name}={value}: nothing reads it, without population.pbt "
                "members stay at their first values"
            )


def _of_agent(config: Any) -> Iterator[str]:
    own = agent_settings.config(config)
    defaults = agent_settings.module(config).Config()
    for path, needs in _unread(own).items():
        value, usual = _at(own, path), _at(defaults, path)
        if value != usual:
            yield f"agent.config.{path}={value}: nothing reads it, it is of {needs}"


def _of_replay(config: Any) -> Iterator[str]:
    has_replay = agent_settings.module(config).INFO.capacity
    if config.checkpoint.replay != "keep" and not has_replay:
        yield (
            f"checkpoint.replay={config.checkpoint.replay}: nothing reads it, "
            f"{config.agent.name} has no replay"
        )


def _of_prompt(config: Any) -> Iterator[str]:
    length = getattr(config.training, "prompt_length", 0)
    moves = {*config.population.search, *config.agent.schedules}
    share = config.agent.hparams.get("prompt_share", 0.0)
    if length and not share and "prompt_share" not in moves:
        yield (
            f"training.prompt_length={length}: nothing reads it, it is of an "
            "agent.hparams.prompt_share above 0"
        )


def _unread(own: Any) -> dict[str, str]:
    """Returns {field of an agent's config: what reads it} of those that nothing reads."""
    found: dict[str, str] = {}
    if getattr(own, "value_scale", "") == "none":
        scaled = "value_scale=popart or return_scale"
        found |= dict.fromkeys(("value_statistics", "value_debias"), scaled)
    network = getattr(own, "network", None)
    parts = [network, *getattr(own, "components", ())]
    if {getattr(x, "core", None) for x in parts} <= {None, "none"}:
        found["network.core_size"] = "a network.core that is not none"
    sharing = getattr(network, "sharing", None)
    for name in ("experts", "modules"):
        if sharing != name:
            found[f"network.{name}"] = f"network.sharing={name}"
    if sharing != "soft":
        found["distance"] = "network.sharing=soft"
    return {path: needs for path, needs in found.items() if _at(own, path) is not None}


def _at(section: Any, path: str) -> Any:
    """Returns the value of a dotted field, None where there is none."""
    for name in path.split("."):
        section = getattr(section, name, None)
    return section
