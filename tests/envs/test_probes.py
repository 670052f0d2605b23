"""The probes have the values their docstrings state."""

import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, types

BATCH = (1, 64)


def wanted(space, cue):
    """The best action for a cue, as the docstrings say."""
    shape = types.action_shape(space)
    if isinstance(space, types.Box):
        return jnp.broadcast_to((cue - 0.5)[..., None], (*cue.shape, *shape.shape))
    cue = cue.reshape(*cue.shape, *(1,) * len(shape.shape))
    return jnp.broadcast_to(cue, (*cue.shape[:2], *shape.shape)).astype(jnp.int32)


def oracle(env, name):
    def act(ts, t):
        if name == "both_image":
            cue = (ts.obs["image"][..., 0, -1, 0] > 0).astype(jnp.float32)
        elif name.startswith("both"):
            cue = (ts.obs["vector"][..., 0] + 1) / 2
        else:
            cue = jnp.ones(env.batch)
        return wanted(env.spec.action, cue)

    return act


def returns(ts):
    """The mean return of the finished episodes (the last, unfinished ones dropped)."""
    reward = np.cumsum(ts.reward, axis=0)
    ended = ts.last.nonzero()
    starts = {}
    values = []
    for t, p, b in sorted(zip(*ended)):
        values.append(reward[t, p, b] - starts.get((p, b), 0.0))
        starts[p, b] = reward[t, p, b]
    return np.array(values)


@pytest.mark.parametrize(
    "name",
    [
        "action",
        "action_factorised",
        "action_box",
        "both",
        "both_factorised",
        "both_box",
        "both_image",
    ],
)
def test_the_best_policy_gets_one_and_a_random_one_the_random_score(name, play):
    """Reference and random score of the spec are exact."""
    env = envs.make(f"probe/{name}", BATCH)
    task = env.spec.tasks[0]
    best, *_ = play(env, 10, policy=oracle(env, name))
    np.testing.assert_allclose(returns(best), task.reference_score, atol=1e-6)
    played, *_ = play(env, 120)
    got = returns(played)
    # Five standard errors of some 64 * 60 episodes.
    assert abs(got.mean() - task.random_score) < 5 * got.std() / 60


def test_constant_pays_one_for_anything(play):
    """V = 1 everywhere, episodes of one step."""
    ts, *_ = play(envs.make("probe/constant", BATCH), 10)
    np.testing.assert_array_equal(ts.reward[1::2], 1.0)
    assert ts.last[1::2].all() and ts.first[::2].all()
    env = envs.make("probe/constant", BATCH, {"reward": -3})
    (task,) = env.spec.tasks
    assert (task.random_score, task.reference_score) == (None, -3)
    paid, *_ = play(env, 10)
    np.testing.assert_array_equal(paid.reward[1::2], -3.0)


def test_observation_pays_what_was_seen(play):
    """V(obs) = obs, and both values occur."""
    ts, *_ = play(envs.make("probe/observation", BATCH), 40)
    seen = ts.obs["vector"][:-1, ..., 0]
    np.testing.assert_array_equal(ts.reward[1:][ts.first[:-1]], seen[ts.first[:-1]])
    assert set(np.unique(seen)) == {-1.0, 1.0}


@pytest.mark.parametrize("length", [1, 2, 5])
def test_delayed_pays_at_the_end_only(length, play):
    """V(t) = γ^(length - 1 - t): the reward is on the last of `length` steps."""
    env = envs.make("probe/delayed", BATCH, {"length": length})
    assert env.spec.tasks[0].max_steps == length
    ts, *_ = play(env, 3 * (length + 1))
    np.testing.assert_array_equal(ts.reward, ts.last.astype(np.float32))
    np.testing.assert_array_equal(ts.last.nonzero()[0] % (length + 1), length)
    time = np.arange(3 * (length + 1) + 1) % (length + 1)
    np.testing.assert_array_equal(ts.obs["vector"][:, 0, 0, 0], time)


def test_masked_hides_the_illegal_action_from_the_observation(play):
    """Only the mask tells; obeying it is worth 0.5 blindly and 1 at best."""
    env = envs.make("probe/masked", BATCH)

    def obey(ts, t):
        return 2 - jnp.argmax(ts.action_mask[..., ::-1], axis=-1)

    best, *_ = play(env, 60, policy=obey)
    np.testing.assert_array_equal(returns(best), 1.0)
    assert {tuple(m) for m in best.action_mask.reshape(-1, 3)} == {
        (False, True, True),
        (True, False, True),
        (True, True, False),
    }
    # Of what is legal any: half of it is best.
    assert env.spec.tasks[0].random_score == 0.5
    wrong, *_ = play(env, 10, policy=lambda ts, t: jnp.argmin(ts.action_mask, axis=-1))
    np.testing.assert_array_equal(returns(wrong), -10.0)


@pytest.mark.parametrize("length", [4, 2])
def test_memory_can_be_solved_by_remembering_and_not_otherwise(length, play):
    """The cue is in the first observation alone; a constant answer is worth 0."""
    options = {} if length == 4 else {"length": length}
    env = envs.make("probe/memory", BATCH, options)
    ts, *_ = play(env, 50, policy=lambda ts, t: jnp.ones(env.batch, jnp.int32))
    shown, asked = ts.obs["vector"][..., 0], ts.obs["vector"][..., 1]
    np.testing.assert_array_equal(shown != 0, ts.first)
    np.testing.assert_array_equal(asked[:-1] == 1, ts.last[1:])
    # Always answering 1 earns the cue itself (-1 or 1) at the end of each episode.
    ends = ts.last.nonzero()[0]
    cues = shown[ends - length, 0, ts.last.nonzero()[2]]
    np.testing.assert_array_equal(ts.reward[ts.last], cues)
    assert abs(returns(ts).mean()) < 5 / np.sqrt(returns(ts).size)
