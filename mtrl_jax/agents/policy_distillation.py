"""Policy distillation: a student whose policy is that of the teachers who made the data.

    loss = mean over live steps of  c_kl KL(softmax(q / τ) ‖ softmax(s))
                                  + c_nll (−log softmax(s)[argmax q]) + c_mse ‖q − s‖² + β ‖f(h) − h_T‖²

``q`` is what a teacher noted down at a step (a collect stage's ``record``), ``s`` what
the student says of its actions. One of the costs is meant to be 1: as they are traced,
losses and τ are members of one population. A teacher that is a policy noted down logits
(``labels: policy``) and is distilled at τ = 1. A trunk with a head for each task makes
one student of several teachers.

With ``feature_size`` it also predicts its teachers' last hidden layer h_T from its own h,
by a linear layer for each head (Actor-Mimic's feature regression); β is traced.

Refs: Rusu et al. 2016, "Policy Distillation" (arXiv:1511.06295), sections 3 and 4;
Parisotto et al. 2016, "Actor-Mimic" (arXiv:1511.06342), section 3.

Deviations: Adam by default in the place of RMSProp; batches mix the tasks, in the paper
they take turns; groups of a factorised action have a loss each, which are added.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import hparams, types
from mtrl_jax.agents.common import frozen, learning, optimiser, unrolls
from mtrl_jax.hparams import Amount, Bounds, Share
from mtrl_jax.losses import distillation, policy_gradient
from mtrl_jax.networks import heads, network_config, task_heads
from mtrl_jax.types import Array, Scalar, Tree

Sharpness = Annotated[Scalar, Bounds(1e-6)]


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program."""

    network: network_config.NetworkConfig = dataclasses.field(
        default_factory=lambda: network_config.NetworkConfig(
            activation="relu", last_action_reward=False
        )
    )
    per_task: bool = True  # a head for each task, of its own actions
    head_hidden: int = 0  # units of a hidden layer in each head; 0: none
    labels: str = "q"  # what is distilled of what teachers noted down
    feature_size: int = 0  # of the ``features`` teachers noted down; 0: not predicted
    optimiser: str = "adam"  # adam, rmsprop, rmsprop_centred


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    optimiser: optimiser.Hparams = optimiser.Hparams(max_grad_norm=10.0)
    kl_cost: Amount = 1.0
    nll_cost: Amount = 0.0
    mse_cost: Amount = 0.0
    feature_cost: Amount = 0.01  # β
    tau: Sharpness = 0.01  # of the teacher; 1 of one that is a policy
    temperature: Amount = 0.0  # of acting; 0 is greedy
    epsilon: Share = 0.05  # share of random actions in acting


def idle(config: Config) -> dict[str, types.Idle]:
    """Returns the hyperparameters that the program of ``config`` does not read."""
    found = optimiser.idle(config)
    if not config.feature_size:
        found["feature_cost"] = types.Idle(
            None, "feature_size of the teachers' features"
        )
    return found


def check_hparams(config: Config, given: Mapping[str, float]) -> None:
    """Raises ValueError unless a cost of the loss is above 0."""
    costs = ["kl_cost", "nll_cost", "mse_cost"]
    hparams.check_costs(given, costs + ["feature_cost"] * (config.feature_size > 0))


INFO = types.AgentInfo(
    "one student of many teachers (Rusu et al. 2016)",
    reads_recorded=True,
    observe_action=unrolls.observe_action,
    idle=idle,
    check_hparams=check_hparams,
    actions=(types.Discrete, types.Factorised),
)


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the student for environments of ``spec``.

    Acting notes down what it says of each action under the name of ``labels``, so that a
    student can be a teacher; without a dataset it learns from that, and sharpens itself.
    Metrics: ``loss`` (nats a step where it is KL or NLL), ``kl, nll, mse`` whatever
    their costs, ``accuracy`` (its best action is the teacher's), ``entropy``,
    ``grad_norm, learning_rate``, with ``feature_size`` also ``feature_error``; means over
    live steps.

    Raises:
      ValueError: real actions, an unknown optimiser or network option, a size that
        cannot be; at trace time, labels or features that are not there or of another
        size.
    """
    if isinstance(spec.action, types.Box):
        raise ValueError(
            f"action: policy_distillation compares choices and cannot act in "
            f"{spec.action}; give tasks with Discrete or Factorised actions"
        )
    optimiser.check(config.optimiser)
    network = task_heads.make(
        spec,
        config.network,
        per_task=config.per_task,
        hidden=config.head_hidden,
        features=config.feature_size,
    )

    def optimise(hp):
        return optimiser.make(config.optimiser, hp.optimiser)

    def init(key, hp):
        return learning.init(network.init(key), optimise(hp))

    def carry(batch):
        action = types.action_shape(spec.action)
        none = jnp.zeros((batch, *action.shape), action.dtype)
        return unrolls.Carry(network.initial_state(batch), none)

    def act(learner, carry, ts, key, hp):
        time = jax.tree.map(lambda x: x[None], (ts, carry.action))
        logits, core = network.unroll(learner.params, carry.core, *time)
        policy = heads.policy(spec.action, logits[0], ts.action_mask, hp.temperature)
        own_key, when_key, which_key = jax.random.split(key, 3)
        own, _ = policy.sample_and_log_prob(own_key)
        explores = jax.random.uniform(when_key, ts.first.shape) < hp.epsilon
        other = frozen.uniform(which_key, spec.action, ts.action_mask)
        explores = explores.reshape(explores.shape + (1,) * (own.ndim - 1))
        action = jnp.where(explores, other, own)
        return action, unrolls.Carry(core, action), {config.labels: logits[0]}

    def loss(params, stats, rollout, key, hp):
        del key
        # The step after the last action has no label.
        seen = rollout.ts, unrolls.previous_actions(rollout)
        seen = jax.tree.map(lambda x: x[:-1], seen)
        inputs = (params, rollout.carry.core, *seen)
        labels = labels_of(rollout.extras, config.labels, spec.action)
        if not config.feature_size:
            logits, _ = network.unroll(*inputs)
            total, metrics = loss_of(spec.action, labels, logits, rollout, hp)
            return total, learning.Aux(metrics, stats)
        logits, predicted = network.predict(*inputs)
        total, metrics = loss_of(spec.action, labels, logits, rollout, hp)
        error = feature_error(predicted, features_of(rollout.extras, config), rollout)
        total += hp.feature_cost * error
        metrics |= {"loss": total, "feature_error": error}
        return total, learning.Aux(metrics, stats)

    def update(learner, rollout, key, hp, step):
        del step
        learner, metrics = learning.update(
            loss, optimise(hp), learner, rollout, key, hp
        )
        return learner, metrics, ()

    return types.Agent(init, carry, act, update)


def labels_of(extras: Tree, name: str, space: types.ActionSpace) -> Array:
    """Returns what teachers said of each action, ``[T, B, A]``.

    ``extras`` are those of a dataset's windows, or what acting noted down by name.

    Raises:
      ValueError: there is nothing of that name, or of so many actions.
    """
    recorded = _recorded(extras)
    if name not in recorded:
        raise ValueError(
            f"labels={name!r}: the data recorded {', '.join(recorded) or 'nothing'}; "
            f"collect with record: [{name}], or give labels another name"
        )
    shape, size = recorded[name].shape[2:], types.action_mask_size(space)
    if shape != (size,):
        raise ValueError(
            f"labels={name!r}: of shape {list(shape)} a step, the tasks have {size} "
            "actions; give what teachers with these actions said of each"
        )
    return recorded[name]


def features_of(extras: Tree, config: Config) -> Array:
    """Returns the teachers' features ``[T, B, F]``.

    Raises:
      ValueError: there are none, or of another size.
    """
    recorded, size = _recorded(extras), config.feature_size
    if "features" not in recorded:
        raise ValueError(
            f"feature_size={size}: the data recorded {', '.join(recorded) or 'nothing'}; "
            "give 0, or collect with record: [q, features] of teachers that learned with "
            "network.note_features"
        )
    found = recorded["features"].shape[2:]
    if found != (size,):
        raise ValueError(
            f"feature_size={size}: the teachers' features are of shape {list(found)} a "
            "step; give their size"
        )
    return recorded["features"]


def feature_error(predicted: Array, features: Array, rollout: types.Rollout) -> Array:
    """Returns mean ‖predicted − features‖² over live steps, ``[]``."""
    each = jax.vmap(jax.vmap(distillation.feature_regression))(predicted, features)
    return policy_gradient.masked_mean(each, unrolls.chosen_from(rollout))


def loss_of(
    space: types.ActionSpace,
    labels: Array,
    logits: Array,
    rollout: types.Rollout,
    hp: Any,
) -> tuple[Array, dict[str, Array]]:
    """Returns (loss [], metrics) of labels and logits ``[T, B, A]``."""
    legal = rollout.ts.action_mask[:-1]
    live = unrolls.chosen_from(rollout)

    def mean(x: Array) -> Array:
        return policy_gradient.masked_mean(x, live)

    found = {
        name: mean(errors(name, space, labels, logits, legal, hp.tau))
        for name in distillation.LOSSES
    }
    costs = {"kl": hp.kl_cost, "nll": hp.nll_cost, "mse": hp.mse_cost}
    total = sum(costs[name] * found[name] for name in found)
    policy = heads.policy(space, logits, legal)
    best = heads.policy(space, labels, legal).mode() == policy.mode()
    same = best.reshape(*live.shape, -1).all(axis=-1)
    metrics = found | {
        "loss": total,
        "accuracy": mean(same.astype(jnp.float32)),
        "entropy": mean(policy.entropy()),
    }
    return total, metrics


def errors(
    name: str,
    space: types.ActionSpace,
    labels: Array,
    logits: Array,
    legal: Array,
    tau: Scalar,
) -> Array:
    """Returns the loss called ``name`` of each step ``[T, B]``, summed over groups."""
    ends = np.cumsum(types.groups(space))[:-1].tolist()

    def each(q, s, legal):
        return distillation.loss(name, q, s, legal, tau)

    groups = zip(*(jnp.split(x, ends, axis=-1) for x in (labels, logits, legal)))
    return sum(jax.vmap(jax.vmap(each))(*group) for group in groups)


def _recorded(extras: Tree) -> Mapping[str, Array]:
    """Returns by name what a dataset's windows recorded, or acting noted down."""
    return cast(Mapping[str, Array], getattr(extras, "recorded", extras))
