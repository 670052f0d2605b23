"""What the tasks' networks share, as an option of the actor-critic learner."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from mtrl_jax.agents import impala, ppo
from mtrl_jax.agents.common import actor_critic_learner, sharing, value_scale
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks.network_config import NetworkConfig

KEY = jax.random.key(0)
TASKS = ("both", "masked")
MODULES = {"impala": impala, "ppo": ppo}
SOFT = NetworkConfig(hidden=(6,), sharing="soft")


@pytest.fixture(name="made", params=list(MODULES), scope="module")
def _made(request, kit):
    """A function of (slot_tasks, more settings): the Setup with networks of the tasks."""
    module, plain = MODULES[request.param], kit.setup(request.param, "none", TASKS)

    @functools.cache
    def make(slot_tasks=plain.env.spec.slot_tasks, **config):
        spec = plain.env.spec._replace(slot_tasks=slot_tasks)
        settings = {"network": SOFT, "optimiser": "adam", "epochs": 1, "minibatches": 1}
        agent = module.make(spec, module.Config(**settings | config))
        one = plain._replace(
            agent=agent, act=jax.jit(agent.act), update=kit.updater(agent)
        )
        learner = kit.fresh(one, 0)
        rollout = kit.collect(one, learner=learner, tasks=TASKS)
        return one._replace(learner=learner, rollout=rollout)

    return make


def leaves_close(x, y, **tolerance):
    """Assert that two trees are the same to rounding."""
    for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y)):
        np.testing.assert_allclose(a, b, **tolerance)


def test_tasks_on_their_own_slots_learn_what_they_learn_by_choice(made, kit):
    """Static groups of slots are the same update as all networks on all slots."""
    static, chosen = made(), made(slot_tasks=())
    leaves_close(static.rollout, chosen.rollout, rtol=1e-5, atol=1e-6)
    hp = kit.changed(static.hp, distance_cost=0.1, max_grad_norm=1e6)
    wanted, metrics = chosen.update(chosen.learner, chosen.rollout, KEY, hp)
    found, other = static.update(static.learner, chosen.rollout, KEY, hp)
    leaves_close(found, wanted, rtol=1e-4, atol=2e-5)
    leaves_close(other, metrics, rtol=1e-3, atol=1e-5)
    assert metrics["distance"] > 1.0


def test_popart_preserves_what_every_network_of_the_stack_says(made, kit):
    """Without a rate of learning values stay, though both tasks' statistics move."""
    one = made(epochs=2, minibatches=2, value_scale="popart")
    still = {"learning_rate": 0.0, "value_step_size": 0.3, "reward_scale": 50.0}
    hp = kit.changed(one.hp, **still)
    after, _ = one.update(one.learner, one.rollout, KEY, hp)
    assert (np.asarray(after.stats.mean) != np.asarray(one.learner.stats.mean)).all()
    kernels = [x.params["value"]["kernel"] for x in (one.learner, after)]
    assert not np.allclose(*kernels)
    again = kit.collect(one, learner=after, tasks=TASKS)
    leaves_close(again, one.rollout, rtol=1e-4, atol=1e-5)


def test_the_cost_of_distance_brings_networks_together(made, kit):
    """At 0 a task without live steps learns nothing; at a high cost they become one."""
    one = made(epochs=2, minibatches=2, value_scale="popart")
    ts = one.rollout.ts
    dead = ts.first | (ts.task == 1)
    alone = one.rollout._replace(ts=ts._replace(first=dead))
    free = kit.changed(one.hp, distance_cost=0.0, learning_rate=1e-2)
    after, metrics = one.update(one.learner, alone, KEY, free)
    torso = [
        x.params["torso"]["mlp"]["Dense_0"]["kernel"] for x in (one.learner, after)
    ]
    moved = [not np.array_equal(*(x[k] for x in torso)) for k in (0, 1)]
    assert moved == [True, False]
    # A value head is in its own task's units, and none of another's business.
    heads = jax.tree.map(lambda x: 3.0 * x, one.learner.params["value"])
    other = one.learner._replace(params={**one.learner.params, "value": heads})
    still = kit.changed(free, learning_rate=0.0)
    far = [
        one.update(x, alone, KEY, still)[1]["distance"] for x in (one.learner, other)
    ]
    assert float(far[0]) == float(far[1]) > 0
    tied, learner, found = kit.changed(free, distance_cost=10.0), one.learner, []
    for i in range(60):
        key = jax.random.fold_in(KEY, i)
        learner, metrics = one.update(learner, one.rollout, key, tied)
        found.append(float(metrics["distance"]))
    assert found[-1] < 0.1 * found[0]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(learner))


@pytest.mark.parametrize("steps", [1, 2])
def test_networks_without_a_distance_are_independent(steps, made, kit):
    """What one task's rewards are does not reach another's network, clipped or not."""
    one = made(epochs=steps, minibatches=steps)
    found = kit.quiet_and_loud(one, kit.changed(one.hp, distance_cost=0.0))
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[0], y[0]), *found)


@pytest.mark.parametrize("kind", value_scale.SCALES)
def test_value_heads_are_tied_where_they_have_one_unit(kind, kit):
    """That of rewards; in a scale each is in its task's own."""
    spec = kit.setup("impala", "none", TASKS).env.spec
    config = impala.Config(network=SOFT, value_scale=kind)
    shared = actor_critic_learner.make(spec, config, ()).shared
    params = jax.jit(batch_draws(shared.acting.init))(KEY)
    heads = jax.tree.map(lambda x: 3.0 * x, params["value"])
    near, far = (
        float(shared.losses({**params, "value": x}, sharing.Hparams())["distance"].loss)
        for x in (params["value"], heads)
    )
    assert (far > near) if kind == "none" else (far == near > 0)
    # Heads of auxiliaries are nobody's but the tasks'.
    more = {**params, "auxiliaries": {"own": heads}}
    found = shared.losses(more, sharing.Hparams())["distance"].loss
    assert float(found) == near


@pytest.mark.parametrize("name", list(MODULES))
def test_an_unknown_distance_is_refused(name, kit):
    """When the agent is made."""
    with pytest.raises(ValueError, match="distance: unknown 'far'; one of l2, trace"):
        kit.small(name, kit.probe(*TASKS).spec, distance="far")


@pytest.mark.parametrize("name", list(MODULES))
def test_heads_of_all_tasks_in_each_tasks_network_are_refused(name, kit):
    """A network of one task would train one of them and be tied by the others."""
    network = dataclasses.replace(SOFT, task_heads=True)
    config = MODULES[name].Config(network=network)
    with pytest.raises(ValueError, match=r"^network\.task_heads: .*'soft'.*use false"):
        MODULES[name].make(kit.probe(*TASKS).spec, config)
