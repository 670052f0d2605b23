"""Linear recurrences: the loop written by hand, its gradients, and episodes apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.networks import recurrence

T, B, H = 13, 2, 3


def _draw():
    keys = jax.random.split(jax.random.key(0), 4)
    decay = jax.random.uniform(keys[0], (T, B, H))
    decay = jnp.where(jax.random.bernoulli(keys[1], 0.2, (T, B, 1)), 0.0, decay)
    inputs = jax.random.normal(keys[2], (T, B, H))
    return decay, inputs, jax.random.normal(keys[3], (B, H))


def by_hand(decay, inputs, state):
    hidden = []
    for decay_t, inputs_t in zip(decay, inputs):
        state = decay_t * state + inputs_t
        hidden.append(state)
    return jnp.stack(hidden)


@pytest.mark.parametrize("implementation", recurrence.IMPLEMENTATIONS)
def test_values_and_gradients_are_those_of_the_loop(implementation):
    """By decay, inputs and first state; decays of zero and members under vmap too."""

    def loss(run):
        return lambda *args: jnp.sum(jnp.sin(run(*args)))

    def ours(decay, inputs, state):
        return recurrence.linear_recurrence(decay, inputs, state, implementation)

    args = _draw()
    members = jax.tree.map(lambda x: jnp.stack([x, x[..., ::-1]]), args)
    of = (0, 1, 2)
    got = jax.jit(jax.vmap(jax.value_and_grad(loss(ours), of)))(*members)
    expected = jax.jit(jax.vmap(jax.value_and_grad(loss(by_hand), of)))(*members)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        got,
        expected,
    )


@pytest.mark.parametrize("implementation", recurrence.IMPLEMENTATIONS)
def test_nothing_passes_a_decay_of_zero(implementation):
    """Two episodes in one unroll are two unrolls; what is not finite leaves no trace."""
    decay, inputs, state = _draw()
    decay = decay.at[5].set(0.0)
    before = inputs.at[1].set(jnp.inf).at[2].set(jnp.nan)
    whole = recurrence.linear_recurrence(decay, before, state, implementation)
    assert np.isnan(whole[2]).all()
    later = recurrence.linear_recurrence(
        decay[5:], inputs[5:], jnp.zeros((B, H)), implementation
    )
    np.testing.assert_allclose(whole[5:], later, rtol=1e-6, atol=1e-6)
    lost = recurrence.linear_recurrence(
        decay[5:], inputs[5:], jnp.full((B, H), jnp.nan), implementation
    )
    np.testing.assert_allclose(lost, later, rtol=1e-6, atol=1e-6)


def test_an_unknown_implementation_is_named():
    """An error says what was given and what would work."""
    with pytest.raises(ValueError, match=r"implementation: 'scan'.*'associative'"):
        recurrence.linear_recurrence(*_draw(), implementation="scan")
