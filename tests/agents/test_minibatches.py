"""The order of rows: a bijection, another each time, even over the rollout."""

import jax
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.agents.common import minibatches

KEY = jax.random.key(0)


@pytest.mark.parametrize("rows", [1, 2, 7, 24, 256, 257, 1000, 8192, 65536, 100_003])
def test_the_shuffle_is_a_bijection(rows):
    """Every row of a pass is seen exactly once, also where products need 32 bits."""
    for seed in range(3):
        index = np.asarray(minibatches.shuffled(jax.random.key(seed), rows))
        assert index.dtype == np.int32
        np.testing.assert_array_equal(np.sort(index), np.arange(rows))


@pytest.mark.slow
def test_the_shuffle_of_more_rows_than_can_be_multiplied_is_a_bijection():
    """Above 2^24 rows the affine map would overflow and leave out one in twenty."""
    rows = 17_825_792
    index = np.asarray(minibatches.shuffled(KEY, rows))
    np.testing.assert_array_equal(np.sort(index), np.arange(rows))


def test_no_two_passes_have_the_same_minibatches():
    """Multiplier and offset are drawn anew for each."""
    passes = [
        np.asarray(minibatches.shuffled(key, 1024)) for key in jax.random.split(KEY, 8)
    ]
    assert len({frozenset(index[:256].tolist()) for index in passes}) == 8


def test_few_rows_get_any_permutation():
    """All 24 orders of 4 slots occur; an affine bijection has only 8."""
    keys = jax.random.split(KEY, 400)
    orders = jax.vmap(lambda key: minibatches.shuffled(key, 4))(keys)
    assert len(np.unique(orders, axis=0)) == 24


@pytest.mark.parametrize("rows", [257, 1000, 2048, 8192, 65536, 640_000])
def test_every_minibatch_is_drawn_from_all_over_the_rollout(rows):
    """A quarter of the rows has each eighth's share, within a third, at any draw."""
    multipliers = minibatches.multipliers(rows).astype(np.int64)
    assert len(multipliers) >= 8
    for a in multipliers:
        index = np.arange(rows // 4) * a % rows
        share = np.bincount(index * 8 // rows, minlength=8) / (rows / 32)
        assert np.abs(share - 1).max() < 1 / 3


@pytest.mark.parametrize("groups", [(), (0, 1) * 8], ids=["rows", "groups"])
def test_every_pass_takes_each_row_once_in_an_order_of_its_own(groups):
    """So it does with each group's rows, whose share is the same in every minibatch."""
    rows = minibatches.Rows((), 16, "slots", lambda index: index, groups)
    order = np.asarray(rows.order(KEY, 2, 4))
    assert order.shape == (8, 4)
    passes = order.reshape(2, 16)
    np.testing.assert_array_equal(np.sort(passes), [range(16)] * 2)
    assert (passes[0] != passes[1]).any()
    if groups:
        np.testing.assert_array_equal(order % 2, [[0, 0, 1, 1]] * 8)
        assert minibatches.grouped(groups, 4) == (0, 0, 1, 1)
        assert (order[:, :2] // 2 != order[:, 2:] // 2).any()


@pytest.mark.parametrize(
    ("groups", "given", "words"),
    [
        ((), 7, "minibatches: 7 does not divide the 16 steps of a rollout; use 4 or 8"),
        ((), 32, "32 does not divide the 16 steps of a rollout; use 16"),
        ((0,) * 4 + (1,) * 12, 8, "8 does not divide the 4 steps of task 0, .*; use 4"),
        ((0,) * 6 + (1,) * 10, 4, "4 does not divide the 6 steps of task 0, .*; use 2"),
    ],
)
def test_what_does_not_divide_is_refused_with_what_does(groups, given, words):
    """In rows of their own name; of groups what divides each."""
    rows = minibatches.Rows((), 16, "steps", lambda index: index, groups)
    with pytest.raises(ValueError, match=f"{words}$"):
        rows.order(KEY, 2, given)


def test_a_slot_is_taken_with_all_that_is_its_own():
    """Steps, actions, what acting noted down, and the memory that it began with."""
    number = np.arange(4.0, dtype=np.float32)  # of each of four slots
    steps, actions = (np.broadcast_to(number, (n, 4)) for n in (3, 2))
    ts = types.TimeStep({"vector": steps[..., None]}, *[steps] * 6)
    carry = {"core": number[:, None], "action": number}
    rollout = types.Rollout(ts, actions, {"value": actions}, carry)
    rows = minibatches.slots(rollout)
    assert rows.number == 4
    taken = rows.take(np.array([2, 0]))
    for leaf in jax.tree.leaves((taken.ts, taken.action, taken.extras)):
        own = np.reshape(leaf, (-1, 2))
        np.testing.assert_array_equal(own, np.broadcast_to([2, 0], own.shape))
    for leaf in jax.tree.leaves(taken.carry):
        np.testing.assert_array_equal(np.ravel(leaf), [2, 0])
