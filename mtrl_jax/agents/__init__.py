"""The algorithms: one file each, with Config (static), Hparams (traced), INFO and make.

A file outside the package offers the same and is named by its module, see ``plugins``.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from typing import Any, cast

from mtrl_jax import hparams, plugins
from mtrl_jax.types import AgentInfo, AgentModule

# Name in a config file -> module.
AGENTS = {
    "impala": "mtrl_jax.agents.impala",
    "mix_and_match": "mtrl_jax.agents.mix_and_match",
    "ppo": "mtrl_jax.agents.ppo",
    "distral": "mtrl_jax.agents.distral",
    "unreal": "mtrl_jax.agents.unreal",
    "progressive": "mtrl_jax.agents.progressive",
    "dreamer_v2": "mtrl_jax.agents.dreamer_v2",
    "dqn": "mtrl_jax.agents.dqn",
    "rainbow": "mtrl_jax.agents.rainbow",
    "pqn": "mtrl_jax.agents.pqn",
    "tabular": "mtrl_jax.agents.tabular",
    "bandit": "mtrl_jax.agents.bandit",
    "demonstrator": "mtrl_jax.agents.demonstrator",
    "behaviour_cloning": "mtrl_jax.agents.behaviour_cloning",
    "policy_distillation": "mtrl_jax.agents.policy_distillation",
    "algorithm_distillation": "mtrl_jax.agents.algorithm_distillation",
    "decision_transformer": "mtrl_jax.agents.decision_transformer",
    "multi_game_decision_transformer": "mtrl_jax.agents.multi_game_decision_transformer",
    "gato": "mtrl_jax.agents.gato",
}
# Of entry points that add to them.
GROUP = "mtrl_jax.agents"


def get(name: str) -> AgentModule:
    """Returns the module of the agent called ``name``.

    One of AGENTS, an entry point of GROUP, or a module as ``plugins`` has them.

    Raises:
      ValueError: there is none of that name, or it is no agent.
    """
    if name in AGENTS:
        return cast(AgentModule, importlib.import_module(AGENTS[name]))
    module = plugins.load("agent.name", name, GROUP, AGENTS)
    try:
        check(module)
    except ValueError as error:
        raise ValueError(f"agent.name={name!r}: {error}") from None
    return cast(AgentModule, module)


def check(module: Any) -> None:
    """Raises ValueError unless a module offers what an agent's must."""
    absent = [name for name in _OFFERED if not hasattr(module, name)]
    if absent:
        raise ValueError(
            f"{module.__name__} offers no {' and no '.join(absent)}; an agent's file "
            f"offers {', '.join(_OFFERED)}"
        )
    for name, (what, is_so) in _OFFERED.items():
        if not is_so(getattr(module, name)):
            raise ValueError(f"{module.__name__}.{name} must be {what}")


def _is_config(value: Any) -> bool:
    is_class = isinstance(value, type) and dataclasses.is_dataclass(value)
    return is_class and value.__dataclass_params__.frozen  # type: ignore[attr-defined]


def _is_hparams(value: Any) -> bool:
    if not (isinstance(value, type) and hasattr(value, "_fields")):
        return False
    try:
        found = hparams.flatten(value()).values()
        hparams.bounds(value)
    except (TypeError, NameError, AttributeError):
        return False
    return all(isinstance(x, (int, float)) for x in found)


def _takes_two(value: Any) -> bool:
    if not callable(value):
        return False
    try:
        inspect.signature(value).bind(None, None)
    except TypeError:
        return False
    return True


_OFFERED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "Config": ("a frozen dataclass", _is_config),
    "Hparams": ("a NamedTuple of numbers with defaults", _is_hparams),
    "INFO": ("a types.AgentInfo", lambda value: isinstance(value, AgentInfo)),
    "make": ("a function of (spec, config)", _takes_two),
}
