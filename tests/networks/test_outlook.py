"""Bins of returns, the tilt towards an expert's, numbers as tokens: golden values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.networks.transformers import outlook, tokeniser, transformer

ATARI = outlook.Outlook(bins=121, low=-20.0, high=100.0)
P = np.array([0.5, 0.3, 0.15, 0.04, 0.01], np.float32)


def _centre(kind, index):
    """The number at the centre of each bin."""
    x = (2.0 * np.asarray(index) + 1.0) / 1024 - 1.0
    if kind == "mu_law":
        x = np.sign(x) * np.expm1(np.abs(x) * np.log1p(256.0 * 100.0)) / 100.0
    return x.astype(np.float32)


def test_returns_are_clipped_and_counted_from_the_lowest():
    """121 values of a return for -20 to 100; a bin is its lowest return."""
    given = jnp.array([-30, -20, 0, 37.9, 100, 250.0])
    bins = outlook.bin_of(ATARI, given)
    assert bins.tolist() == [0, 0, 20, 57, 120, 120]
    whole = jnp.arange(121)
    assert (outlook.bin_of(ATARI, outlook.return_of(ATARI, whole)) == whole).all()


@pytest.mark.parametrize(
    ("kappa", "expected", "mean"),
    [
        (0.0, [0.5, 0.3, 0.15, 0.04, 0.01], 0.76),
        (2.0, [0.3020, 0.2988, 0.2463, 0.1083, 0.0446], 1.295),
        (5.0, [0.0762, 0.1596, 0.2786, 0.2593, 0.2263], 2.400),
        (10.0, [0.0016, 0.0115, 0.0698, 0.2267, 0.6905], 3.593),
    ],
)
def test_the_tilt_is_that_of_the_sheet(kappa, expected, mean):
    """κ = 0 leaves P as it is; the higher, the more of the best."""
    q = jax.nn.softmax(outlook.tilted(jnp.log(P), kappa))
    np.testing.assert_allclose(q, expected, atol=6e-5)
    np.testing.assert_allclose((np.arange(5) * np.asarray(q)).sum(), mean, atol=6e-4)


def test_tilting_is_monotone_takes_the_best_at_last_and_draws_what_it_says():
    """q / P rises with R; κ -> ∞: the largest R that may be; 1e5 draws within 3 σ."""
    logits = jnp.log(jnp.array([0.5, 0.3, 0.2, 0.0]))
    assert int(jnp.argmax(outlook.tilted(logits, 1e4))) == 2
    q = np.asarray(jax.nn.softmax(outlook.tilted(jnp.log(P), 5.0)))
    assert (np.diff(q / P) > 0).all()
    config = outlook.Outlook(bins=5, low=3.0, high=11.0)
    many = jnp.broadcast_to(jnp.log(P), (100_000, 5))
    drawn = np.asarray(outlook.sample(config, jax.random.key(0), many, 5.0))
    share = np.array([(drawn == x).mean() for x in (3, 5, 7, 9, 11)])
    assert (np.abs(share - q) < 3 * np.sqrt(q * (1 - q) / 1e5)).all()


def test_numbers_have_the_tokens_of_the_sheet():
    """μ-law with μ = 100, M = 256; tokens begin at 32000 there."""
    x = [
        -1000,
        -256,
        -10,
        -1,
        -0.1,
        -0.01,
        0,
        0.01,
        0.1,
        0.5,
        1,
        2.5,
        10,
        100,
        256,
        1e9,
    ]
    expected = [
        0,
        0,
        163,
        279,
        391,
        477,
        512,
        546,
        632,
        710,
        744,
        790,
        860,
        976,
        1023,
        1023,
    ]
    assert tokeniser.encode("mu_law", np.float32(x)).tolist() == expected
    x = np.float32([-1, -0.5, 0, 0.25, 0.999, 1])
    bins = tokeniser.encode("bounded", x)
    assert bins.tolist() == [0, 256, 512, 640, 1023, 1023]
    assert (np.abs(_centre("bounded", bins) - x) <= 1 / 1024 + 1e-7).all()
    centres = _centre("mu_law", jnp.array([744, 790, 1023]))
    np.testing.assert_allclose(centres, [0.99414, 2.4895, 253.47], rtol=2e-5)


@pytest.mark.parametrize("kind", ["mu_law", "bounded"])
def test_tokens_are_monotone_odd_and_their_own_centres(kind):
    """k(x) + k(-x) is 1023 or 1024; a centre is of its own bin."""
    x = np.linspace(-300, 300, 4001, dtype=np.float32) / (
        1 if kind == "mu_law" else 300
    )
    index = np.asarray(tokeniser.encode(kind, x))
    assert (np.diff(index) >= 0).all() and index.min() >= 0 and index.max() == 1023
    inside = np.abs(x) < 250 / (1 if kind == "mu_law" else 300)
    assert set((index + index[::-1])[inside]) <= {1023, 1024}
    every = jnp.arange(1024)
    np.testing.assert_array_equal(tokeniser.encode(kind, _centre(kind, every)), every)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bins": 1}, "bins: 1 .*2 or more"),
        ({"low": 20.0}, r"low: 20\.0 is not below"),
        ({"ranges": ((0, 1), (2, 1))}, r"ranges\.1: low: 2 is not below high: 1"),
        ({"steps": -1}, "steps: -1 of an episode"),
    ],
)
def test_returns_that_cannot_be_counted_are_refused(changes, words):
    """One line, with what would work."""
    with pytest.raises(ValueError, match=words):
        outlook.check(outlook.Outlook(**changes))


@pytest.mark.parametrize(
    ("width", "layers", "heads", "total"),
    [
        (1280, 10, 20, 197_638_542),
        (768, 6, 12, 43_045_774),
        (512, 4, 8, 12_955_278),
    ],
)
def test_layers_of_the_multi_game_transformers_have_its_parameters(
    width, layers, heads, total
):
    """Layers and last norm to the number; what else theirs have is what steps are.

    There a step is 36 patches of an image, a return, an action and a reward, with a
    position for each of the 156 tokens of a window; here an image is one token of a torso
    and a position is a step's, which are other numbers.
    """
    obs, space = {"vector": jax.ShapeDtypeStruct((3,), jnp.float32)}, types.Discrete(18)
    spec = types.EnvSpec(obs, space, (types.TaskSpec("task", obs, space),))
    config = transformer.TransformerConfig(
        layers=layers, width=width, heads=heads, feedforward=4 * width, context=4,
        encoding="triple", positions="learned",
    )  # fmt: skip
    given = outlook.Outlook(bins=120, low=-20.0, high=100.0, rewards=True)
    network = transformer.make(spec, config, given)
    params = jax.eval_shape(network.init, jax.random.key(0))
    own = {k: x for k, x in params.items() if k == "norm" or k.startswith("block_")}
    assert len(own) == layers + 1
    patches, positions = (14 * 14 + 1 + 36) * width, 156 * width
    values = 18 + 120 + 4  # actions, returns, rewards: embedded, and predicted
    theirs = patches + positions + values * width + values * (width + 1)
    assert sum(x.size for x in jax.tree.leaves(own)) + theirs == total
