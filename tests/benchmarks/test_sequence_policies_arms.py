"""The benchmark of sequence policies is stages that can be trained, and arms of them."""

import json
import pathlib
import sys

import numpy as np
import pytest

from mtrl_jax import config, envs
from mtrl_jax.envs import dark

sys.path.append(str(pathlib.Path(__file__).parents[2] / "benchmarks"))
import sequence_policies
import sequence_policies_arms as arms
import sequence_policies_beyond as beyond
import sequence_policies_large as large
import sequence_policies_pictures as pictures


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
        if not arm.members:  # The data themselves.
            assert own.kind == "collect"
            continue
        used.add(arm.stage)
        assert len(arm.members) == arms.SEEDS
        assert max(arm.members) < own.population.size
        for found in own.population.search.values():
            dealt = [found.initial[m % len(found.initial)] for m in arm.members]
            assert len(set(dealt)) == 1
    assert used == {stage.name for stage in settings.stages if stage.kind == "evaluate"}


def test_pictures_have_words_for_every_arm_and_goal():
    """No tag is in a legend; games are called by their names."""
    every = [arm for make in beyond.EXPERIMENTS.values() for arm in make().arms]
    assert {arm.name for arm in every} <= set(pictures.NAMES)
    for goal in {arm.goal for arm in every} - set(large.GAMES):
        assert " " in pictures.in_words(goal) or goal == "whole"
    assert pictures.in_words("7542") == "key (7, 5), door (4, 2)"


def test_one_model_of_four_games_has_the_range_of_each_at_its_place():
    """In the order of the suite: as those of the models of one game."""
    _, model, _ = arms.config_stages("multi_game_decision_transformer_minatar")
    found = model["agent"]["config"]["outlook"]["ranges"]
    assert found == [[0, large.GAMES[game]] for game in envs.MINATAR]


@pytest.mark.parametrize("name", ["return_control", "unseen", "credit", "minatar"])
def test_who_gets_no_returns_pays_nothing_for_them(name):
    """Cloning is the same model without returns and without their loss."""
    searches = [
        (stage, stage.get("population", {}).get("search", {}))
        for stage in beyond.EXPERIMENTS[name]().stages
    ]
    dealing = [(x, search) for x, search in searches if "return_gate" in search]
    assert dealing
    for stage, search in dealing:
        gates = search["return_gate"]["initial"]
        costs = [k for k in ("return_cost", "reward_cost") if k in search]
        own = stage["agent"]["hparams"]
        for cost in ("return_cost", "reward_cost"):
            dealt = search[cost]["initial"] if cost in costs else None
            # Where it is not dealt nobody pays it.
            assert (dealt is None and not own.get(cost, 0.0)) or dealt == gates


def test_clones_of_the_best_read_no_returns_and_are_tested_once_a_goal():
    """A stage of their own on the same histories, a share a kind; the data are beside."""
    chosen = arms.only(arms.return_control(), names=[*arms.BEST, "data"], goals=["0_0"])
    source, model, tested = chosen.stages
    assert (source["name"], model["data"]) == ("source_0_0", "source_0_0")
    assert tested["of"] == model["name"]
    own = model["agent"]["hparams"]
    assert own["return_gate"] == own["return_cost"] == 0.0
    dealt = model["population"]["search"]
    assert list(dealt) == ["rank_from"]
    assert dealt["rank_from"]["initial"] == pytest.approx([0.9, 0.75, 0.5])
    members = {arm.name: arm.members for arm in chosen.arms}
    assert members.pop("data") == ()
    assert sorted(m for x in members.values() for m in x) == list(range(3 * arms.SEEDS))


def test_arms_that_are_not_run_keep_their_rows(tmp_path):
    """In the order of the experiment; a row that is made anew is there once."""
    every = arms.return_control()
    path = tmp_path / "x.json"
    dt = {"arm": "dt", "goal": "0_0", "asked": 4.0, "mean": 1.0}
    old = [{"arm": "top_bc", "goal": "0_0", "asked": None, "mean": 1.0}, dt]
    path.write_text(json.dumps({"arms": old, "data": [{"stage": "model_0_0"}]}))
    new = {"arm": "top_bc", "goal": "0_0", "asked": None, "mean": 2.0}
    made = [{"stage": "clones_0_0"}, {"stage": "source_0_0"}]
    rows, data = sequence_policies.beside(path, every, [new], made)
    assert rows == [dt, new]
    names = ["source_0_0", "model_0_0", "clones_0_0"]
    assert [x["stage"] for x in data] == names
    missing = tmp_path / "none.json"
    assert sequence_policies.beside(missing, every, [new], made[:1]) == (
        [new],
        made[:1],
    )


def test_arms_of_some_goals_need_the_stages_of_these_alone():
    """One task of three has its own source, model and evaluation, all kinds of members."""
    experiment = arms.credit()
    goal = experiment.arms[-1].goal
    chosen = arms.only(experiment, goals=[goal])
    assert {arm.name for arm in chosen.arms} == {arm.name for arm in experiment.arms}
    assert {arm.goal for arm in chosen.arms} == {goal}
    names = {stage["name"].rpartition("_")[2] for stage in chosen.stages}
    assert names == {goal} and 3 * len(chosen.stages) == len(experiment.stages)


def test_ten_thousand_tasks_are_learned_from_and_others_are_played():
    """As many histories of few tasks; no layout of a test is one of training."""
    experiment = large.many_tasks()
    stages = {stage["name"]: stage for stage in experiment.stages}
    many, few, tested = (
        dark.tasks_of("room", stages[name]["tasks"][0]["options"]).ways
        for name in ("source_many", "source_few", "room_many")
    )
    assert (len(many), len(few), len(tested)) == (10_000, 64, 64)
    assert stages["room_few"]["tasks"] == stages["room_many"]["tasks"]
    sizes = {stages[f"source_{name}"]["population"]["size"] for name in large.TASKS}
    assert sizes == {large.HISTORIES}
    known = {np.asarray(way).tobytes() for way in np.asarray(many)}
    assert not known & {np.asarray(way).tobytes() for way in np.asarray(tested)}


def test_a_game_alone_is_learned_from_once_by_members_of_every_kind():
    """Which games are played is asked for by name; DT are MGDT's members, asked for a return."""
    chosen = arms.only(large.minatar(), goals=["Freeway"])
    kinds = {arm.name: arm.members for arm in chosen.arms}
    of_returns = {f"mgdt_{kappa}" for kappa in (0, 2, 5, 10, 20)} | {"dt"}
    assert set(kinds) == of_returns | set(large.CLONES)
    assert len({kinds[arm] for arm in of_returns}) == 1
    dealt = [m for arm in ("dt", *large.CLONES) for m in kinds[arm]]
    assert sorted(dealt) == list(range(5 * arms.SEEDS))
    of_kind = [stage["kind"] for stage in chosen.stages]
    assert of_kind == ["collect", "offline", *["evaluate"] * 6]
    asked = [x["evaluation"]["hparams"] for x in chosen.stages[2:]]
    assert {"target": large.GAMES["Freeway"]} in asked and {
        "inferred": 1.0,
        "kappa": 20.0,
    } in asked
    ranks = chosen.stages[1]["population"]["search"]["rank_from"]["initial"]
    assert [ranks[kinds[arm][0]] for arm in large.CLONES] == [0.0, 0.9, 0.75, 0.5]
