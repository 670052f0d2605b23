"""The arms of benchmarks/value_learning.py are settings that can be trained."""

import pathlib
import sys
import types

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
try:
    import value_learning
finally:
    sys.path.pop(0)
ARMS = [
    arm
    for name in ("games", "ablation")
    for arm in value_learning.arms(name, value_learning.AGENTS)
]


@pytest.mark.parametrize(("label", "agent", "changes"), ARMS)
def test_every_arm_is_valid(label, agent, changes):
    """Nothing is given that a part which is left out would have read."""
    args = types.SimpleNamespace(env_steps=100_000, slots={}, seeds=2)
    made = value_learning.settings(agent, "Breakout", changes, args)
    assert made.agent.name == agent and made.population.size == 2, label
