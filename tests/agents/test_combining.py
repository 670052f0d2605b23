"""Combiners of the tasks' gradients as an option of the actor-critic learner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import agents
from mtrl_jax.agents.common import combining, learning, objective, optimiser
from mtrl_jax.engine import population
from mtrl_jax.losses import policy_gradient

KEY = jax.random.key(0)
NAMES = ("impala", "ppo", "mix_and_match")
TASKS = ("both", "masked")


def made(kit, name, combiner, value_scale="popart"):
    """Returns (the agent on two probes, its compiled update)."""
    env = kit.probe(*TASKS)
    agent = kit.small(name, env.spec, value_scale=value_scale, combiner=combiner)
    return agent, kit.updater(agent)


@pytest.fixture(name="given", params=NAMES, scope="module")
def _given(request, kit):
    """Returns (name, rollout, learner, hp, update with the mean), under PopArt."""
    name = request.param
    plain, update = made(kit, name, "mean")
    one = kit.setup(name, "none", TASKS)
    # Norms are not clipped, so that a longer gradient is a longer step.
    hp = kit.changed(one.hp, max_grad_norm=1e6, value_step_size=0.1, learning_rate=1e-3)
    one = one._replace(agent=plain, hp=hp, act=jax.jit(plain.act))
    learner = kit.fresh(one, 0)
    rollout = kit.collect(one, learner=learner, tasks=TASKS, steps=11)
    assert np.asarray(rollout.ts.first[1:]).any()
    return name, rollout, learner, hp, update


def test_the_mean_of_the_tasks_gradients_is_the_gradient(given, kit):
    """CAGrad at c = 0 goes the way of the mean, PopArt's rewritten head and all."""
    name, rollout, learner, hp, update = given
    _, split = made(kit, name, "cagrad")
    wanted, metrics = update(learner, rollout, KEY, hp)
    got, found = split(learner, rollout, KEY, kit.changed(hp, cagrad_c=0.0))
    for x, y in zip(jax.tree.leaves(wanted), jax.tree.leaves(got)):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5)
    assert set(found) == set(metrics) | {"conflicts"}
    for metric, value in metrics.items():
        np.testing.assert_allclose(value, found[metric], rtol=1e-3, atol=1e-5)
    # And c is read, in the same program: Adam's step may be the same, its length not.
    _, more = split(learner, rollout, KEY, kit.changed(hp, cagrad_c=0.9))
    assert abs(more["grad_norm"] / found["grad_norm"] - 1) > 1e-3
    assert split._cache_size() == 1


@pytest.mark.parametrize("name", ["mean", "cagrad"])
def test_no_gradient_flows_through_what_is_only_measured(name):
    """A metric that is infinite leaves the gradient of the terms as it is."""
    live, task = jnp.ones(4, bool), jnp.array([0, 0, 1, 1])

    def of(x):
        terms = objective.Terms(x, 2 * x, 3 * x)
        combiner = combining.Combining(name, 2)
        found, more = combiner.means(terms, {"big": jnp.exp(x)}, live, task)
        return jnp.sum(sum(found)), more["big"]

    x = jnp.array([1.0, 1000.0, 1.0, 1.0])
    grads, big = jax.grad(of, has_aux=True)(x)
    assert np.isinf(big)
    np.testing.assert_allclose(grads, 1.5 if name == "mean" else 3.0)


def test_shares_of_tasks_average_to_the_mean_over_live_steps():
    """Also where tasks have unlike numbers of live steps, or none."""
    key, live_key, task_key = jax.random.split(KEY, 3)
    x = jax.random.normal(key, (7, 4))
    live = jax.random.bernoulli(live_key, 0.7, (7, 4))
    task = jax.random.randint(task_key, (7, 4), 0, 2)
    shares = policy_gradient.task_shares(x, live, task, 3)
    assert shares[2] == 0
    mean = policy_gradient.masked_mean(x, live)
    np.testing.assert_allclose(jnp.mean(shares[:2]), mean, rtol=1e-5)
    nothing = policy_gradient.task_shares(x, jnp.zeros_like(live), task, 3)
    np.testing.assert_array_equal(nothing, np.zeros(3))


def step(name, tasks=3, seed=0):
    """Returns (gradient of each task, the gradient that a combiner gives, metrics).

    Of L_k = g_k · params with fixed g_k, by one step of the learner.
    """
    wanted = jax.random.normal(jax.random.key(seed), (tasks, 5))
    combiner = combining.Combining(name, tasks)

    def loss(params, stats, batch, key, hp):
        each = wanted @ params
        value = each if combiner.is_split else jnp.mean(each)
        return value, learning.Aux({"loss": jnp.mean(each)})

    class Hp:
        combining = combining.Hparams()

    seen = []
    optimise = optimiser.make("adam", optimiser.Hparams())
    spy = optimise._replace(
        update=lambda grads, *rest: seen.append(grads) or optimise.update(grads, *rest)
    )
    learner = learning.init(jnp.ones(5), spy)
    _, metrics = learning.update(loss, spy, learner, (), KEY, Hp(), combiner=combiner)
    return np.asarray(wanted), np.asarray(seen[0]), metrics


def test_the_learner_steps_along_the_combined_gradient():
    """Sum, mean, equal norms and MGDA of known gradients; conflicts are counted."""
    each, mean, metrics = step("mean")
    np.testing.assert_allclose(mean, each.mean(0), rtol=1e-5)
    assert "conflicts" not in metrics
    np.testing.assert_allclose(step("sum")[1], each.sum(0), rtol=1e-5)
    _, equal, metrics = step("equal_norm")
    norms = np.linalg.norm(each, axis=1, keepdims=True)
    np.testing.assert_allclose(
        equal, (each / norms).mean(0) * norms.mean(), rtol=1e-4, atol=1e-6
    )
    pairs = [(each[i] @ each[j]) < 0 for i in range(3) for j in range(i)]
    np.testing.assert_allclose(metrics["conflicts"], np.mean(pairs), rtol=1e-6)
    least = step("mgda")[1]
    assert (each @ least >= least @ least - 1e-3).all()


@pytest.mark.parametrize("name", ["pcgrad", "cagrad", "mgda", "equal_norm"])
def test_what_is_common_to_all_tasks_leaves_absent_ones_without_a_say(name):
    """Of two tasks one is in the batch: its gradient, and the common loss's, once each."""
    combiner = combining.Combining(name, 2)
    live, task = jnp.ones(3, bool), jnp.zeros(3, jnp.int32)
    both = combiner.present(live, jnp.array([0, 1, 1]))
    np.testing.assert_array_equal(both, [True, True])

    def loss(params):
        own = combiner.mean(jnp.broadcast_to(params[0], (3,)), live, task)
        return own + 0.5 * params[1], ()

    class Hp:
        combining = combining.Hparams(cagrad_c=0.0)

    grads, _ = combiner.gradients(loss, jnp.ones(2))
    present = combiner.present(live, task)
    found, _ = combiner.combine(grads, KEY, Hp(), present)
    np.testing.assert_allclose(found, [1.0, 0.5], rtol=1e-5)
    assert combining.MEAN.present(live, task) is None


def test_a_population_is_combined_member_by_member(kit):
    """vmap over members gives each what it has alone, PCGrad's order by its own key."""
    agent, update = made(kit, "impala", "pcgrad", "none")
    one = kit.setup("impala", "none", TASKS)
    one = one._replace(agent=agent, learner=None)
    learners = [kit.fresh(one, seed) for seed in range(3)]
    rollouts = [kit.collect(one, learner=x, tasks=TASKS) for x in learners]
    keys = jax.random.split(KEY, 3)
    timed = jax.tree.map(
        lambda *x: jnp.stack(x, 1), *[r._replace(carry=()) for r in rollouts]
    )
    carry = jax.tree.map(lambda *x: jnp.stack(x), *[r.carry for r in rollouts])
    together = jax.jit(population.population(agent, 3).update)(
        jax.tree.map(lambda *x: jnp.stack(x), *learners),
        timed._replace(carry=carry),
        keys,
        jax.tree.map(lambda x: jnp.stack([x] * 3), one.hp),
        jnp.int32(0),
    )
    for p in range(3):
        alone = update(learners[p], rollouts[p], keys[p], one.hp)
        for x, y in zip(
            jax.tree.leaves(alone), jax.tree.leaves(kit.member(together[:2], p))
        ):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_what_cannot_be_combined_is_refused(name, kit):
    """An unknown combiner; one of several tasks where there is one."""
    spec = kit.probe("both").spec
    with pytest.raises(ValueError, match="combiner: 'best' is not known, use one of"):
        kit.small(name, spec, combiner="best")
    with pytest.raises(ValueError, match=r"combiner: 'pcgrad' .* one .*use 'mean'"):
        kit.small(name, spec, combiner="pcgrad")
    assert agents.get(name).Config().combiner == "mean"
