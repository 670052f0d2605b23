"""What Algorithm Distillation promises beside the contract of every agent."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reset_rows import ACTIONS, stream, without_resets

from mtrl_jax import hparams as overrides
from mtrl_jax import random, types
from mtrl_jax.agents import algorithm_distillation as ad
from mtrl_jax.agents import demonstrator
from mtrl_jax.agents.common import exploration
from mtrl_jax.data import histories, windows
from mtrl_jax.engine import context_runner, fused_runner, offline_runner
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.envs import core, dark, expert_labels
from mtrl_jax.networks import heads
from mtrl_jax.networks.transformers import transformer

KEY = jax.random.key(2)
SMALL = transformer.TransformerConfig(
    layers=2, width=16, heads=2, feedforward=32, context=16
)


def spec_of():
    space = types.Discrete(ACTIONS)
    obs = {"vector": jax.ShapeDtypeStruct((2,), jnp.float32)}
    return types.EnvSpec(obs, space, (types.TaskSpec("x", obs, space),))


def hparams(**fields):
    given = {"warmup_updates": 1.0, "learning_rate": 1e-2} | fields
    return jax.tree.map(jnp.float32, overrides.override(ad.Hparams(), given))


SET = {"encoding": "set", "positions": "none"}


@functools.cache
def made(target="taken", **changes):
    """Returns (agent, learner, update); the head is sharp, so that inputs differ."""
    config = dataclasses.replace(SMALL, **changes)
    agent = ad.make(spec_of(), ad.Config(config, target=target))
    learner = jax.device_get(jax.jit(batch_draws(agent.init))(KEY, hparams()))
    params = learner.params
    head = jax.tree.map(lambda x: 100.0 * x, params["policy"])
    learner = learner._replace(params={**params, "policy": head})
    return agent, learner, jax.jit(functools.partial(updated, agent))


def updated(agent, learner, rollout, key, hp):
    """Returns (learner, metrics) after the agent's update 0."""
    return agent.update(learner, rollout, key, hp, jnp.int32(0))[:2]


def log_probs(learner, rollout, **changes):
    """Returns log P(a_t | history) [T, B] of a whole rollout at once."""
    return np.asarray(reader(**changes)(learner.params, rollout))


@functools.cache
def reader(**changes):
    network = transformer.make(spec_of(), dataclasses.replace(SMALL, **changes))

    @jax.jit
    def read(params, rollout):
        logits = network.unroll(params, ad.steps_of(rollout))
        mask = rollout.ts.action_mask[:-1]
        policy = heads.policy(types.Discrete(ACTIONS), logits, mask)
        return policy.log_prob(rollout.action)

    return read


def close(x, y):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), x, y)


def test_a_row_has_the_action_and_reward_before_it_and_ends_have_none():
    """Episodes of 2 and 1: the last reward stands in the row of the next first step."""
    rollout = stream([2, 1], slots=1)
    a, r = rollout.action[:, 0], rollout.ts.reward[:, 0]
    steps = jax.device_get(jax.jit(ad.steps_of)(rollout))
    steps = jax.tree.map(lambda x: x[:, 0], steps)
    np.testing.assert_array_equal(steps.live, [1, 1, 0, 1, 0])
    np.testing.assert_array_equal(steps.has_prev, [0, 1, 1, 1, 1])
    rows = [1, 3]  # Live, and something is before them.
    np.testing.assert_array_equal(steps.prev_action[rows], [a[0], a[1]])
    np.testing.assert_array_equal(steps.prev_reward[rows], [r[1], r[2]])
    np.testing.assert_array_equal(steps.prev_done[rows], [False, True])
    obs = rollout.ts.obs["vector"][:, 0]
    np.testing.assert_array_equal(steps.prev_obs["vector"][rows], obs[[0, 1]])


@pytest.mark.parametrize("changes", [{}, SET], ids=["step", "set"])
def test_windows_with_and_without_the_steps_that_reset_teach_the_same(changes):
    """The step that ends an episode is as if absent, whatever was sent into it."""
    _, learner, update = made(**changes)
    rollout = stream([3, 1, 2])
    # Plain steps: adaptive ones divide rounding by rounding where gradients are 0.
    hp = hparams(adam_eps=1e-2)
    one = update(learner, rollout, KEY, hp)
    close(one, update(learner, without_resets(rollout), KEY, hp))
    dead = rollout.ts.last[:-1]
    other = np.where(dead, (rollout.action + 1) % ACTIONS, rollout.action)
    close(one, update(learner, rollout._replace(action=other), KEY, hp))


def test_rows_beyond_the_end_of_a_history_do_not_count():
    """A window longer than its history is the history."""
    _, learner, update = made()
    whole = without_resets(stream([3, 4, 2]))
    live = np.arange(9)[:, None] < np.array([[5, 5]])
    longer = whole._replace(extras=windows.Extras(live))
    ts = jax.tree.map(lambda x: x[:6], whole.ts)
    shorter = types.Rollout(
        ts, whole.action[:5], windows.Extras(np.ones((5, 2), bool)), ()
    )
    close(*(update(learner, x, KEY, hparams()) for x in (longer, shorter)))


@pytest.mark.parametrize(
    ("watched", "changes"), [(0, {}), (6, {}), (6, SET)], ids=["0", "6", "6-set"]
)
def test_acting_step_by_step_gives_what_training_reads_at_every_step(watched, changes):
    """Across episodes, with nothing of the future: act has not seen it. Also after steps
    of somebody else, which it is shown."""
    agent, learner, _ = made(**changes)
    rollout = stream([3, 1, 4])
    act = jax.jit(agent.act)
    carry, actions, said = agent.carry(2), [], []
    for t in range(len(rollout.action)):
        ts = jax.tree.map(lambda x, t=t: x[t], rollout.ts)
        action, carry, log_prob = act(learner, carry, ts, jax.random.key(t), hparams())
        if t < watched:
            action = rollout.action[t]
            carry = ad.observe_action(carry, ts, action)
        actions.append(action)
        said.append(log_prob)
    live = ~rollout.ts.last[:-1]
    live[:watched] = False
    read = log_probs(learner, rollout._replace(action=np.stack(actions)), **changes)
    np.testing.assert_allclose(np.stack(said)[live], read[live], atol=1e-4)
    assert np.std(np.stack(said)[live]) > 0.1


def test_the_reward_of_an_episodes_last_action_is_known_in_the_next_one():
    """What happened at the end of an episode is often all there is to learn from."""
    _, learner, _ = made()
    rollout = stream([2, 3])
    reward = rollout.ts.reward.copy()
    reward[2] += 5.0  # Arrived with the step that is last.
    changed = rollout._replace(ts=rollout.ts._replace(reward=reward))
    difference = np.abs(log_probs(learner, changed) - log_probs(learner, rollout)).max(
        1
    )
    assert (difference[:2] < 1e-6).all() and difference[3] > 1e-3


def test_a_context_of_one_step_is_memoryless():
    """The past beyond the row itself changes nothing; with more context it does."""
    rollout = stream([6])

    def last_said(context, obs):
        agent, learner, _ = made(context=context)
        act, carry = jax.jit(agent.act), agent.carry(2)
        for t in range(3):
            ts = jax.tree.map(lambda x, t=t: x[t], rollout.ts)
            if t == 0:
                ts = ts._replace(obs={"vector": ts.obs["vector"] + obs})
            action, carry, said = act(learner, carry, ts, KEY, hparams())
            carry = carry._replace(action=jnp.zeros_like(action))
        return np.asarray(said)

    np.testing.assert_array_equal(last_said(1, 0.0), last_said(1, 3.0))
    assert not np.allclose(last_said(4, 0.0), last_said(4, 3.0), atol=1e-4)


def test_a_members_horizon_is_a_shorter_window_of_its_own():
    """In one population: 0 is the whole window, 3 are windows of three rows, and all
    are what they are alone."""
    agent, learner, update = made(layers=1)
    whole = without_resets(stream([3, 4, 2]))
    horizons = jnp.asarray([0.0, 3.0, 16.0])
    # Plain steps: adaptive ones divide rounding by rounding where gradients are 0.
    plain = hparams(adam_eps=1e-2)
    hps = jax.vmap(lambda x: plain._replace(horizon=x))(horizons)
    one = functools.partial(updated, agent)
    several = jax.jit(jax.vmap(one, (None, None, None, 0)))
    together = several(learner, whole, KEY, hps)
    for i in range(3):
        hp, own = (jax.tree.map(lambda x, i=i: x[i], x) for x in (hps, together))
        close(own, update(learner, whole, KEY, hp))

    def pieces(x):
        """[9, B, ...] as three windows of [3, B, ...] beside each other."""
        return jnp.concatenate([x[i : i + 3] for i in (0, 3, 6)], axis=1)

    rows = types.Rollout(
        jax.tree.map(lambda x: pieces(x[:9]), whole.ts),
        *(jax.tree.map(pieces, x) for x in (whole.action, whole.extras)),
        (),
    )
    # A last row, of which nothing is read.
    ts = jax.tree.map(lambda x: jnp.concatenate([x, x[:1]]), rows.ts)
    short = update(learner, rows._replace(ts=ts), KEY, plain)
    close(jax.tree.map(lambda x: x[1], together), short)
    losses = np.asarray(together[1]["loss"])
    assert losses[0] == losses[2] and abs(losses[0] - losses[1]) > 1e-3


def test_a_horizon_is_whole_steps_and_at_least_one():
    """0 is as far as anything reaches, and so is infinity."""
    given = {0.0: ad._ALL, 0.1: 1, 1.0: 1, 2.9: 2, 100.0: 100, np.inf: ad._ALL}
    horizon_of = jax.jit(ad.horizon_of)
    for value, expected in given.items():
        steps = horizon_of(hparams(horizon=value))
        assert (int(steps), steps.dtype) == (expected, jnp.int32)


@pytest.mark.parametrize(("context", "floor"), [(16, 0.0), (1, float(np.log(2)))])
def test_one_history_is_learned_to_the_entropy_of_what_is_known(context, floor):
    """Known by heart with memory; without, two actions in turn are a coin's tosses."""
    agent, learner, _ = made(context=context)
    rollout = without_resets(stream([8], slots=1))
    # Rows that all look alike, also by what is before them.
    ts = jax.tree.map(lambda x: np.broadcast_to(x[1:2], x.shape), rollout.ts)
    action = np.int32([0, 1, 1, 0, 1, 0, 0, 1])[:, None]
    if context == 1:
        # Eight histories of one step instead of one of eight.
        flat = jax.tree.map(lambda x: np.swapaxes(x[:8], 0, 1), ts)
        ts = jax.tree.map(lambda x: np.concatenate([x, x]), flat)
        action = action.T
    rollout = types.Rollout(ts, action, windows.Extras(np.ones(action.shape, bool)), ())
    hp = hparams()

    def learn(learner, i):
        return updated(agent, learner, rollout, jax.random.fold_in(KEY, i), hp)

    _, metrics = jax.jit(lambda s: jax.lax.scan(learn, s, jnp.arange(150)))(learner)
    loss, accuracy = (np.asarray(metrics[x])[-1] for x in ("loss", "accuracy"))
    assert abs(loss - floor) < 0.02
    np.testing.assert_allclose(accuracy, 1.0 if floor == 0 else 0.5)


def test_the_target_may_be_what_had_been_best_instead_of_what_was_done():
    """The labels are learned and the actions are not; without labels nothing can be."""
    agent, learner, update = made("optimal", **SET)
    rollout = without_resets(stream([3, 4, 2]))
    best = (rollout.action + 1 + np.int32([[0, 1]])) % ACTIONS
    labelled = rollout._replace(extras=rollout.extras._replace(optimal=best))

    def learn(learner, i):
        return updated(agent, learner, labelled, jax.random.fold_in(KEY, i), hparams())

    learnt, metrics = jax.jit(lambda s: jax.lax.scan(learn, s, jnp.arange(200)))(
        learner
    )
    assert metrics["accuracy"][-1] == 1.0 and metrics["loss"][-1] < 0.05
    assert np.exp(log_probs(learnt, rollout, **SET)).max() < 0.1
    with pytest.raises(ValueError, match=r"^target: 'optimal', but nothing says"):
        update(learner, rollout, KEY, hparams())
    with pytest.raises(ValueError, match=r"^target: 'best' is not known, use one of"):
        made("best")


def test_label_smoothing_is_over_the_legal_actions_and_not_in_the_reported_loss():
    """(1 - s)(-log p_a) + s mean over legal actions of -log p, by hand."""
    logits = np.log(np.float32([[[0.5, 0.25, 0.25]], [[0.7, 0.2, 0.1]]]))
    mask = np.array([[[True, True, False]], [[True, True, True]]])
    action, live = np.array([[0], [2]]), np.array([[True], [False]])

    @jax.jit
    def loss(hp):
        policy, uniform = (
            heads.policy(types.Discrete(ACTIONS), x, mask)
            for x in (jnp.asarray(logits), jnp.zeros_like(logits))
        )
        return ad.loss(policy, uniform, action, live, hp)

    total, metrics = loss(hparams(label_smoothing=0.1))
    p = np.array([2 / 3, 1 / 3])
    nats = -np.log(p[0])
    np.testing.assert_allclose(metrics["loss"], nats, rtol=1e-5)
    smooth = 0.9 * nats + 0.1 * -np.log(p).mean()
    np.testing.assert_allclose(total, smooth, rtol=1e-5)
    np.testing.assert_allclose(metrics["entropy"], -(p * np.log(p)).sum(), rtol=1e-5)
    np.testing.assert_allclose(metrics["accuracy"], 1.0)


def test_dropout_draws_from_the_updates_key():
    """Another key, another update; without dropout, the same."""
    rollout = stream([5, 4])
    keys = jax.random.split(KEY)
    for rate, same in ((0.0, True), (0.5, False)):
        _, learner, update = made(dropout=rate)
        norms = [update(learner, rollout, k, hparams())[1]["grad_norm"] for k in keys]
        assert bool(norms[0] == norms[1]) is same


@pytest.mark.slow
def test_frozen_weights_learn_goals_that_were_never_trained_on():
    """Returns grow from episode to episode; without the past episodes they do not."""
    options = {"size": 5, "length": 10}
    env = spread({**options, "tasks": "train"}, members=20, slots=20)
    data = demonstrations_on(env, episodes=12, steps=11)
    finite, returns = {}, {}
    for context in (40, 5):
        config = dataclasses.replace(SMALL, width=32, hidden=(64,), context=context)
        agent = ad.make(env.spec, ad.Config(config))
        hp = hparams(learning_rate=3e-3, warmup_updates=50.0, decay_updates=400.0)
        hp = jax.tree.map(lambda x: x[None], hp)
        runner = offline_runner.make(
            agent,
            lambda key, data, t=context: windows.sample(key, data, 2560 // t, t),
            members=1,
            updates_per_chunk=100,
        )
        state, chunk = runner.init(random.roots(0, 1), hp), jax.jit(runner.chunk)
        for _ in range(4):
            state, out = chunk(state, hp, data)
        test = spread({**options, "tasks": "test"}, members=1, slots=80)
        evaluation = context_runner.make(agent, test, episodes=30, steps_per_chunk=330)
        tested, _ = jax.jit(evaluation.chunk)(
            evaluation.init(random.roots(1, 1), state.learner), hp
        )
        finite[context] = bool(out.finite.all())
        returns[context] = np.asarray(tested.returns)[0].mean(0)
    assert all(finite.values())
    first, last = returns[40][0], returns[40][-5:].mean()
    assert first < 2.0 and last > max(4.0, 2.0 * first), returns
    assert returns[5][-5:].mean() < 0.7 * last, returns


def spread(options, members, slots):
    """Returns dark rooms of many goals: of members, or of the slots of a single one."""
    axis = "population" if members > 1 else "slot"
    goals = dark.tasks_of("room", options)
    return core.spread(dark.task("room", options), goals, (members, slots), axis)


def demonstrations_on(env, episodes, steps):
    """Returns ``windows.Data`` of demonstrators of less and less noise, resets left out."""
    informed = expert_labels.give(env, lambda x: dark.optimal_action(x.params, x.inner))
    maker = fused_runner.make(
        demonstrator.make(informed.spec),
        informed,
        unroll_length=steps,
        updates_per_chunk=episodes,
        record=True,
    )
    hp = demonstrator.Hparams(exploration.Hparams(decay_updates=0.9 * episodes))
    hp = jax.tree.map(lambda x: jnp.full(env.batch[0], x), hp)
    state = maker.init(random.roots(0, env.batch[0]), hp)
    ts, action, *_ = jax.jit(maker.chunk)(state, hp)[1].history

    def by_history(x):
        return np.moveaxis(np.asarray(x), 0, 2).reshape(-1, x.shape[0], *x.shape[3:])

    ts, action = jax.tree.map(by_history, (ts, action))
    return windows.put(
        histories.Histories(
            obs={name: ts.obs[name][:, :-1] for name in env.spec.obs},
            action=action,
            reward=ts.reward[:, 1:],
            discount=ts.discount[:, 1:],
            first=ts.first[:, :-1],
            last=ts.last[:, 1:],
            reset=ts.last[:, :-1],
            action_mask=None,
            task=ts.task[:, 0],
            spec=env.spec,
            config=None,
        )
    )
