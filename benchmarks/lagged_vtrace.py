"""V-trace's own claim: an agent from outside the package that acts by old parameters.

Slots act by the parameters of ``lag`` updates ago; with ``replayed`` unrolls half of each
batch is drawn from the newest of them. What is done about it is ``correction``, an index
into CORRECTIONS, traced like the lag, so that all are members of one program:

    vtrace      truncated importance weights in the values and in the policy gradient
    one_step    n-step values as they are; the policy gradient weighed by min(1, π/μ)
    epsilon     n-step values as they are; log(π + 1e-6) in the policy gradient
    none        as if the data were the policy's own

Ref: Espeholt et al. 2018 (arXiv:1802.01561), sections 5.2.2 and E.

Deviation: the lag is exact and the same for all slots, not what a queue makes of it.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.agents import impala
from mtrl_jax.agents.common import (
    learning,
    objective,
    optimiser,
    policy_learner,
    unrolls,
    value_scale,
    vtrace,
)
from mtrl_jax.hparams import Amount
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.types import Array, Tree

CORRECTIONS = ("vtrace", "one_step", "epsilon", "none")
_EPSILON = 1e-6

INFO = types.AgentInfo(
    "V-trace on old data (Espeholt et al. 2018)",
    needs_extras=True,
    observe_action=unrolls.observe_action,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program."""

    network: networks.NetworkConfig = dataclasses.field(
        default_factory=networks.NetworkConfig
    )
    optimiser: str = "adam"  # see agents/common/optimiser.py
    lags: int = 50  # updates, the largest lag
    replayed: int = 0  # unrolls of all slots that are kept; 0: nothing is replayed
    steps: int = 20  # of an unroll, where some are kept


class Age(NamedTuple):
    """How old the data are, and what is done about it."""

    lag: Amount = 0.0  # updates
    correction: Amount = 0.0  # of CORRECTIONS


class Hparams(NamedTuple):
    """What may differ between members; every leaf is traced."""

    age: Age = Age()
    optimiser: optimiser.Hparams = vtrace.OPTIMISER
    costs: objective.Costs = objective.Costs()
    returns: unrolls.Returns = unrolls.Returns()
    vtrace: vtrace.Hparams = vtrace.Hparams()
    scale: value_scale.Hparams = value_scale.Hparams()
    temperature: Amount = 1.0  # of acting; 0 is greedy


class Learner(NamedTuple):
    """A learner and the parameters that it had."""

    now: learning.Learner
    past: Tree  # [lags + 1, ...], those after update u in row u % (lags + 1)


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the agent; metrics are those of ``impala``.

    Raises:
      ValueError: an unknown optimiser or network option, a negative number of lags or
        of unrolls; at trace time, unrolls of another length than those kept.
    """
    optimiser.check(config.optimiser)
    for name in ("lags", "replayed"):
        if getattr(config, name) < 0:
            raise ValueError(f"{name}: got {getattr(config, name)}, give 0 or more")
    network = networks.make(spec, config.network)
    base = policy_learner.make(spec, impala.Config())  # no option is on
    rows = config.lags + 1

    def init(key, hp):
        params = network.init(key)
        past = jax.tree.map(lambda x: jnp.repeat(x[None], rows, axis=0), params)
        opt = optimiser.make(config.optimiser, hp.optimiser)
        return Learner(learning.init(params, opt), past)

    def carry(batch):
        return unrolls.initial_carry(network, spec.action, batch)

    def act(learner, carry, ts, key, hp):
        lag = jnp.clip(jnp.round(hp.age.lag), 0, config.lags).astype(jnp.int32)
        row = jnp.maximum(learner.now.updates - lag, 0) % rows
        params = jax.tree.map(lambda x: x[row], learner.past)
        return unrolls.act(network, params, carry, ts, key, hp.temperature)

    def loss(params, stats, rollout, key, hp):
        del key
        out = unrolls.outputs(network, params, rollout)
        now, log_mu = corrected(
            unrolls.evaluate(network, out, rollout),
            rollout.extras.log_prob,
            hp.age.correction,
        )
        rollout = rollout._replace(extras=rollout.extras._replace(log_prob=log_mu))
        terms, metrics, after = vtrace.of_rollout(now, rollout, stats, hp, base)
        total, parts = objective.total(terms, hp.costs)
        return total, learning.Aux(metrics | parts, after)

    def update(learner, rollout, key, hp, step):
        del step
        opt = optimiser.make(config.optimiser, hp.optimiser)
        now, metrics = learning.update(loss, opt, learner.now, rollout, key, hp)
        row = now.updates % rows
        past = jax.tree.map(lambda x, y: x.at[row].set(y), learner.past, now.params)
        return Learner(now, past), metrics, ()

    replay = make_replay(spec, config, carry) if config.replayed else None
    return types.Agent(init, carry, act, update, replay)


def corrected(
    now: unrolls.Evaluated, log_mu: Array, correction: Array
) -> tuple[unrolls.Evaluated, Array]:
    """Returns (what V-trace is given, log μ) so that it makes the ``correction``.

    Where log μ is log π all ratios are 1 and V-trace's values the n-step ones.
    """
    log_pi = now.log_prob
    weight = jax.lax.stop_gradient(jnp.minimum(jnp.exp(log_pi - log_mu), 1.0))
    own = jnp.stack(
        [log_pi, weight * log_pi, jnp.log(jnp.exp(log_pi) + _EPSILON), log_pi]
    )
    others = jax.lax.stop_gradient(own).at[CORRECTIONS.index("vtrace")].set(log_mu)
    chosen = jnp.asarray(jnp.round(correction), jnp.int32)
    return now._replace(log_prob=own[chosen]), others[chosen]


def make_replay(spec: types.EnvSpec, config: Config, carry: Any) -> types.Replay:
    """Returns the memory of the newest unrolls; half of a batch is drawn from it.

    The newest is among what is drawn from.
    """

    def init(slots):
        one = jax.eval_shape(lambda: _rollout(spec, config.steps, slots, carry))
        return jax.tree.map(
            lambda x: jnp.zeros((config.replayed, *x.shape), x.dtype), one
        )

    def observe(memory, rollout, key, hp, step):
        del hp
        length, slots = rollout.action.shape[:2]
        if length != config.steps:
            raise ValueError(
                f"steps: got {config.steps}, unrolls have {length}; give that"
            )
        rollout = rollout._replace(extras=rollout.extras._replace(policy=None))
        memory = jax.tree.map(
            lambda x, y: x.at[step % config.replayed].set(y), memory, rollout
        )
        of_row, of_slot = jax.random.split(key)
        stored = jnp.minimum(step + 1, config.replayed)
        row = jax.random.randint(of_row, (slots,), 0, stored)
        slot = jax.random.randint(of_slot, (slots,), 0, slots)
        in_time = jax.tree.map(
            lambda x, y: jnp.concatenate([x, jnp.moveaxis(y[row, :, slot], 0, 1)], 1),
            rollout._replace(carry=()),
            memory._replace(carry=()),
        )
        begun = jax.tree.map(
            lambda x, y: jnp.concatenate([x, y[row, slot]]), rollout.carry, memory.carry
        )
        return memory, in_time._replace(carry=begun)

    return types.Replay(init, observe)


def _rollout(spec: types.EnvSpec, steps: int, slots: int, carry: Any) -> types.Rollout:
    """Returns a Rollout of zeros."""

    def zeros(dtype: Any, *shape: int) -> Array:
        return jnp.zeros((steps + 1, slots, *shape), dtype)

    of_action = types.action_shape(spec.action)
    action = jnp.zeros((steps, slots, *of_action.shape), of_action.dtype)
    ts = types.TimeStep(
        obs={name: zeros(x.dtype, *x.shape) for name, x in spec.obs.items()},
        reward=zeros(jnp.float32),
        discount=zeros(jnp.float32),
        first=zeros(bool),
        last=zeros(bool),
        task=zeros(jnp.int32),
        action_mask=zeros(bool, types.action_mask_size(spec.action)),
    )
    noted = jnp.zeros((steps, slots))
    return types.Rollout(ts, action, unrolls.Extras(noted, noted), carry(slots))
