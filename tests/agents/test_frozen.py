"""Agents that play and learn nothing."""

import jax
import jax.numpy as jnp
import numpy as np

from mtrl_jax import types
from mtrl_jax.agents.common import frozen, watched

KEY = jax.random.key(0)


def agent(choice):
    """Returns an agent that does ``choice + hp`` and notes its carry and hp down."""

    def act(learner, carry, ts, key, hp):
        action = jnp.full(ts.first.shape, choice + hp, jnp.int32)
        return action, carry - 1, (carry, hp)

    def init(key, hp):
        return {"hp": hp}

    return types.Agent(init, lambda batch: jnp.zeros(batch, jnp.int32), act, None)


def steps(legal):
    """Returns a TimeStep of a slot for each row of ``legal`` [B, M]."""
    first = np.zeros(len(legal), bool)
    return types.TimeStep({}, first, first, first, first, first, legal)


def remember(carry, ts, action):
    return carry + 100 + action


def test_uniform_actions_of_a_box_are_numbers_in_it():
    """A dimension without bounds is explored where policies begin, from -1 to 1."""
    infinite = float("inf")
    space = types.Box((-infinite, -3.0, 0.0), (infinite, -1.0, infinite))
    action = np.asarray(
        frozen.uniform(jax.random.key(0), space, np.ones((1000, 3), bool))
    )
    np.testing.assert_allclose(action.min(0), [-1, -3, -1], atol=0.02)
    np.testing.assert_allclose(action.max(0), [1, -1, 1], atol=0.02)


def test_uniform_choices_are_of_each_groups_own_legal_ones():
    """Of three groups, the second of a single legal choice."""
    space = types.Factorised((2, 3, 2))
    legal = np.array([[1, 1, 0, 1, 0, 1, 1]] * 1000, bool)
    action = np.asarray(frozen.uniform(KEY, space, legal))
    assert (action[:, 1] == 1).all()
    joint = np.bincount(2 * action[:, 0] + action[:, 2], minlength=4) / 1000
    np.testing.assert_allclose(joint, 0.25, atol=0.06)


def test_a_share_of_the_actions_is_any_and_what_is_remembered_is_what_was_played():
    """Notes are of the agent's own choice; at 0 it is the agent itself."""
    own, slots = agent(1), 4000
    player = frozen.make(own, types.Discrete(4), 0.6, remember)
    legal = np.array([[True, True, True, False]] * slots)
    carry = np.arange(slots)
    action, after, notes = player.act((), carry, steps(legal), KEY, 0)
    share = np.bincount(action, minlength=4) / slots
    np.testing.assert_allclose(share, [0.2, 0.6, 0.2, 0.0], atol=0.03)
    np.testing.assert_array_equal(after, carry - 1 + 100 + action)
    np.testing.assert_array_equal(notes[0], carry)
    unaware = frozen.make(own, types.Discrete(4), 0.6)
    np.testing.assert_array_equal(
        unaware.act((), carry, steps(legal), KEY, 0)[1], carry - 1
    )
    learner = {"w": 1}
    for each in (player, frozen.make(own, types.Discrete(4))):
        assert each.update(learner, None, KEY, 0, 0) == (learner, {}, ())
    assert frozen.make(own, types.Discrete(4)).act is own.act


def test_a_teacher_that_watches_says_what_it_would_and_remembers_what_was_done():
    """Each by its own hyperparameters; the player does not see its teacher."""
    made = watched.make(agent(1), agent(5), 0.0, remember)
    learner, carry = made.init(KEY, 2), made.carry(3)
    assert learner.player == {"hp": 2} and learner.teacher == {"hp": 0.0}
    ts = steps(np.ones((3, 4), bool))
    for said in (0, 102):
        action, carry, notes = made.act(learner, carry, ts, KEY, 2)
        assert action.tolist() == [3] * 3
        assert notes[0].tolist() == [said] * 3 and notes[1] == 0.0
    assert carry.player.tolist() == [-2] * 3 and carry.teacher.tolist() == [204] * 3
    unaware = watched.make(agent(1), agent(5), 0.0, None)
    _, carry, _ = unaware.act(learner, unaware.carry(3), ts, KEY, 2)
    assert carry.teacher.tolist() == [-1] * 3
    assert made.update(learner, None, KEY, 2, 0) == (learner, {}, ())
