"""The product of a dense layer: the numbers of ``@``, whatever surrounds it."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks import product

# Inputs wider, narrower and as wide as outputs: the gradient is made in two ways.
SIZES = [(7, 3), (3, 7), (5, 5), (5, 1), (1, 5)]


@pytest.mark.parametrize(
    ("sizes", "lead"),
    [*((sizes, (4, 2)) for sizes in SIZES), ((7, 3), (6,)), ((7, 3), ())],
)
def test_values_and_gradients_are_those_of_the_matrix_product(sizes, lead):
    """The special weight gradient is a matter of speed, never of numbers."""
    x, weight, target = _arrays((*lead, sizes[0]), sizes, (*lead, sizes[1]))

    def loss(multiply):
        return lambda x, w: jnp.sum(target * jnp.tanh(multiply(x, w)))

    ours = jax.jit(jax.value_and_grad(loss(product.product), (0, 1)))(x, weight)
    plain = jax.jit(jax.value_and_grad(loss(jnp.matmul), (0, 1)))(x, weight)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5), ours, plain)


@pytest.mark.parametrize("sizes", SIZES)
def test_a_population_has_the_gradients_of_its_members(sizes):
    """The gradient's rule batches: weights of different members do not mix."""
    members = 3
    x, weight = _arrays((members, 4, 2, sizes[0]), (members, *sizes))

    def gradient(x, w):
        return jax.grad(lambda w: jnp.sum(product.product(x, w) ** 3))(w)

    together, one = jax.jit(jax.vmap(gradient))(x, weight), jax.jit(gradient)
    alone = np.stack([one(x[p], weight[p]) for p in range(members)])
    np.testing.assert_allclose(together, alone, rtol=2e-5, atol=1e-5)


def test_a_dense_layer_with_it_is_flax_own():
    """Passing dot_general changes neither parameters nor numbers of nn.Dense."""
    (x,) = _arrays((3, 2, 5))
    plain, ours = nn.Dense(4), nn.Dense(4, dot_general=product.dot_general)
    params = jax.jit(batch_draws(plain.init))(jax.random.key(1), x)
    jax.tree.map(
        np.testing.assert_array_equal,
        params,
        jax.jit(batch_draws(ours.init))(jax.random.key(1), x),
    )
    np.testing.assert_allclose(ours.apply(params, x), plain.apply(params, x), rtol=1e-6)


def test_another_contraction_is_refused():
    """What the gradient is not written for is an error, not a wrong number."""
    x, weight = _arrays((2, 3), (3, 4))
    with pytest.raises(ValueError, match="dimension_numbers"):
        product.dot_general(x, weight, (((0,), (1,)), ((), ())))


def _arrays(*shapes):
    keys = jax.random.split(jax.random.key(0), len(shapes))
    return [jax.random.normal(k, shape) for k, shape in zip(keys, shapes)]
