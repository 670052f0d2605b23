"""The index rules of the replay, against lists kept in Python over streams of episodes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import streams

from mtrl_jax import types
from mtrl_jax.data import frame_stacks, replay, replay_priorities, replay_ring

KEY = jax.random.key(3)
DRAWS = 2048  # many times the windows of the rings below
# (unroll T, slots B, steps of a window, frames of a stack, rows of a slot).
CASES = [(1, 1, 2, 1, 9), (4, 3, 2, 1, 14), (4, 1, 4, 3, 17), (1, 3, 4, 3, 12)]


def spec_of(depth):
    image = jax.ShapeDtypeStruct((2, 2, depth), np.uint8)
    return streams.SPEC._replace(obs=streams.OBS | {"image": image})


def stacked(image, first, depth):
    """Returns the stacks [T, B, H, W, depth] in plain Python, as ALE makes them."""
    made = np.zeros((*image.shape[:-1], depth), image.dtype)
    for b in range(image.shape[1]):
        for t in range(len(image)):
            begin = max(i for i in range(t + 1) if first[i, b])
            for d in range(depth):
                made[t, b, ..., d] = image[max(begin, t - depth + 1 + d), b, ..., 0]
    return made


def episodes(steps, slots, depth, seed=0):
    """Returns (ts [T + 1, B], action [T, B]) with stacks of ``depth`` frames."""
    ts, action = streams.stream(steps, 1, slots, seed, longest=9)
    ts, action = jax.tree.map(lambda x: x[:, 0], (ts, action))
    image = stacked(ts.obs["image"], ts.first, depth)
    return ts._replace(obs=ts.obs | {"image": image}), action


def rollouts(ts, action, unroll):
    for part, taken in streams.chunks((ts, action), unroll):
        yield types.Rollout(part, taken, (), ())


def valid_windows(ts, written, stored, config):
    """Returns {(first time, slot)} of the windows that may be drawn, by looking."""
    found = set()
    oldest = written - stored
    for slot in range(ts.first.shape[1]):
        for start in range(written):
            fits = start + config.steps <= written
            whole = start - (config.frames - 1) >= oldest
            into_reset = config.transitions and fits and ts.first[start + 1, slot]
            if fits and whole and not into_reset:
                found.add((start, slot))
    return found


@functools.cache
def compiled(case, is_prioritised, transitions=True):
    _, slots, steps, depth, rows = case
    config = replay.Config(
        rows * slots, DRAWS, 2, steps, transitions, depth, is_prioritised
    )
    made = replay.make(spec_of(depth), config)
    return config, made, jax.jit(made.observe), jax.jit(made.feedback)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["uniform", "prioritised", "sequences"])
def test_exactly_the_valid_windows_are_drawn_and_are_what_was_written(case, kind):
    """Over resets, truncations and wrap-around: all of them, none else, every field."""
    unroll, slots, _, depth, rows = case
    config, made, observe, feedback = compiled(
        case, kind == "prioritised", kind != "sequences"
    )
    ts, action = episodes(40 * unroll if unroll == 1 else 60, slots, depth)
    memory = made.init(slots)
    rng = np.random.default_rng(0)
    seen_full = False
    for step, rollout in enumerate(rollouts(ts, action, unroll)):
        key = jax.random.fold_in(KEY, step)
        memory, drawn = observe(memory, rollout, key, (), jnp.int32(step))
        written = (step + 1) * unroll
        stored = min(written, rows // unroll * unroll)
        seen_full |= written > stored
        expected = valid_windows(ts, written, stored, config)
        live = np.asarray(drawn.live)
        start = np.asarray(drawn.rows.obs["vector"])[:, 0, :, 1].astype(int)
        slot = np.asarray(drawn.rows.obs["vector"])[:, 0, :, 0].astype(int)
        if not expected:
            assert not live.any()
        assert set(zip(start[live], slot[live])) == expected
        assert live.all() or kind == "uniform" or not expected
        check_rows(drawn.rows, ts, action, start, slot, live)
        # Feedback above 0 keeps every window in the draw.
        priority = rng.uniform(0.5, 2.0, live.shape).astype(np.float32)
        memory = feedback(memory, replay.Feedback(drawn.place, drawn.live, priority))
    assert seen_full


def check_rows(rows, ts, action, start, slot, live):
    """Asserts that every field of live windows is the stream's."""
    for j in range(rows.reward.shape[1]):
        t, b = start[live] + j, slot[live]
        for name in ("reward", "discount", "first", "task", "action_mask"):
            got = np.asarray(getattr(rows, name))[:, j][live]
            np.testing.assert_array_equal(got, getattr(ts, name)[t, b], name)
        np.testing.assert_array_equal(np.asarray(rows.action)[:, j][live], action[t, b])
        for name, x in ts.obs.items():
            got = np.asarray(rows.obs[name])[:, j][live]
            np.testing.assert_array_equal(got, x[t, b], name)


def test_every_valid_window_is_equally_likely_and_few_tries_fail():
    """chi² over the windows of a ring, and dead draws about p² of all."""
    config, made, observe, _ = compiled(CASES[1], False)
    ts, action = episodes(20, 3, 1)
    memory, counts, dead = made.init(3), {}, 0
    every = list(rollouts(ts, action, 4))
    for step, rollout in enumerate(every):
        for i in range(20 if step == len(every) - 1 else 1):
            key = jax.random.fold_in(jax.random.fold_in(KEY, step), i)
            after, drawn = observe(memory, rollout, key, (), jnp.int32(step))
            if step == len(every) - 1:
                live = np.asarray(drawn.live)
                dead += (~live).sum()
                places, n = np.unique(np.asarray(drawn.place)[live], return_counts=True)
                for place, k in zip(places, n):
                    counts[place] = counts.get(place, 0) + k
        memory = after
    valid = len(valid_windows(ts, 20, 12, config))
    n = np.array(list(counts.values()))
    assert len(n) == valid
    chi2 = ((n - n.mean()) ** 2 / n.mean()).sum()
    assert chi2 < valid + 5 * np.sqrt(2 * valid)
    p = 1 - valid / (3 * (12 - config.width + 1))
    total = dead + n.sum()
    assert abs(dead / total - p**2) < 5 * np.sqrt(p**2 / total)


@pytest.mark.parametrize("is_prioritised", [False, True])
def test_nothing_is_live_before_a_window_is_stored(is_prioritised):
    """An empty memory gives dead rows, not NaN."""
    _, made, observe, _ = compiled((1, 3, 4, 3, 12), is_prioritised)
    ts, action = episodes(3, 3, 3)
    memory = made.init(3)
    for step, rollout in enumerate(rollouts(ts, action, 1)):
        memory, drawn = observe(memory, rollout, KEY, (), jnp.int32(step))
        assert not np.asarray(drawn.live).any()
        assert np.isfinite(np.asarray(drawn.importance)).all()


def test_a_replay_keeps_no_action_that_is_not_finite():
    """A copy of a good member would learn from what the broken one before it did."""
    ts, action = episodes(4, 3, 1)
    broken = np.float32([0.5, np.nan, -np.inf])[action]
    (rollout,) = rollouts(ts, broken, 4)
    rows = jax.jit(replay_ring.rows_of)(rollout)
    np.testing.assert_array_equal(rows.action, np.where(action == 0, 0.5, 0.0))


def rewarded(drawn):
    """Returns feedback: whole numbers, which sums of any order agree on."""
    return replay.Feedback(drawn.place, drawn.live, 1 + drawn.rows.reward[..., -1, :])


def test_importance_is_one_where_priorities_are_equal_and_never_more():
    """Weights are divided by the batch's largest, that of its least priority."""
    _, made, observe, feedback = compiled(CASES[1], True)
    memory = made.init(3)
    for step, rollout in enumerate(rollouts(*episodes(8, 3, 1), 4)):
        memory, drawn = observe(memory, rollout, KEY, (), jnp.int32(step))
    assert drawn.live.any()
    np.testing.assert_array_equal(drawn.importance, drawn.live)
    given = 1.0 + drawn.place % 4
    memory = feedback(memory, replay.Feedback(drawn.place, drawn.live, given))
    _, drawn = observe(memory, rollout, KEY, (), jnp.int32(step))
    weights, live = np.asarray(drawn.importance), np.asarray(drawn.live)
    np.testing.assert_allclose(weights.max(axis=1), 1)
    assert len(np.unique(weights[live])) > 1
    # The batch's least priority over one's own; what was written since has the largest.
    own = 1.0 + np.asarray(drawn.place) % 4
    least = np.ones(len(live))[:, None]
    given = np.isclose(weights * own, least)
    assert (given | np.isclose(weights * 4.0, least))[live].all()
    assert set(own[live & given]) == {1.0, 2.0, 3.0, 4.0}


def test_importance_is_of_a_batch_by_itself():
    """Two batches of one draw each: neither is weighed by what the other drew."""
    config = replay.Config(4, 1, 2, prioritised=True)
    place, live = np.arange(2), np.ones(2, bool)

    @jax.jit
    def drawn(priority):
        ranked = replay_priorities.init(2)
        ranked = replay_priorities.feedback(ranked, place, live, priority)
        return replay._prioritised(KEY, ranked, 1, config)

    end, _, is_live, importance = drawn(np.float32([1.0, 1.1]))
    assert sorted(end.ravel().tolist()) == [0, 1] and is_live.all()
    np.testing.assert_array_equal(importance, [[1.0], [1.0]])


def test_priorities_without_feedback_are_refused():
    """Uniform draws have none; the agent's update owes it where it is prioritised."""
    for is_prioritised in (False, True):
        made = replay.make(spec_of(1), replay.Config(36, prioritised=is_prioritised))
        memory = jax.eval_shape(lambda made=made: made.init(3))
        if not is_prioritised:
            assert made.feedback(memory, ()) is memory
            continue
        with pytest.raises(ValueError, match=r"prioritised: .*replay\.Feedback"):
            made.feedback(memory, ())


def test_members_in_turn_are_members_together():
    """vmap over members with one position changes nothing."""
    _, made, observe, feedback = compiled(CASES[1], True)
    streams_of = [episodes(32, 3, 1, seed) for seed in (1, 2)]
    keys = jax.random.split(KEY, 2)
    together = jax.jit(jax.vmap(made.observe, (0, 0, 0, None, None)))
    learnt = jax.jit(jax.vmap(made.feedback))
    stack = functools.partial(jax.tree.map, lambda *x: jnp.stack(x))
    alone = [made.init(3) for _ in keys]
    both = stack(*alone)
    for step, parts in enumerate(zip(*(rollouts(*s, 4) for s in streams_of))):
        both, drawn = together(both, stack(*parts), keys, (), jnp.int32(step))
        both = learnt(both, rewarded(drawn))
        for p, part in enumerate(parts):
            alone[p], own = observe(alone[p], part, keys[p], (), jnp.int32(step))
            alone[p] = feedback(alone[p], rewarded(own))
            jax.tree.map(
                lambda x, y, p=p: np.testing.assert_allclose(x[p], y, 1e-6),
                (both, drawn),
                (alone[p], own),
            )


@pytest.mark.parametrize("is_prioritised", [False, True])
def test_a_scan_over_updates_copies_no_memory(is_prioritised):
    """Four members of 16 MB each, donated: all temporaries are below one of them."""
    shape = jax.ShapeDtypeStruct((1024,), np.float32)
    spec = streams.SPEC._replace(obs={"vector": shape})
    config = replay.Config(4096, 8, 2, 4, prioritised=is_prioritised)
    made = replay.make(spec, config)
    ts, action = streams.stream(4, 4, 2)
    obs = {"vector": jnp.zeros((*ts.reward.shape, 1024))}
    rollout = types.Rollout(ts._replace(obs=obs), action, (), ())
    in_axes = (0, types.Rollout(1, 1, 0, 0), None, None, None)

    def update(memory, step):
        memory, drawn = jax.vmap(made.observe, in_axes)(memory, rollout, KEY, (), step)
        found = replay.Feedback(drawn.place, drawn.live, drawn.rows.reward[:, :, -1])
        return jax.vmap(made.feedback)(memory, found), jnp.sum(drawn.rows.reward)

    memory = jax.eval_shape(
        lambda: jax.tree.map(lambda x: jnp.broadcast_to(x, (4, *x.shape)), made.init(2))
    )
    chunk = jax.jit(lambda m: jax.lax.scan(update, m, jnp.arange(8)), donate_argnums=0)
    analysis = chunk.lower(memory).compile().memory_analysis()
    one = replay.bytes_of(made, 2)
    assert one > 2**24
    assert analysis.temp_size_in_bytes < one / 4
    assert analysis.alias_size_in_bytes >= 4 * 2**24


def test_a_million_atari_frames_are_below_eight_gigabytes():
    """Single frames, whatever is drawn; stacks would be four times as much."""
    image = jax.ShapeDtypeStruct((84, 84, 4), np.uint8)
    spec = types.EnvSpec({"image": image}, types.Discrete(18), ())
    for is_prioritised in (False, True):
        config = replay.Config(10**6, frames=4, prioritised=is_prioritised)
        assert 7.0e9 < replay.bytes_of(replay.make(spec, config), 8) < 7.2e9
    stacks = replay.make(spec, replay.Config(10**6))
    assert replay.bytes_of(stacks, 8) > 28e9


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"capacity": 0}, "capacity: got 0, give at least 1"),
        ({"capacity": 10**10}, "capacity: got 10000000000, give at most"),
        ({"steps": 1}, "steps: 1 is no transition"),
        ({"frames": 3}, "frames: 3 does not divide the 4 channels"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replay.make(spec_of(4), replay.Config(**changes))


def test_frames_need_an_image():
    spec = streams.SPEC._replace(obs={"vector": streams.OBS["vector"]})
    with pytest.raises(ValueError, match=r"frames: 4 .* no image .*give 1"):
        frame_stacks.check(spec, 4)


@pytest.mark.parametrize(
    ("stacks", "depth", "said"),
    [
        ((4, 4), 2, "frames: 2, but the image of a stacks 4; give 4"),
        ((1, 1), 4, "frames: 4, but the image of a is no stack; give 1"),
        ((4, 2), 4, "frames: 4, but the image of b stacks 2; give 1"),
        ((None, 1), 4, "frames: 4, but the image of b is no stack; give 1"),
        ((4, 4), 4, None),
        ((None, None), 2, None),
        ((None, 4), 4, None),
    ],
)
def test_frames_are_as_many_as_the_environment_stacks(stacks, depth, said):
    """Others are put together as what was never seen; who says nothing is believed."""
    image = {"image": jax.ShapeDtypeStruct((2, 2, 4), np.uint8)}
    tasks = tuple(
        types.TaskSpec(name, image, streams.SPEC.action, frames=frames)
        for name, frames in zip("ab", stacks)
    )
    spec, settings = spec_of(4)._replace(tasks=tasks), replay.Config(frames=depth)
    if said is None:
        replay.make(spec, settings)
        return
    with pytest.raises(ValueError, match=f"^{said}$"):
        replay.make(spec, settings)


def test_stacks_of_unlike_channels_are_refused():
    """Padded to the larger one, the newest channels of the smaller are not its last."""

    def task(name, channels):
        image = jax.ShapeDtypeStruct((2, 2, channels), np.uint8)
        return types.TaskSpec(name, {"image": image}, streams.SPEC.action)

    spec = spec_of(16)._replace(tasks=(task("a", 8), task("b", 16)))
    with pytest.raises(ValueError, match=r"frames: 4 .*'a': 8, 'b': 16.*give 1"):
        frame_stacks.check(spec, 4)
    frame_stacks.check(spec._replace(tasks=(task("a", 16), task("b", 16))), 4)


def test_a_capacity_below_a_window_names_the_least_that_does():
    """And that one works."""
    ts, action = episodes(4, 3, 1)
    rollout = types.Rollout(ts, action, (), ())

    def observe(capacity):
        made = replay.make(spec_of(1), replay.Config(capacity, steps=6))
        return jax.eval_shape(
            lambda: made.observe(made.init(3), rollout, KEY, (), jnp.int32(0))
        )

    with pytest.raises(ValueError, match=r"capacity: 35 .* at least 36"):
        observe(35)
    observe(36)
