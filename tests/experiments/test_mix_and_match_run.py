"""A whole run of Mix&Match: PBT moves alpha by the last policy's score, and it resumes."""

import json

import numpy as np
import pytest
import running

from mtrl_jax import metrics

STEP = 0.0625
# 5 members live on one device of 8: programs of several are compiled for longer.
CHANGES = [
    "population.size=5",
    "agent.name=mix_and_match",
    "agent.config={optimiser: adam, experts: true, share: [torso], components: [{}, {}],"
    " network: {hidden: [8], core: lstm, core_size: 8}}",
    "population.search={alpha: {low: 0.0, high: 1.0, rule: add, initial: default,"
    f" step: {STEP}, resample_probability: 0.0}}}}",
    "population.pbt={interval: 8, min_episodes: 1, explore_all: true}",
    "population.fitness={source: evaluation}",
    "evaluation={every_updates: 8, episodes: 4, hparams: {alpha: 1.0}}",
]


@pytest.fixture(name="whole", scope="module")
def _whole(tmp_path_factory):
    """A run from the first to the last update; do not change it."""
    folder = tmp_path_factory.mktemp("mix_and_match") / "run"
    running.train(folder, *CHANGES, "logging.plots=true")
    return folder


def test_alpha_starts_at_zero_and_moves_by_steps(whole):
    """Every member from 0, in steps of exactly δ, within [0, 1]; no recompilation."""
    alpha = metrics.read_metrics(whole).hparams["alpha"]
    assert (alpha[0] == 0.0).all() and (alpha[-1] > 0.0).any()
    assert (alpha >= 0).all() and (alpha <= 1).all()
    np.testing.assert_array_equal(alpha % STEP, 0.0)
    assert len(running.compiles(whole)) == 1


def test_members_are_judged_by_the_last_policy_alone(whole):
    """PBT's scores are the evaluation's at alpha = 1: those of the rows beside them."""
    rows = {row["update"]: row for row in running.rows(whole)}
    rounds = metrics.read_lineage(whole)
    assert rounds
    for record in rounds:
        tested = rows[record["update"]]["evaluation"]
        means = np.mean([tested[task] for task in tested], axis=0)
        np.testing.assert_allclose(record["score"], means, rtol=1e-5)


def test_its_measures_are_logged_and_drawn(whole):
    """Matching loss, KL, share and action entropy in every row; a picture of each kind."""
    log = metrics.read_metrics(whole)
    for name in ("matching_loss", "kl", "share", "action_entropy"):
        assert np.isfinite(log.metrics[name][1:]).all(), name
    assert (log.metrics["action_entropy"][1:] > 0.1).all()
    drawn = {path.name for path in (whole / "plots").iterdir()}
    assert drawn >= {"hyperparameters.png", "metrics.png", "tasks.png", "lineage.png"}
    summary = json.loads((whole / "summary.json").read_text())
    assert len(summary["tasks"]) == 2


@pytest.mark.slow
def test_a_resumed_run_has_the_bits_of_the_uninterrupted_one(tmp_path, whole, cached):
    """Memories of all components, alpha, rounds: ended at update 20, nothing differs."""
    settings = running.write(tmp_path / "run.yaml", *CHANGES)
    running.mtrl_ending_at(20, "train", settings, "--run-dir", tmp_path / "run")
    assert running.mtrl("resume", tmp_path / "run").code == 0
    running.assert_same(tmp_path / "run", whole)
