"""Planning with a model's own predictions: which plan is best, and what acting does."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reset_rows

from mtrl_jax import hparams as overrides
from mtrl_jax import types
from mtrl_jax.agents import sequence_policy
from mtrl_jax.agents.common import planning
from mtrl_jax.networks.transformers import history_tokens, outlook, transformer

ACTIONS, STATES, BATCH = reset_rows.ACTIONS, 12, 4
KEY = jax.random.key(3)
OUTCOMES = outlook.Outlook(rewards=True, vectors=True)
STEP = transformer.TransformerConfig(
    layers=2, width=16, heads=2, feedforward=32, context=8
)
TRIPLE = dataclasses.replace(
    STEP, encoding="triple", positions="learned", acting="recompute"
)


def spec_of(space=None, obs=None):
    space = space or types.Discrete(ACTIONS)
    obs = obs or {"vector": jax.ShapeDtypeStruct((2,), jnp.float32)}
    return types.EnvSpec(obs, space, (types.TaskSpec("x", obs, space),))


def world(seed):
    """Returns (next state [S, A], reward [S, A], log-probabilities [S, A]), all random."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(STATES, ACTIONS)).astype(np.float32)
    moves = rng.integers(0, STATES, (STATES, ACTIONS))
    return moves, rng.integers(-1, 2, (STATES, ACTIONS)), jax.nn.log_softmax(logits)


def said(tables, state):
    """Returns what a model that knows the world says at ``state`` [N]."""
    moves, reward, log_prob = (jnp.asarray(x)[state] for x in tables)
    return outlook.Outputs(
        action=log_prob,
        reward=jax.nn.one_hot(reward + 1, 3),
        next_vector=moves[..., None].astype(jnp.float32),
    )


@functools.partial(jax.jit, static_argnames="config")
def first_actions(tables, state, key, legal, config):
    """Returns the first actions of the best plans from ``state`` [B]."""

    def read(memory, steps):
        # As a "set" reads it, and as all others do.
        before = steps.prev_obs["vector"][:, 0].astype(jnp.int32)
        now = steps.obs["vector"][:, 0].astype(jnp.int32)
        led = jnp.asarray(tables[0])[before, steps.prev_action]
        return said(tables, jnp.where(led == now, now, -1)), memory + steps.prev_reward

    obs = {"vector": state[:, None].astype(jnp.float32)}
    now = history_tokens.Steps(
        obs=obs,
        prev_obs=jax.tree.map(jnp.zeros_like, obs),
        prev_action=jnp.zeros_like(state),
        prev_reward=jnp.zeros(state.shape),
        prev_done=jnp.zeros(state.shape, bool),
        has_prev=jnp.zeros(state.shape, bool),
    )
    out, memory = said(tables, state), jnp.zeros(state.shape)
    log_prob = jnp.where(legal, out.action, -jnp.inf)
    return planning.first_actions(key, read, out, memory, now, log_prob, config)


def best_first(tables, state, depth, legal):
    """Returns the first actions of all best plans, by trying every one."""
    moves, reward, _ = tables
    worth = {}
    for plan in itertools.product(range(ACTIONS), repeat=depth):
        if legal[plan[0]]:
            at, total = state, 0
            for action in plan:
                total, at = total + reward[at, action], moves[at, action]
            worth[plan] = total
    return {plan[0] for plan, total in worth.items() if total == max(worth.values())}


@pytest.mark.parametrize("depth", [1, 3])
def test_a_beam_that_holds_every_plan_finds_the_best(depth):
    """Of legal first actions; against every plan there is."""
    config = planning.Planning(ACTIONS**depth, depth)
    rng = np.random.default_rng(depth)
    for seed in range(20):
        tables, state = world(seed), rng.integers(0, STATES, BATCH)
        legal = rng.random((BATCH, ACTIONS)) < 0.6
        legal[:, 1] = True
        found = first_actions(tables, state, jax.random.key(seed), legal, config)
        for b in range(BATCH):
            assert int(found[b]) in best_first(tables, state[b], depth, legal[b])


def test_where_no_plan_is_better_actions_are_drawn_from_the_policy():
    """So that who has found nothing explores: frequencies within 4 σ of π."""
    moves, reward, log_prob = world(0)
    tables, draws = (moves, 0 * reward, log_prob), 4000
    state, legal = np.full(draws, 3), np.ones((draws, ACTIONS), bool)
    found = first_actions(tables, state, KEY, legal, planning.Planning(ACTIONS, 3))
    share = np.bincount(found, minlength=ACTIONS) / draws
    expected = np.exp(log_prob[3])
    assert (abs(share - expected) < 4 * np.sqrt(expected / draws)).all()


def test_a_reward_beyond_a_step_is_gone_for_even_if_the_policy_would_not():
    """On a line with a reward at its far end; beyond the plan's depth it is not seen."""
    place = np.arange(STATES)[:, None]
    moves = np.clip(place + np.arange(-1, 2), 0, STATES - 1)
    reward = (moves == 5).astype(int)
    log_prob = np.log(np.broadcast_to([0.98, 0.01, 0.01], moves.shape))
    tables, legal = (moves, reward, log_prob), np.ones((BATCH, ACTIONS), bool)
    state = np.array([2, 3, 7, 8])
    config = planning.Planning(beam=27, depth=3)
    found = first_actions(tables, state, KEY, legal, config)
    assert found.tolist() == [2, 2, 0, 0]
    near = np.full(BATCH, 1)  # Four steps away.
    found = first_actions(tables, near, KEY, legal, config)
    assert (np.asarray(found) == 0).mean() > 0.5


@pytest.mark.parametrize("network", [STEP, TRIPLE], ids=["cache", "recompute"])
def test_outcomes_are_those_of_each_action_as_training_reads_them(network):
    """Of all actions in one step of acting, against an unroll with each."""
    net = transformer.make(spec_of(), network, OUTCOMES)
    params = jax.jit(net.init)(KEY)
    rollout = reset_rows.without_resets(reset_rows.stream([4]))
    steps = sequence_policy.distillation.steps_of(rollout)
    step = jax.jit(functools.partial(net.step, outcomes=True))
    cache = net.initial_cache(2)
    for t in range(len(steps.has_prev)):
        out, cache = step(params, cache, jax.tree.map(lambda x, t=t: x[t], steps))
    assert out.reward.shape == (2, ACTIONS, 3)
    for action in range(ACTIONS):
        taken = np.full_like(rollout.action, action)
        whole = jax.jit(net.unroll)(params, steps, action=taken)
        for name in ("reward", "next_vector"):
            np.testing.assert_allclose(
                getattr(out, name)[:, action], getattr(whole, name)[-1], atol=1e-5
            )


@functools.cache
def acting(beam):
    """Returns (agent, its jitted act) with so many plans."""
    config = sequence_policy.Config(
        STEP, outlook=OUTCOMES, planning=planning.Planning(beam, 3)
    )
    agent = sequence_policy.make("it", spec_of(), config)
    return agent, jax.jit(agent.act)


def test_who_plans_nothing_acts_as_if_there_were_no_plans():
    """The same draws bit for bit; who plans takes legal actions and says their chance."""
    ts, _ = reset_rows.drawn(
        np.random.default_rng(0), np.zeros((6, 2), np.float32),
        np.eye(6, 2, dtype=bool) * 0 + (np.arange(6) == 0)[:, None],
        np.zeros((6, 2), bool),
    )  # fmt: skip
    mask = np.broadcast_to([True, False, True], ts.action_mask.shape)
    ts = ts._replace(action_mask=mask)
    given = {"warmup_updates": 1.0, "across": 1.0, "return_gate": 0.0}
    hp = overrides.override(sequence_policy.Hparams(), given)
    learner = jax.jit(acting(0)[0].init)(KEY, hp)
    actions = {}
    for beam, planned in ((0, 0.0), (2, 0.0), (2, 1.0)):
        agent, act = acting(beam)
        own = hp._replace(planned=planned)
        carry, found = agent.carry(2), []
        for t in range(6):
            now = jax.tree.map(lambda x, t=t: x[t], ts)
            key = jax.random.fold_in(KEY, t)
            action, carry, log_prob = act(learner, carry, now, key, own)
            found.append(np.asarray(action))
            assert (np.asarray(log_prob) <= 0).all()
        actions[beam, planned] = np.stack(found)
    np.testing.assert_array_equal(actions[0, 0.0], actions[2, 0.0])
    assert set(actions[2, 1.0].ravel()) <= {0, 2}


@pytest.mark.parametrize(
    ("config", "spec", "words"),
    [
        ({"planning": planning.Planning(-1)}, {}, "planning.beam: -1; use 0 or more"),
        ({"planning": planning.Planning(2, 0)}, {}, "planning.depth: 0; use 1 or more"),
        (
            {"outlook": outlook.Outlook(rewards=True)},
            {},
            "outlook.vectors=False: what an action leads to is not predicted; give both",
        ),
        ({}, {"space": types.Factorised((2, 2))}, "plans are of Discrete actions"),
        ({"permutes": True}, {}, "plans are of actions by their own numbers"),
    ],
)
def test_what_cannot_be_planned_is_refused(config, spec, words):
    """By the field, and with what would do."""
    given = {"outlook": OUTCOMES, "planning": planning.Planning(2, 2)} | config
    with pytest.raises(ValueError, match=words) as error:
        sequence_policy.make(
            "it", spec_of(**spec), sequence_policy.Config(STEP, **given)
        )
    assert "\n" not in str(error.value)
