"""The benchmarks whose arms are populations: what they compare differs in nothing else."""

import argparse
import json
import pathlib

import numpy as np
import pytest

from mtrl_jax.config import loading
from mtrl_jax.envs import LABYRINTH_12
from mtrl_jax.experiments import environments, online
from mtrl_jax.training import notices, run_folder


def _without(settings, *names):
    """Returns the settings as plain data, without these fields of the population."""
    given = loading.to_dict(settings)
    return {
        **given,
        "population": {k: v for k, v in given["population"].items() if k not in names},
    }


def test_arms_of_pbt_on_breakout_have_equal_compute(script):
    """They differ in search and PBT alone; a round has two whole episodes to judge by."""
    module = script("pbt_breakout")
    given = argparse.Namespace(env_steps=300_000, members=8)
    made = {arm: module.settings(arm, 1, given) for arm in module.ARMS}
    plain = [_without(x, "search", "pbt") for x in made.values()]
    assert plain == [plain[0]] * len(made)
    assert made["pbt"].population.search == made["search"].population.search != {}
    assert made["search"].population.pbt is made["fixed"].population.pbt is None
    length = online.run_length(made["pbt"], module.SLOTS)
    tasks = environments.make_world(made["pbt"], "0").spec.tasks
    assert tasks[0].max_steps
    assert not [x for x in notices.of(made["pbt"], length, tasks) if "episodes" in x]


def test_popart_and_none_are_members_of_one_population(script):
    """They differ in the statistics' step size; every scale is met in either arm."""
    module = script("popart")
    given = argparse.Namespace(env_steps=100_000, slots=8, seeds=3)
    for run in module.RUNS.values():
        made = module.settings(run, given)
        assert made.population.size == 6 and made.population.pbt is None
        ((name, found),) = made.population.search.items()
        assert name == "value_step_size" and found.initial[1] == 0 < found.initial[0]
        scales = [task.options["wrappers"]["reward_scale"] for task in made.tasks]
        assert tuple(scales) == run.scales


def test_an_arms_least_game_is_measured_by_the_oracle(script):
    """(4 − 2)/(10 − 2) in the one, 1.5 in the other; what the oracle cannot is left out."""
    module = script("popart")

    def row(run, arm, game, mean, random=2.0, published=20.0):
        keys = {"run": run, "arm": arm, "game": game, "mean": mean}
        return keys | {"random": random, "published": published}

    oracle = [row(*module.ORACLE, game, x) for game, x in zip("ab", (10.0, 6.0))]
    arm = [row("scaled", "none", game, x) for game, x in zip("ab", (4.0, 8.0))]
    unlearned = [row(*module.ORACLE, "c", 2.1), row("scaled", "none", "c", 1.0)]
    assert module.least(arm) == []
    found = module.least([*oracle, *arm, *unlearned])
    least = {(x["run"], x["arm"]): (x["score"], x["game"]) for x in found}
    assert least == {module.ORACLE: (1.0, "a"), ("scaled", "none"): (0.25, "a")}


def test_labyrinth_12_is_twelve_levels_with_and_without_popart(script):
    """One agent on all has both as members; an agent of one level is PopArt's alone."""
    module = script("labyrinth_12")
    given = argparse.Namespace(env_steps=9_000, slots=2, seeds=3, episodes=2)
    together = module.settings("together", list(LABYRINTH_12), given)
    assert [x.env.removeprefix("labyrinth/") for x in together.tasks] == list(
        LABYRINTH_12
    )
    assert together.population.size == 6
    assert together.population.search["value_step_size"].initial[1] == 0
    apart = module.settings("apart", [LABYRINTH_12[0]], given)
    assert apart.population.size == 3 and not apart.population.search
    per_level = together.training.env_steps / len(LABYRINTH_12)
    assert per_level == apart.training.env_steps == 9_000


def test_the_capped_mean_of_labyrinth_12_caps_each_level(script):
    """Two levels at 0.5 and 1.5 of the oracle's score are 0.75, not 1."""
    module = script("labyrinth_12")
    tasks = {
        f"labyrinth/{level}": {
            "members": [{"mean": x}, {"mean": x}],
            "random_score": 0.0,
            "reference_score": 2.0,
        }
        for level, x in (("one", 1.0), ("two", 3.0))
    }
    summary = {"tasks": tasks, "totals": {"env_steps_per_member": 20}}
    rows = module.read("together", summary)
    assert [x["normalised"] for x in rows] == [0.5, 1.5, 0.5, 1.5]
    assert [x["normalised"] for x in module.overall(rows)] == [0.75, 0.75]


def test_the_quickstarts_marks_are_of_its_tasks(script):
    """Other seeds change the seed alone."""
    module = script("quickstart")
    first, other = (loading.to_dict(module.settings(x, [])) for x in (0, 3))
    assert other == {**first, "seed": 3}
    assert {task["env"] for task in first["tasks"]} == set(module.MARKS)


def test_dreamers_ablations_are_members_of_one_population(script):
    """Each arm changes what it says; the Gaussian and PPO have as many seeds and steps."""
    module = script("dreamer_ablations")
    given = argparse.Namespace(game="Breakout", env_steps=20_000, seeds=5, quick=False)
    made = {
        run: loading.from_dict(module.settings(run, given), where=run)
        for run in module.RUNS
    }
    assert {x.training.env_steps for x in made.values()} == {20_000}
    dealt = made["traced"].population.search
    assert made["traced"].population.size == 5 * len(module.TRACED)
    for i, changes in enumerate(module.TRACED.values()):
        own = {name: x.initial[i] for name, x in dealt.items()}
        assert own == module.USUAL | changes
    assert (
        made[module.GAUSSIAN].population.size == made[module.PPO].population.size == 5
    )
    actor = made["actor"]
    assert actor.agent.config["actor_gradient"] == "mix"
    assert actor.population.size == 5 * len(module.ACTOR)
    assert actor.population.search["reinforce"].initial == (0.0, 0.5)
    latent = made[module.GAUSSIAN].agent.config["rssm"]["latent"]
    assert (latent["kind"], latent["latents"]) == ("gaussian", 256)


def test_a_below_of_ablations_is_the_share_of_worse_seeds(script):
    """Half of the pairs of seeds that are equal count; of recorded seeds as of run ones."""
    module = script("dreamer_ablations")
    steps = np.arange(1, 9)
    full, other = (np.tile([x, 3.0], (8, 1)) for x in (1.0, 0.0))
    own = {module.FULL: (steps, full)}
    ran = module.rows({module.PPO: (steps, other)} | own, {})
    recorded = module.rows(own, {module.PPO: np.array([0.0, 3.0])})
    assert ran == recorded
    first, second = ran
    assert first["return"] == 2 and first["below"] == 0.5
    assert second["seeds"] == [0, 3] and second["below"] == (2 + 0.5) / 4


def test_arms_beside_recorded_ones_are_of_one_length(script, tmp_path):
    """What was recorded of the runs not asked for stays, their seconds, too."""
    module = script("dreamer_ablations")
    path = tmp_path / "x.json"
    rows = [{"arm": arm, "seeds": [1.0, 2.0]} for arm in (module.FULL, module.PPO)]
    result = {"env_steps": 8, "wall_s": {"traced": 3.0, module.PPO: 1.0}, "rows": rows}
    path.write_text(json.dumps(result))
    args = argparse.Namespace(parts=["actor", module.PPO], env_steps=8)
    known, walls = module.recorded(path, args)
    assert list(known) == [module.FULL] and walls == {"traced": 3.0}
    args.parts = list(module.RUNS)
    assert module.recorded(path, args) == ({}, {})
    args = argparse.Namespace(parts=["actor"], env_steps=9)
    with pytest.raises(SystemExit, match=r"--env-steps: 9, the other arms .* have 8"):
        module.recorded(path, args)


class Counting:
    """A contender whose return is the number of turns that it was asked for."""

    def __init__(self, name):
        self.name, self.turns = name, 0

    def ask(self, command):
        self.turns += command == "train"
        return {"returns": [float(self.turns)] * 4 + [1e6]}


@pytest.mark.parametrize(
    ("done", "expected"),
    [
        (200, [300, 500, 800, 1000]),  # 250 and 750 are within a turn
        (600, [800, 1000]),
        (1000, [1000]),  # they have learned already
        (1300, [1300]),
    ],
)
def test_peers_are_tested_at_the_first_turn_past_each_quarter(script, done, expected):
    peers = script("peers")
    contenders = [Counting("a"), Counting("b")]
    args = argparse.Namespace(learn=1000)
    curves = peers.learn(contenders, done, 100, args)
    for contender in contenders:
        curve = curves[contender.name]
        assert list(curve) == expected
        assert [done + 100 * x[0] for x in curve.values()] == expected


def test_a_row_of_peers_has_the_interquartile_mean_at_the_last_test(script):
    peers = script("peers")
    turns = [{"rejax": {"seconds": 2.0, "cpu_seconds": 1.0}}]
    row = peers.row("rejax", 100, turns, {10: [1.0], 20: [9.0, 5.0, 7.0, 0.0]})
    assert (row["after"], row["IQM return"], row["steps/s"]) == (20, 6.0, 50.0)
    assert row["curve"][10]["iqm"] == 1.0


def test_a_folder_of_other_settings_is_not_read_for_those_asked(script, tmp_path):
    """A run of five seeds is not that of two; its own settings are found again."""
    common = script("common")
    config = pathlib.Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    asked = loading.load(config)
    run_folder.write_config(tmp_path, asked)
    common.check_settings(asked, tmp_path)
    other = loading.load(config, ["seed=1"])
    with pytest.raises(SystemExit, match="'seed: 0', asked for 'seed: 1'"):
        common.check_settings(other, tmp_path)
