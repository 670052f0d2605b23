"""What a run leaves when it ends: its last test is the last of its curves."""

import numpy as np
import running

from mtrl_jax import metrics

# 20 updates, tested at 8, 16 and at the end; a longer run is tested at 24 and at its end.
SHORT = f"training.env_steps={20 * running.STEPS}"
LONG = f"training.env_steps={26 * running.STEPS}"


def test_the_last_test_is_in_the_last_row_and_a_longer_run_never_had_it(
    tmp_path, cached
):
    """A run lengthened has the rows of one that was as long from the start."""
    run = tmp_path / "run"
    running.train(run, SHORT)
    found, summary = metrics.read_metrics(run), metrics.read_summary(run)
    for task, values in found.evaluation.items():
        tested = found.update[np.isfinite(values).all(axis=1)]
        assert tested.tolist() == [0, 8, 16, 20]
        members = [member["mean"] for member in summary["tasks"][task]["members"]]
        np.testing.assert_allclose(values[-1], members, rtol=1e-6)
    rows = running.rows(run)
    # A process that was killed before its summary tests once more, and writes it once.
    (run / "summary.json").unlink()
    assert running.mtrl("resume", run).code == 0
    assert running.rows(run) == rows
    # One that was to be longer and came to nothing before it is as long as it was.
    left = run / ".metrics.jsonl.7.tmp"
    left.touch()  # By a process that was killed while it dropped rows.
    running.mtrl_ending_at(22, "resume", run, LONG)
    assert not left.exists()
    assert running.mtrl("resume", run, SHORT).code == 0
    assert running.rows(run) == rows

    assert running.mtrl("resume", run, LONG).code == 0
    running.train(tmp_path / "whole", LONG)
    running.assert_same(run, tmp_path / "whole")
    assert "evaluation" not in running.rows(run)[10]
    assert "evaluation" in running.rows(run)[-1]
