"""Progressive networks: a column a task, the earlier ones frozen, on the V-trace learner.

A stage trains the last of ``columns`` columns (networks/lateral_columns.py). It begins with
``init_from`` a stage of one column less, whose columns all are frozen then: nothing
trains them, no optimiser has a state of them, and their bits stay. Their heads are left
behind, so that tasks may have other actions; observations must be of one shape. The
paper's baselines are settings:

    1  columns: 1, from scratch            2  columns: 1, init_from, trains: heads
    3  columns: 1, init_from               4  columns: 2 without init_from (random, frozen)

Ref: Rusu et al. 2016, "Progressive Neural Networks" (arXiv:1606.04671).

Deviations: V-trace instead of A3C. Columns have no memory, as in the paper.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax

from mtrl_jax import types
from mtrl_jax.agents.common import (
    learning,
    minibatches,
    objective,
    optimiser,
    policy_learner,
    unrolls,
    value_scale,
    vtrace,
)
from mtrl_jax.hparams import Amount
from mtrl_jax.networks import heads, lateral_columns, network_module
from mtrl_jax.types import Array, Tree

TRAINS = ("all", "heads")


@dataclasses.dataclass(frozen=True)
class Config(learning.Config, policy_learner.Config):
    """What makes another program."""

    columns: int = 1  # the last learns
    torso: str = "mlp"  # convolutions below, see networks/lateral_columns.py
    hidden: tuple[int, ...] = (64, 64)  # dense layers of each column
    trains: str = "all"  # of the last column: all, heads
    task_embedding: bool = False  # one-hot task as input, of a stage of several


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    optimiser: optimiser.Hparams = vtrace.OPTIMISER
    costs: objective.Costs = objective.Costs()
    returns: unrolls.Returns = unrolls.Returns()
    vtrace: vtrace.Hparams = vtrace.Hparams()
    scale: value_scale.Hparams = value_scale.Hparams()
    temperature: Amount = 1.0  # of acting; 0 is greedy


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the progressive agent for environments of ``spec``.

    Metrics: those of ``impala``.

    Raises:
      ValueError: an unknown option, a size below 1, a Box, or PopArt with columns before,
        whose part of the value its rewriting would not reach.
    """
    _check(spec, config)
    base = policy_learner.make(spec, config)
    module = make_module(spec, config, base.scale)

    def init(key, hp):
        example = inputs(spec, config, network_module.dummy(spec)[0])
        before, params = lateral_columns.init(module, key, config.columns, example)
        frozen = {f"column_{k}": column for k, column in enumerate(before)}
        return base.init(params, hp, frozen)

    def carry(batch):
        del batch
        return ()

    def said(frozen, params, ts):
        """Returns (policy parameters, values) of time steps ``[...]``."""
        columns = [frozen[f"column_{k}"] for k in range(config.columns - 1)]
        x = inputs(spec, config, ts)
        column, _ = lateral_columns.run(module, columns, params, x)
        value = column.value if base.scale.num_values else column.value[..., 0]
        return column.policy, value

    def act(learner, carry, ts, key, hp):
        policy, value = said(learner.frozen, learner.params, ts)
        chosen = heads.policy(spec.action, policy, ts.action_mask, hp.temperature)
        action, log_prob = chosen.sample_and_log_prob(key)
        value = base.value(learner.stats, value, ts.task, hp)
        extras = unrolls.Extras(log_prob, value, policy)
        return action, carry, extras

    def loss_of(frozen: Tree) -> learning.Loss:
        def loss(params, stats, rollout, key, hp):
            del key
            policy, value = said(frozen, params, rollout.ts)
            mask = rollout.ts.action_mask[:-1]
            now = heads.policy(spec.action, policy[:-1], mask)
            terms, metrics, new = vtrace.of_rollout(
                unrolls.Evaluated(
                    now.log_prob(rollout.action),
                    now.entropy(),
                    base.value(stats, value, rollout.ts.task, hp),
                ),
                rollout,
                stats,
                hp,
                base,
            )
            total, parts = objective.total(terms, hp.costs)
            return total, learning.Aux(metrics | parts, new)

        return loss

    def update(learner, rollout, key, hp, step):
        del step
        loss = loss_of(learner.frozen)
        return base.update(loss, minibatches.slots, learner, rollout, key, hp)

    return types.Agent(init, carry, act, update)


def inputs(spec: types.EnvSpec, config: Config, ts: types.TimeStep) -> Tree:
    """Returns what all columns read of time steps ``[...]``."""
    tasks = len(spec.tasks) if config.task_embedding else 0
    side = jax.nn.one_hot(ts.task, tasks)
    return lateral_columns.inputs(
        lateral_columns.CONVOLUTIONS[config.torso], ts.obs, side
    )


def make_module(
    spec: types.EnvSpec, config: Config, scale: value_scale.Scale
) -> lateral_columns.Columns:
    """Returns the network of one column."""
    return lateral_columns.Columns(
        config.hidden,
        heads.policy_params_size(spec.action),
        scale.num_values or 1,
        heads_only=config.trains == "heads",
        convolutions=lateral_columns.CONVOLUTIONS[config.torso],
    )


def inherit(own: learning.Learner, given: learning.Learner) -> learning.Learner:
    """Returns the learner that begins with another's.

    One of as many columns goes on with its parameters and statistics (baselines 2 and 3),
    but for a head of other sizes: a policy of other actions is its own, and values of
    other tasks are, with their statistics. One of a column
    more has all of its columns frozen, and a column and statistics of its own. The
    optimiser begins anew in either: moments of the source's would move layers whose
    gradient is 0, and its count of updates would have annealed the rate.

    Raises:
      ValueError: any other number of columns.
    """
    here, there = (len(learner.frozen) + 1 for learner in (own, given))
    if here - there not in (0, 1):
        raise ValueError(
            f"columns: got {here}, it has {there}; give {there} to go on with it or "
            f"{there + 1} to add one that reads it, a stage each"
        )
    layers = sum(name.startswith("layer_") for name in given.params)
    column = lateral_columns.headless(given.params, layers)
    if here == there + 1:
        last = f"column_{len(given.frozen)}"
        return own._replace(frozen={**given.frozen, last: column})
    heads = {name: x for name, x in own.params.items() if name not in column}
    kept = {
        name: given.params[name]
        for name, x in heads.items()
        if _shapes(x) == _shapes(given.params.get(name))
    }
    stats = given.stats if "value" in kept else own.stats
    params = column | heads | kept
    return own._replace(params=params, frozen=given.frozen, stats=stats)


def _shapes(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: x.shape, tree)


def sensitivities(
    spec: types.EnvSpec, config: Config, learner: learning.Learner, ts: types.TimeStep
) -> Array:
    """Returns the average Fisher sensitivity ``[columns, layers]`` at steps ``[N]``.

    Of a learner of an agent with one categorical choice; see ``networks/lateral_columns``.
    """
    scale = value_scale.make(config, len(spec.tasks))
    columns = [learner.frozen[f"column_{k}"] for k in range(config.columns - 1)]
    x = inputs(spec, config, ts)
    return lateral_columns.sensitivities(
        make_module(spec, config, scale), columns, learner.params, x, ts.action_mask
    )


def _check(spec: types.EnvSpec, config: Config) -> None:
    """Raises ValueError unless options are known, sizes positive, and all can be."""
    if config.columns < 1:
        raise ValueError(f"columns: got {config.columns}, give at least 1")
    if not config.hidden or min(config.hidden) < 1:
        raise ValueError(f"hidden: got {config.hidden}, give positive sizes")
    lateral_columns.check_image(config.torso, spec.obs)
    if config.trains not in TRAINS:
        raise ValueError(
            f"trains: unknown {config.trains!r}; one of {', '.join(TRAINS)}"
        )
    if config.columns > 1 and config.value_scale == "popart":
        raise ValueError(
            "value_scale: 'popart' rewrites one value head, and columns before have a "
            "part of the value here; use 'return_scale'"
        )
    if isinstance(spec.action, types.Box):
        raise ValueError(
            "action: progressive has columns of logits; give tasks with Discrete or "
            f"Factorised actions, not {spec.action}"
        )


INFO = types.AgentInfo(
    "frozen columns beside one that learns (Rusu et al. 2016)",
    needs_extras=True,
    idle=policy_learner.idle,
    actions=(types.Discrete, types.Factorised),
    inherit=inherit,
    learns=("observation", "action", "both", "masked", "both_factorised"),
)
