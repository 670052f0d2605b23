"""What a mixture is matched and learned by, against float64 in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special

from mtrl_jax import types
from mtrl_jax.agents import mix_and_match
from mtrl_jax.agents.common import policy_learner, policy_mixture, unrolls
from mtrl_jax.networks import heads

DISCRETE = types.Discrete(3)
SPEC = types.EnvSpec({}, DISCRETE, (types.TaskSpec("one", {}, DISCRETE),))


def categorical(logits):
    """Returns the policy of logits [..., 3], every choice legal."""
    return heads.policy(DISCRETE, logits, jnp.ones(logits.shape, bool))


def test_reversed_matching_is_the_students_divergence_to_its_teacher():
    """w Σ_a q (log q − log p), slope w q (log q − log p − KL) for q's logits, none for
    those of a teacher that is held fixed; −w (q − p) for one that is not.
    """
    rng = np.random.default_rng(0)
    z_p, z_q, w = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)), rng.uniform(size=4)

    def loss(teacher, student, reverse, held):
        taught = jax.lax.stop_gradient(teacher) if held else teacher
        policies = [categorical(x) for x in (teacher, student)]
        teachers = [categorical(taught), None]
        each = policy_mixture.matching_loss(
            teachers, policies, {(0, 1): jnp.float32(w)}, reverse=reverse
        )
        return jnp.sum(each), each

    @jax.jit
    def found():
        slopes = jax.grad(loss, (0, 1), has_aux=True)
        given = jnp.float32(z_p), jnp.float32(z_q)
        held, forward = slopes(*given, True, True), slopes(*given, False, True)
        return held, forward, slopes(*given, True, False)

    (of_held, value), ((_, forward), other), (of_free, _) = found()
    log_p, log_q = (scipy.special.log_softmax(z, axis=-1) for z in (z_p, z_q))
    p, q = np.exp(log_p), np.exp(log_q)
    kl = np.sum(q * (log_q - log_p), -1)
    np.testing.assert_allclose(value, w * kl, rtol=1e-5)
    np.testing.assert_allclose(other, w * np.sum(p * (log_p - log_q), -1), rtol=1e-5)
    slope = w[:, None] * q * (log_q - log_p - kl[:, None])
    np.testing.assert_allclose(of_held[1], slope, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(of_held[0], 0.0)
    np.testing.assert_allclose(forward, w[:, None] * (q - p), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(of_free[1], slope, rtol=1e-4, atol=1e-7)
    of_teacher = -w[:, None] * (q - p)
    np.testing.assert_allclose(of_free[0], of_teacher, rtol=1e-4, atol=1e-7)


def test_values_that_are_not_mixed_are_each_learned_by_itself():
    """Two components, three steps, one lane: targets, errors and slopes by hand.

    The second component has no weight in the last step, where it learns nothing.
    """
    rng = np.random.default_rng(1)
    log_pi = scipy.special.log_softmax(rng.normal(size=(3, 2, 3)), axis=-1)
    v, r = rng.normal(size=(4, 2)), np.array([1.0, -2.0, 0.5])
    action, log_mu = np.array([0, 2, 1]), np.log([0.6, 0.2, 0.3])
    w = np.array([[0.7, 0.3], [0.4, 0.6], [1.0, 0.0], [0.5, 0.5]])
    gamma = 0.9

    base = policy_learner.make(SPEC, mix_and_match.Config())
    hp = mix_and_match.Hparams(returns=unrolls.Returns(discount=gamma))
    never = np.zeros((4, 1), bool)
    reward, discount = np.float32([0.0, *r])[:, None], np.ones((4, 1), np.float32)
    ts = types.TimeStep({}, reward, discount, never, never, np.int32(never), None)
    noted = mix_and_match.Extras(np.float32(log_mu)[:, None], None, None)
    rollout = types.Rollout(ts, np.int32(action)[:, None], noted, ())

    def loss(logits, values):
        policies = [categorical(logits[:, :, i]) for i in range(2)]
        mixture = policy_mixture.Mixture(policies, jnp.float32(w[:3, None]), DISCRETE)
        terms, metrics, _ = policy_mixture.vtrace_terms(
            mixture, jnp.float32(w[:, None]), values, rollout, (), hp, base, own=True
        )
        return terms.policy_loss + terms.value_loss, (terms, metrics)

    given = jnp.float32(log_pi[:, None]), jnp.float32(v[:, None])
    slopes, (terms, metrics) = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(*given)

    log_p = log_pi[np.arange(3), :, action]  # [T, K]
    mixed = np.sum(w[:3] * np.exp(log_p), -1)
    share = w[:3] * np.exp(log_p) / mixed[:, None]
    rho = np.minimum(mixed / np.exp(log_mu), 1.0)[:, None]
    target = v.copy()
    for t in (2, 1, 0):
        delta = r[t] + gamma * v[t + 1] - v[t]
        later = gamma * rho[t] * (target[t + 1] - v[t + 1])
        target[t] = v[t] + rho[t] * delta + later
    advantage = rho * (r[:, None] + gamma * target[1:] - v[:3])
    error = target[:3] - v[:3]

    policy = -np.sum(share * advantage, -1) * np.log(mixed)
    np.testing.assert_allclose(terms.policy_loss, policy.mean(), rtol=1e-5)
    value = np.sum(w[:3] * 0.5 * error**2, -1).mean()
    np.testing.assert_allclose(terms.value_loss, value, rtol=1e-5)
    np.testing.assert_allclose(metrics["value"], np.sum(w[:3] * v[:3], -1).mean())
    np.testing.assert_allclose(metrics["rho"], (mixed / np.exp(log_mu)).mean(), 1e-5)
    by_value = np.concatenate([-w[:3] * error / 3, np.zeros((1, 2))])
    np.testing.assert_allclose(slopes[1][:, 0], by_value, rtol=1e-4, atol=1e-7)
    hot = np.eye(3)[action][:, None]
    by_logits = -(share * advantage)[..., None] * (hot - np.exp(log_pi)) / 3
    np.testing.assert_allclose(slopes[0][:, 0], by_logits, rtol=1e-4, atol=1e-7)
    assert not np.any(slopes[0][2, 0, 1]) and not np.any(slopes[1][2, 0, 1])
