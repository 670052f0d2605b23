"""The multi-task benchmark's arms are settings that can be trained."""

import importlib.util
import pathlib
import sys

import pytest

from mtrl_jax import config

_PATH = pathlib.Path(__file__).parents[2] / "benchmarks/multitask_arms.py"
_SPEC = importlib.util.spec_from_file_location("multitask_arms", _PATH)
arms = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = arms  # where dataclasses look for it
_SPEC.loader.exec_module(arms)
ALL = [(name, arm) for name, known in arms.EXPERIMENTS.items() for arm in known]


@pytest.mark.parametrize(("experiment", "arm"), ALL)
def test_every_arm_of_the_multitask_benchmark_is_valid(experiment, arm):
    """Its settings are read, and each label has as many members as there are seeds."""
    given = arms.settings(experiment, arm, 100_000, 5)
    settings = config.from_dict(given, where=arm)
    chosen = arms.EXPERIMENTS[experiment][arm]
    last = settings.stages[-1] if "stages" in given else settings
    assert last.population.size == 5 * len(chosen.labels)
    for name, values in chosen.dealt.items():
        assert len(values) == len(chosen.labels)
        assert list(last.population.search[name].initial) == values
    assert set(arms.WHERE) == set(arms.EXPERIMENTS) == set(arms.STEPS)
