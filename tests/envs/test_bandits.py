"""Bandits: what arms pay, which are good, and what is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import playing
import pytest

from mtrl_jax import envs, random
from mtrl_jax.envs import bandits, core


def run(env, steps, choose, seed=0):
    """Returns time steps, measures and probabilities ``[T, P, B, ...]``."""
    ts, measures, params = playing.played(env, steps, choose, seed)
    return ts, measures, params.probabilities


def best(key, state):
    return bandits.optimal_action(state.params, state.inner)


def arm(number, batch):
    return lambda key, state: jnp.full(batch, number)


@pytest.mark.parametrize(
    ("name", "best_score", "random_score"),
    [("odd", 91.7, 50.1), ("even", 91.7, 50.1), ("uniform", 100 * 10 / 11, 50.0)],
)
def test_oracle_and_random_scores_are_exact(name, best_score, random_score):
    """The sheet's simulated 91.7 and 50.1, and what dealt bandits are worth."""
    env = envs.make(f"bandit/{name}", (1, 4096))
    spec = env.spec.tasks[0]
    assert spec.reference_score == pytest.approx(best_score, abs=0.1)
    assert spec.random_score == pytest.approx(random_score, abs=0.15)
    state, _ = jax.jit(env.reset)(random.roots(1, 1), env.params)
    chances = np.asarray(state.params.probabilities)
    for got, exact in [(chances.max(-1), best_score), (chances.mean(-1), random_score)]:
        assert abs(100 * got.mean() - exact) < 0.6


@pytest.mark.parametrize("name", ["odd", "even"])
def test_scores_are_exact_where_one_side_has_more_arms(name):
    """Of five, two are odd; and where the other side is often the good one."""
    options = {"arms": 5, "favoured": 0.8, "pulls": 10}
    exact = bandits.task(name, options).spec
    listed = bandits.task(name, {**options, "number": 20_000}).spec
    # Of 20,000 bandits: the means are known to some 0.01.
    assert abs(exact.random_score - listed.random_score) < 0.05
    assert abs(exact.reference_score - listed.reference_score) < 0.05


def test_the_best_arm_is_paid_what_the_reference_says():
    """Played and not only counted: 2,000 episodes, five standard errors."""
    env = envs.make("bandit/odd", (1, 2000))
    ts, info, _ = run(env, 100, best)
    returns = ts.reward.sum(0)
    exact = env.spec.tasks[0].reference_score
    assert abs(returns.mean() - exact) < 5 * returns.std() / np.sqrt(2000)
    assert (info["regret"][-1] == 0).all() and (info["best_arm"][-1] == 1).all()
    assert ts.last[99].all() and not ts.last[:99].any() and (ts.discount == 1).all()


@pytest.mark.parametrize("chances", [[0.0, 0.25, 1.0]])
def test_an_arm_pays_one_as_often_as_its_probability_says(chances):
    """Rewards are 0 or 1 and independent of pull, slot and episode."""
    env = envs.make("bandit/uniform", (3, 40), {"probabilities": chances, "pulls": 49})
    pulled = np.arange(3)[:, None].repeat(40, 1)
    ts, info, _ = run(env, 100, lambda key, state: pulled)
    assert set(np.unique(ts.reward)) == {0.0, 1.0}
    # The step after the last pull is no pull.
    paid = ts.reward[~ts.first.any((1, 2))]
    assert len(paid) == 98
    assert (paid[:, 0] == 0).all() and (paid[:, 2] == 1).all()
    assert abs(paid[:, 1].mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / paid[:, 1].size)
    lag = np.corrcoef(paid[1:, 1].ravel(), paid[:-1, 1].ravel())[0, 1]
    assert abs(lag) < 4 / np.sqrt(paid[1:, 1].size)
    regret = info["regret"][48].mean(-1)
    np.testing.assert_allclose(regret, 49 * (1 - np.asarray(chances)), rtol=1e-5)
    np.testing.assert_array_equal(info["best_arm"][48].mean(-1), [0, 0, 1])


@pytest.mark.parametrize(("name", "parity"), [("odd", 1), ("even", 0)])
def test_good_arms_are_those_of_the_name_in_95_of_100_bandits(name, parity):
    """Counted from 0; within a bandit all good arms have one parity."""
    chances = np.asarray(bandits.tasks_of(name, {"number": 4000}).probabilities)
    good = chances > 0.5
    named = (good == (np.arange(10) % 2 == parity)).all(1)
    other = (good == (np.arange(10) % 2 != parity)).all(1)
    assert (named | other).all()
    assert abs(named.mean() - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)
    spread = chances[named][:, parity::2]
    assert abs(spread.mean() - 0.75) < 0.01 and abs(spread.std() - 0.5 / 12**0.5) < 0.01
    always = np.asarray(
        bandits.tasks_of(name, {"number": 4000, "favoured": 1}).probabilities
    )
    assert (always[:, parity::2] > 0.5).all()


def test_a_listed_bandit_depends_on_seed_and_place_alone():
    """Fewer are the first of more; another seed has others."""
    few, many, other = (
        np.asarray(bandits.tasks_of("odd", options).probabilities)
        for options in ({"number": 5}, {"number": 9}, {"number": 9, "seed": 1})
    )
    np.testing.assert_array_equal(few, many[:5])
    assert len(np.unique(np.concatenate([many, other]), axis=0)) == 18


@pytest.mark.parametrize("how", ["slot", "episode"])
@pytest.mark.parametrize("number", [None, 6])
def test_bandits_are_dealt_to_slots_or_to_episodes(how, number):
    """One for good or a new one each time; from the list where there is one."""
    options = {"pulls": 2, "task": how} | ({"number": number} if number else {})
    env = envs.make("bandit/even", (2, 20), options)
    ts, _, chances = run(env, 12, arm(0, env.batch))
    changes = (chances[1:] != chances[:-1]).any(-1)
    if how == "slot":
        assert not changes.any()
    else:
        assert changes[ts.first[1:]].mean() > 0.7 and not changes[~ts.first[1:]].any()
    dealt = np.unique(chances.reshape(-1, 10), axis=0)
    if number:
        listed = np.asarray(bandits.tasks_of("even", {"number": number}).probabilities)
        assert {tuple(x) for x in dealt} == {tuple(x) for x in listed}
    else:
        assert len(dealt) == (40 if how == "slot" else 200)


def test_learners_with_bandits_of_their_own_share_a_program():
    """What Algorithm Distillation collects from; scores of listed bandits are theirs."""
    options = {"number": 5, "pulls": 3}
    tasks = bandits.tasks_of("odd", options)
    task = envs.pure_task("bandit/odd", options)
    env = core.spread(task, tasks, (7, 2))
    _, _, chances = run(env, 8, best)
    wanted = np.asarray(tasks.probabilities)[np.arange(7) % 5]
    np.testing.assert_array_equal(
        chances, np.broadcast_to(wanted[:, None], chances.shape)
    )
    mean = np.asarray(tasks.probabilities).max(1).mean()
    assert task.spec.reference_score == pytest.approx(3 * mean)


def test_the_best_of_equal_arms_is_the_first():
    """Demonstrations do not depend on who makes them; leading axes are kept."""
    params = bandits.Params(np.float32([[0.2, 0.9, 0.9], [0.5, 0.5, 0.5]]))
    np.testing.assert_array_equal(bandits.optimal_action(params), [1, 0])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("odd", {"arms": 1}, "options.arms"),
        ("odd", {"pulls": 0}, "options.pulls"),
        ("odd", {"favoured": 95}, "options.favoured"),
        ("uniform", {"favoured": 0.5}, "no option 'favoured'"),
        ("even", {"number": 0}, "options.number"),
        ("even", {"seed": -1}, "options.seed"),
        ("even", {"task": "episodes"}, "did you mean episode"),
        ("even", {"probabilities": [0.5, 1.5]}, "options.probabilities"),
        ("even", {"probabilities": [0.5, 0.5], "arms": 2}, "options.arms: with"),
        ("evn", {}, "did you mean even"),
    ],
)
def test_a_wrong_option_of_a_bandit_is_named(name, options, message):
    """One line that says what would work."""
    with pytest.raises(ValueError, match=message) as error:
        envs.make(f"bandit/{name}", (1, 1), options)
    assert "\n" not in str(error.value)


def test_bandits_without_end_cannot_be_listed():
    """How many there are to be is the caller's to say."""
    with pytest.raises(ValueError, match=r"options\.number"):
        bandits.tasks_of("odd")


def test_a_picture_shows_the_arms():
    """A bar as high as the probability, orange the best."""
    task = envs.pure_task("bandit/odd", {"probabilities": [0.25, 0.75]})
    state, _ = task.reset(jax.random.key(0), task.params)
    picture = task.render(state, task.params)
    assert picture.shape == (200, 200, 3) and picture.dtype == np.uint8
    orange = (picture == np.uint8([230, 159, 0])).all(-1)
    assert orange[:, 150].sum() == 150 and not orange[:, 50].any()
