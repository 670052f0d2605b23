"""Parallelised Q-network: Q-learning from λ-returns, without a replay or a target network.

    G_t = r_t + γ [λ G_{t+1} + (1 − λ) max_a q(s_{t+1}, a)],     L = ½ mean (q(s, a) − sg G)²

Many slots in parallel take the replay's place and layer norms the target network's; a
rollout is learned from in a few passes of minibatches. With ``student`` a network of its
own size follows the best that the learner has been (see common/online_student.py).

Ref: Gallici et al. 2024, "Simplifying Deep Temporal Difference Learning"
(arXiv:2407.04811), algorithm 1.

Deviations: Adam in the place of RAdam; inputs are not normalised by batch; of actions
with the same value a random one is taken.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.agents.common import (
    exploration,
    learning,
    minibatches,
    online_student,
    optimiser,
    q_learning,
    unrolls,
)
from mtrl_jax.hparams import Share
from mtrl_jax.losses import policy_gradient, rewards
from mtrl_jax.networks import q_network
from mtrl_jax.types import Array

INFO = types.AgentInfo(
    "parallelised Q-network (Gallici et al. 2024)",
    needs_extras=True,
    idle=lambda config: optimiser.idle(config) | online_student.idle(config),
    actions=(types.Discrete,),
    learns=q_learning.LEARNS,
    check_hparams=lambda config, given: exploration.check_explores(given),
)


@dataclasses.dataclass(frozen=True)
class Config(learning.Config):
    """What makes another program."""

    network: q_network.QNetworkConfig = dataclasses.field(
        default_factory=lambda: q_network.QNetworkConfig(layer_norm=True)
    )
    optimiser: str = "adam"  # adam, rmsprop, rmsprop_centred
    # none, clip, tanh, oac_paper, oac_code, symlog, signed_hyperbolic
    rewards: str = "none"
    epochs: int = 2
    minibatches: int = 4
    student: q_network.QNetworkConfig | None = None  # None: without one


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    optimiser: optimiser.Hparams = optimiser.Hparams(
        learning_rate=5e-4, max_grad_norm=10.0
    )
    returns: unrolls.Returns = unrolls.Returns()
    lambda_: Share = 0.65
    exploration: q_learning.Exploration = q_learning.Exploration()
    following: online_student.Hparams = online_student.Hparams()


class Batch(NamedTuple):
    """Single steps ``[N]`` of a rollout, or of a minibatch."""

    obs: types.Tree
    task: Array
    legal: Array  # [N, A]
    action: Array
    target: Array
    live: Array  # bool, False where the transition crosses into a new episode


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the PQN agent for environments of ``spec``.

    Metrics: ``loss, value`` (mean q of what was done), ``grad_norm, learning_rate``,
    means over minibatches, and ``epsilon``; with a student ``student_kl,
    student_accuracy, student_grad_norm, student_learning_rate`` and ``best_score``, the
    mean return of its teacher.

    Raises:
      ValueError: actions that are not discrete, unknown names, sizes below 1; at trace
        time, steps that do not divide into the minibatches.
    """
    actions = exploration.number_of_actions(spec.action, "pqn")
    learning.check(config)
    optimiser.check(config.optimiser)
    network = q_network.make(spec, config.network, actions)
    transform = rewards.get(config.rewards)

    def optimise(hp):
        steps = config.epochs * config.minibatches
        return optimiser.make(config.optimiser, hp.optimiser, steps)

    def values(params, obs, task, legal):
        return network.apply(params, obs, task, legal)[..., 0]

    student = online_student.make(
        spec, config.student, values, actions, config.optimiser
    )

    def init(key, hp):
        params = network.init(key)
        follows = () if student is None else student.init(key, params, hp)
        return learning.init(params, optimise(hp), follows)

    def carry(batch):
        return () if student is None else jnp.zeros(batch)

    def act(learner, carry, ts, key, hp):
        outputs, features = network.noting(
            learner.params, ts.obs, ts.task, ts.action_mask
        )
        q = outputs[..., 0]
        # The teacher learns from it, even where a student acts.
        _, value = exploration.greedy(q, ts.action_mask)
        if student is not None:
            carry = online_student.returned(carry, ts)
            q = student.acting(learner.stats, q, ts, hp)
        epsilon = q_learning.epsilon_at(learner.updates, hp.exploration)
        action, _, _ = exploration.epsilon_greedy(key, q, ts.action_mask, epsilon)
        return action, carry, q_learning.Extras(q, value, features, carry)

    def loss(params, stats, batch, key, hp):
        del key, hp
        q = values(params, batch.obs, batch.task, batch.legal)
        value = exploration.entry(q, batch.action)
        error = policy_gradient.masked_mean(
            0.5 * jnp.square(value - batch.target), batch.live
        )
        metrics = {
            "loss": error,
            "value": policy_gradient.masked_mean(value, batch.live),
        }
        return error, learning.Aux(metrics, stats, live=jnp.any(batch.live))

    def update(learner, rollout, key, hp, step):
        del step
        end = jax.tree.map(lambda x: x[-1], rollout.ts)
        last = values(learner.params, end.obs, end.task, end.action_mask)
        _, last = exploration.greedy(last, end.action_mask)
        value = jnp.concatenate([rollout.extras.value, last[None]])
        batch = steps_of(rollout, targets(value, rollout, transform, hp))
        epsilon = q_learning.epsilon_at(learner.updates, hp.exploration)
        before = learner
        learner, metrics = learning.passes(
            loss,
            optimise(hp),
            learner._replace(stats=()),
            minibatches.leading(batch, "steps"),
            key,
            hp,
            epochs=config.epochs,
            minibatches=config.minibatches,
        )
        learner = learner._replace(stats=before.stats)
        if student is not None:
            follows, found = student.follow(
                before.stats,
                before.params,
                learner.updates,
                rollout,
                rollout.extras.returned,
                batch,
                online_student.key_of(key),
                hp,
                epochs=config.epochs,
                minibatches=config.minibatches,
            )
            learner, metrics = learner._replace(stats=follows), metrics | found
        return learner, metrics | {"epsilon": epsilon}, ()

    return types.Agent(init, carry, act, update)


def targets(value: Array, rollout: types.Rollout, transform: Any, hp: Hparams) -> Array:
    """Returns the λ-returns ``[T, B]`` of the best values ``[T + 1, B]``."""
    arrived = unrolls.arrivals(rollout, transform, hp.returns)

    def of_slot(*slot):
        # A λ-return is the value target of generalised advantages.
        return policy_gradient.gae(*slot, lambda_=hp.lambda_).value

    return jax.vmap(of_slot, in_axes=1, out_axes=1)(value[:-1], value[1:], *arrived)


def steps_of(rollout: types.Rollout, target: Array) -> Batch:
    """Returns the T · B steps of a rollout, one after the other."""
    before = jax.tree.map(lambda x: x[:-1], rollout.ts)
    batch = Batch(
        before.obs,
        before.task,
        before.action_mask,
        rollout.action,
        target,
        ~rollout.ts.first[1:],
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)
