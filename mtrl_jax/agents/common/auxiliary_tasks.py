"""UNREAL's auxiliary losses: control, reward prediction, value replay.

    control   n-step Q-learning of how to change each cell, by a dueling head on the core
    features  the same of how to activate each unit of the torso's last layer (optional)
    reward    the sign of the reward after three frames, from the torso's features
    value     the returns of replayed windows, for the value head

All on what a replay drew; windows begin with an empty memory, and what crosses an
episode's end is masked. Each is a mean over windows and steps, with a traced cost.

Of features the pseudo-reward c_t = h_k(s_t) is unit k's activation on arrival, by the
parameters of this update and without a gradient; a torso's last layer is what the core
reads, inputs that join it as they are (last action, reward, task) are no units.

Ref: Jaderberg et al. 2017 (arXiv:1611.05397), section 3.

Deviation: the paper leaves the hidden layer open; activations, not their changes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtrl_jax import types
from mtrl_jax.agents.common import objective, unrolls, value_scale
from mtrl_jax.data import frame_stacks, replay_ring
from mtrl_jax.hparams import Amount, Share
from mtrl_jax.losses import auxiliary_control, policy_gradient
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.networks import auxiliary_heads, network_module, torsos
from mtrl_jax.types import Array, Key, Tree

FRAMES = 3  # that a reward is predicted from


class Hparams(NamedTuple):
    """What the auxiliary losses weigh, and the discount of control."""

    control_cost: Amount = 0.01
    reward_cost: Amount = 0.05  # the paper's 1, beside sums over 20 steps
    replay_cost: Amount = 1.0
    feature_cost: Amount = 0.0  # of control of features, where there is such a head
    control_discount: Share = 0.9


def idle(config: Any) -> dict[str, types.Idle]:
    """Returns the hyperparameters that an agent's ``config`` leaves unread."""
    if config.feature_control:
        return {}
    return {"feature_cost": types.Idle(0.0, "feature_control=true")}


class Batch(NamedTuple):
    """What an update is given."""

    rollout: types.Rollout
    windows: replay_ring.Row  # [steps + 2, N, ...]; the first row tells what led here
    is_window: Array  # [N] bool
    snippets: replay_ring.Row  # [FRAMES + 2, M, ...], likewise; the last has the reward
    is_snippet: Array  # [M] bool


class Window(NamedTuple):
    """Replayed windows as the network sees them, S transitions."""

    ts: types.TimeStep  # [S + 1, N]
    previous: Array  # [S + 1, N] the action before each
    out: networks.PolicyValue  # [S + 1, N]
    action: Array  # [S, N]
    live: Array  # [S, N] bool


@dataclasses.dataclass(frozen=True)
class AuxiliaryTasks:
    """The heads beside a network, and their losses; made once for an agent."""

    spec: types.EnvSpec
    network: networks.Network
    config: networks.NetworkConfig  # of the network
    cell: int  # pixels a side, or numbers of a vector
    scale: value_scale.Scale
    transform: Callable[[Array], Array]  # of rewards
    of_features: bool = False  # control of features too
    frames: int = 1  # that the image stacks; the newest one is controlled

    def __post_init__(self):
        """Raises ValueError unless the image holds a cell and is such a stack."""
        if self.frames > 1:
            frame_stacks.check(self.spec, self.frames)
        auxiliary_heads.cells_of(self.spec.obs[self._leaf].shape, self.cell)

    def init(self, key: Key, params: Tree) -> Tree:
        """Returns the heads' parameters beside a network's ``params``."""
        keys = jax.random.split(key, 2 + self.of_features)
        core = jnp.zeros((1, params["policy"]["kernel"].shape[0]))
        torso = jax.eval_shape(
            lambda params: self._torso(params, *network_module.dummy(self.spec)), params
        ).shape[-1]
        frames = jnp.zeros((1, FRAMES * torso))
        made = {
            "control": self._control.init(keys[0], core),
            "reward": auxiliary_heads.Reward().init(keys[1], frames),
        }
        if self.of_features:
            made["features"] = self._control_of(self._units_of(torso)).init(
                keys[2], core
            )
        return {name: x["params"] for name, x in made.items()}

    def losses(
        self, params: Tree, before: Tree, after: Tree, batch: Batch, hp: Any
    ) -> dict[str, objective.Weighted]:
        """Returns the losses by name, ``before`` and ``after`` the scale's statistics
        around the rollout.

        ``hp`` has the groups ``auxiliaries, returns`` and ``scale``.
        """
        window, costs = self._window(params, batch), hp.auxiliaries
        discount, live = costs.control_discount, window.live
        control = self._control_errors(params, window, discount)
        value = self._value_errors(before, after, window, hp)
        mean = policy_gradient.masked_mean
        found = {
            "control_loss": (costs.control_cost, mean(control, live)),
            "reward_loss": (costs.reward_cost, self._reward_loss(params, batch)),
            "replay_loss": (costs.replay_cost, mean(value, live)),
        }
        if self.of_features:
            features = self._feature_errors(params, window, discount)
            found["feature_loss"] = costs.feature_cost, mean(features, live)
        return {name: objective.Weighted(*x) for name, x in found.items()}

    def _window(self, params: Tree, batch: Batch) -> Window:
        ts, previous = time_steps(batch.windows)
        empty = self.network.initial_state(len(batch.is_window))
        out, _ = self.network.unroll(params, empty, ts, previous)
        live = ~ts.first[1:] & batch.is_window[None]
        return Window(ts, previous, out, batch.windows.action[1:-1], live)

    def _control_errors(self, params: Tree, window: Window, discount: Array) -> Array:
        """Returns ½ Σ over the task's cells of the squared n-step errors, ``[S, N]``."""
        changes, is_own = self.changes(window.ts)
        own = params["auxiliaries"]["control"]
        errors = _n_step_errors(self._control, own, window, changes, discount)
        errors = jnp.where(is_own, errors, 0.0)
        return jnp.sum(0.5 * jnp.square(errors), axis=-1)

    def changes(self, ts: types.TimeStep) -> tuple[Array, Array]:
        """Returns (changes, which are the task's own), ``[S, N, U]``, of ``[S + 1, N]``.

        A change is the mean over what the task shows of a cell, and not over padding.
        """
        x = seen(ts.obs, self.frames)
        padded = jax.vmap(auxiliary_control.cell_changes, (1, None), 1)(x, self.cell)
        share = self._own_shares[ts.task[:-1]]
        return padded / jnp.where(share > 0, share, 1.0), share > 0

    def _feature_errors(self, params: Tree, window: Window, discount: Array) -> Array:
        """Returns ½ Σ over the torso's units of the squared n-step errors, ``[S, N]``."""
        features = self._torso(params, window.ts, window.previous)
        units = features[..., : self._units_of(features.shape[-1])]
        head, own = self._control_of(units.shape[-1]), params["auxiliaries"]["features"]
        errors = _n_step_errors(head, own, window, units[1:], discount)
        return jnp.sum(0.5 * jnp.square(errors), axis=-1)

    def _value_errors(
        self, before: Tree, after: Tree, window: Window, hp: Any
    ) -> Array:
        """Returns ½ (return − value)² in units of the scale, ``[S, N]``."""
        ts, task, of_scale = window.ts, window.ts.task[:-1], hp.scale
        known = self.scale.value(before, window.out.value, ts.task, of_scale)
        arrived = unrolls.arrived_at(ts, self.transform, hp.returns)
        n_step = functools.partial(policy_gradient.gae, lambda_=1.0)
        returns = jax.vmap(n_step, 1, 1)(
            *jax.lax.stop_gradient((known[:-1], known[1:], *arrived[:2])),
            arrived.first_t,
        )
        target = self.scale.divided(after, returns.value, task, of_scale)
        predicted = self.scale.predicted(before, after, known[:-1], task, of_scale)
        return 0.5 * jnp.square(target - predicted)

    def _reward_loss(self, params: Tree, batch: Batch) -> Array:
        """Returns the mean cross-entropy of the sign of rewards after three frames."""
        ts, previous = time_steps(batch.snippets)
        frames = self._torso(params, ts, previous)[:FRAMES]
        # What was seen in another episode is nothing.
        later = jnp.flip(jnp.cumsum(jnp.flip(ts.first[1:], 0), axis=0), 0)
        frames = jnp.where((later == 0)[..., None], frames, 0.0)
        frames = jnp.moveaxis(frames, 0, 1).reshape(frames.shape[1], -1)
        logits: Any = auxiliary_heads.Reward().apply(
            {"params": params["auxiliaries"]["reward"]}, frames
        )
        sign = auxiliary_heads.signs(batch.snippets.reward[-1])
        nats = optax.losses.softmax_cross_entropy_with_integer_labels(logits, sign)
        return policy_gradient.masked_mean(nats, batch.is_snippet)

    def _torso(self, params: Tree, ts: types.TimeStep, previous: Array) -> Array:
        """Returns what the torso gives of each step, before the core, ``[T, B, F]``."""
        torso = network_module.torso_of(self._resolved, "torso", len(self.spec.tasks))
        side = self._side(ts, previous)
        features: Any = torso.apply({"params": params["torso"]}, ts.obs, side, ts.task)
        return features

    def _side(self, ts: types.TimeStep, previous: Array) -> Array:
        tasks = len(self.spec.tasks)
        return network_module.side_inputs(
            self.config, self.spec.action, tasks, ts, previous
        )

    def _units_of(self, features: int) -> int:
        """Returns how many of so many features of the torso are units of its own."""
        if not torsos.joins_features(self._resolved.torso, self.spec.obs):
            return features
        side = jax.eval_shape(self._side, *network_module.dummy(self.spec))
        return features - side.shape[-1]

    @property
    def _resolved(self) -> networks.NetworkConfig:
        return torsos.resolved(self.config, self.spec.obs)

    @property
    def _control(self) -> auxiliary_heads.Control:
        shape = self.spec.obs[self._leaf].shape
        return self._control_of(*auxiliary_heads.cells_of(shape, self.cell))

    def _control_of(self, *cells: int) -> auxiliary_heads.Control:
        assert isinstance(self.spec.action, types.Discrete)
        return auxiliary_heads.Control(cells, self.spec.action.n)

    @property
    def _own_shares(self) -> Array:
        """The share of each cell that a task shows anything in, [tasks, cells].

        A task's observation lies in the corner of the padded one.
        """
        rows = []
        for task in self.spec.tasks:
            own = task.obs.get(self._leaf)
            full = jnp.zeros((2, *self.spec.obs[self._leaf].shape))
            if own is not None:
                corner = tuple(slice(0, n) for n in own.shape)
                full = full.at[(1, *corner)].set(1.0)
            rows.append(auxiliary_control.cell_changes(full, self.cell)[0])
        return jnp.stack(rows)

    @property
    def _leaf(self) -> str:
        return "image" if "image" in self.spec.obs else "vector"


def _n_step_errors(
    head: auxiliary_heads.Control,
    params: Tree,
    window: Window,
    c_t: Array,
    discount: Array,
) -> Array:
    """Returns the n-step errors ``[S, N, U]`` of a head that controls U numbers.

    ``c_t`` [S, N, U] are their pseudo-rewards of arriving.
    """
    ts = window.ts
    found: Any = head.apply({"params": params}, window.out.features)
    value, advantage = found
    q = auxiliary_control.dueling(value, advantage, ts.action_mask)
    return jax.vmap(auxiliary_control.control_errors, (1, 1, 1, 1, 1, 1, None), 1)(
        q, window.action, ts.action_mask, c_t, ts.discount[1:], ts.first[1:], discount
    )


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


def seen(obs: Tree, frames: int = 1) -> Array:
    """Returns what there is to change: the newest of the ``frames`` that an image stacks,
    scaled to [0, 1]; the vector without an image.

    >>> seen({"image": jnp.array([[[0.0, 1.0]]])}, frames=2).tolist()
    [[[1.0]]]
    """
    if "image" in obs:
        return torsos.scale_image(frame_stacks.newest(obs["image"], frames))
    return obs["vector"].astype(jnp.float32)
