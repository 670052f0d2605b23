"""Runs of sequence policies in stages: a prompt, returns, and a stop in between."""

import numpy as np
import pytest
import running
import staged_runs

from mtrl_jax import metrics

GATO = """{
    name: gato,
    config: {
      transformer: {layers: 1, width: 8, heads: 1, feedforward: 8, context: 8},
      outlook: {bins: 5, low: 0.0, high: 4.0}},
    hparams: {prompt_share: 0.5, return_gate: 1.0, target: 2.0}}"""
CHANGES = (
    f"stages.1.agent={GATO}",
    "stages.1.population={size: 2}",
    "stages.1.training.prompt_length=3",
    "stages.2.prompt={episodes: 1, epsilon: 0.0}",
)


def test_a_prompted_run_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """Ended beyond a checkpoint and resumed: not a bit differs; the prompt is played."""

    class Ended(Exception):
        pass

    write_row = metrics.MetricsWriter.write

    def end(self, **row):
        if row["update"] == 6 and self._run.name == "model":
            raise Ended
        write_row(self, **row)

    given = staged_runs.write(tmp_path / "x.yaml", *CHANGES)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    outcome = running.mtrl("train", given, "--run-dir", whole)
    assert outcome.code == 0, outcome.err
    with monkeypatch.context() as patch:
        patch.setattr(metrics.MetricsWriter, "write", end)
        with pytest.raises(Ended):
            running.mtrl("train", given, "--run-dir", stopped)
    assert running.checkpoints(staged_runs.stage_of(stopped, "model"))[-1] == 4
    outcome = running.mtrl("resume", stopped)
    assert outcome.code == 0, outcome.err
    staged_runs.assert_same(stopped, whole)
    tested = metrics.read_summary(staged_runs.stage_of(whole, "in_context"))
    task = tested["tasks"]["dark/room"]
    assert task["in_context"]["prompt"] == 1
    shown = task["in_context"]["mean"][0]
    np.testing.assert_allclose(shown, task["reference_score"], rtol=1e-6)


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
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(tmp_path, change, words):
    """The field, what was given, what would work; exit code 2."""
    run = tmp_path / "run"
    given = staged_runs.write(tmp_path / "x.yaml", change)
    outcome = running.mtrl("train", given, "--run-dir", run)
    assert outcome.code == 2 and not run.exists()
    for word in words.split():
        assert word in outcome.error
