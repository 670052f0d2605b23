"""Settings that do something else than they seem to are said, or refused."""

import pytest
import running

from mtrl_jax import errors
from mtrl_jax.config import loading
from mtrl_jax.experiments import online
from mtrl_jax.training import notices


def _said(*changes):
    config = loading.from_dict(loading.override(running.TINY, changes))
    return list(notices.of(config, online.run_length(config, 4)))


def test_settings_that_mean_what_they_say_are_silent():
    """640 steps are 20 chunks of 2 updates of 16 steps; rounds are between chunks."""
    assert _said() == []
    assert _said("training.env_steps=629") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("training.env_steps=10", "training.env_steps=10: 32 are trained"),
        ("training.env_steps=577", "577: 608 are trained, whole chunks of 32"),
        ("population.pbt.interval=40", "interval=40: the run has 40 updates, so no"),
        ("population.pbt.interval=1", "every 2 updates (training.updates_per_chunk)"),
    ],
)
def test_what_is_not_meant_is_said_before_training(change, words):
    """Legal: a line, no error."""
    assert [words in line for line in _said(change) if "interval=8" not in line] == [
        True
    ]


def test_a_longer_run_says_that_its_schedules_go_back():
    """They are by the share of the run; a plateau is not."""
    change = (
        "agent.schedules={entropy_cost: {kind: linear, low: 0.1, high: 0.01},"
        " discount: {kind: plateau, low: 0.9, high: 0.99, step: 0.01}}"
    )
    given = loading.override(running.TINY, [change])
    config = loading.from_dict(given)
    (line,) = notices.of_longer(config, {"training.env_steps": (640, 832)})
    assert "schedules of entropy_cost are" in line
    assert list(notices.of_longer(config, {"checkpoint.keep": (3, 4)})) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\ntasks: []\nseed: 2", "line 3: 'seed' is given twice"),
        ("tasks: [{env: a, env: b}]", "line 1: 'env' is given twice"),
        ("seed: " + "[" * 5000, "not valid YAML"),
        ("seed: 2020-99-99", "not valid YAML"),
    ],
)
def test_a_key_given_twice_is_refused(tmp_path, text, words):
    """At any depth, with its line; so is what no reader can take."""
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(errors.ConfigError, match=words):
        loading.load(path)
    with pytest.raises(errors.ConfigError, match="is not YAML"):
        loading.override({}, ["seed={a: 1, a: 2}"])


def test_merged_keys_may_be_overridden(tmp_path):
    """YAML's ``<<`` is made for it."""
    path = tmp_path / "x.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}")
    assert loading.read_yaml(path)["b"] == {"x": 3, "y": 2}
