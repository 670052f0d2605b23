"""Shipped configs in stages, killed once in each stage of one run."""

import pathlib
import signal

import pytest
import running
import staged_runs

from mtrl_jax.config import loading

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
NAMES = [
    "decision_transformer_dark_room",
    "multi_game_decision_transformer_dark_room",
    "gato_dark_room",
]
# Fewer gradient steps than shipped, the same stages and programs.
SHORTER = [
    "stages.1.training={updates: 60, updates_per_chunk: 10}",
    "stages.1.checkpoint={every_updates: 20}",
]
# The row of a stage before which it is killed: beyond a checkpoint where it has several.
ROW = {"collect": 2, "offline": 4, "evaluate": 1}
# A process that says so and stands still instead of logging its n-th row of a stage.
STALL = """
import pathlib, time
from mtrl_jax import metrics
write, seen = metrics.MetricsWriter.write, []
def stall(self, **row):
    seen.extend([self._run.name] * (self._run.name == {stage!r}))
    if len(seen) == {row}:
        pathlib.Path({marker!r}).touch()
        time.sleep(1e6)
    write(self, **row)
metrics.MetricsWriter.write = stall
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_killed_in_every_stage_it_arrives_at_the_same_bits(name, tmp_path, cached):
    """kill -9 in each stage, one after the other, and resumed: nothing differs."""
    config = CONFIGS / f"{name}.yaml"
    stages = loading.load(config, SHORTER).stages
    run, whole = tmp_path / "run", tmp_path / "whole"
    outcome = running.mtrl("train", config, *SHORTER, "--run-dir", whole)
    assert outcome.code == 0, outcome.err
    command = ["train", config, *SHORTER, "--run-dir", run]
    for stage in stages:
        marker = tmp_path / stage.name
        stall = STALL.format(stage=stage.name, row=ROW[stage.kind], marker=str(marker))
        process = running.start(*command, cache=cached, before=stall)
        running.wait_for(process, marker.exists)
        process.kill()
        assert running.ended(process).code == -signal.SIGKILL
        assert staged_runs.stage_of(run, stage.name).exists()
        command = ["resume", run]
    outcome = running.mtrl(*command)
    assert outcome.code == 0, outcome.err
    staged_runs.assert_same(run, whole, [stage.name for stage in stages])
