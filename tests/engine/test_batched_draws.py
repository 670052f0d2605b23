"""Draws made together are the draws made one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.engine.batched_draws import batch_draws

KEY = jax.random.key(7)


def draws(key):
    """Draws of several kinds, one depending on another; one is of no use."""
    first, second, third = jax.random.split(key, 3)
    jax.random.normal(first, (9,))
    number = jax.random.randint(second, (), 0, 100)
    several = jax.random.split(jax.random.fold_in(third, number), (2, 2))
    return {
        "key": jax.random.key_data(jax.random.fold_in(first, 2**31 + 5)),
        "bits": jax.random.bits(first, (2, 3)),
        "bytes": jax.random.bits(first, (5,), "uint8"),
        "scalar": jax.random.uniform(second),
        "number": number,
        "order": jax.random.permutation(third, 6),
        "each": jax.vmap(jax.vmap(lambda k: jax.random.uniform(k, (4,))))(several),
    }


def hashes(fun, *args):
    """Returns how many fold_ins and draws the program has, those of its calls too."""
    text = str(jax.make_jaxpr(fun)(*args))
    return text.count("random_bits[") + text.count("= random_fold_in ")


@pytest.fixture(scope="module")
def one_by_one():
    return jax.device_get(jax.jit(jax.vmap(draws))(jax.random.split(KEY, 3)))


def test_every_draw_has_the_same_bits(one_by_one):
    found = jax.jit(jax.vmap(batch_draws(draws)))(jax.random.split(KEY, 3))
    jax.tree.map(np.testing.assert_array_equal, one_by_one, jax.device_get(found))


def test_it_may_draw_for_all_members_itself(one_by_one):
    found = jax.jit(batch_draws(jax.vmap(draws)))(jax.random.split(KEY, 3))
    jax.tree.map(np.testing.assert_array_equal, one_by_one, jax.device_get(found))


def test_independent_draws_are_one_hash():
    def leaves(key):
        return [jax.random.bits(jax.random.fold_in(key, i), (i + 1,)) for i in range(9)]

    assert hashes(leaves, KEY) == 18
    assert hashes(batch_draws(leaves), KEY) == 2  # the keys, then the words


def test_large_draws_and_other_generators_stay_as_they_are():
    def large(key):
        return jax.random.bits(key, (1 << 17,))

    assert "random_bits[" in str(jax.make_jaxpr(batch_draws(large))(KEY))
    other = jax.random.key(0, impl="rbg")
    found = batch_draws(lambda key: jax.random.bits(key, (3,)))(other)
    np.testing.assert_array_equal(found, jax.random.bits(other, (3,)))
    with jax.threefry_partitionable(False):  # Its words do not count.
        found = batch_draws(lambda key: jax.random.bits(key, (3,)))(KEY)
        expected = jax.random.bits(KEY, (3,))
    np.testing.assert_array_equal(found, expected)
    assert (expected != jax.random.bits(KEY, (3,))).any()


def test_it_is_differentiated_and_keeps_effects():
    said = []

    def fun(x, key):
        jax.debug.callback(said.append, x, ordered=True)
        return x**2 * jax.nn.relu(jax.random.normal(key) + 10.0)

    expected = jax.grad(fun)(2.0, KEY)
    assert float(jax.grad(batch_draws(fun))(2.0, KEY)) == pytest.approx(float(expected))
    jax.effects_barrier()
    assert [float(x) for x in said] == [2.0, 2.0]


def test_arguments_and_results_keep_their_structure():
    found = batch_draws(lambda tree, key: (tree["a"] + 1, {"b": (key, 3.0)}))(
        {"a": jnp.zeros(2)}, KEY
    )
    assert jax.tree.structure(found) == jax.tree.structure(
        (jnp.zeros(2), {"b": (KEY, 3.0)})
    )
    np.testing.assert_array_equal(found[0], np.ones(2))
