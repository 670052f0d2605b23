"""Hyperparameters: groups that read as one flat list, and the values that mean something."""

import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import agents, hparams
from mtrl_jax.hparams import LARGEST, Amount, Bounds, Norm, Real, Share


class Group(NamedTuple):
    """In common with other agents."""

    learning_rate: Amount = 1e-3
    discount: Share = 0.9


class Hparams(NamedTuple):
    """An agent's."""

    alpha: Share = 0.0
    group: Group = Group(learning_rate=0.5)
    reward_scale: Real = 1.0
    own: float = 2.0
    norm: Norm = 1.0


def test_leaves_have_names_of_their_own_whatever_group_they_are_in():
    """In order, of values and of the class."""
    names = ("alpha", "learning_rate", "discount", "reward_scale", "own", "norm")
    assert hparams.names(Hparams) == hparams.names(Hparams()) == names
    assert tuple(hparams.flatten(Hparams()).values()) == (0.0, 0.5, 0.9, 1.0, 2.0, 1.0)


def test_leaves_are_set_by_name_in_the_shape_of_what_they_replace():
    """For all members where there are several; the rest is left as it was."""
    set_ = hparams.override(Hparams(), {"learning_rate": 0.1, "alpha": 1.0})
    assert set_ == Hparams(alpha=1.0, group=Group(0.1))
    members = jax.tree.map(lambda x: jnp.full(3, x, jnp.float32), Hparams())
    set_ = hparams.override(members, {"discount": 1})
    np.testing.assert_array_equal(set_.group.discount, np.ones(3, np.float32))
    assert set_.group.discount.dtype == jnp.float32
    assert set_.group.learning_rate is members.group.learning_rate
    with pytest.raises(KeyError, match="'rate'"):
        hparams.override(Hparams(), {"rate": 0.1})


def test_ones_own_hyperparameters_go_with_an_agents():
    """Groups, defaults and bounds are those of both; no name may be in both."""

    class Own(NamedTuple):
        own_cost: Amount = 0.1

    both = hparams.joined(Hparams, Own)
    assert hparams.flatten(both()) == {**hparams.flatten(Hparams()), "own_cost": 0.1}
    assert both().group == Hparams().group
    assert hparams.bounds(both) == hparams.bounds(Hparams) | hparams.bounds(Own)
    with pytest.raises(ValueError, match=r"\['discount', .*\] are of both classes"):
        hparams.joined(Hparams, Group)


def test_bounds_stand_beside_the_field_also_in_a_group():
    """A field without a type that says any may have any finite value, and its default."""
    found = hparams.bounds(Hparams)
    assert found["alpha"] == found["discount"] == (0.0, 1.0)
    assert found["learning_rate"] == (0.0, LARGEST)
    assert found["norm"] == (1e-30, math.inf)
    assert found["reward_scale"] == found["own"] == (-LARGEST, LARGEST)

    said = {name: hparams.in_words(allowed) for name, allowed in found.items()}
    assert said["alpha"] == "from 0 to 1" and said["learning_rate"] == "at least 0"
    assert said["norm"] == "at least 1e-30" and said["own"] == "any number"

    class Outside(NamedTuple):
        norm: float = math.inf

    assert hparams.bounds(Outside) == {"norm": Bounds(-LARGEST, math.inf)}


@pytest.mark.parametrize("name", agents.AGENTS)
def test_every_hyperparameter_of_an_agent_has_bounds_that_its_default_keeps(name):
    """Also that of no name is there twice, and that both ends are values like others."""
    kind = agents.get(name).Hparams
    assert len(set(hparams.names(kind))) == len(jax.tree.leaves(kind()))
    bounds = hparams.bounds(kind)
    assert tuple(bounds) == hparams.names(kind)
    for leaf, value in hparams.flatten(kind()).items():
        # Whatever has no bounds says so: these alone.
        unbounded = {"reward_scale", "v_min", "v_max", "target"}
        assert bounds[leaf] != (-LARGEST, LARGEST) or leaf in unbounded
        # Infinity is "no limit", of what limits alone.
        limits = {"horizon", "max_grad_norm"}
        assert math.isfinite(bounds[leaf].high) or leaf in limits or "clip" in leaf
        for number in (value, *bounds[leaf]):
            hparams.check_bounds(kind, leaf, number)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("discount", 1.01, "=1.01: must be from 0 to 1"),
        ("alpha", -0.5, "=-0.5: must be from 0 to 1"),
        ("learning_rate", -1e-3, "=-0.001: must be at least 0"),
        ("alpha", math.inf, "=inf: must be from 0 to 1"),
        (
            "learning_rate",
            math.inf,
            "=inf: must be finite in float32, at most 3.40282e+38",
        ),
        ("own", 1e39, "=1e+39: must be finite in float32, at most 3.40282e+38"),
        ("own", -math.inf, "=-inf: must be at least -3.40282e+38"),
        ("norm", 0.0, "=0: must be at least 1e-30, or .inf for no limit"),
        (
            "norm",
            1e39,
            "=1e+39: must be finite in float32, at most 3.40282e+38, or .inf for no limit",
        ),
    ],
)
def test_a_value_beyond_them_is_refused(name, value, message):
    """With what would work."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        hparams.check_bounds(Hparams, name, value)
    hparams.check_bounds(Hparams, "own", -1e9)
    hparams.check_bounds(Hparams, "norm", math.inf)
