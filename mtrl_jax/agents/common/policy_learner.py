"""What the learners of all actor-critics are wired from, whatever acts and is learned.

    params, optimiser · statistics of values · moments of observations · frozen weights

The optimiser, the transform of rewards, the scale of values, the units of observations,
the passes over a rollout, the normalising of advantages and the combiner of the tasks'
gradients are here, once. An option that is added here is one of every agent whose Config
has its fields.

An agent's Config inherits the groups of static fields that it offers, each beside what
it sets (``value_scale.Config``), as its Hparams has groups of traced ones. Fields of a
group are the agent's own (``agent.config.value_scale``); it may give them other
defaults. The last group's fields come first. What a Config has not cannot be set, and is
off: a group's own defaults.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from mtrl_jax import types
from mtrl_jax.agents.common import (
    combining,
    learning,
    minibatches,
    objective,
    observation_scale,
    optimiser,
    value_scale,
)
from mtrl_jax.losses import rewards
from mtrl_jax.networks import network_config
from mtrl_jax.types import Array, Key, Tree

Optimiser = optimiser.Optimiser  # whose name is a field below
# A rollout with observations as the networks see them -> rows of the passes.
RowsOf = Callable[[types.Rollout], minibatches.Rows]


@dataclasses.dataclass(frozen=True)
class Config(value_scale.Config):
    """What every actor-critic offers."""

    optimiser: str = "rmsprop"  # adam, rmsprop, rmsprop_centred
    # none, clip, tanh, oac_paper, oac_code, symlog, signed_hyperbolic
    rewards: str = "none"


@dataclasses.dataclass(frozen=True)
class WholeConfig(
    combining.Config,
    observation_scale.Config,
    objective.Config,
    learning.Config,
    Config,
    network_config.Config,
):
    """Every group there is, and the network."""


@dataclasses.dataclass(frozen=True)
class PolicyLearner:
    """The options of one agent's learner; networks, acting and loss are the agent's."""

    optimiser: str
    transform: Callable[[Array], Array]  # of rewards
    scale: value_scale.Scale
    normaliser: observation_scale.Normaliser
    combiner: combining.Combining
    passes: learning.Config
    normalise: bool  # advantages
    clip: learning.Clip | None = None  # network by network

    def init(self, params: Tree, hp: Any, frozen: Tree = ()) -> learning.Learner:
        """Returns a learner of ``params`` that has made no update."""
        return learning.init(
            params,
            self._optimise(hp),
            self.scale.init(),
            self.normaliser.init(),
            frozen,
        )

    def seen(self, learner: learning.Learner, ts: types.TimeStep) -> types.TimeStep:
        """Returns time steps ``[...]`` with observations as the networks see them."""
        return self.normaliser.apply(learner.observations, ts)

    def value(self, stats: Tree, value: Array, task: Array, hp: Any) -> Array:
        """Returns values ``[...]`` in the unit of rewards, of a network's output."""
        return self.scale.value(stats, value, task, hp.scale)

    def update(
        self,
        loss: learning.Loss,
        rows_of: RowsOf,
        learner: learning.Learner,
        rollout: types.Rollout,
        key: Key,
        hp: Any,
    ) -> tuple[learning.Learner, learning.Metrics, tuple[()]]:
        """Returns what ``Agent.update`` does: passes over the rows of the rollout."""
        seen = rollout._replace(ts=self.seen(learner, rollout.ts))
        learner, metrics = self.learn(loss, rows_of(seen), learner, key, hp)
        observations = self.normaliser.after(learner.observations, rollout)
        return learner._replace(observations=observations), metrics, ()

    def learn(
        self,
        loss: learning.Loss,
        rows: minibatches.Rows,
        learner: learning.Learner,
        key: Key,
        hp: Any,
    ) -> tuple[learning.Learner, learning.Metrics]:
        """Returns (learner, metrics) after the passes over rows; moments stay."""
        return learning.passes(
            loss,
            self._optimise(hp),
            learner,
            rows,
            key,
            hp,
            epochs=self.passes.epochs,
            minibatches=self.passes.minibatches,
            preserve=self.scale.preserve,
            combiner=self.combiner,
            clip=self.clip,
        )

    def _optimise(self, hp: Any) -> Optimiser:
        steps = self.passes.epochs * self.passes.minibatches
        whole = self.clip is None
        return optimiser.make(self.optimiser, hp.optimiser, steps, clip=whole)


def make(
    spec: types.EnvSpec,
    config: Config,
    heads: Sequence[tuple[str, ...]] = (("value",),),
    *,
    values: int = 1,
    stacked: bool = False,
    apart: Sequence[str] = (),
) -> PolicyLearner:
    """Returns the learner of an agent's ``Config`` for environments of ``spec``.

    ``heads`` and ``stacked`` say where the value heads are, see ``value_scale.Scale``;
    they have ``values`` numbers of each task. Of ``stacked`` networks, all parts of the
    parameters but those ``apart``, each is clipped to its own norm.
    Hyperparameters have the groups ``optimiser`` and ``scale``, those of an agent that
    offers combiners ``combining``.

    Raises:
      ValueError: an unknown option, a size below 1, or what ``spec`` has nothing for.
    """
    passes = _group(learning.Config, config)
    learning.check(passes)

    def clip(grads: Tree, hp: Any) -> Tree:
        norm = hp.optimiser.max_grad_norm
        return optimiser.clip_networks(grads, norm, _shares(spec), apart)

    optimiser.check(config.optimiser)
    return PolicyLearner(
        optimiser=config.optimiser,
        transform=rewards.get(config.rewards),
        scale=value_scale.make(
            config, values * len(spec.tasks), heads, stacked=stacked
        ),
        normaliser=observation_scale.make(
            spec, _group(observation_scale.Config, config).normalise_observations
        ),
        combiner=combining.make(_group(combining.Config, config).combiner, spec),
        passes=passes,
        normalise=_group(objective.Config, config).normalise_advantages,
        clip=clip if stacked else None,
    )


def _shares(spec: types.EnvSpec) -> tuple[float, ...]:
    """Returns which part of the steps is each task's, alike where no slot has a task."""
    slots = spec.slot_tasks or range(len(spec.tasks))
    # Of a task without slots there is nothing to clip.
    return tuple(max(slots.count(k), 1) / len(slots) for k in range(len(spec.tasks)))


def idle(config: Any) -> dict[str, types.Idle]:
    """Returns the hyperparameters that the options of an agent's config leave unread."""
    found = optimiser.idle(config) | value_scale.idle(config)
    if isinstance(config, combining.Config):
        found |= combining.idle(config)
    return found


def _group(group: type, config: Any) -> Any:
    """Returns the fields of a group as ``config`` has them; those it has not are off."""
    names = [field.name for field in dataclasses.fields(group)]
    return group(**{x: getattr(config, x) for x in names if hasattr(config, x)})
