"""What all actor-critics are wired from: one home of each option and of its setting."""

import dataclasses
import inspect

import pytest

from mtrl_jax import agents
from mtrl_jax.agents.common import (
    combining,
    learning,
    objective,
    observation_scale,
    policy_learner,
    value_scale,
)
from mtrl_jax.config import strict

GROUPS = (
    combining.Config,
    learning.Config,
    objective.Config,
    observation_scale.Config,
    policy_learner.Config,
    value_scale.Config,
)
NAMES = [
    name
    for name in agents.AGENTS
    if issubclass(agents.get(name).Config, policy_learner.Config)
]


def names(config):
    """Returns the names of a dataclass's fields."""
    return {field.name for field in dataclasses.fields(config)}


@pytest.mark.parametrize("name", agents.AGENTS)
def test_a_setting_of_a_group_is_stated_again_for_another_default_alone(name):
    """Its type, its default and what is said of it are in one place."""
    config = agents.get(name).Config
    for group in GROUPS:
        heirs = [x for x in config.__mro__ if x is not group and issubclass(x, group)]
        for heir in heirs:
            again = names(group) & inspect.get_annotations(heir).keys()
            assert not {x for x in again if getattr(heir, x) == getattr(group, x)}
        # Optimiser and rewards are settings of other learners, too.
        if not heirs and group is not policy_learner.Config:
            assert not names(group) & names(config)


@pytest.mark.parametrize("name", NAMES)
def test_each_option_is_checked_in_every_agent_that_offers_it(name, kit):
    """An unknown name or a size below 1 is refused by its field."""
    module, spec = agents.get(name), kit.probe("both", "masked").spec
    loud = ("value_scale", "value_statistics", "optimiser", "rewards", "combiner")
    wrong = {**dict.fromkeys(loud, "loud"), "epochs": 0, "minibatches": 0}
    for field in wrong.keys() & names(module.Config):
        config = module.Config(**{field: wrong[field]})
        with pytest.raises(ValueError, match=f"^{field}: .*({wrong[field]}|unknown)"):
            module.make(spec, config)


@pytest.mark.parametrize("name", NAMES)
def test_an_option_that_an_agent_does_not_offer_is_refused_by_its_name(name):
    """It is in no group of its Config, so that it is not passed over."""
    config = agents.get(name).Config
    lacking = set().union(*map(names, GROUPS)) - names(config)
    assert bool(lacking) == (name in ("distral", "progressive", "unreal"))
    for field in lacking:
        with pytest.raises(ValueError, match=rf"agent\.config\.{field} is unknown"):
            strict.build(config, {field: "mean"}, "agent.config")


def test_a_new_scale_of_values_is_one_of_every_agent(kit, monkeypatch):
    """No agent has a list of its own, or asks for a scale by its name."""
    spec = kit.probe("both", "masked").spec
    for name in NAMES:
        with pytest.raises(ValueError, match="loud"):
            agents.get(name).make(spec, agents.get(name).Config(value_scale="loud"))
    monkeypatch.setattr(value_scale, "SCALES", (*value_scale.SCALES, "loud"))
    for name in NAMES:
        agents.get(name).make(spec, agents.get(name).Config(value_scale="loud"))
