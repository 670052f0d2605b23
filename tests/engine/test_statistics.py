"""Episode statistics against a loop in Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.engine import statistics

P, B, K, W, STEPS = 2, 3, 2, 2, 60
TASK = np.array([[0, 0, 1], [0, 0, 1]], np.int32)
FORGET_AT, FORGOTTEN = 25, np.array([True, False])


def stream(seed=0):
    """Random rewards and episode ends ``[T, P, B]`` with next-step autoreset."""
    rng = np.random.default_rng(seed)
    reward = rng.normal(size=(STEPS, P, B)).astype(np.float32)
    last = np.zeros((STEPS, P, B), bool)
    first = np.zeros((STEPS, P, B), bool)
    for t in range(STEPS):
        first[t] = last[t - 1] if t else False
        last[t] = (rng.random((P, B)) < 0.25) & ~first[t]
    reward[first] = 0.0
    return reward, first, last, rng.random((STEPS, P, B)).astype(np.float32)


def env():
    """Just enough of an Env for the statistics: a spec of K tasks and one measure."""
    task = types.TaskSpec("x", {}, types.Discrete(2))
    spec = types.EnvSpec({}, types.Discrete(2), (task,) * K)
    return types.Env(spec, (P, B), None, None, info=lambda state: {"success": state})


@pytest.fixture(name="run", scope="module")
def _run():
    return played("return")


def played(judged):
    """Returns (statistics at the end, what happened)."""
    reward, first, last, success = stream()
    task = jnp.asarray(TASK)

    @jax.jit
    def run(stats, arrays):
        def step(stats, x):
            t, reward, first, last, success = x
            ts = types.TimeStep((), reward, 1.0 - last, first, last, task, ())
            stats = statistics.update(stats, ts, {"success": success}, judged)
            forgotten = jnp.asarray(FORGOTTEN) & (t == FORGET_AT)
            return statistics.forget(stats, forgotten), stats.recent_count

        return jax.lax.scan(step, stats, (jnp.arange(STEPS), *arrays))[0]

    start = statistics.init(env(), jnp.zeros((P, B)), W)
    return run(start, (reward, first, last, success)), (reward, first, last, success)


def reference(reward, first, last, success, judged="return"):
    """Returns (sums [P, K], what is judged in each slot since the replacement)."""
    sums = {n: np.zeros((P, K)) for n in ("episodes", "return", "length", "success")}
    kept = {(p, b): [] for p in range(P) for b in range(B)}
    for p, b in kept:
        total, length, begun = 0.0, 0, -1
        for t in range(STEPS):
            if first[t, p, b]:
                total, length, begun = 0.0, 0, t
                continue
            total, length = total + reward[t, p, b], length + 1
            if last[t, p, b]:
                k = TASK[p, b]
                for name, x in (
                    ("episodes", 1), ("return", total), ("length", length),
                    ("success", success[t, p, b]),
                ):  # fmt: skip
                    sums[name][p, k] += x
                if not FORGOTTEN[p] or begun > FORGET_AT:
                    value = {"return": total, "success": success[t, p, b]}[judged]
                    kept[p, b].append(value)
    return sums, kept


def test_sums_per_member_and_task_are_those_of_a_loop(run):
    """Episodes, returns, lengths and the environment's measures at the last step."""
    stats, arrays = run
    sums, _ = reference(*arrays)
    assert sums["episodes"].min() > 3
    assert stats.chunk.keys() == sums.keys()
    for name, expected in sums.items():
        np.testing.assert_allclose(
            stats.chunk[name], expected, 1e-5, 1e-5, err_msg=name
        )


@pytest.mark.parametrize("judged", ["return", "success"])
def test_the_ring_holds_each_slots_latest_returns(run, judged):
    """Or another measure: W of them, none begun by weights that were replaced."""
    stats, arrays = run if judged == "return" else played(judged)
    _, kept = reference(*arrays, judged)
    valid = np.arange(W) < np.asarray(stats.recent_count)[..., None]
    assert any(len(x) > W for x in kept.values())
    for (p, b), returns in kept.items():
        assert stats.recent_count[p, b] == len(returns)
        found = np.asarray(stats.recent)[p, b][valid[p, b]]
        np.testing.assert_allclose(sorted(found), sorted(returns[-W:]), atol=1e-5)


def test_recent_means_are_per_task_and_nan_without_episodes(run):
    """A task without a finished episode has no score, rather than 0."""
    stats, arrays = run
    _, kept = reference(*arrays)
    mean, number = statistics.recent_mean(stats, jnp.asarray(TASK), K)
    for p in range(P):
        for k in range(K):
            own = [x for b in range(B) if TASK[p, b] == k for x in kept[p, b][-W:]]
            assert number[p, k] == len(own)
            np.testing.assert_allclose(mean[p, k], np.mean(own), atol=1e-5)
    empty = statistics.forget(stats, jnp.array([True, False]))
    mean, number = statistics.recent_mean(empty, jnp.asarray(TASK), K)
    assert np.isnan(mean[0]).all() and (np.asarray(number[0]) == 0).all()
    assert np.isfinite(mean[1]).all()


def test_a_new_chunk_starts_its_sums_but_not_its_episodes(run):
    """Episodes go on across chunks; what is logged starts at zero."""
    stats, _ = run
    fresh = statistics.start_chunk(stats)
    assert all((np.asarray(x) == 0).all() for x in fresh.chunk.values())
    for field in set(stats._fields) - {"chunk"}:
        np.testing.assert_array_equal(getattr(fresh, field), getattr(stats, field))


def test_the_episode_in_progress_of_a_replaced_member_counts_for_nobody():
    """It is logged, but the child is not judged by it; the next one is its own."""
    stats = statistics.init(env(), jnp.zeros((P, B)), W)
    stats = statistics.forget(stats, jnp.array([True, False]))

    def step(stats, reward, first, last):
        full = lambda x: jnp.full((P, B), x)  # noqa: E731
        ts = types.TimeStep(
            (), full(reward), full(1.0), full(first), full(last), jnp.asarray(TASK), ()
        )
        return statistics.update(stats, ts, {"success": full(0.0)})

    stats = step(stats, 5.0, False, True)
    np.testing.assert_array_equal(stats.recent_count, [[0] * B, [1] * B])
    np.testing.assert_array_equal(stats.chunk["episodes"], [[2, 1], [2, 1]])
    stats = step(step(stats, 0.0, True, False), 7.0, False, True)
    np.testing.assert_array_equal(stats.recent_count, [[1] * B, [2] * B])
    np.testing.assert_array_equal(stats.recent[0, :, 0], [7.0] * B)


def test_slots_that_all_begin_again_have_lost_their_episodes_alone():
    """What was in progress counts for nobody, what has ended stays; a member that was
    replaced is judged from the next episode on."""
    stats = statistics.init(env(), jnp.zeros((P, B)), W)
    full = lambda x: jnp.full((P, B), x)  # noqa: E731

    def step(stats, reward, last):
        flags = full(False), full(last)
        ts = types.TimeStep((), full(reward), full(1.0), *flags, jnp.asarray(TASK), ())
        return statistics.update(stats, ts, {"success": full(0.0)})

    stats = step(step(stats, 5.0, True)._replace(partial_return=full(0.0)), 3.0, False)
    stats = statistics.forget(stats, jnp.array([True, False]))
    after = step(statistics.restart_episodes(stats), 7.0, True)
    np.testing.assert_array_equal(after.recent_count, [[1] * B, [2] * B])
    np.testing.assert_array_equal(after.recent[0, :, 0], [7.0] * B)
    np.testing.assert_array_equal(after.recent[1], [[5.0, 7.0]] * B)
    np.testing.assert_array_equal(after.chunk["return"], [[24.0, 12.0]] * P)
    np.testing.assert_array_equal(after.chunk["length"], [[4.0, 2.0]] * P)


def test_slots_take_their_statistics_to_where_their_task_is_now():
    """The n-th of a task stays its n-th; of tasks with other numbers none is moved."""
    was, now = [2, 0, 1, 0], [0, 0, 1, 2]
    number = jnp.arange(4.0)[None]
    stats = statistics.EpisodeStats(
        number, number, number, number[..., None], number, {"return": number[:, :3]}
    )
    found = statistics.moved(stats, was, now)
    for moved in jax.tree.leaves(found._replace(chunk={})):
        assert moved.ravel().tolist() == [1.0, 3.0, 2.0, 0.0]
    assert found.chunk is stats.chunk
    assert statistics.moved(stats, was, [0, 0, 0, 1]) is stats


def test_rewards_are_reported_as_each_task_pays_them():
    """Divided by the scale of the step's own task."""
    tasks = tuple(
        types.TaskSpec("x", {}, types.Discrete(2), reward_scale=x) for x in (0.5, 4.0)
    )
    spec = types.EnvSpec({}, types.Discrete(2), tasks)
    ts = types.TimeStep((), jnp.ones((P, B)), (), (), (), jnp.asarray(TASK), ())
    found = statistics.in_own_units(spec, ts)
    np.testing.assert_array_equal(found.reward, [[2.0, 2.0, 0.25]] * P)
