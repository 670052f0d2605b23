"""The gymnax adapter against gymnax itself."""

import gymnax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random, types
from mtrl_jax.envs import gymnax as adapter

CASES = [
    ("CartPole-v1", {"max_steps_in_episode": 25}),
    ("Pendulum-v1", {"max_steps_in_episode": 7}),
    ("MemoryChain-bsuite", {"memory_length": 3}),
    ("Breakout-MinAtar", {"max_steps_in_episode": 12}),
]


def as_ours(obs):
    return obs.ravel() if obs.ndim < 3 else obs


@pytest.mark.parametrize(("name", "options"), CASES, ids=[c[0] for c in CASES])
def test_episodes_are_those_of_gymnax(name, options, play):
    """Fed the same keys and actions, gymnax's own step gives the same numbers.

    gymnax resets within the last step and hides the final observation in ``info``; ours
    shows it, then spends one step on the reset.
    """
    env = envs.make(f"gymnax/{name}", (1, 1), options)
    steps = 60
    ts, actions, _ = play(env, steps, seed=5)
    ts, actions = jax.tree.map(lambda x: x[:, 0, 0], (ts, actions))
    assert ts.last.sum() >= 2

    base, params = gymnax.make(name)
    params = params.replace(**options)

    def key(t):
        root = random.at(random.roots(5, 1), 0, random.ENV)[0]
        return random.fold(random.fold(root, 0), t)

    @jax.jit
    def step(t, state, action):
        obs, state, reward, terminated, _ = base.step_env(key(t), state, action, params)
        return obs, state, reward, terminated, base.is_truncated(state, params)

    reset = jax.jit(lambda t: base.reset_env(key(t), params))
    with jax.numpy_rank_promotion("allow"):
        for t in range(steps + 1):
            if ts.first[t]:
                obs, state = reset(t)
                reward, terminated, truncated = 0.0, False, False
            else:
                obs, state, reward, terminated, truncated = step(
                    t, state, actions[t - 1]
                )
            ours = next(iter(ts.obs.values()))[t].astype(np.float32)
            np.testing.assert_allclose(
                ours, as_ours(np.asarray(obs)), rtol=1e-5, atol=1e-6
            )
            np.testing.assert_allclose(ts.reward[t], reward, rtol=1e-5, atol=1e-6)
            assert ts.discount[t] == 1.0 - float(terminated)
            assert ts.last[t] == bool(terminated or truncated)


def test_a_time_limit_truncates_with_the_true_last_observation(play):
    """A truncated episode keeps discount 1 and ends with what was really seen."""
    long, *_ = play(envs.make("gymnax/Pendulum-v1", (1, 2)), 8)
    options = {"max_steps_in_episode": 8}
    short, *_ = play(envs.make("gymnax/Pendulum-v1", (1, 2), options), 8)
    assert short.last[8].all() and not long.last.any()
    assert (short.discount == 1.0).all()
    np.testing.assert_allclose(short.obs["vector"], long.obs["vector"], rtol=1e-6)


def test_a_discrete_observation_becomes_one_hot():
    """An index is not a number: FrozenLake's 16 cells are 16 inputs."""
    env = envs.make("gymnax/FrozenLake-misc", (1, 3))
    _, ts = jax.jit(env.reset)(random.roots(0, 1), env.params)
    vector = np.asarray(ts.obs["vector"])
    assert vector.shape == (1, 3, 16)
    np.testing.assert_array_equal(vector.sum(-1), 1.0)


def test_options_reach_params_and_constructor():
    """Traced fields land in params, static sizes change the shapes."""
    env = envs.make(
        "gymnax/DeepSea-bsuite", (2, 1), {"size": 4, "unscaled_move_cost": 0.5}
    )
    assert env.spec.obs["vector"].shape == (16,)
    assert env.spec.tasks[0].max_steps == 4
    np.testing.assert_array_equal(env.params.unscaled_move_cost, np.full((2, 1), 0.5))


@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("Catch-bsuite", {}, 9),
        ("Catch-bsuite", {"rows": 4}, 3),
        ("MemoryChain-bsuite", {"memory_length": 3}, 4),
        ("MemoryChain-bsuite", {"memory_length": 3, "max_steps_in_episode": 2}, 2),
        ("DeepSea-bsuite", {"size": 4, "max_steps_in_episode": 9}, 4),
        ("SimpleBandit-bsuite", {}, 1),
        ("UmbrellaChain-bsuite", {}, 10),
        ("UmbrellaChain-bsuite", {"chain_length": 3}, 3),
    ],
)
def test_the_longest_episode_is_known_where_the_game_ends_before_the_limit(
    name, options, steps
):
    """Played to its end, it is as long as the task says."""
    env = envs.make(f"gymnax/{name}", (1, 1), options)
    assert env.spec.tasks[0].max_steps == steps
    state, ts = jax.jit(env.reset)(random.roots(0, 1), env.params)
    step, length = jax.jit(env.step), 0
    while not np.asarray(ts.last)[0, 0]:
        state, ts = step(state, np.zeros((1, 1), np.int32), env.params)
        length += 1
    assert length == steps


@pytest.mark.parametrize(
    ("name", "options", "scores"),
    [
        ("DeepSea-bsuite", {}, (-0.0011, 0.99)),
        ("DeepSea-bsuite", {"size": 4}, (None, None)),
        ("FourRooms-misc", {"fail_prob": 0.5}, (None, None)),
        ("Breakout-MinAtar", {"max_steps_in_episode": 9}, (None, None)),
        ("MemoryChain-bsuite", {"memory_length": 9, "num_bits": 3}, (0.0, 1.0)),
        ("MemoryChain-bsuite", {"memory_length": 1000}, (None, None)),
        ("UmbrellaChain-bsuite", {"chain_length": 100, "n_distractor": 2}, (0.0, 1.0)),
        ("UmbrellaChain-bsuite", {"chain_length": 101}, (None, None)),
    ],
)
def test_scores_are_of_the_game_that_is_played(name, options, scores):
    """With an option that changes it there are none; the limit comes before no reward."""
    spec = adapter.task(name, options).spec
    assert (spec.random_score, spec.reference_score) == scores


def test_minatar_planes_stay_binary_and_small():
    """Bool planes take a quarter of the memory of what gymnax returns."""
    spec = adapter.task("Breakout-MinAtar").spec
    assert spec.obs["image"].dtype == jnp.bool_
    assert spec.frames == 1, "planes of objects, though there are four"
    assert (spec.random_score, spec.reference_score) == (0.38, 28.0)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("CartPole-v1", {"max_steps_in_episode": -5}, "from 1 to 2147483646"),
        ("CartPole-v1", {"max_steps_in_episode": 2**31}, "got 2147483648"),
        (
            *("BernoulliBandit-misc", {"max_steps_in_episode": 2.5}),
            "got 2.5, give an integer from 1 to 16777215",
        ),
        ("Reacher-misc", {"max_steps_in_episode": 2**24}, "from 1 to 16777215"),
        ("BernoulliBandit-misc", {"t_max": 2**24}, "from 1 to 16777215"),
        ("CartPole-v1", {"masspole": 0}, "got 0, give a number from 1e-06"),
        ("CartPole-v1", {"gravity": float("nan")}, "got nan, give a number"),
        ("DeepSea-bsuite", {"size": 0}, "got 0, give an integer from 1 to 100"),
        ("DeepSea-bsuite", {"size": 10**6}, "got 1000000"),
        ("MemoryChain-bsuite", {"memory_length": 0}, "got 0, give an integer from 1"),
        (
            "FrozenLake-misc",
            {"map_name": "5x5"},
            "cannot be played with map_name='5x5'",
        ),
        ("FrozenLake-misc", {"reward_schedule": [1, 2]}, "give a value like"),
        ("FrozenLake-misc", {"reward_schedule": [[1], 2, 3]}, "give a value like"),
        ("MountainCar-v0", {"min_position": 0.6}, "not below max_position=0.6"),
        ("FourRooms-misc", {"fail_prob": 1.5}, "from 0 to 1"),
    ],
)
def test_values_that_mean_nothing_are_refused(name, options, words):
    """One line with the option and its bounds, in place of NaN or an error of another."""
    with pytest.raises(ValueError, match="options") as caught:
        adapter.task(name, options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_limit_may_be_a_whole_number_that_is_written_as_a_fraction():
    """BernoulliBandit's own default is 100.0."""
    task = adapter.task("BernoulliBandit-misc", {"max_steps_in_episode": 3.0})
    assert task.spec.max_steps == 3


NUMBERS = [
    (name, field, end)
    for name in adapter.names()
    for field in adapter.numbers(name)
    for end in (0, 1)
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "field", "end"), NUMBERS)
def test_values_at_the_ends_of_their_bounds_are_finite(name, field, end):
    """Or are refused because they do not go with the defaults of others."""
    value = adapter.numbers(name)[field][end]
    try:
        env = envs.make(f"gymnax/{name}", (1, 1), {field: value})
    except ValueError as error:
        assert "options" in str(error)
        return

    @jax.jit
    def run(key):
        start = env.reset(key, env.params)
        action = jnp.zeros((50, *one.shape), one.dtype)
        step = lambda at, a: env.step(at[0], a, env.params)  # noqa: E731
        return jax.lax.scan(lambda at, a: (step(at, a), at[1]), start, action)[1]

    one = types.action_shape(env.spec.action)
    one = jax.ShapeDtypeStruct((1, 1, *one.shape), one.dtype)
    ts = run(random.roots(0, 1))
    assert all(np.isfinite(x).all() for x in (*ts.obs.values(), ts.reward))
