"""What a pool returns becomes TimeSteps: cases that real pools show rarely."""

import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.envs import envpool_steps

SPEC = types.EnvSpec({}, types.Discrete(2), (), (), ())
ADAPTER = envpool_steps.Adapter((1, 3), SPEC, (), (), success=None, life_loss=False)


def arrive(raw, steps):
    """Returns the TimeStep of slots that have made as many steps as are given."""
    memory = envpool_steps.fresh(ADAPTER, np)
    elapsed = np.reshape(steps, (1, 3)) - 1
    memory = memory._replace(elapsed=elapsed, done=np.zeros((1, 3), bool))
    raw = {"elapsed_step": np.array(steps), "reward": np.ones(3), **raw}
    _, ts, in_order = envpool_steps.arrive(ADAPTER, memory, raw, np)
    assert in_order
    return ts


@pytest.mark.parametrize(
    ("more", "discount"),
    [
        # Game over at the limit, the limit alone, and a game that goes on.
        ({"info:terminated": np.array([1, 0, 0])}, [0, 1, 1]),
        ({}, [1, 1, 1]),
    ],
)
def test_a_game_that_ends_exactly_at_the_time_limit_has_ended(more, discount):
    """Where the pool says so; without that it is a truncation as any other."""
    done = np.array([True, True, False])
    ts = arrive({"done": done, "trunc": done, **more}, [9, 9, 9])
    np.testing.assert_array_equal(ts.discount, [discount])
    np.testing.assert_array_equal(ts.last, [done])


def test_what_a_pool_terminates_without_a_limit_has_ended():
    """``info:terminated`` without ``done`` is no end of an episode: a life, say."""
    done, never = np.array([True, False, False]), np.zeros(3, bool)
    raw = {"done": done, "trunc": never, "info:terminated": np.array([1, 1, 0])}
    ts = arrive(raw, [4, 5, 6])
    np.testing.assert_array_equal(ts.discount, [[0, 1, 1]])
    np.testing.assert_array_equal(ts.last, [done])
