"""Scores of transfer: areas, forgetting, and the noise that halves a score."""

import numpy as np
import pytest

from mtrl_jax.metrics import transfer


def test_learning_from_scratch_scores_one_and_better_curves_more():
    """Whatever the unit of rewards; the random score is taken off first."""
    scratch = [-21.0, -10.0, 5.0]
    assert transfer.transfer_score(scratch, scratch, -21.0) == 1.0
    better = transfer.transfer_score([-21.0, 0.0, 5.0], scratch, -21.0)
    assert better > 1.0
    np.testing.assert_allclose(better, (0 + 21 + 26) / (0 + 11 + 26))
    tens = transfer.transfer_score([0.0, 20.0], [0.0, 10.0])
    assert tens == transfer.transfer_score([0.0, 2.0], [0.0, 1.0]) == 2.0
    with pytest.raises(ValueError, match=r"curve: got \(3,\), the baseline \(2,\)"):
        transfer.transfer_score(scratch, scratch[:2])
    with pytest.raises(ValueError, match=r"baseline: its mean -8\.66667 is no better"):
        transfer.transfer_score(scratch, scratch)


def test_nothing_is_forgotten_where_the_score_stays():
    """And all of it where it falls to nothing."""
    assert transfer.forgetting(3.0, 3.0) == 0.0
    assert transfer.forgetting(3.0, 0.0) == 1.0
    # Pong's scores, whose ratio would have the other sign.
    assert transfer.forgetting(-1.0, -21.0, -21.0) == 1.0
    for own in (-1.0, 0.0):
        named = f"own: {own:g} is no better than random 0; there"
        with pytest.raises(ValueError, match=named):
            transfer.forgetting(own, -21.0)


def test_the_precision_is_of_the_noise_that_halves_the_score():
    """Linear between two deviations; 0 where no noise harms."""
    found = transfer.precision_at_half([0.0, 1.0, 3.0], [10.0, 8.0, 2.0])
    np.testing.assert_allclose(found, 1 / 2.0**2)
    assert transfer.precision_at_half([0.0, 2.0], [10.0, 5.0]) == 1 / 2.0**2
    assert transfer.precision_at_half([0.0, 1.0], [10.0, 9.0]) == 0.0
    for nothing in (0.0, -1.0):
        assert transfer.precision_at_half([0.0, 1.0], [nothing, -2.0]) == 0.0
    with pytest.raises(ValueError, match="deviations: got"):
        transfer.precision_at_half([1.0, 2.0], [1.0, 0.0])
    shares = transfer.sensitivity_shares(np.array([[1.0, 0.0], [3.0, 0.0]]))
    np.testing.assert_allclose(shares, [[0.25, 0.0], [0.75, 0.0]])
