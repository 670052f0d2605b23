"""PPO: the first pass against float64, wrong sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.agents import ppo

KEY = jax.random.key(0)


@pytest.fixture(name="first_pass", scope="module")
def _first_pass(kit):
    """(setup, metrics) of one epoch of one minibatch: nothing has moved yet."""
    one = kit.setup("ppo", "lstm", ("both",))
    agent = kit.small("ppo", one.env.spec, "lstm", epochs=1, minibatches=1)
    _, metrics = kit.updater(agent)(one.learner, one.rollout, KEY, one.hp)
    return one, metrics


def test_before_the_first_step_the_policy_is_the_one_that_acted(first_pass):
    """Ratio 1: no divergence, nothing clipped, a normalised advantage of mean 0."""
    _, metrics = first_pass
    np.testing.assert_allclose(metrics["approx_kl"], 0.0, atol=1e-6)
    assert metrics["clip_fraction"] == 0.0
    np.testing.assert_allclose(metrics["policy_loss"], 0.0, atol=1e-5)


def test_the_value_loss_is_that_of_gae_in_float64(first_pass):
    """½·(λ-return − V)² over live steps, from the values that acting recorded."""
    one, metrics = first_pass
    ro, lambda_ = one.rollout, 0.95
    live = ~np.asarray(ro.ts.first)[1:]
    v = np.float64(ro.extras.value)
    r, discount = np.float64(ro.ts.reward)[1:], 0.9 * np.float64(ro.ts.discount)[1:]
    # One-step episodes in phase: the rollout ends at a first step after a crossing.
    assert not live[-1].any()
    after = np.concatenate([v[1:], np.zeros_like(v[:1])])
    advantage = np.zeros_like(after[0])
    total = []
    for t in reversed(range(len(r))):
        delta = r[t] + discount[t] * after[t] - v[t]
        advantage = np.where(live[t], delta + discount[t] * lambda_ * advantage, 0.0)
        total.append(0.5 * advantage[live[t]] ** 2)
    expected = np.concatenate(total).mean()
    np.testing.assert_allclose(metrics["value_loss"], expected, rtol=1e-4)


def test_sizes_that_cannot_work_are_refused(kit):
    """Below 1 when the agent is made; rows that do not divide when it is traced."""
    spec = kit.probe("both").spec
    for name in ("epochs", "minibatches"):
        with pytest.raises(ValueError, match=f"{name}: 0 given; at least 1"):
            ppo.make(spec, ppo.Config(**{name: 0}))
    one = kit.setup("ppo", "lstm", ("both",))
    agent = kit.small("ppo", spec, "lstm", minibatches=3)
    args = (one.learner, one.rollout, KEY, one.hp, jnp.int32(0))
    with pytest.raises(ValueError, match="minibatches: 3 does not divide the 4 slots"):
        jax.eval_shape(agent.update, *args)


def test_an_infinite_value_clip_is_no_clip(kit):
    """And a finite one changes later passes: inf is the switch that turns it off."""
    one = kit.setup("ppo", "lstm", ("both",))
    ends = [
        one.update(one.learner, one.rollout, KEY, kit.changed(one.hp, clip_value=c))[0]
        for c in (jnp.inf, 1e6, 1e-4)
    ]
    off, wide, narrow = (np.asarray(e.params["value"]["kernel"]) for e in ends)
    np.testing.assert_array_equal(off, wide)
    assert not np.array_equal(off, narrow)
