"""The contracts' small parts: action spaces, keys, operations on trees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import random, tree, types

BOX = types.Box((-1.0, -2.0, 0.0), (1.0, 2.0, 3.0))


@pytest.mark.parametrize(
    ("space", "mask_size", "shape", "dtype"),
    [
        (types.Discrete(5), 5, (), jnp.int32),
        (types.Factorised((2, 3, 4)), 9, (3,), jnp.int32),
        (BOX, 3, (3,), jnp.float32),
    ],
)
def test_action_spaces_have_these_shapes(space, mask_size, shape, dtype):
    """One mask entry per action, per choice of each group, per dimension."""
    assert types.action_mask_size(space) == mask_size
    struct = types.action_shape(space)
    assert (struct.shape, struct.dtype) == (shape, dtype)


def bits(key):
    return np.asarray(jax.random.key_data(key))


def tags():
    """Returns {name: number} of the purposes that random keys have."""
    named = vars(random).items()
    return {k: v for k, v in named if k.isupper() and isinstance(v, int)}


def test_a_members_root_key_does_not_depend_on_the_population():
    """Growing a population leaves the streams of the members it had."""
    many, few = bits(random.roots(3, 16)), bits(random.roots(3, 4))
    np.testing.assert_array_equal(many[:4], few)
    assert len(np.unique(many, axis=0)) == 16
    assert not (many == bits(random.roots(4, 16))).all(axis=-1).any()


def test_at_folds_the_counter_first_and_then_the_tag():
    """A saved run's meaning: fold_in(fold_in(root, counter), tag), batched or not."""
    roots = random.roots(0, 3)
    batched = random.at(roots, jnp.int32(7), random.ACT)
    for p in range(3):
        alone = jax.random.fold_in(jax.random.fold_in(roots[p], 7), random.ACT)
        np.testing.assert_array_equal(bits(batched[p]), bits(alone))
        np.testing.assert_array_equal(
            bits(random.at(roots[p], 7, random.ACT)), bits(alone)
        )


def test_keys_of_all_purposes_moments_and_members_differ():
    """No two of (member, counter, tag) share a key; a tag's number is its own."""
    numbers = list(tags().values())
    assert len(numbers) == len(set(numbers)) >= 8
    roots = random.roots(0, 4)
    keys = [bits(random.at(roots, c, tag)) for c in range(8) for tag in numbers]
    assert len(np.unique(np.concatenate(keys), axis=0)) == 4 * 8 * len(numbers)


def test_tags_keep_the_numbers_that_saved_runs_were_made_with():
    """Changing one would silently give a resumed run other random numbers."""
    numbers = {
        "INIT": 0, "ENV": 1, "ACT": 2, "UPDATE": 3,
        "EVALUATE": 4, "PBT": 5, "SEARCH": 6,
        "DATA": 8, "PROMPT": 9, "REPLAY": 10,
    }  # fmt: skip
    # All that there are: a new one is protected from its first run on.
    assert tags() == numbers


def test_fold_broadcasts_keys_and_data():
    """[P, 1] keys and [1, B] data give [P, B] keys, each as if alone."""
    roots = random.roots(1, 2)
    keys = random.fold(roots[:, None], jnp.arange(3)[None])
    assert keys.shape == (2, 3)
    np.testing.assert_array_equal(
        bits(keys[1, 2]), bits(jax.random.fold_in(roots[1], 2))
    )


@pytest.fixture(name="pair")
def _pair():
    x = {"a": jnp.arange(6.0).reshape(2, 3), "b": (jnp.arange(2), jnp.zeros((2, 1, 2)))}
    return x, jax.tree.map(lambda leaf: leaf + 100, x)


def test_where_selects_by_leading_entries(pair):
    """A condition [P] picks whole rows, a condition [P, B] picks whole entries."""
    x, y = pair
    out = tree.where(jnp.array([True, False]), x, y)
    np.testing.assert_array_equal(out["a"], [[0, 1, 2], [103, 104, 105]])
    np.testing.assert_array_equal(out["b"][0], [0, 101])
    np.testing.assert_array_equal(out["b"][1], [[[0, 0]], [[100, 100]]])
    fine = jnp.array([[True, False, True], [False, True, False]])
    out = tree.where(fine, x["a"][..., None], y["a"][..., None])
    np.testing.assert_array_equal(out[..., 0], [[0, 101, 2], [103, 4, 105]])


def test_where_selects_keys_too():
    """Typed keys are leaves like any other."""
    x, y = random.roots(0, 2), random.roots(1, 2)
    out = tree.where(jnp.array([True, False]), x, y)
    np.testing.assert_array_equal(bits(out), [bits(x)[0], bits(y)[1]])


def test_take_concatenate_stack_and_slice_work_on_every_leaf(pair):
    """Each is the array operation, leaf by leaf, along the axis given."""
    x, y = pair
    np.testing.assert_array_equal(tree.take(x, jnp.array([1, 1]))["b"][0], [1, 1])
    np.testing.assert_array_equal(
        tree.take(x["a"], jnp.array([2, 0]), axis=1), [[2, 0], [5, 3]]
    )
    joined = tree.concatenate([x, y])
    np.testing.assert_array_equal(joined["b"][0], [0, 1, 100, 101])
    assert tree.concatenate([x]) is x
    assert tree.stack([x, y], axis=1)["a"].shape == (2, 2, 3)
    np.testing.assert_array_equal(
        tree.slice_axis(x["a"], 1, 3, axis=1), [[1, 2], [4, 5]]
    )


def test_copy_gives_every_leaf_a_buffer_of_its_own():
    """target = copy(params) may be donated beside params."""
    x = {"w": jnp.ones(4)}
    x["alias"] = x["w"]
    fresh = tree.copy(x)
    pointers = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((x, fresh))}
    assert len(pointers) == 3


def test_all_finite_finds_the_member_and_ignores_integers():
    """NaN and infinity in any float leaf count, reduced over all but the first axes."""
    x = {
        "w": jnp.array([[1.0, 2.0], [jnp.nan, 0.0], [1.0, 1.0]]),
        "b": jnp.array([0.0, 0.0, -jnp.inf], jnp.bfloat16),
        "n": jnp.arange(3),
        "key": random.roots(0, 3),
    }
    np.testing.assert_array_equal(tree.all_finite(x, axes=1), [True, False, False])
    assert not tree.all_finite(x)
    assert tree.all_finite({"w": jnp.ones(2)})
    none = tree.all_finite({"n": x["n"], "key": x["key"]}, axes=1)
    np.testing.assert_array_equal(none, [True] * 3)
