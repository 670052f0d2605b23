"""The V-trace agent's loss against float64, and where its gradients go."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import agents
from mtrl_jax.agents import impala
from mtrl_jax.agents.common import unrolls, value_scale, vtrace
from mtrl_jax.losses import popart
from mtrl_jax.networks import actor_critic as networks

KEY = jax.random.key(0)


@pytest.fixture(name="one", scope="module")
def _one(kit):
    """The agent on ``probe/both`` and the rollout of another, sharper policy."""
    one = kit.setup("impala", "lstm", ("both",))
    other = kit.fresh(one, 5)
    other.params["policy"]["kernel"] *= 100
    return one._replace(rollout=kit.collect(one, learner=other, tasks=("both",)))


def moved(kit, one, **leaves):
    """Returns {head: has it moved} after an update with some hparams changed."""
    hp = kit.changed(one.hp, **leaves)
    after, _ = one.update(one.learner, one.rollout, KEY, hp)
    old, new = one.learner.params, after.params
    return {
        head: not np.array_equal(old[head]["kernel"], new[head]["kernel"])
        for head in ("policy", "value")
    }


def test_the_losses_are_the_papers_in_float64(one, kit):
    """Policy, value and entropy terms of live steps, V-trace by its recursion."""
    hp, ro = kit.changed(one.hp, lambda_=0.9), one.rollout
    _, metrics = one.update(one.learner, ro, KEY, hp)
    network = networks.make(
        one.env.spec, networks.NetworkConfig(hidden=(8,), core="lstm", core_size=8)
    )

    @jax.jit
    def evaluate(params, ro):
        return unrolls.evaluate(network, unrolls.outputs(network, params, ro), ro)

    log_pi, entropy, v = (np.float64(x) for x in evaluate(one.learner.params, ro))
    live = ~np.asarray(ro.ts.first)[1:]
    assert live.any() and not live.all()
    ratio = np.exp(log_pi - np.float64(ro.extras.log_prob))
    assert ratio.max() > 1.01 and ratio.min() < 0.99
    rho = np.where(live, np.minimum(ratio, 1.0), 0.0)
    r, discount = np.float64(ro.ts.reward)[1:], 0.9 * np.float64(ro.ts.discount)[1:]
    error, target = np.zeros_like(v), v.copy()
    for t in reversed(range(len(r))):
        delta = rho[t] * (r[t] + discount[t] * v[t + 1] - v[t])
        error[t] = delta + discount[t] * 0.9 * rho[t] * error[t + 1]
        target[t] += error[t]
    after = np.where(
        np.arange(len(r))[:, None] < len(r) - 1, 0.9 * target[1:] + 0.1 * v[1:], v[1:]
    )
    advantage = rho * (r + discount * after - v[:-1])
    expected = {
        "policy_loss": (-advantage * log_pi)[live].mean(),
        "value_loss": (0.5 * error[:-1] ** 2)[live].mean(),
        "entropy": entropy[live].mean(),
        "rho": ratio[live].mean(),
        "value": v[:-1][live].mean(),
    }
    expected["loss"] = (
        expected["policy_loss"]
        + 0.5 * expected["value_loss"]
        - 0.01 * expected["entropy"]
    )
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)


def test_each_loss_moves_its_own_head_only(one, kit):
    """No gradient from the policy loss into the value head, nor the other way round."""
    assert moved(kit, one) == {"policy": True, "value": True}
    assert moved(kit, one, value_cost=0.0) == {"policy": True, "value": False}
    alone = moved(kit, one, clip_pg_rho=0.0, entropy_cost=0.0)
    assert alone == {"policy": False, "value": True}
    assert moved(kit, one, clip_pg_rho=0.0, clip_rho=0.0, entropy_cost=0.0) == {
        "policy": False,
        "value": False,
    }


def test_the_reward_transform_comes_after_the_scale(kit):
    """clip(10·r) is ±1 for rewards of ±1: the same update as without a scale."""
    env = kit.probe("both")
    clipping = kit.small("impala", env.spec, "lstm", rewards="clip")
    one = kit.setup("impala", "lstm", ("both",))
    update = kit.updater(clipping)
    plain, _ = one.update(one.learner, one.rollout, KEY, one.hp)
    hp = kit.changed(one.hp, reward_scale=10.0)
    scaled, _ = update(one.learner, one.rollout, KEY, hp)
    for x, y in zip(jax.tree.leaves(plain), jax.tree.leaves(scaled)):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_normalised_advantages_make_the_policys_gradient_scale_free(kit):
    """Rewards and values ten times as large: the same step of the policy's head."""
    env = kit.probe("both")
    agent = kit.small("impala", env.spec, "lstm", normalise_advantages=True)
    one, update = kit.setup("impala", "lstm", ("both",)), kit.updater(agent)
    # Without a value the advantages are the rewards' alone.
    value = jax.tree.map(np.zeros_like, one.learner.params["value"])
    params = one.learner.params | {"value": value}
    learner = one.learner._replace(params=params)
    hp = kit.changed(one.hp, value_cost=0.0, max_grad_norm=1e6)
    heads = [
        update(learner, one.rollout, KEY, kit.changed(hp, reward_scale=x))[0].params[
            "policy"
        ]["kernel"]
        for x in (1.0, 10.0)
    ]
    np.testing.assert_allclose(*heads, rtol=1e-4, atol=1e-6)
    plain = one.update(learner, one.rollout, KEY, hp)[0].params["policy"]
    assert not np.allclose(plain["kernel"], heads[0], atol=1e-6)


def test_advantages_are_normalised_and_trusted_before_they_are_weighed():
    """A = [1,1,1,1,1,.5] with ratios [1,1,1,1,1,.01]: the last weighs −0.022.

    Weighed first it would be −2.236, and the trust region would read that number's sign.
    A seventh step, which leads into another episode, has no part in mean and variance.
    """
    ratio = np.float32([1.0, 1.0, 1.0, 1.0, 1.0, 0.01, 1.0])[:, None]
    zeros = jnp.zeros((7, 1))
    reward = np.float32([1.0, 1.0, 1.0, 1.0, 1.0, 0.5, 100.0])[:, None]
    arrived = unrolls.Arrivals(reward, zeros, reward == 100.0)

    @jax.jit
    @jax.grad
    def slope(log_prob, clip_epsilon):
        now = unrolls.Evaluated(log_prob, zeros, jnp.zeros((8, 1)))
        return vtrace.terms(
            now,
            log_mu,
            arrived,
            vtrace.Hparams(clip_epsilon=clip_epsilon),
            task=jnp.zeros((7, 1), jnp.int32),
            scale=value_scale.make(impala.Config(), 1),
            stats=(),
            of_scale=value_scale.Hparams(),
            normalise=True,
        )[0].policy_loss

    log_prob = np.log(np.full((7, 1), 0.005, np.float32))
    log_mu = log_prob - np.log(ratio)
    weights = -6 * np.asarray(slope(log_prob, 0.0))[:, 0]
    expected = [*[5**-0.5] * 5, -0.01 * 5**0.5, 0.0]
    np.testing.assert_allclose(weights, expected, rtol=1e-4, atol=1e-7)
    assert abs(weights[-2] + 0.022) < 1e-3
    # It has moved that way already: not trusted. The others have not moved.
    trusted = -6 * np.asarray(slope(log_prob, 0.2))[:, 0]
    np.testing.assert_allclose(trusted, [*expected[:5], 0.0, 0.0], rtol=1e-4, atol=1e-7)


def test_terms_are_in_the_unit_of_the_scale_after_the_batch():
    """One-step episodes of two tasks, in float64; the third step of the first is none.

    Statistics follow the live targets, and gradients go to log-probabilities and values
    alone: neither weights nor targets have any.
    """
    v = np.array([[1.0, -1.0], [0.5, 4.0], [90.0, 2.0], [7.0, 7.0]])
    r, ratio = (np.array(x) for x in (
        [[3.0, 5.0], [-2.0, 1.0], [0.0, 9.0]], [[0.5, 2.0], [1.0, 0.25], [4.0, 1.0]]
    ))  # fmt: skip
    live = np.array([[True, True], [True, True], [False, True]])
    task = np.broadcast_to(np.array([0, 1]), (3, 2))
    log_mu = np.full((3, 2), -1.0)
    old = popart.Statistics(*np.array([[0.5, -2.0], [4.0, 9.0], [0.3, 0.6]]))
    arrived = unrolls.Arrivals(np.float32(r), jnp.zeros((3, 2)), ~live)
    scale = value_scale.make(impala.Config(value_scale="popart"), 2)

    def loss(log_prob, value):
        found, metrics, new = vtrace.terms(
            unrolls.Evaluated(log_prob, log_prob, value),
            jnp.float32(log_mu),
            arrived,
            vtrace.Hparams(),
            task=task,
            scale=scale,
            stats=jax.tree.map(jnp.float32, old),
            of_scale=value_scale.Hparams(value_step_size=0.5),
        )
        return found.policy_loss + found.value_loss, (found, metrics, new)

    log_prob = log_mu + np.log(ratio)
    both = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, (found, metrics, new)), slopes = both(np.float32(log_prob), np.float32(v))

    weight, advantage = np.minimum(ratio, 1.0), r - v[:-1]
    target = v[:-1] + weight * advantage
    sigma = np.zeros((3, 2))
    for k in range(2):
        own = target[live[:, k], k]
        mean = (old.mean[k] + own.mean()) / 2
        second = (old.variance[k] + old.mean[k] ** 2 + np.mean(own**2)) / 2
        np.testing.assert_allclose(new.mean[k], mean, rtol=1e-5)
        sigma[:, k] = np.sqrt(second - mean**2)
    weighed, error = weight * advantage / sigma, (target - v[:-1]) / sigma
    expected = (-weighed * log_prob)[live].mean(), (0.5 * error**2)[live].mean()
    np.testing.assert_allclose(found[:2], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["value_std"], sigma[live].mean(), rtol=1e-5)
    by_log_prob, by_value = (
        np.where(live, x, 0) / 5 for x in (-weighed, -error / sigma)
    )
    np.testing.assert_allclose(slopes[0], by_log_prob, rtol=1e-4)
    np.testing.assert_allclose(slopes[1], [*by_value, [0, 0]], rtol=1e-4)


def test_wrong_options_are_refused_when_the_agent_is_made(kit):
    """Not at the first update: the error names field and value."""
    spec = kit.probe("both").spec
    with pytest.raises(ValueError, match="rewards: unknown 'cube'"):
        impala.make(spec, impala.Config(rewards="cube"))
    with pytest.raises(ValueError, match="optimiser: unknown 'sgd'"):
        impala.make(spec, impala.Config(optimiser="sgd"))
    with pytest.raises(
        ValueError, match=r"agent\.name='xyz' is unknown; there is impala"
    ):
        agents.get("xyz")
