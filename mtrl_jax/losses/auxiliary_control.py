"""Learning to change what is seen: pseudo-rewards of cells, and their n-step Q loss.

    c_t = mean over a cell of |x_t − x_{t−1}|
    R_t = c_{t+1} + γ_c d_{t+1} R_{t+1},   R_T = max_a Q(s_T, a)
    L   = Σ_cells ½ (R_t − Q(s_t, a_t))²

Every cell is a control task of its own; the losses of all are summed. Functions are of
one sequence ``[T + 1]``.

Ref: Jaderberg et al. 2017, "Reinforcement Learning with Unsupervised Auxiliary Tasks"
(arXiv:1611.05397), section 3.1 and appendix C.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from mtrl_jax.types import Array, Scalar


def cell_changes(x: Array, cell: int) -> Array:
    """Returns the mean absolute change of each cell, ``[T, cells]`` of x ``[T + 1, ...]``.

    An image ``[H, W, C]`` has cells of ``cell`` x ``cell`` pixels, row by row, of the
    middle that they divide; a vector ``[N]`` of ``cell`` numbers, with what is left over.
    """
    change = jnp.abs(x[1:] - x[:-1])
    if x.ndim == 2:
        padding = -x.shape[1] % cell
        change = jnp.pad(change, ((0, 0), (0, padding)))
        size = jnp.minimum(
            cell, x.shape[1] - cell * jnp.arange(change.shape[1] // cell)
        )
        return jnp.sum(change.reshape(len(change), -1, cell), axis=-1) / size[None]
    chex.assert_rank(x, 4)
    rows, columns = (n // cell for n in x.shape[1:3])
    top, left = ((n % cell) // 2 for n in x.shape[1:3])
    middle = change[:, top : top + rows * cell, left : left + columns * cell]
    cells = middle.reshape(len(change), rows, cell, columns, cell, -1)
    return jnp.mean(cells, axis=(2, 4, 5)).reshape(len(change), -1)


def dueling(value: Array, advantage: Array, legal: Array) -> Array:
    """Returns Q = V + A − mean over legal actions of A, ``[..., cells, A]``.

    ``value`` [..., cells], ``advantage`` [..., cells, A], ``legal`` [..., A].
    """
    counts = legal[..., None, :].astype(advantage.dtype)
    total = jnp.maximum(jnp.sum(counts, axis=-1, keepdims=True), 1.0)
    mean = jnp.sum(counts * advantage, axis=-1, keepdims=True) / total
    return value[..., None] + advantage - mean


def control_errors(
    q: Array,
    action: Array,
    legal: Array,
    c_t: Array,
    continues_t: Array,
    first_t: Array,
    discount: Scalar,
) -> Array:
    """Returns R_t − Q(s_t, a_t), ``[T, cells]``; the target has no gradient.

    Args:
      q: ``[T + 1, cells, A]``; ``action`` int ``[T]``; ``legal`` bool ``[T + 1, A]``.
      c_t: pseudo-rewards of arriving, ``[T, cells]``.
      continues_t: 0 where the step arrived at is terminal, else 1, ``[T]``.
      first_t: bool ``[T]``, True where it is the first of another episode: no transition,
        its error is 0 and what was before bootstraps from the episode's last step.
    """
    chex.assert_rank([q, action, c_t, continues_t, first_t], [3, 1, 2, 1, 1])
    best = jnp.max(jnp.where(legal[:, None], q, -jnp.inf), axis=-1)
    # Without any legal action, which no environment has, there is nothing to gain.
    best = jax.lax.stop_gradient(jnp.where(jnp.isfinite(best), best, 0.0))

    def back(after: Array, now: tuple) -> tuple[Array, Array]:
        c, continues, first, best = now
        target = jnp.where(first, best, c + discount * continues * after)
        return target, target

    steps = (c_t, continues_t, first_t, best[:-1])
    _, target = jax.lax.scan(back, best[-1], steps, reverse=True)
    index = jnp.broadcast_to(action[:, None, None], (*c_t.shape, 1))
    chosen = jnp.take_along_axis(q[:-1], index, axis=-1)[..., 0]
    error = jax.lax.stop_gradient(target) - chosen
    return jnp.where(first_t[:, None], 0.0, error)
