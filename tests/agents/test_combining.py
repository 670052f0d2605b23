"""Combiners of the tasks' gradients as an option of the actor-critic learner."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import agents
from mtrl_jax.agents.common import combining, learning, objective, optimiser
from mtrl_jax.engine import population
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.losses import policy_gradient

KEY = jax.random.key(0)
NAMES = [
    name
    for name in agents.AGENTS
    if issubclass(agents.get(name).Config, combining.Config)
]
TASKS = ("both", "masked")


def made(kit, name, combiner, value_scale="popart"):
    """Returns (the agent on two probes, compiled, and its compiled update)."""
    env, hp = kit.probe(*TASKS), kit.quick(name)
    agent = kit.small(name, env.spec, value_scale=value_scale, combiner=combiner)
    init, act = jax.jit(batch_draws(agent.init)), jax.jit(agent.act)
    one = types.SimpleNamespace(agent=agent, env=env, hp=hp, init=init, act=act)
    return one, kit.updater(agent)


@pytest.fixture(name="given", params=NAMES, scope="module")
def _given(request, kit):
    """Returns (name, rollout, learner, hp, update with the mean), under PopArt."""
    name = request.param
    one, update = made(kit, name, "mean")
    # Norms are not clipped, so that a longer gradient is a longer step.
    hp = kit.changed(one.hp, max_grad_norm=1e6, value_step_size=0.1, learning_rate=1e-3)
    learner = one.init(KEY, hp)
    rollout = kit.collect(one, learner=learner, tasks=TASKS, steps=11, hp=hp)
    assert np.asarray(rollout.ts.first)[1:].any()
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
    assert abs(float(more["grad_norm"]) / float(found["grad_norm"]) - 1) > 1e-3
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

    x = np.float32([1.0, 1000.0, 1.0, 1.0])
    grads, big = jax.jit(jax.grad(of, has_aux=True))(x)
    assert np.isinf(big)
    np.testing.assert_allclose(grads, 1.5 if name == "mean" else 3.0)


def test_shares_of_tasks_average_to_the_mean_over_live_steps():
    """Also where tasks have unlike numbers of live steps, or none."""
    rng = np.random.default_rng(0)
    x, live = rng.normal(size=(7, 4)).astype(np.float32), rng.random((7, 4)) < 0.7
    task = rng.integers(0, 2, (7, 4))
    task_shares = jax.jit(policy_gradient.task_shares, static_argnums=3)
    shares = np.asarray(task_shares(x, live, task, 3))
    assert shares[2] == 0
    mean = jax.jit(policy_gradient.masked_mean)(x, live)
    np.testing.assert_allclose(np.mean(shares[:2]), mean, rtol=1e-5)
    nothing = task_shares(x, np.zeros_like(live), task, 3)
    np.testing.assert_array_equal(nothing, np.zeros(3))


def step(name, tasks=3, seed=0):
    """Returns (gradient of each task, the gradient that a combiner gives, metrics).

    Of L_k = g_k · params with fixed g_k, by one step of the learner.
    """
    wanted = np.random.default_rng(seed).normal(size=(tasks, 5)).astype(np.float32)
    combiner = combining.Combining(name, tasks)

    def loss(params, stats, batch, key, hp):
        each = wanted @ params
        value = each if combiner.is_split else jnp.mean(each)
        return value, learning.Aux({"loss": jnp.mean(each)})

    class Hp:
        combining = combining.Hparams()

    @jax.jit
    def taken():
        seen = []
        optimise = optimiser.make("adam", optimiser.Hparams())
        spy = optimise._replace(
            update=lambda grads, *rest: (
                seen.append(grads) or optimise.update(grads, *rest)
            )
        )
        learner = learning.init(jnp.ones(5), spy)
        _, metrics = learning.update(
            loss, spy, learner, (), KEY, Hp(), combiner=combiner
        )
        return seen[0], metrics

    return wanted, *jax.device_get(taken())


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
    present = jax.jit(combiner.present)
    for steps, wanted in (([1, 1, 1], [True, True]), ([1, 0, 0], [True, False])):
        both = present(np.array(steps, bool), np.array([0, 1, 1]))
        np.testing.assert_array_equal(both, wanted)

    def loss(params):
        own = combiner.mean(jnp.broadcast_to(params[0], (3,)), live, task)
        return own + 0.5 * params[1], ()

    class Hp:
        combining = combining.Hparams(cagrad_c=0.0)

    @jax.jit
    def combined(params):
        grads, _ = combiner.gradients(loss, params)
        present = combiner.present(live, task)
        return combiner.combine(grads, KEY, Hp(), present)[0]

    found = combined(np.ones(2))
    np.testing.assert_allclose(found, [1.0, 0.5], rtol=1e-5)
    assert combining.MEAN.present(live, task) is None


def test_conflicts_are_those_of_tasks_in_the_batch():
    """What is common to all may set an absent task against another."""
    grads = np.float32([[1.0, 0.0], [-1.0, 0.5]])
    combiner = combining.Combining("equal_norm", 2)
    hp = types.SimpleNamespace(combining=combining.Hparams())
    for present, share in ((None, 1.0), (np.array([True, False]), 0.0)):
        _, metrics = combiner.combine(grads, KEY, hp, present)
        assert metrics["conflicts"] == share


def test_a_population_is_combined_member_by_member(kit):
    """vmap over members gives each what it has alone, PCGrad's order by its own key."""
    one, update = made(kit, "impala", "pcgrad", "none")
    keys = jax.random.split(KEY, 3)
    learners = [one.init(key, one.hp) for key in keys]
    rollouts = [kit.collect(one, learner=x, tasks=TASKS) for x in learners]
    timed = jax.tree.map(
        lambda *x: np.stack(x, 1), *[r._replace(carry=()) for r in rollouts]
    )
    carry = jax.tree.map(lambda *x: np.stack(x), *[r.carry for r in rollouts])
    together = jax.jit(population.population(one.agent, 3).update)(
        jax.tree.map(lambda *x: np.stack(x), *learners),
        timed._replace(carry=carry),
        keys,
        jax.tree.map(lambda x: np.stack([x] * 3), one.hp),
        jnp.int32(0),
    )
    together = jax.device_get(together[:2])
    for p in range(3):
        alone = update(learners[p], rollouts[p], keys[p], one.hp)
        for x, y in zip(
            jax.tree.leaves(alone), jax.tree.leaves(kit.member(together, p))
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
