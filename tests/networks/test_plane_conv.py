"""Convolutions of planes: the numbers and gradients of those of images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.networks import conv, conv_transpose
from mtrl_jax.networks.world_models import plane_conv

# (height, width, cin, cout, kernel, stride): fewer features than planes, and more.
FORWARD = [
    (9, 8, 3, 2, 4, 2),
    (7, 6, 2, 9, 4, 2),
    (6, 7, 4, 5, 3, 1),
    (8, 9, 1, 2, 5, 3),
    (4, 4, 5, 1, 4, 2),
]
TRANSPOSED = [
    (1, 1, 7, 2, 5, 2),
    (3, 5, 2, 3, 6, 2),
    (4, 2, 4, 5, 3, 1),
    (4, 2, 6, 2, 3, 1),
    (2, 3, 3, 4, 5, 3),
]


def of_images(function):
    """Returns a convolution of planes as one of images."""

    def convolution(x, kernel, stride):
        y = function(plane_conv.of_images(x), kernel, stride)
        return plane_conv.images(y)

    return convolution


def forward(x, kernel, stride):
    return conv.conv2d(x, kernel, strides=stride, padding="VALID", implementation="lax")


def transposed(x, kernel, stride):
    return conv_transpose.conv_transpose2d(
        x, kernel, stride=stride, implementation="lax"
    )


@pytest.mark.parametrize(
    ("own", "expected", "case"),
    [(plane_conv.conv2d, forward, case) for case in FORWARD]
    + [(plane_conv.conv_transpose2d, transposed, case) for case in TRANSPOSED],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_numbers_and_gradients_are_those_of_images(own, expected, case):
    *size, features, kernel, stride = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, *size)).astype(np.float32)
    w = rng.normal(size=(kernel, kernel, size[-1], features)).astype(np.float32)

    @jax.jit
    def both(x, w):
        def loss(x, w, function):
            y = function(x, w, stride)
            return jnp.sum(jnp.sin(jnp.arange(y.size)).reshape(y.shape) * y), y

        grad = jax.grad(loss, (0, 1), has_aux=True)
        return [grad(x, w, function) for function in (of_images(own), expected)]

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-4), *both(x, w))


def test_pixels_are_the_same_planes_row_by_row():
    x = np.random.default_rng(0).integers(0, 255, (2, 3, 4, 5, 3), np.uint8)
    found = jax.jit(plane_conv.of_pixels)(x)
    np.testing.assert_array_equal(found, x.reshape(6, 4, 5, 3).transpose(3, 1, 2, 0))
    np.testing.assert_array_equal(found, plane_conv.of_images(jnp.asarray(x)))
