"""Observations: the one form that all have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.envs import observations


def test_leaves_become_one_vector_in_the_order_of_their_names():
    """Numbers, vectors and tables, as float32; once more changes nothing."""
    obs = {
        "b": np.array([[1, 2], [3, 4]], np.int32),
        "a": np.array([True, False]),
        "c": np.float32(5.0),
    }
    found = observations.canonical(obs)
    assert list(found) == ["vector"] and found["vector"].dtype == jnp.float32
    np.testing.assert_array_equal(found["vector"], [1, 0, 1, 2, 3, 4, 5])
    again = observations.canonical(found)
    np.testing.assert_array_equal(again["vector"], found["vector"])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("uint8", "uint8"),
        ("bool", "bool"),
        ("int32", "float32"),
        ("float16", "float32"),
    ],
)
def test_images_are_joined_along_their_channels(given, kept):
    """Bytes and planes stay what they are; beside them the rest is a vector."""
    left = np.arange(12).reshape(2, 3, 2) % 2
    right = np.arange(6).reshape(2, 3, 1) % 2
    obs = {"x": left.astype(given), "y": np.float32([7]), "z": right.astype(given)}
    found = observations.canonical(obs)
    assert set(found) == {"image", "vector"} and found["image"].dtype == kept
    np.testing.assert_array_equal(found["image"], np.concatenate([left, right], -1))
    np.testing.assert_array_equal(found["vector"], [7])
    again = observations.canonical(found)
    assert all(again[name].dtype == x.dtype for name, x in found.items())
    jax.tree.map(np.testing.assert_array_equal, again, found)


@pytest.mark.parametrize(
    ("obs", "words"),
    [
        ({}, "give at least one"),
        (np.zeros((1, 2, 3, 4)), "of rank <= 3"),
        ([np.zeros((2, 3, 1)), np.zeros((3, 2, 1))], "one size and one dtype"),
        ([np.zeros((2, 3, 1)), np.zeros((2, 3, 1), bool)], "one size and one dtype"),
    ],
)
def test_what_has_no_such_form_is_refused(obs, words):
    """In one line, with the shapes."""
    with pytest.raises(ValueError, match=words) as error:
        observations.canonical(obs)
    assert "\n" not in str(error.value)


def test_padding_is_zeros_at_the_end_of_each_axis():
    """The largest size along each; what an environment does not show is zeros."""
    shapes = [{"image": (2, 3, 1), "vector": (4,)}, {"image": (3, 2, 2)}]
    structs = [
        {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in x.items()}
        for x in shapes
    ]
    target = observations.combine(structs)
    assert {name: x.shape for name, x in target.items()} == {
        "image": (3, 3, 2),
        "vector": (4,),
    }
    image = np.random.default_rng(0).normal(size=(5, 3, 2, 2)).astype(np.float32)
    found = observations.pad({"image": image}, target, (5,))
    np.testing.assert_array_equal(found["image"][:, :, :2], image)
    assert found["image"].shape == (5, 3, 3, 2) and not found["image"][:, :, 2].any()
    assert found["vector"].shape == (5, 4) and not found["vector"].any()
