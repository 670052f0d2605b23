"""Every option of every family: whatever is given works or is one line, and no crash."""

import re

import jax
import numpy as np
import pytest

from mtrl_jax import envs
from mtrl_jax.envs import dtypes

VALUES = (
    *(-1, 0, 1, -(2**31) - 1, 2**31, 2**63, 10**30),
    *(-1e30, -0.5, 1e-300, 1e30, 1e300, float("nan"), float("inf")),
    *(None, True, "", "x", "../x", [], [1], [-1, 2**40], [[1], 2], {}, {"a": 1}),
)
# One of each kind that has options of its own; tests of the families have the rest.
NAMES = (
    *("probe/constant", "probe/delayed", "bandit/odd", "dark/room"),
    *("labyrinth/nav_maze_static_01", "labyrinth/rooms_keys_doors_puzzle"),
    *("gymnax/CartPole-v1", "gymnax/DeepSea-bsuite", "gymnax/MemoryChain-bsuite"),
)


def options_of(name):
    """Returns the options that an environment has, as its error lists them."""
    with pytest.raises(ValueError, match="no_such_option") as refused:
        envs.pure_task(name, {"no_such_option": 1})
    found = re.search(r"(?:there is|allowed:) ([^)]*)\)?$", str(refused.value))
    return [x for x in found[1].split(", ") if x != "none"]


def tried(name, option, value):
    """Returns what is wrong with how an environment takes a value, "" if nothing is."""
    try:
        task = envs.pure_task(name, {option: value})
    except ValueError as error:
        line = str(error)
        return "" if "\n" not in line and option in line else f"says {line!r}"
    params = dtypes.as_arrays(task.params)
    broken = [
        x
        for x in jax.tree.leaves(params)
        if np.asarray(x).dtype.kind == "f" and not np.isfinite(x).all()
    ]
    return f"takes it for {broken}" if broken else ""


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_an_option_is_taken_or_one_line_that_names_it(name):
    """None of them overflows, is a number that is none, or ends in another error."""
    found = {
        f"{option}={value!r}": problem
        for option in options_of(name)
        for value in VALUES
        if (problem := tried(name, option, value))
    }
    assert not found


@pytest.mark.parametrize("name", ["reward_scale", "frame_stack", "time_in_episode"])
def test_every_value_of_a_wrapper_is_taken_or_one_line(name):
    """As for an environment's own options."""
    for value in VALUES:
        try:
            env = envs.make("probe/action", (1, 2), {"wrappers": {name: value}})
            scale = np.float32(env.spec.tasks[0].reward_scale)
            assert np.isfinite(1 / scale) and np.isfinite(scale)
        except ValueError as error:
            assert "\n" not in str(error)
            assert name in str(error)
