"""envpool as an environment of the kit, on real pools."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.envs import envpool, envpool_pool

BATCH = (2, 3)
# float32 and float64, discrete and box, vectors, dicts and images; short episodes.
TASKS = {
    "CartPole-v1": ({}, 60),
    "Pendulum-v1": ({"max_steps": 20}, 50),
    "MiniGrid-GoToDoor-5x5-v0": ({"max_steps": 15}, 50),
    "FrozenLake-v1": ({}, 40),
    "CheetahRun-v1": ({"max_steps": 25}, 60),
    "HalfCheetah-v5": ({"max_steps": 25}, 60),
    "MetaWorld/Reach-v3": ({"max_steps": 20}, 50),
    "FetchReach-v4": ({"max_steps": 10}, 25),
    "Pong-v5": ({"max_steps": 30}, 70),
}


def random_actions(env, steps, seed=0):
    key = jax.random.key(seed)
    one = types.action_shape(env.spec.action)
    shape = (steps, *env.batch, *one.shape)
    if isinstance(env.spec.action, types.Discrete):
        return jax.random.randint(key, shape, 0, env.spec.action.n)
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


def rollout(env, actions):
    """Returns TimeSteps [T+1, P, B] and the final measures, from one program."""

    @jax.jit
    def run(actions):
        state, ts = env.reset(None, env.params)
        state, later = jax.lax.scan(
            lambda s, a: env.step(s, a, env.params), state, actions
        )
        joined = jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), ts, later)
        return joined, env.info(state)

    return run(actions)


def host_rollout(host, actions):
    steps = [host.reset()]
    for action in np.asarray(actions):
        host.send(action)
        steps.append(host.recv())
    return jax.tree.map(lambda *xs: np.stack(xs), *steps)


@functools.cache
def both(task):
    """Returns the same rollout through XLA and from Python."""
    options, steps = TASKS[task]
    env = envpool.make(task, BATCH, options, seed=1)
    actions = random_actions(env, steps)
    in_program, _ = rollout(env, actions)
    host = envpool.make_host(task, BATCH, options, seed=1)
    from_python = host_rollout(host, actions)
    host.close()
    return env.spec, jax.device_get(in_program), from_python


@pytest.mark.parametrize("task", TASKS)
def test_a_step_in_the_program_equals_one_from_python_bit_for_bit(task):
    """float64 is handed over whole, order is kept, and both share one assembly."""
    _, in_program, from_python = both(task)
    jax.tree.map(np.testing.assert_array_equal, in_program, from_python)
    for x, y in zip(jax.tree.leaves(in_program), jax.tree.leaves(from_python)):
        assert x.dtype == y.dtype


@pytest.mark.parametrize("task", TASKS)
def test_first_follows_last_and_carries_neither_reward_nor_terminal(task):
    """Autoreset is next-step: last, then first with reward 0 and discount 1."""
    _, ts, _ = both(task)
    assert ts.first[0].all()
    np.testing.assert_array_equal(ts.first[1:], ts.last[:-1])
    assert ts.last.any()
    assert not (ts.first & ts.last).any()
    assert (ts.reward[ts.first] == 0).all()
    assert (ts.discount[ts.first] == 1).all()
    assert (ts.discount[~ts.last] == 1).all()


@pytest.mark.parametrize("task", TASKS)
def test_observations_have_the_shapes_and_dtypes_of_the_spec(task):
    """What agents are built for is what arrives."""
    spec, ts, _ = both(task)
    assert set(ts.obs) == set(spec.obs)
    for part, struct in spec.obs.items():
        assert ts.obs[part].shape[3:] == struct.shape
        assert ts.obs[part].dtype == struct.dtype
        assert np.isfinite(ts.obs[part]).all()
    assert ts.action_mask.shape[3:] == (types.action_mask_size(spec.action),)
    assert ts.action_mask.all()
    assert spec.tasks[0].name == f"envpool/{task}"


def raw_pool(task, options, seed):
    """Returns envpool's own object with our seeds, to be stepped by its public API."""
    pool = envpool_pool.make(task, BATCH, options, seed)
    return pool.engine


def test_cheetah_equals_envpools_own_float64_steps():
    """Nothing between envpool's public API and the TimeStep changes a number."""
    options, steps = TASKS["CheetahRun-v1"]
    engine = raw_pool("CheetahRun-v1", options, seed=1)
    env = envpool.make("CheetahRun-v1", BATCH, options, seed=1)
    actions = np.asarray(random_actions(env, steps), np.float64).reshape(steps, 6, 6)
    obs, _ = engine.reset()
    _, ts, _ = both("CheetahRun-v1")
    reward, term, trunc = np.zeros(6), np.zeros(6, bool), np.zeros(6, bool)
    for t in range(steps + 1):
        first = term | trunc
        if t:
            obs, reward, term, trunc, _ = engine.step(actions[t - 1])
            np.testing.assert_array_equal(ts.first[t].ravel(), first)
            np.testing.assert_array_equal(ts.last[t].ravel(), term | trunc)
            np.testing.assert_array_equal(ts.discount[t].ravel(), 1.0 - term)
            # envpool gives some reset steps of DM Control a reward; the kit's have none.
            np.testing.assert_array_equal(
                ts.reward[t].ravel(), np.where(first, 0.0, reward)
            )
        vector = np.concatenate([obs["position"], obs["velocity"]], -1)
        np.testing.assert_array_equal(
            ts.obs["vector"][t].reshape(6, -1), vector.astype(np.float32)
        )


def test_cartpole_ends_with_discount_0_on_falling_and_1_on_the_time_limit():
    """A terminal stops bootstrapping, a truncation does not."""
    _, fallen, _ = both("CartPole-v1")
    assert (fallen.discount[fallen.last] == 0).all()
    short = envpool.make("CartPole-v1", (1, 4), {"max_steps": 5}, seed=0)
    ts, _ = rollout(
        short, jnp.arange(6).reshape(6, 1, 1) % 2 + jnp.zeros((1, 1, 4), int)
    )
    np.testing.assert_array_equal(ts.last[5], np.ones((1, 4), bool))
    np.testing.assert_array_equal(ts.discount[5], np.ones((1, 4)))


def test_meta_world_shows_the_goal_and_reports_success_until_the_episode_ends():
    """Success is the maximum over the episode, and starts again with the next."""
    env = envpool.make("MetaWorld/Reach-v3", (1, 2), {"max_steps": 80}, seed=3)
    reset, step = jax.jit(env.reset), jax.jit(env.step)
    state, ts = reset(None, ())
    succeeded = []
    for _ in range(82):
        hand, goal = ts.obs["vector"][..., :3], ts.obs["vector"][..., 36:39]
        assert (jnp.abs(goal).sum(-1) > 0).all()
        move = jnp.clip(10.0 * (goal - hand), -1.0, 1.0)
        action = jnp.concatenate([move, jnp.zeros((1, 2, 1))], -1)
        state, ts = step(state, action, ())
        succeeded.append(np.asarray(env.info(state)["success"]))
    history = np.stack(succeeded)
    assert (history[79] == 1).all()
    assert (np.diff(history[:80], axis=0) >= 0).all()
    assert (history[0] == 0).all()
    assert (history[80] == 0).all()


def test_a_host_driven_pool_reports_the_measures_of_the_step_it_returned():
    """The same numbers as inside the program, step by step."""
    options = {"max_steps": 60}
    env = envpool.make("MetaWorld/Reach-v3", (1, 2), options, seed=3)
    host = envpool.make_host("MetaWorld/Reach-v3", (1, 2), options, seed=3)
    with pytest.raises(ValueError, match="info before reset"):
        host.info()
    step = jax.jit(env.step)
    state, ts = env.reset(None, ())
    host.reset()
    assert set(host.info()) == {"success"}
    history = []
    for _ in range(62):
        hand, goal = ts.obs["vector"][..., :3], ts.obs["vector"][..., 36:39]
        move = jnp.clip(10.0 * (goal - hand), -1.0, 1.0)
        action = jnp.concatenate([move, jnp.zeros((1, 2, 1))], -1)
        state, ts = step(state, action, ())
        host.send(action)
        host.recv()
        success = host.info()["success"]
        np.testing.assert_array_equal(success, env.info(state)["success"])
        history.append(success)
    assert history[59].all() and not history[60].any()
    host.close()


def test_life_loss_is_terminal_for_the_learner_and_not_the_end_of_the_game():
    """With life_loss the discount is 0 there, last and first still mean whole games."""
    options = {"protocol": "noop", "size": 16, "stack": 1, "frame_skip": 8}
    engine = envpool.make("Breakout-v5", (1, 2), options | {"life_loss": True}, seed=0)
    plain = envpool.make("Breakout-v5", (1, 2), options, seed=0)
    actions = jnp.ones((150, 1, 2), jnp.int32).at[5::7].set(2)
    lost, _ = rollout(engine, actions)
    whole, _ = rollout(plain, actions)
    np.testing.assert_array_equal(lost.obs["image"], whole.obs["image"])
    np.testing.assert_array_equal(lost.reward, whole.reward)
    np.testing.assert_array_equal(lost.last, whole.last)
    lives = np.asarray((lost.discount == 0) & ~lost.last).sum(0)
    games = np.asarray(lost.last).sum(0)
    assert games.min() >= 1
    # Five lives: four are lost within each finished game, the fifth ends it.
    assert (lives // 4 >= games).all()
    assert (whole.discount[~whole.last] == 1).all()
    assert (whole.discount[whole.last] == 0).all()


def test_atari_observations_are_the_stack_in_channels_last_order():
    """[H, W, C] with the newest frame last: channel c now was channel c+1 before."""
    spec, ts, _ = both("Pong-v5")
    assert spec.tasks[0].frames == 4
    image = ts.obs["image"]
    assert image.shape[3:] == (84, 84, 4)
    for t in range(1, 8):
        if not ts.first[t].any():
            np.testing.assert_array_equal(image[t][..., :3], image[t - 1][..., 1:])
    options = {"colour": "rgb", "size": 64, "stack": 3}
    spec = envpool.make("Pong-v5", (1, 1), options).spec
    assert spec.obs["image"].shape == (64, 64, 9)
    assert spec.tasks[0].frames == 3
    assert spec.action == types.Discrete(18)


def test_minigrid_is_planes_of_kind_colour_and_state_and_a_direction():
    """Every cell has one kind and one colour; the mission's letters can be read back."""
    spec, ts, _ = both("MiniGrid-GoToDoor-5x5-v0")
    assert spec.obs["image"].shape == (7, 7, 20)
    assert spec.tasks[0].frames == 1
    assert (ts.obs["image"][..., :11].sum(-1) == 1).all()
    assert (ts.obs["image"][..., 11:17].sum(-1) == 1).all()
    # Leaves in sorted order: direction (4), then 96 characters of 5 bits.
    assert (ts.obs["vector"][..., :4].sum(-1) == 1).all()
    bits = ts.obs["vector"][0, 0, 0, 4:].reshape(96, 5)
    codes = (bits @ 2 ** np.arange(5)).astype(int)
    text = "".join(" " if c == 0 else chr(c + 96) for c in codes).strip()
    assert text.startswith("go to the") and text.endswith("door")
    bare = envpool.make("MiniGrid-GoToDoor-5x5-v0", (1, 1), {"mission": False})
    assert bare.spec.obs["vector"].shape == (4,)


def test_a_slots_stream_depends_on_neither_the_number_of_slots_nor_of_members():
    """Slot (p, b) is the same episode in every batch that has it."""
    _, ts, _ = both("CartPole-v1")
    small = envpool.make_host("CartPole-v1", (1, 2), seed=1)
    obs = small.reset().obs["vector"]
    np.testing.assert_array_equal(obs, ts.obs["vector"][0][:1, :2])


def test_two_half_batches_are_the_slots_of_the_whole():
    """The host runner's two HostEnvs see what one Env sees."""
    _, ts, _ = both("CartPole-v1")
    halves = [
        envpool.make_host("CartPole-v1", (2, n), seed=1, first_slot=first)
        for first, n in ((0, 1), (1, 2))
    ]
    obs = np.concatenate([half.reset().obs["vector"] for half in halves], axis=1)
    np.testing.assert_array_equal(obs, ts.obs["vector"][0])


def test_pools_of_neighbouring_seeds_share_no_seed():
    """envpool's own seed + i makes all but one stream of neighbours the same."""
    one, two = (envpool_pool.seeds("Pong-v5", (8, 64), seed) for seed in (7, 8))
    other_task = envpool_pool.seeds("Breakout-v5", (8, 64), 7)
    assert len(set(one[:64])) == 64
    assert not set(one) & set(two)
    assert not set(one) & set(other_task)
    assert all(0 <= value < 2**31 for value in one)


def test_the_seeds_of_a_member_are_distinct_whatever_is_hashed(monkeypatch):
    """With five hashes for five slots each is used once, in halves as in the whole."""
    few = lambda seed, task, member, slot, n: (member + slot // 2 + n) % 5  # noqa: E731
    monkeypatch.setattr(envpool_pool, "_hash", few)
    found = np.reshape(envpool_pool.seeds("Pong-v5", (3, 5), 0), (3, 5))
    np.testing.assert_array_equal(np.sort(found), np.tile(np.arange(5), (3, 1)))
    later = np.reshape(envpool_pool.seeds("Pong-v5", (3, 2), 0, first_slot=3), (3, 2))
    np.testing.assert_array_equal(later, found[:, 3:])


def test_equal_seeds_repeat_and_a_second_reset_begins_new_episodes():
    """The seed decides everything; a reset goes on with the stream."""
    reset = jax.jit(envpool.make("CartPole-v1", BATCH, seed=1).reset)
    first, again = (reset(None, ())[1].obs["vector"] for _ in range(2))
    _, ts, _ = both("CartPole-v1")
    np.testing.assert_array_equal(first, ts.obs["vector"][0])
    assert (first != again).any(-1).all()


def test_every_game_of_the_suites_exists():
    """A suite's name is a promise about its members."""
    known = set(envpool.names())
    for suite, members in envpool.SUITES.items():
        assert not {m.removeprefix("envpool/") for m in members} - known, suite
    assert len(envpool.SUITES["atari57"]) == 57
