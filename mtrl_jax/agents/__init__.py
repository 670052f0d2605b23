"""The algorithms: one file each, with Config (static), Hparams (traced) and make."""

from __future__ import annotations

import importlib
from typing import cast

from mtrl_jax.types import AgentModule

# Name in a config file -> what one line says of it. The module has the same name.
AGENTS = {
    "impala": "V-trace actor-critic (Espeholt et al. 2018)",
    "mix_and_match": "agent curricula on V-trace (Czarnecki et al. 2018)",
    "ppo": "proximal policy optimisation (Schulman et al. 2017)",
    "tabular": "Q-learning with a table (Watkins and Dayan 1992)",
    "bandit": "UCB1 (Auer et al. 2002) and Thompson sampling (Thompson 1933)",
    "demonstrator": "what is optimal, with less and less noise (Zisman et al. 2024)",
    "behaviour_cloning": "imitation of a dataset's actions (Pomerleau 1991)",
    "algorithm_distillation": "in-context learning from histories (Laskin et al. 2023)",
}


def get(name: str) -> AgentModule:
    """Returns the module of the agent called ``name``.

    Raises:
      ValueError: there is none of that name.
    """
    if name not in AGENTS:
        raise ValueError(f"agent.name: unknown {name!r}; one of {', '.join(AGENTS)}")
    return cast(AgentModule, importlib.import_module(f"mtrl_jax.agents.{name}"))
