"""The multi-task benchmark's arms are settings that can be trained."""

import argparse
import json
import pathlib
import sys

import jax
import numpy as np
import pytest

from mtrl_jax import config, envs
from mtrl_jax.envs import core

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
try:
    import minatar_variants
    import multitask
    import multitask_arms as arms
    import multitask_tasks as tasks_of
finally:
    sys.path.pop(0)
ALL = [(name, arm) for name, known in arms.EXPERIMENTS.items() for arm in known]


@pytest.mark.parametrize(("experiment", "arm"), ALL)
def test_every_arm_of_the_multitask_benchmark_is_valid(experiment, arm):
    """Its settings are read, and each label has as many members as there are seeds."""
    given = arms.settings(experiment, arm, 100_000, 5)
    settings = config.from_dict(given, where=arm)
    chosen = arms.EXPERIMENTS[experiment][arm]
    last = settings.stages[-1] if "stages" in given else settings
    tasks = len(last.tasks) if last.population.axis == "population" else 1
    assert last.population.size == 5 * len(chosen.labels) * tasks
    for name, values in chosen.dealt.items():
        assert len(values) == len(chosen.labels)
        assert list(last.population.search[name].initial) == values
    assert set(arms.WHERE) == set(arms.EXPERIMENTS) == set(arms.STEPS)


def test_no_label_has_one_teacher_alone():
    """Members are dealt teachers and labels in turn: of 4 and 4 each has its own."""
    with pytest.raises(ValueError, match=r"--seeds: of 4 each of 4 labels begins"):
        arms.settings("kickstarting", "student", 100_000, 4)


@pytest.mark.parametrize(
    "tasks", sorted(set(tasks_of.TASKS) - {"mt10"})
)  # a suite, read above
def test_every_environment_of_an_arm_is_found(tasks):
    """By the name that is in its settings, be it of the kit or of a file beside them."""
    for task in tasks_of.TASKS[tasks]:
        made = envs.pure_task(task["env"], task.get("options"))
        assert made.spec.name == task["env"].partition("@")[0]


def test_a_return_is_reached_where_the_last_three_are_on_average():
    """The step of the third; chunks without an episode are passed over."""
    steps = np.arange(10, 80, 10)
    returns = np.array([9.0, 0, np.nan, 0, 3, 6, 9])
    assert multitask.reached(steps, returns, 3.0) == 10 * 4
    assert multitask.reached(steps, returns, 5.0) == 10 * 7
    assert multitask.reached(steps, returns, 7.0) is None


def test_rows_of_arms_that_are_not_run_stay(tmp_path):
    """Those of the arms asked for are left out: they come anew."""
    asked = argparse.Namespace(out=tmp_path, arms=["soft"])
    assert multitask.recorded(asked, "multitask_rooms") == {}
    rows = [{"arm": arm, "task": n} for n in range(2) for arm in ("hard", "soft")]
    path = tmp_path / "multitask_rooms.json"
    path.write_text(json.dumps({"rows": rows}))
    found = multitask.recorded(asked, "multitask_rooms")
    assert found == {"hard": [{"arm": "hard", "task": n} for n in range(2)]}


@pytest.mark.parametrize("variant", minatar_variants.VARIANTS)
def test_a_variant_is_the_game_seen_otherwise(variant):
    """The same draws, rewards and episodes; seen back, the same picture."""
    change = minatar_variants.VARIANTS[variant]
    keys = jax.random.split(jax.random.key(0), 1)
    plain = envs.make("gymnax/Breakout-MinAtar", batch=(1, 2))
    other = minatar_variants.task(f"Breakout-{variant}")
    assert other.spec.name == f"minatar_variants/Breakout-{variant}"
    other = core.vectorise(other, (1, 2))
    seen = [env.reset(keys, env.params)[1] for env in (plain, other)]
    images = [np.asarray(ts.obs.pop("image")) for ts in seen]
    np.testing.assert_array_equal(change(images[0]), images[1])
    assert not np.array_equal(*images)
    jax.tree.map(np.testing.assert_array_equal, *seen)
