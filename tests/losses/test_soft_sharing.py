"""Distances between the networks of tasks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.losses import soft_sharing

TREE = {
    "kernel": jax.random.normal(jax.random.key(0), (3, 4, 2)),
    "bias": jax.random.normal(jax.random.key(1), (3, 5)),
}


def test_the_sum_over_pairs_is_k_times_the_distance_to_the_mean():
    """Σ_{i<j} ‖θ_i − θ_j‖² = K Σ_i ‖θ_i − θ̄‖²; the gradients of the tasks cancel."""
    pairs = sum(
        float(np.sum(np.square(np.asarray(x)[i] - np.asarray(x)[j])))
        for x in TREE.values()
        for i in range(3)
        for j in range(i)
    )
    distance, slope = jax.value_and_grad(soft_sharing.distance, argnums=1)("l2", TREE)
    np.testing.assert_allclose(3 * distance, pairs, rtol=1e-5)
    for leaf in slope.values():
        np.testing.assert_allclose(jnp.sum(leaf, axis=0), 0.0, atol=1e-5)


def test_the_trace_norm_is_the_sum_of_singular_values():
    """Of the layers' unfoldings; its gradient is U Vᵀ, and finite for equal networks."""
    wanted, slopes = 0.0, {}
    for name, x in TREE.items():
        rows = np.asarray(x, np.float64).reshape(3, -1)
        u, s, v = np.linalg.svd(rows, full_matrices=False)
        wanted += s.sum()
        slopes[name] = (u @ v).reshape(x.shape)
    found, slope = jax.value_and_grad(soft_sharing.distance, argnums=1)("trace", TREE)
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
    for name, leaf in slope.items():
        np.testing.assert_allclose(leaf, slopes[name], rtol=1e-2, atol=1e-3)
    for same in (jnp.ones((3, 4)), jnp.zeros((3, 4))):
        value, slope = jax.value_and_grad(soft_sharing.trace_norm)(same)
        assert np.isfinite(value) and np.isfinite(slope).all()
    np.testing.assert_allclose(
        soft_sharing.trace_norm(jnp.ones((3, 4))), 12**0.5, rtol=1e-3
    )


@pytest.mark.parametrize("apart", [1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 0.0])
def test_the_trace_norm_never_pulls_harder_than_its_directions(apart):
    """‖U Vᵀ‖ is at most √K: of rows all but equal, rounding is not magnified."""
    rng = np.random.default_rng(2)
    rows = rng.normal(size=(1, 4096)) + apart * rng.normal(size=(4, 4096))
    slope_of = jax.grad(soft_sharing.trace_norm)
    for of in (slope_of, jax.jit(slope_of)):
        assert np.linalg.norm(of(rows.astype(np.float32))) <= 4**0.5 + 0.1


def test_an_unknown_distance_is_named():
    """With those there are."""
    with pytest.raises(ValueError, match="distance: unknown 'far'; one of l2, trace"):
        soft_sharing.distance("far", TREE)
