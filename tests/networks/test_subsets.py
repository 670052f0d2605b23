"""Small action sets inside large spaces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mtrl_jax import types
from mtrl_jax.networks import heads, subsets

SPACE = types.Factorised((3, 2, 4))
ROWS = ((0, 1, 2), (2, 0, 0), (1, 1, 3))
KEY = jax.random.key(1)


def embedded(rows=ROWS, space=SPACE, batch=5, legal=True):
    """Returns the policy of a subset with drawn preferences; called inside of jit."""
    table = subsets.table(space, rows)
    logits = np.random.default_rng(1).normal(size=(batch, len(table)))
    logits = jnp.asarray(logits, jnp.float32)
    mask = jnp.full((batch, types.action_mask_size(space)), legal)
    choice = heads.policy(
        types.Discrete(len(table)), logits, subsets.legal(space, table, mask)
    )
    return subsets.Embedded(choice, space, table)


def whole(space=SPACE, batch=5):
    """Returns a policy over all actions of a space; called inside of jit."""
    size = types.action_mask_size(space)
    params = np.random.default_rng(2).normal(size=(batch, size))
    params = jnp.asarray(params, jnp.float32)
    return heads.policy(space, params, jnp.ones((batch, size), bool))


def every_log_prob(policy, space=SPACE):
    """Returns log-probabilities [B, n] of all joint actions, each asked for alone."""
    actions = subsets.every_action(space)
    if isinstance(space, types.Discrete):
        actions = actions[:, 0]

    def of(action):
        return policy.log_prob(jnp.broadcast_to(action, (5, *action.shape)))

    return jax.vmap(of, out_axes=-1)(actions)


@pytest.mark.parametrize("space", [SPACE, types.Discrete(6)])
def test_actions_and_their_numbers_are_one_to_one(space):
    """``number`` undoes ``every_action``."""
    actions = subsets.every_action(space)
    given = actions if isinstance(space, types.Factorised) else actions[:, 0]
    numbers = jax.jit(functools.partial(subsets.number, space))(given)
    np.testing.assert_array_equal(numbers, np.arange(len(actions)))


def test_a_subset_is_a_distribution_on_its_rows_alone():
    """Embedding and reading back is the identity; everything else is impossible."""

    @jax.jit
    def said():
        policy = embedded()
        numbers = subsets.number(SPACE, jnp.asarray(ROWS))
        return every_log_prob(policy), policy.choice.logits, numbers

    log_p, logits, numbers = said()
    p = np.exp(log_p)
    np.testing.assert_allclose(p.sum(-1), 1.0, rtol=1e-5)
    softmax = scipy.special.softmax(logits, axis=-1)
    np.testing.assert_allclose(p[:, numbers], softmax, rtol=1e-5)
    assert np.count_nonzero(p[0]) == len(ROWS)


def test_rows_that_repeat_add_up():
    """A map that is not one to one sums first, in probabilities and in the divergence."""

    @jax.jit
    def said():
        policy, other = embedded((*ROWS, ROWS[0])), whole()
        first = policy.log_prob(jnp.broadcast_to(jnp.asarray(ROWS[0]), (5, 3)))
        every = every_log_prob(policy), every_log_prob(other)
        return policy.choice.logits, first, policy.kl(other), every, policy.mode()

    logits, first, kl, every, mode = said()
    best = subsets.every_action(SPACE)[np.asarray(every[0]).argmax(-1)]
    np.testing.assert_array_equal(mode, best)
    p = scipy.special.softmax(logits, axis=-1)
    np.testing.assert_allclose(np.exp(first), p[:, 0] + p[:, 3], rtol=1e-5)
    np.testing.assert_allclose(kl, brute_kl(*every), rtol=1e-5)


def brute_kl(log_p, log_q):
    """Returns Σ_a p (log p − log q) over all joint actions, in float64."""
    log_p, log_q = np.float64(log_p), np.float64(log_q)
    p = np.exp(log_p)
    return np.sum(np.where(p > 0, p * (log_p - log_q), 0.0), axis=-1)


@pytest.mark.parametrize("space", [SPACE, types.Factorised((7, 3, 3, 3, 2, 2))])
def test_the_divergence_needs_the_subsets_own_actions_only(space):
    """KL over nine embedded rows equals brute force over every joint action, to 1e-6."""
    every = subsets.every_action(space)
    rows = every[np.random.default_rng(0).choice(len(every), 9, replace=False)]

    @jax.jit
    def said():
        policy, other = embedded(rows, space), whole(space)
        return policy.kl(other), policy.log_prob_of(every), other.log_prob_of(every)

    kl, log_p, log_q = said()
    np.testing.assert_allclose(kl, brute_kl(log_p, log_q), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("make", [embedded, whole])
def test_listed_log_probs_are_those_of_the_actions_one_by_one(make):
    """``log_prob_of`` is ``log_prob`` for static actions."""

    @jax.jit
    def said():
        policy = make()
        listed = policy.log_prob_of(subsets.every_action(SPACE))
        return listed, every_log_prob(policy)

    listed, each = said()
    np.testing.assert_allclose(np.exp(listed), np.exp(each), atol=1e-6)


def test_entropy_mode_and_samples_are_of_joint_actions():
    """Entropy by brute force; samples and the mode are rows of the table."""

    @jax.jit
    def said():
        policy = embedded()
        action, log_prob = policy.sample_and_log_prob(KEY)
        sampled = action, log_prob, policy.log_prob(action)
        every = every_log_prob(policy)
        return every, policy.entropy(), policy.choice.logits, policy.mode(), sampled

    every, entropy, logits, mode, (action, log_prob, again) = said()
    log_p = np.float64(every)
    p = np.exp(log_p)
    expected = -np.sum(np.where(p > 0, p * log_p, 0.0), axis=-1)
    np.testing.assert_allclose(entropy, expected, rtol=1e-5)
    np.testing.assert_array_equal(mode, np.asarray(ROWS)[np.asarray(logits).argmax(-1)])
    assert {tuple(a) for a in np.asarray(action)} <= set(ROWS)
    np.testing.assert_allclose(log_prob, again)


def test_a_scalar_space_takes_scalar_actions():
    """Discrete actions have no axis of groups."""
    space = types.Discrete(6)

    @jax.jit
    def said():
        policy = embedded(((4,), (1,)), space)
        return policy.sample_and_log_prob(KEY)[0], every_log_prob(policy, space)

    action, log_p = said()
    assert action.shape == (5,) and set(np.asarray(action)) <= {1, 4}
    np.testing.assert_allclose(np.exp(log_p).sum(-1), 1.0, rtol=1e-5)


def test_rows_with_an_illegal_choice_are_never_taken():
    """A row is legal if each of its choices is."""
    table = subsets.table(SPACE, ROWS)
    mask = np.ones(9, bool)
    mask[3] = False  # choice 0 of the second group: row 1 has it
    legal = jax.jit(lambda mask: subsets.legal(SPACE, table, mask))(mask)
    assert legal.tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("space", "rows", "message"),
    [
        (SPACE, ((0, 0),), "rows of 3 choices"),
        (SPACE, (), "rows of 3 choices"),
        (SPACE, ((0, 0, 0), (0, 2, 0)), "row 1 is .* no action"),
        (types.Box((0.0,), (1.0,)), ((0,),), "has no choices"),
    ],
)
def test_tables_that_are_none_are_refused(space, rows, message):
    """The message names the row, or what a row is made of."""
    with pytest.raises(ValueError, match=message):
        subsets.table(space, rows)
