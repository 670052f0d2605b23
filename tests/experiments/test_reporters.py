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
