"""Drawing and perturbing hyperparameters, and the choices a user may make."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import random
from mtrl_jax.engine import pbt

N = 4000


class Hparams(NamedTuple):
    learning_rate: float = 3e-4
    alpha: float = 0.5
    discount: float = 0.99
    lag: int = 2
    greedy: bool = False


RANGES = {
    "learning_rate": pbt.SearchRange(1e-5, 1e-2, log=True),
    "alpha": pbt.SearchRange(0.0, 1.0, rule="add", step=0.05),
    "discount": pbt.SearchRange(0.9, 0.999, log=True, complement=True),
    "lag": pbt.SearchRange(1, 8, log=True, integer=True),
}
ALWAYS = pbt.PbtConfig(perturb_probability=1.0, resample_probability=0.0)


def _keys(seed=0, population=N):
    return random.at(random.roots(seed, population), 0, random.SEARCH)


def _changed(keys, hparams, ranges, copied, config=ALWAYS):
    """Returns what ``pbt.explore`` makes of ``hparams``, as one program."""
    explore = functools.partial(pbt.explore, ranges=ranges, config=config)
    return jax.jit(lambda key, hp, c: explore(key, hp, copied=c))(keys, hparams, copied)


def _explore(value, bounds, config=ALWAYS, seed=0):
    """Returns N perturbations of one value."""
    hparams = {"h": jnp.full(N, value, jnp.float32)}
    return np.asarray(_explorer(bounds, config)(_keys(seed), hparams)["h"])


@functools.lru_cache
def _explorer(bounds, config):
    copied = jnp.ones(N, bool)
    return jax.jit(lambda k, h: pbt.explore(k, h, {"h": bounds}, copied, config))


def test_initial_draws_fill_their_ranges():
    """Log-uniform, uniform, 1 - h and whole numbers: within bounds, right quartiles."""
    hp = pbt.sample_initial(_keys(), Hparams(), RANGES)
    for name, bounds in RANGES.items():
        values = np.asarray(getattr(hp, name))
        assert values.min() >= np.float32(bounds.low)
        assert values.max() <= np.float32(bounds.high)
    quartiles = np.quantile(np.log10(hp.learning_rate), [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [-4.25, -3.5, -2.75], atol=0.1)
    np.testing.assert_allclose(
        np.quantile(hp.alpha, [0.25, 0.75]), [0.25, 0.75], atol=0.04
    )
    assert abs(np.median(np.log10(1 - np.asarray(hp.discount))) + 2) < 0.1
    assert set(np.unique(hp.lag)) == set(range(1, 9))
    assert hp.lag.dtype == jnp.int32


def test_whole_numbers_are_equally_likely_to_their_ends():
    """Neither end of an integer range gets half a share."""
    bounds = {"lag": pbt.SearchRange(1, 4, integer=True)}
    hp = pbt.sample_initial(_keys(), Hparams(), bounds)
    share = np.bincount(np.asarray(hp.lag), minlength=5)[1:] / N
    np.testing.assert_allclose(share, 0.25, atol=0.04)


def test_what_is_no_range_of_whole_numbers_is_drawn_between_them_too():
    """Though the default is one: its type would cut the fraction off."""
    hp = pbt.sample_initial(_keys(), Hparams(), {"lag": pbt.SearchRange(1, 4)})
    assert hp.lag.dtype == jnp.float32 and len(np.unique(hp.lag)) > 0.9 * N


def test_a_list_of_values_is_dealt_to_the_members_in_turn():
    """Member p begins with value p mod n, whatever its key; the type stays."""
    dealt = pbt.SearchRange(1, 9, integer=True, initial=(1, 4, 9))
    hp = pbt.sample_initial(_keys(population=5), Hparams(), {"lag": dealt})
    np.testing.assert_array_equal(hp.lag, [1, 4, 9, 1, 4])
    assert hp.lag.dtype == jnp.int32
    for values, words in (
        ((), "initial=.* empty"),
        ((1, 10), "initial=10 is not between low=1 and high=9"),
    ):
        with pytest.raises(ValueError, match=words):
            pbt.SearchRange(1, 9, initial=values)
    swept = pbt.SearchRange(initial=(4, 1, 9))
    assert (swept.low, swept.high) == (1.0, 9.0)
    assert pbt.SearchRange(high=20, initial=(4, 1)).high == 20
    for given in ({"initial": ()}, {}, {"high": 1.0}):
        with pytest.raises(ValueError, match=r"^low is missing; give low and high, or"):
            pbt.SearchRange(**given)
    with pytest.raises(ValueError, match=r"initial=1\.5 with integer"):
        pbt.SearchRange(1, 9, initial=(1.5,), integer=True)


def test_what_is_not_searched_keeps_its_default():
    """No range: the default, repeated, in its own type, strongly typed."""
    hp = pbt.sample_initial(_keys(population=3), Hparams(), {})
    np.testing.assert_array_equal(hp.learning_rate, np.float32([3e-4] * 3))
    assert (hp.lag.dtype, hp.greedy.dtype) == (jnp.int32, jnp.bool_)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(hp))


def test_a_member_draws_the_same_in_any_population():
    """Member p's draw hangs on its own key and the name, on no other range or member."""
    alone = {"alpha": RANGES["alpha"]}
    few = pbt.sample_initial(_keys(population=4), Hparams(), alone)
    many = pbt.sample_initial(_keys(population=9), Hparams(), RANGES)
    np.testing.assert_array_equal(few.alpha, many.alpha[:4])


def test_every_hyperparameter_has_its_own_noise():
    """One key for all would move all in step: draws are uncorrelated."""
    both = {name: pbt.SearchRange(0.0, 1.0) for name in ("a", "b")}
    hp = pbt.sample_initial(_keys(), {"a": 0.5, "b": 0.5}, both)
    assert abs(np.corrcoef(hp["a"], hp["b"])[0, 1]) < 0.06
    mid = {name: jnp.full(N, 0.5) for name in both}
    new = _changed(_keys(), mid, both, jnp.ones(N, bool))
    assert abs(np.corrcoef(new["a"], new["b"])[0, 1]) < 0.06
    assert len(np.unique(hp["a"])) > 0.99 * N


def test_multiplying_is_symmetric_in_the_logarithm():
    """× 1.2 and ÷ 1.2, equally often: no drift, unlike × 0.8."""
    ratio = _explore(1e-3, RANGES["learning_rate"]) / np.float32(1e-3)
    up = ratio > 1
    np.testing.assert_allclose(ratio[up], 1.2, rtol=1e-5)
    np.testing.assert_allclose(ratio[~up], 1 / 1.2, rtol=1e-5)
    assert abs(np.log(ratio).mean()) < 4 * np.log(1.2) / np.sqrt(N)


def test_adding_moves_by_the_step_and_leaves_zero():
    """α = 0 can be left, which no factor can do; the ends clip."""
    values = set(np.round(_explore(0.5, RANGES["alpha"]), 4))
    assert values == {np.float32(0.45), np.float32(0.55)}
    assert set(np.round(_explore(0.0, RANGES["alpha"]), 4)) == {0.0, np.float32(0.05)}
    assert set(np.round(_explore(0.98, RANGES["alpha"]), 4)) == {np.float32(0.93), 1.0}


def test_a_range_may_have_a_factor_a_step_and_a_probability_of_its_own():
    """In the place of the config's; of a complement, the step is of 1 - h."""
    doubled = _explore(1e-3, pbt.SearchRange(1e-5, 1e-2, factor=2.0))
    np.testing.assert_allclose(np.unique(doubled), [5e-4, 2e-3], rtol=1e-6)
    apart = pbt.SearchRange(0.5, 0.99, rule="add", step=0.05, complement=True)
    moved = _explore(0.9, apart)
    np.testing.assert_allclose(np.unique(np.round(moved, 4)), [0.85, 0.95], rtol=1e-6)
    # Also 0, which is one.
    always = pbt.PbtConfig(perturb_probability=0.0, resample_probability=1.0)
    still = _explore(0.25, pbt.SearchRange(0.1, 0.9, resample_probability=0.0), always)
    np.testing.assert_array_equal(still, np.float32(0.25))


def test_normal_noise_has_the_step_as_its_deviation():
    """h + step · N(0, 1)."""
    noise = _explore(0.0, pbt.SearchRange(-9.0, 9.0, rule="normal", step=0.5))
    assert abs(noise.mean()) < 0.04 and abs(noise.std() - 0.5) < 0.03


def test_a_discount_is_perturbed_through_its_horizon():
    """complement multiplies 1 - γ, not γ."""
    horizon = 1 - _explore(0.99, RANGES["discount"])
    np.testing.assert_allclose(
        np.unique(np.round(horizon, 5)), [0.00833, 0.012], atol=2e-5
    )


def test_small_whole_numbers_are_not_stuck():
    """2 × 1.2 rounds to 2: the step becomes one."""
    assert set(_explore(2, RANGES["lag"])) == {1.0, 3.0}
    assert set(_explore(8, RANGES["lag"])) == {7.0, 8.0}


@pytest.mark.parametrize("rule", ["multiply", "add", "normal", "resample"])
def test_exploring_never_leaves_the_range(rule):
    """Whatever the rule and the kind of range, and however often."""
    ranges = {
        "plain": pbt.SearchRange(rule=rule, low=0.1, high=0.9),
        "whole": pbt.SearchRange(rule=rule, low=1, high=20, integer=True),
        "complement": pbt.SearchRange(rule=rule, low=0.5, high=0.99, complement=True),
        "log": pbt.SearchRange(rule=rule, low=1e-6, high=1e-1, log=True),
    }
    copied = jnp.ones(200, bool)
    step = jax.jit(lambda key, h: pbt.explore(key, h, ranges, copied, pbt.PbtConfig()))
    value = {n: jnp.full(200, x.low, jnp.float32) for n, x in ranges.items()}
    for i in range(30):
        value = step(random.at(random.roots(0, 200), i, random.PBT), value)
        for name, bounds in ranges.items():
            drawn = np.asarray(value[name])
            assert drawn.min() >= np.float32(bounds.low), name
            assert drawn.max() <= np.float32(bounds.high), name
            assert not bounds.integer or (drawn % 1 == 0).all()


def test_probabilities_are_shares_of_members():
    """resample_probability first, then perturb_probability of the rest."""
    config = pbt.PbtConfig(perturb_probability=0.5, resample_probability=0.2)
    new = _explore(1e-3, RANGES["learning_rate"], config)
    kept = np.isclose(new, 1e-3, rtol=1e-6)
    moved = np.isclose(np.abs(np.log(new / 1e-3)), np.log(1.2), rtol=1e-3)
    assert abs(kept.mean() - 0.8 * 0.5) < 0.04
    assert abs(moved.mean() - 0.8 * 0.5) < 0.04
    # Whether a value moves says nothing of where to: each choice has a key of its own.
    assert abs((new[moved] > 1e-3).mean() - 0.5) < 0.06
    drawn = np.log10(new[~kept & ~moved])
    quartiles = np.quantile(drawn, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [-4.25, -3.5, -2.75], atol=0.2)


def test_a_value_from_outside_the_range_comes_back_into_it():
    """As one that was changed on resume; also where nothing moves it."""
    still = pbt.PbtConfig(perturb_probability=0.0, resample_probability=0.0)
    for value, end in ((5.0, 0.9), (0.0, 0.1)):
        found = _explore(value, pbt.SearchRange(0.1, 0.9), still)
        np.testing.assert_array_equal(found, np.float32(end))


def test_only_copies_explore_unless_all_do():
    """IMPALA's explore_all perturbs members that copied nobody."""
    hparams = {"h": jnp.full(N, 0.5)}
    copied = jnp.arange(N) % 2 == 0
    bounds = {"h": pbt.SearchRange(0.1, 0.9)}
    some = _changed(_keys(), hparams, bounds, copied)["h"]
    np.testing.assert_array_equal(np.asarray(some != 0.5), np.asarray(copied))
    everyone = pbt.PbtConfig(explore_all=True, perturb_probability=1.0)
    assert (_changed(_keys(), hparams, bounds, copied, everyone)["h"] != 0.5).all()


def test_rule_none_inherits_without_change():
    """Neither perturbed nor resampled."""
    bounds = pbt.SearchRange(0.1, 0.9, rule="none")
    assert (
        _explore(0.3, bounds, pbt.PbtConfig(resample_probability=1.0))
        == np.float32(0.3)
    ).all()


def test_auto_multiplies_what_is_positive_and_adds_elsewhere():
    """A range that holds zero is never multiplied."""
    config = pbt.PbtConfig()
    assert pbt.SearchRange(0.1, 1.0).resolve(config).rule == "multiply"
    assert pbt.SearchRange(0.0, 1.0).resolve(config).rule == "add"
    for low, high, rule in ((0.5, 1.0, "add"), (0.0, 0.5, "multiply")):
        apart = pbt.SearchRange(low, high, complement=True)
        assert apart.resolve(config).rule == rule
    assert (
        pbt.SearchRange(0.0, 1.0).resolve(pbt.PbtConfig(explore="multiply")).rule
        == "add"
    )
    assert (
        pbt.SearchRange(0.0, 1.0).resolve(pbt.PbtConfig(explore="resample")).rule
        == "resample"
    )
    assert pbt.SearchRange(0.0, 2.0).resolve(config).step == pytest.approx(0.2)


def test_a_group_changes_neither_a_hyperparameters_name_nor_its_draws():
    """A leaf is named by the last part of its path, and its noise comes from the name."""
    ranges = {"alpha": RANGES["alpha"], "level": pbt.SearchRange(0, 1)}
    groups = {"agent": Hparams(), "curriculum": {"level": 0.5}}
    assert set(pbt.names(groups)) == {*pbt.names(Hparams()), "level"}
    hp = pbt.sample_initial(_keys(population=4), groups, ranges)
    flat = pbt.sample_initial(
        _keys(population=4), Hparams()._asdict() | {"level": 0.5}, ranges
    )
    assert len(np.unique(hp["curriculum"]["level"])) == 4
    np.testing.assert_array_equal(hp["curriculum"]["level"], flat["level"])
    np.testing.assert_array_equal(hp["agent"].alpha, flat["alpha"])
    moved = [
        _changed(_keys(1, 4), x, ranges, jnp.ones(4, bool), pbt.PbtConfig())
        for x in (hp, flat)
    ]
    np.testing.assert_array_equal(moved[0]["agent"].alpha, moved[1]["alpha"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(low=2, high=1), "low=2 is above high=1"),
        (dict(low=0, high=1, log=True), "low=0 with log"),
        (dict(low=0.5, high=1.0, log=True, complement=True), "1 - high=0.0 with log"),
        (dict(low=-1, high=1, rule="multiply"), "rule='multiply'"),
        (dict(low=0, high=float("nan")), "high=nan"),
        (dict(low=0, high=1, rule="jump"), "rule='jump' is unknown"),
        (dict(low=0.5, high=2, integer=True), "whole number"),
        (dict(low=0, high=1, step=0), "step=0"),
        (dict(low=1, high=2, integer=True, complement=True), "exclude each other"),
        (dict(low=1, high=2, factor=1.0), "factor=1.0"),
    ],
)
def test_a_wrong_range_is_named(arguments, message):
    """One line: the field, what was given, what would work."""
    with pytest.raises(ValueError, match=message) as error:
        pbt.SearchRange(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(exploit="best"),
        dict(explore="jump"),
        dict(alternative="less"),
        dict(fraction=0.6),
        dict(fraction=0.0),
        dict(p_value=0.0),
        dict(margin=-1.0),
        dict(interval=0),
        dict(burn_in=-1),
        dict(min_episodes=-1),
        dict(perturb_factor=1.0),
        dict(perturb_step=0.0),
        dict(perturb_probability=1.5),
        dict(resample_probability=-0.1),
    ],
)
def test_a_wrong_choice_is_named(arguments):
    """One line that starts with the field."""
    (name,) = arguments
    with pytest.raises(ValueError, match=f"^{name}="):
        pbt.PbtConfig(**arguments)


def test_choices_must_fit_the_population():
    """Too few members, or a range for something that does not exist."""
    names = pbt.names(Hparams())
    with pytest.raises(ValueError, match=r"population of 3 is too small .* at least 4"):
        pbt.validate(pbt.PbtConfig(), {}, names, 3)
    with pytest.raises(ValueError, match="at least 2"):
        pbt.validate(pbt.PbtConfig(exploit="tournament"), {}, names, 1)
    pbt.validate(pbt.PbtConfig(exploit="none"), RANGES, names, 1)
    with pytest.raises(ValueError, match="did you mean 'learning_rate'"):
        pbt.validate(pbt.PbtConfig(), {"learning_rat": RANGES["alpha"]}, names, 8)
    with pytest.raises(ValueError, match="beta is no hyperparameter"):
        pbt.sample_initial(_keys(population=4), Hparams(), {"beta": RANGES["alpha"]})
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        pbt.sample_initial(
            _keys(population=4), {"h": np.ones(3)}, {"h": RANGES["alpha"]}
        )
