"""Trials: several episodes of one task, played as one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random, types
from mtrl_jax.envs import core, dark, trials

N, LENGTH = 3, 4
ROOM = {"size": 3, "length": LENGTH, "start": "random"}
STEPS = 2 * (N * LENGTH + 1)  # two trials, each with the step that resets


@pytest.fixture(name="played", scope="module")
def _played(play):
    """(time steps [T+1, P, B, ...], actions [T, P, B], measures) of dealt trials."""
    env = envs.make("dark/room", (2, 20), {**ROOM, "trial": N})
    return play(env, STEPS)


def plain_steps():
    """Returns the plain room's functions, jitted."""
    task = envs.pure_task("dark/room", ROOM)
    return jax.jit(task.reset), jax.jit(task.step)


def test_a_trial_is_its_episodes_one_after_the_other():
    """Bit for bit those of the plain task by the same keys: observations and rewards."""
    reset, step = plain_steps()
    params = dark.Params(jnp.asarray([[1, 2]]))
    trial = trials.of(envs.pure_task("dark/room", ROOM), N)
    began, went, renewed = (jax.jit(f) for f in (trial.reset, trial.step, trial.renew))
    actions = np.random.default_rng(0).integers(0, 5, (N, LENGTH))
    key = random.roots(0, 1)[0]
    state, obs = began(key, params)
    for episode in range(N):
        inner, plain = reset(key, params)
        np.testing.assert_array_equal(obs["vector"], [*plain["vector"], 1.0])
        for t, action in enumerate(actions[episode]):
            key = random.at(key, t, random.ENV)
            state, obs, *rest = went(key, state, action, params)
            inner, plain, reward, terminated, truncated = step(
                key, inner, action, params
            )
            over = episode == N - 1
            assert rest == [reward, terminated & over, truncated & over]
            np.testing.assert_array_equal(obs["vector"], [*plain["vector"], 0.0])
            wanted = t == LENGTH - 1 and not over
            assert bool(trial.wants_renewal(state)) == wanted
        if not over:
            key = random.at(key, LENGTH, random.ENV)
            state, obs = renewed(state, began(key, params), params)
            assert not trial.wants_renewal(state)


def test_an_episode_within_ends_and_the_next_begins_in_one_step(played):
    """The trial has no other first or last step; each episode has a start of its own."""
    ts, _, _ = played
    t = np.arange(STEPS + 1)
    own = t % (N * LENGTH + 1)
    np.testing.assert_array_equal(ts.first[:, 0, 0], own == 0)
    np.testing.assert_array_equal(ts.last[:, 0, 0], own == N * LENGTH)
    begins = (own % LENGTH == 0) & (own < N * LENGTH)
    np.testing.assert_array_equal(ts.obs["vector"][:, 1, 2, -1], begins)
    starts = ts.obs["vector"][begins][..., :2].reshape(begins.sum(), -1)
    assert len(np.unique(starts, axis=0)) == begins.sum()
    assert (ts.discount == 1).all()  # A time limit truncates.


def test_the_task_is_kept_in_a_trial_and_dealt_anew_for_the_next(player):
    """Rewards are only ever paid at one cell of a trial; goals change between trials."""
    env = envs.make("dark/room", (1, 60), {**ROOM, "start": "centre", "trial": N})
    state, _ = jax.jit(env.reset)(random.roots(3, 1), env.params)
    step = jax.jit(lambda s: env.step(s, jnp.zeros(env.batch, jnp.int32), env.params))
    goals = []
    for _ in range(STEPS):
        state, _ = step(state)
        goals.append(np.asarray(state.params.goals)[0, :, 0])
    goals = np.stack(goals)
    change = (goals[1:] != goals[:-1]).any(-1)
    new = np.arange(1, STEPS) % (N * LENGTH + 1) == N * LENGTH
    assert not change[~new].any() and change[new].mean() > 0.7


def test_measures_are_those_of_the_episode_that_ended_last(played):
    """Its return and success; how many have ended; at a trial's end, of its last one."""
    ts, _, info = played
    reward = ts.reward[1:]
    for trial in range(2):
        begin = trial * (N * LENGTH + 1)
        rewards = reward[begin : begin + N * LENGTH].reshape(N, LENGTH, 2, 20)
        returns = rewards.sum(1)
        assert returns.max() > 1
        for k in range(N):
            after = slice(begin + (k + 1) * LENGTH - 1, begin + (k + 2) * LENGTH - 1)
            after = slice(after.start, min(after.stop, begin + N * LENGTH))
            ended = jax.tree.map(lambda x, at=after: x[at], info)
            assert (ended["trial_episode"] == k + 1).all()
            assert (ended["episode_return"] == returns[k]).all()
            assert (ended["success"] == (returns[k] > 0)).all()
    assert (info["trial_episode"][: LENGTH - 1] == 0).all()
    assert (info["episode_return"][: LENGTH - 1] == 0).all()


def test_scores_and_limit_are_of_the_whole_trial_or_of_an_episode():
    """n times the plain task's, and back; a trial knows what it is made of."""
    plain = envs.pure_task("dark/key_to_door", {"tasks": "test", "number": 5})
    trial = trials.of(plain, 10)
    assert (plain.spec.trial, trial.spec.trial) == (1, 10)
    assert trial.spec.max_steps == 500
    for name in ("random_score", "reference_score"):
        assert getattr(trial.spec, name) == pytest.approx(
            10 * getattr(plain.spec, name)
        )
    env = core.vectorise(trial, (1, 1))
    (back,) = trials.per_episode(env.spec).tasks
    assert back.max_steps == 50 and back.trial == 10
    assert back.random_score == pytest.approx(plain.spec.random_score)
    assert back.reference_score == pytest.approx(plain.spec.reference_score)


def test_trials_that_differ_by_their_goals_are_one_program():
    """Neighbours of a mixture share their code, unless their length differs."""
    given = [
        envs.pure_task("dark/room", {"goal": goal, "trial": n})
        for goal, n in (([0, 0], 5), ([8, 3], 5), ([8, 3], 6))
    ]
    assert core.same_code(*given[:2]) and not core.same_code(*given[1:])
    dealt = [envs.pure_task("dark/room", {"trial": 5}) for _ in range(2)]
    assert core.same_code(*dealt)


def renewing():
    """Returns a task of two steps, the first of which is renewed; with a picture and a mask."""

    def observe(state):
        return {"image": jnp.full((1, 1, 1), state, jnp.uint8)}

    def reset(key, params):
        return jnp.int32(0), observe(0)

    def step(key, state, action, params):
        return state + 1, observe(state + 1), 1.0, state + 1 >= 12, False

    return core.task(
        "renewing",
        reset,
        step,
        types.Discrete(2),
        max_steps=2,
        action_mask=lambda state, params: jnp.arange(2) <= state,
        wants_renewal=lambda state: state == 1,
        renew=lambda state, begun, params: (state + 10, observe(state + 10)),
        observe=lambda state, params: observe(state),
        render=lambda state, params: state,
    )


def test_a_task_that_renews_itself_still_does_in_a_trial(player):
    """Its mask, its picture and its discount are of the episode in progress."""
    env = core.vectorise(trials.of(renewing(), 2), (1, 1))
    ts, _, infos = player(env, 5)()
    np.testing.assert_array_equal(ts.obs["image"].ravel(), [0, 11, 0, 11, 12, 0])
    np.testing.assert_array_equal(ts.obs["vector"].ravel(), [1, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(ts.discount.ravel(), [1, 1, 1, 1, 0, 1])
    np.testing.assert_array_equal(
        ts.action_mask[:, 0, 0, 1], [False, True, False, True, True, False]
    )
    np.testing.assert_array_equal(infos["episode_return"].ravel(), [0, 2, 2, 2, 0])
    state, _ = env.reset(random.roots(0, 1), env.params)
    assert env.render(state, 0, 0) == 0


@pytest.mark.parametrize("n", [0, 2.0, True, "4"])
def test_a_trial_of_no_episodes_is_refused(n):
    """One line that says what would work."""
    with pytest.raises(
        ValueError, match=r"options\.trial: got .*, give an integer from 1"
    ):
        envs.pure_task("dark/room", {"trial": n})


def test_a_trial_of_trials_is_refused():
    """Which of them would count?"""
    with pytest.raises(ValueError, match="one of 3 episodes already"):
        trials.of(envs.pure_task("dark/room", {"trial": 3}), 2)


def test_the_best_way_in_every_episode_gets_the_reference_score():
    """On each of the tasks that a trial can be of."""
    options = {"trial": N, "tasks": "test"}
    task, goals = envs.pure_task("dark/room", options), dark.tasks_of("room", options)
    env = core.spread(task, goals, (16, 1))
    state, _ = env.reset(random.roots(0, 16), env.params)

    def step(state, _):
        action = dark.optimal_action(state.params, state.inner.inner)
        state, ts = env.step(state, action, env.params)
        return state, ts.reward

    _, reward = jax.jit(lambda s: jax.lax.scan(step, s, None, 20 * N))(state)
    assert reward.sum() / 16 == pytest.approx(task.spec.reference_score)
