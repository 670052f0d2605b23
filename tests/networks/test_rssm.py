"""The world model's state: its equations, its resets, its gradients and its sizes."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mtrl_jax.networks import conv_transpose, layers
from mtrl_jax.networks.world_models import (
    latents,
    observation_config,
    observation_decoder,
    observation_encoder,
    rssm,
)

CATEGORICAL = latents.LatentConfig("categorical", 3, 4)
GAUSSIAN = latents.LatentConfig("gaussian", 5)
T, B, A, E = 5, 2, 3, 6
KEY = jax.random.key(0)


def small(latent=CATEGORICAL, **changes):
    return rssm.RSSMConfig(latent=latent, deter=8, hidden=7, **changes)


init = jax.jit(rssm.init, static_argnums=(1, 2, 3))
observe = jax.jit(rssm.observe, static_argnums=1)
observe_step = jax.jit(rssm.observe_step, static_argnums=1)
imagine = jax.jit(rssm.imagine, static_argnums=1)
imagine_step = jax.jit(rssm.imagine_step, static_argnums=1)


def normal(*shape):
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


@functools.cache
def sequence(config):
    """Returns (params, start, embed, action, first, states of observe)."""
    params = init(KEY, config, E, A)
    embed, action = normal(T, B, E), normal(T, B, A)
    first = np.zeros((T, B), bool)
    first[3, 0] = True
    start = jax.device_get(rssm.initial(config, B))
    found = jax.device_get(observe(params, config, start, embed, action, first, KEY))
    return params, start, embed, action, first, found


def test_a_sample_is_one_hot_and_its_gradient_that_of_the_softmax():
    raw = normal(12)

    def draw(raw):
        return latents.sample(CATEGORICAL, KEY, raw, 0.0)

    z = np.asarray(jax.jit(draw)(raw)).reshape(3, 4)
    assert sorted(np.unique(z)) == [0.0, 1.0] and (z.sum(-1) == 1).all()
    softmax = jax.jacobian(lambda x: jax.nn.softmax(x.reshape(3, 4)).reshape(-1))
    found, expected = jax.jit(lambda x: (jax.jacobian(draw)(x), softmax(x)))(raw)
    np.testing.assert_allclose(found, expected, 1e-5, 1e-6)


@pytest.mark.parametrize("unimix", [0.0, 0.3])
def test_a_sample_is_what_jax_draws_of_the_mixed_categorical(unimix):
    """By one logarithm a class; a class of probability 0 is never drawn."""
    raw = 3.0 * normal(200, 12)
    raw[:, 1] = -200.0
    p = scipy.special.softmax(raw.reshape(200, 3, 4), axis=-1)
    log_p = np.log((1 - unimix) * p + unimix / 4 + 1e-45).astype(np.float32)

    @jax.jit
    def both(raw, log_p):
        z = latents.sample(CATEGORICAL, KEY, raw, unimix).reshape(200, 3, 4)
        return z, jax.nn.one_hot(jax.random.categorical(KEY, log_p), 4)

    found, expected = jax.device_get(both(raw, log_p))
    np.testing.assert_array_equal(found, expected)
    assert found[:, 0, 1].any() == (unimix > 0)


@pytest.mark.parametrize(
    ("latent", "unimix"),
    [(CATEGORICAL, 0.0), (CATEGORICAL, 0.3), (GAUSSIAN, 0.0)],
    ids=["categorical", "mixed", "gaussian"],
)
def test_divergence_is_a_sum_over_variables_and_0_of_equals(latent, unimix):
    """Against the product distribution of the joint, or distrax for the Gaussian."""
    import distrax

    q, p = normal(2, latent.raw_size)

    @jax.jit
    def said(q, p):
        own, equal = (latents.kl(latent, q, x, unimix) for x in (p, q))
        return own, equal, latents.entropy(latent, q, unimix)

    found, of_equals, entropy = said(q, p)
    assert float(of_equals) == pytest.approx(0.0, abs=1e-6)
    if latent.kind == "gaussian":

        @jax.jit
        def oracle(q, p):
            q, p = (
                distrax.MultivariateNormalDiag(mean, 2 * jax.nn.sigmoid(std / 2) + 0.1)
                for mean, std in (jnp.split(x, 2) for x in (q, p))
            )
            return q.kl_divergence(p), q.entropy()

        expected, expected_entropy = oracle(q, p)
    else:

        def joint(raw):
            p = scipy.special.softmax(raw.reshape(3, 4), axis=-1)
            x = np.log((1 - unimix) * p + unimix / 4)
            return (
                x[0][:, None, None] + x[1][None, :, None] + x[2][None, None]
            ).ravel()

        expected = np.sum(np.exp(joint(q)) * (joint(q) - joint(p)))
        expected_entropy = -np.sum(np.exp(joint(q)) * joint(q))
    np.testing.assert_allclose(found, expected, 1e-5)
    np.testing.assert_allclose(entropy, expected_entropy, 1e-5)


def test_mixing_with_uniform_keeps_every_class_possible():
    raw = np.array([1e4, 0.0, 0.0, 0.0] * 3, np.float32)
    other = np.roll(raw, 1)
    kl = functools.partial(latents.kl, CATEGORICAL)
    assert float(jax.jit(kl)(raw, other, 0.01)) < 3 * np.log(4 / 0.01)
    slope = jax.jit(jax.grad(lambda x: kl(x, other, 0.0)))(raw)
    assert np.isfinite(np.asarray(slope)).all()


def test_the_update_gate_keeps_most_of_the_state():
    """At zero pre-activations σ(−1) = 27 % of the state is replaced, by tanh 0."""
    config = small(gru_norm="none")
    shapes = jax.eval_shape(lambda key: rssm.init(key, config, E, A), KEY)
    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    state = rssm.State(np.ones((B, 8), np.float32), np.zeros((B, 12), np.float32))
    after = imagine_step(params, config, state, np.zeros((B, A), np.float32), KEY)
    np.testing.assert_allclose(after.deter, np.full((B, 8), 1 - 0.26894143), 1e-6)


def test_the_gru_is_the_papers():
    """Reset multiplies the whole candidate; one layer norm over all gates."""
    config = small()
    params = init(KEY, config, E, A)
    h, z, a = (normal(B, n) for n in (8, 12, A))
    p = jax.tree.map(np.asarray, params)
    x = np.concatenate([z, a], -1) @ p["input"]["kernel"] + p["input"]["bias"]
    x = np.where(x > 0, x, np.expm1(x))
    g = np.concatenate([x, h], -1) @ p["gru"]["kernel"] + p["gru"]["bias"]
    g = (g - g.mean(-1, keepdims=True)) / np.sqrt(g.var(-1, keepdims=True) + 1e-3)
    r, c, u = np.split(g, 3, -1)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    c, u = np.tanh(sigmoid(r) * c), sigmoid(u - 1)
    after = imagine_step(params, config, rssm.State(h, z), a, KEY)
    np.testing.assert_allclose(after.deter, u * c + (1 - u) * h, 1e-4, 1e-5)


@pytest.mark.parametrize("unimix", [0.0, 0.9])
def test_what_is_drawn_is_of_the_new_h_and_of_the_observation_or_without(unimix):
    """ẑ_t ~ p(z | h_t), z_t ~ q(z | h_t, x_t): by hand from the h that a step gives."""
    config = small()
    params, _, embed, action, first, found = sequence(config)
    p, draw = (
        jax.tree.map(np.asarray, params),
        jax.jit(latents.sample, static_argnums=0),
    )

    def raw(name, x):
        x = x @ p[name]["kernel"] + p[name]["bias"]
        x = np.where(x > 0, x, np.expm1(x))
        return x @ p[f"{name}_out"]["kernel"] + p[f"{name}_out"]["bias"]

    deter = found.state.deter
    np.testing.assert_allclose(found.prior, raw("prior", deter), 1e-4, 1e-5)
    posterior = raw("posterior", np.concatenate([deter, embed], -1))
    np.testing.assert_allclose(found.posterior, posterior, 1e-4, 1e-5)
    before, now = (jax.tree.map(lambda x, t=t: x[t], found.state) for t in (0, 1))
    for seed in range(8):
        key = jax.random.key(seed)
        guessed = imagine_step(params, config, before, action[1], key, unimix=unimix)
        np.testing.assert_allclose(guessed.deter, now.deter, 1e-4, 1e-5)
        expected = draw(config.latent, key, raw("prior", now.deter), unimix)
        np.testing.assert_array_equal(guessed.stoch, expected)
        given = before, embed[1], action[1], first[1], key
        seen = observe_step(params, config, *given, unimix=unimix)
        expected = draw(config.latent, key, posterior[1], unimix)
        np.testing.assert_array_equal(seen.stoch, expected)


@pytest.mark.parametrize("latent", [CATEGORICAL, GAUSSIAN], ids=lambda x: x.kind)
def test_observing_a_sequence_is_observing_its_steps(latent):
    config = small(latent)
    params, state, embed, action, first, found = sequence(config)
    for t, key in enumerate(jax.random.split(KEY, T)):
        state = observe_step(params, config, state, embed[t], action[t], first[t], key)
        np.testing.assert_allclose(state.deter, found.state.deter[t], 1e-5, 1e-6)
        np.testing.assert_allclose(state.stoch, found.state.stoch[t], 1e-5, 1e-6)


@pytest.mark.parametrize(
    "changes", [{}, {"blocks": 2, "norm": "rms", "gru_norm": "none"}], ids=["1", "2"]
)
def test_weights_learn_from_a_sequence_as_from_its_steps(changes):
    """Their gradients are made after the loop; those of steps are added up."""
    config = small(**changes)
    params = init(KEY, config, E, A)
    embed, action, first = normal(T, B, E), normal(T, B, A), np.zeros((T, B), bool)
    first[2, 1] = True

    def whole(params, embed, action):
        start = rssm.initial(config, B)
        found = rssm.observe(params, config, start, embed, action, first, KEY)
        return found.state

    def steps(params, embed, action):
        state, states = rssm.initial(config, B), []
        for t, key in enumerate(jax.random.split(KEY, T)):
            state = rssm.observe_step(
                params, config, state, embed[t], action[t], first[t], key
            )
            states.append(state)
        return jax.tree.map(lambda *x: jnp.stack(x), *states)

    def slope(states):
        def loss(*args):
            return sum(jnp.sum(jnp.sin(3 * x)) for x in states(*args))

        return jax.grad(loss, (0, 1, 2))(params, embed, action)

    found, expected = jax.jit(lambda: (slope(whole), slope(steps)))()
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, 1e-4, 1e-5), found, expected
    )
    own = ("input", "gru", "posterior", "posterior_out")
    assert all(np.asarray(found[0][name]["kernel"]).any() for name in own)


def test_imagining_actions_is_imagining_their_steps():
    config = small()
    params, state, _, action, _, _ = sequence(config)
    found = jax.device_get(imagine(params, config, state, action, KEY))
    for t, key in enumerate(jax.random.split(KEY, T)):
        state = imagine_step(params, config, state, action[t], key)
        np.testing.assert_allclose(state.deter, found.deter[t], 1e-5, 1e-6)
        np.testing.assert_array_equal(state.stoch, found.stoch[t])


def test_an_episodes_first_step_knows_nothing_of_what_was_before():
    """Bit for bit, in slot 0 from step 3 on; in slot 1 the past does matter."""
    config = small()
    params, start, embed, action, first, found = sequence(config)
    other = embed.copy(), action.copy()
    other[0][:3] += 1.0
    other[1][:4] += 1.0
    past = jax.tree.map(lambda x: x + 1.0, start)
    again = jax.device_get(observe(params, config, past, *other, first, KEY))
    for x, y in zip(found.state, again.state):
        np.testing.assert_array_equal(x[3:, 0], y[3:, 0])
    assert (found.state.deter[3:, 1] != again.state.deter[3:, 1]).any()


def test_the_states_of_blocks_reach_each_other_only_through_the_input():
    """Of two blocks, one's state does not reach the other's next state in one step."""
    config = small(blocks=2, gru_norm="none")
    params = init(KEY, config, E, A)

    def later(h):
        state = rssm.State(h, jnp.zeros((1, 12)))
        return imagine_step(params, config, state, jnp.zeros((1, A)), KEY).deter

    reach = np.asarray(jax.jit(jax.jacobian(later))(np.ones((1, 8), np.float32)))[
        0, :, 0
    ]
    assert not reach[:4, 4:].any() and not reach[4:, :4].any()
    assert reach[:4, :4].all() and reach[4:, 4:].all()


def test_the_posterior_is_trained_by_one_side_and_the_prior_by_the_other():
    """KL(sg(q) ‖ p) has no gradient for what only q has, and the other way round.

    Of one step: of several, what was drawn of q before is in the h that p reads.
    """
    config = small()
    params, start, *inputs, _ = sequence(config)
    embed, action, first = (x[:1] for x in inputs)

    def loss(params, side):
        found = observe(params, config, start, embed, action, first, KEY)
        q, p = found.posterior, found.prior
        q, p = (jax.lax.stop_gradient(q), p) if side else (q, jax.lax.stop_gradient(p))
        return jnp.sum(latents.kl(config.latent, q, p, 0.0))

    grad = jax.jit(jax.grad(loss), static_argnums=1)
    to_prior, to_posterior = (grad(params, side) for side in (True, False))
    for name, own, other in (
        ("prior", to_prior, to_posterior),
        ("posterior", to_posterior, to_prior),
    ):
        for layer in (name, f"{name}_out"):
            assert np.asarray(own[layer]["kernel"]).any()
            assert not np.asarray(other[layer]["kernel"]).any()


def counted(init, *args):
    """Returns the number of parameters that ``init`` makes."""
    return sum(x.size for x in jax.tree.leaves(jax.eval_shape(init, *args)))


def test_sizes_are_the_papers():
    """Parameter counts at one channel of 64×64 and 18 actions."""
    obs = {"image": jax.ShapeDtypeStruct((64, 64, 1), np.uint8)}
    model = observation_config.choose(observation_config.ObservationConfig(), obs)
    config = rssm.RSSMConfig()
    embed = observation_encoder.size(model, obs)
    assert (embed, config.feature_size) == (1536, 1624)
    found = {
        "encoder": counted(lambda k: observation_encoder.init(k, model, obs), KEY),
        "rssm": counted(lambda k: rssm.init(k, config, embed, 18), KEY),
        "decoder": counted(
            lambda k: observation_decoder.init(k, model, obs, 1624), KEY
        ),
        "head": counted(lambda k: layers.mlp_init(k, 1624, (400,) * 4, 1), KEY),
        "actor": counted(lambda k: layers.mlp_init(k, 1624, (400,) * 4, 18), KEY),
    }
    assert found == {
        "encoder": 1_549_776, "rssm": 5_664_848, "decoder": 10_497_553,
        "head": 1_131_601, "actor": 1_138_418,
    }  # fmt: skip
    world = found["encoder"] + found["rssm"] + found["decoder"] + 2 * found["head"]
    assert world == 19_975_379


@pytest.mark.parametrize(
    ("kernel", "stride", "channels", "size"),
    [
        (5, 2, 3, (1, 1)),
        (6, 2, 17, (3, 5)),
        (3, 1, 4, (4, 2)),
        (2, 2, 16, (2, 2)),
        (5, 3, 3, (2, 3)),
    ],
)
def test_the_transposed_convolution_is_flaxs(kernel, stride, channels, size):
    """Numbers and gradients, both implementations, any leading axes.

    With fewer and with more channels than phases of its four features.
    """
    x, w = normal(2, 2, *size, channels), normal(kernel, kernel, channels, 4)
    module = nn.ConvTranspose(
        4, (kernel, kernel), (stride, stride), "VALID", use_bias=False
    )
    flat = x.reshape(4, *size, channels)
    expected = np.asarray(jax.jit(module.apply)({"params": {"kernel": w}}, flat))
    expected = expected.reshape(2, 2, *expected.shape[1:])

    def loss(x, w, implementation):
        y = conv_transpose.conv_transpose2d(
            x, w, stride=stride, implementation=implementation
        )
        return jnp.sum(jnp.square(y)), y

    found = {}
    grad = jax.jit(jax.grad(loss, (0, 1), has_aux=True), static_argnums=2)
    for name in ("matmul", "lax"):
        found[name], y = grad(x, w, name)
        np.testing.assert_allclose(y, expected, 1e-4, 1e-4)
    for mine, lax in zip(found["matmul"], found["lax"]):
        np.testing.assert_allclose(mine, lax, 1e-3, 1e-3)


@pytest.mark.parametrize(
    ("shape", "kind"),
    [((64, 64, 3), "conv"), ((10, 10, 4), "grid"), ((7, 9, 1), "mlp")],
)
def test_what_is_decoded_has_the_observations_shape(shape, kind):
    obs = {
        "image": jax.ShapeDtypeStruct(shape, np.uint8),
        "vector": jax.ShapeDtypeStruct((3,), np.float32),
    }
    config = observation_config.ObservationConfig(
        image="mlp" if kind == "mlp" else "auto", depth=2, units=5, layers=2
    )
    config = observation_config.choose(config, obs)
    assert config.image == kind
    seen = {k: jax.ShapeDtypeStruct((4, *x.shape), x.dtype) for k, x in obs.items()}

    def both(seen, features):
        params = observation_encoder.init(KEY, config, obs)
        embed = observation_encoder.encode(params, config, seen, "float32")
        params = observation_decoder.init(KEY, config, obs, 9)
        return embed, observation_decoder.decode(
            params, config, obs, features, "float32"
        )

    embed, drawn = jax.eval_shape(both, seen, jnp.ones((4, 9)))
    assert embed.shape == (4, observation_encoder.size(config, obs))
    assert {k: x.shape for k, x in drawn.items()} == {
        k: x.shape for k, x in seen.items()
    }


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((84, 84, 1), {}, "image: 'conv' takes 64x64, got 84x84"),
        ((64, 64, 1), {"image": "grid"}, "image: 'grid' takes sides of 3 to 32"),
        ((10, 10, 1), {"image": "resnet"}, "image: 'resnet' is not known"),
        ((10, 10, 1), {"units": 0}, "units: got 0"),
    ],
)
def test_an_image_that_cannot_be_taken_is_refused(shape, changes, message):
    obs = {"image": jax.ShapeDtypeStruct(shape, np.uint8)}
    with pytest.raises(ValueError, match=message):
        observation_config.choose(observation_config.ObservationConfig(**changes), obs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"deter": 0}, "deter: got 0"),
        ({"gru_norm": "batch"}, "gru_norm: 'batch'"),
        ({"deter": 8, "blocks": 3}, "blocks: 8 units"),
        ({"latent": latents.LatentConfig("binary")}, "kind: 'binary'"),
        ({"latent": latents.LatentConfig(classes=1)}, "classes: got 1"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        rssm.check(rssm.RSSMConfig(**changes))
