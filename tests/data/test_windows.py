"""Windows of learning histories: which there are, and that they are what was stored."""

import collections
import functools

import jax
import jax.extend
import numpy as np
import pytest
import streams

from mtrl_jax import errors, types
from mtrl_jax.data import columns, files, histories, layout, rows, windows

STEPS = 60
TASKS = ["a", "b", "a", "c"]


@functools.cache
def whole():
    return streams.stream(STEPS)


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory):
    """Four histories of 60 steps, resets included, with episodes of 1 to 6 steps."""
    return written(tmp_path_factory.mktemp("histories"), whole())


def written(folder, stream, **options):
    writer = histories.Writer(folder, streams.SPEC, TASKS, len(stream[1]), **options)
    writer.write(stream)
    writer.close()
    return histories.load(folder)


read = jax.jit(windows.at, static_argnums=3)
sample = jax.jit(windows.sample, static_argnums=(2, 3))


def host(tree):
    return jax.tree.map(np.asarray, tree)


def reference(n, *, subsample=1, first=STEPS, last=STEPS):
    """Returns the kept rows of history n: episodes as lists, then every k-th of them."""
    steps = streams.rows_of(whole(), *divmod(n, 2))[:first][-last:]
    episodes = [[]]
    for step in steps:
        if step["reset"]:
            episodes.append([])
        else:
            episodes[-1].append(step)
    if not episodes[0]:
        episodes.pop(0)
    return [step for episode in episodes[::subsample] for step in episode]


def check_window(ro, b, kept, start, length):
    """Asserts that column b of a Rollout is ``kept[start:start + length]``."""
    for i in range(length):
        step, at = kept[start + i], jax.tree.map(lambda x, i=i: x[i, b], ro.ts)
        after = jax.tree.map(lambda x, i=i: x[i + 1, b], ro.ts)
        np.testing.assert_array_equal(at.obs["vector"], step["vector"])
        np.testing.assert_array_equal(at.obs["image"], step["image"])
        assert at.first == step["first"] and ro.action[i, b] == step["action"]
        assert after.reward == step["reward"] and after.last == step["last"]
        assert after.discount == step["discount"]
        assert ro.extras.followed[i, b] == (start + i + 1 < len(kept))
        earlier = kept[start + i - 1]["action"] if start + i else 0
        assert ro.extras.prev_action[i, b] == earlier
    before = kept[start - 1] if start else {"reward": 0, "discount": 1, "last": False}
    for name, value in before.items():
        if name in ("reward", "discount", "last"):
            assert getattr(ro.ts, name)[0, b] == value
    if start + length < len(kept):
        following = kept[start + length]["vector"]
        np.testing.assert_array_equal(ro.ts.obs["vector"][length, b], following)


def test_an_episode_of_l_steps_is_l_rows(data):
    """Reset rows are gone: the l-th row of an episode has last, the next one first."""
    kept = host(windows.put(data))
    assert kept.obs["image"].dtype == np.uint8
    for n in range(4):
        last = kept.last[n, : kept.counts[n]]
        first = kept.first[n, : kept.counts[n]]
        assert first[0] and last.sum() > 5
        np.testing.assert_array_equal(first[1:], last[:-1])
        assert kept.counts[n] == STEPS - data.reset[n].sum()


@pytest.mark.parametrize("subsample", [1, 2, 5])
def test_windows_are_what_a_plain_loop_cuts_out(data, subsample):
    """Every window of every history, with every k-th episode, against Python lists."""
    length = 6
    kept = windows.put(data, rows.keep(data, subsample=subsample))
    expected = [reference(n, subsample=subsample) for n in range(4)]
    assert kept.counts.tolist() == [len(x) for x in expected]
    places = [(n, s) for n in range(4) for s in range(max(len(expected[n]) - 5, 1))]
    history, start = np.array(places).T
    ro = host(read(kept, history, start, length))
    for b, (n, s) in enumerate(places):
        assert ro.extras.live[:, b].all() == (len(expected[n]) >= length)
        check_window(ro, b, expected[n], s, min(length, len(expected[n])))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_fractions_keep_the_beginning_or_the_end(data, share):
    """Partial histories and expert data: a share of the steps, then every k-th episode."""
    steps = int(np.ceil(share * STEPS))
    for name in ("first", "last"):
        kept = rows.keep(data, subsample=2, **{f"{name}_fraction": share})
        for i, n in enumerate(kept.history):
            expected = reference(int(n), subsample=2, **{name: steps})
            times = [int(step["vector"][1]) for step in expected]
            assert kept.rows[i, : kept.counts[i]].tolist() == times
    assert kept.rows[0, 0] >= STEPS - steps


@pytest.mark.parametrize("resets", [False, True])
def test_shuffled_episodes_are_the_same_ones_in_another_order(data, resets):
    """Each as a whole; what is cut at an end of its history stays there."""
    options = {"first_fraction": 0.8, "subsample": 2, "resets": resets}
    kept = rows.keep(data, **options)
    mixed = rows.keep(data, shuffled=True, **options)
    np.testing.assert_array_equal(kept.counts, mixed.counts)
    for n, count in zip(kept.history, kept.counts):
        number = columns.episodes(data, n).number
        before, after = (x.rows[n, :count] for x in (kept, mixed))
        assert sorted(after) == before.tolist() != after.tolist()
        assert (np.diff(after)[np.diff(number[after]) == 0] == 1).all()
        is_over = data.last[n, before][number[before] == number[before[-1]]].any()
        assert is_over or number[after[-1]] == number[before[-1]]
        at_edges = np.flatnonzero(np.diff(number[after])) + 1
        assert data.first[n, after[at_edges]].all()
        assert len(at_edges) + 1 == len(np.unique(number[after]))
    again = rows.keep(data, shuffled=True, **options)
    np.testing.assert_array_equal(again.rows, mixed.rows)


def test_windows_are_of_one_history_and_one_task_and_contiguous(data):
    """Random windows never cross from one history to another and skip only resets."""
    kept = windows.put(data)
    ro = host(sample(jax.random.key(0), kept, 256, 9))
    history, time = np.moveaxis(np.asarray(ro.ts.obs["vector"]), -1, 0).astype(int)
    assert set(history[0]) == {0, 1, 2, 3}
    assert (history == history[0]).all() and (ro.ts.task == ro.ts.task[0]).all()
    np.testing.assert_array_equal(ro.ts.task[0], data.task[history[0]])
    after_last = np.asarray(ro.ts.last[1:-1])
    np.testing.assert_array_equal(np.diff(time[:-1], axis=0), 1 + after_last)
    assert ro.extras.live.all() and ro.ts.action_mask.all()
    assert ro.ts.action_mask.shape == (10, 256, 3)


def test_every_window_is_as_likely():
    """Chi-square over all windows of histories of unequal lengths, one too short."""
    counts, length = np.array([7, 5, 3, 12], np.int32), 5
    number = 40_000
    draw = jax.jit(windows.draw, static_argnums=(2, 3))
    drawn = draw(jax.random.key(3), counts, number, length)
    seen = collections.Counter(zip(*(np.asarray(x).tolist() for x in drawn)))
    possible = {(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), *((3, i) for i in range(8))}
    assert set(seen) == possible
    expected = number / len(possible)
    chi = sum((n - expected) ** 2 / expected for n in seen.values())
    assert chi < 32.9  # The 99.9 % quantile at 12 degrees of freedom.


def test_what_is_beyond_a_short_history_is_dead(data):
    """Padding is not live, pays nothing, and looks like a reset to who masks by first."""
    kept = rows.keep(data, first_fraction=0.1)
    on_device = windows.put(data, kept)
    length = 9
    ro = host(read(on_device, np.arange(4), np.zeros(4, np.int32), length))
    assert (kept.counts < length).all()
    for b, count in enumerate(kept.counts):
        assert ro.extras.live[:, b].tolist() == [i < count for i in range(length)]
        check_window(ro, b, reference(b, first=6), 0, count)
        assert (ro.ts.reward[count + 1 :, b] == 0).all()
        assert not ro.ts.last[count + 1 :, b].any()
        assert ro.ts.first[count + 1 :, b].all() and not ro.ts.first[count, b]


def test_with_reset_rows_windows_are_the_rollouts_of_the_source(data):
    """For agents that bootstrap: the stream as it was, final observations included."""
    kept = windows.put(data, rows.keep(data, resets=True))
    history, start = np.array([0, 2, 3, 3]), np.array([0, 7, 21, 31])
    ro = host(read(kept, history, start, 20))
    ts, action = whole()
    for b, (n, s) in enumerate(zip(history, start)):
        place = (slice(s, s + 21), n // 2, n % 2)
        expected = jax.tree.map(lambda x, p=place: x[p], ts)
        found = jax.tree.map(lambda x, b=b: x[:, b], ro.ts)
        jax.tree.map(
            np.testing.assert_array_equal,
            found._replace(task=expected.task),
            expected,
        )
        np.testing.assert_array_equal(ro.action[:, b], action[place][:-1])


def test_a_reset_row_goes_with_the_episode_that_it_ends(data):
    """Every second episode with its own final observation, not with the next one's."""
    kept = rows.keep(data, subsample=2, resets=True)
    for n in range(4):
        found, episode = [], 0
        for t, step in enumerate(streams.rows_of(whole(), *divmod(n, 2))):
            if episode % 2 == 0:
                found.append(t)
            episode += step["reset"]
        assert kept.rows[n, : kept.counts[n]].tolist() == found


def test_members_draw_windows_of_their_own(data):
    """vmap over keys: the windows of each member are those it draws alone."""
    kept = windows.put(data)
    keys = jax.random.split(jax.random.key(1), 3)
    drawn = host(jax.jit(jax.vmap(lambda k: windows.sample(k, kept, 16, 8)))(keys))
    for p in range(3):
        alone = sample(keys[p], kept, 16, 8)
        one = jax.tree.map(lambda x, p=p: x[p], drawn)
        jax.tree.map(np.testing.assert_array_equal, one, alone)
    vectors = drawn.ts.obs["vector"]
    assert not (vectors[0] == vectors[1]).all()


def test_a_population_shares_one_gather_per_field(data):
    """Reading for all members is a gather for each field, without a loop."""
    kept = windows.put(data)
    starts = np.zeros((8, 16), np.int32)
    each = jax.vmap(lambda start: windows.at(kept, start, start, 8))
    found = list(equations(jax.make_jaxpr(each)(starts).jaxpr))
    assert not {"while", "scan"} & {e.primitive.name for e in found}
    large = [e.invars[0].aval for e in found if e.primitive.name == "gather"]
    rows_read = [x for x in large if x.shape[:2] == kept.reward.shape]
    # Two observations, action, reward, discount, first, last.
    assert len(rows_read) == 7


def equations(jaxpr):
    """Yields all of a program's operations, also those within others."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from equations(inner)


def test_agents_get_the_extras_and_the_carry_they_ask_for(data):
    """Rollouts are completed by what the caller knows of its agent."""
    kept = windows.put(data)
    completed = functools.partial(
        windows.sample,
        batch=4,
        length=5,
        extras=lambda ro: {"twice": 2 * ro.action, "live": ro.extras.live},
        carry=np.ones((4, 3)),
    )
    ro = host(jax.jit(completed)(jax.random.key(0), kept))
    np.testing.assert_array_equal(ro.extras["twice"], 2 * ro.action)
    assert ro.extras["live"].shape == (5, 4) and ro.carry.shape == (4, 3)


def test_labels_are_no_observations(tmp_path):
    """What is stored of what had been best goes to the extras, a row for each action."""
    ts, action = whole()
    best = (np.arange(ts.reward.size).reshape(ts.reward.shape) % 3).astype(np.int32)
    label = {types.OPTIMAL: jax.ShapeDtypeStruct((), np.int32)}
    spec = streams.SPEC._replace(obs={**streams.OBS, **label})
    informed = ts._replace(obs={**ts.obs, types.OPTIMAL: best})
    writer = histories.Writer(tmp_path, spec, TASKS, STEPS)
    writer.write((informed, action))
    writer.close()
    data = histories.load(tmp_path)
    on_device = windows.put(data)
    found = host(sample(jax.random.key(0), on_device, 8, 5))
    assert set(found.ts.obs) == set(streams.OBS)
    history, time = found.ts.obs["vector"][:-1].astype(int).transpose(2, 0, 1)
    expected = best[time, history // 2, history % 2]
    np.testing.assert_array_equal(found.extras.optimal, expected)
    again = host(read(on_device, history[0], time[0], 5))
    assert again.extras.live.all()


def test_action_masks_are_given_where_they_are_stored(tmp_path):
    """Rows with illegal actions keep their own mask."""
    ts, action = streams.stream(20)
    mask = np.random.default_rng(0).random(ts.action_mask.shape) < 0.5
    stored = written(tmp_path, (ts._replace(action_mask=mask), action), masks=True)
    kept = rows.keep(stored)
    ro = sample(jax.random.key(0), windows.put(stored, kept), 8, 6)
    history, time = np.moveaxis(np.asarray(ro.ts.obs["vector"]), -1, 0).astype(int)
    expected = mask[time, history // 2, history % 2]
    np.testing.assert_array_equal(ro.ts.action_mask, expected)


def test_the_size_on_a_device_is_known_before(data):
    """What put() needs is the sum of its large leaves."""
    kept = rows.keep(data, subsample=2)
    on_device = windows.put(data, kept)
    leaves = [x for x in jax.tree.leaves(on_device) if x.shape[:2] == kept.rows.shape]
    assert windows.device_bytes(data, kept) == sum(x.nbytes for x in leaves)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"subsample": 0}, "subsample: got 0"),
        ({"last_fraction": 0.0}, "last_fraction: 0.0 is no share"),
        ({"first_fraction": 1.5}, "first_fraction: 1.5 is no share"),
        ({"first_fraction": 0.5, "last_fraction": 0.5}, "give one of them"),
        ({"only": [4]}, "only: .* give numbers below 4"),
        ({"only": []}, "only: no history"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(data, options, words):
    """A ValueError says what was given and what would work."""
    with pytest.raises(ValueError, match=words):
        rows.keep(data, **options)


def test_too_many_rows_to_count_are_refused():
    """Windows are numbered in int32: more would silently never be drawn."""
    many = np.broadcast_to(np.int32(0), (2**16, 2**15))
    kept = rows.Kept(np.arange(2**16), many, np.full(2**16, 2**15))
    with pytest.raises(ValueError, match="fewer than 2\\^31"):
        windows.check(kept)


def test_the_spec_of_a_dataset_is_one_that_agents_can_be_made_for(data):
    """Tasks of windows are indices into the spec's."""
    assert isinstance(data.spec, types.EnvSpec)
    ro = sample(jax.random.key(0), windows.put(data), 64, 3)
    assert {data.spec.tasks[k].name for k in np.unique(ro.ts.task)} == set("abc")
    some = windows.put(data, rows.keep(data, only=[3, 1]))
    assert [data.spec.tasks[k].name for k in some.task] == ["c", "b"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "obs../../x", "a\\b"])
def test_no_field_leaves_the_folder_of_its_dataset(tmp_path, name):
    """A description is data: what it names is in its own folder."""
    field = layout.Field(name, (), np.dtype("float32"))
    with pytest.raises(errors.DatasetError, match="not a file's own name"):
        files.path_of(tmp_path, field)


def test_no_field_is_a_link_out_of_its_dataset(tmp_path):
    """Nor is a file of the machine read because a dataset has a link to it."""
    other = tmp_path / "other.npy"
    np.save(other, np.zeros(3, np.float32))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "reward.npy").symlink_to(other)
    field = layout.Field("reward", (), np.dtype("float32"))
    with pytest.raises(errors.DatasetError, match="a link"):
        files.path_of(tmp_path / "data", field)
