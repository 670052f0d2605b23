"""Sums of blocks: what is drawn has its priority's probability, and nothing poisons it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.data import replay_priorities

KEY = jax.random.key(5)
N = 40_000  # three levels: 40,000, 1,250 and 40 sums
feedback = jax.jit(replay_priorities.feedback)
draw = jax.jit(replay_priorities.draw, static_argnums=2)


def filled(values):
    """Returns the Priorities of ``values`` [N]."""
    place = jnp.arange(len(values))
    live = jnp.ones(place.shape, bool)
    return feedback(
        replay_priorities.init(len(values)), place, live, jnp.asarray(values)
    )


def test_levels_end_at_512():
    assert [x.size for x in replay_priorities.init(N).levels] == [40_000, 1_280, 64]
    assert [x.size for x in replay_priorities.init(10**6).levels] == [
        10**6,
        31_264,
        992,
        32,
    ]
    assert [x.size for x in replay_priorities.init(500).levels] == [512]


def test_frequencies_match_priorities():
    """chi² per degree of freedom is 1, over three levels."""
    values = np.random.default_rng(0).uniform(0, 1, N).astype(np.float32) ** 4
    p = filled(values)
    # Groups of places that blocks do not line up with.
    group = np.arange(N) // 210
    counts = np.zeros(group[-1] + 1)
    for i in range(40):
        # One stratum each, so that draws are independent.
        keys = jax.random.split(jax.random.fold_in(KEY, i), 4096)
        place = jax.vmap(lambda key: draw(p, key, 1).place[0])(keys)
        counts += np.bincount(group[np.asarray(place)], minlength=len(counts))
    expected = np.bincount(group, weights=values) / values.sum() * counts.sum()
    degrees = len(counts) - 1
    chi2 = ((counts - expected) ** 2 / expected).sum() / degrees
    assert abs(chi2 - 1) < 5 * np.sqrt(2 / degrees)


def test_strata_spread_a_draw():
    """Of equal priorities, M draws fall into M equal shares, one each."""
    p = filled(np.ones(replay_priorities.BLOCK**3 // 64, np.float32))
    found = draw(p, KEY, 16)
    np.testing.assert_array_equal(np.sort(found.place) // 32, np.arange(16))


def test_what_has_no_priority_is_never_drawn():
    """Not at either end of a block, nor by rounding where priorities differ by 1e10."""
    rng = np.random.default_rng(1)
    values = np.where(rng.random(N) < 0.5, 0.0, 10.0 ** rng.uniform(-5, 5, N))
    values[0] = values[-1] = 0.0
    p = filled(values.astype(np.float32))
    for i in range(20):
        found = draw(p, jax.random.fold_in(KEY, i), 4096)
        assert np.asarray(found.live).all()
        assert (values[np.asarray(found.place)] > 0).all()
        np.testing.assert_array_equal(found.priority, p.levels[0][found.place])


def test_nothing_is_live_where_all_are_zero():
    found = draw(replay_priorities.init(N), KEY, 8)
    assert not np.asarray(found.live).any()


def test_sums_do_not_drift():
    """After thousands of updates the total is the sum of the leaves to 1e-6."""
    p = replay_priorities.init(N)

    def step(p, key):
        at, value = jax.random.split(key)
        place = jax.random.randint(at, (32,), 0, N)
        priority = 10.0 ** jax.random.uniform(value, (32,), minval=-4, maxval=4)
        return replay_priorities.feedback(p, place, jnp.ones(32, bool), priority), ()

    p = jax.jit(lambda p: jax.lax.scan(step, p, jax.random.split(KEY, 20_000))[0])(p)
    exact = np.asarray(p.levels[0], np.float64).sum()
    assert abs(float(p.levels[-1].sum()) / exact - 1) < 1e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.0])
def test_bad_priorities_count_as_the_highest_so_far(bad):
    """A NaN would make every sum above it NaN, and so every later draw."""
    p = filled(np.full(N, 2.0, np.float32))
    place = jnp.array([7, 39_999])
    p = feedback(p, place, jnp.ones(2, bool), jnp.array([bad, 0.5]))
    np.testing.assert_array_equal(p.levels[0][place], [2.0, 0.5])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(p))
    assert np.asarray(draw(p, KEY, 8).live).all()


def test_the_largest_priorities_do_not_overflow_a_sum():
    p = filled(np.full(N, 3e38, np.float32))
    assert np.isfinite(p.levels[-1].sum())
    assert np.asarray(draw(p, KEY, 8).live).all()


def test_feedback_of_dead_draws_is_dropped():
    """They name a place that nobody drew."""
    p = filled(np.ones(N, np.float32))
    after = feedback(p, jnp.array([3, 4]), jnp.array([False, True]), jnp.full(2, 9.0))
    assert (after.levels[0][3], after.levels[0][4]) == (1.0, 9.0)
    assert after.highest == 9.0
    unchanged = feedback(p, jnp.array([3]), jnp.array([False]), jnp.array([9.0]))
    jax.tree.map(np.testing.assert_array_equal, unchanged, p)


def test_the_larger_of_two_counts():
    """Of a place drawn twice: whichever came first."""
    p = filled(np.full(N, 5.0, np.float32))
    for pair in ([1.0, 2.0], [2.0, 1.0]):
        after = feedback(p, jnp.array([3, 3]), jnp.ones(2, bool), jnp.array(pair))
        assert after.levels[0][3] == 2.0


def test_new_places_get_the_highest_so_far():
    p = feedback(
        replay_priorities.init(N), jnp.array([0]), jnp.ones(1, bool), jnp.array([4.0])
    )
    p = replay_priorities.enter(p, jnp.array([10, 11]), jnp.array([True, False]))
    np.testing.assert_array_equal(p.levels[0][:12], [4.0] + [0.0] * 9 + [4.0, 0.0])
    assert p.levels[-1].sum() == 8.0
