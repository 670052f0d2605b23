"""Agents that play and learn nothing."""

import jax
import numpy as np

from mtrl_jax import types
from mtrl_jax.agents.common import frozen


def test_uniform_actions_of_a_box_are_numbers_in_it():
    """A dimension without bounds is explored where policies begin, from -1 to 1."""
    infinite = float("inf")
    space = types.Box((-infinite, -3.0, 0.0), (infinite, -1.0, infinite))
    action = np.asarray(
        frozen.uniform(jax.random.key(0), space, np.ones((1000, 3), bool))
    )
    np.testing.assert_allclose(action.min(0), [-1, -3, -1], atol=0.02)
    np.testing.assert_allclose(action.max(0), [1, -1, 1], atol=0.02)
