"""Multi-Game Decision Transformer: it infers what return an expert would get.

    R_t ~ P(R | h, o_t) exp(κ x(R)),  a_t ~ P(a | h, o_t, R_t)

It is the sequence policy that also learns to predict returns and rewards, and infers R_t anew
at every step, tilted towards high ones; R_t is not lowered by rewards. With κ = 0 it plays
as the data do. All members and settings of ``sequence_policy`` are there.

Deviations: P(R_t | h) sees every return before it, so that after an episode's first step it
is nearly R_{t-1} - r_{t-1}; the authors' program shows and predicts a window's first alone.
An observation is one token, or a part of one, and not a token for each patch of an image.
The cross-entropies of actions, returns and rewards are summed with their costs, 1 each,
not averaged.

Ref: Lee et al. 2022, "Multi-Game Decision Transformers" (arXiv:2205.15241), κ = 10.
"""

from __future__ import annotations

import dataclasses

from mtrl_jax import hparams, types
from mtrl_jax.agents import sequence_policy
from mtrl_jax.networks.transformers import outlook

Hparams = hparams.with_defaults(
    sequence_policy.Hparams, inferred=1.0, return_cost=1.0, reward_cost=1.0
)
INFO = sequence_policy.info("it infers an expert's return itself (Lee et al. 2022)")


@dataclasses.dataclass(frozen=True)
class Config(sequence_policy.Config):
    """What makes another program."""

    outlook: outlook.Outlook = dataclasses.field(
        default_factory=lambda: outlook.Outlook(bins=21, rewards=True)
    )
    infers: bool = True


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the Multi-Game Decision Transformer; see ``sequence_policy.make``."""
    return sequence_policy.make("multi_game_decision_transformer", spec, config)
