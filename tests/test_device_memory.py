"""What does not fit a machine is refused before anything is allocated."""

import re

import pytest

from mtrl_jax import config, errors
from mtrl_jax.experiments import online


def settings(capacity, members=2):
    return config.from_dict(
        {
            "tasks": [{"env": "probe/both", "slots": 8}],
            "agent": {"name": "dqn", "config": {"capacity": capacity}},
            "population": {"size": members},
            "training": {"unroll_length": 4},
        }
    )


def test_a_replay_that_does_not_fit_names_the_largest_that_does():
    """And that one is accepted; nothing of it is allocated."""
    with pytest.raises(errors.ConfigError) as error:
        online.make_program(settings(2_000_000_000, 64))
    line = str(error.value)
    assert re.match(r"agent\.config\.capacity=2000000000: .* 64 members need", line)
    most = int(re.search(r"give at most (\d+)", line)[1])
    online.make_program(settings(most, 64))
    with pytest.raises(errors.ConfigError, match="give at most"):
        online.make_program(settings(most + most // 100, 64))
