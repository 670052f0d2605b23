"""PPO: the first pass against float64, wrong sizes."""

import types as namespaces

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax.agents import ppo
from mtrl_jax.agents.common import policy_learner
from mtrl_jax.losses import popart

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


def test_later_passes_are_clipped_in_units_of_the_value_scale(kit):
    """Two tasks with σ of 2 and 3, ratios of 1.5 and 0.7, a third step that is no step."""

    def column(*x):
        return jnp.array(x)[:, None]

    ratio, old, live = column(1.5, 0.7, 9.0), jnp.log(0.1), column(True, True, False)
    distribution = namespaces.SimpleNamespace(
        log_prob=lambda action: jnp.log(ratio) + old,
        entropy=lambda: column(1.0, 3.0, 50.0),
    )
    batch = ppo.Batch(
        ts=namespaces.SimpleNamespace(task=column(0, 1, 0)),
        prev_action=(),
        action=(),
        extras=ppo.unrolls.Extras(old, column(2.0, 3.0, 70.0)),
        targets=ppo.policy_gradient.Targets(
            value=column(8.0, 18.0, -90.0), advantage=column(2.0, -3.0, 80.0)
        ),
        live=live,
    )
    hp = kit.changed(
        kit.quick("ppo"), clip_epsilon=0.2, clip_value=0.1, value_step_size=0.0
    )
    config = ppo.Config(value_scale="popart", normalise_advantages=False)
    spec = kit.setup("ppo", "none", ("both", "masked")).env.spec
    base = policy_learner.make(spec, config)
    stats = popart.Statistics(*jnp.array([[0.0, 0.0], [4.0, 9.0], [0.5, 0.5]]))
    terms, metrics, _ = ppo.surrogate(
        distribution, column(4.0, 9.0, 60.0), batch, hp, stats, base
    )
    # A/σ is 1 and −1; values 2 and 3 were 1 and may come to 1.1, targets are 4 and 6.
    np.testing.assert_allclose(terms.policy_loss, (-1.2 + 0.8) / 2, rtol=1e-5)
    np.testing.assert_allclose(terms.value_loss, (2.9**2 + 4.9**2) / 4, rtol=1e-5)
    np.testing.assert_allclose(terms.entropy, 2.0, rtol=1e-6)
    assert metrics["clip_fraction"] == 1.0
    kl = (0.5 - np.log(1.5) - 0.3 - np.log(0.7)) / 2
    np.testing.assert_allclose(metrics["approx_kl"], kl, rtol=1e-4)


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
