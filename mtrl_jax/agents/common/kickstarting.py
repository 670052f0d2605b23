"""A frozen teacher beside an actor-critic, whose policy the student is drawn to.

    L = L_RL + teacher_cost · mean_t KL(π_teacher(·|x_t) ‖ π(·|x_t))

on the student's own steps. The gradient is that of the teacher's cross-entropy, the
value 0 where they agree. The cost is traced: PBT or a schedule may let go of the teacher,
so that the student can pass it.

The teacher acts along: it sees what the student sees, has a memory of its own that
advances with the student's steps, and its policy is among what acting notes down. It is
part of the learner, so that it travels with it, and nothing changes it.

Ref: Schmitt et al. 2018, "Kickstarting Deep Reinforcement Learning" (arXiv:1803.03835),
equations 2 and 3.

Deviation: its population-based weight is here one number and one teacher a member.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax

from mtrl_jax import errors, types
from mtrl_jax.agents.common import (
    combining,
    objective,
    observation_scale,
    value_scale,
)
from mtrl_jax.hparams import Amount
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.networks import network_config
from mtrl_jax.types import Array, Key, Tree


@dataclasses.dataclass(frozen=True)
class Teacher(network_config.Config):
    """The settings of the teacher's agent that its network is made from."""

    # none, popart, return_scale; with one, its network has a value for each task.
    value_scale: str = "none"
    normalise_observations: bool = False  # it sees them as it did when it learned


class Hparams(NamedTuple):
    """Of the teacher; not read without one."""

    teacher_cost: Amount = 1.0


@dataclasses.dataclass(frozen=True)
class Kickstarting:
    """A teacher's network, or None where there is no teacher."""

    network: networks.Network | None
    normaliser: observation_scale.Normaliser  # of what the teacher sees

    def init(self, key: Key) -> Tree:
        """Returns parameters and statistics of the teacher's shapes, () without one.

        A stage with ``teacher`` puts those of another's learners in their place, by
        their names.
        """
        if self.network is None:
            return ()
        # No key of the student's, whose parts are named or split.
        own = jax.random.fold_in(key, 1)
        return {
            "params": self.network.init(own),
            "observations": self.normaliser.init(),
        }

    def initial_state(self, batch: int) -> Tree:
        """Returns the teacher's memories of ``batch`` fresh slots."""
        return () if self.network is None else self.network.initial_state(batch)

    def shown(
        self, frozen: Tree, state: Tree, ts: types.TimeStep, prev_action: Array
    ) -> tuple[Tree, Tree]:
        """Returns (the raw parameters of its policy ``[B, ...]``, its memory).

        ``frozen`` is what ``init`` gave, ``ts`` are the environment's own steps.
        """
        if self.network is None:
            return (), ()
        ts = self.normaliser.apply(frozen["observations"], ts)
        time = jax.tree.map(lambda x: x[None], (ts, prev_action))
        out, state = self.network.unroll(frozen["params"], state, *time)
        return out.policy[0], state

    def losses(
        self,
        policy: types.Tree,
        shown: Tree,
        action_mask: Array,
        live: Array,
        task: Array,
        hp: Hparams,
        combiner: combining.Combining,
    ) -> dict[str, objective.Weighted]:
        """Returns ``teacher_kl``, weighted, of the student's ``policy``; {} without one.

        ``policy`` is a ``heads.Policy`` of ``[T, B]``, ``shown`` what the teacher showed
        there, ``live`` and ``task`` are ``[T, B]``.
        """
        if self.network is None:
            return {}
        teacher = self.network.distribution(shown, action_mask)
        divergence = combiner.mean(teacher.kl(policy), live, task)
        return {"teacher_kl": objective.Weighted(hp.teacher_cost, divergence)}


def idle(config: Any) -> dict[str, types.Idle]:
    """Returns the hyperparameters that an agent without a teacher leaves unread."""
    if config.teacher is not None:
        return {}
    return {"teacher_cost": types.Idle(None, "teacher (a stage's teacher=NAME does)")}


def make(teacher: Teacher | None, spec: types.EnvSpec) -> Kickstarting:
    """Returns the teacher of an agent for ``spec``; None is no teacher.

    Raises:
      ValueError: settings that make no network, or no scale.
    """
    if teacher is None:
        return Kickstarting(None, observation_scale.make(spec, False))
    if teacher.value_scale not in value_scale.SCALES:
        raise ValueError(
            f"teacher.value_scale: unknown {teacher.value_scale!r}; one of "
            f"{', '.join(value_scale.SCALES)}"
        )
    values = None if teacher.value_scale == "none" else len(spec.tasks)
    known = spec._replace(one_each=False)  # It has learned all of them.
    with errors.part("teacher.network", teacher.network):
        network = networks.make(known, teacher.network, num_values=values)
    normaliser = observation_scale.make(spec, teacher.normalise_observations)
    return Kickstarting(network, normaliser)
