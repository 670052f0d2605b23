"""Actions: what is made legal, what is drawn, and one space inside another."""

import jax
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.envs import actions

BOX = types.Box((-2.0, 0.0, -np.inf), (-1.0, np.inf, np.inf))


@pytest.mark.parametrize(
    ("space", "given", "legal"),
    [
        (types.Discrete(3), [-1, 0, 2, 3, 2**31 - 1], [0, 0, 2, 2, 2]),
        (
            types.Factorised((2, 3)),
            [[-1, -1], [1, 2], [2, 3], [9, 0]],
            [[0, 0], [1, 2], [1, 2], [1, 0]],
        ),
        (
            BOX,
            [[-3, -1, -1], [0, 5, 1e30], [np.nan, np.nan, np.nan], [-1.5, 0.5, 7]],
            # NaN is 0, as near as may be.
            [[-2, 0, -1], [-1, 5, 1e30], [-1, 0, 0], [-1.5, 0.5, 7]],
        ),
    ],
)
def test_what_is_out_of_range_becomes_the_nearest_that_is_not(space, given, legal):
    """What is legal stays to the bit."""
    dtype = types.action_shape(space).dtype
    given = np.asarray(given, dtype)[None]
    found = actions.sanitise(space, given, given.shape[:2])
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, np.asarray(legal, dtype)[None])


def test_infinities_become_finite():
    """At the end of a bounded range, and where there is none a number as well."""
    given = np.float32([[np.inf] * 3, [-np.inf] * 3])
    found = np.asarray(actions.sanitise(BOX, given, (2,)))
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found[:, 0], [-1, -2])
    assert found[1, 1] == 0 and found[0, 1] > 1e30 and found[1, 2] < -1e30


@pytest.mark.parametrize(
    ("space", "given", "batch"),
    [
        (types.Discrete(3), np.zeros((2, 3), np.float32), (2, 3)),
        (types.Discrete(3), np.zeros((3, 2), np.int32), (2, 3)),
        (types.Factorised((2, 3)), np.zeros((2, 3), np.int32), (2,)),
        (BOX, np.zeros((2, 2), np.float32), (2,)),
    ],
)
def test_another_shape_or_a_number_for_an_index_is_refused(space, given, batch):
    """With what was given and what is taken."""
    with pytest.raises(ValueError, match=r"^action: got .* takes "):
        actions.sanitise(space, given, batch)


def test_drawn_actions_are_uniform_over_each_choice_and_range():
    """Every index of every group alike, bounded ranges to their ends, others [-1, 1]."""
    key, batch = jax.random.key(0), (50, 60)
    one = np.asarray(actions.sample(types.Discrete(3), key, batch))
    each = np.asarray(actions.sample(types.Factorised((2, 5)), key, batch))
    assert one.shape == batch and each.shape == (*batch, 2)
    for x, size in ((one, 3), (each[..., 0], 2), (each[..., 1], 5)):
        share = np.bincount(x.ravel(), minlength=size) / x.size
        assert share.shape == (size,) and np.abs(share - 1 / size).max() < 0.05
    assert abs(np.corrcoef(each.reshape(-1, 2).T)[0, 1]) < 0.1
    real = np.asarray(actions.sample(BOX, key, batch)).reshape(-1, 3)
    for x, low, high in zip(real.T, (-2, -1, -1), (-1, 1, 1)):
        ends = np.array([x.min(), x.mean(), x.max()])
        expected = np.array([low, (low + high) / 2, high])
        assert x.min() >= low and x.max() <= high
        np.testing.assert_allclose(ends, expected, atol=0.05)


def test_a_range_without_an_end_and_one_that_is_the_same_keep_their_actions():
    """To the bit, beside one that is rescaled."""
    own = types.Box((-1.0, 0.0, -np.inf), (3.0, 1.0, np.inf))
    other = types.Box((-1.0, 0.0, -1.0, 0.0), (7.0, 1.0, 1.0, 1.0))
    space = actions.combine([own, other])
    assert space == types.Box((-1, 0, -np.inf, 0), (7, 1, np.inf, 1))
    action = np.float32([[-1, 0.1, 0.7, 9], [3, 0.3, -40, 9], [7, 1.0, 1e9, 9]])
    found = np.asarray(actions.unpad(space, own, action))
    np.testing.assert_array_equal(found[:, 1:], action[:, 1:3])
    np.testing.assert_allclose(found[:, 0], [-1, 1, 3], rtol=1e-6)
    # Of a finite range in one without an end nothing is known to rescale.
    np.testing.assert_array_equal(
        actions.unpad(space, other, action)[:, 2], action[:, 2]
    )


def test_a_choice_of_a_larger_space_keeps_its_own_groups():
    """The first, in their order; a discrete task has the first group alone."""
    space = types.Factorised((4, 3, 2))
    action = np.int32([[3, 2, 1], [0, 1, 0]])
    first = actions.unpad(space, types.Discrete(4), action)
    np.testing.assert_array_equal(first, [3, 0])
    two = actions.unpad(space, types.Factorised((4, 2)), action)
    np.testing.assert_array_equal(two, action[:, :2])
    alone = actions.unpad(types.Discrete(5), types.Discrete(3), action[:, 0])
    np.testing.assert_array_equal(alone, [3, 0])
