"""What every environment owes its users. A new one is a line in ``CASES``."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import envs, random, types
from mtrl_jax.engine import unchanging
from mtrl_jax.envs import probes

# One list per family of ENVS: (name without prefix, options). Short episodes, so that
# many end within STEPS.
CASES = {
    "probe": [
        (name, {})
        for name in probes.names()
        # The same code as "both" with less to see.
        if name != "observation" and not name.startswith("action")
    ],
    "gymnax": [
        ("CartPole-v1", {}),
        ("Pendulum-v1", {"max_steps_in_episode": 12}),
        ("MemoryChain-bsuite", {}),
        ("Catch-bsuite", {"wrappers": {"frame_stack": 3, "reward_scale": 0.5}}),
        ("Breakout-MinAtar", {}),
        ("SpaceInvaders-MinAtar", {"max_steps_in_episode": 15}),
    ],
    "envpool": [
        ("CartPole-v1", {}),
        ("CartPole-v1", {"wrappers": {"frame_stack": 2, "time_in_episode": True}}),
    ],
    "labyrinth": [
        ("seekavoid_arena_01", {"length": 15}),
        ("lasertag_three_opponents_small", {"length": 15, "actions": "small"}),
    ],
    "dark": [
        ("room", {"one_hot": True}),
        ("room_hard", {"task": "slot", "tasks": "train"}),
        ("room_hard", {"trial": 3, "length": 6, "size": 3}),
        ("room", {"wrappers": {"frame_stack": 2, "time_in_episode": True}}),
        ("key_to_door", {"length": 15, "has_key": True}),
    ],
    "bandit": [
        ("odd", {"pulls": 9}),
        ("uniform", {"pulls": 12, "task": "slot", "number": 50}),
    ],
}
BATCH = (2, 3)
STEPS = 60
SEED = 3


def _id(case):
    return f"{case[0]}/{case[1]}"


ALL = [(family, *case) for family, cases in CASES.items() for case in cases]
PURE = [case for case in ALL if case[0] != "envpool"]


def _cases(cases):
    """Returns parameters; of the labyrinth, whose programs are large, one by default."""
    slow = {("labyrinth", *case[:1]) for case in CASES["labyrinth"][1:]}
    return [
        pytest.param(x, marks=pytest.mark.slow if x[:2] in slow else ()) for x in cases
    ]


every_env = pytest.mark.parametrize("case", _cases(ALL), ids=_id)
every_pure_env = pytest.mark.parametrize("case", _cases(PURE), ids=_id)


def make(case, batch=BATCH):
    family, name, options = case
    if family == "envpool":
        pytest.importorskip("envpool")
    return envs.make(f"{family}/{name}", batch, options, seed=1)


@pytest.fixture(name="compiled", scope="module")
def _compiled(player):
    """One environment and one compiled random rollout per case."""

    @functools.cache
    def get(number):
        env = make(ALL[number])
        return env, player(env, STEPS)

    return lambda case: get(ALL.index(case))


@pytest.fixture(name="played", scope="module")
def _played(compiled):
    """Its result for SEED, shared by the tests that only look at it."""

    @functools.cache
    def get(number):
        env, run = compiled(ALL[number])
        return env, *run(SEED)

    return lambda case: get(ALL.index(case))


def test_every_family_has_a_case():
    """A family that is registered is held to the contract."""
    assert set(CASES) == set(envs.ENVS)


@every_env
def test_time_steps_have_the_shapes_and_types_of_the_spec(case, played):
    """An agent is built from the spec alone (and a scan needs stable types)."""
    env, ts, _, infos = played(case)
    lead = (STEPS + 1, *BATCH)
    got = {k: (v.shape, v.dtype) for k, v in ts.obs.items()}
    assert got == {k: ((*lead, *v.shape), v.dtype) for k, v in env.spec.obs.items()}
    for value, dtype in [
        (ts.reward, "float32"),
        (ts.discount, "float32"),
        (ts.first, "bool"),
        (ts.last, "bool"),
        (ts.task, "int32"),
    ]:
        assert (value.shape, value.dtype) == (lead, dtype)
    size = types.action_mask_size(env.spec.action)
    assert (ts.action_mask.shape, ts.action_mask.dtype) == ((*lead, size), "bool")
    assert all(x.shape[1:] == BATCH and x.dtype == "float32" for x in infos.values())
    assert set(env.spec.obs) <= {"vector", "image"}
    named = {name for task in env.spec.tasks for name in task.measures}
    assert set(infos) == named, "PBT finds a measure by the spec's names"


@every_env
def test_what_the_spec_says_never_changes_is_so(case, played):
    """The engine takes task and legal actions from the spec, not from the steps."""
    env, ts, *_ = played(case)
    found = unchanging.known(env.spec, ts)
    np.testing.assert_array_equal(found.task, ts.task)
    np.testing.assert_array_equal(found.action_mask, ts.action_mask)


@every_env
def test_first_follows_last_and_nothing_else(case, played):
    """Autoreset is next-step: a slot starts again in the step after its last."""
    _, ts, *_ = played(case)
    assert ts.last.any(), "no episode ended, the case shows nothing"
    assert ts.first[0].all()
    np.testing.assert_array_equal(ts.first[1:], ts.last[:-1])
    assert not (ts.first & ts.last).any()


@every_env
def test_a_first_step_has_reward_zero_and_discount_one(case, played):
    """What led to a first step belongs to no episode."""
    _, ts, *_ = played(case)
    np.testing.assert_array_equal(ts.reward[ts.first], 0.0)
    np.testing.assert_array_equal(ts.discount[ts.first], 1.0)


@every_env
def test_the_discount_is_zero_only_at_the_end_of_an_episode(case, played):
    """Values go on after every other step, and after truncation."""
    _, ts, *_ = played(case)
    assert set(np.unique(ts.discount)) <= {0.0, 1.0}
    assert ts.last[ts.discount == 0.0].all()


@every_env
def test_numbers_are_finite_and_some_action_is_legal(case, played):
    """A policy that masks its logits needs at least one legal choice."""
    env, ts, *_ = played(case)
    for leaf in (ts.reward, *ts.obs.values()):
        assert np.isfinite(leaf.astype(np.float32)).all()
    start = 0
    for size in types.groups(env.spec.action):
        assert ts.action_mask[..., start : start + size].any(-1).all()
        start += size


@every_pure_env
def test_a_stream_is_decided_by_its_key(case, compiled, played):
    """The same key gives the same stream, another key another one."""
    _, ts, *_ = played(case)
    _, run = compiled(case)
    jax.tree.map(np.testing.assert_array_equal, ts, run(SEED)[0])
    other = run(SEED + 1)[0]
    draws_nothing = case[1] in ("constant", "delayed")
    same = jax.tree.map(np.array_equal, (ts.obs, ts.reward), (other.obs, other.reward))
    assert all(jax.tree.leaves(same)) == draws_nothing


# The first of a family; the others compile once more in `make test-all`. Slots of the
# labyrinth are compared with unbatched functions in its own tests.
@pytest.mark.parametrize(
    "case",
    [
        x
        if x[1:] == CASES[x[0]][0] and x[0] != "labyrinth"
        else pytest.param(x, marks=pytest.mark.slow)
        for x in PURE
    ],
    ids=_id,
)
def test_a_slot_does_not_depend_on_how_many_others_there_are(case, played, play):
    """Slot b of member p is fold_in(key[p], b), whatever the batch; slots differ."""
    _, ts, *_ = played(case)
    fewer, *_ = play(make(case, (1, 2)), STEPS, SEED)

    def compare(x, y):
        np.testing.assert_allclose(x[:, :1, :2], y, rtol=1e-5, atol=1e-6)

    jax.tree.map(compare, ts, fewer)


@every_pure_env
def test_an_action_out_of_range_does_not_poison_the_state(case, compiled):
    """NaN, infinities and indices out of range become legal actions."""
    env, run = compiled(case)
    is_box = isinstance(env.spec.action, types.Box)
    bad = [np.nan, np.inf, -np.inf] if is_box else [-7, 10**6]
    shape = types.action_shape(env.spec.action)
    values = np.resize(np.array(bad, shape.dtype), STEPS)
    values = values.reshape(-1, *(1,) * (2 + len(shape.shape)))
    ts, *_ = run(0, None, np.broadcast_to(values, (STEPS, *BATCH, *shape.shape)))
    for leaf in (ts.reward, *ts.obs.values()):
        assert np.isfinite(leaf.astype(np.float32)).all()


@pytest.mark.parametrize("name", ["probe/memory", "gymnax/SpaceInvaders-MinAtar"])
def test_state_and_time_step_can_both_be_donated(name):
    """A runner donates what it carries: no two leaves are one buffer, none the params.

    Eagerly, because there functions hand their inputs through (SpaceInvaders keeps one
    of its params in its state).
    """
    env = envs.make(name, BATCH)
    carried = env.reset(random.roots(0, BATCH[0]), env.params)
    consume = jax.jit(lambda tree: jax.tree.map(jnp.copy, tree), donate_argnums=0)
    state, _ = consume(carried)
    action = jnp.zeros(BATCH, jnp.int32)
    consume(env.step(state, action, env.params))
    assert not any(x.is_deleted() for x in jax.tree.leaves(env.params))


@pytest.mark.slow
def test_every_gymnax_task_can_be_played(play):
    """All that gymnax registers keep their types and stay finite, not just the cases."""
    for name in envs.ENVS["gymnax"].names():
        ts, *_ = play(envs.make(f"gymnax/{name}", (1, 4)), 300)
        for leaf in (ts.reward, *ts.obs.values()):
            assert np.isfinite(leaf.astype(np.float32)).all(), name
        np.testing.assert_array_equal(ts.first[1:], ts.last[:-1], err_msg=name)
