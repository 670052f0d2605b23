"""What the distillation benchmark compares students with: stages that could be begun."""

import argparse
import pathlib
import sys

import pytest

from mtrl_jax import config, metrics
from mtrl_jax.experiments import kinds, online, stages

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
try:
    import distillation
    import distillation_arms as arms
    import tables_distillation as tables
finally:
    sys.path.pop(0)

GAMES = 4


def arguments(**changed):
    given = {"env_steps": 40_000, "play_steps": 500, "updates": 20, "batch": 8}
    given |= {"seeds": 2, "slots": 1, "quick": False}
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


def test_a_score_is_the_geometric_mean_of_shares_of_the_teachers(tmp_path):
    """Half and twice of two games make 1; a game that its teacher cannot play is none."""
    reference = {
        name: {"return": x, "random": 1.0} for name, x in [("a", 5), ("b", 3), ("c", 1)]
    }

    def played(*returns):
        return {"in_context": {"returns": [[[x]] for x in returns]}}

    tasks = {"a": played(3.0, 1.0), "b": played(5.0, 5.0), "c": played(9.0, 9.0)}
    metrics.write_summary(tmp_path, {"tasks": tasks})
    found = distillation.scored(tmp_path, reference)
    assert found["scores"] == pytest.approx([1.0, (distillation.FLOOR * 2) ** 0.5])
    assert found["low"] < found["score"] < found["high"]
    alone = distillation.scored(tmp_path, reference, slice(0, None, 2))
    assert alone["seeds"] == 1 and alone["low"] is None


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
    for of in (tables.joint_of, tables.states_of):
        assert "not run" in of({"rows": [row]})[-1][1]
