"""Heads of UNREAL's auxiliary tasks: control of cells, and the sign of the next reward.

    control   features -> dense -> [h, w, 32], ReLU -> deconvolutions 4x4, stride 2:
              V [cells], A [cells, actions]; of a vector's cells two dense layers
    reward    features of several frames side by side -> dense 128, ReLU -> 3 logits

The deconvolutions have no ReLU after them, so that what they give may be negative.

Ref: Jaderberg et al. 2017 (arXiv:1611.05397), appendix C; its 7 x 7 map would give 16 x
16 cells, 9 x 9 gives its 20 x 20: the map is chosen by the cells.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import conv_transpose, initialisers, product
from mtrl_jax.types import Array

_KERNEL, _STRIDE, _MAPS = 4, 2, 32


class Control(nn.Module):
    """Returns (value [..., cells], advantage [..., cells, actions]) of features."""

    cells: tuple[int, ...]  # (rows, columns) of an image, (number,) of a vector
    actions: int

    @nn.compact
    def __call__(self, features: Array) -> tuple[Array, Array]:
        lead = features.shape[:-1]
        if len(self.cells) == 1:
            number = self.cells[0]
            value = _dense(number, 1.0, "value")(features)
            advantage = _dense(number * self.actions, 1.0, "advantage")(features)
            return value, advantage.reshape(*lead, number, self.actions)
        rows, columns = (map_size(n) for n in self.cells)
        x = _dense(rows * columns * _MAPS, 2**0.5, "map")(features)
        x = jax.nn.relu(x).reshape(*lead, rows, columns, _MAPS)
        value = self._deconvolved(x, 1, "value")[..., 0]
        advantage = self._deconvolved(x, self.actions, "advantage")
        return value, advantage

    def _deconvolved(self, x: Array, maps: int, name: str) -> Array:
        """Returns [..., cells, maps], row by row."""
        init = nn.initializers.lecun_normal()
        shape = (_KERNEL, _KERNEL, x.shape[-1], maps)
        y = conv_transpose.conv_transpose2d(
            x, self.param(f"{name}_kernel", init, shape), stride=_STRIDE
        )
        bias = self.param(f"{name}_bias", nn.initializers.zeros_init(), (maps,))
        y = y[..., : self.cells[0], : self.cells[1], :]
        y = y.reshape(*y.shape[:-3], -1, maps)
        return y + bias.reshape((1,) * (y.ndim - 1) + (-1,))


class Reward(nn.Module):
    """Returns the logits [..., 3] of a reward that is zero, positive or negative."""

    @nn.compact
    def __call__(self, features: Array) -> Array:
        hidden = jax.nn.relu(_dense(128, 2**0.5, "hidden")(features))
        return _dense(3, 0.01, "classes")(hidden)


def cells_of(shape: tuple[int, ...], cell: int) -> tuple[int, ...]:
    """Returns the numbers of cells of an observation ``[H, W, C]`` or ``[N]``.

    As ``auxiliary_control.cell_changes`` has them. Raises ValueError for an image that
    is smaller than a cell.
    """
    if len(shape) == 1:
        return (-(-shape[0] // cell),)
    if min(shape[:2]) < cell:
        raise ValueError(
            f"cell: {cell} pixels of an image of {shape[0]}x{shape[1]}; give at most "
            f"{min(shape[:2])}"
        )
    return (shape[0] // cell, shape[1] // cell)


def map_size(cells: int) -> int:
    """Returns the least size whose deconvolution has so many cells."""
    size = max(-(-(cells - _KERNEL) // _STRIDE) + 1, 1)
    assert conv_transpose.output_size(size, _KERNEL, _STRIDE) >= cells
    return size


def signs(reward: Array) -> Array:
    """Returns the class of rewards: 0 zero, 1 positive, 2 negative; int32.

    >>> signs(jnp.array([0.0, 2.5, -0.1])).tolist()
    [0, 1, 2]
    """
    return jnp.where(reward > 0, 1, jnp.where(reward < 0, 2, 0)).astype(jnp.int32)


def _dense(size: int, gain: float, name: str) -> nn.Dense:
    return nn.Dense(
        size,
        kernel_init=initialisers.orthogonal(gain),
        dot_general=product.dot_general,
        name=name,
    )
