"""Networks of the tasks on their own slots: by static groups, or by choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks import actor_critic, task_networks
from mtrl_jax.networks.network_config import NetworkConfig

KEY = jax.random.key(0)
T, B, K = 3, 5, 3
SLOT_TASKS = (0, 2, 0, 2, 0)  # none of task 1
OBS = {"vector": jax.ShapeDtypeStruct((2,), jnp.float32)}
TASK = types.TaskSpec("x", OBS, types.Discrete(3))
SPEC = types.EnvSpec(OBS, types.Discrete(3), (TASK,) * K, slot_tasks=SLOT_TASKS)
CONFIG = NetworkConfig(hidden=(4,), core="gru", core_size=4)


@pytest.fixture(name="given", scope="module")
def _given():
    """Returns (params, memories, time steps, previous actions)."""
    network = task_networks.make(SPEC, CONFIG)
    keys = jax.random.split(KEY, 4)
    ts = types.TimeStep(
        obs={"vector": jax.random.normal(keys[0], (T, B, 2))},
        reward=jnp.zeros((T, B)),
        discount=jnp.ones((T, B)),
        first=jax.random.bernoulli(keys[1], 0.3, (T, B)),
        last=jnp.zeros((T, B), bool),
        task=jnp.broadcast_to(jnp.asarray(SLOT_TASKS), (T, B)),
        action_mask=jnp.ones((T, B, 3), bool),
    )
    memory = jax.tree.map(
        lambda x: jax.random.normal(keys[2], x.shape), network.initial_state(B)
    )
    return (
        jax.jit(batch_draws(network.init))(keys[3]),
        memory,
        ts,
        jnp.zeros((T, B), jnp.int32),
    )


def test_each_slot_is_seen_by_the_network_of_its_task(given):
    """By groups, by choice, and by each task's network alone: the same to rounding."""
    params, memory, ts, action = given
    static = task_networks.make(SPEC, CONFIG)
    chosen = task_networks.make(SPEC._replace(slot_tasks=()), CONFIG)
    single = actor_critic.make(SPEC, CONFIG)
    by_group = jax.jit(static.unroll)(params, memory, ts, action)
    by_choice = jax.jit(chosen.unroll)(params, memory, ts, action)
    for b, task in enumerate(SLOT_TASKS):
        own = jax.tree.map(lambda x, k=task: x[k], params)
        mine = jax.tree.map(lambda x, b=b: x[:, b : b + 1], (ts, action))
        state = jax.tree.map(lambda x, b=b: x[b : b + 1], memory)
        wanted, after = jax.jit(single.unroll)(own, state, *mine)
        for found, memories in (by_group, by_choice):
            got = jax.tree.map(lambda x, b=b: x[:, b : b + 1], found)
            kept = jax.tree.map(lambda x, b=b: x[b : b + 1], memories)
            for x, y in zip(jax.tree.leaves((wanted, after)), _leaves(got, kept)):
                np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_a_slot_that_changes_its_task_goes_on_with_the_other_network(given):
    """Where an episode of another task begins: its memory is the other's, and fresh."""
    params, memory, ts, action = given
    unroll = jax.jit(task_networks.make(SPEC._replace(slot_tasks=()), CONFIG).unroll)
    ts = ts._replace(task=ts.task.at[-1, 0].set(1), first=ts.first.at[-1, 0].set(True))
    out, after = unroll(params, memory, ts, action)
    newest = jax.tree.map(lambda x: x[-1:], (ts, action))
    alone, wanted = unroll(params, memory, *newest)
    np.testing.assert_allclose(out.policy[-1, 0], alone.policy[0, 0], rtol=1e-5)
    for x, y in zip(*(jax.tree.leaves(x) for x in (after, wanted))):
        np.testing.assert_allclose(x[0], y[0], rtol=1e-5, atol=1e-6)


def _leaves(*trees):
    return jax.tree.leaves(trees)


def test_a_tasks_slots_train_its_own_network_alone(given):
    """d L_i / d θ_j = 0 for j ≠ i, though groups are padded to the largest."""
    params, memory, ts, action = given
    static = task_networks.make(SPEC, CONFIG)

    def loss(params, task):
        out, _ = static.unroll(params, memory, ts, action)
        return jnp.sum(jnp.where(ts.task == task, out.value, 0.0))

    slope = jax.jit(jax.grad(loss))
    for task in (0, 2):
        for leaf in jax.tree.leaves(slope(params, task)):
            moved = np.abs(np.asarray(leaf)).reshape(K, -1).sum(1) > 0
            assert not moved[[k for k in range(K) if k != task]].any()
    assert all(
        np.abs(np.asarray(leaf[0])).sum() > 0
        for leaf in jax.tree.leaves(slope(params, 0)["value"])
    )


def test_every_task_begins_with_weights_of_its_own(given):
    """No two networks are equal."""
    kernel = given[0]["torso"]["mlp"]["Dense_0"]["kernel"]
    assert kernel.shape[0] == K and not np.allclose(kernel[0], kernel[1])
