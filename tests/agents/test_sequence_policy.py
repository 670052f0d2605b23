"""What sequence policies promise beside the contract of every agent."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reset_rows

from mtrl_jax import hparams as overrides
from mtrl_jax import types
from mtrl_jax.agents import algorithm_distillation as ad
from mtrl_jax.agents import (
    decision_transformer,
    gato,
    multi_game_decision_transformer,
    sequence_policy,
)
from mtrl_jax.agents.common import action_names, future, sequence_settings
from mtrl_jax.data import columns, windows
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.networks import heads
from mtrl_jax.networks.transformers import outlook, transformer

KEY = jax.random.key(2)
ACTIONS = reset_rows.ACTIONS
STEP = transformer.TransformerConfig(
    layers=2, width=16, heads=2, feedforward=32, context=16
)
TRIPLE = dataclasses.replace(
    STEP, encoding="triple", positions="learned", acting="recompute"
)
RETURNS = outlook.Outlook(bins=9, low=0.0, high=40.0)
COUNTED = dataclasses.replace(RETURNS, steps=6)
FULL = outlook.Outlook(
    bins=9, low=0.0, high=40.0, steps=6, rewards=True, vectors=True, values=True
)


def spec_of(space=None, obs=None):
    space = space or types.Discrete(ACTIONS)
    obs = obs or {"vector": jax.ShapeDtypeStruct((2,), jnp.float32)}
    return types.EnvSpec(obs, space, (types.TaskSpec("x", obs, space),))


def hparams(**fields):
    given = {"warmup_updates": 1.0, "learning_rate": 1e-2} | fields
    return jax.tree.map(
        jnp.float32, overrides.override(sequence_policy.Hparams(), given)
    )


AD = {"across": 1.0, "return_gate": 0.0}


@functools.cache
def made(network=STEP, given=RETURNS, infers=False):
    """Returns (agent, learner, read, act, update); the heads are sharp.

    With values actions may be permuted, too.
    """
    config = sequence_policy.Config(
        network, outlook=given, infers=infers, permutes=given.values
    )
    agent = sequence_policy.make("it", spec_of(), config)
    net = transformer.make(spec_of(), network, given)
    learner = jax.device_get(jax.jit(batch_draws(agent.init))(KEY, hparams()))
    sharp = {
        name: jax.tree.map(lambda x: 100.0 * x, learner.params[name])
        for name in ("policy", "returns")
        if name in learner.params
    }
    learner = learner._replace(params={**learner.params, **sharp})

    def read(params, rollout, hp):
        """Returns what is Said at each step, and which steps are to be predicted."""
        found = future.columns_of(rollout)
        steps, teaches = sequence_policy.rows_of(rollout, found, KEY, hp)
        steps = steps._replace(prev_reward=hp.reward_gate * steps.prev_reward)
        if given.steps:
            steps = sequence_policy.counted(steps, found.episode_step, hp)
        alone = jnp.asarray(hp.across < 1)
        seen = ad.horizon_of(hp)
        return net.unroll(params, steps, horizon=seen, alone=alone), teaches

    def update(learner, rollout, hp):
        return agent.update(learner, rollout, KEY, hp, jnp.int32(0))[:2]

    return agent, learner, jax.jit(read), jax.jit(agent.act), jax.jit(update)


def windows_of(lengths, seed=0, slots=2, complete=True, prompt=0):
    """Returns a Rollout as windows have it, resets left out, with columns."""
    rng = np.random.default_rng(seed)
    rows = sum(lengths)
    begins = np.cumsum([0, *lengths[:-1]])
    first = np.zeros((rows + 1, slots), bool)
    first[[*begins, rows]] = True
    last = np.zeros_like(first)
    last[np.cumsum(lengths)] = True
    reward = rng.integers(0, 4, last.shape).astype(np.float32)
    reward[0] = 0
    ts, action = reset_rows.drawn(rng, reward, first, last)
    number = np.repeat(np.arange(len(lengths)), lengths)
    to_go = np.zeros((rows, slots), np.float32)
    for e, begin in enumerate(begins):
        own = slice(begin, begin + lengths[e])
        to_go[own] = np.cumsum(reward[1:][own][::-1], axis=0)[::-1]
    shape = (rows, slots)
    known = columns.Columns(
        to_go,
        np.broadcast_to(np.int32(np.arange(rows) - begins[number])[:, None], shape),
        np.ones(shape, np.float32),
        np.full(shape, complete),
    )
    shown = np.broadcast_to((np.arange(rows) < prompt)[:, None], shape)
    extras = windows.Extras(
        np.ones(shape, bool), columns=known, prompt=shown if prompt else None
    )
    return types.Rollout(ts, action, extras, ())


def some_illegal(rollout):
    """Returns a rollout of whose first slot action 2 is illegal, and nobody takes it."""
    mask = np.array([[True, True, False], [True, True, True]])
    legal = np.broadcast_to(mask, rollout.ts.action_mask.shape)
    ts = rollout.ts._replace(action_mask=legal)
    return rollout._replace(action=rollout.action % 2, ts=ts)


def with_returns(rollout, to_go, complete=None):
    known = rollout.extras.columns._replace(return_to_go=to_go)
    if complete is not None:
        known = known._replace(complete=complete)
    return rollout._replace(extras=rollout.extras._replace(columns=known))


def plus(x, own, amount):
    """Returns x with ``amount`` added to ``x[own]``."""
    x = x.copy()
    x[own] += amount
    return x


@jax.jit
def log_prob_of(logits, mask, action):
    return heads.policy(types.Discrete(ACTIONS), logits, mask).log_prob(action)


renamed_by = jax.jit(
    functools.partial(action_names.of_rollout, types.Discrete(ACTIONS))
)


def moved(x, y):
    """Returns which steps [T] differ in any slot."""
    return np.abs(np.asarray(x) - np.asarray(y)).max(axis=(1, 2)) > 1e-5


def test_with_everything_off_an_update_is_algorithm_distillations_to_the_bit():
    """The same parameters, and every leaf of learner and metrics after an update."""
    given = {"warmup_updates": 1.0, "learning_rate": 1e-2}
    hp = jax.tree.map(jnp.float32, overrides.override(ad.Hparams(), given))
    config = sequence_policy.Config(STEP, outlook=outlook.Outlook())
    rollout, found = windows_of([3, 4, 2]), []
    for agent, own in (
        (ad.make(spec_of(), ad.Config(STEP)), hp),
        (sequence_policy.make("it", spec_of(), config), hparams(**AD)),
    ):
        update = jax.jit(
            lambda *args, agent=agent: agent.update(*args, jnp.int32(0))[:2]
        )
        learner = jax.jit(batch_draws(agent.init))(KEY, own)
        found.append(update(learner, rollout, KEY, own))
    theirs, ours = found
    jax.tree.map(np.testing.assert_array_equal, theirs, ours)


def test_a_closed_gate_says_and_learns_nothing_of_returns():
    """Logits do not depend on R, and what reads it has no gradient; open, they do."""
    _, learner, read, _, update = made()
    one = windows_of([4, 3])
    other = with_returns(one, 9.0 + one.extras.columns.return_to_go)
    for gate, says in ((0.0, False), (1.0, True)):
        hp = hparams(return_gate=gate, return_cost=1.0)
        x, y = (read(learner.params, r, hp)[0] for r in (one, other))
        assert moved(x.action, y.action).all() == says
        assert moved(x.action, y.action).any() == says
        after = update(learner, one, hp)[0].params["tokens"]["return"]["kernel"]
        before = learner.params["tokens"]["return"]["kernel"]
        assert np.array_equal(before, after) != says
        # What stands for an unknown return is read as far as one is not known.
        tokens = learner.params["tokens"]
        tokens = tokens | {"unknown_return": tokens["unknown_return"][::-1]}
        z = read(learner.params | {"tokens": tokens}, one, hp)[0]
        assert moved(x.action, z.action).any() != says


@pytest.mark.parametrize("network", [STEP, TRIPLE], ids=["step", "triple"])
def test_a_row_knows_its_return_and_nothing_that_comes_later(network):
    """a_t, r_t and all after them do not change what is said of a_t; R_t does, and does
    not change what is said of itself. Nor do r_t and a_t change what is said of R_t."""
    _, learner, read, *_ = made(network)
    hp, rollout, t = hparams(across=1.0), windows_of([4, 5]), 3

    def said(changed):
        return read(learner.params, changed, hp)[0]

    base, to_go = said(rollout), rollout.extras.columns.return_to_go
    ts, after = rollout.ts, slice(t + 1, None)
    later = rollout._replace(
        action=plus(rollout.action, t, 1) % ACTIONS,
        ts=ts._replace(
            reward=plus(ts.reward, after, 2.0),
            obs={"vector": plus(ts.obs["vector"], after, 1.0)},
        ),
    )
    found = said(with_returns(later, plus(to_go, after, 9.0)))
    assert not moved(found.action, base.action)[: t + 1].any()
    assert moved(found.action, base.action)[t + 1]
    assert not moved(found.returns, base.returns)[: t + 1].any()
    assert moved(found.returns, base.returns)[t + 1]
    asked = said(with_returns(rollout, plus(to_go, t, 9.0)))
    assert moved(asked.action, base.action)[t]
    assert not moved(asked.returns, base.returns)[: t + 1].any()
    assert moved(asked.returns, base.returns)[t + 1]


@pytest.mark.parametrize("network", [STEP, TRIPLE], ids=["step", "triple"])
def test_across_zero_nothing_is_known_of_earlier_episodes(network):
    """Everything before the second episode changes: nothing is said otherwise."""
    _, learner, read, *_ = made(network)
    rollout = windows_of([4, 5])
    ts = rollout.ts
    other = rollout._replace(
        action=plus(rollout.action, slice(4), 1) % ACTIONS,
        ts=ts._replace(
            reward=plus(ts.reward, slice(1, 5), 2.0),
            obs={"vector": plus(ts.obs["vector"], slice(4), 1.0)},
        ),
    )
    for across in (0.0, 1.0):
        hp = hparams(across=across)
        x, y = (read(learner.params, r, hp)[0] for r in (rollout, other))
        assert moved(x.action, y.action)[4:].any() == bool(across)
        assert moved(x.action, y.action)[:4].all()


@pytest.mark.parametrize(
    ("network", "infers"),
    [(STEP, False), (TRIPLE, False), (STEP, True)],
    ids=["step", "triple", "inferred"],
)
def test_across_zero_an_episode_begins_with_the_same_bits_whatever_came_before(
    network, infers
):
    """Nothing, four steps, or more than the context: episodes are of one distribution."""
    agent, learner, _, act, _ = made(network, infers=infers)
    rollout = windows_of([4, 14, 6])
    steps = [jax.tree.map(lambda x, t=t: x[t], rollout.ts) for t in range(19)]
    for across in (0.0, 1.0):
        hp = hparams(across=across, target=16.0, inferred=float(infers))
        carry, carries = agent.carry(2), [agent.carry(2)]
        for t in range(18):
            _, carry, _ = act(learner, carry, steps[t], jax.random.key(t), hp)
            if t in (3, 17):
                carries.append(carry)
        for first in (steps[4], steps[18]):
            assert first.first.all()
            action, begun, log_prob = zip(
                *jax.device_get([act(learner, x, first, KEY, hp) for x in carries])
            )
            assert (np.ptp(log_prob, axis=0) == 0).all() != bool(across)
            if not across:
                assert not np.ptp(action, axis=0).any()
                assert not np.ptp([x.to_go for x in begun], axis=0).any()


def test_a_prompt_is_seen_by_every_episode_or_is_as_if_absent():
    """Shown, it changes both episodes after it; not shown, the window is what it was."""
    _, learner, read, *_ = made()
    rollout = windows_of([3, 3, 4], prompt=3)
    obs = plus(rollout.ts.obs["vector"], slice(3), 1.0)
    other = rollout._replace(ts=rollout.ts._replace(obs={"vector": obs}))
    hp = hparams(prompt_share=1.0)
    x, y = (jax.device_get(read(learner.params, r, hp)) for r in (rollout, other))
    assert moved(x[0].action, y[0].action)[3:].all()
    assert not x[1][:3].any() and x[1][3:].all()
    never = hparams(prompt_share=0.0)
    absent = np.asarray(read(learner.params, rollout, never)[0].action)[3:]
    alone = jax.tree.map(lambda x: x[3:], rollout._replace(carry=(), extras=()))
    alone = alone._replace(
        extras=jax.tree.map(lambda x: x[3:], rollout.extras._replace(prompt=None))
    )
    expected = made()[2](learner.params, alone, never)[0].action
    np.testing.assert_allclose(absent, expected, atol=1e-4)


def test_a_share_of_the_sequences_sees_its_prompt():
    """A quarter, within 3 σ; what is to be predicted begins where the prompt ends."""
    slots = 4000
    rollout, hp = windows_of([3, 4], slots=slots, prompt=3), hparams(prompt_share=0.25)
    found = rollout.extras.columns
    rows_of = jax.jit(sequence_policy.rows_of)
    steps, teaches = jax.device_get(rows_of(rollout, found, KEY, hp))
    sees = steps.live[:3]
    assert (sees == sees[:1]).all()
    sigma = np.sqrt(0.25 * 0.75 / slots)
    assert abs(sees[0].mean() - 0.25) < 3 * sigma
    assert not teaches[:3].any() and teaches[3:].all()
    # The row before the window is not the prompt's.
    assert not steps.has_prev[[0, 3]].any() and steps.has_prev[4:].all()


def test_a_return_that_nobody_knows_is_not_shown():
    """Of an episode without its end, whatever the gate."""
    rollout = windows_of([2, 3])
    complete = np.arange(5)[:, None] < np.array([[2, 5]])
    found = rollout.extras.columns._replace(complete=complete)
    rows_of = jax.jit(sequence_policy.rows_of)
    steps, _ = rows_of(rollout, found, KEY, hparams(return_gate=0.5))
    np.testing.assert_array_equal(steps.return_known, 0.5 * complete)


@pytest.mark.parametrize(("across", "horizon"), [(0.0, 0.0), (1.0, 0.0), (1.0, 3.0)])
def test_what_is_learned_is_what_is_read(across, horizon):
    """The loss is of the rows as acting reads them, with gates half open."""
    _, learner, read, _, update = made(given=FULL)
    rollout = some_illegal(windows_of([4, 3]))
    complete = np.arange(7)[:, None] < np.array([[4, 7]])
    rollout = with_returns(rollout, rollout.extras.columns.return_to_go, complete)
    gates = {"return_gate": 0.6, "reward_gate": 0.5, "step_gate": 0.3}
    hp = hparams(across=across, horizon=horizon, **gates)
    logits = read(learner.params, rollout, hp)[0].action
    nats = -log_prob_of(logits, rollout.ts.action_mask[:-1], rollout.action)
    found = update(learner, rollout, hp)[1]["loss"]
    np.testing.assert_allclose(found, np.asarray(nats)[complete].mean(), rtol=1e-4)


def test_targets_are_of_the_slow_values_which_follow_by_their_share():
    """Q̄ moves the errors and no policy; it becomes (1 - τ) Q̄ + τ of the parameters."""
    _, learner, _, _, update = made(given=FULL)
    rollout = windows_of([4, 3])
    values = jax.tree.map(lambda x: 100.0 * x, learner.params["values"])
    other = learner._replace(stats=learner.stats | {"values": values})
    hp = hparams(target_step=0.25)
    (after, moved), (_, plain) = (update(x, rollout, hp) for x in (other, learner))
    for name in ("td", "expectile", "advantage"):
        assert not np.isclose(moved[f"{name}_loss"], plain[f"{name}_loss"], rtol=1e-3)
    assert moved["loss"] == plain["loss"] and moved["cql_loss"] == plain["cql_loss"]
    jax.tree.map(
        lambda new, old, own: np.testing.assert_allclose(
            new, 0.75 * old + 0.25 * own, rtol=1e-4, atol=1e-6
        ),
        *(after.stats, other.stats, other.params),
    )


@pytest.mark.parametrize(
    ("network", "given", "across", "horizon"),
    [
        (STEP, RETURNS, 0.0, 0.0),
        (STEP, RETURNS, 1.0, 0.0),
        (TRIPLE, RETURNS, 0.0, 0.0),
        (TRIPLE, RETURNS, 1.0, 0.0),
        # A prompt is seen beyond the horizon; episodes of two are over before it is.
        (TRIPLE, RETURNS, 0.0, 2.0),
        (STEP, COUNTED, 0.0, 0.0),
    ],
)
def test_acting_says_what_training_says_of_the_same_rows(
    network, given, across, horizon
):
    """Over three episodes, the first of them watched: of those alone it is a prompt."""
    agent, learner, read, act, _ = made(network, given)
    lengths = [3, *((2,) * 5 if horizon else (4, 5))]
    rollout, hp = (
        windows_of(lengths, prompt=0 if across else 3),
        hparams(prompt_share=1.0, across=across, horizon=horizon),
    )
    carry, said, actions = agent.carry(2), [], []
    for t in range(sum(lengths)):
        ts = jax.tree.map(lambda x, t=t: x[t], rollout.ts)
        hp_t = hp._replace(target=rollout.extras.columns.return_to_go[t, 0])
        # Both slots ask for the same; the rewards are what the data have.
        action, carry, log_prob = act(learner, carry, ts, jax.random.key(t), hp_t)
        if t < 3:
            action = rollout.action[t]
            carry = sequence_policy.observe_action(carry, ts, action)
            carry = sequence_policy.keep_prompt(carry, ts)
        actions.append(action)
        said.append((log_prob, carry.to_go))
    log_probs, to_go = (np.stack(x) for x in zip(*said))
    known = with_returns(rollout, to_go)._replace(action=np.stack(actions))
    logits = read(learner.params, known, hp)[0].action
    expected = log_prob_of(logits, known.ts.action_mask[:-1], known.action)
    np.testing.assert_allclose(log_probs[3:], np.asarray(expected)[3:], atol=2e-4)
    assert np.std(log_probs[3:]) > 0.1


@pytest.mark.parametrize("network", [STEP, TRIPLE], ids=["ring", "recompute"])
def test_a_prompt_is_seen_beyond_the_horizon(network):
    """Of four steps after a prompt of three, with a horizon of two, it moves them all."""
    agent, learner, _, act, _ = made(network)
    rollout, hp = windows_of([3, 4], prompt=3), hparams(horizon=2.0)
    obs = plus(rollout.ts.obs["vector"], slice(3), 1.0)
    other = rollout._replace(ts=rollout.ts._replace(obs={"vector": obs}))

    def said(rollout):
        carry, found = agent.carry(2), []
        for t in range(7):
            ts = jax.tree.map(lambda x, t=t: x[t], rollout.ts)
            _, carry, log_prob = act(learner, carry, ts, KEY, hp)
            carry = sequence_policy.observe_action(carry, ts, rollout.action[t])
            if t < 3:
                carry = sequence_policy.keep_prompt(carry, ts)
            found.append(np.asarray(log_prob))
        return np.stack(found)[3:]

    assert (np.abs(said(rollout) - said(other)).max(1) > 1e-5).all()


def test_the_step_of_the_episode_is_said_where_it_is_counted():
    """Another place moves what is said, from the last one on no more; gate 0: nothing."""
    _, learner, read, *_ = made(given=COUNTED)
    rollout = windows_of([4, 4])

    def said(plus, gate):
        known = rollout.extras.columns
        known = known._replace(episode_step=known.episode_step + plus)
        moved = rollout._replace(extras=rollout.extras._replace(columns=known))
        return read(learner.params, moved, hparams(step_gate=gate))[0].action

    assert moved(said(0, 1.0), said(1, 1.0)).all()
    assert not moved(said(6, 1.0), said(9, 1.0)).any()
    assert not moved(said(0, 0.0), said(1, 0.0)).any()


def test_a_step_learns_from_no_value_that_knows_nothing_of_it():
    """Beyond a horizon the next step has no history: its value is nobody's target."""
    hp = hparams(across=1.0, horizon=2.0)
    rollout = windows_of([3, 5], slots=1)
    steps, _ = sequence_policy.rows_of(rollout, future.columns_of(rollout), KEY, hp)
    cut = sequence_policy.severed(steps, STEP, hp)
    assert np.flatnonzero(np.asarray(cut)[:, 0]).tolist() == [1, 3, 5]
    alone = sequence_policy.severed(steps, STEP, hparams(across=0.0, horizon=2.0))
    assert np.flatnonzero(np.asarray(alone)[:, 0]).tolist() == [1, 4, 6]
    out = outlook.Outputs(
        None, values=jnp.zeros((8, 1, ACTIONS)), value=jnp.zeros((8, 1))
    )
    hp, teaches = hparams(td_cost=1.0, beyond=1.0), jnp.ones((8, 1), bool)
    behind = jnp.zeros((8, 1, ACTIONS)).at[4].set(50.0)  # of the step after a border

    def td(behind, cut):
        found = future.losses(
            outlook.Outlook(values=True),
            out,
            behind,
            rollout,
            teaches,
            rollout.extras.columns,
            hp,
            cut,
        )
        return float(found[1]["td_loss"])

    assert td(behind, cut) == td(0 * behind, cut)
    assert td(behind, None) != td(0 * behind, None)


def test_each_task_may_have_a_range_of_returns_of_its_own():
    """The same place of each task's range is the same token, target and tilt."""
    config = dataclasses.replace(
        RETURNS, low=0.0, high=8.0, ranges=((0.0, 4.0), (-100.0, 100.0))
    )
    task = jnp.array([0, 1, 0, 1])
    returns = jnp.array([1.0, -50.0, 4.0, 100.0])
    scaled = outlook.scaled(config, returns, task)
    np.testing.assert_allclose(scaled, [2.0, 2.0, 8.0, 8.0])
    assert outlook.bin_of(config, scaled).tolist() == [2, 2, 8, 8]
    spec = spec_of()
    two = spec._replace(tasks=spec.tasks * 2)
    module = multi_game_decision_transformer
    own = dataclasses.replace(module.Config(STEP), outlook=config)
    agent = module.make(two, own)
    hp = jax.tree.map(jnp.float32, module.Hparams(inferred=0.0))
    learner = jax.jit(batch_draws(agent.init))(KEY, hp)
    ts = jax.tree.map(lambda x: x[0], windows_of([4]).ts)
    act = jax.jit(agent.act)

    def said(task, target):
        hp_t = hp._replace(target=jnp.float32(target))
        own = ts._replace(task=jnp.full(2, task, jnp.int32))
        return np.asarray(act(learner, agent.carry(2), own, KEY, hp_t)[2])

    np.testing.assert_array_equal(said(0, 1.0), said(1, -50.0))
    assert (said(0, 1.0) != said(0, 4.0)).any()
    with pytest.raises(ValueError, match=r"outlook\.ranges: 2 for 1 tasks"):
        module.make(spec, own)


def test_returns_that_the_range_leaves_out_are_refused():
    """Clipped returns all look alike: DT with a range of 20 learns nothing of CartPole."""
    config, shape = sequence_policy.Config(STEP, outlook=RETURNS), (2, 3)
    known = columns.Columns(
        np.float32([[500, 499, 3], [40, 0, 41]]),
        np.zeros(shape, np.int32),
        np.ones(shape, np.float32),
        np.ones(shape, bool),
    )
    task = np.zeros(2, np.int32)
    sequence_settings.check_columns(config, known, task)  # Half of them.
    more = known._replace(return_to_go=np.float32([[500, 499, 3], [40, -1, 41]]))
    with pytest.raises(ValueError, match=r"67% .*low=0 to high=40.* -1 to 500; give"):
        sequence_settings.check_columns(config, more, task)
    none = sequence_policy.Config(STEP, outlook=outlook.Outlook())
    sequence_settings.check_columns(none, more, task)


def test_a_prompt_and_an_episode_are_not_longer_than_the_context():
    """So many steps as it has will do; who sees all that came before forgets anyway."""
    config, check = sequence_policy.Config(STEP), sequence_settings.check_prompt
    check(config, hparams(), STEP.context)
    check(config, hparams(across=1.0), STEP.context + 1)
    with pytest.raises(ValueError, match=r"context of 16 steps .* 17 together"):
        check(config, hparams(), STEP.context + 1)


def test_what_is_asked_for_falls_by_the_rewards_and_begins_anew():
    """Target 5, rewards 1, 0, 2: it asks for 5, 4, 4, 2. The next episode begins anew."""
    agent, learner, _, act, _ = made()
    rollout = windows_of([4, 2], slots=2)
    reward = np.float32([[0, 1, 0, 2, 7, 1, 0]] * 2).T
    carry, asked = agent.carry(2), []
    for t in range(6):
        ts = jax.tree.map(lambda x, t=t: x[t], rollout.ts)
        ts = ts._replace(reward=reward[t])
        _, carry, _ = act(learner, carry, ts, KEY, hparams(target=5.0))
        asked.append(np.asarray(carry.to_go)[0])
    assert asked == [5, 4, 4, 2, 5, 4]


def test_costs_of_what_is_not_known_are_left_out():
    """An unfinished episode's returns teach nothing; its actions, where none is given."""
    _, learner, _, _, update = made(given=FULL)
    rollout = windows_of([4, 3])
    unknown = with_returns(
        rollout,
        rollout.extras.columns.return_to_go,
        np.zeros_like(rollout.extras.columns.complete),
    )
    costs = {"return_cost": 1.0, "td_cost": 1.0, "cql_cost": 1.0, "next_cost": 1.0}
    costs |= {"expectile_cost": 1.0}
    hp = hparams(reward_cost=1.0, **costs)
    metrics = jax.device_get(update(learner, rollout, hp)[1])
    assert {f"{name}_loss" for name in ("return", "reward", "next")} < set(metrics)
    assert {f"{name}_loss" for name in ("td", "cql", "expectile")} < set(metrics)
    assert all(np.isfinite(x) and x != 0 for x in metrics.values())
    assert update(learner, unknown, hparams(return_cost=1.0))[1]["return_loss"] == 0
    assert update(learner, unknown, hparams())[1]["loss"] == 0
    assert update(learner, unknown, hparams(return_gate=0.0))[1]["loss"] > 0
    # Nothing of the best is left where none is ranked so high.
    assert update(learner, rollout, hparams(rank_from=1.0))[1]["loss"] == 0


def test_a_horizon_of_the_context_teaches_what_none_does():
    """Of a window that is longer: no step is cut from the next, and no cost moves."""
    _, learner, _, _, update = made(given=FULL)
    rollout = windows_of([9, 11])

    def metrics(horizon):
        hp = hparams(across=1.0, beyond=1.0, td_cost=1.0, horizon=horizon)
        return update(learner, rollout, hp)[1]

    endless = metrics(0.0)
    for horizon in (STEP.context, STEP.context + 1):
        jax.tree.map(np.testing.assert_array_equal, metrics(horizon), endless)
    assert metrics(STEP.context - 1)["td_loss"] != endless["td_loss"]


def test_a_row_that_nothing_follows_foretells_nothing():
    """The last row of a history is shown itself as the next: that teaches nothing."""
    _, learner, _, _, update = made(given=FULL)
    rollout = windows_of([4, 3])
    shape = rollout.extras.live.shape
    everything = np.ones(shape, bool)
    nothing = np.zeros(shape, bool)

    def loss(followed):
        extras = rollout.extras._replace(followed=followed)
        given = rollout._replace(extras=extras)
        return float(update(learner, given, hparams(next_cost=1.0))[1]["next_loss"])

    assert loss(everything) > 0 and loss(nothing) == 0
    assert loss(plus(nothing, 0, True)) not in (0, loss(everything))


def test_an_episode_that_was_cut_off_leads_to_nothing():
    """Where a history went on elsewhere no row is last, and the next is another's."""
    rollout = windows_of([4, 3], slots=1)
    is_last = rollout.ts.last & (np.arange(8)[:, None] != 4)
    cut = rollout._replace(ts=rollout.ts._replace(last=is_last))
    shape, teaches = (7, 1, ACTIONS), jnp.ones((7, 1), bool)
    out = outlook.Outputs(
        None,
        next_vector=jnp.zeros((7, 1, 2)),
        values=jnp.zeros(shape),
        value=jnp.zeros((7, 1)),
    )

    def learned(row, amount):
        """Returns (TD, next) of values and vectors of a row, moved by an amount."""
        behind = jnp.zeros(shape).at[row].set(amount)
        obs = {"vector": plus(cut.ts.obs["vector"], row, amount)}
        moved = cut._replace(ts=cut.ts._replace(obs=obs))
        columns, hp = cut.extras.columns, hparams()
        given = outlook.Outlook(vectors=True, values=True)
        found = future.losses(given, out, behind, moved, teaches, columns, hp)[1]
        return float(found["td_loss"]), float(found["next_loss"])

    none = learned(4, 0.0)
    assert learned(4, 9.0) == none
    assert all(x != y for x, y in zip(learned(3, 9.0), none))
    done = jax.jit(ad.steps_of)(cut).prev_done[:, 0]
    assert done.tolist() == [t in (0, 4) for t in range(7)]


@pytest.mark.parametrize("beyond", [0.0, 1.0])
@pytest.mark.parametrize("expectile_cost", [0.0, 1.0])
def test_costs_are_those_computed_by_hand(beyond, expectile_cost):
    """Two episodes of two steps, an illegal action of a high value; in float64.

    A window's last row is no target of values, but where an end is the end of all.
    """
    rollout, rng = windows_of([2, 2], slots=1), np.random.default_rng(3)
    legal = np.broadcast_to([True, True, False], rollout.ts.action_mask.shape)
    reward = np.float32([0, 2, 0, -1, 3])[:, None]
    action = np.int32([[0], [1], [1], [0]])
    ts = rollout.ts._replace(action_mask=legal, reward=reward)
    rollout = rollout._replace(ts=ts, action=action)
    known = rollout.extras.columns._replace(
        return_to_go=np.float32([[0.5], [2.0], [3.9], [4.0]])
    )
    q, behind = rng.normal(size=(2, 4, 1, ACTIONS)).astype(np.float32)
    q[..., 2], behind[..., 2] = 9.0, 99.0
    of_return, of_reward = rng.normal(size=(2, 4, 1, 3)).astype(np.float32)
    value = rng.normal(size=(4, 1)).astype(np.float32)
    given = outlook.Outlook(bins=3, low=0.0, high=4.0, rewards=True, values=True)
    costs = {"return": 2.0, "reward": 3.0, "td": 5.0, "cql": 7.0}
    costs["expectile"] = expectile_cost
    hp = hparams(
        discount=0.5, beyond=beyond, expectile=0.7,
        **{f"{name}_cost": x for name, x in costs.items()},
    )  # fmt: skip

    @jax.jit
    def losses(q, value, hp):
        out = outlook.Outputs(None, of_return, of_reward, None, q, value)
        teaches = jnp.ones((4, 1), bool)
        return future.losses(given, out, behind, rollout, teaches, known, hp)

    total, found = losses(q, value, hp)

    def nats(logits, index):
        p = np.exp(np.float64(logits[:, 0]))
        return -np.log(p / p.sum(-1, keepdims=True))[np.arange(4), index].mean()

    row, of = np.arange(4), action[:, 0]
    best = value[:, 0] if expectile_cost else behind[:, 0, :2].max(-1)
    m = np.array([1, beyond, 1, beyond])
    y = reward[1:, 0] + 0.5 * m * np.append(best[1:], 0.0)
    error = (y - q[row, 0, of])[: 3 if beyond else 4]
    u = behind[row, 0, of] - value[:, 0]
    expected = {
        "return": nats(of_return, [0, 1, 1, 2]),
        "reward": nats(of_reward, [2, 1, 0, 2]),
        "td": np.mean(0.5 * error**2),
        "cql": np.mean(np.log(np.exp(q[:, 0, :2]).sum(-1)) - q[row, 0, of]),
        "expectile": np.mean(np.where(u < 0, 0.3, 0.7) * u**2),
    }
    for name, x in expected.items():
        np.testing.assert_allclose(found[f"{name}_loss"], x, rtol=1e-5, err_msg=name)
    expected = sum(costs[name] * x for name, x in expected.items())
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    # V is learned by its own cost alone, which moves no Q.
    slope = jax.jit(jax.grad(lambda *args: losses(*args)[0], argnums=(0, 1)))
    off = {f"{name}_cost": 0.0 for name in costs}
    for name in ("td", "cql", "expectile"):
        by_q, by_value = slope(
            q, value, overrides.override(hp, off | {f"{name}_cost": 1.0})
        )
        assert bool(np.any(by_q)) == (name != "expectile")
        assert bool(np.any(by_value)) == (name == "expectile")


@pytest.mark.parametrize("beyond", [0.0, 1.0])
def test_kept_reset_rows_leave_the_costs_of_values_as_they_are(beyond):
    """An episode's last action is followed by the next one's first, beyond the reset.

    Also where a horizon ends there, or after it; and its reward is learned.
    """
    whole = reset_rows.stream([2, 3, 1])
    number, hp = 9, hparams(beyond=beyond, discount=0.5, expectile_cost=1.0)
    rng = np.random.default_rng(0)
    q, behind = rng.normal(size=(2, number, 2, ACTIONS)).astype(np.float32)
    value = rng.normal(size=(number, 2)).astype(np.float32)
    rows = np.flatnonzero(~whole.ts.last[:number, 0])

    @jax.jit
    def losses(rollout, out, behind, hp):
        known = future.columns_of(rollout)
        steps, teaches = sequence_policy.rows_of(rollout, known, KEY, hp)
        cut = sequence_policy.severed(steps, STEP, hp)
        given = outlook.Outlook(values=True)
        return future.losses(given, out, behind, rollout, teaches, known, hp, cut)[1]

    def found(rollout, own, hp):
        out = outlook.Outputs(None, values=q[own], value=value[own])
        return jax.device_get(losses(rollout, out, behind[own], hp))

    every, paid = np.arange(number), whole.ts.reward.copy()
    paid[2] += 100.0
    richer = whole._replace(ts=whole.ts._replace(reward=paid))
    for horizon, across in ((0.0, 0.0), (2.0, 1.0), (3.0, 1.0)):
        own = hp._replace(horizon=jnp.float32(horizon), across=jnp.float32(across))
        kept = found(whole, every, own)
        left_out = found(reset_rows.without_resets(whole), rows, own)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), kept, left_out
        )
        # Of a horizon of two the first step beyond the reset knows nothing of it.
        learned = found(richer, every, own)["td_loss"] > kept["td_loss"] + 100
        assert learned == (horizon != 2 or not beyond)


def test_q_targets_and_conservatism_are_those_of_the_sheet():
    """r = 1, γ = .9, max .5: 1.45; at an end only what is beyond counts."""
    args = np.float32(1), np.array([False, True, True]), np.float32(0.5), 0.9
    td_targets = jax.jit(future.td_targets)
    np.testing.assert_allclose(td_targets(*args, 0.0), [1.45, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(td_targets(*args, 1.0), [1.45] * 3, rtol=1e-6)
    q = np.float32([1.0, 2.0, 0.5])
    conservatism = jax.jit(jax.value_and_grad(future.conservatism))
    found, gradient = jax.device_get(conservatism(q, np.int32(1)))
    np.testing.assert_allclose(found, 0.46437, atol=1e-5)
    np.testing.assert_allclose(gradient, [0.23122, -0.37147, 0.14024], atol=1e-5)
    assert abs(float(gradient.sum())) < 1e-6


def test_expectiles_weigh_errors_above_and_below_as_the_sheet_says():
    """τ = .7 of ±1: .7, .3; the minimiser of a fair {0, 1} is .7."""
    found = jax.jit(future.expectile_loss)(np.float32([1.0, -1.0, 2.0]), 0.7)
    np.testing.assert_allclose(found, [0.7, 0.3, 2.8], rtol=1e-6)

    def mean(v):
        return future.expectile_loss(jnp.array([0.0, 1.0]) - v, 0.7).mean()

    slopes = jax.jit(jax.vmap(jax.grad(mean)))
    slope = np.asarray(slopes(np.float32([0.7, 0.6, 0.8])))
    assert abs(slope[0]) < 1e-6 and slope[1] < -0.01 and slope[2] > 0.01


def test_advantages_weigh_the_actions_that_are_imitated():
    """β = 3: e^1.5, 1, e^-1.5, and 100 at most; the optimum of one state is known.

    Of actions 0 to 2 in shares .5, .3, .2 the policy becomes μ exp(β (Q̄ - V)) over its
    sum, and with β = 0 the data's; V and Q̄ are left as they are.
    """
    advantage = np.float32([0.5, 0.0, -0.5, 2.0, 1e30])
    found = jax.jit(future.advantage_weight)(advantage, 3.0)
    expected = [4.481689, 1.0, 0.223130, 100.0, 100.0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    action = np.int32([0] * 5 + [1] * 3 + [2] * 2)[:, None]
    q, share = np.array([0.1, 0.4, 0.9]), [0.5, 0.3, 0.2]
    value, behind = np.float32(0.3), np.broadcast_to(np.float32(q), (10, 1, 3))

    def loss(logits, value, behind, beta, imitated=True):
        log_prob = jax.nn.log_softmax(logits)[action]
        out = outlook.Outputs(None, value=jnp.full((10, 1), value))
        hp = hparams(advantage_cost=2.0, advantage_beta=beta)
        live = jnp.full((10, 1), imitated)
        return future.weighted_cloning(out, behind, action, log_prob, live, hp)[0]

    slope = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))
    for beta in (0.0, 3.0):
        best = share * np.exp(beta * (q - 0.3))
        logits = np.log(np.float32(best / best.sum()))
        policy, *others = slope(logits, value, behind, beta)
        np.testing.assert_allclose(policy, 0.0, atol=1e-6)
        assert all(not np.asarray(x).any() for x in others)
        policy = np.asarray(slope(logits, value, behind, beta + 1.0)[0])
        assert np.abs(policy).max() > 0.05
    assert float(jax.jit(loss)(logits, value, behind, 3.0, imitated=False)) == 0


def test_imitation_by_advantage_is_a_cost_of_its_own_and_nothing_where_it_is_0():
    """With β = 0 it is imitation; with cost 0 no bit depends on β."""
    _, learner, _, _, update = made(given=FULL)
    rollout = some_illegal(windows_of([4, 3]))
    values = {"td_cost": 1.0, "expectile_cost": 1.0}
    plain, other = (
        update(learner, rollout, hparams(advantage_beta=beta, **values))
        for beta in (0.0, 300.0)
    )
    jax.tree.map(np.testing.assert_array_equal, plain[0], other[0])
    assert other[1]["advantage_loss"] != plain[1]["advantage_loss"]
    np.testing.assert_allclose(plain[1]["advantage_loss"], plain[1]["loss"], rtol=1e-5)
    only = {"action_cost": 0.0, "advantage_cost": 1.0}
    alike, weighed = (
        update(learner, rollout, hparams(advantage_beta=beta, **values, **only))
        for beta in (0.0, 300.0)
    )
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), alike[0], plain[0]
    )
    assert not np.isclose(weighed[1]["grad_norm"], alike[1]["grad_norm"], rtol=1e-3)


def test_a_tabular_chain_has_the_values_of_value_iteration():
    """Three states, stay or go on; 1 at the end: γ², γ, 1, and beyond it all of it again."""
    reward = np.float32([[0, 0], [0, 0], [0, 1]])
    last = reward > 0
    after = np.array([[0, 1], [1, 2], [2, 0]])
    td_targets = jax.jit(future.td_targets)
    for beyond, best in ((0.0, 1.0), (1.0, 1 / (1 - 0.9**3))):
        q = np.zeros((3, 2), np.float32)
        for _ in range(100):
            best_after = q.max(axis=1)[after]
            q = np.asarray(td_targets(reward, last, best_after, 0.9, beyond))
        optimal = best * np.array([0.81, 0.9, 1.0])
        np.testing.assert_allclose(q[:, 1], optimal, atol=1e-3)
        np.testing.assert_allclose(q[:, 0], 0.9 * optimal, atol=1e-3)


def test_values_become_those_of_the_data_and_are_acted_by():
    """γ = 0: Q(h, a) is the mean reward of a; else what is to come, and no more at an end."""
    agent, learner, read, act, update = made(given=FULL)
    rollout, rng = windows_of([4, 3]), np.random.default_rng(0)
    td = {"action_cost": 0.0, "td_cost": 1.0, "target_step": 1.0, "reward_gate": 0.0}
    off = {"return_gate": 0.0, "weight_decay": 0.0}

    def learned(paid, hp):
        own = learner
        for _ in range(150):
            action = rng.integers(0, ACTIONS, rollout.action.shape)
            reward = np.concatenate([np.zeros((1, 2)), paid(action)])
            ts = rollout.ts._replace(reward=jnp.asarray(reward, jnp.float32))
            given = rollout._replace(action=jnp.asarray(action, jnp.int32), ts=ts)
            own, _ = update(own, given, hp)
        return own, read(own.params, rollout, hp)[0].values

    worth = np.array([0.0, 1.0, 0.5])
    own, q = learned(lambda action: worth[action], hparams(discount=0.0, **td, **off))
    np.testing.assert_allclose(q, np.broadcast_to(worth, q.shape), atol=0.1)
    ts = jax.tree.map(lambda x: x[0], rollout.ts)
    hp = hparams(by_value=1.0, temperature=0.0, **off)
    assert act(own, agent.carry(2), ts, KEY, hp)[0].tolist() == [1, 1]

    ends = np.array([0, 0, 0, 1, 0, 0, 1])[:, None] * np.ones(2)
    to_go = 0.5 ** np.array([3, 2, 1, 0, 2, 1, 0])
    hp = hparams(discount=0.5, beyond=0.0, **td, **off)
    _, q = learned(lambda action: ends, hp)
    expected = np.broadcast_to(to_go[:, None, None], q.shape)
    np.testing.assert_allclose(q, expected, atol=0.1)

    # By an expectile the next action is as good as the data's: τ = .5, their mean.
    def at_the_end(action):
        return ends * worth[action]

    v = {"expectile_cost": 1.0, "expectile": 0.5}
    for more, best in ({}, 1.0), (v, 0.5):
        given = hparams(discount=0.5, beyond=0.0, **td, **off, **more)
        _, q = learned(at_the_end, given)
        before = np.asarray(q)[[2, 5]].mean()
        np.testing.assert_allclose(before, 0.5 * best, atol=0.1)


def test_of_permuted_sequences_everything_has_its_new_number():
    """An update is that of the rollout renamed by hand, to the bit; and another one."""
    _, learner, _, _, update = made(given=FULL)
    rollout = some_illegal(windows_of([4, 3]))
    costs = {"td_cost": 1.0, "cql_cost": 1.0, "reward_cost": 1.0}
    found = update(learner, rollout, hparams(permuted=1.0, **costs))
    plain = update(learner, rollout, hparams(**costs))
    draw = jax.jit(action_names.draw, static_argnums=(1, 2))
    names = draw(jax.random.fold_in(KEY, 2), types.Discrete(ACTIONS), 2, 1.0)
    by_hand = renamed_by(names, rollout)
    expected = update(learner, by_hand, hparams(**costs))
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert not np.allclose(found[1]["loss"], plain[1]["loss"], atol=1e-4)


def test_a_renamed_window_with_renamed_heads_costs_the_same():
    """Action, mask and labels under σ, and the rows of what reads and says actions.

    Every cost and the gradient's norm; not so where one of the two keeps its numbers.
    """
    _, learner, _, _, update = made(given=FULL)
    rollout, names = some_illegal(windows_of([4, 3])), np.int32([2, 0, 1])
    order = np.argsort(names)  # new action i was order[i]

    def rows(layer, at):
        """Returns a layer whose rows of the one-hot action begin ``at``."""
        kernel, own = layer["kernel"].copy(), slice(at, at + ACTIONS)
        kernel[own] = kernel[own][order]
        return layer | {"kernel": kernel}

    def under(params):
        tokens = params["tokens"]
        return params | {
            **{
                name: jax.tree.map(lambda x: x[..., order], params[name])
                for name in ("policy", "values")
            },
            # After the two numbers that are observed, and after the features.
            "tokens": tokens | {"observation": rows(tokens["observation"], 2)},
            "outcome": rows(params["outcome"], STEP.width),
        }

    renamed_learner = learner._replace(
        params=under(learner.params), stats=under(learner.stats)
    )
    renamed = renamed_by(np.stack([names, names]), rollout)
    names_of = ("return", "reward", "next", "td", "cql", "expectile", "advantage")
    hp = hparams(across=1.0, **{f"{name}_cost": 1.0 for name in names_of})
    expected, found, kept, fixed = (
        update(own, given, hp)[1]
        for own, given in (
            (learner, rollout),
            (renamed_learner, renamed),
            (learner, renamed),
            (renamed_learner, rollout),
        )
    )
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
    for name in ("loss", "cql_loss", "grad_norm"):
        assert not np.isclose(kept[name], expected[name], rtol=1e-3), name
        assert not np.isclose(fixed[name], expected[name], rtol=1e-3), name


def test_a_slot_has_its_own_numbers_for_good_and_acts_by_them():
    """What is said of a step is what training says of the renamed rows; two episodes."""
    agent, learner, read, act, _ = made(given=FULL)
    rollout = some_illegal(windows_of([4, 3]))
    hp = hparams(permuted=1.0, across=1.0, return_gate=0.0)
    carry, found = agent.carry(2), []
    for t in range(7):
        ts = jax.tree.map(lambda x, t=t: x[t], rollout.ts)
        action, carry, log_prob = act(learner, carry, ts, jax.random.key(t), hp)
        found.append((action, log_prob, carry.names))
    action, log_prob, names = (np.stack(x) for x in zip(*found))
    assert (names == names[0]).all() and (names[0, 0] != names[0, 1]).any()
    renamed = jax.device_get(renamed_by(names[0], rollout._replace(action=action)))
    logits = read(learner.params, renamed, hp)[0].action
    expected = log_prob_of(logits, renamed.ts.action_mask[:-1], renamed.action)
    np.testing.assert_allclose(log_prob, expected, atol=2e-4)
    assert np.std(log_prob) > 0.1 and (action[:, 0] < 2).all()


def test_a_rollout_knows_the_returns_of_episodes_that_end_within_it():
    """As a dataset's columns; the rest is not known."""
    rollout = windows_of([3, 4, 2])
    cut = jax.tree.map(lambda x: x[:9], rollout.ts)
    own = jax.jit(future.columns_of)(types.Rollout(cut, rollout.action[:8], (), ()))
    own = jax.device_get(own)
    known = jax.tree.map(lambda x: x[:7], rollout.extras.columns)
    np.testing.assert_array_equal(own.complete[:, 0], [True] * 7 + [False])
    np.testing.assert_allclose(own.return_to_go[:7], known.return_to_go)
    np.testing.assert_array_equal(own.episode_step[:7], known.episode_step)
    # A reset row is of the episode that it ends, and nothing is to come of it.
    first, last = np.array([[1, 0, 0, 1, 0, 1, 0], [0, 0, 1, 0, 1, 0, 0]], bool)
    reward = np.float32([0, 1, 2, 0, 5, 0, 7])
    stream = cut._replace(
        **{
            name: x[:, None]
            for name, x in (("first", first), ("last", last), ("reward", reward))
        }
    )
    own = jax.jit(future.columns_of)(types.Rollout(stream, None, (), ()))
    assert own.return_to_go[:5, 0].tolist() == [3, 2, 0, 5, 0]
    assert own.episode_step[:, 0].tolist() == [0, 1, 2, 0, 1, 0]
    assert own.complete[[0, 1, 3, 5], 0].tolist() == [True, True, True, False]


def test_two_returns_from_one_state_are_two_actions():
    """P(a | R) -> 1 for each of two trajectories; without returns one half."""
    _, learner, read, _, update = made()
    rollout = windows_of([2, 2], slots=2)
    obs = np.zeros_like(rollout.ts.obs["vector"])
    action = np.int32([[0, 2], [1, 1], [0, 2], [1, 1]])
    to_go = np.float32([[10, 30], [10, 30], [10, 30], [10, 30]])
    rollout = with_returns(
        rollout._replace(ts=rollout.ts._replace(obs={"vector": obs}), action=action),
        to_go,
    )
    for gate, low, high in ((1.0, 0.95, 1.0), (0.0, 0.4, 0.6)):
        hp, own = hparams(return_gate=gate, reward_gate=0.0), learner
        for _ in range(60):
            own, _ = update(own, rollout, hp)
        logits = read(own.params, rollout, hp)[0].action
        p = np.asarray(jax.jit(jax.nn.softmax)(logits))[0, [0, 1], [0, 2]]
        assert (low <= p).all() and (p <= high).all()


def test_an_inferred_return_is_the_tilted_ones():
    """With κ large the highest return is asked for, whatever the target: other actions."""
    agent, learner, _, act, _ = made(infers=True)
    ts = jax.tree.map(lambda x: x[0], windows_of([4], slots=2).ts)

    def said(**fields):
        hp = hparams(temperature=1.0, **fields)
        return np.asarray(act(learner, agent.carry(2), ts, KEY, hp)[2])

    highest = said(target=40.0)
    np.testing.assert_allclose(said(inferred=1.0, kappa=1e5), highest, atol=1e-5)
    assert not np.allclose(said(target=0.0), highest, atol=1e-3)


def test_a_share_of_the_steps_has_an_inferred_return():
    """Each slot by itself: one or the other, and over a few keys both."""
    agent, learner, _, act, _ = made(infers=True)
    ts = jax.tree.map(lambda x: x[0], windows_of([4], slots=2).ts)
    shares = []

    def said(share, key):
        hp = hparams(inferred=share, kappa=1e5)
        return np.asarray(act(learner, agent.carry(2), ts, key, hp)[2])

    for key in jax.random.split(KEY, 12):
        asked, guessed, mixed = (said(share, key) for share in (0.0, 1.0, 0.5))
        assert ((mixed == asked) | (mixed == guessed)).all()
        shares.append((mixed == guessed)[asked != guessed])
    assert 0 < np.concatenate(shares).mean() < 1


@pytest.mark.parametrize("kind", [ad, sequence_policy])
def test_rewards_are_read_as_they_are_transformed(kind):
    """Clipped, 3 is read as 1 is, and not as -1: in an update and in acting."""
    network = dataclasses.replace(STEP, layers=1)
    if kind is ad:
        agent = ad.make(spec_of(), ad.Config(network, rewards="clip"))
        hp = jax.tree.map(jnp.float32, overrides.override(ad.Hparams(), {}))
    else:
        config = sequence_policy.Config(network, "clip", outlook.Outlook())
        agent, hp = sequence_policy.make("it", spec_of(), config), hparams(**AD)
    learner = jax.device_get(jax.jit(batch_draws(agent.init))(KEY, hp))
    head = jax.tree.map(lambda x: 100.0 * x, learner.params["policy"])
    learner = learner._replace(params=learner.params | {"policy": head})
    rollout = windows_of([4, 3])
    update, act = jax.jit(agent.update), jax.jit(agent.act)

    def said(reward):
        ts = rollout.ts._replace(reward=np.full_like(rollout.ts.reward, reward))
        given, carry = rollout._replace(ts=ts), agent.carry(2)
        learned = update(learner, given, KEY, hp, jnp.int32(0))[1]["loss"]
        for t in (0, 1):
            now = jax.tree.map(lambda x, t=t: x[t], ts)
            _, carry, log_prob = act(learner, carry, now, KEY, hp)
        return learned, *np.asarray(log_prob)

    three, one, other = said(3.0), said(1.0), said(-1.0)
    np.testing.assert_array_equal(three, one)
    assert all(x != y for x, y in zip(one, other))


@pytest.mark.parametrize(
    ("module", "spec", "changes", "words"),
    [
        (
            decision_transformer,
            spec_of(types.Box((0.0,), (1.0,))),
            {},
            "action: decision_transformer .*Discrete",
        ),
        (
            multi_game_decision_transformer,
            spec_of(),
            {"outlook": outlook.Outlook()},
            "infers: True, but outlook.bins=0",
        ),
        (
            decision_transformer,
            spec_of(),
            {"outlook": outlook.Outlook(bins=3, low=float("-inf"))},
            "low: -inf, high: 20.0: .*finite",
        ),
        (
            decision_transformer,
            spec_of(),
            {"outlook": outlook.Outlook(bins=3, low=1e8, high=1e8 + 1)},
            "low: 100000000.0 is not below high: 100000001.0",
        ),
        (
            gato,
            spec_of(),
            {"transformer": dataclasses.replace(STEP, numbers="floats")},
            "numbers: 'floats' is not known",
        ),
        (
            decision_transformer,
            spec_of(),
            {
                "transformer": dataclasses.replace(
                    STEP, encoding="set", positions="none"
                )
            },
            "encoding: 'set' has no token of a return",
        ),
        (
            decision_transformer,
            spec_of(types.Factorised((2, 2))),
            {"outlook": outlook.Outlook(values=True)},
            "outlook.values: True, .*use False",
        ),
        (
            decision_transformer,
            spec_of(obs={"image": jax.ShapeDtypeStruct((8, 8, 1), jnp.uint8)}),
            {"outlook": outlook.Outlook(vectors=True)},
            "outlook.vectors: True, .*use False",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(module, spec, changes, words):
    """One line, before anything is compiled."""
    with pytest.raises(ValueError, match=words):
        module.make(spec, module.Config(**({"transformer": STEP} | changes)))


def test_each_of_the_three_is_a_member_of_one_population():
    """They differ by defaults, not by leaves."""
    names = {
        overrides.names(module.Hparams)
        for module in (decision_transformer, multi_game_decision_transformer, gato)
    }
    assert names == {overrides.names(sequence_policy.Hparams)}
    bounds = {
        str(overrides.bounds(module.Hparams))
        for module in (decision_transformer, multi_game_decision_transformer, gato)
    }
    assert len(bounds) == 1 and "high=1.0" in bounds.pop()
    assert gato.Hparams().reward_gate == 0 and gato.Hparams().prompt_share == 0.25
