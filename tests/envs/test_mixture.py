"""Mixtures: static slices, padding, masks, both axes, pure and host-driven."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random, types
from mtrl_jax.envs import actions, core, mixture, observations, probes, wrappers

DISCRETE, FACTORISED = types.Discrete, types.Factorised


def assert_trees_close(x, y):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), x, y
    )


def test_a_slot_mixture_is_its_parts_side_by_side(play):
    """Part k runs as if alone, with key fold_in(key, k); only padding is added."""
    alone = [envs.make(f"probe/{n}", (2, b)) for n, b in [("memory", 3), ("masked", 2)]]
    mixed = mixture.make(alone)
    assert mixed.batch == (2, 5)
    ts, taken, _ = play(mixed, 30, seed=1)
    key = random.at(random.roots(1, 2), 0, random.ENV)
    bounds = [(0, 3), (3, 5)]
    for k, (env, (start, stop)) in enumerate(zip(alone, bounds)):
        run = jax.jit(lambda a, env=env, k=k: replay(env, random.fold(key, k), a))
        own = run(taken[:, :, start:stop])
        part = jax.tree.map(lambda x, s=slice(start, stop): x[:, :, s], ts)
        width = env.spec.obs["vector"].shape[0]
        size = types.action_mask_size(env.spec.action)
        assert_trees_close(part.obs["vector"][..., :width], own.obs["vector"])
        assert not part.obs["vector"][..., width:].any()
        np.testing.assert_array_equal(part.action_mask[..., :size], own.action_mask)
        assert not part.action_mask[..., size:].any()
        assert_trees_close(part[1:5], own[1:5])
        np.testing.assert_array_equal(part.task, k)


def replay(env, key, taken):
    state, first = env.reset(key, env.params)
    _, ts = jax.lax.scan(lambda s, a: env.step(s, a, env.params), state, taken)
    return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), first, ts)


def test_a_population_mixture_gives_members_their_own_task(play):
    """Member p draws from its own key, as it would alone."""
    parts = [envs.make("probe/memory", (1, 3)), envs.make("probe/both", (2, 3))]
    mixed = mixture.make(parts, axis="population")
    assert mixed.batch == (3, 3)
    ts, taken, _ = play(mixed, 20)
    np.testing.assert_array_equal(ts.task[0], [[0] * 3, [1] * 3, [1] * 3])
    key = random.at(random.roots(0, 3), 0, random.ENV)
    own = jax.jit(lambda a: replay(parts[1], key[1:], a))(taken[:, 1:])
    assert_trees_close(ts.obs["vector"][:, 1:, :, :1], own.obs["vector"])
    assert_trees_close(ts.reward[:, 1:], own.reward)


def test_one_environment_is_a_mixture_too(play):
    """A config with one task is no special case: params and state are tuples."""
    mixed = mixture.make([envs.make("probe/delayed", (1, 2))])
    assert isinstance(mixed.params, tuple) and len(mixed.params) == 1
    ts, *_ = play(mixed, 6)
    np.testing.assert_array_equal(ts.reward[:, 0, 0], [0, 0, 1, 0, 0, 1, 0])


def test_missing_leaves_are_zero_and_images_keep_their_brightness(play):
    """A torso that divides uint8 by 255 reads the same number in every dtype."""
    names = ["probe/both_image", "gymnax/Breakout-MinAtar", "probe/both"]
    mixed = mixture.make([envs.make(name, (1, 1)) for name in names])
    spec = mixed.spec.obs
    assert (spec["image"].shape, spec["image"].dtype) == ((10, 10, 4), jnp.uint8)
    ts, *_ = play(mixed, 5)
    image, vector = ts.obs["image"][:, 0], ts.obs["vector"][:, 0]
    assert not image[:, 2].any() and not vector[:, :2].any()
    for slot in (0, 1):
        assert set(np.unique(image[:, slot])) == {0, 255}
    assert not image[:, 0, ..., 3].any()


@pytest.mark.parametrize(
    ("dtypes", "result", "values"),
    [
        (("bool", "uint8"), "uint8", (255, 7)),
        (("bool", "float32"), "float32", (1.0, 7.0)),
        (("uint8", "float32"), "float32", (7 / 255, 7.0)),
        (("bool", "bool"), "bool", (True, True)),
    ],
)
def test_image_dtypes_are_promoted_to_one_that_holds_both(dtypes, result, values):
    """255 in uint8 is 1.0 in float32 is True."""
    structs = [{"image": jax.ShapeDtypeStruct((1, 1, 1), jnp.dtype(d))} for d in dtypes]
    target = observations.combine(structs)
    assert target["image"].dtype == result
    for dtype, value in zip(dtypes, values):
        x = np.full((1, 1, 1), 1 if dtype == "bool" else 7, dtype)
        out = jax.jit(lambda x: observations.pad({"image": x}, target, ()))(x)
        np.testing.assert_allclose(out["image"], [[[value]]], rtol=1e-6)


@pytest.mark.parametrize(
    ("spaces", "combined"),
    [
        ([DISCRETE(3), DISCRETE(5)], DISCRETE(5)),
        ([DISCRETE(4), FACTORISED((2, 3))], FACTORISED((4, 3))),
        ([FACTORISED((2, 5)), FACTORISED((3, 2, 2))], FACTORISED((3, 5, 2))),
        (
            [types.Box((-1.0,), (1.0,)), types.Box((-0.5, 0.0), (2.0, 4.0))],
            types.Box((-1.0, 0.0), (2.0, 4.0)),
        ),
    ],
)
def test_the_combined_space_holds_every_own_space(spaces, combined):
    """The largest of each group or dimension."""
    assert actions.combine(spaces) == combined


def test_masks_are_padded_per_group():
    """A group the task lacks keeps one legal choice, so its logits stay finite."""
    space, pad = FACTORISED((4, 3)), jax.jit(actions.pad_mask, static_argnums=(0, 1))
    mask = pad(space, DISCRETE(2), np.array([[False, True]]))
    np.testing.assert_array_equal(mask, [[0, 1, 0, 0, 1, 0, 0]])
    mask = pad(space, FACTORISED((2, 3)), np.array([1, 0, 1, 1, 0], bool))
    np.testing.assert_array_equal(mask, [1, 0, 0, 0, 1, 1, 0])


def test_box_actions_are_rescaled_to_the_bounds_of_each_task():
    """The ends of the policy's range are the ends of every task's range."""
    wide, narrow = types.Box((-2.0, -1.0), (2.0, 1.0)), types.Box((-0.1,), (0.3,))
    space = actions.combine([wide, narrow])
    action = np.float32([[-2.0, 0.5], [0.0, 0.5], [2.0, 0.5]])
    unpad = jax.jit(actions.unpad, static_argnums=(0, 1))
    np.testing.assert_array_equal(unpad(space, wide, action), action)
    own = unpad(space, narrow, action)
    np.testing.assert_allclose(own, [[-0.1], [0.1], [0.3]], atol=1e-6)


@pytest.mark.parametrize(
    ("names", "batches", "axis", "message"),
    [
        (["both", "both_box"], [(1, 1)] * 2, "slot", "Box and Discrete"),
        (["both_factorised", "both_box"], [(1, 1)] * 2, "slot", "Box and Factorised"),
        (["both", "both"], [(1, 1), (2, 1)], "slot", r"\[1, 2\] members"),
        (["both", "both"], [(1, 1), (1, 2)], "population", r"\[1, 2\] slots"),
        (["both"], [(1, 1)], "slots", "axis"),
        ([], [], "slot", "no tasks"),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_one_line(names, batches, axis, message):
    """The error says what was given and what would work."""
    parts = [envs.make(f"probe/{n}", b) for n, b in zip(names, batches)]
    with pytest.raises(ValueError, match=message) as error:
        mixture.make(parts, axis)
    assert "\n" not in str(error.value)


def test_tasks_of_one_name_are_numbered_and_mixtures_nest():
    """Returns are reported by name, so names are distinct; ids count over all parts."""
    inner = mixture.make([envs.make("probe/both", (1, 1)) for _ in range(2)])
    mixed = mixture.make([envs.make("probe/both", (1, 1)), inner])
    assert [t.name for t in mixed.spec.tasks] == [
        "probe/both",
        "probe/both#2",
        "probe/both#3",
    ]
    _, ts = jax.jit(mixed.reset)(random.roots(0, 1), mixed.params)
    np.testing.assert_array_equal(ts.task, [[0, 1, 2]])


def test_a_wrong_action_shape_is_an_error_when_tracing():
    """A transposed or unbatched action does not run silently."""
    mixed = mixture.make([envs.make("probe/both", (2, 3))])
    state, _ = jax.jit(mixed.reset)(random.roots(0, 2), mixed.params)
    for action in (np.zeros((3, 2), np.int32), np.zeros((2, 3), np.float32)):
        with pytest.raises(ValueError, match="action: got"):
            mixed.step(state, action, mixed.params)


def test_measures_are_joined_and_zero_where_a_task_has_none(play):
    """The engine averages info per task; a task without a measure reports 0."""
    plain = probes.task("delayed")
    measured = plain._replace(info=lambda state, params: {"time": state.time})
    parts = [core.vectorise(task, (1, 2)) for task in (plain, measured)]
    _, _, infos = play(mixture.make(parts), 2)
    np.testing.assert_array_equal(infos["time"][:, 0], [[0, 0, 1, 1], [0, 0, 2, 2]])


def test_a_host_driven_mixture_joins_the_measures_as_the_pure_one_does():
    """The host runner reads them after reset and after every recv."""
    plain = probes.task("delayed")
    measured = plain._replace(info=lambda state, params: {"time": state.time})
    parts = [core.vectorise(task, (1, 2)) for task in (plain, measured)]
    hosts = [mixture.host_from_pure(env, random.roots(0, 1)) for env in parts]
    mixed = mixture.make_host(hosts)
    mixed.reset()
    np.testing.assert_array_equal(mixed.info()["time"], [[0, 0, 0, 0]])
    for step in (1, 2):
        mixed.send(np.zeros(mixed.batch, np.int32))
        mixed.recv()
        np.testing.assert_array_equal(mixed.info()["time"], [[0, 0, step, step]])
    assert mixture.make_host(hosts[:1]).info() == {}


def test_tasks_of_one_code_are_stacked_by_their_params(play):
    """Each task has its own params and id; the code is compiled once."""
    base = probes.task("delayed")
    named = [
        base._replace(
            spec=base.spec._replace(name=f"delayed{n}"), params=probes.Length(n)
        )
        for n in (1, 3)
    ]
    env = core.stack(named, (2, 3), [1, 2])
    ts, *_ = play(env, 8)
    np.testing.assert_array_equal(ts.task[0], [[0, 1, 1]] * 2)
    np.testing.assert_array_equal(ts.last[:, 0, 0].nonzero()[0], [1, 3, 5, 7])
    np.testing.assert_array_equal(ts.last[:, 0, 2].nonzero()[0], [3, 7])
    with pytest.raises(ValueError, match="do not share"):
        core.stack([base, probes.task("memory")], (1, 2), [1, 1])
    with pytest.raises(ValueError, match="sizes"):
        core.stack(named, (2, 3), [1, 1])


def test_a_host_mixture_gives_what_the_pure_one_gives(play):
    """Both use the same padding; the host's parts are stepped from Python."""
    parts = [envs.make(f"probe/{n}", (2, 2)) for n in ("memory", "both_factorised")]
    ts, taken, _ = play(mixture.make(parts), 12, seed=4)
    key = random.at(random.roots(4, 2), 0, random.ENV)
    hosts = [
        mixture.host_from_pure(env, random.fold(key, k)) for k, env in enumerate(parts)
    ]
    host = mixture.make_host(hosts)
    assert (host.spec, host.batch) == (mixture.make(parts).spec, (2, 4))
    assert_trees_close(host.reset(), jax.tree.map(lambda x: x[0], ts))
    for t, action in enumerate(taken):
        host.send(action)
        assert_trees_close(host.recv(), jax.tree.map(lambda x, t=t: x[t + 1], ts))
    host.close()


@pytest.mark.parametrize("axis", ["slot", "population"])
def test_a_host_mixture_begins_anew_with_the_keys_it_is_given(axis):
    """As the pure one does, also behind a wrapper; a part without keys goes on."""
    batch = (2, 2) if axis == "slot" else (1, 4)
    parts = [envs.make(f"probe/{name}", batch) for name in ("memory", "both")]
    hosts = [mixture.host_from_pure(x, random.roots(0, batch[0])) for x in parts]
    wrapped = {"frame_stack": 2}
    pure = wrappers.apply(mixture.make(parts, axis), wrapped)
    host = wrappers.apply(mixture.make_host(hosts, axis), wrapped)
    own = host.reset()
    for seed in (1, 2, 1):
        key = random.roots(seed, 2)
        assert_trees_close(host.restart(key), pure.reset(key, pure.params)[1])
    assert_trees_close(host.reset(), own)
    fixed = [x._replace(restart=None) for x in hosts]
    assert mixture.make_host(fixed, axis).restart is None
    mixed = mixture.make_host([fixed[0], hosts[1]], axis)
    seen = [mixed.restart(random.roots(seed, 2)).obs["vector"] for seed in (1, 2)]
    is_fixed = np.asarray(mixed.reset().task) == 0
    same = np.asarray(seen[0] == seen[1]).all(-1)
    assert same[is_fixed].all() and not same.all()


def test_a_host_env_wants_one_recv_for_each_send():
    """A step that is lost or waited for twice would shift every reward."""
    host = envs.make_host("probe/both", (1, 2))
    action = np.zeros((1, 2), np.int32)
    with pytest.raises(RuntimeError, match="reset first"):
        host.send(action)
    host.reset()
    with pytest.raises(RuntimeError, match="nothing was sent"):
        host.recv()
    host.send(action)
    with pytest.raises(RuntimeError, match="one recv after each send"):
        host.send(action)


def test_two_halves_of_a_host_env_are_the_slots_of_one():
    """The host runner steps one half while the other is thought about."""
    whole = envs.make_host("probe/both", (2, 6), seed=2).reset()
    halves = [
        envs.make_host("probe/both", (2, 3), seed=2, first_slot=s).reset()
        for s in (0, 3)
    ]
    joined = jax.tree.map(lambda x, y: np.concatenate([x, y], 1), *halves)
    assert_trees_close(whole, joined)


def test_closing_a_host_mixture_closes_every_part():
    """A part that fails to close does not keep the others open."""
    closed = []

    def fail():
        raise OSError("stuck")

    base = envs.make_host("probe/both", (1, 1))
    parts = [base._replace(close=f) for f in (lambda: closed.append(0), fail)]
    with pytest.raises(OSError, match="stuck"):
        mixture.make_host(
            [*parts, base._replace(close=lambda: closed.append(2))]
        ).close()
    assert sorted(closed) == [0, 2]


def test_a_mixture_names_the_action_sets_that_all_its_tasks_have():
    """Alike and in the same space; padding or another table leaves none."""
    rows = {"few": ((0,), (1,)), "one": ((1,),)}
    task = types.TaskSpec("a", {}, DISCRETE(3), action_sets=rows)
    other = task._replace(name="b", action_sets={**rows, "one": ((2,),)})
    assert actions.common_sets([task, task]) == rows
    assert actions.common_sets([task, other]) == {"few": rows["few"]}
    assert actions.common_sets([task, other._replace(action=DISCRETE(4))]) == {}
    native = envs.make("labyrinth/seekavoid_arena_01", (1, 1)).spec
    probe = envs.make("probe/both_factorised", (1, 1))
    assert list(native.action_sets) == ["small"]
    assert mixture.make([probe, probe]).spec.action_sets == {}


def test_a_spec_says_which_slots_belong_to_which_task():
    """As TimeStep.task does of every member: parts alone, stacked and side by side."""
    base = probes.task("delayed")
    parts = [(base._replace(params=probes.Length(n)), (2, n)) for n in (1, 3)]
    parts = [*core.join(parts), envs.make("probe/masked", (2, 2))]
    assert len(parts) == 2 and parts[0].spec.slot_tasks == (0, 1, 1, 1)
    for env in (*parts, mixture.make(parts), mixture.make(parts[:1])):
        _, ts = jax.jit(env.reset)(random.roots(0, 2), env.params)
        expected = np.broadcast_to(env.spec.slot_tasks, env.batch)
        np.testing.assert_array_equal(ts.task, expected)
    assert mixture.make(parts).spec.slot_tasks == (0, 1, 1, 1, 2, 2)
    hosted = [mixture.host_from_pure(env, random.roots(0, 2)) for env in parts]
    assert mixture.make_host(hosted).spec.slot_tasks == (0, 1, 1, 1, 2, 2)


def test_slots_have_no_task_where_members_have_one_each():
    """Along the population only one task for all is a slot's."""
    base = probes.task("delayed")
    tasks = [(base._replace(params=probes.Length(n)), (1, 3)) for n in (1, 2)]
    (stacked,) = core.join(tasks, "population")
    assert stacked.batch == (2, 3) and stacked.spec.slot_tasks == ()
    other = envs.make("probe/both", (1, 3))
    assert mixture.make([stacked], "population").spec.slot_tasks == ()
    assert mixture.make([other, other], "population").spec.slot_tasks == ()
    assert mixture.make([other], "population").spec.slot_tasks == (0, 0, 0)
    assert mixture.make([stacked, stacked]).spec.slot_tasks == ()
    one = core.spread(base, probes.Length(np.int32([1, 2])), (4, 3))
    assert one.spec.slot_tasks == (0, 0, 0)
