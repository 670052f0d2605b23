"""What every agent promises; a new line in AGENTS is tested without a line here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import agents, random, tree
from mtrl_jax.engine import population

T = 6
AGENTS = list(agents.AGENTS)
CORES = ("none", "lstm")
# Values that differ from QUICK where halving a field, or 1 for 0, would not bite.
OTHER = {"decay_updates": 4.0, "max_grad_norm": 0.01}
# Where a field bites only if others have these values.
REGIME = {
    "epsilon": {"epsilon": 1e-2},
    "clip_epsilon": {"clip_epsilon": 1e-3},
    "clip_value": {"clip_value": 1e-2},
}

pytestmark = pytest.mark.parametrize("name", AGENTS)


def leaves(x):
    """Returns {path: array} with keys as their bits."""
    found, _ = jax.tree_util.tree_flatten_with_path(x)
    return {jax.tree_util.keystr(path): _plain(leaf) for path, leaf in found}


def _plain(leaf):
    is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def assert_equal(x, y):
    """Asserts that two trees are the same bit for bit."""
    x, y = leaves(x), leaves(y)
    assert x.keys() == y.keys()
    for path in x:
        np.testing.assert_array_equal(x[path], y[path], err_msg=path)


def differs(x, y):
    """Returns whether any leaf of two trees of one structure differs."""
    x, y = leaves(x), leaves(y)
    return any(not np.array_equal(x[path], y[path]) for path in x)


@pytest.mark.parametrize("core", CORES)
def test_a_population_member_is_its_solo_run(name, core, kit):
    """vmap over members changes nothing but rounding: every leaf to 1e-5."""
    members = 3
    env = kit.probe("memory")
    agent = kit.small(name, env.spec, core=core)
    several = population.population(agent, members)
    hp = kit.arrays(kit.quick(name), members)
    rates = jnp.array([1e-3, 3e-3, 1e-2], jnp.float32)
    hp = hp._replace(learning_rate=rates)
    keys = random.at(random.roots(5, members), 0, random.UPDATE)
    runs = [
        kit.collect(agent, env, kit.member(hp, p), T, seed=p) for p in range(members)
    ]
    state, rollout = (tree.stack(x, axis=0) for x in zip(*runs))
    swap = lambda x: jax.tree.map(lambda y: jnp.swapaxes(y, 0, 1), x)  # noqa: E731
    rollout = rollout._replace(
        ts=swap(rollout.ts), action=swap(rollout.action), extras=swap(rollout.extras)
    )
    together = jax.jit(several.update)(state, rollout, keys, hp)
    alone = jax.jit(agent.update)
    acted = jax.jit(several.act)(
        state, several.carry(4), kit.member(rollout.ts, 0), keys, hp
    )
    for p, (own, own_rollout) in enumerate(runs):
        updated = alone(own, own_rollout, keys[p], kit.member(hp, p))
        assert_close(kit.member(together, p), updated)
        ts = kit.member(own_rollout.ts, 0)
        act = jax.jit(agent.act)(own, agent.carry(4), ts, keys[p], kit.member(hp, p))
        assert_close(kit.member(acted, p), act)


def assert_close(x, y):
    x, y = leaves(x), leaves(y)
    for path in x:
        np.testing.assert_allclose(x[path], y[path], 1e-5, 1e-5, err_msg=path)


def test_one_trace_serves_all_calls_and_all_hyperparameters(name, kit):
    """PBT may change any Hparams field without another program."""
    env = kit.probe("both")
    agent = kit.small(name, env.spec)
    traces = {"init": 0, "act": 0, "update": 0}

    def counted(function):
        def call(*args):
            traces[function] += 1
            return getattr(agent, function)(*args)

        return jax.jit(call)

    init, act, update = (counted(f) for f in traces)
    hp = kit.arrays(kit.quick(name))
    _, rollout = kit.collect(agent, env, hp, T)
    key = random.roots(0, 1)[0]
    state, carry = init(key, hp), agent.carry(4)
    for other in (hp, hp, jax.tree.map(lambda x: 0.5 * x + 0.1, hp)):
        init(key, other)
        _, carry, _ = act(state, carry, kit.member(rollout.ts), key, other)
        state, _ = update(state, rollout, key, other)
    assert traces == {"init": 1, "act": 1, "update": 1}


def test_updates_keep_the_structure_and_types_of_the_state(name, kit):
    """A state that changes shape or dtype cannot be scanned, donated or restored."""
    for core in CORES:
        env = kit.probe("both")
        agent = kit.small(name, env.spec, core=core)
        hp = kit.arrays(kit.quick(name))
        state, rollout = kit.collect(agent, env, hp, T)
        key = random.roots(0, 1)[0]
        after, metrics = jax.eval_shape(agent.update, state, rollout, key, hp)
        describe = lambda x: jax.tree.map(lambda y: (y.shape, y.dtype), x)  # noqa: E731
        assert describe(after) == describe(jax.eval_shape(lambda: state))
        assert metrics and all(
            (m.shape, m.dtype) == ((), jnp.float32) for m in metrics.values()
        )


def test_different_seeds_differ_in_every_drawn_leaf_and_in_actions(name, kit):
    """A population whose members start equal explores nothing."""
    env = kit.probe("memory", batch=(1, 32))
    agent = kit.small(name, env.spec, core="lstm")
    hp = kit.arrays(kit.quick(name))
    (one, first), (two, second) = (
        kit.collect(agent, env, hp, 2, seed=seed) for seed in (0, 1)
    )
    x, y = leaves(one.learner), leaves(two.learner)
    # Constants such as zero biases are the same by design: they have 2 values at most.
    drawn = [path for path in x if len(np.unique(x[path])) > 2]
    assert len(drawn) >= 3
    for path in drawn:
        assert not np.isclose(x[path], y[path]).all(), path
    assert (np.asarray(first.action) != np.asarray(second.action)).any()


def test_nothing_in_a_fresh_state_aliases(name, kit):
    """A buffer that is there twice cannot be donated, and a target net would follow."""
    env = kit.probe("memory")
    for core in CORES:
        agent = kit.small(name, env.spec, core=core)
        hp = kit.arrays(kit.quick(name))
        for init in (agent.init, jax.jit(agent.init)):
            state = init(random.roots(0, 1)[0], hp)
            carry = agent.carry(4)
            pointers = [
                leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((state, carry))
            ]
            assert len(set(pointers)) == len(pointers)


def test_no_hyperparameter_is_dead(name, kit):
    """In a regime where it bites, each field changes what act and three updates give."""
    env = kit.probe("memory")
    agent = kit.small(name, env.spec)
    base = kit.quick(name)
    # Experience of another policy, so that ratios are not 1.
    other = agent.init(jax.random.key(9), kit.arrays(base))
    other = jax.tree.map(lambda x: 3 * x, other)
    act, update = jax.jit(agent.act), jax.jit(agent.update)
    key = random.roots(0, 1)[0]
    state, rollout = kit.collect(agent, env, kit.arrays(base), T, behaviour=other)

    def outcome(hp):
        after = state
        for i in range(3):
            after, _ = update(after, rollout, random.fold(key, i), hp)
        return after.learner, act(
            after, agent.carry(4), kit.member(rollout.ts), key, hp
        )

    dead = []
    for field in base._fields:
        hp = base._replace(**REGIME.get(field, {}))
        value = float(getattr(hp, field))
        changed = hp._replace(**{field: OTHER.get(field, 0.5 * value or 1.0)})
        if not differs(outcome(kit.arrays(hp)), outcome(kit.arrays(changed))):
            dead.append(field)
    assert not dead


def test_a_hyperparameter_that_is_unused_would_be_found(name, kit):
    """The test above can fail: an update that ignores hp changes nothing."""
    env = kit.probe("both")
    agent = kit.small(name, env.spec)
    hp = kit.arrays(kit.quick(name))
    state, rollout = kit.collect(agent, env, hp, T)
    key = random.roots(0, 1)[0]
    results = [jax.jit(agent.update)(state, rollout, key, hp) for _ in range(2)]
    assert not differs(*results)


@pytest.mark.parametrize("probe", ["both", "both_factorised", "both_box", "both_image"])
def test_all_action_spaces_and_observations_run(name, probe, kit):
    """Actions have the space's type and range, an update stays finite."""
    env = kit.probe(probe)
    agent = kit.small(name, env.spec, core="lstm")
    hp = kit.arrays(kit.quick(name))
    state, rollout = kit.collect(agent, env, hp, T)
    action = np.asarray(rollout.action)
    if probe == "both_box":
        assert action.dtype == np.float32 and action.shape == (T, 4, 2)
    else:
        sizes = np.array([2, 3]) if probe == "both_factorised" else np.array(2)
        assert action.dtype == np.int32 and action.shape == (T, 4, *sizes.shape)
        assert (action >= 0).all() and (action < sizes).all()
    after, metrics = jax.jit(agent.update)(state, rollout, random.roots(0, 1)[0], hp)
    assert tree.all_finite((after, metrics))
    assert differs(after.learner, state.learner)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_illegal_actions_are_never_chosen(name, temperature, kit):
    """Also greedily, also where the network likes them best."""
    env = kit.probe("masked", batch=(1, 64))
    agent = kit.small(name, env.spec)
    hp = kit.arrays(kit.quick(name, temperature=temperature))
    liking = agent.init(jax.random.key(3), hp)
    liking = jax.tree.map(lambda x: 10 * x, liking)
    for behaviour in (None, liking):
        _, rollout = kit.collect(agent, env, hp, 8, behaviour=behaviour)
        mask = np.asarray(rollout.ts.action_mask)[:-1]
        action = np.asarray(rollout.action)
        assert not mask.all(-1).any()
        assert np.take_along_axis(mask, action[..., None], -1).all()


def test_illegal_choices_of_a_group_are_never_chosen(name, kit):
    """A factorised action respects the mask of each of its groups."""
    env = kit.probe("action_factorised", batch=(1, 64))
    agent = kit.small(name, env.spec)
    hp = kit.arrays(kit.quick(name))
    state, rollout = kit.collect(agent, env, hp, 1)
    mask = jnp.array([False, True, True, False, True])
    ts = kit.member(rollout.ts)
    ts = ts._replace(action_mask=jnp.broadcast_to(mask, ts.action_mask.shape))
    action, *_ = agent.act(state, agent.carry(64), ts, jax.random.key(0), hp)
    assert set(np.unique(action[:, 0])) == {1}
    assert set(np.unique(action[:, 1])) == {0, 2}


@pytest.mark.parametrize("core", CORES)
def test_an_episodes_first_step_forgets_the_past(name, core, kit):
    """Where ``first`` is True the carry says nothing, in act and in update."""
    env = kit.probe("memory")
    agent = kit.small(name, env.spec, core=core)
    hp = kit.arrays(kit.quick(name))
    state, rollout = kit.collect(agent, env, hp, T)
    key, ts = jax.random.key(1), kit.member(rollout.ts)
    fresh = agent.carry(4)
    past = jax.tree.map(lambda x: x + jnp.ones_like(x), fresh)
    assert np.asarray(ts.first).all()
    act, update = jax.jit(agent.act), jax.jit(agent.update)
    assert_equal(act(state, past, ts, key, hp), act(state, fresh, ts, key, hp))
    assert_equal(
        update(state, rollout._replace(carry=past), key, hp),
        update(state, rollout._replace(carry=fresh), key, hp),
    )
    # And the test can fail: elsewhere the past matters.
    later = ts._replace(first=jnp.zeros_like(ts.first))
    remembered = [act(state, c, later, key, hp)[2] for c in (past, fresh)]
    assert differs(*remembered)


@pytest.mark.parametrize("reward", [1e6, -1e6, 0.0])
def test_everything_stays_finite_at_extreme_rewards(name, reward, kit):
    """Ten updates on rewards of a million, or none at all, leave no NaN behind."""
    env = kit.probe("both")
    for core in CORES:
        agent = kit.small(name, env.spec, core=core)
        hp = kit.arrays(kit.quick(name))
        state, rollout = kit.collect(agent, env, hp, T)
        ts = rollout.ts
        ts = ts._replace(reward=jnp.where(ts.first, 0.0, reward))
        update = jax.jit(agent.update)
        for i in range(10):
            key = jax.random.fold_in(jax.random.key(0), i)
            state, metrics = update(state, rollout._replace(ts=ts), key, hp)
        assert tree.all_finite((state, metrics))


def test_the_action_sent_into_a_reset_teaches_nothing(name, kit):
    """The transition that crosses into a new episode is masked in every loss."""
    env = kit.probe("both")
    agent = kit.small(name, env.spec)
    hp = kit.arrays(kit.quick(name))
    state, rollout = kit.collect(agent, env, hp, T)
    crossing = np.asarray(rollout.ts.first)[1:]
    assert crossing.any() and not crossing.all()
    noise = rollout._replace(
        action=jnp.where(crossing, 1 - rollout.action, rollout.action)
    )
    update, key = jax.jit(agent.update), jax.random.key(0)
    after, _ = update(state, rollout, key, hp)
    assert_equal(after.learner, update(state, noise, key, hp)[0].learner)
    live = rollout._replace(
        action=jnp.where(crossing, rollout.action, 1 - rollout.action)
    )
    assert differs(after.learner, update(state, live, key, hp)[0].learner)


@pytest.mark.parametrize("core", CORES)
def test_padding_teaches_nothing(name, core, kit):
    """A task padded into a mixture learns what it learns alone: same update to 1e-5.

    The padded network, cut down to the task's own inputs and actions, is the solo
    network; what was cut away (inputs that are zero, actions that are illegal) keeps
    its initial values.
    """
    solo_env, padded_env = kit.probe("both"), kit.probe("both", "masked", "memory")
    own = slice(0, 4)
    solo = kit.small(name, solo_env.spec, core=core)
    padded = kit.small(name, padded_env.spec, core=core)
    hp = kit.arrays(kit.quick(name))
    state, rollout = kit.collect(padded, padded_env, hp, T)
    rollout = cut_slots(rollout, own)
    small_state = jax.eval_shape(solo.init, jax.random.key(0), hp)
    # vector 1 of 2, then the action 2 of 3 and the reward; 2 of 3 logits.
    index = {(6, 4): [0, 2, 3, 5], (3, 2): [0, 1]}

    def cut(x, like):
        for axis, sizes in enumerate(zip(x.shape, like.shape)):
            if sizes[0] != sizes[1]:
                x = jnp.take(x, jnp.array(index[sizes]), axis=axis)
        return x

    ts = rollout.ts._replace(
        obs={"vector": rollout.ts.obs["vector"][..., :1]},
        action_mask=rollout.ts.action_mask[..., :2],
    )
    key = jax.random.key(0)
    after, metrics = jax.jit(padded.update)(state, rollout, key, hp)
    alone, alone_metrics = jax.jit(solo.update)(
        jax.tree.map(cut, state, small_state), rollout._replace(ts=ts), key, hp
    )
    assert_close(jax.tree.map(cut, after, small_state), alone)
    assert_close(metrics, alone_metrics)
    old, new = leaves(state.learner), leaves(after.learner)
    kept = leaves(small_state_shapes(small_state.learner))
    padding = [path for path in old if old[path].shape != tuple(kept[path])]
    assert len(padding) >= 2
    for path in padding:
        outside = np.ones(old[path].shape, bool)
        picks = [
            index.get((big, int(one)), list(range(big)))
            for big, one in zip(old[path].shape, kept[path])
        ]
        outside[np.ix_(*picks)] = False
        np.testing.assert_array_equal(old[path][outside], new[path][outside], path)


def small_state_shapes(learner):
    return jax.tree.map(lambda x: np.array(x.shape, int), learner)


def cut_slots(rollout, own):
    time_major = jax.tree.map(lambda x: x[:, own], rollout._replace(carry=()))
    carry = jax.tree.map(lambda x: x[own], rollout.carry)
    return time_major._replace(carry=carry)
