"""What a rollout says of itself, as every actor-critic and every student reads it."""

import types as namespaces

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from mtrl_jax import types
from mtrl_jax.agents.common import unrolls
from mtrl_jax.data import windows
from mtrl_jax.networks import heads

STEP = types.TimeStep(*[()] * 7)


def test_no_action_is_chosen_from_the_end_of_an_episode():
    """It is sent into the reset. Beyond a history that data end there is none, either."""
    last = np.array([False, True, False, False, True])[:, None]
    ts = STEP._replace(first=np.roll(last, 1, axis=0), last=last)
    rollout = types.Rollout(ts, (), (), ())
    chosen = np.array([True, False, True, True])[:, None]
    np.testing.assert_array_equal(unrolls.chosen_from(rollout), chosen)
    live = jnp.array([True, True, True, False])[:, None]
    known = rollout._replace(extras=windows.Extras(live))
    np.testing.assert_array_equal(unrolls.chosen_from(known), chosen & live)


def test_an_action_was_drawn_from_the_legal_ones_of_its_own_step():
    """Of T + 1 policies and masks the last has no action; values are in their unit."""
    rng = np.random.default_rng(0)
    logits, value = rng.normal(size=(4, 2, 3)), rng.normal(size=(4, 2))
    mask, action = np.ones((4, 2, 3), bool), np.array([[0, 1], [1, 2], [2, 0]])
    mask[np.arange(4), :, [1, 2, 0, 0]] = False
    network = namespaces.SimpleNamespace(
        distribution=lambda policy, mask: heads.policy(types.Discrete(3), policy, mask)
    )
    out = namespaces.SimpleNamespace(policy=np.float32(logits), value=np.float32(value))
    mask[np.arange(3)[:, None], np.arange(2), action] = True
    rollout = types.Rollout(STEP._replace(action_mask=mask), action, (), ())

    @jax.jit
    def evaluated():
        return unrolls.evaluate(network, out, rollout, lambda x: 2.0 * x)

    found = evaluated()
    log_p = scipy.special.log_softmax(np.where(mask, logits, -np.inf)[:-1], axis=-1)
    expected = np.take_along_axis(log_p, action[..., None], -1)[..., 0]
    np.testing.assert_allclose(found.log_prob, expected, rtol=1e-5)
    entropy = -np.sum(np.exp(log_p) * np.where(mask[:-1], log_p, 0.0), axis=-1)
    np.testing.assert_allclose(found.entropy, entropy, rtol=1e-5)
    np.testing.assert_allclose(found.value, 2.0 * value, rtol=1e-5)
