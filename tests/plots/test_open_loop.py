"""The pictures of what a world model predicts, and how well it does against a copy."""

import dreaming
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mtrl_jax import envs, types
from mtrl_jax.experiments import open_loop as predictions
from mtrl_jax.networks.world_models import world_model
from mtrl_jax.plots import prediction_film


def test_a_moving_dot_is_better_predicted_than_copied():
    """By hand: a dot that moves each step; a copy is wrong in two of ten pixels.

    A sequence that has ended does not count; over none there is no error.
    """
    truth = np.zeros((6, 2, 1, 10, 1))
    for t in range(6):
        truth[t, :, 0, t] = 1.0
    said, live = truth + 0.1, np.ones((6, 2), bool)
    said[3:, 1], live[3:, 1], live[5:] = 9.0, False, False
    found = prediction_film.score(truth, said, 2, live)
    np.testing.assert_allclose(found.model, [0.01, 0.01, 0.01, np.nan])
    np.testing.assert_allclose(found.last_frame, [0.2, 0.2, 0.2, np.nan])
    np.testing.assert_array_equal(found.sequences, [2, 1, 1, 0])


def test_a_film_and_a_sheet_are_written(tmp_path):
    """Frames are green while the truth is seen and red after; no error is grey."""
    for channels in (1, 3, 4):
        truth = np.random.default_rng(0).uniform(size=(5, 2, 8, 8, channels))
        film, sheet = prediction_film.write(
            tmp_path / "new" / f"{channels}.gif", truth, truth, 2
        )
        with Image.open(film) as picture:
            assert picture.n_frames == 5
        frames = prediction_film.film(truth, truth, 2)
        assert [tuple(x[0, 0]) for x in frames] == [(0, 160, 0)] * 2 + [(200, 0, 0)] * 3
        error = frames[3][2:130, -130:-2]
        assert np.ptp(error) == 0 and error[0, 0, 0] == 128
        with Image.open(sheet) as picture:
            assert picture.size == (5 * 132, 2 * 3 * 132)


def test_the_longest_episodes_are_windows_from_their_first_step():
    """Slot 0: 3 steps, then 5 that go on; slot 1, of another task: 8 that go on."""
    first = np.zeros((8, 2), bool)
    first[0] = first[3, 0] = True
    step = np.broadcast_to(np.arange(8)[:, None], (8, 2)) + np.array([0, 100])
    ts = types.TimeStep(
        {"image": step}, step, step, first, first,
        np.broadcast_to(np.array([0, 1]), (8, 2)), first,
    )  # fmt: skip
    found, action, live = predictions.longest(ts, step[:-1], 4, 2)
    np.testing.assert_array_equal(found.task[0], [0, 0, 1])
    np.testing.assert_array_equal(found.reward[:, 0], [3, 4, 5, 6])
    np.testing.assert_array_equal(found.reward[:3, 1], [0, 1, 2])
    np.testing.assert_array_equal(action[:, 2], [100, 101, 102])
    np.testing.assert_array_equal(live.sum(0), [4, 3, 4])


def test_predictions_do_not_depend_on_what_comes_after_the_context():
    """Bit for bit; and before its end they do depend on the truth."""
    small = dreaming.SMALL
    spec = envs.make("probe/both", (1, 2)).spec
    model = world_model.make(
        spec, small["rssm"], small["observation"],
        hidden=(8,), two_hot=False, dtype="float32",
    )  # fmt: skip
    key = jax.random.key(0)
    params = model.init(key)
    obs = {"vector": jax.random.normal(key, (6, 2, 1))}
    action, first = jnp.ones((6, 2, 2)), jnp.zeros((6, 2), bool)

    @jax.jit
    def predict(obs):
        return world_model.open_loop(model, params, obs, action, first, key, context=3)[
            "vector"
        ]

    said = predict(obs)
    assert said.shape == (6, 2, 1)
    later = predict({"vector": obs["vector"].at[3:].add(5.0)})
    earlier = predict({"vector": obs["vector"].at[2].add(5.0)})
    np.testing.assert_array_equal(said, later)
    assert (said[3:] != earlier[3:]).any()
