"""UNREAL: auxiliary tasks from a small replay beside the V-trace learner.

    L = L_A2C + control_cost · L_control + reward_cost · L_reward + replay_cost · L_value

control: n-step Q-learning of how to change each cell of what is seen, by a dueling head
on the core; reward: which sign the next reward has, from the torso's features of three
frames (those of an episode before are 0), drawn as often before a reward as before none
in every task; value: the returns of replayed windows, for the value head. Each cost is
traced: PBT may set it, 0 is off.

The replay is of the newest steps of each slot and stays with its member. Windows begin
with an empty memory; what crosses an episode's end is masked.

Ref: Jaderberg et al. 2017, "Reinforcement Learning with Unsupervised Auxiliary Tasks"
(arXiv:1611.05397).

Deviations: the base is V-trace, not A3C; losses are means over windows and steps (control
a sum over cells, as there); several snippets an update instead of one; no ReLU after the
deconvolutions, which would clip Q; a vector's cells are its numbers.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import types
from mtrl_jax.agents.common import (
    learning,
    objective,
    optimiser,
    unrolls,
    value_scale,
    vtrace,
)
from mtrl_jax.data import replay, replay_ring, skewed_replay
from mtrl_jax.hparams import Amount, Share
from mtrl_jax.losses import auxiliary_control, policy_gradient, rewards
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.networks import auxiliary_heads, network_module, torsos
from mtrl_jax.types import Array, Tree

FRAMES = 3  # that a reward is predicted from

INFO = types.AgentInfo(
    "auxiliary control, reward prediction and value replay (Jaderberg et al. 2017)",
    needs_extras=True,
    observe_action=unrolls.observe_action,
    actions=(types.Discrete,),
    learns=("observation", "action", "both", "masked", "memory"),
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What makes another program."""

    network: networks.NetworkConfig = dataclasses.field(
        default_factory=networks.NetworkConfig
    )
    cell: int = 4  # pixels a side, or numbers of a vector
    capacity: int = 64_000  # steps of a member's slots; the paper keeps 2,000 of each
    windows: int = 16  # for control and value, drawn an update
    steps: int = 20  # transitions of a window
    snippets: int = 16  # for rewards
    optimiser: str = "rmsprop"  # see agents/common/optimiser.py
    rewards: str = "none"  # see losses/rewards.py
    value_scale: str = "none"  # see agents/common/value_scale.py
    value_statistics: str = "mean"  # see losses/popart.py, MODES
    value_debias: bool = False  # of the initial statistics


class Auxiliaries(NamedTuple):
    """What the auxiliary losses weigh, and the discount of control."""

    control_cost: Amount = 0.01
    reward_cost: Amount = 1.0
    replay_cost: Amount = 1.0
    control_discount: Share = 0.9


class Hparams(NamedTuple):
    """What PBT may perturb; every leaf is traced."""

    auxiliaries: Auxiliaries = Auxiliaries()
    optimiser: optimiser.Hparams = vtrace.OPTIMISER
    costs: objective.Costs = objective.Costs()
    returns: unrolls.Returns = unrolls.Returns()
    vtrace: vtrace.Hparams = vtrace.Hparams()
    scale: value_scale.Hparams = value_scale.Hparams()
    temperature: Amount = 1.0  # of acting; 0 is greedy


class Batch(NamedTuple):
    """What an update is given."""

    rollout: types.Rollout
    windows: replay_ring.Row  # [steps + 2, N, ...]; the first row tells what led here
    is_window: Array  # [N] bool
    snippets: replay_ring.Row  # [FRAMES + 2, M, ...], likewise; the last has the reward
    is_snippet: Array  # [M] bool


def make(spec: types.EnvSpec, config: Config = Config()) -> types.Agent:
    """Returns the UNREAL agent for environments of ``spec``.

    Metrics: those of ``impala``, and ``control_loss, reward_loss, replay_loss``.

    Raises:
      ValueError: an unknown option, a size below 1, actions that are not discrete; at
        trace time, a capacity below a window and an unroll.
    """
    _check(spec, config)
    scale = value_scale.make(config, len(spec.tasks))
    network = networks.make(spec, config.network, num_values=scale.num_values)
    control, reward = _heads(spec, config)
    loss = make_loss(spec, config, network, scale)

    def optimise(hp):
        return optimiser.make(config.optimiser, hp.optimiser)

    def init(key, hp):
        params = network.init(key)
        # No keys of the network's own, whose parts are named.
        control_key, reward_key = jax.random.split(jax.random.fold_in(key, 1))
        core = params["policy"]["kernel"].shape[0]
        torso = _torso_size(spec, config, params)
        params["auxiliaries"] = {
            "control": control.init(control_key, jnp.zeros((1, core)))["params"],
            "reward": reward.init(reward_key, jnp.zeros((1, FRAMES * torso)))["params"],
        }
        return learning.init(params, optimise(hp), scale.init())

    def carry(batch):
        return unrolls.initial_carry(network, spec.action, batch)

    def act(learner, carry, ts, key, hp):
        def value_of(value):
            return scale.value(learner.stats, value, ts.task, hp.scale)

        return unrolls.act(
            network, learner.params, carry, ts, key, hp.temperature, value_of
        )

    def update(learner, batch, key, hp, step):
        del step
        learner, metrics = learning.update(
            loss, optimise(hp), learner, batch, key, hp, preserve=scale.preserve
        )
        return learner, metrics, ()

    return types.Agent(init, carry, act, update, make_replay(spec, config))


def make_replay(spec: types.EnvSpec, config: Config) -> types.Replay:
    """Returns the replay of one member; it draws a Batch."""
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
        valid = skewed_replay.ends(rows.first, ring, 2, before=FRAMES)
        weights = skewed_replay.weights(valid, rows.reward, rows.task, len(spec.tasks))
        end, slot, live = skewed_replay.draw(snippet_key, weights, config.snippets)
        snippets = replay_ring.read(
            rows, shapes, length, end[None], slot[None], FRAMES + 2
        )
        windows, snippets = jax.tree.map(lambda x: x[0], (drawn.rows, snippets))
        return memory, Batch(rollout, windows, drawn.live[0], snippets, live)

    return types.Replay(stored.init, observe)


def make_loss(
    spec: types.EnvSpec,
    config: Config,
    network: networks.Network,
    scale: value_scale.Scale,
) -> learning.Loss:
    """Returns the loss of one Batch."""
    transform = rewards.get(config.rewards)
    control, reward = _heads(spec, config)

    def loss(params, stats, batch, key, hp):
        del key
        rollout = batch.rollout
        out = unrolls.outputs(network, params, rollout)

        def value_of(value):
            return scale.value(stats, value, rollout.ts.task, hp.scale)

        terms, metrics, new = vtrace.terms(
            unrolls.evaluate(network, out, rollout, value_of),
            rollout.extras.log_prob,
            unrolls.arrivals(rollout, transform, hp.returns),
            hp.vtrace,
            task=rollout.ts.task[:-1],
            scale=scale,
            stats=stats,
            of_scale=hp.scale,
        )
        costs = hp.auxiliaries
        controlled, regressed = of_windows(params, stats, new, batch, hp)
        more = {
            "control_loss": objective.Weighted(costs.control_cost, controlled),
            "reward_loss": objective.Weighted(
                costs.reward_cost, guessed(params, batch)
            ),
            "replay_loss": objective.Weighted(costs.replay_cost, regressed),
        }
        total, parts = objective.total(terms, hp.costs, more)
        return total, learning.Aux(metrics | parts, new)

    def of_windows(params, stats, new, batch, hp):
        """Returns (control's loss, value replay's): means over transitions."""
        ts, previous = time_steps(batch.windows)
        action = batch.windows.action[1:-1]
        empty = network.initial_state(len(batch.is_window))
        out, _ = network.unroll(params, empty, ts, previous)
        live = ~ts.first[1:] & batch.is_window[None]
        found: Any = control.apply(
            {"params": params["auxiliaries"]["control"]}, out.features
        )
        value, advantage = found
        q = auxiliary_control.dueling(value, advantage, ts.action_mask)
        changes = jax.vmap(
            lambda x: auxiliary_control.cell_changes(x, config.cell), 1, 1
        )(seen(ts.obs))
        errors = jax.vmap(
            auxiliary_control.control_errors, (1, 1, 1, 1, 1, 1, None), 1
        )(
            q, action, ts.action_mask, changes, ts.discount[1:], ts.first[1:],
            hp.auxiliaries.control_discount,
        )  # fmt: skip
        errors = jnp.where(_own_cells(spec, config)[ts.task[:-1]], errors, 0.0)
        controlled = jnp.sum(0.5 * jnp.square(errors), axis=-1)

        task = ts.task[:-1]
        known = scale.value(stats, out.value, ts.task, hp.scale)
        r_t = transform(ts.reward[1:] * hp.returns.reward_scale)
        d_t = ts.discount[1:] * hp.returns.discount
        returns = jax.vmap(policy_gradient.gae, 1, 1)(
            *jax.lax.stop_gradient((known[:-1], known[1:], r_t, d_t)), ts.first[1:]
        )
        target = scale.divided(new, returns.value, task, hp.scale)
        predicted = scale.predicted(stats, new, known[:-1], task, hp.scale)
        regressed = 0.5 * jnp.square(target - predicted)
        return tuple(
            policy_gradient.masked_mean(x, live) for x in (controlled, regressed)
        )

    def guessed(params, batch):
        """Returns the mean cross-entropy of the sign of rewards after three frames."""
        ts, previous = time_steps(batch.snippets)
        frames = torso_features(spec, config, params, ts, previous)[:FRAMES]
        # What was seen in another episode is nothing.
        later = jnp.flip(jnp.cumsum(jnp.flip(ts.first[1:], 0), axis=0), 0)
        frames = jnp.where((later == 0)[..., None], frames, 0.0)
        frames = jnp.moveaxis(frames, 0, 1).reshape(frames.shape[1], -1)
        logits = reward.apply({"params": params["auxiliaries"]["reward"]}, frames)
        sign = auxiliary_heads.signs(batch.snippets.reward[-1])
        nats = optax.losses.softmax_cross_entropy_with_integer_labels(logits, sign)
        return policy_gradient.masked_mean(nats, batch.is_snippet)

    return loss


def time_steps(rows: replay_ring.Row) -> tuple[types.TimeStep, Array]:
    """Returns (TimeStep ``[S, N]``, the action before each) of rows ``[S + 1, N, ...]``.

    The first row only tells what led to the second.
    """
    previous, rows = rows.action[:-1], jax.tree.map(lambda x: x[1:], rows)
    ts = types.TimeStep(
        rows.obs,
        rows.reward,
        rows.discount,
        rows.first,
        jnp.zeros_like(rows.first),
        rows.task,
        rows.action_mask,
    )
    return ts, previous


def torso_features(
    spec: types.EnvSpec,
    config: Config,
    params: Tree,
    ts: types.TimeStep,
    previous: Array,
) -> Array:
    """Returns what the torso says of each step, before the core, ``[T, B, F]``."""
    net = config.network
    side = network_module.side_inputs(net, spec.action, len(spec.tasks), ts, previous)
    torso = network_module.torso_of(
        torsos.resolved(net, spec.obs), "torso", len(spec.tasks)
    )
    features: Any = torso.apply({"params": params["torso"]}, ts.obs, side, ts.task)
    return features


def seen(obs: Tree) -> Array:
    """Returns the image of an observation, scaled to [0, 1]; the vector without one."""
    if "image" in obs:
        return torsos.scale_image(obs["image"])
    return obs["vector"].astype(jnp.float32)


def _own_cells(spec: types.EnvSpec, config: Config) -> Array:
    """Returns bool [tasks, cells]: which cells a task shows anything in.

    A task's observation lies in the corner of the padded one.
    """
    leaf = "image" if "image" in spec.obs else "vector"
    rows = []
    for task in spec.tasks:
        own = task.obs.get(leaf)
        full = jnp.zeros((2, *spec.obs[leaf].shape))
        if own is not None:
            corner = tuple(slice(0, n) for n in own.shape)
            full = full.at[(1, *corner)].set(1.0)
        rows.append(auxiliary_control.cell_changes(full, config.cell)[0] > 0)
    return jnp.stack(rows)


def _heads(
    spec: types.EnvSpec, config: Config
) -> tuple[auxiliary_heads.Control, auxiliary_heads.Reward]:
    shape = spec.obs["image" if "image" in spec.obs else "vector"].shape
    cells = auxiliary_heads.cells_of(shape, config.cell)
    assert isinstance(spec.action, types.Discrete)
    return auxiliary_heads.Control(cells, spec.action.n), auxiliary_heads.Reward()


def _torso_size(spec: types.EnvSpec, config: Config, params: Tree) -> int:
    shape = jax.eval_shape(
        lambda params: torso_features(
            spec, config, params, *network_module.dummy(spec)
        ),
        params,
    )
    return shape.shape[-1]


def _check(spec: types.EnvSpec, config: Config) -> None:
    """Raises ValueError unless there are cells, discrete actions and positive sizes."""
    optimiser.check(config.optimiser)
    for name in ("cell", "capacity", "windows", "steps", "snippets"):
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
