"""Scales of values as an option of the actor-critics: exactness of one gradient step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import agents
from mtrl_jax.agents.common import value_scale
from mtrl_jax.losses import popart

KEY = jax.random.key(5)
NAMES = ("impala", "ppo", "mix_and_match", "unreal")
TASKS = ("both", "masked")
# One gradient step; Mix&Match has two value heads, with a say each.
ONE_STEP = {"ppo": {"epochs": 1, "minibatches": 1}}
HPARAMS = {"value_step_size": 0.3, "alpha": 0.4, "max_grad_norm": 1e6}


@functools.cache
def acting(kit, name, kind):
    """Returns the Setup of an agent with that scale of values."""
    one = kit.setup(name, "lstm", TASKS)
    agent = kit.small(
        name, one.env.spec, "lstm", value_scale=kind, **ONE_STEP.get(name, {})
    )
    hp = kit.changed(one.hp, **HPARAMS)
    return one._replace(agent=agent, act=jax.jit(agent.act), hp=hp)


def collected(kit, name, kind, learner):
    """Returns the rollout that a learner collects, from the same draws for all."""
    return kit.collect(acting(kit, name, kind), learner=learner, tasks=TASKS)


@functools.cache
def made(kit, name, kind):
    """Returns (learner with statistics, rollout, hp, update) of an agent."""
    one = acting(kit, name, kind)
    learner = kit.fresh(one, 0)
    if kind != "none":
        stats = popart.Statistics(
            jnp.array([0.5, -2.0]), jnp.array([4.0, 9.0]), jnp.array([0.3, 0.6])
        )
        learner = learner._replace(stats=stats)
    rollout = collected(kit, name, kind, learner)
    return learner, rollout, one.hp, kit.updater(one.agent)


def heads(params):
    """Returns {name: value head} of an agent's parameters."""
    found = {k: v for k, v in params.items() if k.split("_")[0] == "value"}
    return {k: v.get("value", v) for k, v in found.items()}


def rewritten(learner, new, hp):
    """Returns the learner with other statistics and the same un-normalised values."""
    low = hp.scale.value_std_min
    old = learner.stats
    moments = (old.mean, popart.std(old, low), new.mean, popart.std(new, low))

    def walk(tree):
        if "kernel" in tree:
            return popart.rewrite(popart.Head(**tree), *moments)._asdict()
        return {k: walk(v) for k, v in tree.items()}

    params = {
        k: walk(v) if k in heads(learner.params) else v
        for k, v in learner.params.items()
    }
    return learner._replace(params=params, stats=new)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_that_of_the_rewritten_head_under_the_new_statistics(name, kit):
    """Statistics, then the head, then gradient and optimiser: with one forward pass."""
    learner, rollout, hp, update = made(kit, name, "popart")
    after, metrics = update(learner, rollout, KEY, hp)
    assert (np.asarray(after.stats.mean) != np.asarray(learner.stats.mean)).all()
    still = kit.changed(hp, value_step_size=0.0)
    expected, others = update(rewritten(learner, after.stats, hp), rollout, KEY, still)
    assert_close(after.params, expected.params)
    for key, value in metrics.items():
        np.testing.assert_allclose(value, others[key], 1e-4, 1e-5, err_msg=key)
    assert len(heads(after.params)) == (2 if name == "mix_and_match" else 1)


@pytest.mark.parametrize("name", NAMES)
def test_without_a_rate_of_learning_no_value_moves(name, kit):
    """Outputs are preserved: acting notes down the same values as before the update."""
    learner, rollout, hp, update = made(kit, name, "popart")
    hp = kit.changed(hp, learning_rate=0.0)
    after, _ = update(learner, rollout, KEY, hp)
    again = collected(kit, name, "popart", after)
    for noted in ("value", "log_prob"):
        was, now = (getattr(x.extras, noted) for x in (rollout, again))
        np.testing.assert_allclose(now, was, rtol=1e-4, atol=1e-5, err_msg=noted)
    assert (np.asarray(after.stats.mean) != np.asarray(learner.stats.mean)).all()
    for k, old in heads(learner.params).items():
        assert not np.allclose(old["kernel"], heads(after.params)[k]["kernel"])


def test_popart_whose_statistics_rest_is_no_scale(kit):
    """β = 0 from μ = 0 and σ = 1: the gradient and the step of the agent without it."""
    plain, rollout, hp, update = made(kit, "impala", "none")
    learner, _, _, scaled = made(kit, "impala", "popart")
    head = {k: np.repeat(x, 2, axis=-1) for k, x in plain.params["value"].items()}
    params = {**plain.params, "value": head}
    learner = learner._replace(params=params, stats=popart.init(2))
    wanted, metrics = update(plain, rollout, KEY, hp)
    found, others = scaled(learner, rollout, KEY, kit.changed(hp, value_step_size=0.0))
    for name in set(params) - {"value"}:
        assert_close(found.params[name], wanted.params[name])
    for name in ("loss", "policy_loss", "value_loss", "value"):
        np.testing.assert_allclose(others[name], metrics[name], rtol=1e-4)
    assert_close(found.stats, popart.init(2))


@pytest.mark.parametrize("k", [1e-2, 100.0])
@pytest.mark.parametrize("kind", ["popart", "return_scale"])
def test_rewards_and_statistics_times_k_are_the_same_update(kind, k, kit):
    """To the policy and to the normalised value; the statistics are k times as large."""
    learner, rollout, hp, update = made(kit, "impala", kind)
    hp = kit.changed(hp, value_std_min=0.0)
    stats = learner.stats
    scaled = stats._replace(mean=k * stats.mean, variance=k**2 * stats.variance)
    plain, _ = update(learner, rollout, KEY, hp)
    hp = kit.changed(hp, reward_scale=k)
    loud, _ = update(learner._replace(stats=scaled), rollout, KEY, hp)
    assert_close(plain.params, loud.params)
    np.testing.assert_allclose(loud.stats.mean, k * plain.stats.mean, rtol=1e-4)


def test_a_return_scale_rewrites_no_head(kit):
    """ART without POP: parameters stay where nothing is learned."""
    learner, rollout, hp, update = made(kit, "impala", "return_scale")
    after, metrics = update(learner, rollout, KEY, kit.changed(hp, learning_rate=0.0))
    for x, y in zip(jax.tree.leaves(after.params), jax.tree.leaves(learner.params)):
        np.testing.assert_array_equal(x, y)
    assert (
        np.asarray(after.stats.variance) != np.asarray(learner.stats.variance)
    ).any()
    assert metrics["value_std"] > 1.0


@pytest.mark.parametrize("kind", ["popart", "return_scale"])
def test_a_target_meets_the_output_that_the_head_will_have(kind):
    """That of the rewritten head with PopArt; without it heads stay as they are."""
    scale = value_scale.make(agents.get("ppo").Config(value_scale=kind), 2)
    old, new = (
        popart.Statistics(*np.float32(x))
        for x in (
            [[0.5, -2.0], [4.0, 9.0], [0.3, 0.6]],
            [[3.0, 1.0], [1.0, 25.0], [0.5, 0.7]],
        )
    )
    n, task = np.float32([[1.0, -1.0], [2.0, 3.0]]), np.array([1, 0])
    hp = value_scale.Hparams()
    value = scale.value(old, n, task, hp)
    found = scale.predicted(old, new, value, task, hp)
    own = n[[0, 1], task]
    if kind == "popart":
        mean, std = np.float64([-2.0, 0.5]), np.float64([3.0, 2.0])
        own = (std * own + mean) / np.float64([5.0, 1.0])
    np.testing.assert_allclose(found, own, rtol=1e-5)


def test_the_deviation_that_is_shown_is_of_live_steps():
    """Of each step's own task; of no scale there is none to show."""
    config = agents.get("ppo").Config(value_scale="return_scale")
    scale, hp = value_scale.make(config, 2), value_scale.Hparams()
    stats = popart.Statistics(*np.float32([[0.5, -2.0], [4.0, 9.0], [0.3, 0.6]]))
    task, live = np.array([[1], [0], [1]]), np.array([[True], [False], [True]])
    found = scale.metrics(stats, task, live, hp)["value_std"]
    np.testing.assert_allclose(found, 3.0, rtol=1e-6)
    assert (
        value_scale.make(agents.get("ppo").Config(), 2).metrics((), task, live, hp)
        == {}
    )


def test_unknown_scales_are_refused_by_name(kit):
    """When the agent is made."""
    spec = kit.probe("both").spec
    for field in ("value_scale", "value_statistics"):
        with pytest.raises(ValueError, match=f"{field}: unknown 'loud'; one of"):
            config = agents.get("ppo").Config(**{field: "loud"})
            agents.get("ppo").make(spec, config)
    assert value_scale.make(agents.get("ppo").Config(), 3).num_values is None


def assert_close(x, y):
    """Asserts that two trees are the same to 1e-4, relative or absolute 1e-5."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 2e-5), x, y)
