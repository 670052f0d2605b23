"""Names that do not exist are answered with names that do."""

import pytest

from mtrl_jax import errors


def test_a_suggestion_is_the_nearest_names_whatever_their_case():
    """Did you mean, the best first, written as the name is."""
    near = errors.suggest("optimizer", ["network", "optimiser"])
    assert near == ", did you mean optimiser?"
    assert errors.suggest("ATARI5", ["Atari57"]) == ", did you mean Atari57?"


def test_where_nothing_is_near_there_is_a_list():
    """A short one, and none of nothing."""
    assert errors.suggest("zzz", ["a", "b"]) == "; there is a, b"
    assert errors.suggest("zzz", "abc", limit=2) == "; there is a, b, ..."
    assert errors.suggest("zzz", []) == ""


def test_an_unknown_option_is_named_with_all_that_are_allowed():
    """The owner, the option, the nearest and the rest; a known one passes."""
    errors.check_options("probe", ["length"], ["length"])
    with pytest.raises(ValueError, match=r"probe has no option 'x'.*\(allowed: none\)"):
        errors.check_options("probe", ["x"], [])
