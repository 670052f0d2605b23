"""Attention: every implementation is the equation; rotary positions are relative."""

import crossing
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.networks.transformers import attention


def _inputs(length, size=4, seed=0):
    keys = jax.random.split(jax.random.key(seed), 4)
    return [jax.random.normal(key, (2, 2, length, size)) for key in keys]


def _band(length, width):
    age = np.arange(length)[:, None] - np.arange(length)[None]
    return jnp.asarray((age >= 0) & (age < width))[None]


@pytest.mark.parametrize(
    ("implementation", "width", "is_named"),
    crossing.crossed(["blocks", "xla"], [70, 1, 5, 130], [True, False]),
)
def test_every_implementation_has_the_values_and_gradients_of_the_equation(
    implementation, width, is_named
):
    """Over several blocks, with bands narrower and wider than one; mask or band."""
    *inputs, weight = _inputs(130)
    allowed = _band(130, width)
    band = width if is_named else None

    def loss(implementation, inputs):
        out = attention.attend(
            *inputs, allowed, band=band, implementation=implementation
        )
        return jnp.sum(out * weight), out

    grad = jax.jit(jax.grad(loss, 1, has_aux=True), static_argnums=0)
    expected, ours = grad("plain", inputs), grad(implementation, inputs)
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), ours, expected
    )


def test_blocks_read_a_mask_per_sequence_and_other_lengths():
    """Padding differs between sequences; a few queries on many keys."""
    query, key, value, _ = _inputs(9)
    allowed = jnp.ones((2, 2, 9), bool).at[0, :, 3:].set(False)
    for implementation in ("blocks", "xla"):
        ours, expected = (
            attention.attend(query[:, :, :2], key, value, allowed, implementation=name)
            for name in (implementation, "plain")
        )
        np.testing.assert_allclose(ours, expected, atol=1e-5)
    shorter = attention.attend(
        query[:1, :, :2], key[:1, :, :3], value[:1, :, :3], allowed[:1, :, :3]
    )
    np.testing.assert_allclose(expected[:1], shorter, atol=1e-5)


def test_rotary_products_depend_on_the_distance_alone_even_after_billions_of_tokens():
    """Index 3 and 5 give the product of 4e9 + 3 and 4e9 + 5, past the wrap as well."""
    query, key, _, _ = _inputs(1, size=8)

    def product(at, distance):
        def turned(x, i):
            index = jnp.full((2, 1), i % 2**32, jnp.uint32)
            return attention.rotate(x, attention.rotation(index, 8))

        return jnp.sum(turned(query, at + distance) * turned(key, at), axis=-1)

    near = product(3, 2)
    for at in (50_000, 4_000_000_000, 2**32 - 1):
        np.testing.assert_allclose(product(at, 2), near, atol=1e-5)
    assert np.abs(product(3, 4) - near).max() > 1e-2


def test_rotation_is_that_of_the_paper():
    """Plane j of a head of D numbers turns by index * base^(-2j/D) radians."""
    index = np.asarray([[0, 1, 7, 100]])
    cos, sin = attention.rotation(jnp.asarray(index), 6)
    angle = index[:, None, :, None] * 10_000.0 ** (-np.arange(3) / 3)
    np.testing.assert_allclose(cos, np.cos(angle), atol=1e-5)
    np.testing.assert_allclose(sin, np.sin(angle), atol=1e-5)
