"""Trunks that tasks share in part: mixed layers, mixtures of experts, routed modules.

    cross_stitch   K columns of layers, one a task; after each layer x̃_i = Σ_j α_ij x_j
    experts        N columns u_n; h = tanh(Σ_n w_{task,n} ũ_n), ũ orthonormal in each state
    modules        N modules a layer; g_i^{l+1} = Σ_j p̂_ij^l φ(W_j^l g_j^l), where p̂^l,
                   softmax over j of p^l, is of the state and the task:
                   p^1 = W_d ReLU(e), p^{l+1} = W_d ReLU(W_u p^l ⊙ e), e = f(x) ⊙ h(task)

All see flat inputs ``[..., F]`` and the task of each, and give its own features. Every
column is computed for every input: by definition of the first, where each task reads the
activations of all, and of the others, where N does not grow with the tasks.

Ref: Misra et al. 2016 (arXiv:1604.03539), equation 1; Hendawy et al. 2024, MOORE
(arXiv:2311.11385), section 4; Yang et al. 2020, soft modularisation (arXiv:2003.13661),
section 4.

Deviations: α is its initial value (0.9 on the diagonal, the rest even, rows that sum to 1)
plus ten times a parameter, which is a learning rate of its own under any optimiser.
Modules: φ is the setting's activation, of f(x) too; the paper's last layer of modules is
the heads, which read all modules' features side by side; its weights of the tasks' losses
are temperatures' of soft actor-critic, and not here.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import initialisers, product
from mtrl_jax.types import Array

_OWN, _RATE = 0.9, 10.0
_TINY = 1e-6
_ROUNDING = 1e-5  # what is left of a column, of its length, below which it is rounding
_orthogonal = initialisers.orthogonal(2**0.5)


class CrossStitch(nn.Module):
    """Returns the features [..., hidden[-1]] of each input's own task's column."""

    hidden: tuple[int, ...]
    activation: Callable[[Array], Array]
    tasks: int

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        zeros = nn.initializers.zeros_init()
        columns = jnp.broadcast_to(x, (self.tasks, *x.shape))  # [K, ..., F]
        for i, size in enumerate(self.hidden):
            columns = self.activation(_Columns(size, self.tasks)(columns))
            change = self.param(f"stitch_{i}", zeros, (self.tasks, self.tasks))
            stitch = initial_stitch(self.tasks) + _RATE * change
            columns = jnp.tensordot(stitch, columns, axes=1)
        return of_own(columns, task)


class Experts(nn.Module):
    """Returns the task's combination [..., hidden[-1]] of orthonormal experts."""

    hidden: tuple[int, ...]
    activation: Callable[[Array], Array]
    tasks: int
    experts: int

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        columns = jnp.broadcast_to(x, (self.experts, *x.shape))
        for i, size in enumerate(self.hidden):
            columns = _Columns(size, self.experts)(columns)
            if i < len(self.hidden) - 1:
                columns = self.activation(columns)
        weights = self.param(
            "weights", nn.initializers.normal(1.0), (self.tasks, self.experts)
        )
        own = weights[task]
        parts = [own[..., n, None] * u for n, u in enumerate(orthonormal(columns))]
        return jnp.tanh(sum(parts))


class SoftModules(nn.Module):
    """Returns the features [..., modules · hidden[-1]] of all modules, side by side.

    The first of ``hidden`` is the layer f that routing and modules both read.
    """

    hidden: tuple[int, ...]
    activation: Callable[[Array], Array]
    tasks: int
    modules: int

    @nn.compact
    def __call__(self, x: Array, task: Array) -> Array:
        width = self.hidden[0]
        seen = self.activation(_dense(width, "observation")(x))
        table = self.param("task", nn.initializers.normal(1.0), (self.tasks, width))
        embedded = asked = seen * table[task]
        columns = jnp.broadcast_to(seen, (self.modules, *seen.shape))
        for i, size in enumerate(self.hidden[1:]):
            logits = _dense(self.modules**2, f"down_{i}")(jax.nn.relu(asked))
            columns = self.activation(_Columns(size, self.modules)(columns))
            columns = routed(logits, columns)
            if i + 2 < len(self.hidden):
                asked = _dense(width, f"up_{i}")(logits) * embedded
        return jnp.moveaxis(columns, 0, -2).reshape(*x.shape[:-1], -1)


def make(
    sharing: str,
    hidden: tuple[int, ...],
    activation: Callable[[Array], Array],
    tasks: int,
    *,
    experts: int,
    modules: int,
) -> CrossStitch | Experts | SoftModules:
    """Returns the trunk of a ``sharing``, which is its name in a network."""
    if sharing == "cross_stitch":
        return CrossStitch(hidden, activation, tasks, name=sharing)
    if sharing == "experts":
        return Experts(hidden, activation, tasks, experts, name=sharing)
    return SoftModules(hidden, activation, tasks, modules, name=sharing)


class _Columns(nn.Module):
    """Returns a dense layer of each column, [N, ..., size] of [N, ..., F]."""

    size: int
    number: int

    @nn.compact
    def __call__(self, columns: Array) -> Array:
        shape = (self.number, columns.shape[-1], self.size)
        kernel = self.param("kernel", _each(_orthogonal), shape)
        bias = self.param(
            "bias", nn.initializers.zeros_init(), (self.number, self.size)
        )
        flat = columns.reshape(self.number, -1, columns.shape[-1])
        out = jnp.einsum("nbf,nfs->nbs", flat, kernel) + bias[:, None]
        return out.reshape(*columns.shape[:-1], self.size)


def initial_stitch(tasks: int) -> Array:
    """Returns α [K, K]: 0.9 on the diagonal, the rest even; rows sum to 1."""
    if tasks == 1:
        return jnp.ones((1, 1))
    rest = (1.0 - _OWN) / (tasks - 1)
    return jnp.full((tasks, tasks), rest) + (_OWN - rest) * jnp.eye(tasks)


def of_own(columns: Array, task: Array) -> Array:
    """Returns x [..., F] of the column of each one's task, of [K, ..., F].

    >>> columns = jnp.array([[[1, 2], [3, 4]], [[5, 6], [7, 8]]])  # [K, B, F]
    >>> of_own(columns, jnp.array([1, 0])).tolist()
    [[5, 6], [3, 4]]
    """
    index = jnp.broadcast_to(task[None, ..., None], (1, *columns.shape[1:]))
    return jnp.take_along_axis(columns, index, axis=0)[0]


def routed(logits: Array, columns: Array) -> Array:
    """Returns Σ_j p̂_ij x_j [N, ..., F] of columns x_j [N, ..., F].

    ``logits`` [..., N · N], row by row of the module i that reads; p̂ is their softmax
    over the sources j.
    """
    number = columns.shape[0]
    rows = logits.reshape(*logits.shape[:-1], number, number)
    share = jax.nn.softmax(rows, axis=-1)
    return jnp.einsum("...ij,j...f->i...f", share, columns)


def orthonormal(columns: Array) -> list[Array]:
    """Returns the N columns [..., F] of [N, ..., F] made orthonormal, one after the other.

    Modified Gram-Schmidt across the columns of every state. What is left of a column
    that lies in the span of those before it is next to nothing, and stays so: it is not
    divided by its length, in value or gradient. So it is of a column that is 0. A list,
    not an array: of an array XLA's CPU compiler computes each element from all N.
    """
    done: list[Array] = []
    for column in columns:
        whole = _square(column)
        for other in done:
            shadow = jnp.sum(column * other, axis=-1, keepdims=True)
            column = column - shadow * other
        square = _square(column)
        is_own = square > jnp.maximum(_ROUNDING**2 * whole, _TINY**2)
        length = jnp.where(is_own, square, 1.0)
        done.append(column * jax.lax.rsqrt(length + _TINY**2))
    return done


def _square(column: Array) -> Array:
    return jnp.sum(jnp.square(column), axis=-1, keepdims=True)


def _dense(size: int, name: str) -> nn.Dense:
    return nn.Dense(
        size,
        kernel_init=_orthogonal,
        dot_general=product.dot_general,
        name=name,
    )


def _each(init: Callable) -> Callable:
    """Returns an initialiser of [N, ...]: every column drawn by itself."""

    def columns(key, shape, dtype=jnp.float32):
        keys = jax.random.split(key, shape[0])
        return jax.vmap(lambda k: init(k, shape[1:], dtype))(keys)

    return columns
