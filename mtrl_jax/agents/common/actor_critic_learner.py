"""What V-trace and PPO have in common: the actor-critic learner and its options.

An agent brings the terms of its loss and the rows that it learns from. The scale of
values, the units of observations, the combiner of the tasks' gradients, what tasks share,
a teacher and auxiliary losses are here, once, as settings of the agent's Config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import optax

from mtrl_jax import types
from mtrl_jax.agents.common import (
    combining,
    kickstarting,
    learning,
    minibatches,
    objective,
    observation_scale,
    optimiser,
    sharing,
    unrolls,
    value_scale,
)
from mtrl_jax.networks import heads
from mtrl_jax.types import Array, Key, Tree

# (learner, rollout with observations as the network sees them) -> rows of the passes
RowsOf = Callable[[learning.Learner, types.Rollout], minibatches.Rows]


@dataclasses.dataclass(frozen=True)
class ActorCritic:
    """The options of one agent; ``init``, ``carry`` and ``act`` are the agent's own."""

    spec: types.EnvSpec
    config: Any  # the agent's Config
    auxiliaries: Sequence[objective.Auxiliary]
    scale: value_scale.Scale
    normaliser: observation_scale.Normaliser
    combiner: combining.Combining
    teacher: kickstarting.Kickstarting
    shared: sharing.Sharing

    def init(self, key: Key, hp: Any) -> learning.Learner:
        """Returns a learner that has made no update."""
        return learning.init(
            objective.add_heads(self.shared.acting.init(key), self.auxiliaries, key),
            self._optimise(hp),
            self.scale.init(),
            self.normaliser.init(),
            self.teacher.init(key),
        )

    def carry(self, batch: int) -> unrolls.Carry:
        """Returns the carry of ``batch`` fresh slots."""
        fresh = unrolls.initial_carry(self.shared.acting, self.spec.action, batch)
        return fresh._replace(teacher=self.teacher.initial_state(batch))

    def act(
        self,
        learner: learning.Learner,
        carry: unrolls.Carry,
        ts: types.TimeStep,
        key: Key,
        hp: Any,
    ) -> tuple[Array, unrolls.Carry, unrolls.Extras]:
        """Returns (action, carry, extras) for one step of ``[B]`` slots."""

        def value_of(value: Array) -> Array:
            return self.scale.value(learner.stats, value, ts.task, hp.scale)

        shown, memory = self.teacher.shown(
            learner.frozen, carry.teacher, ts, carry.action
        )
        action, after, extras = unrolls.act(
            self.shared.acting,
            learner.params,
            carry,
            self.normaliser.apply(learner.observations, ts),
            key,
            hp.temperature,
            value_of,
        )
        return action, after._replace(teacher=memory), extras._replace(teacher=shown)

    def total(
        self,
        terms: objective.Terms,
        params: Tree,
        features: Array,
        batch: Tree,
        hp: Any,
        *,
        policy: heads.Policy,
        shown: Tree,
        action_mask: Array,
        live: Array,
        task: Array,
    ) -> tuple[Array, learning.Metrics]:
        """Returns (loss, its parts): the terms, and those of every option in use.

        The auxiliaries read ``features`` and ``batch``; the teacher, who has ``shown``
        its policy there, is compared with ``policy`` on the ``live`` of its steps.
        """
        more = objective.auxiliary_losses(self.auxiliaries, params, features, batch, hp)
        more |= self.shared.losses(params, hp.sharing)
        more |= self.teacher.losses(
            policy, shown, action_mask, live, task, hp.kickstarting, self.combiner
        )
        return objective.total(terms, hp.costs, more)

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
        ts = self.normaliser.apply(learner.observations, rollout.ts)
        learner, metrics = learning.passes(
            loss,
            self._optimise(hp),
            learner,
            rows_of(learner, rollout._replace(ts=ts)),
            key,
            hp,
            epochs=self.config.epochs,
            minibatches=self.config.minibatches,
            preserve=self.scale.preserve,
            combiner=self.combiner,
        )
        observations = self.normaliser.after(learner.observations, rollout)
        return learner._replace(observations=observations), metrics, ()

    def _optimise(self, hp: Any) -> optax.GradientTransformation:
        steps = self.config.epochs * self.config.minibatches
        return optimiser.make(self.config.optimiser, hp.optimiser, steps)


def make(
    spec: types.EnvSpec, config: Any, auxiliaries: Sequence[objective.Auxiliary]
) -> ActorCritic:
    """Returns the learner of an agent's ``Config`` for environments of ``spec``.

    Raises:
      ValueError: an unknown option, a size below 1, or options that do not go together.
    """
    learning.check(config)
    is_soft = config.network.sharing == "soft"
    scale = value_scale.make(config, len(spec.tasks), stacked=is_soft)
    return ActorCritic(
        spec=spec,
        config=config,
        auxiliaries=auxiliaries,
        scale=scale,
        normaliser=observation_scale.make(spec, config.normalise_observations),
        combiner=combining.make(config.combiner, spec),
        teacher=kickstarting.make(config.teacher, spec),
        shared=sharing.make(
            spec,
            config.network,
            config.distance,
            config.epochs * config.minibatches,
            num_values=scale.num_values,
            untied=("value",) if scale.kind == "popart" else (),
        ),
    )
