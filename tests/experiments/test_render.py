"""Drawing a trained member at play."""

import os
import pathlib

import jax
import numpy as np
import pytest
from PIL import Image

from mtrl_jax import errors
from mtrl_jax.config import loading
from mtrl_jax.experiments import render, runs
from mtrl_jax.plots import observation_pictures

# 3 members live on one device of 8: programs of several are compiled for longer.
TINY = {
    "tasks": [
        {"env": "gymnax/Catch-bsuite", "slots": 2},
        {"env": "gymnax/CartPole-v1", "slots": 2},
    ],
    "agent": {"name": "impala", "config": {"network": {"hidden": [8]}}},
    "population": {"size": 3},
    "training": {"env_steps": 32, "unroll_length": 4, "updates_per_chunk": 2},
    "evaluation": {"every_updates": 0, "episodes": 2, "max_steps": 20},
    "logging": {"tensorboard": False, "plots": False},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert runs.train(loading.from_dict(TINY), folder) == 0
    return folder


def test_a_run_is_drawn_with_a_panel_for_every_task(run, tmp_path):
    """The animation has one panel a task and ends with the longest episode."""
    out = render.render_run(run, tmp_path / "x.gif", member=1, steps=12)
    with Image.open(out) as image:
        assert image.format == "GIF"
        assert image.n_frames > 9  # an episode of Catch has nine steps
        assert image.size == (
            2 * (observation_pictures.PANEL + 8),
            observation_pictures.PANEL + render.CAPTION,
        )


@pytest.mark.parametrize(
    ("out", "member", "words"),
    [
        ("x.png", None, ".gif"),
        ("x.gif", 3, "members 0 to 2"),
        ("x.gif", -1, "0 to 2"),
        ("file/x.gif", None, "file is a file"),
        ("/proc/x.gif", None, "--out /proc/x.gif: cannot be made in /proc"),
        (f"{'x' * 300}.gif", None, "File name too long"),
    ],
)
def test_what_cannot_be_drawn_is_refused(run, tmp_path, out, member, words):
    """A path that is no animation and a member that is none are named."""
    (tmp_path / "file").touch()
    with pytest.raises(errors.ConfigError, match=words):
        render.render_run(run, tmp_path / out, member=member, steps=1)
    assert not os.path.exists(tmp_path / out)


def test_a_run_is_drawn_as_it_is_tested(run, monkeypatch, tmp_path):
    """With ``evaluation.hparams``, whatever it trains with."""
    config = loading.from_dict(
        TINY | {"evaluation": TINY["evaluation"] | {"hparams": {"temperature": 0.25}}}
    )
    drawn_by = []
    real = render.population.population

    def spied(agent, *sizes):
        made = real(agent, *sizes)

        def act(learner, carry, ts, key, hp):
            jax.debug.callback(lambda x: drawn_by.append(np.asarray(x)), hp.temperature)
            return made.act(learner, carry, ts, key, hp)

        return made._replace(act=act)

    monkeypatch.setattr(render.population, "population", spied)
    with render.kinds.restored(render.kinds.run_of(config, run), config) as found:
        render.play(config, found[1], found[2], member=0, steps=2)
    jax.effects_barrier()
    np.testing.assert_allclose(drawn_by[0], 0.25)


def test_planes_frames_and_vectors_have_pictures_of_their_own():
    """Boolean planes get colours, stacks show their newest frame, vectors are bars."""
    planes = np.zeros((10, 10, 4), bool)
    planes[2, 3, 1] = True
    drawn = observation_pictures.picture({"image": planes})
    assert tuple(drawn[50, 70]) == observation_pictures.PLANES[1]
    assert tuple(drawn[150, 150]) == render._BACKGROUND

    stack = np.zeros((84, 84, 4), np.uint8)
    stack[..., 3] = 200
    assert (observation_pictures.picture({"image": stack}) == 200).any()
    stack[..., 3], stack[..., 0] = 0, 200
    assert not (observation_pictures.picture({"image": stack}) == 200).any()

    up, down = (
        observation_pictures.picture({"vector": np.array([x])}) for x in (2.0, -2.0)
    )
    assert tuple(up[50, 100]) == observation_pictures.PLANES[1]
    assert tuple(up[150, 100]) == render._BACKGROUND
    assert tuple(down[150, 100]) == observation_pictures.PLANES[0]


def test_known_vectors_are_drawn_as_the_scene_they_describe():
    """CartPole's pole leans with its angle; Catch's paddle is on the board's last row."""
    leans = [
        observation_pictures.cartpole(np.array([0, 0, a, 0.0]), 200)
        for a in (-0.5, 0.5)
    ]
    left, right = (
        (x == observation_pictures.ORANGE).all(-1).nonzero()[1] for x in leans
    )
    assert left.max() < 105 and right.min() > 95

    balls = np.zeros((10, 5))
    balls[0, 2] = balls[9, 4] = 1
    drawn = observation_pictures.board(balls.ravel(), 10, 200)
    assert tuple(drawn[10, 100]) == observation_pictures.BLUE
    assert tuple(drawn[190, 140]) == observation_pictures.ORANGE
    sketch = observation_pictures.find("gymnax/Catch-bsuite#2")
    np.testing.assert_array_equal(sketch(balls.ravel(), 200), drawn)
    assert observation_pictures.find("gymnax/Breakout-MinAtar") is None


@pytest.mark.parametrize(
    ("name", "width"),
    [
        pytest.param("labyrinth/seekavoid_arena_01", 504, marks=pytest.mark.slow),
        ("gymnax/Catch-bsuite", 200),
    ],
)
def test_an_environment_is_drawn_without_a_run(tmp_path, name, width):
    """A labyrinth shows view and map and is played by its oracle; Catch by chance."""
    out = render.render(pathlib.Path(name), tmp_path / "x.gif", None, 3, seed=0)
    with Image.open(out) as image:
        assert image.size[0] == width + 2 * render.BORDER
        assert image.n_frames > 1


@pytest.mark.parametrize(
    ("what", "member", "words"),
    [
        ("labyrinth/seekavoid_arena_02", None, "did you mean seekavoid_arena_01"),
        ("gymnax/Catch-bsuite", 0, "is no run"),
        ("nowhere/run", None, "no run here"),
    ],
)
def test_what_is_neither_run_nor_environment_is_refused(tmp_path, what, member, words):
    """The error says what there is instead."""
    with pytest.raises(errors.ConfigError, match=words):
        render.render(pathlib.Path(what), tmp_path / "x.gif", member, 3, seed=0)


def test_panels_of_unequal_height_stand_on_one_line_and_many_on_several(monkeypatch):
    """Captions are beside each other; a row ends where the next panel does not fit."""
    low, high = (np.full((n, 5, 3), n, np.uint8) for n in (10, 14))
    row = render._beside([low, high])
    assert row.shape == (14, 10, 3)
    assert (row[-1, :5] == 10).all() and (row[-1, 5:] == 14).all()
    assert (row[0, :5] == render._BACKGROUND).all()
    monkeypatch.setattr(render, "_WIDEST", 11)
    rows = render._beside([low, high, high])
    assert rows.shape == (28, 10, 3)
    np.testing.assert_array_equal(rows[:14], row)
    assert (rows[14:, 5:] == render._BACKGROUND).all()
