"""Mix&Match's losses: the sheet's identities, in float64 where the claim is exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from mtrl_jax.losses import mixing

path_weights = jax.jit(mixing.path_weights, static_argnums=1)
matching_weights = jax.jit(mixing.matching_weights, static_argnums=1)
log_mixture = jax.jit(mixing.log_mixture)


def drawn(*shape, seed=0):
    """Returns normal numbers of a shape."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape).astype(np.float32)


def logs(*shape, seed=0):
    """Returns log-probabilities over the last axis."""
    return scipy.special.log_softmax(2.0 * drawn(*shape, seed=seed), axis=-1)


def simplex(*shape, seed=0):
    """Returns weights over the last axis."""
    return scipy.special.softmax(drawn(*shape, seed=seed), axis=-1)


@pytest.mark.parametrize("policies", [1, 2, 3, 5])
def test_path_weights_stay_on_the_simplex_and_reach_every_policy(policies):
    """Also for an alpha outside [0, 1]; policy i alone at alpha = i / (K − 1)."""
    for alpha in np.linspace(-0.5, 1.5, 41).tolist():
        weights = np.asarray(path_weights(alpha, policies))
        assert (weights >= 0).all() and np.isclose(weights.sum(), 1.0, atol=1e-6)
        assert np.count_nonzero(weights > 1e-6) <= 2
    for i in range(policies):
        weights = path_weights(i / max(policies - 1, 1), policies)
        np.testing.assert_allclose(weights, np.eye(policies)[i], atol=1e-6)


def test_two_weights_are_the_papers():
    """(1 − α, α), exactly at both ends."""
    for alpha in (0.0, 0.3, 1.0):
        weights = np.asarray(path_weights(alpha, 2))
        np.testing.assert_allclose(weights, [1 - alpha, alpha], atol=1e-7)
    assert path_weights(0.0, 2).tolist() == [1.0, 0.0]
    assert path_weights(1.0, 2).tolist() == [0.0, 1.0]


def test_task_weights_use_the_tasks_own_expert_only():
    """1 − α on expert i in task i, α on the last, nothing on other experts."""
    of_tasks = jax.jit(mixing.task_weights, static_argnums=2)
    weights = of_tasks(0.25, np.array([[2, 0]]), 3)
    expected = [[[0, 0, 0.75, 0.25], [0.75, 0, 0, 0.25]]]
    np.testing.assert_allclose(weights, expected)
    # Beyond an end it is at the end, as on the path.
    for alpha, own in ((-0.5, 1.0), (1.5, 0.0)):
        weights = of_tasks(alpha, np.array([1]), 3)
        np.testing.assert_array_equal(weights, [[0, own, 0, 1 - own]])


@pytest.mark.parametrize("policies", [1, 2, 4])
def test_the_mixture_is_a_distribution(policies):
    """Probabilities sum to 1 for any weights on the simplex."""
    log_probs = logs(7, 5, policies)
    log_probs = scipy.special.log_softmax(log_probs, axis=-2)  # over 5 actions
    weights = np.broadcast_to(simplex(7, 1, policies), log_probs.shape)
    total = np.exp(log_mixture(weights, log_probs)).sum(-1)
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


@pytest.mark.parametrize("alone", [0, 1, 2])
def test_all_weight_on_one_policy_is_that_policy(alone):
    """Bit for bit in log space, however unlikely the action, to 1e-6."""
    log_probs = 30.0 * logs(11, 3)
    weights = np.broadcast_to(np.eye(3)[alone], log_probs.shape)
    np.testing.assert_allclose(
        log_mixture(weights, log_probs), log_probs[:, alone], atol=1e-6
    )


def test_the_gradient_is_shared_by_responsibility():
    """∇ log π_mm = Σ r_i ∇ log π_i, Σ r_i = 1, r_i = w_i π_i / π_mm."""
    log_probs, weights = logs(3), simplex(3)
    found = jax.jit(jax.grad(mixing.log_mixture, argnums=1))(weights, log_probs)
    share = np.asarray(jax.jit(mixing.responsibilities)(weights, log_probs))
    p = weights * np.exp(log_probs)
    np.testing.assert_allclose(share, p / p.sum(), rtol=1e-5)
    np.testing.assert_allclose(found, share, rtol=1e-5)
    assert np.isclose(share.sum(), 1.0)


def test_advantages_of_each_policy_weigh_its_own_part_of_the_gradient():
    """Σ r_i A_i of it: r_i A_i for policy i, its value log π_mm K times.

    Finite, and without a part, for one that cannot have done it.
    """
    advantage, weights = np.float32([2.0, -1.0, 5.0]), simplex(3)
    log_probs = np.array([-0.3, -2.0, -np.inf], np.float32)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def weighed(log_probs):
        share = jax.lax.stop_gradient(mixing.responsibilities(weights, log_probs))
        each = mixing.log_mixture_by_policy(weights, log_probs)
        return jnp.sum(share * advantage * each), each

    (value, each), slope = weighed(log_probs)
    p = weights * np.exp(log_probs)
    np.testing.assert_allclose(each, np.full(3, np.log(p.sum())), rtol=1e-5)
    np.testing.assert_allclose(slope, p / p.sum() * advantage, rtol=1e-5)
    share = np.sum(p / p.sum() * advantage)
    np.testing.assert_allclose(value, share * np.log(p.sum()), rtol=1e-5)


def test_a_policy_of_weight_zero_is_harmless_and_learns_nothing():
    """Value and gradient are finite, also where it alone could have acted."""
    value_and_grad = jax.jit(jax.value_and_grad(mixing.log_mixture, argnums=1))
    for log_probs in ([-1.0, -2.0], [-np.inf, -2.0], [-1.0, -np.inf], [-1e30, -2.0]):
        weights = np.array([1.0, 0.0])
        value, grad = map(np.asarray, value_and_grad(weights, np.array(log_probs)))
        assert np.isfinite(value) and np.isfinite(grad).all()
        assert grad[1] == 0.0
    assert value <= -1e29


def test_the_values_gradient_is_split_by_weight():
    """dL/dV_i = w_i dL/dV_mm: V_mm is linear."""
    weights, values = simplex(6, 3), drawn(6, 3)

    def loss(x):
        mixed = mixing.mixed_value(weights, x)
        return jnp.sum(jnp.sin(mixed)), mixed

    slope, mixed = jax.jit(jax.grad(loss, has_aux=True))(values)
    np.testing.assert_allclose(slope, weights * np.cos(mixed)[:, None], rtol=1e-5)


@pytest.mark.parametrize("form", mixing.FORMS)
def test_both_general_forms_are_the_papers_with_two_policies(form):
    """One pair, weight 1 − α."""
    for alpha in (0.0, 0.4, 1.0):
        weights = matching_weights(path_weights(alpha, 2), form)
        assert list(weights) == [(0, 1)]
        np.testing.assert_allclose(weights[0, 1], 1 - alpha, atol=1e-7)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("adjacent", {(0, 1): 0.2, (1, 2): 0.5}),
        ("all", {(0, 1): 0.4, (0, 2): 0.2, (1, 2): 0.3}),
    ],
)
def test_the_general_forms_of_three_policies(form, expected):
    """What has not passed to j yet; the share of i in the mixture of all up to j."""
    found = matching_weights(np.float32([0.2, 0.3, 0.5]), form)
    assert {pair: pytest.approx(float(w)) for pair, w in found.items()} == expected


@pytest.mark.parametrize("form", mixing.FORMS)
def test_matching_ends_when_the_last_policy_has_control(form):
    """Every pair's weight is 0 then, and the first pair's is 1 at the start."""
    weights = matching_weights(np.array([0.0, 0.0, 1.0]), form)
    assert len(weights) == (2 if form == "adjacent" else 3)
    assert not any(float(w) for w in weights.values())
    started = matching_weights(np.array([1.0, 0.0, 0.0]), form)
    assert float(started[0, 1]) == 1.0


def test_the_second_form_distils_the_mixture_so_far():
    """Its gradient is that of Σ_j CE(sg[π_mm^{≤j}], π_j) for every π_j."""
    with jax.enable_x64(True):
        logits, weights = np.float64(drawn(3, 5)), simplex(3)

        def all_pairs(x):
            log_p = jax.nn.log_softmax(x)
            teachers = jax.lax.stop_gradient(log_p)
            pairs = mixing.matching_weights(weights, "all").items()
            return sum(w * mixing.kl(teachers[i], log_p[j]) for (i, j), w in pairs)

        def cross_entropies(x):
            log_p, total = jax.nn.log_softmax(x), 0.0
            for j in (1, 2):
                w = weights[: j + 1] / weights[: j + 1].sum()
                target = jax.lax.stop_gradient(
                    jnp.sum(w[:, None] * jnp.exp(log_p[: j + 1]), 0)
                )
                total -= jnp.sum(target * log_p[j])
            return total

        np.testing.assert_allclose(
            jax.jit(jax.grad(all_pairs))(logits),
            jax.jit(jax.grad(cross_entropies))(logits),
            atol=1e-7,
        )


def test_distilling_the_mixture_is_the_papers_cost():
    """∇_θ2 CE(sg[π_mm], π_2) = (1 − α) ∇_θ2 KL(π_1 ‖ π_2), and not without the sg."""
    with jax.enable_x64(True):
        easy, hard = (np.float64(drawn(6, seed=s)) for s in (1, 2))
        alpha = 0.35
        log_p = scipy.special.log_softmax(easy)

        def distilled(x, stop):
            log_q = jax.nn.log_softmax(x)
            both = jnp.stack([log_p, log_q], -1)
            weights = jnp.broadcast_to(mixing.path_weights(alpha, 2), both.shape)
            target = jnp.exp(mixing.log_mixture(weights, both))
            target = jax.lax.stop_gradient(target) if stop else target
            return -jnp.sum(target * log_q)

        matched = jax.jit(
            jax.grad(lambda x: (1 - alpha) * mixing.kl(log_p, jax.nn.log_softmax(x)))
        )(hard)
        found = jax.jit(jax.grad(distilled), static_argnums=1)
        np.testing.assert_allclose(found(hard, True), matched, atol=1e-8)
        assert np.abs(np.subtract(found(hard, False), matched)).max() > 1e-2


def test_matching_equal_policies_costs_nothing():
    """KL(p ‖ p) = 0 with zero gradient in the second argument."""
    logits = drawn(4, 6)
    log_p = scipy.special.log_softmax(logits, axis=-1)
    value, grad = jax.jit(
        jax.value_and_grad(lambda x: jnp.sum(mixing.kl(log_p, jax.nn.log_softmax(x))))
    )(logits)
    assert abs(float(value)) < 1e-6
    np.testing.assert_allclose(grad, 0.0, atol=1e-6)


def test_impossible_actions_leave_the_divergence_finite():
    """p = 0 contributes 0 and no gradient, whatever q says of it."""
    log_p = np.array([0.0, -np.inf, -1e30])
    value_and_grads = jax.jit(jax.value_and_grad(mixing.kl, argnums=(0, 1)))
    for log_q in ([-0.1, -2.5, -3.0], [-0.1, -np.inf, -1e30]):
        value, grads = value_and_grads(log_p, np.array(log_q))
        assert np.isclose(value, 0.1) and np.isfinite(grads).all()
    # An action that q cannot do is a large number.
    assert np.isfinite(value_and_grads(log_p, np.array([-np.inf, 0.0, 0.0]))[0])


def test_a_restriction_to_what_cannot_be_done_is_finite():
    """To nothing that is possible: all alike."""
    restricted = jax.jit(jax.value_and_grad(lambda x: mixing.restricted(x)[1]))
    for log_q, p in (([-np.inf, -1.0, -1.0], 0.5), ([-np.inf] * 3, 1 / 3)):
        value, grad = restricted(np.array(log_q))
        np.testing.assert_allclose(np.exp(value), p, rtol=1e-6)
        assert np.isfinite(grad).all()


def test_the_mixtures_entropy_is_that_of_all_its_actions():
    """Exact with the easy policies' support alone, for any weights, also 0 and 1."""
    log_wide = logs(12)
    inside = np.array([1, 4, 7])
    small = np.full((2, 12), -1e30, np.float32)
    small[:, inside] = logs(2, 3, seed=8)
    log_probs = np.concatenate([small, log_wide[None]]).T  # [12, K]
    widest = -np.sum(np.exp(log_wide) * log_wide)
    entropy = jax.jit(mixing.entropy)
    for weights in (simplex(3), np.float32([0, 0, 1]), np.float32([0.5, 0.5, 0])):
        p = np.float64(np.exp(log_probs)) @ np.float64(weights)
        expected = -np.sum(p * np.log(np.where(p > 0, p, 1)))
        found = entropy(weights, log_probs[inside], widest)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        each = -np.sum(
            np.exp(log_probs) * np.where(log_probs > -1e29, log_probs, 0.0), axis=0
        )
        assert float(found) >= float(np.sum(weights * each)) - 1e-5


def test_sampling_a_policy_gives_the_same_gradient_with_more_variance():
    """Mean over many draws of the sampled gradient is the explicit one's."""
    logits = jnp.asarray(drawn(2, 4))
    weights, reward = jnp.array([0.6, 0.4]), jnp.array([0.0, 1.0, -1.0, 2.0])

    def log_prob(x, action):
        return mixing.log_mixture(weights, jax.nn.log_softmax(x)[:, action])

    def own(x, policy, action):
        return jax.nn.log_softmax(x)[policy, action]

    def one(key):
        choice_key, action_key = jax.random.split(key)
        c = jax.random.categorical(choice_key, jnp.log(weights))
        a = jax.random.categorical(action_key, logits[c])
        explicit, sampled = jax.grad(log_prob), jax.grad(own)
        return reward[a] * explicit(logits, a), reward[a] * sampled(logits, c, a)

    keys = jax.random.split(jax.random.key(3), 40_000)
    explicit, sampled = map(np.asarray, jax.jit(jax.vmap(one))(keys))
    error = np.sqrt((sampled.var(0) + explicit.var(0)) / 40_000)
    difference = np.abs(sampled.mean(0) - explicit.mean(0))
    assert (difference < 5 * error + 1e-6).all()
    assert (explicit.var(0) < sampled.var(0)).all()


def test_unknown_forms_are_refused():
    """The message names what there is."""
    with pytest.raises(ValueError, match=r"matching: 'x' is not known.*adjacent"):
        mixing.matching_weights(np.ones(2), "x")


def test_a_policy_that_can_do_nothing_leaves_its_weight_to_the_others():
    """In proportion; to all alike where they had none; nobody: the weights stay."""
    within = jax.jit(mixing.within_possible)
    weights = np.float32([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0], [0.6, 0.4, 0.0]])
    possible = np.array([[False, True, True], [False, True, True], [False] * 3])
    found = within(weights, possible)
    expected = [[0.0, 0.6, 0.4], [0.0, 0.5, 0.5], [0.6, 0.4, 0.0]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    kept = within(weights, np.ones((3, 3), bool))
    np.testing.assert_array_equal(kept, weights)
