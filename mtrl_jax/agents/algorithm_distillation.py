"""Algorithm Distillation: a transformer that imitates how a learner gets better.

    loss = - mean over live steps of  log P(a_t | h_{t-1}, o_t)

over windows of whole learning histories, episode after episode. Who predicts the actions
of a learner from what it has seen so far has to do what it does: with frozen weights the
agent then learns a new task within its context, which is why nothing is reset between
episodes. Expert distillation, the paper's baseline, is this agent on the last part of the
histories; a ``context`` below an episode is another.

Acting and training read the same rows: one for each action that was chosen. The reward
and the end of an episode stand in the row of the next one's first observation; the step
that is ``last``, whose action is ignored, is as if absent. So are the rows of windows of
either kind (see ``data/windows.py``). A window's first row knows nothing before it, as
the first step of all when acting.

Windows of ``context`` rows train every length of history up to it. A cache reaches
further back through its layers (see ``networks/transformers/transformer.py``): windows of 2 context
rows train that too. A member's ``horizon`` is a shorter context of its own: it trains on
segments of windows, and acting with "recompute" sees no further. Rewards are the only sign
of what to do: ``rewards`` transforms them.

The Decision-Pretrained Transformer is the same agent with another target: the action
that had been best, a label of the data, in place of the one that was taken (``target``).
Who predicts it knows the task as well as the steps seen so far allow, and to act with
these probabilities is posterior sampling, step by step. With ``encoding: set`` the steps
have no order. The data should be of behaviour that knew nothing, such as random actions:
of demonstrators it learns to see in an action what they knew, and believes its own.

Refs: Laskin et al. 2023, "In-context Reinforcement Learning with Algorithm Distillation"
(arXiv:2210.14215). Label smoothing is over the legal actions. Lee et al. 2023,
"Supervised Pretraining Can Learn In-Context Reinforcement Learning" (arXiv:2306.14892);
there, states to ask for are drawn from all there are, here they are those of the history.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import tree, types
from mtrl_jax.agents.common import learning, optimiser
from mtrl_jax.hparams import Amount, Limit, Share
from mtrl_jax.losses import policy_gradient, rewards
from mtrl_jax.networks import heads
from mtrl_jax.networks.transformers import history_tokens, transformer
from mtrl_jax.types import Array, Tree

TARGETS = ("taken", "optimal")
_ALL = 2**20  # steps, as good as any number; exact in float32


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program: the transformer, and how it reads rewards."""

    transformer: transformer.TransformerConfig = dataclasses.field(
        default_factory=transformer.TransformerConfig
    )
    # none, clip, tanh, oac_paper, oac_code, symlog, signed_hyperbolic
    rewards: str = "none"
    target: str = "taken"  # what is imitated: the actions "taken", or the "optimal"


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    optimiser: optimiser.AdamwHparams = optimiser.AdamwHparams()
    label_smoothing: Share = 0.0  # share of the target that is uniform
    temperature: Amount = 1.0  # of acting; 0 is greedy
    horizon: Limit = 0.0  # steps that are seen, whole ones; 0: all of the context


class Carry(NamedTuple):
    """What acting remembers of a slot, across episodes."""

    obs: Tree  # [B, ...] that the last action was chosen from; {} if it is not read
    cache: Tree  # of the transformer
    action: Array  # [B, ...] the last that was chosen
    reward: Array  # [B] of an episode that has just ended, raw; else 0
    done: Array  # [B] bool, an episode has just ended
    has_prev: Array  # [B] bool, an action was chosen before


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the distilling agent for environments of ``spec``.

    ``update`` takes windows of histories, no carry. Metrics, means over live steps:
    ``loss`` (nats a step, without label smoothing), ``accuracy`` (the most probable
    action is the data's), ``entropy``; and ``grad_norm, learning_rate``.

    Raises:
      ValueError: actions that are not categorical, an unknown target, reward transform
        or transformer option; at the first update, windows without labels of what is
        optimal where that is the target.
    """
    if config.target not in TARGETS:
        raise ValueError(
            f"target: {config.target!r} is not known, use one of {TARGETS}"
        )
    if isinstance(spec.action, types.Box):
        raise ValueError(
            f"action: algorithm_distillation says which choice, and cannot act in "
            f"{spec.action}; give tasks with Discrete or Factorised actions"
        )
    transform = rewards.get(config.rewards)
    network = transformer.make(spec, config.transformer)

    def init(key, hp):
        return learning.init(network.init(key), optimiser.adamw(hp.optimiser))

    def carry(batch):
        return empty_carry(spec, network, config.transformer.encoding, batch)

    def act(learner, carry, ts, key, hp):
        steps = step_of(carry, ts)
        steps = steps._replace(prev_reward=transform(steps.prev_reward))
        seen = horizon_of(hp)
        logits, cache = network.step(learner.params, carry.cache, steps, seen)
        policy = heads.policy(spec.action, logits, ts.action_mask, hp.temperature)
        action, log_prob = policy.sample_and_log_prob(key)
        return action, remember(carry, cache, ts, action), log_prob

    def imitation_loss(params, stats, rollout, key, hp):
        steps, target = steps_of(rollout), _target(rollout, config.target)
        steps = steps._replace(prev_reward=transform(steps.prev_reward))
        logits = network.unroll(params, steps, key, horizon=horizon_of(hp))
        mask = rollout.ts.action_mask[:-1]
        policy = heads.policy(spec.action, logits, mask)
        uniform = heads.policy(spec.action, jnp.zeros(mask.shape), mask)
        total, metrics = loss(policy, uniform, target, _live(rollout), hp)
        return total, learning.Aux(metrics, stats)

    def update(learner, rollout, key, hp, step):
        del step
        optimise = optimiser.adamw(hp.optimiser)
        learner, metrics = learning.update(
            imitation_loss, optimise, learner, rollout, key, hp
        )
        return learner, metrics, ()

    return types.Agent(init, carry, act, update)


def loss(
    policy: heads.Policy,
    uniform: heads.Policy,
    action: Array,
    live: Array,
    hp: Hparams,
) -> tuple[Array, dict[str, Array]]:
    """Returns (loss, metrics) of the actions ``[T, B]`` to imitate.

    The cross-entropy of ``policy`` to the action with probability 1 - label_smoothing,
    else to one of ``uniform``; mean over the ``live`` steps.
    """

    def mean(x: Array) -> Array:
        return policy_gradient.masked_mean(x, live)

    nats = mean(-policy.log_prob(action))
    spread = mean(uniform.kl(policy) + uniform.entropy())
    same = policy.mode() == action
    # Of a factorised action, all choices.
    same = same.reshape(*live.shape, -1).all(axis=-1)
    metrics = {
        "loss": nats,
        "accuracy": mean(same.astype(jnp.float32)),
        "entropy": mean(policy.entropy()),
    }
    return nats + hp.label_smoothing * (spread - nats), metrics


def steps_of(rollout: types.Rollout) -> history_tokens.Steps:
    """Returns the Steps [T, B] of a rollout; live where an action was chosen.

    Of a stream with its resets, the step that ends an episode is not live, and its
    reward goes to the next one's first.
    """
    ts, live = jax.tree.map(lambda x: x[:-1], rollout.ts), _live(rollout)
    ended = _before(_ends(ts))
    action, reward = _before(rollout.action), _before(ts.reward)
    obs = jax.tree.map(_before, ts.obs)
    return history_tokens.Steps(
        obs=ts.obs,
        prev_obs=tree.where(ended, jax.tree.map(_before, obs), obs),
        prev_action=tree.where(ended, _before(action), action),
        prev_reward=jnp.where(ended, reward, ts.reward),
        # An episode that was cut off is over, too.
        prev_done=ts.first | ts.last | ended,
        has_prev=_before(jnp.cumsum(live, axis=0) > 0),
        live=live,
    )


def step_of(carry: Carry, ts: types.TimeStep) -> history_tokens.Steps:
    """Returns the Steps [B] of one moment of acting: a row of ``steps_of``."""
    return history_tokens.Steps(
        obs=ts.obs,
        prev_obs=carry.obs or None,
        prev_action=carry.action,
        prev_reward=jnp.where(carry.done, carry.reward, ts.reward),
        prev_done=ts.last | carry.done,
        has_prev=carry.has_prev,
        live=~_ends(ts),
    )


def horizon_of(hp: Hparams) -> Array:
    """Returns the steps that are seen as an int32 scalar; more than any context for 0."""
    steps = jnp.maximum(jnp.floor(jnp.asarray(hp.horizon)), 1.0)
    return jnp.where(hp.horizon > 0, jnp.minimum(steps, _ALL), _ALL).astype(jnp.int32)


def observe_action(carry: Carry, ts: types.TimeStep, action: Array) -> Carry:
    """Returns the carry as if ``act`` had chosen ``action`` at ``ts``; all are [B]."""
    return carry._replace(action=tree.where(_ends(ts), carry.action, action))


def empty_carry(
    spec: types.EnvSpec, network: transformer.Transformer, encoding: str, batch: int
) -> Carry:
    """Returns the carry of ``batch`` slots that have chosen nothing yet."""
    action = types.action_shape(spec.action)
    before = spec.obs if encoding == "set" else {}
    return Carry(
        obs={k: jnp.zeros((batch, *x.shape), x.dtype) for k, x in before.items()},
        cache=network.initial_cache(batch),
        action=jnp.zeros((batch, *action.shape), action.dtype),
        reward=jnp.zeros(batch),
        done=jnp.zeros(batch, bool),
        has_prev=jnp.zeros(batch, bool),
    )


def remember(carry: Carry, cache: Tree, ts: types.TimeStep, action: Array) -> Carry:
    """Returns the carry after ``action``, which counts where no episode ends."""
    ends = _ends(ts)
    return Carry(
        obs=tree.where(ends, carry.obs, {name: ts.obs[name] for name in carry.obs}),
        cache=cache,
        action=tree.where(ends, carry.action, action),
        reward=jnp.where(ends, ts.reward, 0.0),
        done=ends,
        has_prev=carry.has_prev | ~ends,
    )


def _target(rollout: types.Rollout, target: str) -> Array:
    """Returns the actions [T, B] to imitate."""
    if target == "taken":
        return rollout.action
    best = getattr(rollout.extras, "optimal", None)
    if best is None:
        raise ValueError(
            "target: 'optimal', but nothing says what was; give a dataset that was "
            "collected with labels: true, or target 'taken'"
        )
    return best


def _live(rollout: types.Rollout) -> Array:
    """Returns where an action [T, B] is a learner's choice; a dataset says which exist."""
    exists = getattr(rollout.extras, "live", True)
    return ~_ends(jax.tree.map(lambda x: x[:-1], rollout.ts)) & exists


def _ends(ts: types.TimeStep) -> Array:
    """Returns where an action is ignored. A step that is first too is one to act in."""
    return ts.last & ~ts.first


def _before(x: Array) -> Array:
    """Returns what was one row earlier; zeros before the first."""
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])


INFO = types.AgentInfo(
    "in-context learning from histories (Laskin et al. 2023)",
    learns_across_episodes=True,
    observe_action=observe_action,
    actions=(types.Discrete, types.Factorised),
)
