"""Sequence policies: one transformer, one row, its inputs and losses as traced switches.

    row t    a_{t-1}, r_{t-1}, done_{t-1} | o_t | R_t        a_t is predicted at R_t
    L = c_a CE(a_t) + c_R CE(R_t at o_t) + c_r CE(sgn r_t) + c_o |o_{t+1} - ô|²
        + c_q (r_t + γ m max_a Q̄_{t+1} - Q(a_t))² + c_c (logsumexp Q - Q(a_t)) + c_v L_τ(V)
        + c_w exp(β (Q̄(a_t) - V_t)) CE(a_t)

where V, learned by an expectile (c_v > 0), takes the place of the max (``future``); each
a mean over the live steps it is known of. Members of one population are by their
hyperparameters

    behaviour cloning      return_gate 0, across 0; of the best: rank_from
    Decision Transformer   return_gate 1: R is ``target`` less the rewards so far
    Multi-Game DT          and inferred 1: at every step R ~ P(R | h) exp(κ R)
    Gato                   return_gate 0, reward_gate 0, prompt_share: what a prompt shows
    AD, expert distillation return_gate 0, across 1: of everything before

``across`` 0: a step sees its own episode alone, and the prompt. So do acting (the carry
forgets at an episode's start all but what was watched) and training. The ``horizon`` is
a shorter context, as in Algorithm Distillation; its other settings are the same here.

Returns to go are those of whole histories (data/columns.py). Where an episode's end is not
known, none of its steps teaches a member that is given returns. Of a rollout without such
columns they are summed where the episode ends within it. A prompt (training.prompt_length)
is read by a ``prompt_share`` of the sequences and never predicted. Without a token of
returns, other heads or a prompt the program is Algorithm Distillation's.

With ``planning`` a ``planned`` share of the steps has the first action of the best plan by
the model's own predictions (``planning``), as in-context model-based planning does.

With ``permutes`` a ``permuted`` share of the sequences has its actions under numbers of
its own, in what is read, imitated, valued and legal alike; of acting, a share of the
slots, each for good (``action_names``).

Deviations: the multi-game transformer's returns, rewards and actions are tokens of their
own only with ``encoding: triple``, and there reward and next vector are predicted from the
action's token and the action; Gato's tokens of one step are one token here; its prompts'
actions are not predicted, and of a prompt's last action and reward the window after it
does not know; Decision Transformers read returns in bins and as a number.

Refs: Chen et al. 2021 (arXiv:2106.01345); Lee et al. 2022 (arXiv:2205.15241); Reed et al.
2022 (arXiv:2205.06175); Laskin et al. 2023 (arXiv:2210.14215). In-context Q: Tarasov et
al. 2025 (arXiv:2502.17666), formulas as in ``future``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import tree, types
from mtrl_jax.agents import algorithm_distillation as distillation
from mtrl_jax.agents.common import (
    action_names,
    future,
    learning,
    optimiser,
    planning,
    sequence_settings,
)
from mtrl_jax.data.columns import Columns
from mtrl_jax.losses import rewards
from mtrl_jax.networks import heads
from mtrl_jax.networks.transformers import (
    attention_windows,
    history_tokens,
    outlook,
    transformer,
)
from mtrl_jax.types import Array

Config = sequence_settings.Config
Hparams = sequence_settings.Hparams


class Carry(NamedTuple):
    """What acting remembers of a slot."""

    past: distillation.Carry
    to_go: Array  # [B] what is asked for, less the rewards so far
    watched: Array  # [B] int32, steps of a prompt
    names: Any = ()  # [B, M] int32 of actions, where they may be permuted
    age: Any = ()  # [B] int32, the step of the episode, where it is read


def make(name: str, spec: types.EnvSpec, config: Config) -> types.Agent:
    """Returns the agent called ``name`` for environments of ``spec``.

    ``update`` takes windows of histories, no carry. Metrics, means over the steps that
    teach them: ``loss`` (nats an action, without label smoothing), ``accuracy``,
    ``entropy``, those of ``future``, and ``grad_norm, learning_rate``.

    Raises:
      ValueError: actions that are not categorical, an unknown reward transform or
        transformer option, an outlook that cannot be.
    """
    sequence_settings.check(name, spec, config)
    given, transform = config.outlook, rewards.get(config.rewards)
    network = transformer.make(spec, config.transformer, given)

    def init(key, hp):
        params = network.init(key)
        # Q̄ is no other name of the parameters: both are donated.
        behind = tree.copy(params) if given.values else ()
        return learning.init(params, optimiser.adamw(hp.optimiser), behind)

    def carry(batch):
        return Carry(
            distillation.empty_carry(spec, network, config.transformer.encoding, batch),
            to_go=jnp.zeros(batch),
            watched=jnp.zeros(batch, jnp.int32),
            names=action_names.own(spec.action, batch) if config.permutes else (),
            age=jnp.zeros(batch, jnp.int32) if given.steps else (),
        )

    def act(learner, carry, ts, key, hp):
        draw, own = jax.random.split(key)
        past, steps = carry.past, distillation.step_of(carry.past, ts)
        names, mask = carry.names, ts.action_mask
        if config.permutes:
            new = jax.random.fold_in(draw, 2)
            drawn = action_names.draw(new, spec.action, len(names), hp.permuted)
            names = jnp.where(past.has_prev[:, None], names, drawn)
            before = action_names.renamed(spec.action, names, steps.prev_action)
            steps = steps._replace(prev_action=before)
            mask = action_names.legal(spec.action, names, mask)
        begins = ts.first | past.done
        forgets = begins & (hp.across < 1)
        cache = network.forget(past.cache, forgets, carry.watched)
        to_go = jnp.where(ts.first, hp.target, carry.to_go - ts.reward)
        asked = outlook.scaled(given, to_go, ts.task)
        steps = steps._replace(
            has_prev=steps.has_prev & ~forgets,
            prev_reward=hp.reward_gate * transform(steps.prev_reward),
            return_to_go=asked,
            return_known=jnp.broadcast_to(
                jnp.asarray(hp.return_gate, jnp.float32), to_go.shape
            ),
        )
        age = carry.age
        if given.steps:
            age = jnp.where(ts.first, 0, age + 1)
            steps = counted(steps, age, hp)
        limits = distillation.horizon_of(hp), gate_of(config, hp), carry.watched
        if config.infers:
            out, _ = network.step(learner.params, cache, steps, *limits)
            guess = outlook.sample(given, draw, out.returns, hp.kappa)
            chance = jax.random.uniform(jax.random.fold_in(draw, 1), to_go.shape)
            guessed = jnp.where(chance < hp.inferred, guess, asked)
            steps = steps._replace(return_to_go=guessed)
        plans = config.planning.beam > 0
        out, cache = network.step(learner.params, cache, steps, *limits, outcomes=plans)
        logits = out.action
        if given.values:
            logits = logits + hp.by_value * (out.values - logits)
        policy = heads.policy(spec.action, logits, mask, hp.temperature)
        action, log_prob = policy.sample_and_log_prob(own)
        if plans:
            each = jnp.broadcast_to(jnp.arange(mask.shape[1])[:, None], mask.T.shape)
            likely = jnp.where(mask, jax.vmap(policy.log_prob)(each).T, -jnp.inf)
            best = plan(
                learner.params, cache, steps, carry.watched, out, likely, draw, hp
            )
            chance = jax.random.uniform(jax.random.fold_in(draw, 3), best.shape)
            action = jnp.where(chance < hp.planned, best, action)
            log_prob = policy.log_prob(action)
        if config.permutes:
            action = action_names.restored(spec.action, names, action)
        past = distillation.remember(past, cache, ts, action)
        return action, Carry(past, to_go, carry.watched, names, age), log_prob

    def plan(params, cache, steps, watched, out, log_prob, key, hp):
        kept = jnp.repeat(watched, config.planning.beam)

        def read(memory, steps):
            reward = hp.reward_gate * transform(steps.prev_reward)
            steps = steps._replace(prev_reward=reward)
            limits = distillation.horizon_of(hp), gate_of(config, hp), kept
            return network.step(params, memory, steps, *limits, outcomes=True)

        return planning.first_actions(
            jax.random.fold_in(key, 4),
            read,
            out,
            cache,
            steps,
            log_prob,
            config.planning,
        )

    total = make_loss(spec, config, network)

    def update(learner, rollout, key, hp, step):
        del step
        optimise = optimiser.adamw(hp.optimiser)
        learner, metrics = learning.update(total, optimise, learner, rollout, key, hp)
        return learner, metrics, ()

    return types.Agent(init, carry, act, update)


def make_loss(
    spec: types.EnvSpec, config: Config, network: transformer.Transformer
) -> learning.Loss:
    """Returns the loss of windows; its statistics are Q̄, where there are values."""
    given, transform = config.outlook, rewards.get(config.rewards)

    def total(params, behind, rollout, key, hp):
        shown, dropped = jax.random.fold_in(key, 1), key
        if config.permutes:
            new, batch = jax.random.fold_in(key, 2), rollout.action.shape[1]
            names = action_names.draw(new, spec.action, batch, hp.permuted)
            rollout = action_names.of_rollout(spec.action, names, rollout)
        columns = future.columns_of(rollout)
        steps, teaches = rows_of(rollout, columns, shown, hp)
        to_go = outlook.scaled(given, columns.return_to_go, rollout.ts.task[:-1])
        steps = steps._replace(
            prev_reward=hp.reward_gate * transform(steps.prev_reward),
            return_to_go=to_go,
        )
        if given.steps:
            steps = counted(steps, columns.episode_step, hp)

        def read(params, key, action=None):
            return network.unroll(
                params,
                steps,
                key,
                horizon=distillation.horizon_of(hp),
                alone=jnp.asarray(hp.across < 1),
                action=action,
                gate=gate_of(config, hp),
            )

        leads = given.rewards or given.vectors
        out = read(params, dropped, rollout.action if leads else None)
        mask = rollout.ts.action_mask[:-1]
        policy = heads.policy(spec.action, out.action, mask)
        uniform = heads.policy(spec.action, jnp.zeros(mask.shape), mask)
        imitated = teaches_actions(teaches, columns, hp)
        nats, metrics = distillation.loss(policy, uniform, rollout.action, imitated, hp)
        target = read(behind, None).values if given.values else None
        cut = severed(steps, config.transformer, hp) if given.values else None
        costs, more = future.losses(
            given, out, target, rollout, teaches, columns, hp, cut
        )
        if given.values:
            log_prob = policy.log_prob(rollout.action)
            cost, found = future.weighted_cloning(
                out, target, rollout.action, log_prob, imitated, hp
            )
            costs, more = costs + cost, more | found
            behind = optax.incremental_update(params, behind, hp.target_step)
            behind = jax.lax.stop_gradient(behind)
        loss = hp.action_cost * nats + costs
        return loss, learning.Aux(metrics | more, behind)

    return total


def rows_of(
    rollout: types.Rollout, columns: Columns, key: types.Key, hp: Any
) -> tuple[history_tokens.Steps, Array]:
    """Returns (Steps [T, B], where an action [T, B] is to be predicted).

    Of a prompt a share of the sequences sees the rows; to the others they are padding.
    """
    steps = distillation.steps_of(rollout)._replace(
        return_to_go=columns.return_to_go,
        return_known=hp.return_gate * columns.complete,
    )
    begins = rollout.ts.first[:-1] | steps.prev_done
    prompt = getattr(rollout.extras, "prompt", None)
    exists = jnp.asarray(steps.live)
    if prompt is None:
        return steps._replace(begins=begins), exists
    chance = jax.random.uniform(key, (1, prompt.shape[1]))
    live = exists & (~prompt | (chance < hp.prompt_share))
    # The row before a window is not the prompt's.
    starts = ~prompt & jnp.concatenate([jnp.ones_like(prompt[:1]), prompt[:-1]])
    steps = steps._replace(
        live=live, has_prev=steps.has_prev & ~starts, begins=begins, prompt=prompt
    )
    return steps, live & ~prompt


def counted(steps: history_tokens.Steps, place: Array, hp: Any) -> history_tokens.Steps:
    """Returns the steps with their place in the episode, as far as it is read."""
    known = jnp.broadcast_to(jnp.asarray(hp.step_gate, jnp.float32), place.shape)
    return steps._replace(episode_step=place, step_known=known)


def severed(
    steps: history_tokens.Steps, config: transformer.TransformerConfig, hp: Any
) -> Array:
    """Returns the steps [T, B] that the next does not know for its horizon is over."""
    horizon = transformer.within_context(config, distillation.horizon_of(hp))
    alone = jnp.asarray(hp.across < 1)
    begins = attention_windows.cut(steps, horizon, alone).begins.T
    by_horizon = begins & ~(alone & jnp.asarray(steps.begins))
    return jnp.concatenate([by_horizon[1:], jnp.zeros_like(by_horizon[:1])])


def teaches_actions(teaches: Array, columns: Columns, hp: Any) -> Array:
    """Returns the steps [T, B] whose actions are imitated: see ``Hparams.rank_from``.

    Where returns are given, those whose return is known.
    """
    known = columns.complete | (hp.return_gate <= 0)
    ranked = (columns.return_rank > hp.rank_from) | (hp.rank_from <= 0)
    return teaches & known & ranked


def gate_of(config: Config, hp: Any) -> Array | None:
    """Returns the n-gram head's share, None where there is no such head."""
    return jnp.asarray(hp.ngram_gate) if config.transformer.ngram else None


def observe_action(carry: Carry, ts: types.TimeStep, action: Array) -> Carry:
    """Returns the carry as if ``act`` had chosen ``action`` at ``ts``; all are [B]."""
    return carry._replace(past=distillation.observe_action(carry.past, ts, action))


def keep_prompt(carry: Carry, ts: types.TimeStep) -> Carry:
    """Returns the carry in which the step at ``ts`` [B] is never forgotten."""
    is_step = ~(ts.last & ~ts.first)
    return carry._replace(watched=carry.watched + is_step)


def info(summary: str) -> types.AgentInfo:
    """Returns what is true of every sequence policy, under its own summary."""
    return types.AgentInfo(
        summary,
        learns_across_episodes=True,
        reads_columns=True,
        # Else each share of the best would have a measure of its own.
        measured_with={"rank_from": 0.0},
        observe_action=observe_action,
        keep_prompt=keep_prompt,
        check_prompt=sequence_settings.check_prompt,
        check_columns=sequence_settings.check_columns,
        plans=lambda config: config.planning.beam,
        idle=sequence_settings.idle,
        limits=sequence_settings.limits,
        check_hparams=sequence_settings.check_hparams,
        actions=(types.Discrete, types.Factorised),
    )
