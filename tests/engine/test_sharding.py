"""Splitting a run over devices changes where it is computed, not what."""

import dataclasses
import re

import dreaming
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import replay_probe
from jax.sharding import PartitionSpec

from mtrl_jax import agents, envs, hparams, random
from mtrl_jax.engine import fused_runner, sharding
from mtrl_jax.envs import core, expert_labels
from mtrl_jax.networks import actor_critic, product
from mtrl_jax.networks.transformers import transformer

DEVICES = 8
# What makes devices wait for each other, in a compiled program.
WAITS = r" (all-|collective-|reduce-scatter|send|recv)"
# With learned positions: tokens of nothing but zeros, as the tiny environment's first ones
# are, have no variance to be normalised by, and rounding is a thousand times as large.
_TRANSFORMER = transformer.TransformerConfig(
    layers=2, width=8, heads=2, feedforward=16, context=8, positions="learned"
)


_SMALL = {
    "dreamer_v2": dreaming.SMALL,
    "dqn": {"capacity": 1200, "batch": 16},
    "rainbow": {"capacity": 1200, "batch": 16, "atoms": 5},
    "unreal": {"cell": 1, "capacity": 240, "windows": 4, "steps": 3, "snippets": 4},
}


def _small(name, config):
    """Returns the Config with a small network or transformer, recurrent where it may be."""
    given = dict(_SMALL.get(name, {}))
    if hasattr(config, "transformer"):
        given["transformer"] = _TRANSFORMER
    if hasattr(config, "network") and "network" not in given:
        wanted = {"hidden": (8,), "core": "lstm", "core_size": 8}
        known = {field.name for field in dataclasses.fields(config.network)}
        given["network"] = dataclasses.replace(
            config.network, **{x: wanted[x] for x in known & set(wanted)}
        )
    return dataclasses.replace(config, **given)


@pytest.mark.parametrize(
    ("population", "slots", "expected"),
    [
        (8, 4, (8, 1)),
        (16, 4, (8, 1)),
        (2, 8, (2, 4)),
        (1, 8, (1, 8)),
        (3, 6, (1, 2)),
        (6, 2, (2, 2)),
        (1, 1, (1, 1)),
    ],
)
def test_the_population_is_split_first_then_the_slots(population, slots, expected):
    """Largest divisors: a member or slot is never torn apart or padded."""
    mesh = sharding.make_mesh(population, slots)
    assert mesh.devices.shape == expected
    assert mesh.axis_names == ("pop", "slot")
    assert population % mesh.shape["pop"] == slots % mesh.shape["slot"] == 0
    alone = sharding.make_mesh(population, slots, jax.devices()[:1])
    assert alone.devices.shape == (1, 1)


@pytest.mark.parametrize(
    ("members", "expected"), [(1, 1), (3, 3), (5, 5), (6, 6), (10, 5), (13, 1), (16, 8)]
)
def test_as_many_cores_as_the_members_divide_into(members, expected):
    """The largest divisor, be it one of the number of cores or not."""
    assert len(sharding.devices(members, pure=True)) == expected
    assert len(sharding.devices(members, pure=False)) == 1
    assert len(sharding.devices(members, pure=True, meet=True)) == 1
    assert sharding.make_mesh(members, 4, sharding.devices(members, True)).shape == {
        "pop": expected,
        "slot": 1,
    }


def test_accelerators_are_all_used_and_update_their_members_together(monkeypatch):
    """Members go one by one on a single CPU device alone, where the config is silent."""
    one, many = (sharding.make_mesh(8, 4, jax.devices()[:n]) for n in (1, DEVICES))
    assert [sharding.members_at_once(mesh) for mesh in (one, many)] == [1, None]
    monkeypatch.setattr(sharding.jax, "default_backend", lambda: "gpu")
    assert [sharding.members_at_once(mesh) for mesh in (one, many)] == [None, None]
    for meet in (False, True):
        assert len(sharding.devices(5, pure=True, meet=meet)) == DEVICES
    assert len(sharding.devices(5, pure=False)) == 1


def test_leaves_are_split_by_their_leading_axes():
    """P over pop, B over slot where it divides; everything else is everywhere."""
    mesh = sharding.make_mesh(2, 4)
    tree = {
        "slots": jnp.zeros((2, 8, 3)),
        "odd": jnp.zeros((2, 3)),
        "member": jnp.zeros(2),
        "scalar": jnp.zeros(()),
        "key": random.roots(0, 2),
        "other": jnp.zeros(5),
    }
    specs = {
        k: s.spec for k, s in sharding.shardings(tree, mesh, 2, slots=True).items()
    }
    assert specs == {
        "slots": PartitionSpec("pop", "slot"),
        "odd": PartitionSpec("pop"),
        "member": PartitionSpec("pop"),
        "scalar": PartitionSpec(),
        "key": PartitionSpec("pop"),
        "other": PartitionSpec(),
    }
    by_member = sharding.shardings(tree, mesh, 2)
    assert by_member["slots"].spec == PartitionSpec("pop")


def compare(tiny, chunk, state, hp, members, slots, chunks=2, devices=None, alone=None):
    """Runs both ways; returns the sharded state after asserting equality to 1e-6.

    ``alone`` is the chunk to run on one device, ``chunk`` unless given.
    """
    mesh = sharding.make_mesh(members, slots, devices)
    layout = sharding.run_state_shardings(state, mesh, members)
    split = jax.device_put(state, layout)
    split_hp = jax.device_put(hp, sharding.shardings(hp, mesh, members))
    compiled = jax.jit(chunk, out_shardings=(layout, None))
    alone = jax.jit(alone or chunk)
    for _ in range(chunks):
        split, out = compiled(split, split_hp)
        state, expected = alone(state, hp)
    assert_close(tiny, (split, out), (state, expected))
    return split


def assert_close(tiny, actual, expected):
    """Asserts that every leaf is the same to 1e-6."""
    x, y = tiny.leaves(actual), tiny.leaves(expected)
    for path in x:
        np.testing.assert_allclose(x[path], y[path], 1e-6, 1e-6, err_msg=path)


def plain_steps(hp):
    """Returns hyperparameters of an optimiser that hardly adapts.

    One that does divides rounding by rounding where gradients are 0.
    """
    given = {name: 1e-2 for name in ("adam_eps", "rmsprop_eps")}
    own = {name: x for name, x in given.items() if name in hparams.names(hp)}
    return hparams.override(hp, own)


@pytest.mark.parametrize(("members", "slots"), [(8, 2), (2, 4)])
def test_a_state_is_made_where_it_belongs(members, slots, tiny):
    """Every device makes its share of weights, replay and slots, and never the whole."""
    env = tiny.env(members, slots)
    agent = replay_probe.make(env.spec, rows=1000, width=256)
    runner = fused_runner.make(agent, env, unroll_length=2, updates_per_chunk=1)
    keys, hp = random.roots(0, members), replay_probe.Hparams(jnp.full(members, 0.1))
    mesh = sharding.make_mesh(members, env.batch[1])
    init = sharding.making_layout(runner.init, mesh, members, keys, hp)
    state, expected = init(keys, hp), jax.jit(runner.init)(keys, hp)
    assert not tiny.differs(state, expected)
    layout = sharding.run_state_shardings(expected, mesh, members)
    assert jax.tree.map(lambda x: x.sharding, state) == layout
    whole = expected.memory.rows.nbytes
    used = init.lower(keys, hp).compile().memory_analysis()
    share = whole // mesh.shape["pop"]
    assert share <= used.output_size_in_bytes < 1.1 * share
    assert used.temp_size_in_bytes < 0.1 * share


@pytest.mark.parametrize(("members", "slots"), [(8, 2), (2, 4)])
def test_a_sharded_run_is_the_unsharded_one(members, slots, tiny):
    """P = 8 over 8 devices; P = 2 with the slots over 4: the same to 1e-6."""
    assert len(jax.devices()) == DEVICES
    runner, state, hp = tiny.start(members, slots)
    split = compare(tiny, runner.chunk, state, hp, members, 2 * slots)
    weights, reward = split.learner["w"], split.ts.reward
    assert len(weights.sharding.device_set) == DEVICES
    assert weights.sharding.shard_shape(weights.shape)[0] == members // min(members, 8)
    assert np.prod(reward.sharding.shard_shape(reward.shape)) == reward.size // DEVICES


@pytest.mark.parametrize("at_once", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_members_in_turn_on_every_device_are_the_unsharded_ones(at_once, tiny):
    """8 members on 2 devices, 1 or 2 of their 4 at a time: none is computed elsewhere.

    And no device waits for the other: there is no step that both have to be at.
    """
    devices = jax.devices()[:2]
    mesh = sharding.make_mesh(8, 4, devices)
    runner, state, hp = tiny.start(8, 4, at_once=at_once, mesh=mesh)
    split = compare(tiny, runner.chunk, state, hp, 8, 4, devices=devices)
    assert split.learner["w"].sharding.device_set == set(devices)
    program = jax.jit(runner.chunk).lower(split, hp).compile().as_text()
    assert not re.search(WAITS, program)


def test_slots_reset_a_few_at_a_time_do_so_on_every_device_for_itself(tiny):
    """Bit for bit as on one device, and no device asks the other."""
    task = envs.pure_task("probe/both")._replace(group=1)
    env = core.vectorise(task, (2, 4))
    mesh = sharding.make_mesh(2, 4, jax.devices()[:2])

    def play(state, action, mesh):
        def step(state, action):
            with sharding.known(mesh):
                return env.step(state, action, env.params)

        return jax.lax.scan(step, state, action)

    state, _ = env.reset(random.roots(0, 2), env.params)
    action = jax.random.randint(jax.random.key(1), (6, 2, 4), 0, 2)
    expected = jax.jit(lambda *xs: play(*xs, None))(state, action)
    split = sharding.on_devices(state, mesh, 2)
    jitted = jax.jit(lambda *xs: play(*xs, mesh)).lower(split, action).compile()
    actual = jitted(split, action)
    assert expected[1].first.any() and not tiny.differs(actual, expected)
    assert len(actual[0].last.sharding.device_set) == 2
    assert not re.search(WAITS, jitted.as_text())


@pytest.mark.parametrize(
    "name", ["ppo", pytest.param("impala", marks=pytest.mark.slow)]
)
def test_the_devices_of_a_member_share_its_minibatches(name, tiny, monkeypatch):
    """Four devices do a fourth of the arithmetic each, and the numbers are the same.

    Every one of them would else work on all the rows gathered for a minibatch (1.1 times
    less arithmetic than alone). What they cannot share is small: the optimiser's step.
    """
    # What accelerators run; the product for CPUs is for members on a core each.
    monkeypatch.setattr(product, "_product", product._plain)
    env, module = tiny.env(1, 16), agents.get(name)
    network = actor_critic.NetworkConfig(hidden=(32, 32))
    agent = module.make(env.spec, module.Config(network=network, minibatches=4))
    hp = plain_steps(module.Hparams())
    hp = jax.tree.map(lambda x: jnp.full(1, x, jnp.float32), hp)
    mesh = sharding.make_mesh(1, 32, jax.devices()[:4])
    assert mesh.shape["slot"] == 4
    lengths = {"unroll_length": 8, "updates_per_chunk": 1}
    shared = fused_runner.make(agent, env, mesh=mesh, **lengths)
    runner = fused_runner.make(agent, env, **lengths)
    state = jax.jit(runner.init)(random.roots(0, 1), hp)
    layout = sharding.run_state_shardings(state, mesh, 1)
    split = jax.device_put(state, layout)
    split_hp = jax.device_put(hp, sharding.shardings(hp, mesh, 1))
    alone = jax.jit(runner.chunk).lower(state, hp).compile()
    jitted = jax.jit(shared.chunk, out_shardings=(layout, None))
    together = jitted.lower(split, split_hp).compile()
    assert_close(tiny, together(split, split_hp), alone(state, hp))
    # Of a loop's body once, on one device.
    flops = [program.cost_analysis()["flops"] for program in (alone, together)]
    assert flops[0] > 2.5 * flops[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", list(agents.AGENTS))
@pytest.mark.parametrize(("members", "slots"), [(8, 2), (2, 4)])
def test_a_sharded_run_of_an_agent_is_the_unsharded_one(name, members, slots, tiny):
    """The same with a recurrent network and an optimiser, where an agent has them."""
    env = tiny.env(members, slots)
    module = agents.get(name)
    if module.INFO.reads_expert_labels:
        env = expert_labels.give(env, lambda _: jnp.zeros(env.batch))
    agent = module.make(env.spec, _small(name, module.Config()))
    mesh = sharding.make_mesh(members, 2 * slots)
    lengths = {"unroll_length": 6, "updates_per_chunk": 2}
    shared = fused_runner.make(agent, env, mesh=mesh, **lengths)
    runner = fused_runner.make(agent, env, **lengths)
    hp = plain_steps(module.Hparams())
    hp = jax.tree.map(lambda x: jnp.full(members, x, jnp.float32), hp)
    state = jax.jit(runner.init)(random.roots(0, members), hp)
    compare(tiny, shared.chunk, state, hp, members, 2 * slots, 1, alone=runner.chunk)
