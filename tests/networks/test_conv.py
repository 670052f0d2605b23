"""Convolutions and pooling: flax's numbers, whatever they are computed with."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks import conv

# (height, width, cin, cout, kernel, strides, padding)
CASES = [
    (21, 17, 4, 8, (8, 8), (4, 4), "VALID"),
    (21, 17, 3, 8, (8, 8), (4, 4), "SAME"),
    (12, 13, 8, 5, (4, 4), (2, 2), "VALID"),
    (10, 10, 4, 16, (3, 3), (1, 1), "VALID"),
    (9, 11, 16, 4, (3, 3), (1, 1), "SAME"),
    (11, 9, 16, 4, (5, 3), (2, 1), "SAME"),
    (7, 8, 3, 4, (3, 3), (2, 3), "VALID"),
    (6, 7, 2, 4, (2, 2), (3, 3), "VALID"),
    (5, 4, 3, 2, (1, 1), (1, 1), "SAME"),
    (3, 3, 2, 4, (3, 3), (1, 1), "VALID"),
    (2, 2, 3, 4, (5, 5), (2, 2), "SAME"),
]


def _normal(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def _modules(case, implementation):
    *_, features, kernel, strides, padding = case
    args = dict(kernel_size=kernel, strides=strides, padding=padding)
    own = conv.Conv(features, implementation=implementation, **args)
    return own, nn.Conv(features, **args)


@pytest.mark.parametrize(
    ("case", "implementation"),
    [(case, "matmul") for case in CASES] + [(CASES[1], "lax"), (CASES[2], "lax")],
)
def test_convolution_equals_flax_in_outputs_and_gradients(case, implementation):
    """The same parameters give nn.Conv's output and gradients to 1e-5."""
    own, reference = _modules(case, implementation)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *case[:3])).astype(np.float32)
    kernel = rng.normal(size=(*case[4], *case[2:4])).astype(np.float32)
    bias = rng.normal(size=case[3]).astype(np.float32)

    def loss(params, x, module):
        y = module.apply({"params": params}, x)
        weights = jnp.sin(jnp.arange(y.size)).reshape(y.shape)
        return jnp.mean(weights * y**2) / kernel[..., 0].size, y

    @jax.jit
    def both(params, x):
        grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
        return [grad(params, x, module) for module in (own, reference)]

    got, expected = both({"kernel": kernel, "bias": bias}, x)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        got,
        expected,
    )


def test_convolution_starts_with_the_parameters_of_flax():
    """Same key, same parameter tree and bits as nn.Conv: checkpoints are exchangeable."""
    own, reference = _modules(CASES[0], "matmul")
    x = np.zeros((1, *CASES[0][:3]), np.float32)
    params, expected = (
        jax.jit(batch_draws(m.init))(jax.random.key(3), x) for m in (own, reference)
    )
    jax.tree.map(np.testing.assert_array_equal, params, expected)


@pytest.mark.parametrize("case", [CASES[0], CASES[4]])
def test_convolution_of_a_population_in_a_scan_equals_each_member_alone(case):
    """vmap over parameters inside scan changes no number beyond 1e-5."""
    own, reference = _modules(case, "matmul")
    x = _normal(3, 2, *case[:3])
    keys = jax.random.split(jax.random.key(1), 3)
    params = jax.device_get(jax.jit(jax.vmap(lambda k: own.init(k, x[0])))(keys))

    @functools.partial(jax.jit, static_argnums=0)
    def descend(module, params, x):
        grads = jax.grad(lambda p: jnp.mean(jnp.square(module.apply(p, x))))(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    def body(params, _):
        return jax.vmap(lambda p, x: descend(own, p, x))(params, x), None

    scanned = jax.jit(lambda p: jax.lax.scan(body, p, None, length=2)[0])(params)
    scanned = jax.device_get(scanned)
    for member in range(3):
        alone = jax.tree.map(lambda p, i=member: p[i], params)
        for _ in range(2):
            alone = descend(reference, alone, x[member])
        for a, b in zip(jax.tree.leaves(scanned), jax.tree.leaves(alone)):
            np.testing.assert_allclose(a[member], b, rtol=1e-5, atol=1e-5)


def test_any_number_of_leading_axes_is_one_batch():
    """[T, B, H, W, C] gives the images of [T * B, H, W, C]; no leading axis works too."""
    kernel, x = _normal(3, 3, 2, 5), _normal(2, 3, 6, 6, 2)
    conv2d = jax.jit(conv.conv2d)
    y = np.asarray(conv2d(x, kernel))
    flat = conv2d(x.reshape(6, 6, 6, 2), kernel)
    np.testing.assert_array_equal(y.reshape(flat.shape), flat)
    np.testing.assert_allclose(conv2d(x[0, 0], kernel), y[0, 0], atol=1e-5)


@pytest.mark.parametrize("size", [(22, 11), (5, 6), (1, 1)])
def test_max_pool_equals_flax_in_outputs_and_gradients(size):
    """Slices give reduce_window's maxima, and its gradients where no two are equal."""
    x = _normal(2, *size, 3) - 5.0

    def run(implementation):
        def loss(x):
            y = conv.max_pool(x, implementation=implementation)
            return jnp.sum(jnp.sin(7.0 * y)), y

        (_, y), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(x)
        return y, grads

    y, grads = run("matmul")
    expected = jax.jit(lambda x: nn.max_pool(x, (3, 3), (2, 2), "SAME"))(x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_allclose(grads, run("lax")[1], atol=1e-5)


def test_max_pool_gives_tied_maxima_one_gradient_in_all():
    """A constant window passes on its gradient once, however it is shared."""

    @jax.jit
    @jax.grad
    def alone(x):
        return jnp.sum(conv.max_pool(x[..., 1:2, 1:2, :]))

    x = np.zeros((1, 3, 3, 1), np.float32)
    np.testing.assert_allclose(np.asarray(alone(x))[0, 1, 1, 0], 1.0)
    grads = jax.jit(jax.grad(lambda x: conv.max_pool(x)[0, 0, 0, 0]))(x)
    np.testing.assert_allclose(np.sum(np.asarray(grads)), 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"padding": "CIRCULAR"}, "padding: 'CIRCULAR'"),
        ({"implementation": "cudnn"}, "implementation: 'cudnn'"),
        ({"padding": "VALID"}, "size 2 is too small"),
    ],
)
def test_bad_convolution_arguments_are_named(change, message):
    """An error says what was given."""
    with pytest.raises(ValueError, match=message):
        conv.conv2d(np.zeros((1, 2, 2, 1)), np.zeros((3, 3, 1, 1)), **change)
