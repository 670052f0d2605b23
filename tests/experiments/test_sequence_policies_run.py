"""Runs of sequence policies in stages: a prompt, returns, kills, and settings that clash."""

import pathlib
import signal

import numpy as np
import pytest
import running
import staged_runs
import yaml

from mtrl_jax import config, hparams, metrics
from mtrl_jax.experiments import collect, offline

CONFIGS = pathlib.Path(running.ROOT) / "configs"
GATO = """{
    name: gato,
    config: {
      transformer: {layers: 1, width: 8, heads: 1, feedforward: 8, context: 8},
      outlook: {bins: 5, low: 0.0, high: 4.0}},
    hparams: {prompt_share: 0.5, return_gate: 1.0, target: 2.0}}"""
PROMPTED = (
    f"stages.1.agent={GATO}",
    "stages.1.population={size: 2}",
    "stages.1.training.prompt_length=3",
    "stages.1.evaluation={every_updates: 0}",
    "stages.2.prompt={episodes: 1, epsilon: 0.0}",
)
# The shipped configs, the same programs with less to do; by kind of stage.
SHORTER = {
    "collect": {
        "population.size": 10,
        "training.env_steps": 210,
        "training.updates_per_chunk": 5,
        "checkpoint.every_updates": 5,
    },
    "offline": {
        "training.updates": 8,
        "training.batch": 2,
        "training.updates_per_chunk": 2,
        "checkpoint.every_updates": 4,
    },
    "evaluate": {
        "evaluation.episodes": 3,
        "evaluation.episodes_per_chunk": 1,
        "checkpoint.every_updates": 21,
        "logging.plots": False,
    },
}


def test_what_is_demonstrated_is_watched_and_then_it_plays(staged_copy, cached):
    """The first episode is the optimum; the histories are those of another run."""
    later = staged_runs.NAMES[1:]
    staged_runs.without(staged_copy, *later)
    settings = config.override(staged_runs.TINY, PROMPTED)
    changed = config.dump(config.from_dict(settings, "tiny"))
    (staged_copy / "config.yaml").write_text(changed)
    outcome = running.mtrl("resume", staged_copy)
    assert outcome.code == 0, outcome.err
    tested = metrics.read_summary(staged_runs.stage_of(staged_copy, "in_context"))
    task = tested["tasks"]["dark/room"]
    assert task["in_context"]["prompt"] == 1
    shown = task["in_context"]["mean"][0]
    np.testing.assert_allclose(shown, task["reference_score"], rtol=1e-6)
    assert tested["parameters"]["before"] == tested["parameters"]["after"]


def test_held_out_losses_are_of_one_measure(staged):
    """A share of the best is trained on alone, and measured on all like the others."""
    folder = staged_runs.stage_of(staged, "source") / collect.FOLDER
    given = {
        "kind": "offline",
        "name": "model",
        "data": str(folder),
        "agent": yaml.safe_load(GATO),
        "population": {"size": 2},
        "training": {"updates": 2, "batch": 4, "unroll_length": 8},
        "evaluation": {"held_out": 0.5},
    }
    given["agent"]["hparams"]["prompt_share"] = 0.0
    stage = config.from_dict(given)
    program = offline.make_program(stage, offline.contents_in(folder), folder)
    state = program.init(program.hparams)
    best = hparams.override(program.hparams, {"rank_from": np.array([0.0, 0.95])})
    losses = [program.evaluate(state, hp)["loss"] for hp in (program.hparams, best)]
    np.testing.assert_array_equal(*losses)
    program.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["decision_transformer", "multi_game_decision_transformer", "gato"]
)
def test_a_shipped_config_killed_in_every_stage_arrives_at_the_same_bits(
    name, tmp_path, cached
):
    """kill -9 beyond a checkpoint of each stage, one after the other, then to its end."""
    # Later evaluations are the same program with other hyperparameters.
    stages = yaml.safe_load((CONFIGS / f"{name}_dark_room.yaml").read_text())["stages"]
    given = tmp_path / "shipped.yaml"
    given.write_text(yaml.safe_dump({"stages": stages[:3]}))
    names = [stage["name"] for stage in stages[:3]]
    changes = [
        f"stages.{i}.{field}={value}"
        for i, stage in enumerate(stages[:3])
        for field, value in SHORTER[stage["kind"]].items()
    ]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    outcome = running.mtrl("train", given, *changes, "--run-dir", whole)
    assert outcome.code == 0, outcome.err
    command = ["train", given, *changes, "--run-dir", killed]
    for stage in names:
        rows = [
            row["update"] for row in running.rows(staged_runs.stage_of(whole, stage))
        ]
        before, update = rows[-2:]
        stall = staged_runs.STALL.format(update=update, stage=stage)
        process = running.start(*command, cache=cached, before=stall)
        folder = staged_runs.stage_of(killed, stage)
        running.wait_for(
            process, lambda at=folder, row=before: running.newest_row(at) == row, 900
        )
        process.kill()
        assert running.ended(process).code == -signal.SIGKILL
        command = ["resume", killed]
    outcome = running.mtrl("resume", killed)
    assert outcome.code == 0, outcome.err
    staged_runs.assert_same(killed, whole, names)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            "stages.1.training.prompt_length=3",
            "stages.1 prompt_length behaviour_cloning",
        ),
        ("stages.1.keep.top_fraction=0.0", "stages.1 keep.top_fraction greater than 0"),
        ("stages.1.keep.expert_share=2", "stages.1 keep.expert_share less than"),
        (
            "stages.1.agent={name: gato, config: {outlook: {bins: 1}}}",
            "stages.1 agent.config bins 2 or more",
        ),
        (
            "stages.1.agent={name: gato, hparams: {across: 2}}",
            "stages.1 agent.hparams.across from 0 to 1",
        ),
        (
            "stages.1.agent={name: gato, config: {transformer: {context: 3, ngram: 2}}}",
            "stages.1 agent.config ngram: 2 context=3 0",
        ),
        # What nothing reads: a cost without its head, a switch of what is not there.
        (
            "stages.1.agent={name: gato, hparams: {td_cost: 1.0}}",
            "stages.1 agent.hparams.td_cost=1 agent.config.outlook.values=true 0",
        ),
        (
            "stages.1.agent={name: multi_game_decision_transformer, "
            "config: {outlook: {bins: 5}}}",
            "stages.1 agent.hparams.reward_cost=1 agent.config.outlook.rewards=true 0",
        ),
        (
            "stages.1.agent={name: decision_transformer, hparams: {inferred: 0.5}}",
            "stages.1 agent.hparams.inferred=0.5 agent.config.infers=true 0",
        ),
        (
            "stages.1.agent={name: gato, hparams: {expectile_cost: 1.0}}",
            "stages.1 agent.hparams.expectile_cost=1 agent.config.outlook.values=true 0",
        ),
        (
            "stages.1.agent={name: gato, hparams: {advantage_cost: 1.0}}",
            "stages.1 agent.hparams.advantage_cost=1 agent.config.outlook.values=true 0",
        ),
        # A head that is used and that nothing teaches.
        (
            "stages.1.agent={name: gato, config: {outlook: {values: true}}, "
            "hparams: {td_cost: 1.0, advantage_cost: 1.0}}",
            "stages.1 agent.hparams.advantage_cost=1 expectile_cost=0 never learned",
        ),
        (
            "stages.1.agent={name: gato, hparams: {permuted: 1.0}}",
            "stages.1 agent.hparams.permuted=1 agent.config.permutes=true 0",
        ),
        (
            "stages.1.agent={name: gato, hparams: {ngram_gate: 0.5}}",
            "stages.1 agent.hparams.ngram_gate=0.5 agent.config.transformer.ngram 1",
        ),
        (
            "stages.1.agent={name: gato} stages.1.population={size: 2, search: "
            "{cql_cost: {low: 0.0, high: 1.0}}}",
            "stages.1 population.search.cql_cost.high=1 agent.config.outlook.values=true",
        ),
        (
            "stages.1.agent={name: gato} stages.1.population={size: 2} "
            "stages.2.evaluation.hparams={by_value: 1.0}",
            "stages.2 evaluation.hparams.by_value=1 agent.config.outlook.values=true",
        ),
        (
            "stages.1.agent={name: decision_transformer, hparams: {kappa: 5}}",
            "stages.1 agent.hparams.kappa=5 agent.config.infers=true 10",
        ),
        (
            "stages.1.agent={name: gato, hparams: {expectile: 0.9}}",
            "stages.1 agent.hparams.expectile=0.9 outlook.values=true 0.7",
        ),
        (
            "stages.1.agent={name: gato, config: {outlook: {bins: 5, ranges: [[0, 1]]}}}",
            "stages.1 agent.config outlook.ranges: 1 for 2 tasks dark/room",
        ),
        # A prompt that there is none of, or that is forgotten before it is of use.
        (
            "stages.1.agent={name: gato} stages.1.population={size: 2}",
            "stages.1 training.prompt_length=0 gato 0.25 agent.hparams.prompt_share=0",
        ),
        (
            "stages.1.agent={name: gato, config: {transformer: {context: 5}}} "
            "stages.1.population={size: 2} stages.1.training.prompt_length=3 "
            "stages.2.prompt={episodes: 1}",
            "stages.2 prompt.episodes=1 context of 5 steps context=",
        ),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(tmp_path, change, words):
    """The field, what was given, what would work; exit code 2."""
    run = tmp_path / "run"
    changes = [f"stages.{x}" for x in change.split("stages.") if x]
    given = staged_runs.write(tmp_path / "x.yaml", *map(str.strip, changes))
    outcome = running.mtrl("train", given, "--run-dir", run)
    assert outcome.code == 2 and not run.exists()
    for word in words.split():
        assert word in outcome.error
