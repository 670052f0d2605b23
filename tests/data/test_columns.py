"""What only whole histories tell: golden values of the sheet, filters, prompts."""

import functools

import jax
import numpy as np
import pytest
import streams

from mtrl_jax import types
from mtrl_jax.data import columns, histories, prompts, rows, windows

UNKNOWN = "the last episode is not over"

read = jax.jit(windows.at, static_argnums=3)
sample = jax.jit(windows.sample, static_argnums=(2, 3), static_argnames="prompt")
prompted = jax.jit(prompts.draw, static_argnums=(4, 5))


def made(episodes, *, over=True, task=None):
    """Returns Histories of one feature, with resets; ``episodes`` are rewards of each."""
    flat = [_rows(history, over) for history in episodes]
    size = max(len(x["reward"]) for x in flat)
    assert all(len(x["reward"]) == size for x in flat)
    fields = {k: np.stack([x[k] for x in flat]) for k in flat[0]}
    number = len(flat)
    time = np.arange(number * size, dtype=np.float32).reshape(number, size)
    return histories.Histories(
        obs={
            "vector": np.stack([time, time], -1),
            "image": np.zeros((number, size, 1)),
        },
        action=np.zeros((number, size), np.int32),
        discount=np.ones((number, size), np.float32),
        action_mask=None,
        task=np.zeros(number, np.int32) if task is None else np.asarray(task, np.int32),
        spec=types.EnvSpec({}, types.Discrete(3), ()),
        config=None,
        **fields,
    )


def _rows(episodes, over):
    reward, first, last, reset = [], [], [], []
    for i, given in enumerate(episodes):
        ends = over or i < len(episodes) - 1
        reward += [*given, *([0.0] if ends else [])]
        first += [True] + [False] * (len(given) - 1 + ends)
        last += [False] * (len(given) - 1) + [ends] + [False] * ends
        reset += [False] * len(given) + [True] * ends
    named = {"first": first, "last": last, "reset": reset}
    return {"reward": np.float32(reward)} | {k: np.array(x) for k, x in named.items()}


def of(data, name):
    """Returns a column of the first history without its resets."""
    return getattr(columns.of(data), name)[0][~data.reset[0]].tolist()


def test_return_to_go_and_steps_are_those_of_the_sheet():
    """To the end of the episode; of the unfinished one nobody knows."""
    one = made([[[1, 0, 2, -1, 0, 3]]])
    assert of(one, "return_to_go") == [5, 4, 4, 2, 3, 3]
    several = made([[[0, 1, 1], [0, 0, 2, 0], [1]]], over=False)
    assert of(several, "return_to_go") == [2, 2, 1, 2, 2, 2, 0, 0]
    assert of(several, "episode_step") == [0, 1, 2, 0, 1, 2, 3, 0]
    assert of(several, "complete") == [True] * 7 + [False]
    assert of(several, "return_rank")[-1] == 0
    # Nor of one whose beginning is not there: its history goes on elsewhere.
    one.first[0, 0] = False
    assert not any(of(one, "complete") + of(one, "return_to_go"))


def test_ranks_are_among_all_episodes_of_a_task_in_whatever_history():
    """Share of those that return no more; of another task's episodes nothing is known."""
    for task, ranks in (
        ([0, 0], [[0.25, 0.75], [0.5, 1.0]]),
        ([0, 1], [[0.5, 1.0], [0.5, 1.0]]),
    ):
        found = columns.of(made([[[1], [3]], [[2], [4]]], task=task))
        np.testing.assert_allclose(found.return_rank[:, ::2], ranks)


@functools.cache
def stream():
    return streams.stream(60)


@pytest.fixture(name="data", scope="module")
def _data(tmp_path_factory):
    """Four histories of 60 steps, resets included, with episodes of 1 to 6 steps."""
    folder = tmp_path_factory.mktemp("histories")
    writer = histories.Writer(folder, streams.SPEC, ["a", "b", "a", "c"], 60)
    writer.write(stream())
    writer.close()
    return histories.load(folder)


def test_what_is_to_come_falls_by_each_reward_and_sums_to_all_of_them(data):
    """R_t - R_{t+1} = r_t within an episode; starts sum to the complete ones' rewards."""
    found = columns.of(data)
    inside = found.complete[:, 1:] & ~data.first[:, 1:]
    fall = found.return_to_go[:, :-1] - found.return_to_go[:, 1:]
    np.testing.assert_allclose(fall[inside], data.reward[:, :-1][inside], atol=1e-5)
    starts = (found.return_to_go * data.first).sum(1)
    np.testing.assert_allclose(starts, (data.reward * found.complete).sum(1), rtol=1e-6)
    assert not found.return_to_go[data.reset].any()


def test_columns_are_of_whole_histories_whatever_is_cut(data):
    """Half a history, every second episode: the rows that stay have the same values."""
    whole = columns.of(data)
    kept = rows.keep(data, first_fraction=0.5, subsample=2)
    put = windows.put(data, kept, columns=True)
    for i, (n, count) in enumerate(zip(kept.history, kept.counts)):
        for name in columns.Columns._fields:
            known = getattr(whole, name)[n][kept.rows[i]]
            found = np.asarray(getattr(put.columns, name))[i]
            np.testing.assert_array_equal(found, known)
        last = kept.rows[i][count - 1]
        assert last < 30 and kept.counts[i] < 30
    ro = read(put, np.array([0, 1]), np.array([1, 0]), 4)
    found, stored = (
        np.asarray(x.return_to_go) for x in (ro.extras.columns, put.columns)
    )
    np.testing.assert_array_equal(found[:, 0], stored[0, 1:5])
    leaves = [x for x in jax.tree.leaves(put) if x.shape[:2] == kept.rows.shape]
    assert windows.device_bytes(data, kept, columns=True) == sum(
        x.nbytes for x in leaves
    )


def test_the_best_share_is_of_whole_episodes_and_ties_are_not_broken_by_time():
    """Ten episodes, three of them of return 2: the top share is never a row's reward."""
    returns = [0, 2, 0, 0, 2, 0, 0, 0, 2, 0]
    data = made([[[r / 2, r / 2] for r in returns]] * 40, task=range(40))
    taken = [np.flatnonzero(x) // 3 for x in columns.top(data, 0.1)]
    chosen = [set(x.tolist()) for x in taken]
    assert all(len(x) == 1 and x <= {1, 4, 8} for x in chosen)
    assert {e for x in chosen for e in x} == {1, 4, 8}
    assert [len(set(np.flatnonzero(x) // 3)) for x in columns.top(data, 0.25)] == [
        3
    ] * 40
    kept = rows.keep(data, top_fraction=0.3)
    np.testing.assert_array_equal(kept.rows[0], [3, 4, 12, 13, 24, 25])
    for number in (7, 10):
        each = made([[[r] for r in range(number)]])
        found = [columns.top(each, k / number)[0].sum() for k in range(1, number)]
        assert found == list(range(2, 2 * number, 2))  # With their reset rows.


def test_an_experts_episodes_are_those_of_the_sheet():
    """W = 3 of 30: expert 9, at least 80 % of it: 8, 9 and 10."""
    returns = np.array([1, 2, 3, 8, 9, 10, 4.0])
    among_30 = np.concatenate([np.zeros(11), returns, np.zeros(12)])
    assert columns.expert_return(among_30) == 9
    assert columns.expert_return(returns) == 10
    data = made([[[r] for r in returns]])
    kept = rows.keep(data, expert_share=0.8)
    assert data.reward[0][kept.rows[0]].tolist() == [8, 9, 10]
    assert columns.expert_return(np.array([-4.0, -2.0])) == -2
    assert columns.expert_return(np.arange(20_000) < 1000) == 1
    below = made([[[r] for r in (-10, -4, -5, -8)]])
    kept = rows.keep(below, expert_share=0.5)
    assert below.reward[0][kept.rows[0]].tolist() == [-4, -5]
    # An episode that is not over is no expert's.
    open_end = made([[[1], [2], [9]]], over=False)
    kept = rows.keep(open_end, expert_share=0.9)
    assert open_end.reward[0][kept.rows[0]].tolist() == [2]


def test_every_second_episode_is_of_those_that_the_filters_left():
    """Filters first, then every k-th of what stays."""
    data = made([[[1], [5], [2], [6], [3], [7]]])
    kept = rows.keep(data, top_fraction=0.5, subsample=2)
    assert data.reward[0][kept.rows[0]].tolist() == [5, 7]


def test_filters_by_return_hold_together_and_where_a_history_is_cut():
    """The best of the task that are their history's expert's, too; of the last half."""
    both = made([[[1], [2]], [[9], [10]]])
    assert rows.keep(both, expert_share=0.9).history.tolist() == [0, 1]
    kept = rows.keep(both, expert_share=0.9, top_fraction=0.5)
    assert kept.history.tolist() == [1] and kept.counts.tolist() == [2]
    one = made([[[5], [1], [2], [6]]])
    kept = rows.keep(one, last_fraction=0.5, top_fraction=0.5)
    assert one.reward[0][kept.rows[0]].tolist() == [6]


def drawn(seed=0, batch=4096, length=5, piece=8, **options):
    """Returns (whole, history, start, Drawn) of windows on episodes of 20 steps."""
    data = made([[[0.0] * 20] * 6, [[0.0] * 20] * 6])
    kept = rows.keep(data, **options)
    known, key = prompts.whole(data, kept), jax.random.key(seed)
    places = jax.jit(windows.draw, static_argnums=(2, 3))
    history, start = places(key, kept.counts, batch, length)
    own = jax.random.fold_in(key, 1)
    return (
        known,
        history,
        start,
        prompted(own, known, history, start, length, piece),
    )


@pytest.mark.parametrize("shuffled", [False, True])
def test_prompts_end_or_stand_anywhere_and_are_never_of_what_is_predicted(shuffled):
    """8 of 20 rows: 12 to 19 for half of them, else any start of 0 to 12."""
    known, _, start, found = drawn(shuffled=shuffled)
    assert known.start[0].tolist() == [0, 20, 40, 60, 80, 100]
    place = np.asarray(found.start) % 20
    assert (np.asarray(found.rows) == 8).all() and place.max() == 12
    share = (place == 12).mean()
    expected = 0.5 + 0.5 / 13
    assert abs(share - expected) < 3 * np.sqrt(expected * (1 - expected) / 4096)
    assert set(place) == set(range(13))
    episode, begin = np.asarray(found.start) // 20, np.asarray(start)
    assert ((episode < begin // 20) | (episode > (begin + 4) // 20)).all()
    assert set(episode) == set(range(6))
    # Also those that end right before the window, and that begin right after it.
    ends, follows = begin % 20 == 0, (begin + 5) % 20 == 0
    assert (episode == begin // 20 - 1)[ends].any()
    assert (episode == (begin + 5) // 20)[follows].any()


def test_an_episode_that_is_kept_in_part_is_no_prompt():
    """Three of four steps, reset rows or not: places count the rows that are kept."""
    data = made([[[0.0] * 4] * 3])
    for options, places in (
        ({}, [[0, 4], [4, 8], [8, 12]]),
        ({"resets": True}, [[0, 4], [5, 9], [10, 14]]),
        ({"first_fraction": 0.5}, [[0, 4]]),
        ({"last_fraction": 0.6}, [[3, 7]]),
    ):
        known = prompts.whole(data, rows.keep(data, **options))
        assert np.stack([known.start[0], known.stop[0]], -1).tolist() == places
        assert known.counts.tolist() == [len(places)]


def test_a_history_without_another_episode_has_no_prompt(data):
    """The window overlaps all there is: nothing is shown."""
    known = prompts.Whole(np.array([[0, 20]]), np.array([[20, 40]]), np.array([2]))
    history, start = np.zeros(8, np.int32), np.full(8, 15)
    found = prompted(jax.random.key(0), known, history, start, 10, 8)
    assert not np.asarray(found.rows).any()
    with pytest.raises(ValueError, match="prompt: the data have no episodes"):
        windows.sample(jax.random.key(0), windows.put(data), 2, 3, prompt=4)


def test_a_prompt_is_of_the_windows_own_history_and_stands_before_it(data):
    """Rows of whole episodes, one history; the window is what it is without a prompt."""
    put = windows.put(data, columns=True, prompted=True)
    key = jax.random.key(3)
    ro, plain = jax.tree.map(
        np.asarray, (sample(key, put, 64, 4, prompt=3), sample(key, put, 64, 4))
    )
    own = jax.tree.map(lambda x: x[3:], (ro.ts, ro.action))
    jax.tree.map(np.testing.assert_array_equal, own, (plain.ts, plain.action))
    extras = ro.extras._replace(prompt=None)
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.tree.map(lambda x: x[3:], extras),
        plain.extras,
    )
    assert ro.extras.prompt.sum() == 3 * 64 and ro.extras.prompt[:3].all()
    live = ro.extras.live
    vector = ro.ts.obs["vector"][:-1]  # the history's and the step's number
    assert live[:3].any() and (live[:3].sum(0) < 3).any()
    for b in range(64):
        there = vector[live[:, b], b]
        assert len(set(there[:, 0])) == 1
        shown = vector[:3][live[:3, b], b, 1]
        assert (np.diff(shown) == 1).all()
        assert not set(shown) & set(vector[3:, b, 1])
    shown = jax.tree.map(lambda x: x[:3][live[:3]], ro.extras.columns)
    assert shown.complete.all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_fraction": 0.0}, r"top_fraction: 0.0 .*\(0, 1\]"),
        ({"expert_share": 1.5}, r"expert_share: 1.5 .*\[0, 1\]"),
    ],
)
def test_shares_that_cannot_be_are_refused(data, options, words):
    """One line that names the field and what would work."""
    with pytest.raises(ValueError, match=words):
        rows.keep(data, **options)
