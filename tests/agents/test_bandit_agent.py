"""Index policies: their formulas, what they remember, the rewards they are known for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from mtrl_jax import envs, random, types
from mtrl_jax.agents import bandit
from mtrl_jax.engine import fused_runner

KEY = jax.random.key(0)
ARMS = 5


def made(algorithm="ucb1", arms=ARMS):
    """Returns the agent for ``arms`` arms."""
    obs = {"vector": jax.ShapeDtypeStruct((1,), jnp.float32)}
    action = types.Discrete(arms)
    spec = types.EnvSpec(obs, action, (types.TaskSpec("x", obs, action),))
    return bandit.make(spec, bandit.Config(algorithm))


def hparams(**fields):
    return jax.tree.map(jnp.float32, bandit.Hparams(**fields))


def step(reward, first, legal=(True,) * ARMS):
    """Returns the TimeStep of slots ``[B]`` that got ``reward``."""
    slots = len(reward)
    return types.TimeStep(
        obs={"vector": np.ones((slots, 1), np.float32)},
        reward=np.asarray(reward, np.float32),
        discount=np.ones(slots, np.float32),
        first=np.full(slots, first),
        last=np.zeros(slots, bool),
        task=np.zeros(slots, np.int32),
        action_mask=np.broadcast_to(np.array(legal), (slots, ARMS)),
    )


def play(agent, hp, payoff, steps, slots=64, legal=(True,) * ARMS):
    """Returns actions ``[T, B]`` on arms that always pay ``payoff``."""
    state, carry = agent.init(KEY, hp), agent.carry(slots)
    act, reward, actions = jax.jit(agent.act), np.zeros(slots), []
    for t in range(steps):
        key = jax.random.fold_in(KEY, t)
        action, carry, _ = act(state, carry, step(reward, t == 0, legal), key, hp)
        actions.append(np.asarray(action))
        reward = np.asarray(payoff)[action]
    return np.stack(actions)


def test_ucb1_pulls_every_arm_once_in_an_order_of_its_own():
    """Before anything else, and each slot in a random order."""
    actions = play(made(), hparams(), np.linspace(0, 1, ARMS), ARMS)
    np.testing.assert_array_equal(np.sort(actions, axis=0).T, [range(ARMS)] * 64)
    assert len({tuple(order) for order in actions.T}) > 30


def test_what_it_is_shown_counts_as_its_own_pull():
    """Shown every arm but one, it pulls that one; the reward is of the arm shown."""
    agent, hp = made(), hparams()
    state, carry, reward = agent.init(KEY, hp), agent.carry(2), np.zeros(2)
    act, observe = jax.jit(agent.act), jax.jit(bandit.observe_action)
    for t in range(ARMS):
        ts = step(reward, t == 0)
        action, carry, _ = act(state, carry, ts, KEY, hp)
        if t < ARMS - 1:
            shown = np.int32([t, ARMS - 1 - t])
            carry, reward = observe(carry, ts, shown), 1.0 + shown
    np.testing.assert_array_equal(action, [ARMS - 1, 0])
    np.testing.assert_array_equal(carry.total, [[1, 2, 3, 4, 0], [0, 2, 3, 4, 5]])


@pytest.mark.parametrize("c", [1.0, 0.3, 0.0])
def test_ucb1_pulls_the_arm_of_the_highest_upper_bound(c):
    """mean + c·√(2 ln t / n) in float64, t and n of the pulls before."""
    payoff = np.array([0.1, 0.42, 0.4, 0.37, 0.2])
    actions = play(made(), hparams(exploration=c), payoff, 60, slots=3)
    for slot in range(3):
        n = np.bincount(actions[:ARMS, slot], minlength=ARMS).astype(float)
        for t in range(ARMS, 60):
            index = payoff + c * np.sqrt(2 * np.log(t) / n)
            assert index.max() - index[actions[t, slot]] < 1e-5
            n[actions[t, slot]] += 1


def test_arms_that_are_not_legal_are_neither_pulled_nor_waited_for():
    """Three of five: tried once each, then the best of them."""
    legal, payoff = (False, True, True, False, True), [9.0, 0.1, 0.8, 9.0, 0.2]
    actions = play(made(), hparams(exploration=0.0), payoff, 10, legal=legal)
    np.testing.assert_array_equal(np.sort(actions[:3], axis=0).T, [[1, 2, 4]] * 64)
    assert (actions[3:] == 2).all()


def test_thompson_draws_from_the_beta_posterior():
    """θ ~ Beta(a + successes, b + failures), Kolmogorov-Smirnov; c = 0 is its mean."""
    slots, hp = 4000, hparams(prior_a=2.0, prior_b=0.5)
    pulls = np.broadcast_to(np.float32([0, 3, 10, 40, 1]), (slots, ARMS))
    total = np.broadcast_to(np.float32([0, 3, 2, 30, 0]), (slots, ARMS))
    scores = jax.jit(bandit.thompson_scores)
    drawn = np.asarray(scores(KEY, pulls, total, hp))
    mean_only = hp._replace(exploration=jnp.float32(0.0))
    greedy = np.asarray(scores(KEY, pulls, total, mean_only))
    for arm in range(ARMS):
        n, s = float(pulls[0, arm]), float(total[0, arm])
        posterior = scipy.stats.beta(2.0 + s, 0.5 + n - s)
        assert scipy.stats.kstest(drawn[:, arm], posterior.cdf).pvalue > 1e-3
        np.testing.assert_allclose(greedy[:, arm], posterior.mean(), rtol=1e-5)


@pytest.mark.parametrize("algorithm", bandit.ALGORITHMS)
def test_a_slot_remembers_its_own_pulls_until_its_episode_ends(algorithm):
    """Counts and sums are those of the episode; the reset's own step is not one."""
    agent, hp = made(algorithm), hparams()
    state, carry, act = agent.init(KEY, hp), agent.carry(1), jax.jit(agent.act)
    pulls, total = np.zeros(ARMS), np.zeros(ARMS)
    arm = None
    for t, first in enumerate([True, False, False, False, True, False, False]):
        reward = 0.0 if first else 0.125 * t if t < 6 else 7.0
        if first:
            pulls, total = np.zeros(ARMS), np.zeros(ARMS)
        else:
            pulls[arm] += 1
            # Thompson sampling counts no more than a success.
            total[arm] += min(reward, 1.0) if algorithm == "thompson" else reward
        ts = step([reward], first)
        key = jax.random.fold_in(KEY, t)
        action, carry, extras = jax.device_get(act(state, carry, ts, key, hp))
        arm = int(action[0])
        np.testing.assert_array_equal(carry.pulls[0], pulls)
        np.testing.assert_array_equal(carry.total[0], total)
        np.testing.assert_allclose(extras.estimate[0], total[arm] / max(pulls[arm], 1))


def test_metrics_are_means_over_the_pulls_that_count():
    """Reward, estimate and what the score has beyond it; no pull leads into a reset."""
    score, estimate = np.float32([[[3], [5], [100]], [[1], [2], [100]]])
    first = np.array([[True], [False], [False], [True]])
    ts = step(np.zeros(1), True)._replace(
        first=first, reward=np.float32([[9], [0.5], [1], [0]])
    )
    extras = bandit.Extras(score, estimate)
    rollout = types.Rollout(ts, np.zeros((3, 1), np.int32), extras, ())
    update = jax.jit(made().update)
    learner, found, _ = update(bandit.Learner(np.int32(4)), rollout, KEY, (), 0)
    assert learner.updates == 5
    assert found == {"reward": 0.75, "estimate": 1.5, "optimism": 2.5}


# Algorithm, arms, pulls, then the c of each member and the reward expected of it.
KNOWN = [
    ("ucb1", 10, 100, (1.0, 0.5, 0.3), (64.2, 73.5, 79.9)),
    ("ucb1", 20, 300, (1.0, 0.5, 0.3), (199.0, 230.0, 254.0)),
    ("thompson", 10, 100, (1.0,), (78.1,)),
    # Beta samples are slow on CPUs.
    pytest.param("thompson", 20, 300, (1.0,), (255.0,), marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("algorithm", "arms", "pulls", "c", "expected"), KNOWN)
def test_rewards_are_the_known_ones(algorithm, arms, pulls, c, expected):
    """Half of the arms pay U(0.5, 1), half U(0, 0.5): within 3 % of the reference."""
    members, slots = len(c), 200
    options = {"arms": arms, "pulls": pulls, "favoured": 1.0}
    env = envs.make("bandit/odd", (members, slots), options)
    agent = bandit.make(env.spec, bandit.Config(algorithm))
    hp = jax.tree.map(lambda x: jnp.full(members, x), hparams())
    hp = hp._replace(exploration=jnp.array(c, jnp.float32))
    runner = fused_runner.make(agent, env, unroll_length=pulls + 1, updates_per_chunk=1)
    state = jax.jit(runner.init)(random.roots(0, members), hp)
    state, out = jax.device_get(jax.jit(runner.chunk)(state, hp))
    assert out.finite.all()
    np.testing.assert_array_equal(state.learner.updates, 1)
    episodes = np.asarray(out.episodes["episodes"])
    np.testing.assert_array_equal(episodes, slots)
    reward = (out.episodes["return"] / episodes)[:, 0]
    np.testing.assert_allclose(reward, expected, rtol=0.03)
    np.testing.assert_allclose(out.metrics["reward"], reward / pulls, rtol=1e-4)


def test_what_is_no_bandit_is_refused():
    """One line that names the field, what was given and what would work."""
    with pytest.raises(ValueError, match="algorithm: unknown 'exp3'; one of ucb1, tho"):
        made("exp3")
    box = types.Box((-1.0,), (1.0,))
    with pytest.raises(ValueError, match=r"action: bandit .*Box.*Discrete"):
        bandit.make(types.EnvSpec({}, box, ()))
