"""Decision Transformer: the action of those who got the return that is asked for.

    a_t ~ P(a | R_t, o_t, and what came before in this episode)
    R_0 = target,  R_{t+1} = R_t - r_t

It is the sequence policy that is given returns and sees its own episode alone: it plays
at a wanted level and gets no better from episode to episode. All members and settings of
``sequence_policy`` are there.

Deviations: of the step of the episode a token knows nothing, unless ``outlook.steps`` is the
number of an episode's; the paper adds a vector of it to every token. R_t stands after o_t,
not before it, and r_{t-1} is read as well, unless ``reward_gate`` is 0.

Ref: Chen et al. 2021, "Decision Transformer" (arXiv:2106.01345).
"""

from __future__ import annotations

import dataclasses

from mtrl_jax import types
from mtrl_jax.agents import sequence_policy

Hparams = sequence_policy.Hparams
INFO = sequence_policy.info("the action of who got the return asked for (Chen 2021)")


@dataclasses.dataclass(frozen=True)
class Config(sequence_policy.Config):
    """What makes another program."""


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the Decision Transformer; see ``sequence_policy.make``."""
    return sequence_policy.make("decision_transformer", spec, config)
