"""What a pool shows: which leaf becomes what, in numpy alone."""

import types

import numpy as np
import pytest

from mtrl_jax.envs import envpool_observations as observations


def spec(shape, dtype, low=0, high=1):
    return types.SimpleNamespace(shape=shape, dtype=dtype, minimum=low, maximum=high)


def pool(family, **options):
    return types.SimpleNamespace(family=family, options=options)


def seen(family, specs, raw, batch, **options):
    """Returns what is observed, and the shapes and dtypes that are said of it."""
    leaves = observations.leaves(pool(family, **options), specs)
    return (
        observations.observe(leaves, raw, batch, np),
        observations.structs(leaves, specs),
    )


@pytest.mark.parametrize(
    ("low", "high", "given", "expected"),
    [
        (-1, 1, [[-1], [1]], [[1, 0, 0], [0, 0, 1]]),
        (2, 3, [[2], [3]], [[1, 0], [0, 1]]),
        # 1,024 values are too many.
        (0, 1024, [[7], [1024]], [[7], [1024]]),
    ],
)
def test_a_few_whole_numbers_are_one_hot_from_the_lowest_on(low, high, given, expected):
    """Each number of them; many are numbers."""
    specs = {"obs": spec((-1, 1), np.int32, low, high), "reward": spec((), np.float32)}
    found, structs = seen("classic_control", specs, {"obs": np.int32(given)}, (2, 1))
    np.testing.assert_array_equal(found["vector"], np.float32(expected)[:, None])
    assert found["vector"].dtype == structs["vector"].dtype == np.float32
    assert structs["vector"].shape == found["vector"].shape[2:]
    assert set(structs) == {"vector"}


def test_vectors_are_joined_in_the_order_of_their_names_member_by_member():
    """Of two members with two slots, whose arrays a pool lists one after the other."""
    specs = {
        "obs:b": spec((2, 2), np.float64, -np.inf, np.inf),
        "obs:a": spec((), np.float64, -np.inf, np.inf),
    }
    raw = {"obs:b": np.arange(16.0).reshape(4, 2, 2), "obs:a": np.arange(4.0) + 100}
    found, structs = seen("dmc", specs, raw, (2, 2))
    expected = np.concatenate(
        [np.arange(4)[:, None] + 100, np.arange(16).reshape(4, 4)], 1
    )
    np.testing.assert_array_equal(found["vector"], expected.reshape(2, 2, 5))
    assert structs["vector"].shape == (5,)


def test_cells_of_minigrid_become_planes_and_its_words_bits():
    """Kind, colour, state; a comma is no l, and without the mission there are none."""
    specs = {
        "obs:image": spec((1, 2, 3), np.uint8, 0, 255),
        "obs:mission": spec((4,), np.uint8, 0, 255),
    }
    raw = {
        "obs:image": np.uint8([[[[1, 2, 0], [10, 5, 2]]]]),
        "obs:mission": np.frombuffer(b"al,\0", np.uint8)[None],
    }
    found, structs = seen("minigrid", specs, raw, (1, 1), mission=True)
    assert found["image"].dtype == structs["image"].dtype == bool
    planes = [np.flatnonzero(cell).tolist() for cell in found["image"][0, 0, 0]]
    assert planes == [[1, 11 + 2, 17 + 0], [10, 11 + 5, 17 + 2]]
    codes = found["vector"][0, 0].reshape(4, 5) @ 2 ** np.arange(5)
    assert codes.tolist() == [1, 12, 31, 0]
    assert structs["vector"].shape == (20,)
    found, _ = seen("minigrid", specs, raw, (1, 1), mission=False)
    assert set(found) == {"image"}
