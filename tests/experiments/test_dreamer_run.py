"""DreamerV2 as a run: gone on with bit for bit, its predictions drawn, errors in a line."""

import pathlib
import re
import shutil

import dreaming
import numpy as np
import pytest
import running
import yaml
from PIL import Image

from mtrl_jax import errors
from mtrl_jax.config import loading
from mtrl_jax.experiments import open_loop as predictions
from mtrl_jax.experiments import runs

pytestmark = pytest.mark.usefixtures("cached")


@pytest.fixture(name="dreamt", scope="module")
def _dreamt(tmp_path_factory):
    """A tiny run of DreamerV2 on pictures."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert runs.train(loading.from_dict(dreaming.RUN), folder) == 0
    return folder


def test_a_runs_predictions_are_drawn(dreamt, tmp_path):
    """The film, the sheet and a line with both errors, which are numbers.

    Of seven steps seen the last five are drawn.
    """
    film, sheet, line = predictions.draw(dreamt, tmp_path / "x.gif", 1, 10, context=7)
    with Image.open(film) as picture:
        assert picture.n_frames == 8
    assert pathlib.Path(sheet).exists()
    found = re.fullmatch(
        r"gymnax/Breakout-MinAtar: MSE 3 steps ahead (\S+), last frame copied (\S+), "
        r"(\d+) episodes", line,
    )  # fmt: skip
    assert found and np.isfinite([float(x) for x in found.groups()]).all()


@pytest.mark.parametrize(
    ("out", "options", "words"),
    [
        ("x.gif", ("--steps", 5), "--steps 5: the model sees 5 steps"),
        ("x.gif", ("--steps", 9, "--context", 9), "--steps 9: the model sees 9 steps"),
        ("x.gif", ("--context", 200), "--context 200: 200 steps are played"),
        ("x.gif", ("--member", 2), "members 0 to 1"),
        ("x.png", (), "ends in .gif"),
    ],
)
def test_what_cannot_be_predicted_is_refused(dreamt, tmp_path, out, options, words):
    picture = tmp_path / out
    outcome = running.mtrl("render", dreamt, "--open-loop", "--out", picture, *options)
    assert outcome.code == 2 and words in outcome.error, outcome.err
    assert not picture.exists()


def test_steps_seen_are_those_of_an_open_loop(dreamt, tmp_path):
    """Without it nothing is foreseen, and nothing drawn."""
    picture = tmp_path / "x.gif"
    outcome = running.mtrl("render", dreamt, "--out", picture, "--context", 9)
    assert outcome.code == 2 and "add --open-loop" in outcome.error
    assert not picture.exists()


def test_an_agent_without_a_world_model_is_refused(finished, tmp_path):
    with pytest.raises(errors.ConfigError, match=r"no world model; one of dreamer_v2"):
        predictions.draw(finished, tmp_path / "x.gif", None, 9)


@pytest.mark.slow
def test_a_run_goes_on_with_its_replay_bit_for_bit(dreamt, tmp_path):
    """From update 8 of 12, when the ring of 20 rows has 16: learners, replays, carries.

    By update 12 the ring has begun again from its first row.
    """
    run = tmp_path / "run"
    shutil.copytree(dreamt, run)
    assert running.checkpoints(run) == [4, 8, 12]
    shutil.rmtree(run / "checkpoints" / "12")
    outcome = running.mtrl("resume", run)
    assert outcome.code == 0, outcome.err
    running.assert_same(run, dreamt)
    bits = running.bits(run)
    memories = [name for name in bits if name.startswith(".run.memory")]
    assert len(memories) > 5 and any(any(bits[name]) for name in memories)


REPLAY, OWN = "agent.config.replay", "agent.config"
REFUSED = [
    (f"{REPLAY}.capacity=2_000_000_000", f"{REPLAY}.capacity=2000000000: each of 2"),
    (f"{REPLAY}.length=30", "capacity: 80 rows are 20 whole steps of 4 slots"),
    (f"{REPLAY}.prefill=89", f"{REPLAY}.prefill=89: the run has 12 updates of 8 steps"),
    (f"{REPLAY}.train_every=9", "train_every: 9 steps for a gradient step"),
    (f"{OWN}.observation.image=conv", "image: 'conv' takes 64x64, got 10x10"),
    (f"{OWN}.precision=bfloat16", "agent.config.precision is now dtype"),
    (f"{OWN}.dtype=float16", "dtype: 'float16' is not known"),
    (f"{OWN}.actor_gradient=reparam", "actor_gradient: 'reparam' is not known"),
    (f"{OWN}.rssm.blocks=4", "blocks: 6 units do not divide into 4 blocks"),
    (f"{OWN}.horizon=1", "horizon: the last action has no target"),
]


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_a_setting_that_cannot_work_is_one_line_and_nothing_is_written(
    tmp_path, change, words
):
    """Exit code 2, before anything is compiled."""
    config, run = tmp_path / "own.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(dreaming.RUN))
    outcome = running.mtrl("train", config, change, "--run-dir", run)
    assert outcome.code == 2 and words in outcome.error, outcome.err
    assert not run.exists()
