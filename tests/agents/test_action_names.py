"""Permuted actions: what is chosen, what is legal, and who has which numbers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.agents.common import action_names
from mtrl_jax.networks import heads

KEY = jax.random.key(3)
SINGLE, GROUPS = types.Discrete(3), types.Factorised((2, 3))


def test_choices_and_masks_are_renamed_together_and_come_back():
    """σ = (2, 0, 1) of the first sequence, none of the second; by hand."""
    names = jnp.asarray([[2, 0, 1], [0, 1, 2]])
    action = jnp.asarray([[0, 0], [1, 1], [2, 2]])
    found = action_names.renamed(SINGLE, names, action)
    np.testing.assert_array_equal(found, [[2, 0], [0, 1], [1, 2]])
    back = action_names.restored(SINGLE, names, found)
    np.testing.assert_array_equal(back, action)
    mask = jnp.asarray([[True, False, False]] * 2)
    legal = [[False, False, True], [True, False, False]]
    np.testing.assert_array_equal(action_names.legal(SINGLE, names, mask), legal)


def test_each_group_of_a_factorised_action_is_renamed_by_itself():
    """σ swaps the first group's two choices and turns the second's three."""
    names = jnp.asarray([[1, 0, 3, 4, 2]])
    action = jnp.asarray([[[0, 0]], [[1, 2]]])
    found = action_names.renamed(GROUPS, names, action)
    np.testing.assert_array_equal(found, [[[1, 1]], [[0, 0]]])
    back = action_names.restored(GROUPS, names, found)
    np.testing.assert_array_equal(back, action)
    drawn = np.asarray(action_names.draw(KEY, GROUPS, 500, 1.0))
    assert {tuple(sorted(x)) for x in drawn[:, :2]} == {(0, 1)}
    assert {tuple(sorted(x)) for x in drawn[:, 2:]} == {(2, 3, 4)}


def test_a_group_that_a_task_does_not_have_costs_nothing_under_any_numbers():
    """log 2 of the other group alone, no gradient, and its choice is 0 when acting."""
    mask = jnp.broadcast_to(jnp.asarray([1, 1, 0, 0, 0], bool), (2, 60, 5))
    action = jnp.broadcast_to(jnp.asarray([1, 0]), (1, 60, 2))
    ts = types.TimeStep({}, None, None, None, None, None, mask)

    @jax.jit
    def permuted(logits):
        names = action_names.draw(KEY, GROUPS, 60, 1.0)
        rollout = action_names.of_rollout(
            GROUPS, names, types.Rollout(ts, action, (), ())
        )
        policy = heads.policy(GROUPS, logits, rollout.ts.action_mask[:-1])
        chosen, _ = policy.sample_and_log_prob(KEY)
        own = action_names.restored(GROUPS, names, chosen)
        return -policy.log_prob(rollout.action), own, rollout.action

    nats, own, renamed = permuted(jnp.zeros((1, 60, 5)))
    np.testing.assert_allclose(nats, np.log(2), rtol=1e-6)
    assert set(np.unique(renamed[..., 1])) == {0, 1, 2}
    np.testing.assert_array_equal(own[..., 1], 0)
    slope = jax.jit(jax.grad(lambda x: permuted(x)[0].sum()))(jnp.zeros((1, 60, 5)))
    np.testing.assert_array_equal(slope[..., 2:], 0)
    np.testing.assert_allclose(np.abs(slope[..., :2]), 0.5, rtol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_share_of_the_sequences_has_one_of_all_orders_each_as_likely(share):
    """Of 6,000 sequences, within 4 σ; the others keep their numbers."""
    number = 6000
    drawn = np.asarray(action_names.draw(KEY, SINGLE, number, share))
    for order in itertools.permutations(range(3)):
        likely = share / 6 + (1 - share) * (order == (0, 1, 2))
        sigma = np.sqrt(number * likely * (1 - likely))
        count = (drawn == order).all(axis=1).sum()
        assert abs(count - number * likely) <= 4 * sigma


def test_what_is_no_choice_has_no_other_number():
    """One line that says what would work."""
    with pytest.raises(ValueError, match="no choices to permute; use Discrete"):
        action_names.draw(KEY, types.Box((0.0,), (1.0,)), 2, 1.0)
