"""Rows side by side: what goes into an array comes out of it, of any rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.agents.common import packing

ROWS = 5


def tree_of(axes):
    """Returns leaves of all kinds with ``axes`` in rows, [5] or [2, 5]."""
    rows = (2, ROWS)[2 - axes :]
    rng = np.random.default_rng(0)
    return {
        "reward": jnp.asarray(rng.normal(size=rows), jnp.float32),
        "obs": jnp.asarray(rng.normal(size=(*rows, 2, 3)), jnp.float32),
        "action": jnp.asarray(rng.integers(-(2**31), 2**31, rows), jnp.int32),
        "mask": jnp.asarray(rng.integers(0, 2, (*rows, 4)), bool),
        "digit": jnp.asarray(rng.integers(0, 256, rows), jnp.uint8),
        "image": jnp.asarray(rng.integers(0, 256, (*rows, 9, 9)), jnp.uint8),
        "half": jnp.asarray(rng.normal(size=rows), jnp.bfloat16),
        "nothing": (),
    }


@pytest.mark.parametrize("axes", [1, 2])
def test_rows_come_out_as_they_went_in(axes):
    """Bit for bit, in another order and number."""
    tree = tree_of(axes)
    arrays, unpack = packing.pack(tree, axes)
    index = np.array([3, 0, 3])
    found = unpack([x.take(index, axis=axes - 1) for x in arrays])
    expected = jax.tree.map(lambda x: x.take(index, axis=axes - 1), tree)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("axes", [1, 2])
def test_rows_are_the_same_however_they_are_taken(axes):
    """Leaf by leaf, as on CPUs, or side by side."""
    tree, index = tree_of(axes), jnp.array([3, 0, 3])
    jax.tree.map(
        np.testing.assert_array_equal,
        packing.taker(tree, axes, is_packed=False)(index),
        packing.taker(tree, axes, is_packed=True)(index),
    )


def test_small_leaves_share_two_arrays():
    """Floats one, indices and flags the other; an image and a foreign dtype none."""
    arrays, _ = packing.pack(tree_of(1), 1)
    shapes = sorted((str(x.dtype), x.shape) for x in arrays)
    assert shapes == [
        ("bfloat16", (ROWS,)),
        ("float32", (ROWS, 7)),
        ("int32", (ROWS, 6)),
        ("uint8", (ROWS, 9, 9)),
    ]


def test_a_nan_and_an_infinity_travel():
    """What a lost member computes is not repaired on the way."""
    tree = {"a": jnp.array([jnp.nan, 1.0]), "b": jnp.array([jnp.inf, -0.0])}
    arrays, unpack = packing.pack(tree, 1)
    found = unpack(arrays)
    np.testing.assert_array_equal(found["a"], tree["a"])
    np.testing.assert_array_equal(found["b"], tree["b"])
    assert len(arrays) == 1
