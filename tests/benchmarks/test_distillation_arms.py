"""What the distillation benchmark compares students with: stages that could be begun."""

import argparse
import pathlib
import sys

import numpy as np
import pytest

from mtrl_jax import config, metrics
from mtrl_jax.experiments import kinds, online, stages

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
try:
    import distillation
    import distillation_arms as arms
    import distillation_online
    import distillation_rows
    import tables_distillation as tables
finally:
    sys.path.pop(0)

GAMES = 4


def arguments(**changed):
    given = {"env_steps": 40_000, "play_steps": 500, "updates": 20, "batch": 8}
    given |= {"seeds": 2, "slots": 1, "quick": False, "losses": list(arms.NAMES)}
    return argparse.Namespace(**given | changed)


def settings_of(name):
    """Returns the settings of a joint learner's run, or of that of students' states."""
    if name in arms.JOINT:
        given = arms.joint_settings(arguments(), name, "1/15")
    else:
        given = arms.stages_of(arguments(), ("teachers", "play"))
        given["stages"] += arms.states_stages(arguments(), "1/4")
    return config.from_dict(given, where=name)


@pytest.mark.parametrize("name", [*arms.JOINT, "states"])
def test_every_stage_of_an_arm_could_be_begun(name, tmp_path):
    """Its agents are traced on their games; what it takes of another stage fits."""
    stages.check(kinds.run_of(settings_of(name), tmp_path / "run"))


@pytest.mark.parametrize("agent", arms.JOINT)
def test_a_joint_learner_has_the_teachers_steps_together(agent):
    """On all games at once, with as many updates and gradient steps a game as one alone."""
    joint, play = settings_of(agent).stages
    assert joint.population.size == 2 and joint.population.axis == "slot"
    assert joint.training.env_steps == GAMES * 40_000 and play.of == "joint"
    slots, known = joint.tasks[0].slots, joint.agent.config
    assert known["network"]["per_task"] and known["network"]["filters"] == [4]
    alone = arms.CONFIG if agent == "pqn" else arms.CONFIGS / "dqn_minatar.yaml"
    alone = config.read_yaml(alone)
    alone = alone["stages"][0] if agent == "pqn" else alone
    assert slots == alone["tasks"][0]["slots"]
    for name in {"minibatches", "gradient_steps", "capacity"} & set(known):
        assert known[name] == GAMES * alone["agent"]["config"].get(name, known[name])
    length = online.run_length(joint, GAMES * slots)
    assert length.updates >= 40_000 // (slots * joint.training.unroll_length)


def test_own_states_and_the_teachers_are_the_same_amount():
    """Both go on from one student for as long, on as many steps; nothing else differs."""
    made = {stage.name: stage for stage in settings_of("states").stages}
    own, more = made["own_1of4"], made["more_1of4"]
    assert own.data == "states_1of4" and more.data == "play"
    changed = {"name": "", "data": "", "seed": 0}
    assert own.model_copy(update=changed) == more.model_copy(update=changed)
    assert made["states_1of4"].training == made["play"].training
    assert made["states_1of4"].population.size == made["play"].population.size
    rate = own.agent.hparams["decay_updates"]
    assert rate == 2 * own.training.updates == 2 * made["student_1of4"].training.updates
    # The page's, whatever the config's is.
    taught = own, more, made["student_1of4"]
    assert {stage.agent.hparams["tau"] for stage in taught} == {0.01}


def test_students_are_of_the_losses_that_are_asked_for():
    """Dealt in turn, each as often as there are seeds; τ is each one's own."""
    given = arguments(losses=["kl-0.1", "mse"], seeds=3)
    student = arms.student_settings(given, "1/4", pathlib.Path("t"))["stages"][0]
    assert student["population"]["size"] == 6
    ranges = student["population"]["search"]
    dealt = {name: ranges[name]["initial"] for name in ranges}
    assert dealt["kl_cost"] == [1.0, 0.0] and dealt["mse_cost"] == [0.0, 1.0]
    assert dealt["nll_cost"] == [0.0, 0.0] and dealt["tau"] == [0.1, 0.01]


def test_a_score_is_the_geometric_mean_of_shares_of_the_teachers(tmp_path):
    """Half and twice of two games make 1; a game that its teacher cannot play is none."""
    reference = {
        name: {"return": x, "random": 1.0} for name, x in [("a", 5), ("b", 3), ("c", 1)]
    }

    def played(*returns):
        return {"in_context": {"returns": [[[x]] for x in returns]}}

    tasks = {"a": played(3.0, 1.0), "b": played(5.0, 5.0), "c": played(9.0, 9.0)}
    metrics.write_summary(tmp_path, {"tasks": tasks})
    found = distillation_rows.scored(tmp_path, reference)
    assert found["scores"] == pytest.approx([1.0, (distillation_rows.FLOOR * 2) ** 0.5])
    assert found["low"] < found["score"] < found["high"]
    alone = distillation_rows.scored(tmp_path, reference, slice(0, None, 2))
    assert alone["seeds"] == 1 and alone["low"] is None
    hopeless = {name: {"return": 1.0, "random": 1.0} for name in reference}
    none = distillation_rows.scored(tmp_path, hopeless)
    assert (none["seeds"], none["scores"], none["score"]) == (2, [], None)


def test_students_of_other_teachers_or_lengths_are_other_runs():
    """A finished run is taken as it is, so its folder names what it learned from."""
    teachers = [pathlib.Path("runs/teachers-1-1"), pathlib.Path("runs/teachers-1-2")]
    given = [arguments(), arguments(updates=30), arguments(batch=9), arguments(seeds=3)]
    given += [arguments(slots=2), arguments(losses=["nll"])]
    made = {
        distillation.students_folder(args, size, of)
        for args in (
            argparse.Namespace(**vars(x), runs=pathlib.Path("runs")) for x in given
        )
        for size in ("1", "1/4")
        for of in teachers
    }
    assert len(made) == len(given) * 2 * len(teachers)


def test_online_runs_differ_in_who_is_tested_alone():
    """A member for each game and seed, about as many tests as were asked for."""
    given = arguments(env_steps=400_000, tests=10, episodes=4)
    made = {
        who: distillation_online.settings(who, given) for who in ("student", "teacher")
    }
    (student, teacher) = (config.to_dict(x) for x in made.values())
    tests = [x["evaluation"]["hparams"].pop("student") for x in (student, teacher)]
    assert tests == [1, 0] and student == teacher
    assert student["population"]["size"] == 2 * GAMES
    updates = 400_000 // (64 * student["training"]["unroll_length"])
    assert 10 <= updates / student["evaluation"]["every_updates"] <= 20


def test_steadiness_is_the_ratio_of_deviations_over_the_last_tests():
    """Of a game's own members, in rows with a test; a teacher without any varies not."""
    nan, rows = float("nan"), 2 * distillation_online.LAST
    wave = np.where(np.arange(rows) % 2, 1.0, -1.0)[:, None]
    early = np.arange(rows)[:, None] < rows // 2
    tests = {"teacher": wave * [2.0, 4.0], "student": wave * [1.0, 1.0] + 3 * early}

    def log(returns):
        # Two members of game a, one of b, and rows without a test.
        none = np.full((rows, 1), nan)
        a, b = np.hstack([returns, none]), np.hstack([none, none, 0 * wave])
        spread = [np.insert(x, range(rows), nan, axis=0) for x in (a, b)]
        fields = dict.fromkeys(metrics.Metrics._fields)
        evaluation = {"x/a-MinAtar": spread[0], "x/b-MinAtar": spread[1]}
        return metrics.Metrics(**fields | {"evaluation": evaluation})

    a, b = distillation_online.read({who: log(x) for who, x in tests.items()})
    assert (a["game"], a["seeds"], a["ratios"]) == ("a", 2, [0.5, 0.25])
    assert a["student"] == 0.0 and a["low"] < a["ratio"] < a["high"]
    assert b["seeds"] == 1 and "ratio" not in b


def test_tables_say_what_has_not_been_run():
    """With results a line for each learner, those of students beside them."""
    row = {"size": "1", "parameters": 134_000, "score": 0.5, "low": 0.4, "high": 0.6}
    row |= {"agreement": 0.8, "loss": "kl", "tau": 0.01}
    result = {"rows": [row], "joint": [row | {"agent": "pqn", "env_steps": 12e6}]}
    result |= {"states": [row | {"states": x} for x in arms.STATES]}
    joint, states = tables.joint_of(result), tables.states_of(result)
    assert [line[0] for line in joint[1:]] == ["student, KL, τ = 0.01", "joint PQN"]
    assert joint[2][-1] == "0.500 [0.400, 0.600]" and joint[2][2] == "12.0 M"
    assert states[1] == ["1", *["0.500 [0.400, 0.600]; 80 %"] * 2]
    assert "not run" in tables.online_of(None)[-1][1]
    worse = {"rows": [row | {"score": None}, row], "joint": result["joint"]}
    assert tables.joint_of(worse) == joint
    row = {"game": "a", "teacher": 2.0, "student": 3.0, "ratio": 0.5}
    assert tables.online_of({"rows": [row]})[1] == ["a", "2.00", "3.00", "0.500"]
    for of in (tables.joint_of, tables.states_of):
        assert "not run" in of({"rows": [row]})[-1][1]
