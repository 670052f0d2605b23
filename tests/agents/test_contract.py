"""What every agent promises; a new line in AGENTS is tested without a line here.

So is an agent from outside the package, ``tests/outside/reinforce.py``.

An agent's tests share what is compiled for it and run in one process: a recurrent
network on a mixture of probes, one program for each other action space.
"""

import functools
import types as python_types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import agents, hparams, random, tree, types
from mtrl_jax.data import windows
from mtrl_jax.engine import population
from mtrl_jax.envs import probes

# Changed values of leaves for which halving, or 1 for 0, would not bite.
OTHER = {"decay_updates": 4.0, "warmup_updates": 4.0, "max_grad_norm": 0.01}
# Ratios lie between 1e-3 and 0.5 away from 1, values between 1e-2 and 1 from old ones.
OTHER |= {"clip_epsilon": 0.5, "clip_value": 1.0}
# Lengths in updates, of which there are three.
OTHER |= {"epsilon_updates": 1.0, "importance_updates": 4.0, "target_period": 3.0}
OTHER |= {"epsilon_start": 0.0, "epsilon_end": 1.0}
# Where a leaf bites only if it starts from this value.
REGIME = {
    "adam_eps": 1e-2,
    "rmsprop_eps": 1e-2,
    "weight_decay": 0.5,
    "clip_epsilon": 1e-3,
    "clip_value": 1e-2,
    "target_period": 1.0,
}
# So that every leaf of exploration bites after three updates.
EXPLORING = {"epsilon_start": 1.0, "epsilon_end": 0.0, "epsilon_updates": 6.0}
# What an optimiser does not read of its group.
UNREAD = {"adam": {"rmsprop_eps"}, "rmsprop": {"adam_eps"}}
UNREAD |= {"rmsprop_centred": {"adam_eps"}}
# Spaces beside choices, and a probe of each.
SPACES = {"both_factorised": types.Factorised, "both_box": types.Box}

NAMES = [*agents.AGENTS, "outside.reinforce"]

pytestmark = pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.xdist_group(x)) for x in NAMES]
)
KEY = jax.random.key(11)


@pytest.fixture(name="one")
def _one(name, kit):
    """The agent on the mixture of probes, with a memory where it has a network."""
    return kit.setup(name, "lstm")


def test_a_population_member_is_its_solo_run(name, one, kit):
    """vmap over members changes nothing but rounding: every leaf to 1e-5."""
    several, members = population.population(one.agent, 3), 3
    rates = jnp.array([1e-3, 3e-3, 1e-2], jnp.float32)
    known = hparams.names(one.hp)
    leaf = "learning_rate" if "learning_rate" in known else known[0]
    hp = kit.changed(kit.arrays(one.hp, members), **{leaf: rates})
    keys = random.at(random.roots(5, members), 0, random.UPDATE)
    learners = [kit.fresh(one, seed) for seed in range(members)]
    rollouts = [kit.collect(one, learner=x, seed=p) for p, x in enumerate(learners)]
    # As a scan over time leaves it: time first, then members; the carry has no time.
    stacked = tree.stack([r._replace(carry=()) for r in rollouts], axis=1)
    stacked = stacked._replace(carry=tree.stack([r.carry for r in rollouts]))
    slots = one.env.batch[1]

    @jax.jit
    def both(learner, rollout, carry, keys, hp):
        learnt, metrics = kit.learn(several)(learner, rollout, keys, hp)
        acted = several.act(learner, carry, kit.member(rollout.ts), keys, hp)
        return (learnt, metrics), acted

    learner, carry = tree.stack(learners), several.carry(slots)
    together, acted = both(learner, stacked, carry, keys, hp)
    for p in range(members):
        own = kit.member(hp, p)
        updated = one.update(learners[p], rollouts[p], keys[p], own)
        assert_close(kit.member(together, p), updated)
        args = (learners[p], one.agent.carry(slots), kit.member(rollouts[p].ts))
        assert_close(kit.member(acted, p), one.act(*args, keys[p], own))


def test_one_trace_serves_all_calls_and_all_hyperparameters(name, one, kit):
    """PBT may change any leaf of Hparams without another program."""
    learner, carry = one.learner, one.agent.carry(one.env.batch[1])
    ts, before = kit.member(one.rollout.ts), None
    for hp in (one.hp, one.hp, jax.tree.map(lambda x: 0.5 * x + 0.1, one.hp)):
        _, carry, _ = one.act(learner, carry, ts, KEY, hp)
        learner, _ = one.update(learner, one.rollout, KEY, hp)
        before = before or dict(one.traces)
    assert one.traces == before and min(before.values()) >= 1


def test_updates_keep_the_structure_and_types_of_the_learner(name, one):
    """A learner that changes shape or dtype cannot be scanned, donated or restored."""
    after, metrics = one.update(one.learner, one.rollout, KEY, one.hp)
    assert described(after) == described(one.learner)
    assert metrics and set(described(metrics).values()) == {((), "float32")}


def test_different_seeds_differ_in_every_drawn_leaf_and_in_actions(name, one, kit):
    """A population whose members start equal explores nothing."""
    x, y = (leaves(kit.fresh(one, seed)) for seed in (0, 1))
    # Constants such as zero biases are the same by design: they have 2 values at most.
    drawn = [path for path in x if len(np.unique(x[path])) > 2]
    # At least a torso's and a head's.
    assert len(drawn) >= (2 if hasattr(one.learner, "params") else 0)
    for path in drawn:
        assert not np.isclose(x[path], y[path]).any(), path
    ts, carry = kit.member(one.rollout.ts), one.agent.carry(one.env.batch[1])
    keys = [random.at(root, 0, random.ACT) for root in random.roots(0, 2)]
    hp = kit.changed(one.hp, epsilon_start=1.0)
    first, second = (one.act(one.learner, carry, ts, key, hp)[0] for key in keys)
    assert (np.asarray(first) != np.asarray(second)).any()


@pytest.mark.parametrize("is_jitted", [False, True])
def test_nothing_in_a_fresh_learner_aliases(name, is_jitted, one):
    """A buffer that is there twice cannot be donated, and a target net would follow."""
    init = jax.jit(one.agent.init) if is_jitted else one.agent.init
    found = jax.tree.leaves((init(KEY, one.hp), one.agent.carry(4)))
    assert len({leaf.unsafe_buffer_pointer() for leaf in found}) == len(found)


def test_no_hyperparameter_is_dead(name, one, kit):
    """In a regime where it bites, each leaf changes what act and three updates give.

    Except the eps of an optimiser, and the scale of values, that are not in use.
    """
    # Experience of another, sharper policy, so that ratios are not 1.
    other = jax.tree.map(lambda x: 3 * x, kit.fresh(one, 9))
    rollout = kit.collect(one, learner=other)
    carry, ts = one.agent.carry(one.env.batch[1]), kit.member(rollout.ts)
    start = one.learner
    if not hasattr(start, "params"):
        # All 0, which no discount changes.
        start = jax.tree.map(jnp.ones_like, start)

    # What was drawn first decides what is drawn next: the replay is kept.
    train = one.agent.replay and jax.jit(kit.train(one.agent))

    def outcome(hp):
        learner, memory = start, kit.memory(one.agent, one.env.batch[1])
        for i in range(3):
            key = jax.random.fold_in(KEY, i)
            if train:
                args = (learner, memory, rollout, key, hp, jnp.int32(i))
                learner, memory, _ = train(*args)
            else:
                learner, _ = one.update(learner, rollout, key, hp)
        return learner, one.act(learner, carry, ts, KEY, hp)

    base = kit.changed(one.hp, **EXPLORING)
    assert not differs(outcome(base), outcome(base))
    dead = set()
    for leaf, value in hparams.flatten(base).items():
        value = REGIME.get(leaf, float(value))
        other = OTHER.get(leaf, 0.5 * value or 1.0)
        both = (kit.changed(base, **{leaf: x}) for x in (value, other))
        if not differs(*(outcome(hp) for hp in both)):
            dead.add(leaf)
    kind = getattr(kit.config(name, one.env.spec), "optimiser", None)
    unscaled = {"value_step_size", "value_std_min"} & set(hparams.names(one.hp))
    assert dead == UNREAD.get(kind, set()) | unscaled


@functools.cache
def on_probe(name, probe, kit):
    """Returns an agent on a probe, acting and learning in one program.

    ``play(learner, legal)`` returns (rollout, learner after, metrics); ``legal`` [M] are
    the choices that are not forbidden.
    """
    env, hp = kit.probe(probe), kit.quick(name)
    agent = kit.small(name, env.spec)
    root = random.roots(0, 1)[0]
    learner = agent.init(random.at(root, 0, random.INIT), hp)
    start = agent.carry(env.batch[1])

    def play(learner, legal):
        def allowed(ts):
            return ts._replace(action_mask=ts.action_mask & legal[None])

        def step(now, key):
            env_state, ts, carry = now
            action, carry, extras = agent.act(learner, carry, ts, key, hp)
            env_state, after = env.step(env_state, action[None], env.params)
            return (env_state, allowed(kit.member(after)), carry), (ts, action, extras)

        env_state, ts = env.reset(random.at(root, 0, random.ENV)[None], env.params)
        keys = jax.random.split(random.at(root, 0, random.ACT), kit.T)
        first = (env_state, allowed(kit.member(ts)), start)
        (_, end, _), (ts, action, extras) = jax.lax.scan(step, first, keys)
        ts = jax.tree.map(lambda x, y: jnp.concatenate([x, y[None]]), ts, end)
        rollout = types.Rollout(ts, action, extras, start)
        return rollout, *kit.learn(agent)(learner, rollout, KEY, hp)

    legal = jnp.ones(types.action_mask_size(env.spec.action), bool)
    return python_types.SimpleNamespace(
        agent=agent, learner=learner, legal=legal, play=jax.jit(play)
    )


@pytest.mark.parametrize("probe", list(SPACES))
def test_all_action_spaces_run(name, probe, kit):
    """Actions have the space's type and range, an update stays finite and learns.

    Or ``make`` refuses the space, for agents that say so.
    """
    if SPACES[probe] not in kit.info(name).actions:
        env = kit.probe(probe, labels=kit.info(name).reads_expert_labels)
        with pytest.raises(ValueError, match=f"action: {name} .*Discrete"):
            kit.small(name, env.spec)
        return
    one = on_probe(name, probe, kit)
    rollout, after, metrics = one.play(one.learner, one.legal)
    action = np.asarray(rollout.action)
    if probe == "both_box":
        assert action.dtype == np.float32 and action.shape == (kit.T, kit.SLOTS, 2)
        assert len(np.unique(action)) == action.size
    else:
        sizes = np.array([2, 3])
        assert action.dtype == np.int32
        assert action.shape == (kit.T, kit.SLOTS, 2)
        assert (action >= 0).all() and (action < sizes).all()
    assert tree.all_finite((after, metrics))
    assert differs(after, one.learner)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_illegal_actions_are_never_chosen(name, temperature, one, kit):
    """Also greedily, also where a network is sure of what it wants."""
    hp = kit.changed(one.hp, temperature=temperature)
    sure = jax.tree.map(lambda x: 10 * x, kit.fresh(one, 3))
    for learner in (one.learner, sure):
        rollout = kit.collect(one, learner=learner, hp=hp, steps=12)
        legal = np.asarray(rollout.ts.action_mask)[:-1]
        action = np.asarray(rollout.action)
        assert not legal.all(-1).any()
        assert np.take_along_axis(legal, action[..., None], -1).all()


def test_illegal_choices_of_a_group_are_never_chosen(name, kit):
    """A factorised action respects the mask of each of its groups."""
    if types.Factorised not in kit.info(name).actions:
        pytest.skip("refuses factorised actions")
    one = on_probe(name, "both_factorised", kit)
    rollout, *_ = one.play(one.learner, jnp.array([False, True, True, False, True]))
    action = np.asarray(rollout.action)
    assert set(np.unique(action[..., 0])) == {1}
    assert set(np.unique(action[..., 1])) == {0, 2}


def test_an_episodes_first_step_forgets_the_past(name, one, kit):
    """Where ``first`` is True the carry says nothing, in act and in update.

    Except to an agent that says that it learns across episodes: there it must.
    """
    ts = kit.member(one.rollout.ts)
    assert np.asarray(ts.first).all()
    fresh = one.agent.carry(one.env.batch[1])
    past = jax.tree.map(lambda x: x + jnp.ones_like(x), fresh)

    def act(carry, ts):
        return one.act(one.learner, carry, ts, KEY, one.hp)

    def update(carry):
        return one.update(one.learner, one.rollout._replace(carry=carry), KEY, one.hp)

    if kit.info(name).learns_across_episodes:
        assert differs(act(past, ts)[2], act(fresh, ts)[2])
    else:
        assert not differs(act(past, ts), act(fresh, ts))
    assert not differs(update(past), update(fresh))
    # And the test can fail: elsewhere the past matters to who has any.
    if jax.tree.leaves(fresh):
        later = ts._replace(first=jnp.zeros_like(ts.first))
        assert differs(act(past, later)[2], act(fresh, later)[2])


def test_what_it_watches_is_as_if_it_had_done_it(name, one, kit):
    """Its own action observed changes nothing, another one is what it then remembers."""
    observe_action = kit.info(name).observe_action
    if observe_action is None:
        pytest.skip("learns nothing from watching")
    ts = kit.member(one.rollout.ts)
    carry = one.agent.carry(one.env.batch[1])
    action, after, _ = one.act(one.learner, carry, ts, KEY, one.hp)
    assert not differs(observe_action(after, ts, action), after)
    shown = 1 - jnp.minimum(action, 1)
    watched = observe_action(after, ts, shown)
    assert described(watched) == described(after) and differs(watched, after)


def test_it_needs_what_acting_noted_down_only_if_it_says_so(name, one, kit):
    """With a dataset's extras an update can be traced, or the agent's INFO says not."""
    live = jnp.ones(one.rollout.action.shape[:2], bool)
    rollout = one.rollout._replace(extras=windows.Extras(live))
    args = (one.learner, rollout, KEY, one.hp)
    if kit.info(name).needs_extras:
        with pytest.raises(AttributeError, match="Extras"):
            jax.eval_shape(kit.learn(one.agent), *args)
    else:
        jax.eval_shape(kit.learn(one.agent), *args)


def test_labels_are_asked_for_by_those_who_say_that_they_read_them(name, kit):
    """Without labels ``make`` refuses, or the agent does without."""
    spec = kit.probe("both").spec
    if kit.info(name).reads_expert_labels:
        with pytest.raises(ValueError, match=f"obs: {name} .*'optimal'"):
            kit.small(name, spec)
    else:
        kit.small(name, spec)


def test_it_claims_probes_that_there_are(name, kit):
    """In spaces that it acts in; and says in a line what it is."""
    info = kit.info(name)
    assert set(info.learns) <= set(probes.names())
    for probe in info.learns:
        assert type(kit.probe(probe).spec.action) in info.actions
    assert info.summary and "\n" not in info.summary


@pytest.mark.parametrize("reward", [1e6, -1e6, 0.0])
def test_everything_stays_finite_at_extreme_rewards(name, reward, one):
    """Ten updates on rewards of a million, or none at all, leave no NaN behind."""
    ts, learner = one.rollout.ts, one.learner
    ts = ts._replace(reward=jnp.where(ts.first, 0.0, reward))
    for i in range(10):
        learner, metrics = one.update(
            learner, one.rollout._replace(ts=ts), jax.random.fold_in(KEY, i), one.hp
        )
        assert tree.all_finite((learner, metrics))


def test_the_action_sent_into_a_reset_teaches_nothing(name, one, kit):
    """The transition that crosses into a new episode is masked in every loss."""
    if not learns(one.learner):
        pytest.skip("learns in act; see the test of its first step")
    # Of two legal actions the other one, in the slots of a task that has two.
    crossing = np.asarray(one.rollout.ts.first)[1:]
    two = np.arange(crossing.shape[1]) < kit.SLOTS
    assert crossing[:, two].any() and not crossing[:, two].all()

    def learnt(changed):
        action = jnp.where(changed & two, 1 - one.rollout.action, one.rollout.action)
        rollout = one.rollout._replace(action=action)
        # Not as an input to the steps after it either: it led to a first step.
        return one.update(one.learner, rollout, KEY, one.hp)[0]

    untouched = learnt(np.zeros_like(crossing))
    assert not differs(untouched, learnt(crossing))
    assert differs(untouched, learnt(~crossing))


def test_padding_teaches_nothing(name, one, kit):
    """A task padded into a mixture learns what it learns alone: same update to 1e-5.

    The padded network cut down to the task's own inputs and actions is the solo
    network; what is cut away (inputs that are 0, actions that are illegal) is left at
    its initial values. Of a table, likewise: the rows where the padding is 0.
    """
    if not learns(one.learner):
        pytest.skip("has no parameters to pad")
    alone = kit.small(name, kit.probe("both").spec, "lstm")
    like = alone.init(KEY, one.hp)
    rollout = cut_slots(one.rollout, slice(0, kit.SLOTS))
    # Inputs: vector 1 of 2, the last action 2 of 3, the reward, maybe whether an episode
    # ended. Logits or values: 2 of 3, or 5 atoms each. Table: of 3 tasks the first, 3 of 3 values of the vector's
    # first entry, 0 of its second.
    inputs = [0, 2, 3, 5, 6]
    index = {
        (2, 1): [0],
        (15, 10): range(10),
        (15, 14): range(14),
        (6, 4): inputs[:4],
        (7, 5): inputs,
        (3, 2): [0, 1],
        (27, 3): [1, 4, 7],
    }

    def cut(x, like):
        return x[np.ix_(*kept(x, like))] if x.ndim else x

    def kept(x, like):
        sizes = zip(x.shape, like.shape)
        return [range(m) if m == n else index[m, n] for m, n in sizes]

    ts = rollout.ts._replace(
        obs={"vector": rollout.ts.obs["vector"][..., :1]},
        action_mask=rollout.ts.action_mask[..., :2],
    )
    after, metrics = one.update(one.learner, rollout, KEY, one.hp)
    small = jax.tree.map(cut, one.learner, like)
    assert_close(
        (jax.tree.map(cut, after, like), metrics),
        kit.updater(alone)(small, rollout._replace(ts=ts), KEY, one.hp),
    )
    old, new, like = (leaves(x) for x in (one.learner, after, like))
    wider = [path for path in old if old[path].shape != like[path].shape]
    assert len(wider) >= min(2, len(old) - 1)  # A table is but one.
    for path in wider:
        outside = np.ones(old[path].shape, bool)
        outside[np.ix_(*kept(old[path], like[path]))] = False
        np.testing.assert_array_equal(old[path][outside], new[path][outside], path)


def learns(learner):
    """Returns whether an update changes more than counters."""
    return any(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(learner))


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
