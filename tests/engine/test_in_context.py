"""Frozen weights, episode after episode: what is kept, what is written down."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import random, types
from mtrl_jax.engine import context_runner
from mtrl_jax.envs import core, mixture, trials, wrappers

MEMBERS, ARMS, EPISODES = 2, 4, 6
LENGTH = 2  # steps of an episode, and one more to reset


class Memory(NamedTuple):
    guess: jax.Array  # [B] int32
    steps: jax.Array  # [B] int32


def guessing():
    """Returns the task of which one guess of four pays 1, each of two steps."""

    def observe():
        return {"vector": jnp.zeros(1)}

    def reset(key, params):
        return jnp.int32(0), observe()

    def step(key, time, action, params):
        paid = (action == params).astype(jnp.float32)
        return time + 1, observe(), paid, False, time + 1 >= LENGTH

    return core.task(
        "guess", reset, step, types.Discrete(ARMS), jnp.int32(0), max_steps=LENGTH
    )


def env():
    """Returns every member on all four tasks, a slot each; rewards are shown doubled."""
    shown = wrappers.apply(guessing(), {"reward_scale": 2.0})
    return core.spread(shown, jnp.arange(ARMS), (MEMBERS, ARMS), "slot")


def stubborn(*, forgets):
    """Returns an agent that tries the next arm until one pays, or forgets at ``first``."""

    def init(key, hp):
        return {"w": jax.random.normal(key, (3,))}

    def carry(batch):
        return Memory(jnp.zeros(batch, jnp.int32), jnp.zeros(batch, jnp.int32))

    def act(learner, memory, ts, key, hp):
        # What a first step brings is no answer to a guess.
        wrong = (memory.steps > 0) & ~ts.first & (ts.reward == 0)
        guess = (memory.guess + wrong) % ARMS
        guess = jnp.where(ts.first & forgets, 0, guess)
        return guess, Memory(guess, memory.steps + 1), ()

    def update(learner, rollout, key, hp, step):
        raise AssertionError("frozen weights are not updated")

    return types.Agent(init, carry, act, update)


def start(forgets=False, episodes=EPISODES, steps=6, **options):
    """Returns (runner, fresh state)."""
    agent = stubborn(forgets=forgets)
    runner = context_runner.make(
        agent, env(), episodes=episodes, steps_per_chunk=steps, **options
    )
    keys = random.roots(0, MEMBERS)
    weights = jax.vmap(agent.init, (0, None))(random.at(keys, 0, random.INIT), ())
    return runner, jax.jit(runner.init)(keys, weights)


@pytest.fixture(name="played", scope="module")
def _played():
    """(state before, state after three chunks, their outputs)."""
    runner, before = start()
    state, outputs = before, []
    for _ in range(3):
        state, out = jax.jit(runner.chunk)(state, ())
        outputs.append(out)
    return before, state, outputs


def test_what_was_found_out_is_kept_over_episodes(played):
    """Task k pays nothing for k guesses and 1 from then on: exactly these returns."""
    _, state, _ = played
    pays = np.arange(LENGTH * EPISODES)[None] >= np.arange(ARMS)[:, None]
    returns = pays.reshape(ARMS, EPISODES, LENGTH).sum(-1)
    np.testing.assert_array_equal(state.returns, np.stack([returns] * MEMBERS))


def test_an_agent_that_forgets_plays_every_episode_as_its_first():
    """Its mask by ``first`` is what decides: the runner resets nothing itself."""
    runner, state = start(forgets=True)
    for _ in range(3):
        state, _ = jax.jit(runner.chunk)(state, ())
    returns = np.asarray(state.returns)
    np.testing.assert_array_equal(
        returns, np.broadcast_to(returns[..., :1], returns.shape)
    )
    assert (returns[:, 0] == 2).all() and (returns[:, 3] == 0).all()
    # It counted on, though.
    np.testing.assert_array_equal(state.carry.steps, np.full((MEMBERS, ARMS), 18))


def test_the_weights_are_the_same_bits(played, tiny):
    """``update`` is not called, and nothing else writes to the agent's state."""
    before, after, _ = played
    assert not tiny.differs(before.learner, after.learner)


def test_two_chunks_are_one_of_twice_the_length(played, tiny):
    """Also where an episode begins in one and ends in the next: 6 steps are 2 of 3."""
    longer, state = start(steps=18)
    state, _ = jax.jit(longer.chunk)(state, ())
    different = tiny.differs(played[1], state)
    assert {path.split("[")[0] for path in different} <= {".stats.chunk"}


def test_stepped_from_python_the_numbers_are_the_same(played, tiny):
    """The host's runner is the program's, also from one chunk to the next."""
    keys = random.roots(0, MEMBERS)
    hosted = context_runner.make_host(
        stubborn(forgets=False),
        mixture.host_from_pure(env(), random.at(keys, 0, random.ENV)),
        episodes=EPISODES,
        steps_per_chunk=6,
    )
    state = hosted.init(keys, played[0].learner)
    for expected in played[2]:
        state, output = hosted.chunk(state, ())
        assert not tiny.differs(output, expected)
    assert not tiny.differs(state._replace(env=()), played[1]._replace(env=()))


def test_episodes_beyond_the_last_are_not_written_down():
    """Slots play on; returns hold the first E episodes, NaN until they have ended. Of a
    single one, the reward of every step is kept: task k pays from guess k on."""
    runner, state = start(episodes=1, steps=4, longest=3)
    assert np.isnan(state.returns).all() and np.isnan(state.rewards).all()
    state, _ = jax.jit(runner.chunk)(state, ())
    first = np.asarray(state.returns)
    assert np.isfinite(first).all()
    pays = np.arange(LENGTH)[None] >= np.arange(ARMS)[:, None]
    for _ in range(2):
        np.testing.assert_array_equal(state.rewards[..., :LENGTH], [pays] * MEMBERS)
        assert np.isnan(state.rewards[..., LENGTH:]).all()
        np.testing.assert_array_equal(state.returns, first)
        state, _ = jax.jit(runner.chunk)(state, ())
    assert (np.asarray(state.episode) == 4).all()


def test_an_agent_goes_on_from_the_episodes_that_it_watched():
    """Shown the paying arm of each task for two episodes, it never guesses wrong; left
    uninformed, it begins to guess where it would have. Illegal actions are known to all."""

    def shows(key, state, legal):
        assert key.shape == (MEMBERS,) and legal.shape == (MEMBERS, ARMS, ARMS)
        return state.params

    def watched(memory, ts, action):
        assert action.shape == (ARMS,)
        return memory._replace(guess=action)

    for watch, after in ((watched, 2), (lambda memory, ts, action: memory, 0)):
        prompt = context_runner.Prompt(2, shows, watch)
        runner, state = start(episodes=4, steps=12, prompt=prompt)
        state, _ = jax.jit(runner.chunk)(state, ())
        returns = np.asarray(state.returns)
        assert (returns[..., :2] == LENGTH).all()
        # An agent that watched every guess pay has learned to guess that.
        assert (returns[:, ARMS - 1, 2] == after).all()


class Notes(NamedTuple):
    actions: jax.Array  # [B, steps] what was done, or shown
    steps: jax.Array  # [B] int32
    kept: jax.Array  # [B] int32, the steps of a prompt


def test_no_action_is_drawn_twice_and_a_prompt_is_kept_as_long_as_it_lasts():
    """Agent and prompt draw with a key for each step and member, also over chunks."""
    steps, episodes = 12, 2

    def carry(batch):
        nothing = jnp.zeros(batch, jnp.int32)
        return Notes(jnp.zeros((batch, steps), jnp.int32), nothing, nothing)

    def noted(notes, ts, action):
        here = jnp.arange(steps)[None] == notes.steps[:, None] - 1
        return notes._replace(actions=jnp.where(here, action[:, None], notes.actions))

    def drawn(key, shape=(ARMS,)):
        return jax.random.randint(key, shape, 0, 1 << 30)

    def act(learner, notes, ts, key, hp):
        action = drawn(key, ts.reward.shape)
        return action, notes._replace(steps=notes.steps + 1), ()

    prompt = context_runner.Prompt(
        episodes,
        lambda key, state, legal: jax.vmap(drawn)(key),
        noted,
        lambda notes, ts: notes._replace(kept=notes.kept + 1),
    )
    agent = stubborn(forgets=False)._replace(carry=carry, act=act)
    runner = context_runner.make(
        agent, env(), episodes=4, steps_per_chunk=steps // 2, prompt=prompt
    )
    state = jax.jit(runner.init)(random.roots(0, MEMBERS), jnp.zeros(MEMBERS))
    chunk = jax.jit(runner.chunk)
    for _ in range(2):
        state, _ = chunk(state, ())
    assert len(np.unique(state.carry.actions)) == MEMBERS * ARMS * steps
    # Two steps of each shown episode and the reset between them.
    assert (np.asarray(state.carry.kept) == episodes * (LENGTH + 1) - 1).all()


def test_a_chunk_tells_of_its_own_episodes(played):
    """Sums per member and task over the episodes that ended in it: rows are made of them."""
    _, state, outputs = played
    for i, out in enumerate(outputs):
        assert (np.asarray(out.episodes["episodes"]) == 2 * ARMS).all()
        own = np.asarray(state.returns)[..., 2 * i : 2 * i + 2]
        np.testing.assert_array_equal(
            out.episodes["return"][:, 0], own.sum(axis=(1, 2))
        )


# Trials.


@pytest.fixture(name="tried", scope="module")
def _tried():
    """The state after four episodes of two trials of three, and what the chunk returned."""
    agent = stubborn(forgets=True)
    of_trials = core.spread(
        trials.of(guessing(), 3), jnp.arange(ARMS), (MEMBERS, ARMS), "slot"
    )
    # A trial is six steps, and its next one's first episode ends at the ninth.
    runner = context_runner.make(agent, of_trials, episodes=4, steps_per_chunk=9)
    keys = random.roots(0, MEMBERS)
    weights = jax.vmap(agent.init, (0, None))(random.at(keys, 0, random.INIT), ())
    return jax.jit(runner.chunk)(jax.jit(runner.init)(keys, weights), ())


def test_every_episode_of_a_trial_is_written_down(tried):
    """Memory lasts for a trial, even of an agent that forgets by ``first``, and no longer."""
    state, _ = tried
    pays = np.arange(LENGTH * 3)[None] >= np.arange(ARMS)[:, None]
    returns = pays.reshape(ARMS, 3, LENGTH).sum(-1)
    again = np.concatenate([returns, returns[:, :1]], axis=1)
    np.testing.assert_array_equal(state.returns, np.stack([again] * MEMBERS))
    assert (np.asarray(state.episode) == 4).all()


def test_a_chunk_tells_of_the_episodes_within_trials(tried):
    """Their number, mean length and return, as of episodes that are nobody's trial."""
    state, out = tried
    assert (np.asarray(out.episodes["episodes"]) == 4 * ARMS).all()
    assert (np.asarray(out.episodes["length"]) == 4 * ARMS * LENGTH).all()
    np.testing.assert_array_equal(
        out.episodes["return"][:, 0], np.asarray(state.returns).sum(axis=(1, 2))
    )
