"""What every agent promises; a new line in AGENTS is tested without a line here.

So is an agent from outside the package, ``tests/outside/reinforce.py``.

An agent's tests share what is compiled for it and run in one process: three programs of
a recurrent network on a mixture of probes (``programs.py``), and one without padding.
"""

import collections
import dataclasses
import functools
import operator

import compiling
import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest

from mtrl_jax import checkpoint, hparams, types
from mtrl_jax.data import replay, windows
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
# What bites only with windows that have a prompt.
ELSEWHERE = {"prompt_share"}
# Programs of one agent in these tests: the three, and one without padding.
MOST_PROGRAMS = 4
pytestmark = pytest.mark.parametrize("name", programs.NAMES)


@pytest.fixture(autouse=True, scope="module")
def _compiled(kit):
    """Programs by agent; an agent of more than MOST_PROGRAMS is an error in the end."""
    # What is made for all of them is nobody's.
    for labels in (False, True):
        env, _ = programs.stream(kit, labels)
    for probe in probes.names():
        kit.probe(probe)
    kit.probe("both", batch=(1, env.batch[1]))
    found = collections.Counter()
    yield found
    over = {name: n for name, n in found.items() if n > MOST_PROGRAMS}
    assert not over, f"more than {MOST_PROGRAMS} programs of an agent: {over}"


@pytest.fixture(autouse=True)
def _counted(name, _compiled):
    """Put what the test compiles on its agent's account."""
    before = compiling.TALLY.total
    yield
    _compiled[name] += compiling.TALLY.total - before


@pytest.fixture(name="one")
def _one(name, kit):
    """The agent on the mixture of probes, with a memory where it has a network."""
    return programs.make(name, kit)


def test_a_population_member_is_its_solo_run(name, one, kit):
    """vmap over members changes nothing but rounding: every leaf to 1e-5."""
    known, members = hparams.names(one.hp), range(programs.MEMBERS)
    leaf = "learning_rate" if "learning_rate" in known else known[0]
    rates = [1e-3, 3e-3, 1e-2] + [1e-3] * (programs.MEMBERS - 3)
    hps = [programs.changed(kit, one.hp, **{leaf: x}) for x in rates]
    learners = [programs.fresh(one, p) for p in members]
    _, ts = programs.stream(kit, types.OPTIMAL in one.env.spec.obs)
    rollouts = [
        programs.collect(one, kit, kit.member(swapped(ts), p), learner=x, seed=p)
        for p, x in enumerate(learners)
    ]
    _, acted, updated, _ = jax.device_get(
        one.members(
            programs.stack(learners), *repeated((one.carry, one.memory)),
            jax.tree.map(lambda x: x[:-1], ts), programs.stack_rollouts(rollouts),
            np.arange(len(members)), programs.stack(hps), np.int32(0),
        )
    )  # fmt: skip
    for p in range(3):
        own = programs.run(
            one, learner=learners[p], ts=jax.tree.map(lambda x, p=p: x[:-1, p], ts),
            rollout=rollouts[p], seed=p, hp=hps[p],
        )  # fmt: skip
        assert_close(kit.member(updated, p), own.updated)
        assert_close(kit.member(swapped(acted), p), own.acted)


def test_one_trace_serves_all_calls_and_all_hyperparameters(name, one):
    """PBT may change any leaf of Hparams without another program."""
    # As they leave the programs: numpy arrays would hide a type that is weak.
    learner, carry, memory = one.init(np.int32(0), one.hp)
    halved = jax.tree.map(lambda x: np.float32(0.5) * x + np.float32(0.1), one.hp)
    rollout, compiled = one.rollout._replace(carry=carry), None
    for i, hp in enumerate((one.hp, one.hp, halved)):
        seed, step = np.int32(programs.SEED), np.int32(i)
        carry, _, updated, _ = one.solo(
            learner, carry, memory, one.ts, rollout, seed, hp, step
        )
        learner, memory, _ = updated
        found = dict(one.traces), one.solo._cache_size()
        compiled = compiled or found
    assert found == compiled and min(one.traces.values()) >= 1


def test_updates_keep_the_structure_and_types_of_the_learner(name, one):
    """A learner that changes shape or dtype cannot be scanned, donated or restored."""
    after, memory, metrics = programs.update(one)
    assert described(after) == described(one.learner)
    assert described(memory) == described(one.memory)
    assert metrics and set(described(metrics).values()) == {((), "float32")}


def test_what_is_restored_goes_on_with_the_same_bits(name, one, tmp_path):
    """Learner, carry and replay of two updates, saved and restored by abstract tree.

    Of a whole run in a new process: tests/experiments/test_resume_agents.py.
    """
    kept = one.init(np.int32(0), one.hp)

    def advance(step, learner, carry, memory):
        given = {"learner": learner, "carry": carry, "memory": memory, "step": step}
        found = one.solo(*programs.arguments(one, given))
        learner, memory, metrics = found.updated
        return (learner, found.carry, memory), (found.acted, metrics)

    for step in range(2):
        kept, _ = advance(step, *kept)
    manager = checkpoint.open_manager(tmp_path / "kept", keep=1)
    checkpoint.save(manager, 2, kept, {})
    _, found, _ = checkpoint.restore(manager, checkpoint.abstract(kept))
    checkpoint.close(manager)
    # Both as arrays of the host, which need no other program.
    kept, found = jax.device_get((kept, found))
    assert bits(found) == bits(kept)
    for step in range(2, 4):
        kept, given = advance(step, *kept)
        found, also = advance(step, *found)
        assert bits((found, also)) == bits((kept, given))


def test_different_seeds_differ_in_every_drawn_leaf_and_in_actions(name, one, kit):
    """A population whose members start equal explores nothing."""
    x, y = (leaves(programs.fresh(one, seed)) for seed in (0, 1))
    # Constants such as zero biases are the same by design: they have 2 values at most.
    drawn = [path for path in x if len(np.unique(x[path])) > 2]
    # At least a torso's and a head's.
    assert len(drawn) >= (2 if hasattr(one.learner, "params") else 0)
    for path in drawn:
        assert not np.isclose(x[path], y[path]).any(), path
    hp = programs.changed(kit, one.hp, epsilon_start=1.0)
    first, second = (programs.act(one, seed=seed, hp=hp)[0][0] for seed in (0, 1))
    assert (first != second).any()


@pytest.mark.parametrize("is_jitted", [False, True])
def test_nothing_in_a_fresh_learner_aliases(name, is_jitted, one):
    """A buffer that is there twice cannot be donated, and a target net would follow."""
    if is_jitted:
        found = jax.tree.leaves(one.init(np.int32(0), one.hp)[:2])
        found = [leaf.unsafe_buffer_pointer() for leaf in found]
    else:
        # Not compiled, two leaves share a buffer where one array is returned twice.
        key, slots = jax.eval_shape(jax.random.key, 0), one.env.batch[1]
        traced = jax.make_jaxpr(
            lambda key, hp: (one.agent.init(key, hp), one.agent.carry(slots))
        )
        found = [id(x) for x in traced(key, one.hp).jaxpr.outvars]
    assert len(set(found)) == len(found)


def test_no_hyperparameter_is_dead(name, one, kit):
    """In a regime where it bites, each leaf changes what act and three updates give.

    Except those that the agent says are idle, which have tests of their own (test_idle).
    """
    # Experience of another, sharper policy, so that ratios are not 1.
    other = jax.tree.map(lambda x: 3 * x, programs.fresh(one, 9))
    rollout = programs.collect(one, kit, learner=other)
    start = one.learner
    if not hasattr(start, "params"):
        # All 0, which no discount changes.
        start = jax.tree.map(np.ones_like, start)
    fixed = repeated((one.carry, one.memory, start))
    ts = jax.tree.map(lambda x: np.stack([x] * programs.MEMBERS, 1), one.ts)
    rollouts = programs.stack_rollouts([rollout] * programs.MEMBERS)

    def outcomes(hps):
        """Returns what each member gives, of up to MEMBERS."""
        hp = programs.stack(hps + [base] * (programs.MEMBERS - len(hps)))
        carry, memory, learner = fixed
        for i in range(4):
            seed = np.full(programs.MEMBERS, i)
            found = one.members(
                learner, carry, memory, ts, rollouts, seed, hp, np.int32(i)
            )
            given, (learner, memory, _) = learner, found.updated
        # The fourth acted on what three updates gave.
        given, acted = jax.device_get((given, found.acted))
        return given, swapped(acted)

    base, dead = programs.changed(kit, one.hp, **EXPLORING), set()
    assert not differs(outcomes([base]), outcomes([base]))
    values = hparams.flatten(base)
    before = {leaf: REGIME.get(leaf, float(x)) for leaf, x in values.items()}
    after = {leaf: OTHER.get(leaf, 0.5 * x or 1.0) for leaf, x in before.items()}
    for i in range(0, len(values), programs.MEMBERS):
        some = list(values)[i : i + programs.MEMBERS]
        # The same member with either value: rounding may differ between members.
        found, changed = (
            outcomes(
                [programs.changed(kit, base, **{leaf: given[leaf]}) for leaf in some]
            )
            for given in (before, after)
        )
        for p, leaf in enumerate(some):
            if not differs(kit.member(found, p), kit.member(changed, p)):
                dead.add(leaf)
    idle = set(kit.info(name).idle(kit.config(name, one.env.spec)))
    assert dead == idle | (ELSEWHERE & set(hparams.names(one.hp)))


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
def test_illegal_actions_are_never_chosen(name, temperature, one, kit):
    """Also greedily, also where a network is sure of what it wants."""
    hp = programs.changed(kit, one.hp, temperature=temperature)
    sure = jax.tree.map(lambda x: 10 * x, programs.fresh(one, 3))
    legal = one.ts.action_mask
    assert not legal.all(-1).any()
    for learner in (one.learner, sure):
        action, *_ = programs.act(one, learner=learner, hp=hp)
        assert np.take_along_axis(legal, action[..., None], -1).all()


def test_an_episodes_first_step_forgets_the_past(name, one, kit):
    """Where ``first`` is True the carry says nothing, in act and in update.

    Except to an agent that says that it learns across episodes: there it must, but with
    ``across`` 0 where it has that.
    """
    assert one.ts.first[0].all()
    past = jax.tree.map(lambda x: x + np.ones_like(x), one.carry)

    def begin(carry, ts=one.ts):
        rollout = one.rollout._replace(carry=carry)
        found = programs.run(one, carry=carry, ts=ts, rollout=rollout)
        return kit.member(found.acted), found.updated

    (with_past, updated), (without, as_updated) = begin(past), begin(one.carry)
    if kit.info(name).learns_across_episodes:
        assert differs(with_past[2], without[2])
    else:
        assert not differs(with_past, without)
    assert not differs(updated, as_updated)
    if "across" in hparams.names(one.hp):
        lived = programs.run(one).carry
        alone = programs.changed(kit, one.hp, across=0.0)
        for hp, knows in ((alone, False), (one.hp, True)):
            x, y = (programs.act(one, carry=c, hp=hp) for c in (lived, one.carry))
            # The first action and what is noted of it.
            assert differs((x[0][0], x[2][0]), (y[0][0], y[2][0])) == knows
    # And the test can fail: elsewhere the past matters to who has any.
    if jax.tree.leaves(one.carry):
        later = one.ts._replace(first=np.zeros_like(one.ts.first))
        (_, _, noted), _ = begin(past, later)
        assert differs(noted, begin(one.carry, later)[0][2])


def test_what_it_watches_is_as_if_it_had_done_it(name, one, kit):
    """Its own action observed changes nothing, another one is what it then remembers."""
    if kit.info(name).observe_action is None:
        pytest.skip("learns nothing from watching")
    found = programs.run(one)
    _, after, _ = kit.member(found.acted)
    own, other = found.watched
    assert not differs(own, after)
    assert described(other) == described(after) and differs(other, after)


def test_it_needs_what_acting_noted_down_only_if_it_says_so(name, one, kit):
    """With a dataset's extras an update can be traced, or the agent's INFO says not."""
    live = np.ones(one.rollout.action.shape[:2], bool)
    rollout = one.rollout._replace(extras=windows.Extras(live))
    key = jax.eval_shape(jax.random.key, 0)
    args = (one.learner, rollout, key, one.hp)
    if kit.info(name).needs_extras:
        with pytest.raises(AttributeError, match="Extras"):
            jax.eval_shape(kit.learn(one.agent), *args)
    elif kit.info(name).reads_recorded:
        with pytest.raises(ValueError, match="recorded nothing; collect with record"):
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


def test_what_it_says_of_its_replay_is_so(name, one, kit):
    """Twice the named capacity takes twice the bytes; who waits says by which fields."""
    info, spec = kit.info(name), one.env.spec
    assert (info.capacity is None) == (one.agent.replay is None)
    config, slots = kit.config(name, spec, "lstm"), one.env.batch[1]
    for field in info.waits(config):
        operator.attrgetter(field)(config)
    if info.capacity is not None:
        *path, field = info.capacity.split(".")
        inner = operator.attrgetter(path[0])(config) if path else config
        larger = dataclasses.replace(inner, **{field: 2 * getattr(inner, field)})
        if path:
            larger = dataclasses.replace(config, **{path[0]: larger})
        made = kit.agent(name, spec._replace(slot_tasks=()), larger)
        before, after = (
            replay.bytes_of(agent.replay, slots) for agent in (one.agent, made)
        )
        assert 1.8 < after / before < 2.2


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
    ts, learner, memory = one.rollout.ts, one.learner, one.memory
    reward = np.where(ts.first, np.float32(0), np.float32(reward))
    rollout = one.rollout._replace(ts=ts._replace(reward=reward))
    for i in range(10):
        learner, memory, metrics = programs.update(
            one, learner=learner, memory=memory, rollout=rollout, seed=i,
            step=i,
        )  # fmt: skip
        assert programs.all_finite((learner, memory, metrics))


def test_the_action_sent_into_a_reset_teaches_nothing(name, one, kit):
    """The transition that crosses into a new episode is masked in every loss."""
    if not learns(one.learner):
        pytest.skip("learns in act; see the test of its first step")
    # Of two legal actions the other one, in the slots of tasks that have two: one step
    # an episode, or several, where an action may be an input to the next step alone.
    crossing = one.rollout.ts.first[1:]
    two = (one.rollout.ts.action_mask == np.array([True, True, False])).all((0, 2))
    assert two[: kit.SLOTS].all() and two.sum() > kit.SLOTS
    assert crossing[:, two].any() and not crossing[:, two].all()

    def learnt(changed):
        action = np.where(changed & two, 1 - one.rollout.action, one.rollout.action)
        rollout = one.rollout._replace(action=action)
        # Not as an input to the steps after it either: it led to a first step.
        return programs.update(one, rollout=rollout)[0]

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
    slots = one.env.batch[1]
    alone = kit.small(name, kit.probe("both", batch=(1, slots)).spec, "lstm")
    like, *_ = jax.eval_shape(
        functools.partial(programs.begin, alone, slots), programs.SEED, one.hp
    )
    # As many slots as the mixture has, all of its first task.
    _, ts = programs.stream(kit, types.OPTIMAL in one.env.spec.obs)
    own = [kit.member(swapped(ts), p) for p in range(slots // kit.SLOTS)]
    own = [jax.tree.map(lambda x: x[:, : kit.SLOTS], x) for x in own]
    ts = jax.tree.map(lambda *xs: np.concatenate(xs, 1), *own)
    assert not ts.task.any()
    rollout = programs.collect(one, kit, ts)
    # Inputs: vector 1 of 2, the last action 2 of 3, the reward, maybe whether an episode
    # ended. Logits or values: 2 of 3, or 5 atoms each, or
    # for each of 8 units. Table: of 3 tasks the first, 3 of 3 values of the vector's
    # first entry, 0 of its second. Networks: of 3 tasks the first's.
    inputs = [0, 2, 3, 5, 6]
    index = {
        (2, 1): [0],
        (15, 10): range(10),
        (15, 14): range(14),
        (6, 4): inputs[:4],
        (7, 5): inputs,
        (3, 2): [0, 1],
        (11, 10): range(10),
        (3, 1): [0],
        (6, 2): [0, 1],
        (27, 3): [1, 4, 7],
        (24, 16): [3 * unit + action for unit in range(8) for action in (0, 1)],
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
    after, _, metrics = programs.update(one, rollout=rollout)
    small = jax.tree.map(cut, one.learner, like)
    # What acting noted down of each action.
    extras = jax.tree.map(lambda x: x[..., :2] if x.ndim == 3 else x, rollout.extras)

    @jax.jit
    def update(learner, rollout):
        key = jax.random.key(programs.SEED)
        return kit.learn(alone)(learner, rollout, key, one.hp)

    assert_close(
        (jax.tree.map(cut, after, like), metrics),
        update(small, rollout._replace(ts=ts, extras=extras)),
    )
    old, new, like = leaves(one.learner), leaves(after), paths(like)
    wider = [path for path in old if old[path].shape != like[path].shape]
    assert len(wider) >= min(2, len(old) - 1)  # A table is but one.
    for path in wider:
        outside = np.ones(old[path].shape, bool)
        outside[np.ix_(*kept(old[path], like[path]))] = False
        np.testing.assert_array_equal(old[path][outside], new[path][outside], path)


def learns(learner):
    """Returns whether an update changes more than counters."""
    return any(jnp.issubdtype(x.dtype, jnp.floating) for x in jax.tree.leaves(learner))


def repeated(x):
    """Returns a tree for all members."""
    return programs.stack([x] * programs.MEMBERS)


def swapped(x):
    """Returns a tree of [P, T, ...] for [T, P, ...]."""
    return jax.tree.map(lambda leaf: np.swapaxes(leaf, 0, 1), x)


def paths(x):
    """Returns {path: leaf}."""
    found, _ = jax.tree_util.tree_flatten_with_path(x)
    return {jax.tree_util.keystr(path): leaf for path, leaf in found}


def leaves(x):
    """Returns {path: numpy array}."""
    return {path: np.asarray(leaf) for path, leaf in paths(x).items()}


def described(x):
    """Returns {path: (shape, dtype)}."""
    return {path: (x.shape, x.dtype.name) for path, x in leaves(x).items()}


def bits(x):
    """Returns {path: (dtype, shape, bytes)}."""
    found = leaves(x).items()
    return {path: (a.dtype.name, a.shape, a.tobytes()) for path, a in found}


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
