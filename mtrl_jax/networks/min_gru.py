"""A minimal gated recurrent unit: gates that see the input alone, so time is a scan.

    u_t = W_u x_t                                   the residual stream
    z_t, c_t, o_t = W norm(u_t)                     update gate, candidate, output gate
    h_t = (1 - σ(z_t)) h_tm1 + σ(z_t) c_t           h_tm1 = 0 where first_t
    y_t = u_t + W_y (silu(o_t) h_t)

Deviations from the paper: the candidate is linear, as in its section 3.1, with no
positive function of the log-space form; one block is norm -> recurrence -> gated output
beside a residual path, for the paper stacks blocks with a convolution before and an MLP
after. ``memory`` steps T start 1 - σ(z) as chrono initialisation does a GRU's: the bias
of z is -log u, u uniform in [1, T - 1] for each unit, so a unit keeps 1 - 1/(1 + u).

Ref: Feng et al. 2024 (arXiv:2410.01201), section 3.1; Tallec & Ollivier 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax.networks import product, recurrence
from mtrl_jax.types import Array

_ZEROS = nn.initializers.zeros_init()


class MinGRU(nn.Module):
    """Returns (outputs [T, B, H], state [B, H]) of inputs [T, B, F], ``first`` [T, B]."""

    size: int
    memory: int = 0
    implementation: str = "associative"  # see recurrence

    @nn.compact
    def __call__(self, x: Array, state: Array, first: Array) -> tuple[Array, Array]:
        stream = _dense(self.size, "input")(x)
        normed = nn.LayerNorm(name="norm")(stream)
        gates = _dense(3 * self.size, "gates", self._bias)(normed)
        update, candidate, output = jnp.split(gates, 3, axis=-1)
        update = jax.nn.sigmoid(update)
        decay = jnp.where(first[..., None], 0.0, 1.0 - update)
        hidden = recurrence.linear_recurrence(
            decay, update * candidate, state, self.implementation
        )
        outputs = _dense(self.size, "output")(jax.nn.silu(output) * hidden)
        return stream + outputs, hidden[-1]

    def _bias(self, key: Array, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """Returns the first bias of the gates, [3 H]: 0 but for z with ``memory``."""
        bias = jnp.zeros(shape)
        if not self.memory:
            return bias
        last = max(self.memory - 1.0, 1.0)
        steps = jax.random.uniform(key, (self.size,), minval=1, maxval=last)
        return bias.at[: self.size].set(-jnp.log(steps))


def _dense(size: int, name: str, bias: Callable = _ZEROS) -> nn.Dense:
    return nn.Dense(size, bias_init=bias, dot_general=product.dot_general, name=name)
