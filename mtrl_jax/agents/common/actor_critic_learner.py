"""What V-trace and PPO have in common: the actor-critic of one network and its options.

An agent brings the terms of its loss and the rows that it learns from. Beside what
``policy_learner`` has for all, what tasks share, a teacher and auxiliary losses are here,
once, as settings of the agent's Config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mtrl_jax import types
from mtrl_jax.agents.common import (
    kickstarting,
    learning,
    objective,
    policy_learner,
    sharing,
    unrolls,
)
from mtrl_jax.networks import heads
from mtrl_jax.types import Array, Key, Tree


@dataclasses.dataclass(frozen=True)
class Config(policy_learner.WholeConfig):
    """What makes another program; agents differ in defaults."""

    distance: str = "l2"  # between networks of the tasks: l2, trace
    # Whom to be kickstarted by, see agents/common/kickstarting.py.
    teacher: kickstarting.Teacher | None = None


@dataclasses.dataclass(frozen=True)
class ActorCritic:
    """The options of one agent; ``init``, ``carry`` and ``act`` are the agent's own."""

    base: policy_learner.PolicyLearner
    spec: types.EnvSpec
    auxiliaries: Sequence[objective.Auxiliary]
    teacher: kickstarting.Kickstarting
    shared: sharing.Sharing

    def init(self, key: Key, hp: Any) -> learning.Learner:
        """Returns a learner that has made no update."""
        params = self.shared.acting.init(key)
        params = objective.add_heads(params, self.auxiliaries, key)
        return self.base.init(params, hp, self.teacher.init(key))

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
            return self.base.value(learner.stats, value, ts.task, hp)

        shown, memory = self.teacher.shown(
            learner.frozen, carry.teacher, ts, carry.action
        )
        action, after, extras = unrolls.act(
            self.shared.acting,
            learner.params,
            carry,
            self.base.seen(learner, ts),
            key,
            hp.temperature,
            value_of,
        )
        return action, after._replace(teacher=memory), extras._replace(teacher=shown)

    def losses(
        self,
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
    ) -> dict[str, objective.Weighted]:
        """Returns the weighted losses of every option in use, by name.

        The auxiliaries read ``features`` and ``batch``; the teacher, who has ``shown``
        its policy there, is compared with ``policy`` on the ``live`` of its steps.
        """
        seen = objective.Seen(features, batch)
        found = objective.auxiliary_losses(self.auxiliaries, params, seen, hp)
        found |= self.shared.losses(params, hp.sharing)
        combiner = self.base.combiner
        return found | self.teacher.losses(
            policy, shown, action_mask, live, task, hp.kickstarting, combiner
        )


def idle(config: Any) -> dict[str, types.Idle]:
    """Returns the hyperparameters that the options of an agent's config leave unread."""
    parts = (policy_learner, kickstarting, sharing)
    return {name: x for part in parts for name, x in part.idle(config).items()}


def make(
    spec: types.EnvSpec, config: Config, auxiliaries: Sequence[objective.Auxiliary]
) -> ActorCritic:
    """Returns the learner of an agent's ``Config`` for environments of ``spec``.

    Raises:
      ValueError: an unknown option, a size below 1, or options that do not go together.
    """
    is_soft = config.network.sharing == "soft"
    base = policy_learner.make(spec, config, stacked=is_soft, apart=(objective.HEADS,))
    return ActorCritic(
        base=base,
        spec=spec,
        auxiliaries=auxiliaries,
        teacher=kickstarting.make(config.teacher, spec),
        shared=sharing.make(
            spec,
            config.network,
            config.distance,
            config.epochs * config.minibatches,
            num_values=base.scale.num_values,
            untied=("value",) if base.scale.num_values else (),
        ),
    )
