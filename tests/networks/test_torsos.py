"""Torsos: which one is chosen, what it outputs, how large it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks import image_stacks, sequence_conv, torsos

VECTOR = jax.ShapeDtypeStruct((5,), jnp.float32)


def _image(*shape, dtype=jnp.uint8):
    return jax.ShapeDtypeStruct(shape, dtype)


def _zeros(obs, lead=(2,)):
    return {k: jnp.zeros(lead + s.shape, s.dtype) for k, s in obs.items()}


@pytest.mark.parametrize(
    ("obs", "expected"),
    [
        ({"vector": VECTOR}, "mlp"),
        ({"image": _image(10, 10, 4)}, "minatar"),
        ({"image": _image(16, 16, 3), "vector": VECTOR}, "minatar"),
        ({"image": _image(18, 30, 3)}, "minatar"),
        ({"image": _image(84, 84, 4)}, "impala_shallow"),
        ({"image": _image(1, 9, 1)}, "mlp"),
    ],
)
def test_auto_picks_by_the_size_of_the_image(obs, expected):
    """Small images get the MinAtar stack, large ones IMPALA's, none an MLP."""
    assert torsos.choose("auto", obs) == expected


@pytest.mark.parametrize(
    ("kind", "size", "features", "parameters"),
    [
        # By hand, per layer: k k cin cout + cout.
        ("minatar", (10, 10, 4), 128, 592 + 1024 * 128 + 128),
        ("impala_shallow", (72, 96, 3), 256, 3088 + 8224 + 2240 * 256 + 256),
        ("impala_deep", (72, 96, 3), 256, 448 + 4 * 2320 + 4640 + 9 * 9248 + 884_992),
        ("nature", (84, 84, 4), 512, 8224 + 32832 + 36928 + 3136 * 512 + 512),
    ],
)
def test_convolutional_torsos_have_the_published_sizes(
    kind, size, features, parameters
):
    """Layer by layer the parameter counts of the papers' networks."""
    obs = _zeros({"image": _image(*size)})
    torso = torsos.Torso(kind, (64,), "tanh")
    out, params = jax.eval_shape(
        lambda k: torso.init_with_output(k, obs, jnp.zeros((2, 0))), jax.random.key(0)
    )
    assert out.shape == (2, features)
    assert sum(p.size for p in jax.tree.leaves(params)) == parameters


def test_the_residual_network_has_fifteen_convolutions():
    """Three sections of one convolution and two blocks of two."""
    obs = _zeros({"image": _image(32, 32, 3)})
    torso = torsos.Torso("impala_deep", (64,), "tanh")
    shapes = jax.eval_shape(
        lambda k: torso.init(k, obs, jnp.zeros((2, 0))), jax.random.key(0)
    )
    stack = shapes["params"]["impala_deep"]
    assert sum(name.startswith("Conv_") for name in stack) == 15


@pytest.mark.parametrize("implementation", ["matmul", "lax"])
def test_bfloat16_is_of_the_products_alone(implementation):
    """Parameters, features and gradients are float32, and near those of float32."""
    image = jax.random.randint(jax.random.key(1), (8, 6, 6, 3), 0, 256, jnp.uint8)
    obs = {"image": image, "vector": jax.random.normal(jax.random.key(2), (8, 5))}
    side = jnp.zeros((8, 2))

    def of(dtype):
        torso = torsos.Torso(
            "impala_deep", (16,), "tanh", implementation, filters=(4,),
            features=8, dtype=dtype,
        )  # fmt: skip

        def loss(params):
            features = torso.apply(params, obs, side)
            return jnp.mean(jnp.square(features)), features

        return torso, jax.value_and_grad(loss, has_aux=True)

    torso, whole = of("float32")
    params = jax.jit(batch_draws(torso.init))(jax.random.key(0), obs, side)
    half = of("bfloat16")[0].init
    assert jax.eval_shape(half, jax.random.key(0), obs, side) == jax.eval_shape(
        lambda: params
    )
    program = str(jax.make_jaxpr(of("bfloat16")[1])(params))
    (_, expected), wanted = jax.jit(whole)(params)
    (_, features), gradient = jax.jit(of("bfloat16")[1])(params)
    assert "bf16" in program and features.dtype == jnp.float32
    assert not np.array_equal(features, expected)
    np.testing.assert_allclose(features, expected, rtol=0.05, atol=0.05)
    for path, x in jax.tree_util.tree_leaves_with_path(gradient):
        y = dict(jax.tree_util.tree_leaves_with_path(wanted))[path]
        assert x.dtype == jnp.float32 and np.isfinite(x).all()
        assert np.linalg.norm(x - y) < 0.1 * np.linalg.norm(y), path


def test_side_inputs_join_the_vector_or_the_image_features():
    """They enter the MLP where there is one; otherwise they are appended, as in IMPALA."""
    side = jnp.ones((2, 3))
    image = {"image": _image(10, 10, 1)}
    both = {**image, "vector": VECTOR}

    def shapes(kind, obs):
        torso = torsos.Torso(kind, (7,), "relu")
        out, params = jax.eval_shape(
            lambda k: torso.init_with_output(k, _zeros(obs), side), jax.random.key(0)
        )
        mlp = params["params"].get("mlp", {}).get("Dense_0", {}).get("kernel")
        return out.shape[-1], None if mlp is None else mlp.shape

    assert shapes("mlp", {"vector": VECTOR}) == (7, (8, 7))
    assert shapes("minatar", image) == (131, None)
    assert shapes("minatar", both) == (135, (8, 7))
    assert shapes("mlp", both) == (7, (108, 7))


def test_images_are_scaled_on_the_device():
    """uint8 becomes [0, 1]; bool and float keep their values."""
    image = np.array([[0, 51, 255]])
    np.testing.assert_allclose(
        image_stacks.scale_image(jnp.asarray(image, jnp.uint8)), image / 255, rtol=1e-6
    )
    np.testing.assert_array_equal(
        image_stacks.scale_image(jnp.asarray(image > 0)), [[0.0, 1.0, 1.0]]
    )
    as_float = jnp.asarray(image, jnp.float32)
    np.testing.assert_array_equal(image_stacks.scale_image(as_float), as_float)


@pytest.mark.parametrize(
    ("kind", "obs", "message"),
    [
        ("resnet", {"vector": VECTOR}, r"torso: 'resnet'.*impala_deep"),
        ("nature", {"vector": VECTOR}, "torso: 'nature' needs an image"),
        ("nature", {"image": _image(35, 84, 4)}, "at least 36x36, got 35x84"),
        ("impala_shallow", {"image": _image(19, 84, 4)}, "at least 20x20"),
        ("auto", {"text": VECTOR}, r"obs: got the leaves \['text'\]"),
        ("auto", {"image": VECTOR}, r"obs: 'image' has shape \(5,\)"),
    ],
)
def test_torsos_that_do_not_fit_are_refused(kind, obs, message):
    """An error names the field, what was given and what would work."""
    with pytest.raises(ValueError, match=message):
        torsos.choose(kind, obs)


@pytest.mark.parametrize(("kind", "size"), [("impala_shallow", 20), ("nature", 36)])
def test_the_smallest_allowed_image_works(kind, size):
    """The bound of the error is the true one."""
    obs = _zeros({"image": _image(size, size, 1)})
    torso = torsos.Torso(kind, (64,), "tanh")

    def features(key):
        variables = torso.init(key, obs, jnp.zeros((2, 0)))
        return torso.apply(variables, obs, jnp.zeros((2, 0)))

    assert jax.eval_shape(features, jax.random.key(0)).shape[0] == 2


def test_a_sequence_at_the_front_of_a_vector_is_convolved():
    """[24, 3] and 5 more: by hand the same; the rest and side inputs are as they were."""
    vector = np.random.default_rng(0).normal(size=(2, 77)).astype(np.float32)
    torso = torsos.Torso("mlp", (7,), "relu", sequence=(24, 3))
    inputs = {"vector": jnp.asarray(vector)}, jnp.ones((2, 4))

    @jax.jit
    def run(key):
        params = torso.init(key, *inputs)["params"]
        made = sequence_conv.SequenceConv(24, 3)
        return params, made.apply({"params": params["sequence"]}, inputs[0]["vector"])

    params, found = jax.device_get(run(jax.random.key(0)))
    x = vector[:, :72].reshape(2, 24, 3)
    for name, width, stride in (("Conv_0", 5, 2), ("Conv_1", 3, 1)):
        layer = params["sequence"][name]
        kernel = layer["kernel"][0].reshape(-1, 32)
        at = range(0, x.shape[1] - width + 1, stride)
        x = np.stack([x[:, i : i + width].reshape(2, -1) @ kernel for i in at], 1)
        x = np.maximum(x + layer["bias"], 0)
    assert x.shape == (2, 8, 32)
    expected = np.concatenate([x.reshape(2, -1), vector[:, 72:]], 1)
    np.testing.assert_allclose(found, expected, 1e-4, 1e-5)
    assert params["mlp"]["Dense_0"]["kernel"].shape == (256 + 5 + 4, 7)


@pytest.mark.parametrize("sequence", [(24,), (8, 3), (24, 0), (26, 3)])
def test_a_sequence_that_cannot_be_is_refused(sequence):
    """Too short, of no channels, longer than the vector: with what was given."""
    obs = {"vector": jax.ShapeDtypeStruct((77,), jnp.float32)}
    sequence_conv.check((24, 3), obs)
    with pytest.raises(ValueError, match=r"sequence: .*\[\] for none"):
        sequence_conv.check(sequence, obs)
    with pytest.raises(ValueError, match="vector has 0"):
        sequence_conv.check((24, 3), {})
