"""What every agent promises; a new line in AGENTS is tested without a line here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import agents, random, tree
from mtrl_jax.engine import population

CORES = ("none", "lstm")
# Changed values of fields for which halving, or 1 for 0, would not bite.
OTHER = {"decay_updates": 4.0, "warmup_updates": 4.0, "max_grad_norm": 0.01}
OTHER |= {"clip_epsilon": 0.5}  # ratios lie between 1e-3 and 0.5 away from 1
# Where a field bites only if it starts from this value.
REGIME = {"epsilon": 1e-2, "clip_epsilon": 1e-3, "clip_value": 1e-2}

pytestmark = pytest.mark.parametrize("name", list(agents.AGENTS))
with_cores = pytest.mark.parametrize("core", CORES)
KEY = jax.random.key(11)


def test_a_population_member_is_its_solo_run(name, kit):
    """vmap over members changes nothing but rounding: every leaf to 1e-5."""
    one, members = kit.setup(name, "lstm"), 3
    several = population.population(one.agent, members)
    rates = jnp.array([1e-3, 3e-3, 1e-2], jnp.float32)
    field = "learning_rate" if "learning_rate" in one.hp._fields else one.hp._fields[0]
    hp = kit.arrays(one.hp, members)._replace(**{field: rates})
    keys = random.at(random.roots(5, members), 0, random.UPDATE)
    states = [kit.fresh(one, seed) for seed in range(members)]
    rollouts = [kit.collect(one, state=s, seed=p) for p, s in enumerate(states)]
    # As a scan over time leaves it: time first, then members; the carry has no time.
    stacked = tree.stack([r._replace(carry=()) for r in rollouts], axis=1)
    stacked = stacked._replace(carry=tree.stack([r.carry for r in rollouts]))
    state, slots = tree.stack(states), one.env.batch[1]
    together = jax.jit(several.update)(state, stacked, keys, hp)
    carry, ts = several.carry(slots), kit.member(stacked.ts)
    acted = jax.jit(several.act)(state, carry, ts, keys, hp)
    for p in range(members):
        own = kit.member(hp, p)
        updated = one.update(states[p], rollouts[p], keys[p], own)
        assert_close(kit.member(together, p), updated)
        args = (states[p], one.agent.carry(slots), kit.member(rollouts[p].ts))
        assert_close(kit.member(acted, p), one.act(*args, keys[p], own))


def test_one_trace_serves_all_calls_and_all_hyperparameters(name, kit):
    """PBT may change any Hparams field without another program."""
    one = kit.setup(name)
    state, carry = one.state, one.agent.carry(one.env.batch[1])
    ts, before = kit.member(one.rollout.ts), None
    for hp in (one.hp, one.hp, jax.tree.map(lambda x: 0.5 * x + 0.1, one.hp)):
        _, carry, _ = one.act(state, carry, ts, KEY, hp)
        state, _ = one.update(state, one.rollout, KEY, hp)
        before = before or dict(one.traces)
    assert one.traces == before and min(before.values()) >= 1


@with_cores
def test_updates_keep_the_structure_and_types_of_the_state(name, core, kit):
    """A state that changes shape or dtype cannot be scanned, donated or restored."""
    one = kit.setup(name, core)
    after, metrics = one.update(one.state, one.rollout, KEY, one.hp)
    assert described(after) == described(one.state)
    assert metrics and set(described(metrics).values()) == {((), "float32")}


def test_different_seeds_differ_in_every_drawn_leaf_and_in_actions(name, kit):
    """A population whose members start equal explores nothing."""
    one = kit.setup(name, "lstm")
    states = [kit.fresh(one, seed) for seed in (0, 1)]
    x, y = (leaves(state.learner) for state in states)
    # Constants such as zero biases are the same by design: they have 2 values at most.
    drawn = [path for path in x if len(np.unique(x[path])) > 2]
    assert len(drawn) >= kit.claims(name).drawn
    for path in drawn:
        assert not np.isclose(x[path], y[path]).any(), path
    ts, carry = kit.member(one.rollout.ts), one.agent.carry(one.env.batch[1])
    keys = [random.at(root, 0, random.ACT) for root in random.roots(0, 2)]
    first, second = (one.act(one.state, carry, ts, key, one.hp)[0] for key in keys)
    assert (np.asarray(first) != np.asarray(second)).any()


@pytest.mark.parametrize("is_jitted", [False, True])
def test_nothing_in_a_fresh_state_aliases(name, is_jitted, kit):
    """A buffer that is there twice cannot be donated, and a target net would follow."""
    one = kit.setup(name)
    init = jax.jit(one.agent.init) if is_jitted else one.agent.init
    state = jax.tree.leaves((init(KEY, one.hp), one.agent.carry(4)))
    assert len({leaf.unsafe_buffer_pointer() for leaf in state}) == len(state)


def test_no_hyperparameter_is_dead(name, kit):
    """In a regime where it bites, each field changes what act and three updates give."""
    one = kit.setup(name)
    # Experience of another, sharper policy, so that ratios are not 1.
    other = jax.tree.map(lambda x: 3 * x, kit.fresh(one, 9))
    rollout = kit.collect(one, state=other)
    carry, ts = one.agent.carry(one.env.batch[1]), kit.member(rollout.ts)
    start = one.state
    if kit.claims(name).drawn == 0:
        # All 0, which no discount changes.
        start = jax.tree.map(jnp.ones_like, start)

    def outcome(hp):
        state = start
        for i in range(3):
            state, _ = one.update(state, rollout, jax.random.fold_in(KEY, i), hp)
        return state.learner, one.act(state, carry, ts, KEY, hp)

    assert not differs(outcome(one.hp), outcome(one.hp))
    dead = []
    for field in one.hp._fields:
        value = REGIME.get(field, float(getattr(one.hp, field)))
        changed = OTHER.get(field, 0.5 * value or 1.0)
        both = (one.hp._replace(**{field: jnp.float32(x)}) for x in (value, changed))
        if not differs(*(outcome(hp) for hp in both)):
            dead.append(field)
    assert not dead


@pytest.mark.parametrize("probe", ["both_factorised", "both_box"])
def test_all_action_spaces_run(name, probe, kit):
    """Actions have the space's type and range, an update stays finite and learns.

    Or ``make`` refuses the space, for agents that say so.
    """
    if probe in kit.claims(name).refuses:
        env = kit.probe(probe, advised=kit.claims(name).advised)
        with pytest.raises(ValueError, match=f"action: {name} .*Discrete"):
            kit.small(name, env.spec)
        return
    one = kit.setup(name, "none", (probe,))
    action = np.asarray(one.rollout.action)
    if probe == "both_box":
        assert action.dtype == np.float32 and action.shape == (kit.T, kit.SLOTS, 2)
        assert len(np.unique(action)) == action.size
    else:
        sizes = np.array([2, 3])
        assert action.dtype == np.int32
        assert action.shape == (kit.T, kit.SLOTS, 2)
        assert (action >= 0).all() and (action < sizes).all()
    after, metrics = one.update(one.state, one.rollout, KEY, one.hp)
    assert tree.all_finite((after, metrics))
    assert differs(after.learner, one.state.learner)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_illegal_actions_are_never_chosen(name, temperature, kit):
    """Also greedily, also where a network is sure of what it wants."""
    one = kit.setup(name)
    hp = one.hp
    if "temperature" in hp._fields:
        hp = hp._replace(temperature=jnp.float32(temperature))
    sure = jax.tree.map(lambda x: 10 * x, kit.fresh(one, 3))
    for state in (one.state, sure):
        rollout = kit.collect(one, state=state, hp=hp, steps=12)
        legal = np.asarray(rollout.ts.action_mask)[:-1]
        action = np.asarray(rollout.action)
        assert not legal.all(-1).any()
        assert np.take_along_axis(legal, action[..., None], -1).all()


def test_illegal_choices_of_a_group_are_never_chosen(name, kit):
    """A factorised action respects the mask of each of its groups."""
    if "both_factorised" in kit.claims(name).refuses:
        pytest.skip("refuses factorised actions")
    one = kit.setup(name, "none", ("both_factorised",))
    ts = kit.member(one.rollout.ts)
    legal = jnp.array([False, True, True, False, True])
    ts = ts._replace(action_mask=jnp.broadcast_to(legal, ts.action_mask.shape))
    drawn = [
        one.act(one.state, one.agent.carry(kit.SLOTS), ts, key, one.hp)[0]
        for key in jax.random.split(KEY, 8)
    ]
    action = np.concatenate(drawn)
    assert set(np.unique(action[:, 0])) == {1}
    assert set(np.unique(action[:, 1])) == {0, 2}


@with_cores
def test_an_episodes_first_step_forgets_the_past(name, core, kit):
    """Where ``first`` is True the carry says nothing, in act and in update.

    Except to an agent whose claim is that it learns across episodes: there it must.
    """
    one = kit.setup(name, core)
    ts = kit.member(one.rollout.ts)
    assert np.asarray(ts.first).all()
    fresh = one.agent.carry(one.env.batch[1])
    past = jax.tree.map(lambda x: x + jnp.ones_like(x), fresh)

    def act(carry, ts):
        return one.act(one.state, carry, ts, KEY, one.hp)

    def update(carry):
        return one.update(one.state, one.rollout._replace(carry=carry), KEY, one.hp)

    if kit.claims(name).forgets:
        assert not differs(act(past, ts), act(fresh, ts))
    else:
        assert differs(act(past, ts)[2], act(fresh, ts)[2])
    assert not differs(update(past), update(fresh))
    # And the test can fail: elsewhere the past matters.
    assert bool(jax.tree.leaves(fresh)) == kit.claims(name).has_carry
    if not kit.claims(name).has_carry:
        return
    later = ts._replace(first=jnp.zeros_like(ts.first))
    assert differs(act(past, later)[2], act(fresh, later)[2])


@with_cores
@pytest.mark.parametrize("reward", [1e6, -1e6, 0.0])
def test_everything_stays_finite_at_extreme_rewards(name, core, reward, kit):
    """Ten updates on rewards of a million, or none at all, leave no NaN behind."""
    one = kit.setup(name, core)
    ts, state = one.rollout.ts, one.state
    ts = ts._replace(reward=jnp.where(ts.first, 0.0, reward))
    for i in range(10):
        state, metrics = one.update(
            state, one.rollout._replace(ts=ts), jax.random.fold_in(KEY, i), one.hp
        )
        assert tree.all_finite((state, metrics))


def test_the_action_sent_into_a_reset_teaches_nothing(name, kit):
    """The transition that crosses into a new episode is masked in every loss."""
    if not kit.claims(name).learns:
        pytest.skip("learns in act; see the test of its first step")
    one = kit.setup(name, "lstm", ("both",))
    crossing = np.asarray(one.rollout.ts.first)[1:]
    assert crossing.any() and not crossing.all()

    def learner(changed):
        action = jnp.where(changed, 1 - one.rollout.action, one.rollout.action)
        rollout = one.rollout._replace(action=action)
        # Not as an input to the steps after it either: it led to a first step.
        return one.update(one.state, rollout, KEY, one.hp)[0].learner

    untouched = learner(np.zeros_like(crossing))
    assert not differs(untouched, learner(crossing))
    assert differs(untouched, learner(~crossing))


def test_padding_teaches_nothing(name, kit):
    """A task padded into a mixture learns what it learns alone: same update to 1e-5.

    The padded network cut down to the task's own inputs and actions is the solo
    network; what is cut away (inputs that are 0, actions that are illegal) is left at
    its initial values. Of a table, likewise: the rows where the padding is 0.
    """
    if not kit.claims(name).learns:
        pytest.skip("has no parameters to pad")
    padded, alone = (kit.setup(name, "lstm", t) for t in (kit.TASKS, ("both",)))
    rollout = cut_slots(padded.rollout, slice(0, kit.SLOTS))
    # Inputs: vector 1 of 2, the last action 2 of 3, the reward, maybe whether an episode
    # ended. Logits: 2 of 3. Table: of 3 tasks the first, 3 of 3 values of the vector's
    # first entry, 0 of its second.
    inputs = [0, 2, 3, 5, 6]
    index = {(6, 4): inputs[:4], (7, 5): inputs, (3, 2): [0, 1], (27, 3): [1, 4, 7]}

    def cut(x, like):
        return x[np.ix_(*kept(x, like))] if x.ndim else x

    def kept(x, like):
        sizes = zip(x.shape, like.shape)
        return [range(m) if m == n else index[m, n] for m, n in sizes]

    ts = rollout.ts._replace(
        obs={"vector": rollout.ts.obs["vector"][..., :1]},
        action_mask=rollout.ts.action_mask[..., :2],
    )
    after, metrics = padded.update(padded.state, rollout, KEY, padded.hp)
    small = jax.tree.map(cut, padded.state, alone.state)
    assert_close(
        (jax.tree.map(cut, after, alone.state), metrics),
        alone.update(small, rollout._replace(ts=ts), KEY, alone.hp),
    )
    old, new, like = (leaves(s.learner) for s in (padded.state, after, alone.state))
    wider = [path for path in old if old[path].shape != like[path].shape]
    assert len(wider) >= min(2, len(old) - 1)  # A table is but one.
    for path in wider:
        outside = np.ones(old[path].shape, bool)
        outside[np.ix_(*kept(old[path], like[path]))] = False
        np.testing.assert_array_equal(old[path][outside], new[path][outside], path)


def cut_slots(rollout, own):
    """Returns the rollout of some slots; the carry has no time axis."""
    timed = jax.tree.map(lambda x: x[:, own], rollout._replace(carry=()))
    return timed._replace(carry=jax.tree.map(lambda x: x[own], rollout.carry))


def leaves(x):
    """Returns {path: numpy array}."""
    found, _ = jax.tree_util.tree_flatten_with_path(x)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in found}


def described(x):
    """Returns {path: (shape, dtype)}."""
    return {path: (x.shape, x.dtype.name) for path, x in leaves(x).items()}


def assert_close(x, y):
    """Asserts that two trees are the same to 1e-5, relative or absolute."""
    x, y = leaves(x), leaves(y)
    assert x.keys() == y.keys()
    for path in x:
        np.testing.assert_allclose(x[path], y[path], 1e-5, 1e-5, err_msg=path)


def differs(x, y):
    """Returns whether any leaf of two trees of one structure differs in any bit."""
    x, y = leaves(x), leaves(y)
    assert x.keys() == y.keys()
    return any(not np.array_equal(x[path], y[path]) for path in x)
