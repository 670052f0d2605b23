"""What Mix&Match promises beside the contract of every agent."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import hparams
from mtrl_jax.agents import mix_and_match
from mtrl_jax.agents.common import (
    learning,
    minibatches,
    mixture_control,
    optimiser,
    policy_mixture,
    unrolls,
)
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.losses import mixing
from mtrl_jax.networks import actor_critic as networks
from mtrl_jax.networks import components, heads, subsets
from mtrl_jax.networks.components import Component

KEY = jax.random.key(4)
FACTORISED = ("both_factorised",)
NARROW = Component(actions=((0, 1), (1, 2), (0, 0)))
ALL_SHARED = components.MODULES


def made(kit, tasks, core="none", **config):
    """Returns (agent, hp, learner, rollout, update) with small networks."""
    return _made(kit, tasks, core, tuple(config.items()))


@functools.cache
def _made(kit, tasks, core, config):
    network = networks.NetworkConfig(hidden=(8,), core=core, core_size=8)
    env = kit.probe(*tasks)
    agent = mix_and_match.make(
        env.spec,
        mix_and_match.Config(network=network, optimiser="adam", **dict(config)),
    )
    hp = kit.quick("mix_and_match")
    playing = player(agent, env, hp)
    learner = jax.device_get(jax.jit(batch_draws(agent.init))(KEY, hp))
    # The heads begin next to 0: sharper policies make everything visible.
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x * 50 if "policy" in str(path) else x, learner.params
    )
    learner = learner._replace(params=params)
    rollout = jax.device_get(kit.collect(playing, learner=learner, tasks=tasks))
    return agent, hp, learner, rollout, kit.updater(agent)


def varied(kit, **config):
    """Returns what ``made`` of one task does, updated by a program of other settings.

    Learner and rollout are those of the default settings.
    """
    _, hp, learner, rollout, _ = made(kit, ("both",))
    agent = mix_and_match.make(
        kit.probe("both").spec,
        mix_and_match.Config(
            network=networks.NetworkConfig(hidden=(8,)), optimiser="adam", **config
        ),
    )
    return agent, hp, learner, rollout, kit.updater(agent)


def player(agent, env, hp):
    """Returns what ``kit.collect`` plays."""
    return types.SimpleNamespace(agent=agent, env=env, hp=hp, act=jax.jit(agent.act))


def with_(hp, **leaves):
    """Returns hp with some leaves changed."""
    return hparams.override(hp, leaves)


def moved(kit, one, rollout=None, **fields):
    """Returns {piece: has it moved} after an update with some hparams changed."""
    _, hp, learner, own, update = one
    after, _ = update(
        learner, own if rollout is None else rollout, KEY, with_(hp, **fields)
    )
    old, new = learner.params, after.params
    return {
        piece: any(
            not np.array_equal(x, y)
            for x, y in zip(jax.tree.leaves(old[piece]), jax.tree.leaves(new[piece]))
        )
        for piece in old
    }


ONLY_MATCHING = {"clip_pg_rho": 0.0, "value_cost": 0.0, "entropy_cost": 0.0}


@functools.cache
def alone(kit):
    """Returns (update, hp) of IMPALA with an LSTM."""
    agent = kit.small("impala", kit.probe("both").spec, "lstm")
    return kit.updater(agent), kit.quick("impala")


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_components_that_share_everything_are_one_agent(alpha, kit):
    """K identical agents: IMPALA's update, for any alpha, to 1e-5."""
    _, hp, learner, rollout, update = made(kit, ("both",), "lstm", share=ALL_SHARED)
    impala, impala_hp = alone(kit)
    params = learner.params
    same = {
        "torso": params["torso"],
        "core": params["core"],
        "policy": params["policy"]["policy"],
        "value": params["value"]["value"],
    }
    begun = learning.init(same, optimiser.make("adam", impala_hp.optimiser))
    extras = unrolls.Extras(rollout.extras.log_prob, rollout.extras.value)
    carry = unrolls.Carry(rollout.carry.core, rollout.carry.action)
    rollout_alone = rollout._replace(extras=extras, carry=carry)
    expected, metrics = impala(begun, rollout_alone, KEY, impala_hp)
    after, found = update(learner, rollout, KEY, with_(hp, alpha=alpha))
    for name in ("policy_loss", "value_loss", "entropy", "rho"):
        np.testing.assert_allclose(found[name], metrics[name], rtol=1e-4, atol=1e-6)
    assert abs(float(found["kl"])) < 1e-6
    for mine, theirs in (
        (after.params["torso"], expected.params["torso"]),
        (after.params["policy"]["policy"], expected.params["policy"]),
    ):
        for x, y in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs)):
            np.testing.assert_allclose(x, y, atol=1e-5)


def test_what_has_no_control_learns_nothing_from_reward(kit):
    """At alpha 0 the last component's heads get no gradient but from being matched."""
    one = made(kit, ("both",))
    alone = moved(kit, one, alpha=0.0, matching_cost=0.0)
    assert alone["policy_0"] and alone["value_0"]
    assert not alone["policy_1"] and not alone["value_1"]
    matched = moved(kit, one, alpha=0.0, matching_cost=1.0)
    assert matched["policy_1"] and not matched["value_1"]
    last = moved(kit, one, alpha=1.0, matching_cost=0.0)
    assert last["policy_1"] and last["value_1"]
    assert not last["policy_0"] and not last["value_0"]


def test_only_the_student_learns_from_being_matched(kit):
    """The teacher's head stays, unless it is to learn; a shared torso moves."""
    one = made(kit, ("both",))
    found = moved(kit, one, alpha=0.5, **ONLY_MATCHING)
    assert found["policy_1"] and found["torso"] and not found["policy_0"]
    assert moved(
        kit, made(kit, ("both",), teacher_learns=True), alpha=0.5, **ONLY_MATCHING
    )["policy_0"]


def test_a_reversed_matching_holds_the_same_policy_fixed(kit):
    """The last component learns, to KL(π_2 ‖ π_1); ``kl`` stays KL(π_1 ‖ π_2)."""
    one = varied(kit, matching="reversed")
    found = moved(kit, one, alpha=0.5, **ONLY_MATCHING)
    assert found["policy_1"] and found["torso"] and not found["policy_0"]
    _, hp, learner, rollout, update = one
    # Of policies that are next to the same both divergences are.
    sharp = jax.tree.map(lambda x: x * 20, learner.params["policy_0"])
    learner = learner._replace(params={**learner.params, "policy_0": sharp})
    forward = made(kit, ("both",))[4](learner, rollout, KEY, hp)[1]
    reverse = update(learner, rollout, KEY, hp)[1]
    np.testing.assert_allclose(forward["matching_loss"], forward["kl"], rtol=1e-5)
    np.testing.assert_allclose(reverse["kl"], forward["kl"], rtol=1e-5)
    assert reverse["matching_loss"] > 1.1 * forward["kl"] > 0.01


def test_values_that_are_not_mixed_are_the_mixtures_at_both_ends(kit):
    """The whole update at alpha 0 and 1, as one value has all weight; not in between."""
    _, hp, learner, rollout, own = varied(kit, own_values=True)
    mixed = made(kit, ("both",))[4]
    for alpha, same in ((0.0, True), (1.0, True), (0.5, False)):
        given = learner, rollout, KEY, with_(hp, alpha=alpha)
        (after, metrics), (expected, wanted) = own(*given), mixed(*given)
        for name in wanted:
            if same or name in ("rho", "value", "entropy", "matching_loss"):
                np.testing.assert_allclose(metrics[name], wanted[name], 1e-5, 1e-6)
        differs = abs(float(metrics["value_loss"] - wanted["value_loss"])) > 1e-4
        assert differs != same
        pairs = zip(jax.tree.leaves(after.params), jax.tree.leaves(expected.params))
        assert same == all(np.allclose(x, y, atol=1e-6) for x, y in pairs)


def test_matching_ends_with_the_control(kit):
    """At alpha 1 it costs nothing and moves nothing, unless it is not to fade."""
    one = made(kit, ("both",))
    assert not any(moved(kit, one, alpha=1.0, **ONLY_MATCHING).values())
    _, hp, learner, rollout, update = one
    _, metrics = update(learner, rollout, KEY, with_(hp, alpha=1.0))
    assert float(metrics["matching_loss"]) == 0.0 and float(metrics["kl"]) > 0.0
    assert float(metrics["share"]) == 1.0
    _, metrics = update(learner, rollout, KEY, with_(hp, alpha=0.0))
    assert float(metrics["share"]) == 0.0
    lasting = made(kit, ("both",), fades=False)
    assert moved(kit, lasting, alpha=1.0, **ONLY_MATCHING)["policy_1"]


@pytest.mark.parametrize("alpha", [0.0, 0.7])
@pytest.mark.parametrize("matching", ["adjacent", "all"])
def test_of_three_components_every_pair_counts(matching, alpha):
    """Lasting, each student's teachers have 1 in all; the divergence is of the two ends."""
    control = mixture_control.Control(3, matching=matching, fades=False)
    task, possible = np.zeros((1,), int), np.array([[True, True, True]])
    found = {k: float(w[0]) for k, w in control.pairs(alpha, task, possible).items()}
    wanted = {(0, 1): 1.0, (1, 2): 1.0}
    if matching == "all":
        wanted = {(0, 1): 1.0, (0, 2): 0.5, (1, 2): 0.5}
    assert found == wanted
    ends = control.ends(task, possible)
    assert {k: float(w[0]) for k, w in ends.items()} == {(0, 2): 1.0}
    ends = control.ends(task, np.array([[True, True, False]]))
    assert float(ends[0, 2][0]) == 0.0


def test_experts_teach_in_their_task_alone_and_to_the_end_where_nothing_fades():
    """In task i it is expert i; a value is the mixture's, but of slots shared for good."""
    task, possible = np.array([0, 1]), np.ones((2, 3), bool)
    for alpha, fades, weight in ((0.0, True, 1), (1.0, True, 0), (1.0, False, 1)):
        control = mixture_control.Control(3, experts=True, fades=fades)
        found = control.pairs(alpha, task, possible)
        assert {pair: w.tolist() for pair, w in found.items()} == {
            (0, 2): [weight, 0],
            (1, 2): [0, weight],
        }
    planned, choice = np.float32([[0.2, 0.8]] * 2), np.array([0, 1])
    for kind in mixture_control.CONTROLS:
        control = mixture_control.Control(2, kind)
        wanted = np.eye(2) if kind == "slot" else planned
        found = control.baseline(planned, choice, possible[:, :2])
        np.testing.assert_array_equal(found, wanted)


def test_the_entropy_of_what_was_done_is_that_of_live_steps():
    """Two joint actions as often, ln 2; what was sent into a reset does not count."""
    action = np.int32([[0, 1], [2, 0], [0, 1], [2, 0], [1, 1]])[:, None]
    live = np.arange(5)[:, None] < 4
    entropy = jax.jit(mix_and_match._taken_entropy, static_argnums=0)
    found = entropy(types_factorised(), action, live)
    np.testing.assert_allclose(found, np.log(2), rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_the_log_prob_that_is_kept_is_the_mixtures(alpha, kit):
    """Whichever component drew the action; so an update right away has ratio 1."""
    agent, hp, learner, rollout, update = made(
        kit, FACTORISED, components=(NARROW, Component())
    )
    hp = with_(hp, alpha=alpha)
    ts = kit.member(rollout.ts)
    carry = agent.carry(kit.SLOTS)
    env = kit.probe(*FACTORISED)
    network = components.make(
        env.spec,
        networks.NetworkConfig(hidden=(8,)),
        (NARROW, Component()),
        ("torso", "core"),
    )

    @jax.jit
    def log_probs(action):
        rows = jax.tree.map(lambda x: x[None], (ts, carry[1]))
        outputs, _ = network.unroll(learner.params, carry.core, *rows)
        outputs = jax.tree.map(lambda x: x[0], outputs)
        policies = network.policies(outputs, ts.action_mask)
        return [policy.log_prob(action) for policy in policies]

    playing = player(agent, env, hp)
    for key in jax.random.split(KEY, 5):
        action, _, extras = playing.act(learner, carry, ts, key, hp)
        easy, hard = np.exp(log_probs(action))
        p = (1 - alpha) * easy + alpha * hard
        np.testing.assert_allclose(np.exp(extras.log_prob), p, rtol=1e-4)
    fresh = kit.collect(playing, learner=learner, tasks=FACTORISED)
    _, metrics = update(learner, fresh, KEY, hp)
    np.testing.assert_allclose(metrics["rho"], 1.0, rtol=1e-4)
    other = with_(hp, alpha=1.0 - alpha if alpha != 0.4 else 0.9)
    _, metrics = update(learner, fresh, KEY, other)
    assert abs(float(metrics["rho"]) - 1.0) > 1e-3


def test_greedy_is_the_most_probable_action_of_the_mixture(kit):
    """For certain, where components of other modes share the control."""
    parts = (NARROW, Component())
    agent, hp, learner, rollout, _ = made(kit, FACTORISED, components=parts)
    ts, carry = kit.member(rollout.ts), agent.carry(kit.SLOTS)
    spec, config = kit.probe(*FACTORISED).spec, networks.NetworkConfig(hidden=(8,))
    network = components.make(spec, config, parts, ("torso", "core"))
    every = subsets.every_action(spec.action)

    @jax.jit
    def probs():
        rows = jax.tree.map(lambda x: x[None], (ts, carry.action))
        outputs, _ = network.unroll(learner.params, carry.core, *rows)
        outputs = jax.tree.map(lambda x: x[0], outputs)
        policies = network.policies(outputs, ts.action_mask)
        return jnp.exp(jnp.stack([p.log_prob_of(every) for p in policies]))

    each, act = np.asarray(probs()), jax.jit(agent.act)
    for alpha in (0.0, 0.3, 0.5, 0.7, 1.0):
        weights = np.asarray(mixing.path_weights(alpha, len(parts)))
        mode = every[np.tensordot(weights, each, 1).argmax(-1)]
        greedy = with_(hp, alpha=alpha, temperature=0.0)
        for key in jax.random.split(KEY, 4):
            action, _, extras = act(learner, carry, ts, key, greedy)
            np.testing.assert_array_equal(action, mode)
            np.testing.assert_array_equal(extras.log_prob, 0.0)


def test_the_mode_can_be_that_of_no_component():
    """Two that agree on their second best play it; a subset's actions are looked at."""
    space = heads.types.Discrete(4)
    rows = np.int32([[0], [1]])

    @jax.jit
    def modes(easy, hard, narrow):
        masks = [jnp.ones((1, n), bool) for n in (4, 4, 2)]
        logits = [jnp.log(x)[None] for x in (easy, hard, narrow)]
        wide = [heads.policy(space, *x) for x in zip(logits[:2], masks[:2])]
        choice = heads.policy(heads.types.Discrete(2), logits[2], masks[2])
        small = subsets.Embedded(choice, space, rows)
        half = jnp.full((1, 2), 0.5)
        pairs = (wide, [small, wide[1]])
        return [policy_mixture.Mixture(p, half, space).mode()[0] for p in pairs]

    easy, hard = np.float32([0.4, 0.35, 0.15, 0.1]), np.float32([0.15, 0.35, 0.4, 0.1])
    assert [int(x) for x in modes(easy, hard, np.float32([0.55, 0.45]))] == [1, 1]
    # Beyond the subset, where the wide policy is alone.
    hard = np.float32([0.1, 0.1, 0.7, 0.1])
    assert [int(x) for x in modes(easy, hard, np.float32([0.5, 0.5]))] == [2, 2]


def test_actions_are_drawn_with_the_mixtures_probabilities(kit):
    """Counts over many draws against the exact mixture, within 5 standard errors."""
    space, n = types_factorised(), 20_000
    logits = np.float32([0.1, -0.7, 1.2, -1.5, 0.4, 0.8])
    rows = subsets.table(space, ((0, 1), (2, 2)))
    every = subsets.every_action(space)

    @jax.jit
    def draw(key):
        wide = heads.policy(space, spread(logits, n), jnp.ones((n, 6), bool))
        choice = heads.policy(
            heads.types.Discrete(2),
            spread(np.float32([0.5, -1.0]), n),
            jnp.ones((n, 2), bool),
        )
        weights = spread(np.float32([0.7, 0.3]), n)
        mixed = policy_mixture.Mixture(
            [subsets.Embedded(choice, space, rows), wide], weights, space
        )
        action, log_prob = mixed.sample_and_log_prob(key)
        of_each = jax.vmap(lambda a: mixed.log_prob(spread(a, n))[0])(every)
        again, entropy = mixed.log_prob(action), mixed.entropy()[0]
        return subsets.number(space, action), log_prob, again, of_each, entropy

    number, log_prob, again, of_each, entropy = draw(KEY)
    p = np.exp(of_each)
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-5)
    count = np.bincount(number, minlength=len(every))
    assert (np.abs(count / n - p) < 5 * np.sqrt(p * (1 - p) / n) + 1e-9).all()
    np.testing.assert_allclose(entropy, -np.sum(p * np.log(p)), rtol=1e-4)
    np.testing.assert_allclose(log_prob, again)


def types_factorised():
    """Returns two groups of three choices."""
    return heads.types.Factorised((3, 3))


def spread(x, n):
    """Returns x repeated n times along a new first axis."""
    return jnp.broadcast_to(x, (n, *x.shape))


@pytest.mark.parametrize("control", ["mixture", "slot"])
def test_a_component_whose_actions_are_all_illegal_has_no_say(control, kit):
    """In control of everything else (alpha 0) it neither acts nor teaches there."""
    config = {"components": (NARROW, Component()), "control": control}
    agent, hp, learner, rollout, update = made(kit, FACTORISED, **config)
    # Legal are (1, 0) and (1, 1), which NARROW has not.
    legal = np.array([False, True, True, True, False])
    ts = rollout.ts._replace(
        action_mask=np.broadcast_to(legal, rollout.ts.action_mask.shape)
    )
    act, now = jax.jit(agent.act), kit.member(ts)
    for i in range(8):
        key = jax.random.fold_in(KEY, i)
        action, _, extras = act(learner, rollout.carry, now, key, hp)
        action = np.asarray(action)
        assert (action[:, 0] == 1).all() and (action[:, 1] < 2).all()
        assert (np.asarray(extras.log_prob) > np.log(1e-6)).all()
    action = np.broadcast_to(np.int32([1, 0]), rollout.action.shape)
    log_prob = np.full_like(rollout.extras.log_prob, np.log(0.5))
    extras = rollout.extras._replace(log_prob=log_prob)
    rollout = rollout._replace(ts=ts, action=action, extras=extras)
    metrics = jax.device_get(update(learner, rollout, KEY, hp)[1])
    assert metrics["kl"] == 0 and metrics["matching_loss"] == 0
    assert 0.5 < metrics["rho"] < 1.5


def test_every_memory_advances_on_every_step(kit):
    """Also that of a component without control; each is its own and starts at zero."""
    agent, hp, learner, rollout, _ = made(
        kit, ("both",), "lstm", share=("torso", "policy", "value")
    )
    carry = agent.carry(kit.SLOTS)
    assert len(carry.core) == 2
    _, after, _ = jax.jit(agent.act)(
        learner, carry, kit.member(rollout.ts), KEY, with_(hp, alpha=0.0)
    )
    memories = [np.concatenate(jax.tree.leaves(m)) for m in after.core.values()]
    assert all((np.abs(m) > 0).any() for m in memories)
    assert not np.allclose(*memories)


def test_a_linear_core_takes_the_place_of_a_memory(kit):
    """Feed-forward and LSTM behind one torso and one pair of heads: one memory."""
    parts = (Component(core="linear"), Component(core="lstm"))
    agent, _, learner, _, _ = made(
        kit, ("both",), components=parts, share=("torso", "policy", "value")
    )
    assert set(learner.params) == {"torso", "core_0", "core_1", "policy", "value"}
    memory = agent.carry(3).core
    assert memory["torso/core_0"] == () and jax.tree.leaves(memory["torso/core_1"])


def test_how_long_to_remember_is_for_those_with_a_memory(kit):
    """``core_memory`` beside a feed-forward component: the LSTM's gates alone have it."""
    spec = kit.probe("both").spec
    config = networks.NetworkConfig(hidden=(8,), core_size=8, core_memory=100)
    parts = (Component(core="linear"), Component(core="lstm"))
    share = ("torso", "policy", "value")
    params = jax.jit(components.make(spec, config, parts, share).init)(KEY)
    keep = np.asarray(params["core_1"]["bias"])[8:16]
    assert keep.max() > 1.5 and keep.min() >= 0
    with pytest.raises(ValueError, match="core_memory: core 'linear' has no memory"):
        components.make(spec, config, parts[:1], share)


def test_a_deep_torso_may_follow_a_shallow_one(kit):
    """Two torsos of their own and one linear core of one size: both policies act."""
    spec = kit.probe("both").spec
    image = jax.ShapeDtypeStruct((24, 24, 3), jnp.uint8)
    spec = spec._replace(obs={"image": image})
    parts = (Component(torso="impala_shallow"), Component(torso="impala_deep"))
    network = components.make(
        spec,
        networks.NetworkConfig(core="lstm", core_size=8),
        parts,
        ("core", "policy", "value"),
    )
    shapes = jax.eval_shape(network.init, KEY)
    assert set(shapes) == {"torso_0", "torso_1", "core", "policy", "value"}
    # One set of parameters, but a memory each: they have seen different features.
    assert set(network.initial_state(2)) == {"torso_0/core", "torso_1/core"}


EXPERTS = {"experts": True, "share": ("torso",)}


def test_only_the_tasks_own_expert_takes_part(kit):
    """In task 0's slots: expert 0 and the central policy learn, expert 1 does not."""
    one = made(kit, ("both", "masked"), "lstm", **EXPERTS)
    slots = np.arange(kit.SLOTS)

    @jax.jit
    def part(rollout, index):
        return minibatches.slots(rollout).take(index)

    found = moved(kit, one, part(one[3], slots), alpha=0.5)
    assert found["policy_0"] and found["core_0"] and found["policy_2"]
    assert not found["policy_1"] and not found["core_1"] and not found["value_1"]
    found = moved(kit, one, part(one[3], slots + kit.SLOTS), alpha=0.5)
    assert found["policy_1"] and found["policy_2"] and not found["policy_0"]


def test_the_central_policy_is_matched_to_the_tasks_expert(kit):
    """With matching alone it learns from both tasks, and no expert does."""
    one = made(kit, ("both", "masked"), "lstm", **EXPERTS)
    found = moved(kit, one, alpha=0.0, **ONLY_MATCHING)
    assert found["policy_2"] and not found["policy_0"] and not found["policy_1"]


def test_a_shared_head_is_the_wide_policy_cut_down(kit):
    """The narrow policy is the wide one, renormalised on its actions."""
    spec = kit.probe(*FACTORISED).spec
    network = components.make(
        spec, networks.NetworkConfig(hidden=(8,)), (NARROW, Component()), ALL_SHARED
    )
    _, _, learner, rollout, _ = made(
        kit, FACTORISED, components=(NARROW, Component()), share=ALL_SHARED
    )

    @jax.jit
    def log_probs(params, rollout):
        outputs, _ = network.unroll(
            params,
            {name: () for name in network.initial_state(1)},
            rollout.ts,
            unrolls.previous_actions(rollout),
        )
        easy, hard = network.policies(outputs, rollout.ts.action_mask)
        rows = np.asarray(NARROW.actions)
        return easy.log_prob_of(rows), jax.nn.log_softmax(hard.log_prob_of(rows))

    np.testing.assert_allclose(*log_probs(learner.params, rollout), atol=1e-5)


def test_matching_within_the_support_leaves_other_actions_free():
    """A student that agrees on the teacher's actions pays nothing for the rest."""
    space = heads.types.Discrete(4)

    @jax.jit
    def costs():
        wide = heads.policy(
            space, jnp.array([[1.0, 3.0, 0.0, 2.0]]), jnp.ones((1, 4), bool)
        )
        choice = heads.policy(
            heads.types.Discrete(2), jnp.array([[1.0, 0.0]]), jnp.ones((1, 2), bool)
        )
        teacher = subsets.Embedded(choice, space, np.array([[0], [2]], np.int32))
        args = [teacher], [None, wide], {(0, 1): jnp.ones(1)}
        loss = policy_mixture.matching_loss
        return loss(*args, within=True), loss(*args)

    within, everywhere = jax.device_get(costs())
    np.testing.assert_allclose(within, 0.0, atol=1e-6)
    assert everywhere[0] > 1.0


@pytest.mark.parametrize("control", ["step", "episode", "slot"])
def test_a_component_that_is_drawn_acts_and_learns_alone(control, kit):
    """Its own log-probability is kept; it changes when the ablation says so."""
    agent, hp, learner, rollout, update = made(
        kit, ("both",), control=control, share=("torso",)
    )
    hp = with_(hp, alpha=0.5)
    playing = player(agent, kit.probe("both"), hp)
    rollout = kit.collect(playing, learner=learner, steps=24, tasks=("both",))
    choice, first = (np.asarray(x) for x in (rollout.extras.choice, rollout.ts.first))
    changes = choice[1:] != choice[:-1]
    assert set(np.unique(choice)) == {0, 1}
    if control == "slot":
        assert not changes.any()
        # Of every task an equal share.
        np.testing.assert_array_equal(choice[0], np.arange(choice.shape[1]) % 2)
    if control == "episode":
        assert changes.any() and not changes[~first[1:-1]].any()
    if control == "step":
        assert changes[~first[1:-1]].any()
    _, metrics = update(learner, rollout, KEY, hp)
    np.testing.assert_allclose(metrics["rho"], 1.0, rtol=1e-4)


def test_two_passes_in_groups_of_slots_learn_more_than_one(kit):
    """Epochs and minibatches are gradient steps of their own, each slot once a pass."""
    _, hp, learner, rollout, once = made(kit, ("both", "masked"))
    _, _, _, _, often = made(kit, ("both", "masked"), epochs=2, minibatches=4)
    before = learner.params["value_0"]["value"]["kernel"]

    def distance(update):
        after, metrics = update(learner, rollout, KEY, hp)
        assert np.isfinite(metrics["loss"])
        kernel = after.params["value_0"]["value"]["kernel"]
        return float(np.linalg.norm(kernel - before))

    assert distance(often) > 2 * distance(once)
    order = jax.jit(minibatches.slots(rollout).order, static_argnums=(1, 2))(KEY, 2, 4)
    assert order.shape == (8, 2)
    for epoch in np.asarray(order).reshape(2, 8):
        assert sorted(epoch) == list(range(8))


@pytest.mark.parametrize(
    ("tasks", "config", "message"),
    [
        (("both",), {"control": "x"}, "control: 'x' is not known"),
        (("both",), {"matching": "x"}, "matching: 'x' is not known"),
        (("both",), {"share": ("x",)}, "share: 'x' is not known"),
        (
            FACTORISED,
            {"components": (NARROW, Component()), "matching": "reversed"},
            r"matching: 'reversed' is infinite where components\.1 does what",
        ),
        (
            ("both",),
            {"own_values": True, "components": (Component(),)},
            "own_values: there is nothing to mix",
        ),
        (
            ("both",),
            {"own_values": True, "control": "slot"},
            "own_values: there is nothing to mix",
        ),
        (
            ("both",),
            {"own_values": True, "value_scale": "popart"},
            "own_values: does not go with value_scale 'popart'",
        ),
        (("both",), {"components": ()}, "components: none given"),
        (("both",), {"minibatches": 0}, "minibatches: 0 given"),
        (
            ("both",),
            {"components": (Component(core="linear"), Component(core="lstm"))},
            "share: 'core' is shared, but the components' core differ",
        ),
        (
            ("both",),
            {
                "components": (Component(hidden=(4,)), Component()),
                "share": ("core", "policy"),
            },
            "share: components with features of different sizes",
        ),
        (
            FACTORISED,
            {"components": (Component(actions="few"), Component())},
            r"components\.0\.actions: 'few' is not known here, use one of all",
        ),
        (
            FACTORISED,
            {"components": (Component(), NARROW)},
            r"components\.1\.actions: the component before it has actions",
        ),
        (
            FACTORISED,
            {"components": (Component(actions=((5, 0),)), Component())},
            r"components\.0\.actions: row 0 is \[5, 0\]",
        ),
        (
            ("both", "masked"),
            {"experts": True, "components": (Component(),) * 3},
            "experts: with 3 components; give two",
        ),
        (
            ("both", "masked"),
            {"experts": True, "share": ("torso", "core", "policy")},
            "share: experts that share core and policy",
        ),
        (
            ("both", "masked"),
            {"experts": True, "share": ("torso",), "control": "slot"},
            "experts: does not go with control 'slot'",
        ),
    ],
)
def test_wrong_options_are_refused(tasks, config, message, kit):
    """When the agent is made or first drawn, in one line that names the field."""
    spec = kit.probe(*tasks).spec
    with pytest.raises(ValueError, match=message):
        agent = mix_and_match.make(spec, mix_and_match.Config(**config))
        jax.eval_shape(agent.init, KEY, mix_and_match.Hparams())
