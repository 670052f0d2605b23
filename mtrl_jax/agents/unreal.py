"""UNREAL: auxiliary tasks from a small replay beside the V-trace learner.

    L = L_A2C + control_cost · L_control + reward_cost · L_reward + replay_cost · L_value
              + feature_cost · L_features, with ``feature_control``

control: n-step Q-learning of how to change each cell of what is seen, by a dueling head
on the core; features: the same of how to activate each unit of the torso; reward: which
sign the next reward has, from the torso's features of three frames (those of an episode
before are 0), drawn as often before a reward as before none in every task; value: the
returns of replayed windows, for the value head. Each cost is traced: PBT may set it, 0 is
off.

The replay is of the newest steps of each slot and stays with its member. Windows begin
with an empty memory; what crosses an episode's end is masked.

Ref: Jaderberg et al. 2017, "Reinforcement Learning with Unsupervised Auxiliary Tasks"
(arXiv:1611.05397).

Deviations: the base is V-trace, not A3C; losses are means over windows and steps (control
a sum over cells or units, as there), so that a reward_cost of 0.05 is its 1; several
snippets an update instead of one; the replay is not filled before training, auxiliaries
learn from the first update that has a window; no ReLU after the deconvolutions, which
would clip Q; a vector's cells are its numbers, an image's all that it divides into
(21 x 21 of 84 x 84 pixels, where the paper takes 20 x 20 of the middle); features are
those in ``control_tasks``.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax

from mtrl_jax import types
from mtrl_jax.agents.common import (
    auxiliary_tasks,
    learning,
    minibatches,
    objective,
    optimiser,
    policy_learner,
    replayed,
    unrolls,
    value_scale,
    vtrace,
)
from mtrl_jax.data import replay, replay_ring, skewed_replay
from mtrl_jax.hparams import Amount
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.networks import network_config

INFO = types.AgentInfo(
    "auxiliary control, reward prediction and value replay (Jaderberg et al. 2017)",
    needs_extras=True,
    idle=lambda config: policy_learner.idle(config) | auxiliary_tasks.idle(config),
    observe_action=unrolls.observe_action,
    capacity="capacity",
    actions=(types.Discrete,),
    learns=("observation", "action", "both", "masked", "memory"),
)


@dataclasses.dataclass(frozen=True)
class Config(auxiliary_tasks.Config, policy_learner.Config, network_config.Config):
    """What makes another program."""

    capacity: int = 64_000  # steps of a member's slots; the paper keeps 2,000 of each
    windows: int = 16  # for control and value, drawn an update
    steps: int = 20  # transitions of a window
    snippets: int = 16  # for rewards


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    auxiliaries: auxiliary_tasks.Hparams = auxiliary_tasks.Hparams()
    optimiser: optimiser.Hparams = vtrace.OPTIMISER
    costs: objective.Costs = objective.Costs()
    returns: unrolls.Returns = unrolls.Returns()
    vtrace: vtrace.Hparams = vtrace.Hparams()
    scale: value_scale.Hparams = value_scale.Hparams()
    temperature: Amount = 1.0  # of acting; 0 is greedy


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the UNREAL agent for environments of ``spec``.

    Metrics: those of ``impala``, and ``control_loss, reward_loss, replay_loss``,
    ``feature_loss`` with ``feature_control``.

    Raises:
      ValueError: an unknown option, a size below 1, actions that are not discrete; at
        trace time, a capacity below a window and an unroll.
    """
    _check(spec, config)
    base = policy_learner.make(spec, config)
    network = networks.make(spec, config.network, num_values=base.scale.num_values)
    tasks = auxiliary_tasks.make(spec, config, base)

    def init(key, hp):
        params = objective.add_heads(network.init(key), tasks, key)
        return base.init(params, hp)

    def carry(batch):
        return unrolls.initial_carry(network, spec.action, batch)

    def act(learner, carry, ts, key, hp):
        def value_of(value):
            return base.value(learner.stats, value, ts.task, hp)

        return unrolls.act(
            network, learner.params, carry, ts, key, hp.temperature, value_of
        )

    def loss(params, stats, batch, key, hp):
        del key
        rollout = batch.rollout
        out = unrolls.outputs(network, params, rollout)

        def value_of(value):
            return base.value(stats, value, rollout.ts.task, hp)

        now = unrolls.evaluate(network, out, rollout, value_of)
        terms, metrics, after = vtrace.of_rollout(now, rollout, stats, hp, base)
        seen = replayed.see(network, params, stats, after, batch)
        more = objective.auxiliary_losses(tasks, params, seen, hp)
        total, parts = objective.total(terms, hp.costs, more)
        return total, learning.Aux(metrics | parts, after)

    def update(learner, batch, key, hp, step):
        del step
        rows = minibatches.whole(batch)
        return *base.learn(loss, rows, learner, key, hp), ()

    return types.Agent(init, carry, act, update, make_replay(spec, config))


def make_replay(spec: types.EnvSpec, config: Config) -> types.Replay:
    """Returns the replay of one member; it draws a ``replayed.Batch``."""
    of_windows = replay.Config(
        capacity=config.capacity,
        batch=config.windows,
        steps=config.steps + 2,
        transitions=False,
    )
    stored = replay.make(spec, of_windows)
    shapes = replay_ring.row_shapes(spec)

    def observe(memory, rollout, key, hp, step):
        window_key, snippet_key = jax.random.split(key)
        memory, drawn = stored.observe(memory, rollout, window_key, hp, step)
        unroll, rows = rollout.ts.reward.shape[0] - 1, memory.rows
        length = replay_ring.usable(rows.first.shape[0], unroll)
        ring = replay_ring.written(length, unroll, step)
        valid = skewed_replay.ends(rows.first, ring, 2, before=replayed.FRAMES)
        weights = skewed_replay.weights(valid, rows.reward, rows.task, len(spec.tasks))
        end, slot, live = skewed_replay.draw(snippet_key, weights, config.snippets)
        snippets = replay_ring.read(
            rows, shapes, length, end[None], slot[None], replayed.FRAMES + 2
        )
        windows, snippets = jax.tree.map(lambda x: x[0], (drawn.rows, snippets))
        return memory, replayed.Batch(rollout, windows, drawn.live[0], snippets, live)

    return types.Replay(stored.init, observe)


def _check(spec: types.EnvSpec, config: Config) -> None:
    """Raises ValueError unless there are cells, discrete actions and positive sizes."""
    for name in ("cell", "frames", "capacity", "windows", "steps", "snippets"):
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: got {getattr(config, name)}, give at least 1")
    if not isinstance(spec.action, types.Discrete):
        raise ValueError(
            "action: unreal learns a value of each action; give tasks with Discrete "
            f"actions, not {spec.action}"
        )
    if config.network.separate_value:
        raise ValueError(
            "network.separate_value: the auxiliaries train what policy and value have "
            "in common; leave it out"
        )
