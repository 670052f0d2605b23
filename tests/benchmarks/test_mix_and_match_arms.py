"""The benchmark's arms are settings that can be trained: a typo there costs hours."""

import ast
import functools
import importlib.util
import pathlib

import pytest

from mtrl_jax import config
from mtrl_jax.config import agent_settings, schema
from mtrl_jax.experiments import environments, online
from mtrl_jax.training import notices

_PATH = pathlib.Path(__file__).parents[2] / "benchmarks/mix_and_match_arms.py"
_SPEC = importlib.util.spec_from_file_location("mix_and_match_arms", _PATH)
arms = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(arms)
ALL = [(name, arm) for name, known in arms.EXPERIMENTS.items() for arm in known]


@functools.cache
def spec_of(tasks):
    """Returns what tasks, written as settings, look like: most arms have the same."""
    settings = config.from_dict({"tasks": ast.literal_eval(tasks)})
    return environments.make_world(settings, "0").spec


@pytest.mark.parametrize(("experiment", "arm"), ALL)
def test_every_arm_makes_an_agent(experiment, arm):
    """Settings are valid, and the agent can be made for the arm's environments."""
    given = arms.settings(experiment, arm, 1_000_000, 3)
    settings = config.from_dict(given, where=arm)
    assert isinstance(settings, schema.ExperimentConfig)
    spec = spec_of(repr(given["tasks"]))
    agent_settings.module(settings).make(spec, agent_settings.config(settings))
    length = online.run_length(settings, sum(task.slots for task in settings.tasks))
    # No round without two episodes to judge by.
    assert list(notices.of(settings, length, spec.tasks)) == []


@pytest.mark.parametrize("experiment", arms.EXPERIMENTS)
def test_arms_can_be_seen_as_pixels(experiment):
    """The accelerator-sized version of each experiment is valid too."""
    given = arms.settings(experiment, "linear", 1_000_000, 3, pixels=True)
    settings = config.from_dict(given, where=experiment)
    spec = environments.make_world(settings, "0").spec
    assert spec.obs["image"].shape == (72, 96, 3)
    agent_settings.module(settings).make(spec, agent_settings.config(settings))


def test_arms_differ_from_each_other():
    """No two arms of an experiment are the same run under two names."""
    for name, known in arms.EXPERIMENTS.items():
        made = [repr(arms.settings(name, arm, 1_000_000, 3)) for arm in known]
        assert len(set(made)) == len(made), name


@pytest.mark.parametrize("experiment", arms.EXPERIMENTS)
def test_every_arm_is_in_a_picture(experiment):
    """No measured arm is left out; the curriculum itself stands beside its ablations."""
    drawn = arms.pictures(experiment, arms.EXPERIMENTS[experiment])
    assert set().union(*drawn.values()) == set(arms.EXPERIMENTS[experiment])
    assert "linear" in drawn[""] and drawn["_ablations"][0] == "linear"


def test_no_arm_meets_an_untrained_value_at_a_switch():
    """Where control passes at once, both components have one value head."""
    at_once = [x for x in ALL if arms.EXPERIMENTS[x[0]][x[1]].get("alpha") == arms.STEP]
    assert at_once
    for experiment, arm in at_once:
        given = arms.settings(experiment, arm, 1_000_000, 3)
        assert "value" in given["agent"]["config"]["share"], arm


def test_an_arm_of_one_component_has_nothing_of_the_mixture():
    """Its population copies weights and searches nothing; PBT's rounds are the same."""
    for name, arm, like in (
        ("actions", "small_selected", "pbt"),
        ("architecture", "lstm_selected", "pbt"),
    ):
        alone, mixed = (arms.settings(name, x, 1_000_000, 3) for x in (arm, like))
        assert alone["population"].pop("search") == {}
        assert set(mixed["population"].pop("search")) == {"alpha"}
        assert alone["population"] == mixed["population"]
        assert not {"alpha", "matching_cost"} & set(alone["agent"]["hparams"])
        assert not alone["evaluation"]["hparams"]
