"""The algorithms: one file each, with Config (static), Hparams (traced), INFO and make."""

from __future__ import annotations

import importlib
from typing import cast

from mtrl_jax.types import AgentModule

# Name in a config file -> module.
AGENTS = {
    "impala": "mtrl_jax.agents.impala",
    "mix_and_match": "mtrl_jax.agents.mix_and_match",
    "ppo": "mtrl_jax.agents.ppo",
    "dreamer_v2": "mtrl_jax.agents.dreamer_v2",
    "tabular": "mtrl_jax.agents.tabular",
    "bandit": "mtrl_jax.agents.bandit",
    "demonstrator": "mtrl_jax.agents.demonstrator",
    "behaviour_cloning": "mtrl_jax.agents.behaviour_cloning",
    "algorithm_distillation": "mtrl_jax.agents.algorithm_distillation",
}


def get(name: str) -> AgentModule:
    """Returns the module of the agent called ``name``.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in AGENTS:
        raise ValueError(f"agent.name: unknown {name!r}; one of {', '.join(AGENTS)}")
    return cast(AgentModule, importlib.import_module(AGENTS[name]))
