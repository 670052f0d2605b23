"""Hyperparameters: the values that mean something."""

import pytest

from mtrl_jax import agents
from mtrl_jax.agents import bounds


@pytest.mark.parametrize("name", agents.AGENTS)
def test_every_hyperparameter_has_bounds_that_its_default_keeps(name):
    """A new one does not go unchecked, and both ends are values like others."""
    for field, value in agents.get(name).Hparams()._asdict().items():
        assert field in bounds.BOUNDS
        for number in (value, *bounds.BOUNDS[field]):
            bounds.check(field, number)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("discount", 1.01, "=1.01: must be from 0 to 1"),
        ("alpha", -0.5, "=-0.5: must be from 0 to 1"),
        ("learning_rate", -1e-3, "=-0.001: must be at least 0"),
    ],
)
def test_a_value_beyond_them_is_refused(name, value, message):
    """With what would work."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        bounds.check(name, value)


def test_a_name_of_ones_own_may_have_any_value():
    """The table is about names that the kit knows."""
    bounds.check("my_own_knob", -1e9)
