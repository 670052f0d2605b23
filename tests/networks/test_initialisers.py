"""The orthogonal initialiser: orthonormal, uniform, the same for every population."""

import jax
import numpy as np
import pytest

from mtrl_jax.networks import initialisers


@pytest.mark.parametrize("shape", [(20, 6), (6, 20), (7, 7), (3, 3, 2, 5), (4, 1)])
def test_columns_or_rows_are_orthonormal_times_the_gain(shape):
    """Tall kernels have orthogonal columns, wide ones rows, of length gain."""
    matrix = initialisers.orthogonal(3.0)(jax.random.key(0), shape)
    assert matrix.shape == shape
    matrix = np.asarray(matrix).reshape(-1, shape[-1])
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    gram = tall.T @ tall
    np.testing.assert_allclose(gram, 9.0 * np.eye(gram.shape[0]), atol=1e-4)


@pytest.mark.parametrize("shape", [(3, 3), (4, 2), (2, 4)])
def test_matrices_are_uniformly_distributed(shape):
    """Every entry has mean 0, variance 1/n and the fourth moment 3/(n(n+2))."""
    draws, n = 20_000, max(shape)
    keys = jax.random.split(jax.random.key(0), draws)
    init = initialisers.orthogonal()
    matrices = np.asarray(jax.jit(jax.vmap(lambda k: init(k, shape)))(keys), np.float64)
    for power, expected in ((1, 0.0), (2, 1 / n), (4, 3 / (n * (n + 2)))):
        moment = np.mean(matrices**power, axis=0)
        spread = np.std(matrices**power, axis=0) / draws**0.5
        assert np.all(np.abs(moment - expected) < 5 * spread)
    if shape == (3, 3):
        determinants = np.linalg.det(matrices)
        assert abs(np.mean(determinants)) < 5 / draws**0.5


def test_a_member_starts_as_it_would_alone():
    """vmap over keys gives the matrices of one key at a time."""
    init = initialisers.orthogonal()
    keys = jax.random.split(jax.random.key(0), 3)
    together = jax.vmap(lambda k: init(k, (9, 4)))(keys)
    for matrix, key in zip(together, keys):
        np.testing.assert_allclose(matrix, init(key, (9, 4)), atol=1e-6)
