"""What is DreamerV2's own: who learns from which loss, the slow critic, the replay."""

import dataclasses
import functools

import dreaming
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.agents.common import (
    behaviour_learning,
    imagination,
    model_learning,
    sequences,
)
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks import heads

KEY = jax.random.key(5)
SLOW = {"slow_critic_period": 3, "horizon": 4}
RATES = ("model_lr", "actor_lr", "critic_lr")


@functools.cache
def made(kit):
    """Returns (agent, learner, rollout, hp, compiled update)."""
    env = kit.probe("both")
    agent = kit.small("dreamer_v2", env.spec, **SLOW)
    hp = kit.quick("dreamer_v2")
    learner = jax.device_get(jax.jit(batch_draws(agent.init))(KEY, hp))
    rng, shape = np.random.default_rng(0), (kit.T + 1, kit.SLOTS)
    at = np.broadcast_to(np.arange(kit.T + 1)[:, None], shape)
    ts = types.TimeStep(
        {"vector": rng.normal(size=(*shape, 1)).astype(np.float32)},
        rng.normal(size=shape).astype(np.float32),
        (at != 2).astype(np.float32),
        at == 3,
        at == 2,
        np.zeros(shape, np.int32),
        np.ones((*shape, 2), bool),
    )
    action = rng.integers(0, 2, (kit.T, kit.SLOTS)).astype(np.int32)
    rollout = types.Rollout(ts, action, (), agent.carry(kit.SLOTS))
    return agent, learner, rollout, hp, kit.updater(agent)


def observed(agent, rollout, key, hp):
    """Returns what update 0 learns from: the batches of a replay with this rollout."""
    memory = agent.replay.init(rollout.ts.reward.shape[-1])
    observe = jax.jit(agent.replay.observe)
    return jax.device_get(observe(memory, rollout, key, hp, jnp.int32(0))[1])


@pytest.mark.parametrize("still", ["model", "actor", "critic"])
def test_a_rate_of_0_holds_its_part_alone(still, kit):
    """Each of the three optimisers has its own parameters."""
    _, learner, rollout, hp, update = made(kit)
    moving = {"model": "model_lr", "actor": "actor_lr", "critic": "critic_lr"}
    rates = {rate: 0.0 if part == still else 1e-3 for part, rate in moving.items()}
    after, _ = update(learner, rollout, KEY, kit.changed(hp, **rates))
    for part in moving:
        changed = [
            not np.array_equal(x, y)
            for x, y in zip(
                *(jax.tree.leaves(x.params[part]) for x in (learner, after))
            )
        ]
        assert any(changed) == (part != still), part


def test_each_loss_trains_its_own_parameters_alone(kit):
    """A part's step is the same, bit for bit, whatever must not reach it is.

    The model's step whatever actor and critic are; the actor's whatever the critic is,
    for only the slow copy counts; the critic's whatever the actor is paid for. Both
    gradients of the actor are there.
    """
    _, learner, rollout, hp, update = made(kit)
    hp = kit.changed(hp, reinforce=0.5)
    paid = kit.changed(hp, reinforce=0.25, entropy_cost=0.5)
    after, _ = update(learner, rollout, KEY, hp)
    for part, begun, own in (
        ("model", scaled(learner, "actor", "critic"), hp),
        ("actor", scaled(learner, "critic"), hp),
        ("critic", learner, paid),
    ):
        changed, _ = update(begun, rollout, KEY, own)
        assert same(changed.params[part], after.params[part]), part
        assert not same(changed.params, after.params)


def scaled(learner, *parts):
    """Returns the learner with other parameters of some parts."""
    other = {
        part: jax.tree.map(lambda x: -2.0 * x, learner.params[part]) for part in parts
    }
    return learner._replace(params=learner.params | other)


def same(x, y):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, x, y)))


def test_the_prior_learns_from_its_side_of_the_divergence_alone(kit):
    """KL(q ‖ sg(p)) is all there is with a balance of 0: it moves no prior."""
    _, learner, rollout, hp, update = made(kit)
    for balance in (0.0, 1.0):
        own = kit.changed(hp, kl_balance=balance, weight_decay=0.0)
        after, _ = update(learner, rollout, KEY, own)
        for name in ("prior", "prior_out"):
            before, now = (x.params["model"]["rssm"][name] for x in (learner, after))
            assert same(before, now) == (balance == 0.0), (balance, name)


def test_an_empty_replay_moves_nothing(kit):
    """Three steps are no sequence; there is one with the next three."""
    agent, learner, rollout, hp, _ = made(kit)
    ts, action = jax.tree.map(lambda x: x[:4], rollout.ts), rollout.action[:3]
    short = rollout._replace(ts=ts, action=action)
    observe, update = jax.jit(agent.replay.observe), jax.jit(agent.update)
    memory = agent.replay.init(kit.SLOTS)
    for step, learns in enumerate((False, True)):
        step = jnp.int32(step)
        memory, drawn = observe(memory, short, KEY, hp, step)
        assert (np.asarray(drawn.live) == learns).all()
        found = update(learner, drawn, KEY, hp, step)
        after, metrics, _ = jax.device_get(found)
        assert any(metrics.values()) == learns and after.updates == 1
        assert same(after._replace(updates=learner.updates), learner) != learns


def test_rewards_are_learned_after_their_transform(kit):
    """By default tanh: of 100 it is that of 1,000, and not that of 1."""
    _, learner, rollout, hp, update = made(kit)

    def learned(reward):
        reward = np.full_like(rollout.ts.reward, reward)
        ts = rollout.ts._replace(reward=reward)
        return update(learner, rollout._replace(ts=ts), KEY, hp)[0].params

    large = learned(100.0)
    assert same(learned(1000.0), large) and not same(learned(1.0), large)


def test_nothing_is_foreseen_after_an_end(kit):
    """From a terminal step on only its own reward counts, whatever is predicted."""
    _, learner, rollout, hp, update = made(kit)
    slow = jax.tree.map(lambda x: -2.0 * x, learner.stats.slow_critic)
    other = learner._replace(stats=learner.stats._replace(slow_critic=slow))
    for discount in (0.0, 1.0):
        ts = rollout.ts._replace(discount=np.full_like(rollout.ts.discount, discount))
        found, changed = (
            update(begun, rollout._replace(ts=ts), KEY, hp)[0].params["critic"]
            for begun in (learner, other)
        )
        assert same(found, changed) == (discount == 0.0), discount


def test_an_imagined_action_is_judged_at_the_state_it_was_chosen_at(kit):
    """A policy that is sure has log π(a) = 0 of what it chose, and no loss by REINFORCE."""
    _, learner, rollout, hp, update = made(kit)
    actor = learner.params["actor"]
    sure = actor | {"out": jax.tree.map(lambda x: 1e5 * x, actor["out"])}
    learner = learner._replace(params=learner.params | {"actor": sure})
    own = kit.changed(hp, reinforce=1.0, entropy_cost=0.0)
    _, metrics = update(learner, rollout, KEY, own)
    assert abs(float(metrics["actor_loss"])) < 1e-3


def test_the_slow_critic_is_a_copy_every_so_many_steps(kit):
    """Two gradient steps an update, period 3: a copy at steps 3, 6, in between constant."""
    _, learner, _, hp, _ = made(kit)
    config = kit.config("dreamer_v2", kit.probe("both").spec, **SLOW).replay
    assert sequences.gradient_steps(config, kit.T * kit.SLOTS) == 2
    slow_copy = jax.jit(behaviour_learning.slow_copy, static_argnums=3)
    stats = learner.stats
    critic = learner.params["critic"]
    for step in range(1, 7):
        critic = jax.tree.map(lambda x: x + 1.0, critic)
        before, stats = stats, slow_copy(stats, critic, hp.behaviour, 3)
        expected = critic if step % 3 == 0 else before.slow_critic
        for x, y in zip(jax.tree.leaves(stats.slow_critic), jax.tree.leaves(expected)):
            np.testing.assert_array_equal(x, y)
    half = hp.behaviour._replace(slow_critic_rate=0.5)
    further = jax.tree.map(lambda x: np.asarray(x) + 1.0, stats.slow_critic)
    moved = slow_copy(stats._replace(steps=2), further, half, 3)
    for x, y in zip(jax.tree.leaves(moved.slow_critic), jax.tree.leaves(further)):
        np.testing.assert_allclose(x, y - 0.5, 1e-5, 1e-6)


def test_the_copy_is_of_the_critic_after_its_step(kit):
    """Bit for bit: two gradient steps after the first, the last of them is the third."""
    _, learner, rollout, hp, update = made(kit)
    begun = learner._replace(stats=learner.stats._replace(steps=np.int32(1)))
    after, _ = update(begun, rollout, KEY, hp)
    assert after.stats.steps == 3
    assert same(after.stats.slow_critic, after.params["critic"])
    assert not same(after.stats.slow_critic, learner.stats.slow_critic)


def test_a_sequences_actions_are_those_that_led_to_its_observations(kit, monkeypatch):
    """Also across the rows of the ring: the action of row t meets observation t + 1."""
    agent, _, rollout, hp, _ = made(kit)
    drawn = observed(agent, rollout, KEY, hp)
    actor = imagination.actor(
        types.Discrete(2), dreaming.SMALL["rssm"], (8,), "float32"
    )
    sequences_of = jax.jit(functools.partial(model_learning.sequences_of, actor.encode))
    batch = jax.device_get(sequences_of(jax.tree.map(lambda x: x[0], drawn.rows)))
    assert drawn.live.all() and batch.ts.reward.shape == (5, 6)
    split = []
    monkeypatch.setattr(
        model_learning.tree,
        "shard",
        lambda given, axis=0: jax.tree.map(
            lambda x: split.append(x.shape[axis]), given
        ),
    )
    model_learning.shard(batch)  # Between devices: by its six sequences, every leaf.
    assert split == [6] * len(jax.tree.leaves(batch))
    obs, action = rollout.ts.obs["vector"][..., 0], rollout.action
    for n in range(6):
        seen = batch.ts.obs["vector"][:, n, 0]
        (start,), (slot,) = np.where(obs == seen[0])
        np.testing.assert_array_equal(seen, obs[start : start + 5, slot])
        np.testing.assert_array_equal(
            batch.action_tm1[:, n].argmax(-1),
            action[start - 1 : start + 4, slot],
        )
        np.testing.assert_array_equal(
            batch.ts.first[:, n], rollout.ts.first[start : start + 5, slot]
        )


def test_a_single_batch_is_learned_by_heart(kit):
    """The model's observations come close to it, and the posterior still says something.

    The same rollout and key, so the same sequences and draws of latents.
    """
    _, learner, rollout, hp, update = made(kit)
    hp = kit.changed(hp, model_lr=1e-2)
    _, before = update(learner, rollout, KEY, hp)
    for _ in range(300):
        learner, after = update(learner, rollout, KEY, hp)
    before, after = jax.device_get((before, after))
    assert after["image_loss"] < 0.05 * before["image_loss"]
    assert after["reward_loss"] < 0.05 * before["reward_loss"]
    assert after["kl"] > 0.1


def test_updates_before_the_first_are_as_many_as_the_prefill_takes():
    """Of 24 steps each: 24 are there after one, 25 after two."""
    for prefill, updates in ((0, 0), (1, 1), (24, 1), (25, 2), (48, 2)):
        config = sequences.SequenceConfig(train_every=12.0, prefill=prefill)
        assert sequences.waits(config, 2) == updates


def test_it_waits_until_enough_is_there(kit):
    """Before ``prefill`` steps nothing moves; the update after them learns."""
    replay = dataclasses.replace(dreaming.SMALL["replay"], prefill=30)
    assert sequences.waits(replay, 2) == 2  # of 24 steps each
    agent = kit.small("dreamer_v2", kit.probe("both").spec, replay=replay, **SLOW)
    _, learner, rollout, hp, _ = made(kit)
    drawn = observed(agent, rollout, KEY, hp)
    update = jax.jit(agent.update)
    for step, learns in ((0, False), (1, False), (2, True)):
        found = update(learner, drawn, KEY, hp, jnp.int32(step))
        after, metrics, _ = jax.device_get(found)
        assert (after.updates > 0) == learns
        assert (metrics["grad_norm"] > 0) == learns
        same = jax.tree.map(np.array_equal, after.params, learner.params)
        assert all(jax.tree.leaves(same)) != learns


def test_imagined_actions_are_legal_and_follow_their_probabilities():
    """Drawn by inverting the cumulative probabilities; never what is masked."""
    config = dreaming.SMALL["rssm"]
    space = types.Factorised((2, 3))
    actor = imagination.actor(space, config, (8,), "float32")
    logits = np.log(np.float32([0.25, 0.75, 0.5, 0.2, 0.3]))
    mask = np.array([True, True, True, False, True])

    @jax.jit
    def draw(*given):
        policy = heads.policy(space, *(jnp.broadcast_to(x, (4000, 5)) for x in given))
        action, encoded = actor.sample(policy, KEY)
        return action, encoded, actor.encode(action)

    action, encoded, expected = jax.device_get(draw(logits, mask))
    np.testing.assert_array_equal(encoded, expected)
    counts = [np.bincount(action[:, i], minlength=3) / 4000 for i in (0, 1)]
    np.testing.assert_allclose(counts[0], [0.25, 0.75, 0], atol=0.03)
    np.testing.assert_allclose(counts[1], [0.625, 0, 0.375], atol=0.03)


def test_box_actions_pass_the_gradient_of_their_mean():
    space = types.Box((-2.0,), (2.0,))
    actor = imagination.actor(space, dreaming.SMALL["rssm"], (8,), "float32")
    x, mask = jnp.ones((3, 20)), jnp.ones((3, 1), bool)

    def reached(params):
        return jnp.sum(actor.sample(actor.policy(params, x, mask, 1e-3), KEY)[1])

    params = jax.jit(batch_draws(actor.init))(KEY)
    slope = jax.jit(jax.grad(reached))(params)
    assert np.asarray(slope["out"]["kernel"])[:, 0].any()


REFUSED = [
    ({"units": 0}, "units: got 0"),
    ({"horizon": 1}, "horizon: .* at least 2"),
    ({"actor_gradient": "both"}, "actor_gradient: 'both' is not known"),
    ({"dtype": "float16"}, "dtype: 'float16' is not known"),
    ({"rewards": "sqrt"}, "rewards: unknown 'sqrt'"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_a_setting_that_cannot_be_is_refused(changes, message, kit):
    with pytest.raises(ValueError, match=message):
        kit.small("dreamer_v2", kit.probe("both").spec, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_every": 0}, "train_every: got 0"),
        ({"length": 1}, "length: 1 is no sequence"),
        ({"batch": 0}, "batch: got 0"),
        ({"prefill": -1}, "prefill: got -1"),
    ],
)
def test_a_replay_that_cannot_be_is_refused(changes, message, kit):
    config = dataclasses.replace(dreaming.SMALL["replay"], **changes)
    with pytest.raises(ValueError, match=message):
        sequences.make(kit.probe("both").spec, config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_every": 25}, "train_every: 25 steps .* give at most 24"),
        ({"train_every": 7}, "train_every: 7 steps .* 3.42857 .*; give 6 or 8"),
        ({"length": 200}, "capacity: 400 rows .* need at least"),
    ],
)
def test_what_does_not_fit_the_run_is_refused_when_it_is_traced(changes, message, kit):
    """A train ratio that rounds to nothing; a sequence longer than the replay keeps."""
    _, _, rollout, hp, _ = made(kit)
    config = dataclasses.replace(dreaming.SMALL["replay"], **changes)
    agent = kit.small("dreamer_v2", kit.probe("both").spec, replay=config)
    with pytest.raises(ValueError, match=message):
        observed(agent, rollout, KEY, hp)


def test_reinforce_alone_is_refused_for_box_actions(kit):
    spec = kit.probe("both_box").spec
    with pytest.raises(ValueError, match="actor_gradient: 'reinforce' alone"):
        kit.small("dreamer_v2", spec, actor_gradient="reinforce")
    assert imagination.actor_gradient(spec.action, "auto") == "dynamics"
    assert imagination.actor_gradient(types.Discrete(2), "auto") == "reinforce"
