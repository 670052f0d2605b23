"""The line a person watches."""

import numpy as np
import pytest

from mtrl_jax.training import progress


def _lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_the_line_names_training_and_the_last_evaluation(capsys):
    """What was tested stays on the line until it is tested again."""
    bar = progress.Progress(1000, every_s=0.0, label="[1/2 a]")
    returns = {"probe/action": np.array([1.0, np.nan, 3.0])}
    bar.update(100, 100, 2e4, 65.0, returns, 2)
    bar.update(200, 200, 2e4, 5.0, returns, 2, {"probe/action": np.array([4.0, 6.0])})
    bar.update(300, 300, float("nan"), float("nan"), returns, 2)
    bar.close()
    lines = _lines(capsys)
    assert lines[0] == (
        "[1/2 a]  10% 100 steps  20k/s  ETA 1m05s  best now #2  action 2 (max 3)"
    )
    assert lines[1].endswith(
        "best now #2  action 2 (max 3)  evaluation at 200: action 5 (max 6)"
    )
    assert " –/s  ETA –  " in lines[2]
    assert lines[2].endswith("evaluation at 200: action 5 (max 6)")


def test_a_log_has_a_line_every_so_often_and_the_last(capsys):
    """Where there is no terminal; a run that is over has said so."""
    bar = progress.Progress(3, every_s=1e9)
    for update in (1, 2, 3):
        bar.update(update, update, 1.0, 1.0, {}, 0)
    bar.close()
    assert [line.split()[0] for line in _lines(capsys)] == ["33%", "100%"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (59.6, "1m00s"),
        (184.0, "3m04s"),
        (3599.7, "1h00m"),
        (3720.0, "1h02m"),
        (90_000.0, "25h00m"),
    ],
)
def test_a_duration_is_rounded_before_it_is_put_in_words(seconds, text):
    """Never 60 of seconds or minutes."""
    assert progress.duration(seconds) == text


def test_many_tasks_do_not_fill_the_screen(capsys):
    """Five, and how many more there are."""
    bar = progress.Progress(1000, every_s=0.0)
    bar.update(1, 1, 1.0, 1.0, {f"t/{i}": np.ones(2) for i in range(10)}, 0)
    bar.close()
    assert _lines(capsys)[0].endswith("4 1 (max 1)  … 5 more tasks")
