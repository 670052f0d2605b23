"""The benchmark's arms are settings that can be trained: a typo there costs hours."""

import importlib.util
import pathlib
import sys

import pytest

from mtrl_jax import config, random
from mtrl_jax.config import stage_schema
from mtrl_jax.experiments import build, task_families

_PATH = pathlib.Path(__file__).parents[2] / "benchmarks/algorithm_distillation_arms.py"
_SPEC = importlib.util.spec_from_file_location("algorithm_distillation_arms", _PATH)
arms = importlib.util.module_from_spec(_SPEC)
# Where dataclasses look up the module of a class.
sys.modules[_SPEC.name] = arms
_SPEC.loader.exec_module(arms)
ALL = [(name, arm) for name, one in arms.EXPERIMENTS.items() for arm in one.arms]


def settings(experiment, chosen, quick=False):
    """Returns the checked settings of a run with these arms."""
    return config.from_dict(arms.settings(experiment, chosen, quick), where=experiment)


@pytest.mark.parametrize("experiment", arms.EXPERIMENTS)
@pytest.mark.parametrize("quick", [False, True])
def test_all_arms_are_stages_of_one_run(experiment, quick):
    """Settings are valid together; every arm finds the stages that it is read from."""
    chosen = list(arms.EXPERIMENTS[experiment].arms)
    staged = settings(experiment, chosen, quick)
    known = {stage.name: stage for stage in staged.stages}
    for arm in chosen:
        trained, own = arms.stages_of(experiment, arm)
        assert known[own].kind == "evaluate" and known[own].of == trained
        # Source and reader see the same: cells, or arms, or a key.
        source = known[getattr(known[trained], "data", trained)]
        one, other = (
            task_families.entries(x)[0].pure.spec for x in (source, known[own])
        )
        assert (one.obs, one.action) == (other.obs, other.action)


@pytest.mark.parametrize(("experiment", "arm"), ALL)
def test_every_arm_is_a_run_by_itself(experiment, arm):
    """No arm counts on the stages of another that was not asked for."""
    names = {stage.name for stage in settings(experiment, [arm]).stages}
    assert set(arms.stages_of(experiment, arm)) <= names


def test_what_an_arm_changes_is_there_to_be_changed():
    """A dotted name that the config ignores would be an arm like another."""
    for name, one in arms.EXPERIMENTS.items():
        made = {}
        for arm in one.arms:
            staged = settings(name, [arm])
            by_name = {stage.name: stage for stage in staged.stages}
            chain = []
            for stage in (by_name[x] for x in arms.stages_of(name, arm)):
                source = by_name.get(getattr(stage, "data", None))
                chain += [config.to_dict(x) for x in (source, stage) if x]
            for stage in chain:
                for field in ("name", "seed", "data", "of", "compare"):
                    stage.pop(field, None)
            # Members of one population are trained and tested by the same stages.
            made[arm] = repr((chain, one.arms[arm].member))
        assert len(set(made.values())) == len(made), name


def test_arms_of_one_population_are_its_members():
    """Each arm's number of steps is what its member is dealt."""
    known = {
        int(name.removeprefix("context_")): arm.member
        for name, arm in arms.EXPERIMENTS["dark_room"].arms.items()
        if arm.group == "contexts"
    }
    staged = settings("dark_room", [f"context_{min(known)}"])
    trained = next(x for x in staged.stages if x.name == "train_contexts")
    keys = random.roots(0, trained.population.size)
    horizon = build.initial_hparams(trained, keys).horizon
    assert {int(horizon[member]): member for member in known.values()} == known
    assert (
        len(horizon) == len(known)
        and max(known) == (trained.agent.config["transformer"]["context"])
    )


def test_bandits_are_tested_on_others_than_they_were_learned_from():
    """Both arms of the ratio AD / UCB1 play the same bandits, none of the source's."""
    staged = settings("bandit", ["ad", "ucb1"])
    source, tested, ucb1 = (
        next(stage for stage in staged.stages if stage.name == name)
        for name in ("source", "in_context", "ucb1")
    )
    assert isinstance(tested, stage_schema.EvaluateStage)
    assert tested.tasks == ucb1.tasks
    (train,), tests = task_families.entries(source), task_families.entries(tested)
    seen = {tuple(row.tolist()) for row in train.many.probabilities}
    assert not any(tuple(row.tolist()) in seen for row in tests[0].many.probabilities)
