"""First-order linear recurrences h_t = a_t h_tm1 + b_t over time, elementwise.

Neither a nor b depends on h, so that the recurrence is a scan over the associative
(a, b) ∘ (a', b') = (a a', a' b + b'), and its gradient is the same recurrence run
backwards. Where a_t = 0 nothing of what came before passes, not even a number that is
not finite: episodes are exactly apart.

An associative scan has log T depth and does about twice the work of a loop over steps.
``benchmarks/cores.py`` measures both: on a CPU core it is the faster for one member, and
hardly for eight.

Ref: Blelloch 1990; Martin & Cundy 2018 (arXiv:1709.04057), equation 5.
"""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp

from mtrl_jax.types import Array

IMPLEMENTATIONS = ("associative", "loop")
_UNROLL = 8  # steps of the loop in one of XLA's


def linear_recurrence(
    decay: Array, inputs: Array, state: Array, implementation: str = "associative"
) -> Array:
    """Returns h [T, ...]: h_t = decay_t h_tm1 + inputs_t, from ``state`` [...] before.

    ``decay`` and ``inputs`` [T, ...]. Raises ValueError for an unknown implementation.
    There is no forward-mode derivative of it.
    """
    chex.assert_equal_shape([decay, inputs])
    chex.assert_equal_shape([decay[0], state])
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation: {implementation!r} is not known, use one of "
            f"{IMPLEMENTATIONS}"
        )
    return _recurrence(implementation, decay, inputs, state)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(implementation: str, decay: Array, inputs: Array, state: Array):
    return _run(implementation, decay, inputs, state)


def _run(implementation: str, decay: Array, inputs: Array, state: Array) -> Array:
    if implementation == "loop":

        def step(state, now):
            decay_t, inputs_t = now
            state = _passed(decay_t, state) + inputs_t
            return state, state

        return jax.lax.scan(step, state, (decay, inputs), unroll=_UNROLL)[1]

    def joined(before, after):
        return before[0] * after[0], _passed(after[0], before[1]) + after[1]

    inputs = inputs.at[0].add(_passed(decay[0], state))
    return jax.lax.associative_scan(joined, (decay, inputs))[1]


def _passed(decay: Array, state: Array) -> Array:
    """Returns decay · state, and 0 where decay is, whatever the state is."""
    return jnp.where(decay == 0, 0.0, decay * state)


def _forward(implementation, decay, inputs, state):
    hidden = _run(implementation, decay, inputs, state)
    return hidden, (decay, state, hidden)


def _backward(implementation, residuals, cotangent):
    """g_t = ct_t + decay_tp1 g_tp1; by inputs g_t, by decay g_t h_tm1, by state a_1 g_1."""
    decay, state, hidden = residuals
    later = jnp.concatenate([decay[1:], jnp.zeros_like(decay[:1])])
    flipped = _run(implementation, later[::-1], cotangent[::-1], jnp.zeros_like(state))
    gradient = flipped[::-1]
    before = jnp.concatenate([state[None], hidden[:-1]])
    return gradient * before, gradient, decay[0] * gradient[0]


_recurrence.defvjp(_forward, _backward)
