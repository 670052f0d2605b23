"""UNREAL's control: learning to change what is seen, or how the torso sees it.

Each cell of an observation, and each unit of the torso's last layer, is a task of its own
of n-step Q-learning, on replayed windows; what crosses an episode's end is masked.

Of features the pseudo-reward c_t = h_k(s_t) is unit k's activation on arrival, by the
parameters of this update and without a gradient; a torso's last layer is what the core
reads, inputs that join it as they are (last action, reward, task) are no units.

Ref: Jaderberg et al. 2017 (arXiv:1611.05397), section 3.1.

Deviation: the paper leaves the hidden layer open; activations, not their changes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mtrl_jax import types
from mtrl_jax.agents.common import replayed
from mtrl_jax.data import frame_stacks
from mtrl_jax.losses import auxiliary_control, policy_gradient
from mtrl_jax.networks import auxiliary_heads, image_stacks, torso_outputs
from mtrl_jax.types import Array, Tree


@dataclasses.dataclass(frozen=True)
class Cells:
    """The cells of what is seen, and the head that controls them."""

    spec: types.EnvSpec
    cell: int  # pixels a side, or numbers of a vector
    frames: int = 1  # that the image stacks; the newest one is controlled

    @property
    def head(self) -> auxiliary_heads.Control:
        """The head; raises ValueError unless the image holds a cell."""
        shape = self.spec.obs[self._leaf].shape
        return head_of(self.spec, *auxiliary_heads.cells_of(shape, self.cell))

    def changes(self, ts: types.TimeStep) -> tuple[Array, Array]:
        """Returns (changes, which are the task's own), ``[S, N, U]``, of ``[S + 1, N]``.

        A change is the mean over what the task shows of a cell, and not over padding.
        """
        x = shown(ts.obs, self.frames)
        padded = jax.vmap(auxiliary_control.cell_changes, (1, None), 1)(x, self.cell)
        share = self._own_shares[ts.task[:-1]]
        return padded / jnp.where(share > 0, share, 1.0), share > 0

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


def control_loss(cells: Cells, heads: Tree, seen: replayed.Seen, hp: Any) -> Array:
    """Returns ½ Σ over the task's cells of the squared n-step errors, its mean."""
    changes, is_own = cells.changes(seen.window.ts)
    errors = _n_step_errors(cells.head, heads, seen.window, changes, hp)
    return _mean(jnp.where(is_own, errors, 0.0), seen.window.live)


def feature_loss(
    torso: torso_outputs.TorsoOutputs,
    head: auxiliary_heads.Control,
    heads: Tree,
    seen: replayed.Seen,
    hp: Any,
) -> Array:
    """Returns ½ Σ over the torso's units of the squared n-step errors, its mean."""
    window = seen.window
    features = torso.apply(seen.params, window.ts, window.previous)
    units = features[1:, ..., : torso.units]
    errors = _n_step_errors(head, heads, window, units, hp)
    return _mean(errors, window.live)


def head_of(spec: types.EnvSpec, *cells: int) -> auxiliary_heads.Control:
    """Returns a head that controls so many cells, or rows and columns of them."""
    assert isinstance(spec.action, types.Discrete)
    return auxiliary_heads.Control(cells, spec.action.n)


def shown(obs: Tree, frames: int = 1) -> Array:
    """Returns what there is to change: the newest of the ``frames`` that an image stacks,
    scaled to [0, 1]; the vector without an image.

    >>> shown({"image": jnp.array([[[0.0, 1.0]]])}, frames=2).tolist()
    [[[1.0]]]
    """
    if "image" in obs:
        return image_stacks.scale_image(frame_stacks.newest(obs["image"], frames))
    return obs["vector"].astype(jnp.float32)


def _n_step_errors(
    head: auxiliary_heads.Control,
    params: Tree,
    window: replayed.Window,
    c_t: Array,
    hp: Any,
) -> Array:
    """Returns the n-step errors ``[S, N, U]`` of a head that controls U numbers.

    ``c_t`` [S, N, U] are their pseudo-rewards of arriving.
    """
    ts, discount = window.ts, hp.auxiliaries.control_discount
    found: Any = head.apply({"params": params}, window.out.features)
    value, advantage = found
    q = auxiliary_control.dueling(value, advantage, ts.action_mask)
    return jax.vmap(auxiliary_control.control_errors, (1, 1, 1, 1, 1, 1, None), 1)(
        q, window.action, ts.action_mask, c_t, ts.discount[1:], ts.first[1:], discount
    )


def _mean(errors: Array, live: Array) -> Array:
    """Returns the mean over live steps of ½ Σ of the squared errors ``[S, N, U]``."""
    each = jnp.sum(0.5 * jnp.square(errors), axis=-1)
    return policy_gradient.masked_mean(each, live)
