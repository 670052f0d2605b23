"""Cores: memory over time, unrolled over ``[T, B]`` and reset where an episode begins.

Before a step with ``first`` the state is set to the initial one, so that nothing of the
episode before reaches it. What does not depend on the state is done for all steps at
once, outside the loop: the product with the inputs, and the gradients of both kernels;
the numbers are those of flax's ``LSTMCell`` and ``GRUCell`` with their kernels joined (a
test). A memory whose gates see the inputs alone, without any product in its loop, is
``min_gru``. There is no forward-mode derivative (``jax.jvp``) of a memory.

Deviation from flax: the LSTM's forget gate starts with bias 1, as in IMPALA's code, which
forgets half in two steps. Given how many steps T to remember, gates start as in "chrono
initialisation" instead: b_f = log u, u uniform in [1, T - 1] for each unit, b_i = -b_f;
the GRU's update gate has b_f (its z keeps the old state).

Ref: Tallec & Ollivier 2018 (arXiv:1804.11188), section 3, equation 16.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

from mtrl_jax import tree
from mtrl_jax.networks import initialisers, min_gru, product
from mtrl_jax.types import Array, Tree

CORES = ("none", "linear", "lstm", "gru", "mingru")


class LSTMState(NamedTuple):
    """The memory of an LSTM."""

    cell: Array  # [B, H]
    hidden: Array  # [B, H]


class Core(nn.Module):
    """Returns (outputs [T, B, H], state after the last step) of inputs [T, B, F].

    ``first`` [T, B]. Without a core ("none") the outputs are the inputs and the state is
    (); "linear" is x W + b in the place of a memory, of the same size and without one.

    Parameters of the LSTM and the GRU: input_kernel [F, G H], hidden_kernel [H, G H],
    bias [G H]; gates i, f, g, o of the LSTM, r, z, n of the GRU (which adds hidden_bias
    [H] of n); of "mingru" see ``min_gru``.
    ``memory`` is the time in steps that gates are initialised for, 0: see above.
    """

    kind: str
    size: int
    memory: int = 0

    @nn.compact
    def __call__(self, x: Array, state: Tree, first: Array) -> tuple[Array, Tree]:
        chex.assert_rank([x, first], [3, 2])
        if self.kind == "none":
            return x, state
        if self.kind == "linear":
            dense = nn.Dense(self.size, dot_general=product.dot_general, name="linear")
            return dense(x), state
        if self.kind == "mingru":
            return min_gru.MinGRU(self.size, self.memory, name="mingru")(
                x, state, first
            )
        gates = {"lstm": 4, "gru": 3}[self.kind]
        kernel = self._kernel("input_kernel", x.shape[-1], gates, _lecun)
        x = product.product(x, kernel) + self._bias(gates).reshape(1, 1, -1)
        recurrent = self._kernel("hidden_kernel", self.size, gates, _orthogonal)
        if self.kind == "lstm":
            return unroll(_lstm_step, recurrent, (x,), state, first)
        zeros = nn.initializers.zeros_init()
        bias = self.param("hidden_bias", zeros, (self.size,))
        # What is added to the product with the state: nothing for r and z.
        added = jnp.concatenate([jnp.zeros(2 * self.size), bias])
        added = jnp.broadcast_to(added.reshape(1, 1, -1), x.shape)
        return unroll(_gru_step, recurrent, (x, added), state, first)

    def _kernel(self, name: str, inputs: int, gates: int, init: Callable) -> Array:
        """Returns [inputs, gates * H], every gate initialised as its own matrix."""

        def stacked(key):
            each = [init(k, (inputs, self.size)) for k in jax.random.split(key, gates)]
            return jnp.concatenate(each, axis=-1)

        return self.param(name, stacked)

    def _bias(self, gates: int) -> Array:
        """Returns [gates * H]: what keeps the state open, 0 for the other gates."""

        def init(key):
            bias = jnp.zeros((gates, self.size))
            if self.memory:
                last = max(self.memory - 1.0, 1.0)
                keep = jnp.log(
                    jax.random.uniform(key, (self.size,), minval=1, maxval=last)
                )
                bias = bias.at[1].set(keep)  # f, z
                return (bias.at[0].set(-keep) if gates == 4 else bias).reshape(-1)
            return (bias.at[1].set(1.0) if gates == 4 else bias).reshape(-1)

        return self.param("bias", init)


def initial_state(kind: str, size: int, batch: int) -> Tree:
    """Returns the memory of ``batch`` fresh slots: zeros, or () without one.

    Raises ValueError for an unknown core.
    """
    if kind not in CORES:
        raise ValueError(f"core: {kind!r} is not known, use one of {CORES}")
    if not has_memory(kind):
        return ()
    if kind in ("gru", "mingru"):
        return jnp.zeros((batch, size))
    return LSTMState(jnp.zeros((batch, size)), jnp.zeros((batch, size)))


def has_memory(kind: str) -> bool:
    """Returns whether a core remembers anything."""
    return kind in ("lstm", "gru", "mingru")


# (kernel, state, inputs of a step) -> (state, its hidden part [B, H]).
Step = Callable[[Array, Tree, tuple[Array, ...]], tuple[Tree, Array]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def unroll(
    step: Step, kernel: Array, inputs: tuple[Array, ...], state: Tree, first: Array
) -> tuple[Array, Tree]:
    """Returns (outputs [T, B, H], state): ``step`` over time from masked states.

    state_t, y_t = step(kernel, 0 where first_t else state_tm1, inputs_t)

    The step reads the kernel in h·kernel alone and adds the last of ``inputs`` to it, so
    that this one's cotangent is the product's too: Σ_t h_tm1ᵀ·ct_t, the kernel's gradient,
    is one product after the loop instead of a small one in each of its steps.
    """

    return _scan(step, kernel, inputs, state, first)


def _scan(step, kernel, inputs, state, first):
    def masked_step(state, now):
        inputs_t, first_t = now
        fresh = jax.tree.map(jnp.zeros_like, state)
        return step(kernel, tree.where(first_t, fresh, state), inputs_t)

    state, outputs = jax.lax.scan(masked_step, state, (inputs, first))
    return outputs, state


def _forward(step, kernel, inputs, state, first):
    def of_data(inputs, state):
        return _scan(step, kernel, inputs, state, first)

    (outputs, end), back = jax.vjp(of_data, inputs, state)
    hidden = state.hidden if isinstance(state, LSTMState) else state
    before = jnp.concatenate([hidden[None], outputs[:-1]])
    return (outputs, end), (back, jnp.where(first[..., None], 0.0, before))


def _backward(step, residuals, cotangents):
    back, before = residuals
    inputs, state = back(cotangents)
    return product.weight_gradient(before, inputs[-1]), inputs, state, None


unroll.defvjp(_forward, _backward)


def _lstm_step(
    kernel: Array, state: LSTMState, inputs: tuple[Array]
) -> tuple[LSTMState, Array]:
    """c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c')."""
    (x_t,) = inputs
    i, f, g, o = jnp.split(x_t + state.hidden @ kernel, 4, axis=-1)
    cell = jax.nn.sigmoid(f) * state.cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    hidden = jax.nn.sigmoid(o) * jnp.tanh(cell)
    return LSTMState(cell, hidden), hidden


def _gru_step(
    kernel: Array, state: Array, inputs: tuple[Array, Array]
) -> tuple[Array, Array]:
    """n = tanh(x_n + σ(r) (h W_n + b)), h' = (1 - σ(z)) n + σ(z) h."""
    x_t, added_t = inputs
    x_r, x_z, x_n = jnp.split(x_t, 3, axis=-1)
    h_r, h_z, h_n = jnp.split(state @ kernel + added_t, 3, axis=-1)
    reset, update = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
    new = jnp.tanh(x_n + reset * h_n)
    state = (1.0 - update) * new + update * state
    return state, state


_lecun = nn.initializers.lecun_normal()
_orthogonal = initialisers.orthogonal()
