"""Rainbow: six improvements of DQN in one agent, each a switch.

Double, prioritised, dueling, n-step, categorical (C51) and noisy; every subset runs.
``distribution: quantile`` puts QR-DQN's quantiles in the place of the atoms.

Ref: Hessel et al. 2018, "Rainbow: Combining Improvements in Deep Reinforcement Learning"
(arXiv:1710.02298).

Deviations: as DQN's; each slot acts by noise of its own (see networks/noisy.py); the mean
of the advantages is over legal actions; priorities of a categorical learner are the KL of
the paper, raised to the exponent when they are stored, and no thousandth of the draws is
uniform. ``importance_updates``, how long the weights' exponent takes to be 1, is the length
of the run in the paper; by default it stays at 0.4, as a run's length is not known. Like
ε it counts the updates before ``learning_starts``, too.
Other defaults are of small tasks, too: Adam at 1e-3 with an epsilon of 1e-8, a replay of
1e5 steps that is learned from at once, a target network for 200 updates; in the paper
6.25e-5 with 1.5e-4, 1e6 steps that first fill to 2 %, 8,000 steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from mtrl_jax import types
from mtrl_jax.agents.common import exploration, optimiser, q_learning, q_loss, unrolls
from mtrl_jax.hparams import Amount


@dataclasses.dataclass(frozen=True)
class Config(q_learning.Config):
    """What makes another program."""

    double: bool = True
    prioritised: bool = True
    dueling: bool = True
    n_step: int = 3
    distribution: str = "categorical"  # none, categorical, quantile
    atoms: int = 51  # of the distribution: atoms or quantiles
    noisy: bool = True


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    optimiser: optimiser.Hparams = optimiser.Hparams(max_grad_norm=10.0)
    returns: unrolls.Returns = unrolls.Returns()
    # Noise explores; without it give ε.
    exploration: q_learning.Exploration = q_learning.Exploration(0.0, 0.0, 0.0)
    targets: q_learning.Targets = q_learning.Targets()
    prioritising: q_loss.Prioritising = q_loss.Prioritising()
    support: q_loss.Support = q_loss.Support()
    noise: Amount = 1.0  # of the weights when acting; 0 is greedy


def idle(config: Config) -> dict[str, types.Idle]:
    """Returns the hyperparameters that the parts of ``config`` leave unread."""
    found = optimiser.idle(config)
    for group, is_read, needs in (
        (q_loss.Prioritising, config.prioritised, "prioritised=true"),
        (
            q_loss.Support,
            config.distribution == "categorical",
            "distribution=categorical",
        ),
    ):
        if not is_read:
            found |= dict.fromkeys(group._fields, types.Idle(None, needs))
    if not config.noisy:
        found["noise"] = types.Idle(None, "noisy=true")
    return found


def check_hparams(config: Config, given: Mapping[str, float]) -> None:
    """Raises ValueError unless it explores, by noise or by ε."""
    if not config.noisy or not given.get("noise", 1.0):
        without = "noise=0" if config.noisy else "agent.config.noisy=false"
        exploration.check_explores(given, without)


def ordered(config: Config) -> tuple[tuple[str, str], ...]:
    """Returns the ends that atoms lie between, where there are some."""
    return (("v_min", "v_max"),) if config.distribution == "categorical" else ()


INFO = types.AgentInfo(
    "DQN with six improvements (Hessel et al. 2018)",
    capacity="capacity",
    waits=q_learning.waits,
    idle=idle,
    ordered=ordered,
    check_hparams=check_hparams,
    actions=(types.Discrete,),
    learns=q_learning.LEARNS,
)


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the Rainbow agent for environments of ``spec``; see ``q_learning.make``."""
    names = [field.name for field in dataclasses.fields(q_loss.Parts)]
    parts = q_loss.Parts(**{name: getattr(config, name) for name in names})
    return q_learning.make(spec, config, parts, "rainbow")
