"""Who gets which task: dealt by a slot's or an episode's key, or handed out one by one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, types
from mtrl_jax.envs import core, task_splits

BATCH = (2, 6)
STEPS = 24
# The beginning of 81 tasks in the order of seed 0.
FIRST = [16, 46, 31, 10, 74, 72]


def dealing(slot_key, episode_key, params):
    slot = jax.random.uniform(slot_key)
    return {"slot": slot, "episode": jax.random.uniform(episode_key), **given(params)}


def given(params):
    return {"given": params["given"]}


def task(group=None, deal=dealing):
    """Three steps that show what was dealt at the reset, and what was given."""

    def observe(params):
        return jnp.stack([params["slot"], params["episode"], params["given"]])

    def reset(key, params):
        return jnp.int32(0), observe(params)

    def step(key, state, action, params):
        return state + 1, observe(params), 0.0, state == 2, False

    default = {"slot": 0.0, "episode": 0.0, "given": 7.0}
    space = types.Discrete(2)
    return core.task("dealt", reset, step, space, default, group=group, deal=deal)


@pytest.fixture(name="seen", scope="module")
def _seen(play):
    """``[T+1, P, B]`` of what was dealt to slots and to episodes, and the time steps."""
    ts = play(core.vectorise(task(), BATCH), STEPS)[0]
    return ts.obs["vector"][..., 0], ts.obs["vector"][..., 1], ts


def test_what_comes_from_the_slots_key_stays_for_the_whole_run(seen):
    """A learner keeps its task over all its episodes; no two slots share a draw."""
    slot, _, ts = seen
    assert ts.first.sum(0).min() > 3
    np.testing.assert_array_equal(slot, np.broadcast_to(slot[:1], slot.shape))
    assert len(np.unique(slot)) == BATCH[0] * BATCH[1]


def test_what_comes_from_the_episodes_key_stays_for_the_episode(seen):
    """A new draw at each first step and at no other, and never one seen before."""
    _, episode, ts = seen
    changed = episode[1:] != episode[:-1]
    np.testing.assert_array_equal(changed, ts.first[1:])
    assert len(np.unique(episode)) == ts.first.sum()


def test_what_is_not_dealt_is_taken_as_given(play):
    """A curriculum's params still reach a slot at its next reset."""
    env = core.vectorise(task(), BATCH)
    params = env.params | {"given": jnp.full(BATCH, 3.0)}
    state, first = env.reset(jax.random.split(jax.random.key(0), 2), env.params)
    assert (first.obs["vector"][..., 2] == 7.0).all()
    step = jax.jit(env.step)
    for _ in range(4):
        state, ts = step(state, jnp.zeros(BATCH, jnp.int32), params)
    assert ts.first.all() and (ts.obs["vector"][..., 2] == 3.0).all()


def test_dealing_does_not_depend_on_how_many_slots_are_reset_at_once(play, seen):
    """Groups change the cost and nothing else."""
    grouped = play(core.vectorise(task(group=1), BATCH), STEPS)[0]
    np.testing.assert_array_equal(grouped.obs["vector"][..., 0], seen[0])
    np.testing.assert_array_equal(grouped.obs["vector"][..., 1], seen[1])


def test_tasks_that_deal_differently_do_not_share_their_code():
    """Stacked, the second would be dealt what the first one is."""
    one = task()
    assert core.same_code(one, one._replace(params=one.params | {"given": 1.0}))
    assert not core.same_code(one, one._replace(deal=None))


@pytest.mark.parametrize(("axis", "dim"), [("population", 0), ("slot", 1)])
def test_tasks_are_spread_evenly_and_kept(axis, dim, play):
    """Entry i plays tasks[i mod N], whatever the task would deal by itself."""
    number = 3
    tasks = {name: jnp.arange(3.0) + i for i, name in enumerate(task().params)}
    batch = (7, 2) if dim == 0 else (2, 7)
    env = core.spread(task(), tasks, batch, axis)
    ts = play(env, STEPS)[0]
    slot, episode, handed = np.moveaxis(ts.obs["vector"], -1, 0)
    index = np.arange(7) % number
    expected = index[:, None] if dim == 0 else index[None]
    for got, name in [(slot, "slot"), (episode, "episode"), (handed, "given")]:
        wanted = np.asarray(tasks[name])[np.broadcast_to(expected, batch)]
        np.testing.assert_array_equal(got, np.broadcast_to(wanted, got.shape))
    assert env.spec.tasks == (task().spec,) and not ts.task.any()


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"slot": jnp.ones(2), "episode": jnp.ones(3), "given": jnp.ones(2)}, "tasks"),
        ({"slot": 1.0, "episode": 1.0, "given": 1.0}, "tasks"),
        (
            {"slot": jnp.ones(2), "episode": jnp.ones(2), "given": jnp.ones((2, 4))},
            "given is",
        ),
    ],
)
def test_what_is_no_stack_of_the_tasks_params_is_refused(tasks, message):
    """An error at once, not a program with the wrong goals."""
    with pytest.raises(ValueError, match=message):
        core.spread(task(), tasks, BATCH)


@pytest.mark.parametrize("fraction", [0.8, 0.5])
@pytest.mark.parametrize("n", [81, 6561])
def test_train_and_test_have_no_task_in_common_and_miss_none(n, fraction):
    """A test goal that was trained on measures memory, not learning."""
    halves = [
        task_splits.indices(task_splits.Split(name, fraction, 3), n)
        for name in ("train", "test")
    ]
    assert len(halves[0]) == round(fraction * n)
    np.testing.assert_array_equal(np.sort(np.concatenate(halves)), np.arange(n))
    whole = task_splits.indices(task_splits.Split("all", fraction, 3), n)
    np.testing.assert_array_equal(whole, np.concatenate(halves))


def test_a_split_is_shuffled_by_its_seed_and_never_changes():
    """Neither the first goals nor other ones under the next release of a library."""
    train = task_splits.indices(task_splits.Split("train"), 81)
    np.testing.assert_array_equal(train[:6], FIRST)
    other = task_splits.indices(task_splits.Split("train", split_seed=1), 81)
    assert set(train) != set(other)


def test_equal_tasks_fall_on_one_side():
    """They count as one; where none are equal, the split is as it was."""
    n = 60
    same = tuple(i % 7 for i in range(n))
    split = task_splits.Split(train_fraction=0.6, split_seed=3)
    train, test = (
        task_splits.indices(split._replace(tasks=name), n, same).tolist()
        for name in ("train", "test")
    )
    assert sorted(train + test) == list(range(n))
    assert not {same[i] for i in train} & {same[i] for i in test}
    assert len({same[i] for i in train}) == round(0.6 * 7)
    for name in task_splits.SPLITS:
        own = split._replace(tasks=name)
        np.testing.assert_array_equal(
            task_splits.indices(own, n, tuple(range(n))), task_splits.indices(own, n)
        )


def test_fewer_tasks_are_a_part_of_more():
    """A sweep over the number of tasks adds to them."""
    few, many = (
        task_splits.indices(task_splits.Split("train", number=n), 81) for n in (16, 64)
    )
    np.testing.assert_array_equal(few, many[:16])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "trian"}, "did you mean train"),
        ({"train_fraction": 1.0}, "options.train_fraction"),
        ({"train_fraction": True}, "options.train_fraction"),
        ({"train_fraction": 0.001}, "none is left for tasks='train'"),
        ({"tasks": "test", "number": 17}, "tasks='test' has 16"),
        ({"number": 0}, "options.number"),
        ({"split_seed": -1}, "options.split_seed"),
    ],
)
def test_an_impossible_split_is_refused_in_one_line(options, message):
    """By the name of the option."""
    options = {"tasks": "train"} | options
    with pytest.raises(ValueError, match=message) as error:
        task_splits.indices(task_splits.split_of(options), 81)
    assert "\n" not in str(error.value)


def test_families_of_many_tasks_list_them_by_name():
    """The registry finds them, and says where there are none."""
    goals = envs.tasks_of("dark/room", {"tasks": "test"}).goals
    assert goals.shape == (16, 1, 2)
    assert envs.tasks_of("bandit/odd", {"number": 5}).probabilities.shape == (5, 10)
    with pytest.raises(ValueError, match="families of many: labyrinth, dark, bandit"):
        envs.tasks_of("probe/memory")
