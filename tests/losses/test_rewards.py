"""Reward transforms: the numbers of the two published forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.losses import rewards

R = np.array([-10.0, -1.0, -0.1, 0.0, 0.1, 1.0, 10.0], np.float32)


def test_the_two_asymmetric_clippings_are_the_papers_and_the_programs():
    """Figure: 0.3·min(tanh r, 0) + 5·max(tanh r, 0); program: 5·tanh(r/5), ×0.3 below 0."""
    t, t5 = np.tanh(R.astype(np.float64)), 5 * np.tanh(R.astype(np.float64) / 5)
    paper = np.where(R < 0, 0.3 * t, 5 * t)
    code = np.where(R < 0, 0.3 * t5, t5)
    np.testing.assert_allclose(rewards.oac_paper(jnp.asarray(R)), paper, atol=1e-6)
    np.testing.assert_allclose(rewards.oac_code(jnp.asarray(R)), code, atol=1e-6)


def test_the_two_asymmetric_clippings_have_these_values_at_one():
    """At r = ±1 they are 3.808 and -0.2285 (paper), 0.9869 and -0.2961 (program)."""
    one = jnp.array([1.0, -1.0])
    np.testing.assert_allclose(
        rewards.oac_paper(one), [3.807970780, -0.228478247], atol=1e-6
    )
    np.testing.assert_allclose(
        rewards.oac_code(one), [0.986876601, -0.296062980], atol=1e-6
    )


def test_the_plain_transforms_do_what_they_say():
    """Atari's convention is [-1, 1]; "none" hands the reward through."""
    for name, expected in (
        ("tanh", np.tanh(R)),
        ("symlog", np.sign(R) * np.log1p(np.abs(R))),
    ):
        found = rewards.get(name)(jnp.asarray(R))
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(
        rewards.get("clip")(jnp.asarray(R)), np.clip(R, -1, 1)
    )
    np.testing.assert_array_equal(rewards.get("none")(jnp.asarray(R)), R)


@pytest.mark.parametrize("name", rewards.TRANSFORMS)
def test_every_transform_keeps_order_sign_and_zero(name):
    """A transform may squash, but better stays better and nothing stays nothing."""
    r = np.linspace(-3, 3, 61, dtype=np.float32)
    out = np.asarray(rewards.get(name)(jnp.asarray(r)))
    assert (np.diff(out) >= 0).all()
    np.testing.assert_array_equal(np.sign(out), np.sign(r))


def test_an_unknown_transform_is_refused_by_name():
    """The error says what was given and what would work."""
    with pytest.raises(ValueError, match="rewards: unknown 'oac'; one of none, clip"):
        rewards.get("oac")
