"""Small action sets inside large spaces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.networks import heads, subsets

SPACE = types.Factorised((3, 2, 4))
ROWS = ((0, 1, 2), (2, 0, 0), (1, 1, 3))
KEY = jax.random.key(1)


def embedded(rows=ROWS, space=SPACE, batch=5, legal=True):
    """Returns the policy of a subset with drawn preferences."""
    table = subsets.table(space, rows)
    logits = jax.random.normal(KEY, (batch, len(table)))
    mask = jnp.full((batch, types.action_mask_size(space)), legal)
    choice = heads.policy(
        types.Discrete(len(table)), logits, subsets.legal(space, table, mask)
    )
    return subsets.Embedded(choice, space, table)


def whole(space=SPACE, batch=5):
    """Returns a policy over all actions of a space."""
    size = types.action_mask_size(space)
    params = jax.random.normal(jax.random.fold_in(KEY, 1), (batch, size))
    return heads.policy(space, params, jnp.ones((batch, size), bool))


def every_log_prob(policy, space=SPACE):
    """Returns log-probabilities [B, n] of all joint actions, one call an action."""
    actions = subsets.every_action(space)
    columns = []
    for action in actions:
        one = action if len(action) > 1 else action[0]
        columns.append(policy.log_prob(jnp.broadcast_to(one, (5, *np.shape(one)))))
    return jnp.stack(columns, axis=-1)


@pytest.mark.parametrize("space", [SPACE, types.Discrete(6)])
def test_actions_and_their_numbers_are_one_to_one(space):
    """``number`` undoes ``every_action``."""
    actions = subsets.every_action(space)
    given = actions if isinstance(space, types.Factorised) else actions[:, 0]
    numbers = subsets.number(space, jnp.asarray(given))
    np.testing.assert_array_equal(numbers, np.arange(len(actions)))


def test_a_subset_is_a_distribution_on_its_rows_alone():
    """Embedding and reading back is the identity; everything else is impossible."""
    policy = embedded()
    p = np.exp(every_log_prob(policy))
    np.testing.assert_allclose(p.sum(-1), 1.0, rtol=1e-5)
    numbers = subsets.number(SPACE, jnp.asarray(ROWS))
    np.testing.assert_allclose(
        p[:, numbers], jax.nn.softmax(policy.choice.logits), rtol=1e-5
    )
    assert np.count_nonzero(p[0]) == len(ROWS)


def test_rows_that_repeat_add_up():
    """A map that is not one to one sums first, in probabilities and in the divergence."""
    policy, other = embedded((*ROWS, ROWS[0])), whole()
    p = jax.nn.softmax(policy.choice.logits)
    first = jnp.broadcast_to(jnp.asarray(ROWS[0]), (5, 3))
    np.testing.assert_allclose(
        jnp.exp(policy.log_prob(first)), p[:, 0] + p[:, 3], rtol=1e-5
    )
    np.testing.assert_allclose(policy.kl(other), brute_kl(policy, other), rtol=1e-5)


def brute_kl(policy, other, space=SPACE):
    """Returns Σ_a p (log p − log q) over all joint actions, in float64."""
    log_p, log_q = (np.float64(every_log_prob(x, space)) for x in (policy, other))
    p = np.exp(log_p)
    return np.sum(np.where(p > 0, p * (log_p - log_q), 0.0), axis=-1)


@pytest.mark.parametrize("space", [SPACE, types.Factorised((7, 3, 3, 3, 2, 2))])
def test_the_divergence_needs_the_subsets_own_actions_only(space):
    """KL over the embedded rows equals brute force over every joint action, to 1e-6."""
    rng = np.random.default_rng(0)
    rows = np.unique(rng.integers(0, space.sizes, (9, len(space.sizes))), axis=0)
    policy, other = embedded(rows, space), whole(space)
    all_actions = subsets.every_action(space)
    log_p, log_q = (np.float64(x.log_prob_of(all_actions)) for x in (policy, other))
    p = np.exp(log_p)
    expected = np.sum(np.where(p > 0, p * (log_p - log_q), 0.0), axis=-1)
    np.testing.assert_allclose(policy.kl(other), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("make", [embedded, whole])
def test_listed_log_probs_are_those_of_the_actions_one_by_one(make):
    """``log_prob_of`` is ``log_prob`` for static actions."""
    policy = make()
    listed = policy.log_prob_of(subsets.every_action(SPACE))
    each = every_log_prob(policy)
    np.testing.assert_allclose(jnp.exp(listed), jnp.exp(each), atol=1e-6)


def test_entropy_mode_and_samples_are_of_joint_actions():
    """Entropy by brute force; samples and the mode are rows of the table."""
    policy = embedded()
    log_p = np.float64(every_log_prob(policy))
    p = np.exp(log_p)
    expected = -np.sum(np.where(p > 0, p * log_p, 0.0), axis=-1)
    np.testing.assert_allclose(policy.entropy(), expected, rtol=1e-5)
    best = np.asarray(ROWS)[np.argmax(policy.choice.logits, -1)]
    np.testing.assert_array_equal(policy.mode(), best)
    action, log_prob = policy.sample_and_log_prob(KEY)
    assert {tuple(a) for a in np.asarray(action)} <= set(ROWS)
    np.testing.assert_allclose(log_prob, policy.log_prob(action))


def test_a_scalar_space_takes_scalar_actions():
    """Discrete actions have no axis of groups."""
    policy = embedded(((4,), (1,)), types.Discrete(6))
    action, _ = policy.sample_and_log_prob(KEY)
    assert action.shape == (5,) and set(np.asarray(action)) <= {1, 4}
    p = np.exp(every_log_prob(policy, types.Discrete(6)))
    np.testing.assert_allclose(p.sum(-1), 1.0, rtol=1e-5)


def test_rows_with_an_illegal_choice_are_never_taken():
    """A row is legal if each of its choices is."""
    table = subsets.table(SPACE, ROWS)
    mask = np.ones(9, bool)
    mask[3] = False  # choice 0 of the second group: row 1 has it
    legal = subsets.legal(SPACE, table, jnp.asarray(mask))
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
