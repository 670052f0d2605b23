"""Noise in the layers of progressive columns: what it is of, and what it cannot harm."""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random
from mtrl_jax.agents import progressive

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "benchmarks"))
try:
    import progressive_sensitivity as script
finally:
    sys.path.pop(0)
MEMBERS, STEPS = 2, 40
CONFIG = progressive.Config(columns=2, hidden=(5, 4))


@pytest.fixture(name="made", scope="module")
def _made():
    """Returns (environment, learners of columns of which the last alone acts, keys)."""
    env = envs.make("probe/both", batch=(MEMBERS, 16))
    agent, key = progressive.make(env.spec, CONFIG), random.roots(0, MEMBERS)
    learner = jax.vmap(agent.init, (0, None))(key, progressive.Hparams())
    own = {
        name: jax.tree.map(jnp.zeros_like, x) if "scale" not in name else x
        for name, x in learner.params.items()
    }
    # relu(x) and relu(−x), carried to the logits of actions 1 and 0: the best policy.
    for name, places in (
        ("layer_0", {(0, 0): 1.0, (0, 1): -1.0}),
        ("layer_1", {(0, 0): 1.0, (1, 1): 1.0}),
        ("policy", {(0, 1): 50.0, (1, 0): 50.0}),
    ):
        kernel = own[name]["kernel"]
        for (i, j), x in places.items():
            kernel = kernel.at[:, i, j].set(x)
        own[name] = own[name] | {"kernel": kernel}
    return env, learner._replace(params=own), key


@pytest.fixture(name="found", scope="module")
def _found(made):
    """Returns (AFS, precision)."""
    env, learner, key = made
    return script.measured(env, CONFIG, learner, key, STEPS, (0.0, 8.0))


def test_a_score_is_the_return_of_an_episode(made):
    """The best policy's is 1, and not the reward of a step, which is half of it here."""
    env, learner, key = made
    none = script.noiseless(env, CONFIG, learner)
    played = jax.jit(lambda x: script.play(env, CONFIG, learner, x, key, STEPS))(none)
    np.testing.assert_allclose(played.score, 1.0, atol=0.06)
    assert (np.asarray(played.ts.reward).mean((0, 2)) < 0.8).all()


def test_a_column_that_nothing_reads_has_no_sensitivity(found):
    """By Fisher information and by noise: the last column has all there is."""
    fisher, precision = found
    assert fisher.shape == precision.shape == (MEMBERS, 2, 2)
    np.testing.assert_allclose(fisher[:, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(fisher[:, 1], 1.0, rtol=1e-5)
    np.testing.assert_array_equal(precision[:, 0], 0.0)
    assert (precision[:, 1] > 1 / 8.0**2).all()


def test_noise_of_convolutions_is_of_their_maps():
    """A deviation of each pixel's units, which the columns that act can read."""
    env = envs.make("probe/both_image", batch=(MEMBERS, 3))
    config = progressive.Config(columns=2, torso="minatar", hidden=(5,))
    agent, key = progressive.make(env.spec, config), random.roots(0, MEMBERS)
    init = jax.vmap(agent.init, (0, None))
    learner = jax.eval_shape(init, key, progressive.Hparams())
    none = script.noiseless(env, config, learner)
    shapes = [(MEMBERS, 8, 8, 16), (MEMBERS, 5)]
    assert [[x.shape for x in layers] for layers in none] == [shapes] * 2
    play = lambda own: script.play(env, config, own, none, key, 2)  # noqa: E731
    played = jax.eval_shape(play, learner)
    assert played.score.shape == (MEMBERS,)
