"""What a config says of its agent, as the agent's own types."""

from __future__ import annotations

from typing import Any

from mtrl_jax import agents
from mtrl_jax import hparams as groups
from mtrl_jax.config import strict


def module(settings: Any):
    """Returns the module of the configured agent."""
    return agents.get(settings.agent.name)


def config(settings: Any):
    """Returns the agent's frozen static Config."""
    return strict.build(module(settings).Config, settings.agent.config, "agent.config")


def hparams(settings: Any):
    """Returns the agent's Hparams as Python floats."""
    return groups.override(module(settings).Hparams(), settings.agent.hparams)
