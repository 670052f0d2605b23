"""A student that follows its teacher while that learns: online distillation.

    every `score_period` updates   m = mean return of the episodes that ended since
                                   m > best  →  best = m, teacher* = teacher
    student   L = mean KL(softmax(q* / τ) ‖ softmax(s)),   on the teacher's own steps

A Q-learner forgets between its best moments; its student is taught by the best of them
alone. Until there is a first score it learns nothing.

Ref: Rusu et al. 2016, "Policy Distillation" (arXiv:1511.06295), section 5, online policy
distillation.

Deviations: a score is the mean return of training, which ε lowers and in which the policy
changes, in the place of an evaluation; the student learns from the newest rollout, not
from a replay. On a mixture a score is the mean over tasks of their mean raw returns.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import errors, tree, types
from mtrl_jax.agents.common import learning, optimiser, q_learning
from mtrl_jax.agents.common import minibatches as rows_of
from mtrl_jax.hparams import Amount, Bounds, Share
from mtrl_jax.losses import distillation, policy_gradient
from mtrl_jax.networks import q_network
from mtrl_jax.types import Array, Key, Scalar, Tree

Sharpness = Annotated[Scalar, Bounds(1e-6)]
_OWN = 2**31 - 1  # no part of a teacher's keys has this number
_NEEDED = "student={} (its network's settings)"


class Hparams(NamedTuple):
    """Of the student; not read without one."""

    # From 0.5 on it acts in its teacher's place, for tests: scores are of what acts.
    student: Share = 0.0
    student_learning_rate: Amount = 1e-3
    student_tau: Sharpness = 0.01  # of the teacher's values
    score_period: Amount = 50.0  # updates from score to score


class State(NamedTuple):
    """What travels with the teacher's learner."""

    learner: learning.Learner  # the student's own
    best: Tree  # the teacher's parameters at its best score
    score: Array  # [] of these; 0 before the first
    scores: Array  # [] int32, how many there have been
    returns: Array  # [K] sums of the returns of episodes since the last
    episodes: Array  # [K] their number


@dataclasses.dataclass(frozen=True)
class Student:
    """A student's network, and the teacher's ``values(params, obs, task, legal)``."""

    network: q_network.QNetwork
    values: Callable[..., Array]
    tasks: int
    optimiser: str

    def optimise(self, hp: Any, steps: int = 1) -> Any:
        """Returns the student's optimiser: the teacher's at a rate of its own."""
        own = hp.optimiser._replace(learning_rate=hp.following.student_learning_rate)
        return optimiser.make(self.optimiser, own, steps)

    def init(self, key: Key, teacher: Tree, hp: Any) -> State:
        """Returns the state beside a teacher with fresh parameters."""
        params = self.network.init(key_of(key))
        learner = learning.init(params, self.optimise(hp))
        none, sums = jnp.zeros((), jnp.int32), jnp.zeros((2, self.tasks))
        return State(learner, tree.copy(teacher), jnp.zeros(()), none, *sums)

    def acting(self, state: State, q: Array, ts: types.TimeStep, hp: Any) -> Array:
        """Returns the values ``[B, A]`` to act by: the teacher's ``q``, or its own."""
        own = self.outputs(state.learner.params, ts.obs, ts.task, ts.action_mask)
        return jnp.where(hp.following.student < 0.5, q, own)

    def outputs(self, params: Tree, obs: Tree, task: Array, legal: Array) -> Array:
        """Returns what it says of each action, ``[..., A]``."""
        return self.network.apply(params, obs, task, legal)[..., 0]

    def follow(
        self,
        state: State,
        teacher: Tree,
        updates: Array,
        rollout: types.Rollout,
        returned: Array,
        rows: Any,
        key: Key,
        hp: Any,
        *,
        epochs: int,
        minibatches: int,
    ) -> tuple[State, dict[str, Array]]:
        """Returns (state, metrics) after an update of the teacher.

        ``updates`` counts those of the teacher, whose parameters ``teacher`` made the
        ``rollout``; ``returned`` ``[T, B]`` is the return so far of each step's episode;
        ``rows`` has its steps one after the other: obs, task, legal and live.
        """
        due = q_learning.is_due(updates, hp.following.score_period)
        state = scored(state, teacher, rollout, returned, due)
        live = rows.live & (state.scores > 0)
        q = self.values(state.best, rows.obs, rows.task, rows.legal)
        batch = (rows._replace(live=live), q)

        def loss(params, stats, batch, key, hp):
            rows, q = batch
            own = self.outputs(params, rows.obs, rows.task, rows.legal)
            each = jax.vmap(distillation.kl, (0, 0, 0, None))(
                q, own, rows.legal, hp.following.student_tau
            )
            best = (jnp.where(rows.legal, x, -jnp.inf).argmax(-1) for x in (q, own))
            same = jnp.equal(*best).astype(jnp.float32)
            kl = policy_gradient.masked_mean(each, rows.live)
            accuracy = policy_gradient.masked_mean(same, rows.live)
            metrics = {"kl": kl, "accuracy": accuracy}
            return kl, learning.Aux(metrics, stats, live=jnp.any(rows.live))

        learner, metrics = learning.passes(
            loss,
            self.optimise(hp, epochs * minibatches),
            state.learner,
            rows_of.leading(batch, "steps"),
            key,
            hp,
            epochs=epochs,
            minibatches=minibatches,
        )
        found = {f"student_{name}": x for name, x in metrics.items()}
        return state._replace(learner=learner), found | {"best_score": state.score}


def make(
    spec: types.EnvSpec,
    config: q_network.QNetworkConfig | None,
    values: Callable[..., Array],
    actions: int,
    optimiser: str,
) -> Student | None:
    """Returns the student of a teacher with ``values``; None is no student.

    Raises:
      ValueError: settings that make no network.
    """
    if config is None:
        return None
    with errors.part("student", config):
        network = q_network.make(spec, config, actions)
    return Student(network, values, len(spec.tasks), optimiser)


def idle(config: Any) -> dict[str, types.Idle]:
    """Returns the hyperparameters that an agent without a student leaves unread."""
    if config.student is not None:
        return {}
    return dict.fromkeys(Hparams._fields, types.Idle(None, _NEEDED))


def key_of(key: Key) -> Key:
    """Returns the student's own part of a key that its teacher uses, too."""
    return jax.random.fold_in(key, _OWN)


def returned(before: Array, ts: types.TimeStep) -> Array:
    """Returns the return so far ``[B]`` of the episodes that ``ts`` belongs to."""
    return jnp.where(ts.first, 0.0, before + ts.reward)


def scored(
    state: State, teacher: Tree, rollout: types.Rollout, returned: Array, due: Array
) -> State:
    """Returns the state with a rollout's episodes counted, and scored where it is due.

    A score waits for an episode of every task that is played.
    """
    ts = jax.tree.map(lambda x: x[:-1], rollout.ts)
    of_task = jax.nn.one_hot(ts.task, len(state.returns))  # [T, B, K]
    ended = of_task * ts.last[..., None]
    returns = state.returns + jnp.sum(ended * returned[..., None], (0, 1))
    episodes = state.episodes + jnp.sum(ended, (0, 1))
    played = jnp.any(of_task > 0, (0, 1))
    is_new = due & jnp.all((episodes > 0) | ~played)
    mean = returns / jnp.maximum(episodes, 1)
    score = jnp.sum(jnp.where(played, mean, 0.0)) / jnp.maximum(jnp.sum(played), 1)
    better = is_new & ((state.scores == 0) | (score > state.score))
    return state._replace(
        best=tree.where(better, teacher, state.best),
        score=jnp.where(better, score, state.score),
        scores=state.scores + is_new,
        returns=jnp.where(is_new, 0.0, returns),
        episodes=jnp.where(is_new, 0.0, episodes),
    )
