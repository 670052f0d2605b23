"""What a world model's decoder says of pictures: likelihoods and their gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.networks.world_models import (
    observation_config,
    observation_decoder,
    observation_encoder,
)


def config(likelihood):
    return observation_config.ObservationConfig(image="mlp", likelihood=likelihood)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8])
@pytest.mark.parametrize("likelihood", observation_config.LIKELIHOODS)
def test_an_errors_gradient_is_the_mean_less_the_picture(likelihood, dtype):
    """So the mean is what is learned; a task's padding teaches nothing."""
    most = 255 if dtype == np.uint8 else 1
    image = (np.arange(2 * 3 * 3 * 1).reshape(2, 3, 3, 1) % (most + 1)).astype(dtype)
    raw = np.random.default_rng(0).normal(size=image.shape).astype(np.float32)
    present = np.ones((2, 3, 3, 1), np.float32)
    present[1, 2] = 0.0
    task = np.array([0, 1])
    shapes = {"image": jax.ShapeDtypeStruct(image.shape[1:], dtype)}

    def error(raw):
        found = observation_decoder.error(
            config(likelihood), {"image": raw}, {"image": jnp.asarray(image)},
            {"image": jnp.asarray(present)}, task,
        )  # fmt: skip
        assert found.shape == (2,)
        return found.sum()

    @jax.jit
    def both(raw):
        means = observation_decoder.means(config(likelihood), shapes, {"image": raw})
        return jax.grad(error)(raw), means["image"]

    slope, mean = jax.device_get(both(raw))
    np.testing.assert_allclose(slope, (mean - image / most) * present, atol=1e-6)


def test_a_cell_that_is_not_drawn_costs_half_a_nat_or_how_rare_it_is():
    """One cell of a hundred: the Gaussian's best empty picture hardly misses it."""
    image = np.zeros((1, 10, 10, 1), bool)
    image[0, 4, 4] = True
    ones = {"image": np.ones((1, 10, 10, 1), np.float32)}
    rare = {"gaussian": 0.01, "bernoulli": np.log(0.01 / 0.99)}
    drawn = {"gaussian": 1.0, "bernoulli": 20.0}
    gain = {}
    for kind in observation_config.LIKELIHOODS:
        blank = np.full((1, 10, 10, 1), rare[kind], np.float32)
        empty = 0.0 if kind == "gaussian" else -20.0
        sharp = np.where(image, drawn[kind], empty).astype(np.float32)
        error = jax.jit(functools.partial(observation_decoder.error, config(kind)))
        cost = [
            error({"image": raw}, {"image": image}, ones, np.zeros(1, np.int32))
            for raw in (blank, sharp)
        ]
        gain[kind] = float(cost[0][0]) - float(cost[1][0])
    assert gain["gaussian"] == pytest.approx(0.5 * 0.99)
    assert gain["bernoulli"] == pytest.approx(
        np.log(100) + 99 * -np.log(0.99), rel=1e-4
    )


@pytest.mark.parametrize(
    ("obs", "message"),
    [
        ({"image": ((10, 10, 1), np.float32)}, "got images of float32"),
        ({"vector": ((3,), np.float32)}, "got no image"),
    ],
)
def test_probabilities_of_what_is_no_picture_of_0_and_1_are_refused(obs, message):
    obs = {name: jax.ShapeDtypeStruct(*x) for name, x in obs.items()}
    with pytest.raises(ValueError, match=f"likelihood: 'bernoulli' .* {message}"):
        observation_config.choose(
            observation_config.ObservationConfig(likelihood="bernoulli"), obs
        )


@pytest.mark.parametrize("kind", ["grid", "mlp"])
def test_planes_of_0_and_1_begin_nearly_empty(kind):
    """And pictures of uint8 in the middle, where most of theirs are."""
    for dtype, mean in ((np.bool_, observation_decoder.RARE), (np.uint8, 0.5)):
        obs = {"image": jax.ShapeDtypeStruct((5, 5, 2), dtype)}
        own = observation_config.ObservationConfig(
            image=kind, likelihood="bernoulli", depth=2, units=3, layers=1
        )

        def begin(key, own=own, obs=obs):
            params = observation_decoder.init(key, own, obs, 4)
            zeros = jnp.zeros((1, 4))
            drawn = observation_decoder.decode(params, own, obs, zeros, "float32")
            return observation_decoder.means(own, obs, drawn)["image"]

        image = jax.jit(begin)(jax.random.key(0))
        np.testing.assert_allclose(image, mean, rtol=1e-5)


def test_planes_have_the_numbers_of_images():
    """What is embedded, drawn and missed, and all gradients; two tasks, one padded."""
    obs = {"image": jax.ShapeDtypeStruct((64, 64, 3), np.uint8)}
    present = {"image": np.ones((2, 64, 64, 3), np.float32)}
    present["image"][1, 50:] = 0.0
    image = np.random.default_rng(0).integers(0, 255, (2, 1, 64, 64, 3), np.uint8)
    x = np.random.default_rng(1).normal(size=(2, 1, 4)).astype(np.float32)
    task = np.array([[0], [1]])

    def said(convolution):
        own = observation_config.ObservationConfig(
            image="conv", depth=1, convolution=convolution
        )

        def loss(encoder, decoder, x):
            embed = observation_encoder.encode(
                encoder, own, {"image": image}, "float32"
            )
            drawn = observation_decoder.decode(decoder, own, obs, x, "float32")
            error = observation_decoder.error(
                own, drawn, {"image": image}, present, task
            )
            total = jnp.sum(jnp.sin(embed)) + jnp.sum(error * jnp.array([[1.0], [2.0]]))
            return total, (embed, drawn, error)

        key = jax.random.key(0)
        encoder = observation_encoder.init(key, own, obs)
        decoder = observation_decoder.init(key, own, obs, 4)
        return jax.grad(loss, (0, 1, 2), has_aux=True)(encoder, decoder, x)

    found, expected = jax.jit(lambda: (said("matmul"), said("lax")))()
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-4), found, expected
    )
