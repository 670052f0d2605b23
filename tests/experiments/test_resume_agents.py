"""Every agent in a run that ends after a chunk and goes on in a new process: same bits.

An agent that learns from environments is a run of its own; one that learns from a dataset
is a stage on tabular Q-learning's histories, a demonstrator the stage that makes them.
Policy distillation needs a teacher's values: tests/experiments/test_distillation_stages.py
ends and kills its stages. What is saved of an agent outside of a run: test_contract.py.
"""

import dreaming
import pytest
import running
import staged_runs
import tiny_settings
import yaml

from mtrl_jax import agents

DARK = [{"env": "dark/room", "slots": 2, "options": tiny_settings.ROOM}]
TRANSFORMER = {"layers": 1, "width": 8, "heads": 1, "feedforward": 8, "context": 8}
REPLAY = {"capacity": 200, "batch": 8}
# What makes an agent small, or its program larger than its defaults do.
CONFIG = {
    "progressive": {"columns": 2, "hidden": [8, 8]},
    "unreal": {"cell": 1, "capacity": 120, "windows": 2, "steps": 3, "snippets": 2},
    "ppo": {"epochs": 2, "minibatches": 2},
    "pqn": {"minibatches": 2},
    "dqn": REPLAY,
    "rainbow": {**REPLAY, "atoms": 5},
    "tabular": {},
    "bandit": {"algorithm": "thompson"},
    "dreamer_v2": dreaming.RUN["agent"]["config"],
    "algorithm_distillation": {"transformer": TRANSFORMER},
    "decision_transformer": {"transformer": TRANSFORMER},
    "multi_game_decision_transformer": {"transformer": TRANSFORMER},
    "gato": {"transformer": TRANSFORMER},
}
TASKS = {
    "tabular": DARK,
    "bandit": [{"env": "bandit/uniform", "slots": 2}],
    "dreamer_v2": dreaming.RUN["tasks"],
}
OFFLINE = [
    "behaviour_cloning",
    "algorithm_distillation",
    "decision_transformer",
    "multi_game_decision_transformer",
    "gato",
]
ELSEWHERE = ["policy_distillation"]


def settings_of(name):
    """Returns (the settings of a tiny run of an agent, the row before which it ends)."""
    agent = {"name": name, "config": CONFIG.get(name, {})}
    if name == "gato":
        agent["hparams"] = {"prompt_share": 0.0}
    source, model, _ = tiny_settings.STAGES["stages"]
    if name == "demonstrator":
        return {"stages": [{**source, "agent": {"name": name}}]}, 40
    if name in OFFLINE:
        if not agent["config"]:
            agent = model["agent"]
        model = {**model, "agent": agent, "population": {"size": 2}}
        return {"stages": [source, model]}, 6
    config = agents.get(name).Config
    if "network" in config.__dataclass_fields__ and name != "progressive":
        agent["config"] = {"network": {"hidden": [8]}, **agent["config"]}
    online = {
        "tasks": TASKS.get(name, tiny_settings.ONLINE["tasks"]),
        "agent": agent,
        "population": {"size": 2},
        "training": {"env_steps": 160, "unroll_length": 4, "updates_per_chunk": 2},
        "evaluation": {"every_updates": 0, "episodes": 2, "max_steps": 4},
        "checkpoint": {"every_updates": 4},
        "logging": tiny_settings.QUIET,
    }
    return online, 8


@pytest.mark.slow
@pytest.mark.parametrize("name", [x for x in agents.AGENTS if x not in ELSEWHERE])
def test_stopped_and_gone_on_with_in_a_new_process_it_has_the_same_bits(
    name, tmp_path, cached
):
    """It ends two updates or more beyond a checkpoint; the other run never ends early."""
    settings, update = settings_of(name)
    given = tmp_path / "tiny.yaml"
    given.write_text(yaml.safe_dump(settings))
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    outcome = running.mtrl("train", given, "--run-dir", whole)
    assert outcome.code == 0, outcome.err
    running.mtrl_ending_at(update, "train", given, "--run-dir", stopped)
    names = [stage["name"] for stage in settings.get("stages", ())]
    own, other = (
        staged_runs.stage_of(run, names[-1]) if names else run
        for run in (stopped, whole)
    )
    # Neither from the beginning nor from the end.
    assert 0 < running.checkpoints(own)[-1] < running.newest_row(other)
    outcome = running.ended(running.start("resume", stopped, cache=cached))
    assert outcome.code == 0, outcome.err
    if names:
        staged_runs.assert_same(stopped, whole, names)
    else:
        running.assert_same(stopped, whole)
