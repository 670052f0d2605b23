"""Gato, small: a demonstration is shown as a prompt, and imitated.

    a_t ~ P(a | prompt, o_t, and what came before in this episode)

It is the sequence policy without returns and rewards: what tells one task from another is
the prompt, a part of another episode of the same history (``training.prompt_length``),
which a quarter of the sequences begin with. Who imitates keeps the level of what was shown.
All members and settings of ``sequence_policy`` are there.

Ref: Reed et al. 2022, "A Generalist Agent" (arXiv:2205.06175).
"""

from __future__ import annotations

import dataclasses

from mtrl_jax import hparams, types
from mtrl_jax.agents import sequence_policy
from mtrl_jax.networks.transformers import outlook

Hparams = hparams.with_defaults(
    sequence_policy.Hparams, reward_gate=0.0, return_gate=0.0, prompt_share=0.25
)
INFO = sequence_policy.info("imitates what a prompt shows (Reed et al. 2022)")


@dataclasses.dataclass(frozen=True)
class Config(sequence_policy.Config):
    """What makes another program."""

    outlook: outlook.Outlook = dataclasses.field(default_factory=outlook.Outlook)


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns Gato; see ``sequence_policy.make``."""
    return sequence_policy.make("gato", spec, config)
