"""What a run writes down of what its chunks measured."""

from unittest import mock

import numpy as np
import pytest
import running

from mtrl_jax.config import loading
from mtrl_jax.engine import context_runner, fused_runner, offline_runner
from mtrl_jax.experiments import reporters


@pytest.mark.parametrize(
    ("change", "is_logged"),
    [
        ("seed=0", False),
        ("agent.hparams.decay_updates=40", True),
        ("population.search={decay_updates: {low: 20, high: 40}}", True),
        ("agent.schedules={decay_updates: {kind: linear, low: 20, high: 40}}", True),
    ],
)
def test_the_learning_rate_is_logged_where_it_decays(change, is_logged):
    """Elsewhere it is the hyperparameter's; held-out histories have none."""
    config = loading.from_dict(loading.override(running.TINY, [change]))
    measured = {"loss": np.ones(4), "learning_rate": np.ones(4)}
    output = fused_runner.ChunkOutput(metrics=measured, episodes={}, finite=np.ones(4))
    row = reporters.of_losses(config, "loss", True).row(output, measured)
    logged = {"loss", "held_out/loss"} | ({"learning_rate"} if is_logged else set())
    assert row["metrics"].keys() == logged


@pytest.mark.parametrize(
    ("held_out", "losses", "best"),
    [(True, [0.0, 1.0, 3.0], 1), (False, [0.0, 4.0, 2.0], 2)],
)
def test_the_least_loss_is_best_and_what_is_held_out_decides(held_out, losses, best):
    """Of rows and of the summary; a lost member has neither score nor part in a mean."""
    reporter = reporters.of_losses(loading.from_dict(running.TINY), "loss", held_out)
    trained, tested = np.array([9.0, 4.0, 2.0]), np.array([9.0, 1.0, 3.0])
    output = fused_runner.ChunkOutput({"loss": trained}, {}, np.ones(3, bool))
    row = reporter.row(output, {"loss": tested} if held_out else None)
    assert reporter.best(row) == best
    shown = {"loss": trained, "held-out loss": tested}
    assert reporter.shown(row) == {x: shown[x] for x in list(shown)[: 1 + held_out]}
    # Between two tests, by what there is.
    assert reporter.best(reporter.row(output, None)) == 2
    assert reporter.best(reporter.row(None, None)) == 0

    learner = {"w": np.array([[np.nan], [1.0], [1.0]], np.float32)}
    recent = np.array([0.0, 4.0, 2.0])
    state = offline_runner.OfflineState(learner, recent, 4, None)
    measured = {"loss": np.array(losses), "learning_rate": np.ones(3)}
    given = measured if held_out else None
    summary, text = reporter.finish(state, given, {"updates": 4}, 0)
    assert (summary["best_member"], summary["lost"]) == (best, [0])
    np.testing.assert_array_equal(summary["score"], [np.nan, *-np.array(losses[1:])])
    name = "held_out/loss" if held_out else "loss"
    assert summary["selected_by"] == summary["reported_on"] == name
    assert list(summary["held_out"]) == ["loss"] * held_out
    mean, least = np.mean(losses[1:]), min(losses[1:])
    assert text.startswith(f"{name}: mean {mean:.4g}, least {least:.4g}; ")


def test_the_best_of_an_offline_checkpoint_has_the_least_loss(tmp_path):
    """Among those that are finite; of frozen learners, which lose nothing, the first."""
    learner = {"w": np.array([[np.nan], [1.0], [1.0]], np.float32)}
    program = mock.Mock(metric=None)
    state = offline_runner.OfflineState(learner, np.array([0.0, 2.0, 1.0]), 4, None)
    assert reporters.best_saved(tmp_path, 4, program, state) == 2
    frozen = context_runner.ContextState(
        **dict.fromkeys(context_runner.ContextState._fields)
    )
    assert reporters.best_saved(tmp_path, 4, program, frozen) == 0
