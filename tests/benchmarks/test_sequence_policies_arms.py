"""The benchmark of sequence policies is stages that can be trained, and arms of them."""

import pathlib
import sys

import pytest

from mtrl_jax import config

sys.path.append(str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import sequence_policies_arms as arms
import sequence_policies_beyond as beyond


@pytest.mark.parametrize("name", beyond.EXPERIMENTS)
@pytest.mark.parametrize("quick", [False, True])
def test_every_experiment_is_valid_and_an_arm_has_a_member_a_seed(name, quick):
    """Its settings are read; members of kinds that are dealt the same belong together."""
    experiment = beyond.EXPERIMENTS[name]()
    settings = config.from_dict(arms.settings(experiment, quick), where=name)
    stages = {stage.name: stage for stage in settings.stages}
    used = set()
    for arm in experiment.arms:
        own = stages[arm.stage]
        used.add(arm.stage)
        assert len(arm.members) == arms.SEEDS
        assert max(arm.members) < own.population.size
        for found in own.population.search.values():
            dealt = [found.initial[m % len(found.initial)] for m in arm.members]
            assert len(set(dealt)) == 1
    assert used == {stage.name for stage in settings.stages if stage.kind == "evaluate"}


def test_arms_of_some_goals_need_the_stages_of_these_alone():
    """One task of three has its own source, model and evaluation, all kinds of members."""
    experiment = arms.credit()
    goal = experiment.arms[-1].goal
    chosen = arms.only(experiment, goals=[goal])
    assert {arm.name for arm in chosen.arms} == {arm.name for arm in experiment.arms}
    assert {arm.goal for arm in chosen.arms} == {goal}
    names = {stage["name"].rpartition("_")[2] for stage in chosen.stages}
    assert names == {goal} and 3 * len(chosen.stages) == len(experiment.stages)
