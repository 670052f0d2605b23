"""Deep Q-network: Q-learning on experience replay with a target network.

Ref: Mnih et al. 2015, "Human-level control through deep reinforcement learning".
``double`` is van Hasselt et al. 2016 (arXiv:1509.06461).

Deviations: lengths are counted in updates of ``unroll_length · slots`` env steps each, in
which the policy stays as it is; of actions with the same value a random one is taken; ε
falls from the first update on, those before ``learning_starts`` included (Mnih's program
holds it at 1 until learning starts).
Defaults are of small tasks: Adam at 1e-3, ε to 0.05, a replay of 1e5 steps that is learned
from at once; the paper's centred RMSProp at 2.5e-4, ε to 0.1 and a replay of 1e6 that
first fills to 5 % are those of configs/dqn_atari.yaml.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from mtrl_jax import types
from mtrl_jax.agents.common import exploration, optimiser, q_learning, q_loss, unrolls

INFO = types.AgentInfo(
    "deep Q-network (Mnih et al. 2015)",
    capacity="capacity",
    waits=q_learning.waits,
    idle=optimiser.idle,
    actions=(types.Discrete,),
    learns=q_learning.LEARNS,
    check_hparams=lambda config, given: exploration.check_explores(given),
)


@dataclasses.dataclass(frozen=True)
class Config(q_learning.Config):
    """What makes another program."""

    double: bool = False
    n_step: int = 1


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    optimiser: optimiser.Hparams = optimiser.Hparams(max_grad_norm=10.0)
    returns: unrolls.Returns = unrolls.Returns()
    exploration: q_learning.Exploration = q_learning.Exploration()
    targets: q_learning.Targets = q_learning.Targets()


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the DQN agent for environments of ``spec``; see ``q_learning.make``."""
    parts = q_loss.Parts(double=config.double, n_step=config.n_step)
    return q_learning.make(spec, config, parts, "dqn")
