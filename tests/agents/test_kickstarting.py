"""A frozen teacher beside the actor-critic learner."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from mtrl_jax.agents import impala, ppo
from mtrl_jax.agents.common import kickstarting, observation_scale, unrolls
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.types import TimeStep

KEY = jax.random.key(0)
MODULES = {"impala": impala, "ppo": ppo}
NETWORK = networks.NetworkConfig(hidden=(6,), core="gru", core_size=6)
TASKS = ("both", "memory")


@pytest.fixture(name="given", params=list(MODULES), scope="module")
def _given(request, kit):
    """The Setup of an agent with a teacher that has a memory, and the teacher's net."""
    name = request.param
    plain = kit.setup(name, "none", TASKS)
    spec = plain.env.spec
    agent = kit.small(name, spec, teacher=kickstarting.Teacher(NETWORK))
    one = plain._replace(agent=agent, act=jax.jit(agent.act), update=kit.updater(agent))
    learner = kit.fresh(one, 0)
    frozen = jax.tree.map(lambda x: x, learner.frozen)
    frozen["params"]["policy"]["kernel"] *= 100
    learner = learner._replace(frozen=frozen)
    rollout = kit.collect(one, learner=learner, tasks=TASKS)
    one = one._replace(learner=learner, rollout=rollout)
    return name, one, networks.make(spec, NETWORK), plain


def test_the_teacher_acts_along_with_a_memory_of_its_own(given):
    """What it shows at each step is its unroll over the student's steps."""
    _, one, network, _ = given
    ro = one.rollout
    out, _ = network.unroll(
        one.learner.frozen["params"],
        ro.carry.teacher,
        ro.ts,
        unrolls.previous_actions(ro),
    )
    np.testing.assert_allclose(ro.extras.teacher, out.policy[:-1], rtol=1e-4, atol=1e-5)


def test_the_cost_is_of_the_divergence_to_the_teacher(given, kit):
    """In float64, over live steps; at cost 0 it is the agent without a teacher."""
    name, one, _, plain = given
    ro, learner = one.rollout, one.learner
    zero = kit.changed(one.hp, teacher_cost=0.0)
    after, metrics = one.update(learner, ro, KEY, zero)
    bare = ro._replace(
        extras=ro.extras._replace(teacher=()), carry=ro.carry._replace(teacher=())
    )
    wanted, _ = plain.update(learner._replace(frozen=()), bare, KEY, zero)
    for x, y in zip(jax.tree.leaves(wanted.params), jax.tree.leaves(after.params)):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    if name == "impala":  # One step on the whole rollout.
        student = networks.make(
            one.env.spec, dataclasses.replace(NETWORK, hidden=(8,), core="none")
        )
        out = unrolls.outputs(student, learner.params, ro)
        mask = np.asarray(ro.ts.action_mask[:-1])
        p, q = (
            np.where(mask, np.float64(x), -np.inf)
            for x in (ro.extras.teacher, out.policy[:-1])
        )
        p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
        kl = np.where(mask, np.exp(p) * (p - np.where(mask, q, 0.0)), 0.0)
        live = ~np.asarray(ro.ts.first[1:])
        assert not live.all()
        expected = np.nansum(kl, -1)[live].mean()
        np.testing.assert_allclose(metrics["teacher_kl"], expected, rtol=1e-4)
        doubled = one.update(learner, ro, KEY, kit.changed(zero, teacher_cost=2.0))[1]
        np.testing.assert_allclose(
            doubled["loss"] - metrics["loss"], 2 * expected, rtol=1e-3
        )


def test_the_student_becomes_the_teacher_that_nothing_changes(given, kit):
    """The divergence falls to a tenth on its own steps; the teacher keeps its bits."""
    _, one, _, _ = given
    hp = kit.changed(one.hp, teacher_cost=10.0, learning_rate=1e-2)
    learner, found = one.learner, []
    for i in range(40):
        key = jax.random.fold_in(KEY, i)
        learner, metrics = one.update(learner, one.rollout, key, hp)
        found.append(float(metrics["teacher_kl"]))
    assert found[-1] < 0.2 * found[0] and found[0] > 1e-2
    for x, y in zip(
        jax.tree.leaves(one.learner.frozen), jax.tree.leaves(learner.frozen)
    ):
        np.testing.assert_array_equal(x, y)


def test_a_teacher_of_the_same_layers_may_be_larger(kit):
    """Several gradient steps an update: its parameters are not taken for the student's."""
    spec = kit.setup("ppo", "none", TASKS).env.spec
    larger = networks.NetworkConfig(hidden=(32,))
    agent = kit.small(
        "ppo", spec, teacher=kickstarting.Teacher(larger), epochs=2, minibatches=2
    )
    one = kit.setup("ppo", "none", TASKS)._replace(
        agent=agent, act=jax.jit(agent.act), update=kit.updater(agent)
    )
    learner = kit.fresh(one, 0)
    student, teacher = learner.params, learner.frozen["params"]
    assert jax.tree.structure(student) == jax.tree.structure(teacher)
    rollout = kit.collect(one, learner=learner, tasks=TASKS)
    after, _ = one.update(learner, rollout, KEY, one.hp)
    jax.tree.map(np.testing.assert_array_equal, after.frozen, learner.frozen)


def test_a_teacher_sees_what_it_saw_when_it_learned():
    """In the units of its own observations, which nothing of the student's changes."""
    network = types.SimpleNamespace(
        unroll=lambda params, state, ts, action: (
            types.SimpleNamespace(policy=ts.obs["vector"]), (state, action),
        )
    )  # fmt: skip
    normaliser = observation_scale.Normaliser({"vector": np.ones((1, 2), bool)})
    moments = [[5.0], [[1.0, -2.0]], [[4.0, 9.0]]]
    known = observation_scale.Moments(*map(np.float32, moments))
    ts = TimeStep({"vector": np.float32([[3.0, 4.0]])}, *[()] * 4, np.array([0]), ())
    teacher = kickstarting.Kickstarting(network, normaliser)
    frozen = {"params": (), "observations": {"vector": known}}
    shown, (state, action) = teacher.shown(frozen, 7, ts, np.array([3]))
    np.testing.assert_allclose(shown, [[1.0, 2.0]], rtol=1e-6)
    assert state == 7 and action.tolist() == [[3]]


@pytest.mark.parametrize(("kind", "values"), [("none", 1), ("popart", 2)])
def test_a_teacher_under_a_scale_has_a_value_for_each_task(kind, values, kit):
    """So that the weights of the agent that learned under it fit."""
    spec = kit.probe(*TASKS).spec
    made = kickstarting.make(kickstarting.Teacher(NETWORK, kind), spec)
    head = jax.eval_shape(made.init, KEY)["params"]["value"]
    assert head["kernel"].shape == (6, values)


@pytest.mark.parametrize("name", list(MODULES))
def test_what_makes_no_teacher_is_refused(name, kit):
    """By its field."""
    spec = kit.probe("both").spec
    none = kickstarting.Teacher(value_scale="huge")
    with pytest.raises(ValueError, match=r"teacher\.value_scale: unknown 'huge'"):
        kit.small(name, spec, teacher=none)
    none = kickstarting.Teacher(networks.NetworkConfig(core="tree"))
    with pytest.raises(ValueError, match=r"teacher\.network\.core: 'tree'"):
        kit.small(name, spec, teacher=none)
