"""What a sequence policy is set to, and what of it does not go together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from mtrl_jax import hparams, types
from mtrl_jax.agents.common import optimiser, planning
from mtrl_jax.data.columns import Columns
from mtrl_jax.hparams import Amount, Limit, Real, Share
from mtrl_jax.networks.transformers import outlook, transformer
from mtrl_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program."""

    transformer: transformer.TransformerConfig = dataclasses.field(
        default_factory=transformer.TransformerConfig
    )
    rewards: str = (
        "none"  # how r_{t-1} is read, see losses/rewards.py; R_t is of raw ones
    )
    outlook: outlook.Outlook = dataclasses.field(
        default_factory=lambda: outlook.Outlook(bins=21)
    )
    infers: bool = False  # returns may be inferred: acting reads every step twice
    permutes: bool = False  # actions may be permuted
    planning: planning.Planning = dataclasses.field(default_factory=planning.Planning)


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    optimiser: optimiser.AdamwHparams = optimiser.AdamwHparams()
    label_smoothing: Share = 0.0  # share of the target that is uniform
    temperature: Amount = 1.0  # of acting; 0 is greedy
    horizon: Limit = 0.0  # steps that are seen, whole ones; 0: all of the context
    across: Share = 0.0  # below 1: steps see their own episode alone
    reward_gate: Share = 1.0  # of r_{t-1}
    return_gate: Share = 1.0  # of R_t; 0: nothing is known of it
    target: Real = 0.0  # return to ask for
    inferred: Share = 0.0  # share of the steps whose return is inferred
    kappa: Amount = 10.0  # of that; 0: as the data are
    prompt_share: Share = 0.0  # of the sequences, where there are prompts
    rank_from: Share = 0.0  # episodes ranked higher teach actions; 0: all
    action_cost: Amount = 1.0
    return_cost: Amount = 0.0
    reward_cost: Amount = 0.0
    next_cost: Amount = 0.0
    td_cost: Amount = 0.0
    cql_cost: Amount = 0.0
    expectile_cost: Amount = 0.0  # above 0: V takes the place of the max
    expectile: Share = 0.7  # of V; 0.5: the mean of the data's actions
    advantage_cost: Amount = 0.0  # of imitation weighed by Q̄ - V: with V learned alone
    advantage_beta: Amount = 3.0  # of that; 0: all actions weigh the same
    discount: Share = 0.9
    beyond: Share = 0.0  # m at the end of an episode: 1, the next ones count, too
    target_step: Share = 0.005  # of Q̄, each update
    by_value: Share = 0.0  # of Q in the logits of acting; 1: of nothing else
    ngram_gate: Share = 1.0  # of the n-gram head, where there is one
    step_gate: Share = 1.0  # of the step of the episode, where it is read
    permuted: Share = 0.0  # of the sequences, or slots: actions by other numbers
    planned: Share = 0.0  # of the steps: the first action of the best plan


def check(name: str, spec: types.EnvSpec, config: Config) -> None:
    """Raises ValueError unless actions are choices and the outlook has what is asked."""
    if isinstance(spec.action, types.Box):
        raise ValueError(
            f"action: {name} says which choice, and cannot act in {spec.action}; give "
            "tasks with Discrete or Factorised actions"
        )
    if config.infers and not config.outlook.bins:
        raise ValueError(
            "infers: True, but outlook.bins=0 leaves no return to infer; use False, or 2 "
            "bins or more"
        )
    ranges, tasks = config.outlook.ranges, spec.tasks
    if ranges and len(ranges) != len(tasks):
        raise ValueError(
            f"outlook.ranges: {len(ranges)} for {len(tasks)} tasks "
            f"({', '.join(task.name for task in tasks)}); give [low, high] of each, in this "
            "order, or none"
        )
    planning.check(config.planning, spec, config.outlook)
    if config.planning.beam and config.permutes:
        raise ValueError(
            f"planning.beam: {config.planning.beam} with permutes: True: plans are of "
            "actions by their own numbers; leave one of them out"
        )
    if config.outlook.values and not isinstance(spec.action, types.Discrete):
        raise ValueError(
            f"outlook.values: True, but of {spec.action} not every action has a value; "
            "use False, or tasks with Discrete actions"
        )


def check_prompt(config: Config, hp: Any, steps: int) -> None:
    """Raises ValueError unless who forgets all but the prompt remembers that."""
    context = config.transformer.context
    if steps > context and np.any(np.asarray(hp.across) < 1):
        raise ValueError(
            f"the context of {context} steps is over before a prompt and an episode are, "
            f"{steps} together; give a shorter prompt, or train with "
            f"agent.config.transformer.context={steps}"
        )


def check_columns(config: Config, columns: Columns, task: Array) -> None:
    """Raises ValueError unless most returns lie in the range that they are counted on.

    Those beyond it are as if at its end, which of a few may be meant.
    """
    given = config.outlook
    if not given.bins:
        return
    known, returns = np.asarray(columns.complete, bool), columns.return_to_go
    tasks = jnp.broadcast_to(jnp.asarray(task)[:, None], known.shape)
    scaled = np.asarray(outlook.scaled(given, jnp.asarray(returns), tasks))
    slack = 1e-5 * (given.high - given.low)  # of rounding, at the ends
    beyond = known & ((scaled < given.low - slack) | (scaled > given.high + slack))
    share = float(np.mean(beyond[known])) if known.any() else 0.0
    if share > 0.5:
        own = np.asarray(returns)[known]
        raise ValueError(
            f"outlook: {share:.0%} of the returns to come are not "
            f"from low={given.low:g} to high={given.high:g} (or in ranges), they reach "
            f"from {own.min():g} to {own.max():g}; give outlook.low and outlook.high, or "
            "ranges"
        )


def limits(config: Config) -> dict[str, types.Extent]:
    """Returns the range of returns in which no two targets are as one."""
    given = config.outlook
    if not given.bins:
        return {}
    if given.ranges:
        lows, highs = zip(*given.ranges)
        return {"target": types.Extent(min(lows), max(highs), "outlook.ranges")}
    of = "outlook.low and outlook.high"
    return {"target": types.Extent(given.low, given.high, of)}


# What a head is used by -> costs, of each group of which one teaches it.
_TAUGHT_BY = {
    "advantage_cost": (("expectile_cost",), ("td_cost", "cql_cost")),
    "by_value": (("td_cost", "cql_cost"),),
    "inferred": (("return_cost",),),
    "planned": (("reward_cost",), ("next_cost",)),
}


def check_hparams(config: Config, given: Mapping[str, float]) -> None:
    """Raises ValueError unless a cost of the loss is above 0, and heads in use are taught."""
    own, unread = hparams.names(Hparams), idle(config)
    costs = [name for name in own if name.endswith("_cost")]
    hparams.check_costs(given, [name for name in costs if name not in unread])
    for name, groups in _TAUGHT_BY.items():
        off = name == "inferred" and not given.get("return_gate")  # it reads none
        if name in unread or off or not given.get(name):
            continue
        for group in groups:
            if not any(given.get(cost, 1.0) for cost in group):
                said = " and ".join(f"agent.hparams.{cost}=0" for cost in group)
                raise ValueError(
                    f"agent.hparams.{name}={given[name]:g} with {said}: what it reads is "
                    f"never learned; give agent.hparams.{group[0]}=1, or {name}=0"
                )


# Read where there are values; their defaults are no choice that anybody made.
_OF_VALUES = ("expectile", "advantage_beta", "discount", "beyond", "target_step")


def idle(config: Config) -> dict[str, types.Idle]:
    """Returns the hyperparameters that the program of ``config`` does not read."""
    given = config.outlook
    found = {
        "return_cost": (given.bins, "outlook.bins of 2 or more"),
        "reward_cost": (given.rewards, "outlook.rewards=true"),
        "next_cost": (given.vectors, "outlook.vectors=true"),
        "td_cost": (given.values, "outlook.values=true"),
        "cql_cost": (given.values, "outlook.values=true"),
        "expectile_cost": (given.values, "outlook.values=true"),
        "advantage_cost": (given.values, "outlook.values=true"),
        "by_value": (given.values, "outlook.values=true"),
        **dict.fromkeys(_OF_VALUES, (given.values, "outlook.values=true")),
        "target": (given.bins, "outlook.bins of 2 or more"),
        "inferred": (config.infers, "infers=true"),
        "kappa": (config.infers, "infers=true"),
        "permuted": (config.permutes, "permutes=true"),
        "planned": (config.planning.beam, "planning.beam of 1 or more"),
        "ngram_gate": (config.transformer.ngram, "transformer.ngram of 1 or more"),
        "step_gate": (given.steps, "outlook.steps of 1 or more"),
    }
    # What changes nothing by itself may be given, but not changed.
    started = hparams.flatten(Hparams())
    off = dict.fromkeys(found, 0.0) | {
        name: started[name]
        for name in ("ngram_gate", "step_gate", "kappa", *_OF_VALUES)
    }
    return {
        name: types.Idle(off[name], needs)
        for name, (is_read, needs) in found.items()
        if not is_read
    }
