"""UNREAL: where its gradients go, its costs, its replay."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import types
from mtrl_jax.agents import unreal
from mtrl_jax.agents.common import (
    auxiliary_tasks,
    control_tasks,
    objective,
    policy_learner,
    replayed,
)
from mtrl_jax.data import replay_ring
from mtrl_jax.engine.batched_draws import batch_draws
from mtrl_jax.losses import auxiliary_control
from mtrl_jax.networks import auxiliary_heads

KEY = jax.random.key(0)
COSTS = ("control_cost", "reward_cost", "replay_cost", "feature_cost")
OFF = dict.fromkeys(COSTS, 0.0)
PARTS = ("torso", "core", "policy", "value", "control", "reward", "features")


@pytest.fixture(name="one", scope="module")
def _one(kit):
    """The agent with an LSTM on two probes."""
    one = kit.setup("unreal", "lstm", ("both", "masked"))
    return one._replace(hp=kit.changed(one.hp, max_grad_norm=1e6))


def moved(one, kit, **leaves):
    """Returns the parts that an update moves, without V-trace's terms and with others."""
    base = {"entropy_cost": 0.0, "value_cost": 0.0, "clip_pg_rho": 0.0}
    hp = kit.changed(one.hp, **OFF | base | leaves)
    after, metrics = one.update(one.learner, one.rollout, KEY, hp)
    old, new = ({**x.params, **x.params["auxiliaries"]} for x in (one.learner, after))
    found = {
        part
        for part in PARTS
        if any(
            not np.array_equal(a, b)
            for a, b in zip(jax.tree.leaves(old[part]), jax.tree.leaves(new[part]))
        )
    }
    return found, metrics


def test_each_auxiliary_trains_what_it_reads(one, kit):
    """Reward prediction the torso alone, control the core too, replay the value too."""
    assert moved(one, kit)[0] == set()
    assert moved(one, kit, reward_cost=1.0)[0] == {"torso", "reward"}
    assert moved(one, kit, control_cost=1.0)[0] == {"torso", "core", "control"}
    assert moved(one, kit, feature_cost=1.0)[0] == {"torso", "core", "features"}
    assert moved(one, kit, replay_cost=1.0)[0] == {"torso", "core", "value"}


def test_at_costs_of_zero_it_is_the_agent_without(one, kit):
    """V-trace's update, bit for bit but rounding; the loss is the sum of its parts."""
    plain = kit.setup("impala", "lstm", ("both", "masked"))
    hp = kit.changed(plain.hp, max_grad_norm=1e6)
    params = {k: x for k, x in one.learner.params.items() if k != "auxiliaries"}
    learner = kit.fresh(plain, 0)._replace(params=params)
    wanted, _ = plain.update(learner, one.rollout, KEY, hp)
    found, metrics = one.update(
        one.learner, one.rollout, KEY, kit.changed(one.hp, **OFF)
    )
    for name, part in wanted.params.items():
        for x, y in zip(jax.tree.leaves(part), jax.tree.leaves(found.params[name])):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
    costs = {name: 0.5 for name in COSTS}
    _, more = one.update(one.learner, one.rollout, KEY, kit.changed(one.hp, **costs))
    more, metrics = jax.device_get((more, metrics))
    parts = sum(more[x.replace("cost", "loss")] for x in COSTS)
    np.testing.assert_allclose(
        more["loss"], metrics["loss"] + 0.5 * parts, rtol=1e-4, atol=1e-6
    )


@pytest.fixture(name="two_units", scope="module")
def _two_units():
    """Returns (losses beside max(0, x) of two numbers, parameters with their heads).

    ``losses(params, batch, hp)``; whatever the state, Q is (3, 1) of the two actions for
    the first unit and 0 for the second.
    """
    obs, action = {"vector": jax.ShapeDtypeStruct((2,), jnp.float32)}, types.Discrete(2)
    spec = types.EnvSpec(obs, action, (types.TaskSpec("x", obs, action),))
    config = unreal.networks.NetworkConfig(
        hidden=(2,), activation="relu", last_action_reward=False
    )
    network = unreal.networks.make(spec, config)
    config = unreal.Config(network=config, feature_control=True, cell=1)
    tasks = auxiliary_tasks.make(spec, config, policy_learner.make(spec, config))

    def init(key):
        return objective.add_heads(network.init(key), tasks, key)

    def losses(params, batch, hp):
        seen = replayed.see(network, params, (), (), batch)
        return objective.auxiliary_losses(tasks, params, seen, hp)

    params = jax.device_get(jax.jit(batch_draws(init))(KEY))
    params["torso"]["mlp"]["Dense_0"]["kernel"] = np.eye(2, dtype=np.float32)
    head = jax.tree.map(np.zeros_like, params["auxiliaries"]["features"])
    head["value"]["bias"] = np.float32([2, 0])
    head["advantage"]["bias"] = np.float32([1, -1, 0, 0])
    params["auxiliaries"]["features"] = head
    return losses, params


def test_units_are_controlled_as_computed_by_hand(two_units):
    """c_t is a unit's activation on arrival; R_0 = c_1 + γ (c_2 + γ max Q(s_2)).

    γ = 1/2, units (1, 2), (3, 0) on arrival, actions 0 and 1: R_1 = (4.5, 0), R_0 =
    (3.25, 2), Q = (3, 0), (1, 0), so ½ (0.25² + 2² + 3.5²); in the second window the
    last step is terminal: R_1 = (3, 0), R_0 = (2.5, 2), so ½ (0.5² + 2² + 2²).
    """
    losses, params = two_units
    seen = np.float32([[7, 7], [9, 9], [1, 2], [3, -5], [0, 0]])
    discount = np.ones((5, 2), np.float32)
    discount[3, 1] = 0.0
    action = np.int32([[0, 0], [0, 0], [1, 1], [0, 0], [0, 0]])
    batch = batch_of(np.stack([seen, seen], axis=1), action, 0 * discount, discount)
    hp = unreal.Hparams()
    auxiliaries = hp.auxiliaries._replace(control_discount=0.5, feature_cost=0.1)
    hp = hp._replace(auxiliaries=auxiliaries)

    def loss(params):
        found = losses(params, batch, hp)["feature_loss"]
        return found.loss, found.weight

    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (found, weight), slope = jax.device_get(value_and_grad(params))
    np.testing.assert_allclose(found, (8.15625 + 4.125) / 4, rtol=1e-5)
    assert weight == np.float32(0.1)
    # Q reads no feature here, and what is to be gained has no gradient.
    heads = slope.pop("auxiliaries")
    assert all(not x.any() for x in jax.tree.leaves(slope))
    assert all(x.any() for x in jax.tree.leaves(heads.pop("features")))
    assert all(not x.any() for x in jax.tree.leaves(heads))


def batch_of(vector, action, reward, discount):
    """Returns the Batch of these snippets, whose first four steps are the windows."""
    shape = action.shape
    snippets = replay_ring.Row(
        obs={"vector": vector},
        action=action,
        reward=reward,
        discount=discount,
        first=np.zeros(shape, bool),
        task=np.zeros(shape, np.int32),
        action_mask=np.ones((*shape, 2), bool),
    )
    windows, live = jax.tree.map(lambda x: x[:4], snippets), np.ones(shape[1], bool)
    return replayed.Batch(None, windows, live, snippets, live)


def test_replayed_values_are_of_n_step_returns(two_units):
    """γ = 1/2, rewards 1, 2, V = 0 but of the last state 4: targets 1 + (2 + 2)/2, 2 + 2.

    Of a second window the last step begins an episode: 1 is its only target. A third
    is none.
    """
    losses, params = two_units
    params = jax.tree.map(np.zeros_like, params)
    params["torso"]["mlp"]["Dense_0"]["kernel"] = np.eye(2, dtype=np.float32)
    params["value"]["kernel"] = np.float32([[1], [0]])
    seen = np.float32([[0, 0], [0, 1], [0, 2], [4, 0], [0, 0]])[:, None]
    reward = np.float32([[0, 0, 7], [0, 0, 7], [1, 1, 7], [2, 0, 7], [0, 0, 7]])
    batch = batch_of(
        np.repeat(seen, 3, axis=1), np.zeros((5, 3), np.int32), reward,
        np.ones_like(reward),
    )  # fmt: skip
    windows = batch.windows._replace(
        first=np.arange(4)[:, None] == np.array([9, 3, 9]),
    )
    batch = batch._replace(windows=windows, is_window=np.array([True, True, False]))
    hp = unreal.Hparams()
    hp = hp._replace(returns=hp.returns._replace(discount=0.5))
    found = jax.jit(functools.partial(losses, hp=hp))(params, batch)["replay_loss"]
    expected = 0.5 * (3.0**2 + 4.0**2 + 1.0**2) / 3
    np.testing.assert_allclose(found.loss, expected, rtol=1e-6)


def test_a_reward_is_not_predicted_from_another_episode(two_units):
    """Frames before a first step are nothing, as is a snippet that is none."""
    losses, params = two_units
    seen = np.float32([[7, 7], [9, 9], [1, 2], [3, -5], [0, 0]])
    other = np.float32([[7, 7], [4, 8], [1, 2], [3, -5], [0, 0]])
    reward = np.zeros((5, 3), np.float32)
    reward[4] = 1.0, 1.0, -1.0

    @jax.jit
    def loss(vector, first, reward=reward):
        batch = batch_of(vector, np.zeros((5, 3), np.int32), reward, 1 + reward)
        snippets = batch.snippets._replace(first=first)
        batch = batch._replace(
            snippets=snippets, is_snippet=np.array([True, True, False])
        )
        return losses(params, batch, unreal.Hparams())["reward_loss"].loss

    # Of the frames 1, 2 and 3 the first is of another episode where 2 is a first step.
    cut = np.broadcast_to(np.arange(5)[:, None] == 2, (5, 3))
    pair = [
        np.stack([x, seen, no_snippet], axis=1)
        for x, no_snippet in ((seen, seen), (other, 2 * seen))
    ]
    plain, changed = (loss(x, np.zeros_like(cut)) for x in pair)
    assert abs(plain - changed) > 1e-6
    plain, changed = (loss(x, cut) for x in pair)
    assert plain == changed
    # What is predicted came after the frames.
    earlier, later = reward.copy(), reward.copy()
    earlier[:4], later[4] = 1.0, -1.0
    plain, same, other = (loss(pair[0], cut, x) for x in (reward, earlier, later))
    assert plain == same and abs(plain - other) > 1e-6


def test_snippets_end_with_a_reward_and_windows_follow_each_other():
    """Rows of one slot, as they were written, none that was overwritten.

    A snippet's frames may be of an episode before, its reward is of the one it shows.
    """
    obs, space = {"vector": jax.ShapeDtypeStruct((2,), jnp.float32)}, types.Discrete(2)
    spec = types.EnvSpec(obs, space, (types.TaskSpec("x", obs, space),))
    config = unreal.Config(capacity=24, windows=64, steps=3, snippets=256)
    made = unreal.make_replay(spec, config)
    observe = jax.jit(made.observe)
    time, slot = np.indices((29, 2))
    last = np.isin(time, [5, 11, 18])
    first = np.roll(last, 1, axis=0)
    first[0] = True
    ts = types.TimeStep(
        {"vector": np.stack([slot, time], -1).astype(np.float32)},
        np.where(time % 4 == 3, 1.0 + time, 0.0).astype(np.float32) * ~first,
        np.ones(first.shape, np.float32), first, last, np.zeros_like(slot, np.int32),
        np.ones((*first.shape, 2), bool),
    )  # fmt: skip
    memory = made.init(2)
    for step in range(7):
        part = jax.tree.map(lambda x, t=4 * step: x[t : t + 5], ts)
        action = np.int32(time[:-1] % 2)[4 * step : 4 * step + 4]
        rollout = types.Rollout(part, action, (), ())
        key = jax.random.fold_in(KEY, step)
        memory, batch = observe(memory, rollout, key, (), jnp.int32(step))
        batch = jax.device_get(batch)
        for rows, live, size in (
            (batch.windows, batch.is_window, 5),
            (batch.snippets, batch.is_snippet, 5),
        ):
            assert live.any() == (step > 0)
            seen = np.int32(rows.obs["vector"][:, live])
            assert len(seen) == size and (np.diff(seen[..., 0], axis=0) == 0).all()
            assert (np.diff(seen[..., 1], axis=0) == 1).all()
            np.testing.assert_array_equal(rows.action[:, live], seen[..., 1] % 2)
        now = np.int32(batch.snippets.obs["vector"][-1, batch.is_snippet, 1])
        found = batch.snippets.reward[-1, batch.is_snippet]
        np.testing.assert_array_equal(found, ts.reward[now, 0])
        assert not first[now, 0].any()
        if step:
            assert abs((found > 0).mean() - 0.5) < 0.15
    assert batch.snippets.first[1:4, batch.is_snippet].any()


def test_of_a_stack_the_newest_frame_is_controlled():
    """A flash of one frame is a change when it comes and when it goes, and no more."""
    flash = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0], np.float32)
    at = np.maximum(np.arange(6)[:, None] - np.arange(3, -1, -1), 0)
    image = np.broadcast_to(flash[at][:, None, None], (6, 4, 4, 4))

    @jax.jit
    def changes(obs):
        return auxiliary_control.cell_changes(control_tasks.shown(obs, 4), 4)[:, 0]

    found = changes({"image": image})
    np.testing.assert_array_equal(found, [0.0, 1.0, 1.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("own", "padded", "leaf"), [((4, 4, 2), (8, 8, 5), "image"), ((3,), (8,), "vector")]
)
def test_a_change_of_all_that_a_task_shows_is_one_however_it_is_padded(
    own, padded, leaf
):
    """The mean is over the task's own pixels, channels and numbers."""
    action, found = types.Discrete(2), []
    for shape in (own, padded):
        obs = {leaf: jax.ShapeDtypeStruct(own, jnp.float32)}
        task = types.TaskSpec("x", obs, action)
        spec = types.EnvSpec(
            {leaf: jax.ShapeDtypeStruct(shape, jnp.float32)}, action, (task,)
        )
        cells = control_tasks.Cells(spec, 4)
        corner = tuple(slice(0, n) for n in own)
        x = np.zeros((2, 1, *shape), np.float32)
        x[(1, 0, *corner)] = 1.0
        nothing = np.zeros((2, 1), np.float32)
        task = np.zeros((2, 1), np.int32)
        ts = types.TimeStep(
            {leaf: x}, nothing, nothing, nothing > 0, nothing > 0, task, ()
        )
        change, is_own = jax.jit(cells.changes)(ts)
        found.append(np.asarray(change)[np.asarray(is_own)])
    np.testing.assert_allclose(found, 1.0)


def test_units_are_the_torsos_own(kit):
    """Of an image's features; what joins them as it is, is none: action, reward, task."""
    image = kit.probe("both_image").spec
    for spec, units in ((image, 128), (kit.probe("both").spec, 8)):
        agent = kit.small("unreal", spec, cell=1)
        params = jax.eval_shape(agent.init, KEY, kit.quick("unreal")).params
        heads = params["auxiliaries"]
        assert heads["features"]["value"]["bias"].shape == (units,)
        agent = kit.small("unreal", spec, cell=1, feature_control=False)
        params = jax.eval_shape(agent.init, KEY, kit.quick("unreal")).params
        assert set(params["auxiliaries"]) == {"control", "reward"}


def test_the_head_of_an_images_cells_has_its_geometry():
    """9 x 9 maps give 20 x 20 cells, 4 x 4 give 10 x 10, and 4 give the 9 of them."""
    assert [auxiliary_heads.map_size(n) for n in (20, 10, 9, 2)] == [9, 4, 4, 1]
    head = auxiliary_heads.Control((9, 2), 3)
    said = jax.jit(batch_draws(head.init_with_output))
    value, advantage = said(KEY, np.ones((5, 7), np.float32))[0]
    assert value.shape == (5, 18) and advantage.shape == (5, 18, 3)
    assert (np.asarray(advantage) < 0).any()
    assert auxiliary_heads.cells_of((84, 84, 3), 4) == (21, 21)
    assert auxiliary_heads.cells_of((10,), 4) == (3,)


def test_what_cannot_be_is_refused(kit):
    """Sizes, cells larger than the image, a value of its own torso."""
    spec = kit.probe("both").spec
    with pytest.raises(ValueError, match="snippets: got 0, give at least 1"):
        kit.small("unreal", spec, snippets=0)
    image = kit.probe("both_image").spec
    with pytest.raises(ValueError, match="cell: 99 pixels of an image"):
        kit.small("unreal", image, cell=99)
    for frames in (0, -1):
        with pytest.raises(ValueError, match=f"frames: got {frames}, give at least 1"):
            kit.small("unreal", image, frames=frames)
    with pytest.raises(ValueError, match="frames: 2 given, but there is no image"):
        kit.small("unreal", spec, frames=2)
    network = unreal.networks.NetworkConfig(separate_value=True)
    with pytest.raises(ValueError, match=r"network\.separate_value"):
        unreal.make(spec, unreal.Config(network=network))
