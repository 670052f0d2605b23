"""A run's settings: from YAML to checked, frozen ones, and back.

loading          YAML + dotted overrides -> settings
schema           the settings of a run; stage_schema: of a stage
completion       defaults of the agent, checks that need several fields
agent_settings   the agent's module, Config and Hparams
resuming         what may differ between a run and its continuation
"""

from mtrl_jax.config.loading import dump, from_dict, load, override, read_yaml, to_dict

__all__ = ["dump", "from_dict", "load", "override", "read_yaml", "to_dict"]
