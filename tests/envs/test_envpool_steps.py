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


def test_a_first_step_carries_nothing_of_the_episode_before():
    """Whatever the pool says of it: no reward, no end, and a clock that begins anew."""
    memory = envpool_steps.fresh(ADAPTER, np)
    memory = memory._replace(
        done=np.array([[True, False, True]]), elapsed=np.full((1, 3), 8)
    )
    done, never = np.array([True, True, False]), np.zeros(3, bool)
    raw = {"done": done, "trunc": never, "reward": np.array([3.0, 4.0, 5.0])}
    raw["elapsed_step"] = np.array([0, 9, 0])
    after, ts, in_order = envpool_steps.arrive(ADAPTER, memory, raw, np)
    assert in_order and after.elapsed.tolist() == [[0, 9, 0]]
    np.testing.assert_array_equal(ts.first, [[1, 0, 1]])
    np.testing.assert_array_equal(ts.reward, [[0, 4, 0]])
    np.testing.assert_array_equal(ts.last, [[0, 1, 0]])
    np.testing.assert_array_equal(ts.discount, [[1, 0, 1]])
    np.testing.assert_array_equal(after.done, [done])
    # A step too many or too few of any of them, also where an episode is to begin.
    for wrong in ([1, 9, 0], [0, 10, 0], [0, 8, 0], [0, 9, 9]):
        raw["elapsed_step"] = np.array(wrong)
        assert not envpool_steps.arrive(ADAPTER, memory, raw, np)[2]


def test_a_life_lost_ends_what_is_learned_and_no_episode():
    """A fall to a positive number alone; not from the lives of the game before."""
    adapter = ADAPTER._replace(life_loss=True)
    quiet = {
        "done": np.zeros(3, bool),
        "trunc": np.zeros(3, bool),
        "reward": np.ones(3),
    }
    memory = envpool_steps.fresh(adapter, np)
    seen = []
    for t, lives in enumerate(([5, 3, 2], [5, 2, 0], [4, 2, 2], [4, 3, 1])):
        raw = quiet | {"elapsed_step": np.full(3, t), "info:lives": np.array(lives)}
        memory, ts, in_order = envpool_steps.arrive(adapter, memory, raw, np)
        assert in_order and not ts.last.any()
        seen.append(ts.discount[0])
    np.testing.assert_array_equal(seen, [[1, 1, 1], [1, 0, 1], [0, 1, 1], [1, 1, 0]])
    # A new game has other lives.
    memory = memory._replace(done=np.array([[True, True, False]]))
    raw["elapsed_step"], raw["info:lives"] = np.array([0, 0, 4]), np.array([3, 1, 1])
    memory, ts, _ = envpool_steps.arrive(adapter, memory, raw, np)
    assert (ts.discount == 1).all() and memory.lives.tolist() == [[3, 1, 1]]


def test_success_is_the_most_of_an_episode():
    """It stays until the episode ends, and the next begins with its own."""
    adapter = ADAPTER._replace(success="info:success")
    memory = envpool_steps.fresh(adapter, np)
    found = []
    for reached, done in (
        ([0, 1, 0], 0),
        ([2, 0, 0], 0),
        ([0, 0, 0], 1),
        ([0, 1, 0], 0),
    ):
        raw = {
            "done": np.full(3, bool(done)), "trunc": np.zeros(3, bool),
            "reward": np.ones(3), "info:success": np.array(reached),
            "elapsed_step": np.where(memory.done, 0, memory.elapsed + 1).ravel(),
        }  # fmt: skip
        memory, _, in_order = envpool_steps.arrive(adapter, memory, raw, np)
        assert in_order
        found.append(memory.info["success"][0])
    np.testing.assert_array_equal(found, [[0, 1, 0], [1, 1, 0], [1, 1, 0], [0, 1, 0]])


def test_actions_are_clipped_and_shaped_as_the_pool_takes_them():
    """Member by member; NaN is 0, whatever the bounds leave of that."""
    box = SPEC._replace(action=types.Box((-1.0, 0.5), (1.0, 2.0)))
    adapter = ADAPTER._replace(batch=(2, 2), spec=box)
    action = np.float32([[[0, 1], [5, 9]], [[-5, 0], [np.nan, np.nan]]])
    found = envpool_steps.encode_action(adapter, action, (4, 2), np.float64, np)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, [[0, 1], [1, 2], [-1, 0.5], [0, 0.5]])
    adapter = ADAPTER._replace(batch=(2, 2))
    action = np.int32([[-1, 0], [1, 2]])
    found = envpool_steps.encode_action(adapter, action, (4,), np.int32, np)
    np.testing.assert_array_equal(found, [0, 0, 1, 1])
