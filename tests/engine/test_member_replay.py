"""A replay stays with its member: in place, seen by nobody else, saved with the run."""

import types as namespaces
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import replay_probe as probe

from mtrl_jax import checkpoint, envs, random, tree
from mtrl_jax.config import schema
from mtrl_jax.engine import context_runner, fused_runner, host_runner, pbt, sharding
from mtrl_jax.envs import mixture
from mtrl_jax.experiments import environments, selection

P, T, K = 4, 4, 3
SLOTS = 2  # of each of two tasks
# A float32 row of 4 slots is 16 kB: 64 MB of rows.
ROWS, WIDTH = 4096, 1024
LARGE = ROWS * 2 * SLOTS * WIDTH * 4


class Run(NamedTuple):
    """What there is to run: init, chunk, and the hyperparameters of every member."""

    env: object
    agent: object
    runner: fused_runner.Runner
    hp: probe.Hparams

    def start(self):
        return jax.jit(self.runner.init)(random.roots(0, P), self.hp)


def make(tiny, rows=32, width=8, agent=None, **options):
    """Returns the Run of a small mixture; a ring of 32 rows is full after 8 updates."""
    env = tiny.env(P, SLOTS)
    agent = (agent or probe.make)(env.spec, rows, width)
    runner = fused_runner.make(
        agent, env, unroll_length=T, **{"updates_per_chunk": K} | options
    )
    rates = jnp.linspace(0.05, 0.2, P)
    return Run(env, agent, runner, probe.Hparams(rates))


def temporaries(run, chunk=None):
    """Returns the bytes of a compiled chunk's temporaries; nothing is allocated."""
    state = jax.eval_shape(run.runner.init, random.roots(0, P), run.hp)
    jitted = jax.jit(chunk or run.runner.chunk, donate_argnums=0)
    analysis = jitted.lower(state, run.hp).compile().memory_analysis()
    return analysis.temp_size_in_bytes


def carried(spec, rows, width):
    """Returns the probe with its replay in the learner, where it must not be."""
    agent = probe.make(spec, rows, width)
    kept = agent.replay

    def init(key, hp):
        return {"own": agent.init(key, hp), "memory": kept.init(2 * SLOTS)}

    def act(learner, *rest):
        return agent.act(learner["own"], *rest)

    def update(learner, rollout, key, hp, step):
        memory, batch = kept.observe(learner["memory"], rollout, key, hp, step)
        own, metrics, found = agent.update(learner["own"], batch, key, hp, step)
        return {"own": own, "memory": kept.feedback(memory, found)}, metrics, ()

    return agent._replace(init=init, act=act, update=update, replay=None)


@pytest.mark.parametrize("at_once", [1, 2, None])
def test_a_chunk_copies_no_replay(at_once, tiny):
    """64 MB a member, four members, in turn or together: all temporaries are smaller
    than one of them."""
    run = make(tiny, ROWS, WIDTH, at_once=at_once)
    shapes = jax.eval_shape(run.runner.init, random.roots(0, P), run.hp)
    assert shapes.memory.rows.size * 4 == P * LARGE == P * 2**26
    assert temporaries(run) < LARGE / 8


def test_a_replay_that_members_in_turn_carry_is_copied(tiny):
    """What the test before would say if the memory were a part of the learner."""
    run = make(tiny, ROWS, WIDTH, agent=carried, at_once=1)
    assert temporaries(run) > LARGE


@pytest.fixture(name="together", scope="module")
def _together(tiny):
    """The run of all members together, and its states after 0 … 4 chunks."""
    run = make(tiny)
    states, chunk = [run.start()], jax.jit(run.runner.chunk)
    for _ in range(4):
        states.append(chunk(states[-1], run.hp)[0])
    return run, states


@pytest.mark.parametrize("at_once", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_members_in_turn_have_the_memories_and_learners_of_members_together(
    at_once, tiny, together
):
    """The batch reaches the member that it was drawn for, and so does its feedback."""
    run, (state, *_, expected) = make(tiny, at_once=at_once), together[1]
    chunk = jax.jit(run.runner.chunk)
    for _ in range(4):
        state, _ = chunk(state, run.hp)
    x, y = tiny.leaves(state), tiny.leaves(expected)
    for path in x:
        np.testing.assert_allclose(x[path], y[path], 1e-5, 1e-5, err_msg=path)
    assert (np.asarray(state.memory.error) > 0).any(axis=(1, 2)).all()


def test_an_update_is_observe_then_learn_then_feedback(tiny, together):
    """By hand, for one member: the rollout is in the memory before it is drawn from."""
    run, states = together
    before = states[1]
    step = int(before.step)
    one = make(tiny, updates_per_chunk=1)
    after, _ = jax.jit(one.runner.chunk)(before, one.hp)
    # The steps of the update, given out.
    recording = make(tiny, updates_per_chunk=1, record=True)
    _, out = jax.jit(recording.runner.chunk)(before, one.hp)
    agent, p = run.agent, 2
    mine = lambda x: jax.tree.map(lambda x: x[p], x)  # noqa: E731
    rollout = jax.tree.map(lambda x: x[:, p], out.history)
    key, hp = before.key[p], mine(run.hp)
    memory, batch = agent.replay.observe(
        mine(before.memory), rollout, random.at(key, step, random.REPLAY), hp, step
    )
    learner, _, found = agent.update(
        mine(before.learner), batch, random.at(key, step, random.UPDATE), hp, step
    )
    memory = agent.replay.feedback(memory, found)
    x, y = (
        tiny.leaves((learner, memory)),
        tiny.leaves(mine((after.learner, after.memory))),
    )
    for path in x:
        np.testing.assert_allclose(x[path], y[path], 1e-5, 1e-6, err_msg=path)
    assert (learner["key"] != memory.key).any()
    newest = mine(after.memory).rows[step * T : (step + 1) * T, :, -1]
    np.testing.assert_array_equal(newest, rollout.ts.reward[1:])


def test_an_emptied_memory_is_filled_and_waited_for_as_at_the_start(tiny, together):
    """Rows go where those of a new run go, and nothing is learned before WARM_UP."""
    run, states = together
    before, fresh = states[2], run.start()
    emptied = before._replace(memory=fresh.memory, emptied=before.step)
    after, _ = jax.jit(run.runner.chunk)(emptied, run.hp)
    trained = np.asarray(after.learner["trained"] - before.learner["trained"])
    np.testing.assert_array_equal(trained, np.full(P, K - probe.WARM_UP))
    rows = np.abs(np.asarray(after.memory.rows)).sum(axis=(2, 3))
    assert rows.shape[1] > K * T and (rows[:, : K * T] > 0).all()
    assert not rows[:, K * T :].any()
    # Drawn with keys of their own, not those of the first updates again.
    first, _ = jax.jit(run.runner.chunk)(fresh, run.hp)
    assert (np.asarray(first.memory.key) != np.asarray(after.memory.key)).any()


def test_a_full_ring_holds_the_newest_rows(tiny, together):
    """Twelve updates of four rows in a ring of 32: the first four updates are gone."""
    run, states = together
    final = states[-1]
    assert int(final.step) == 4 * K == 12
    recording = make(tiny, updates_per_chunk=12, record=True)
    _, out = jax.jit(recording.runner.chunk)(states[0], run.hp)
    reward = np.asarray(out.history.ts.reward)[1:].swapaxes(0, 1)  # [P, 48, B]
    rows = np.asarray(final.memory.rows)[..., -1]
    np.testing.assert_array_equal(rows[:, :16], reward[:, 32:])
    np.testing.assert_array_equal(rows[:, 16:], reward[:, 16:32])


@pytest.mark.parametrize("at_once", [1, pytest.param(None, marks=pytest.mark.slow)])
def test_step_is_one_number_so_that_a_cond_on_it_stays_a_branch(at_once, tiny):
    """In warm-up nothing is learned, and nothing is computed either."""
    run = make(tiny, at_once=at_once)
    state = jax.eval_shape(run.runner.init, random.roots(0, P), run.hp)
    lowered = jax.jit(run.runner.chunk).lower(state, run.hp)
    assert " conditional(" in lowered.compile().as_text()
    # By contrast: a number of each member's own makes it a select.
    batched = jax.vmap(run.agent.update, (0, 0, 0, 0, 0))
    rows = jnp.zeros((P, probe.DRAWS), jnp.int32)
    batch = probe.Batch(jnp.zeros((P, probe.DRAWS, 8)), rows, rows)
    given = (state.learner, batch, state.key, run.hp)
    steps = jax.ShapeDtypeStruct((P,), jnp.int32)
    text = jax.jit(batched).lower(*given, steps).compile().as_text()
    assert " conditional(" not in text


def test_nothing_is_learned_in_warm_up(together):
    """The updates that learned are those after WARM_UP, of every member."""
    _, states = together
    for chunks, state in enumerate(states):
        expected = max(0, chunks * K - probe.WARM_UP)
        np.testing.assert_array_equal(state.learner["trained"], [expected] * P)


def settings(size=P):
    """Returns a population of which the worst quarter copies the best."""
    return schema.PopulationConfig(
        size=size, pbt=pbt.PbtConfig(min_episodes=0, explore="none")
    )


def make_pbt_step():
    def fitness_fn(state, evaluation, finite):
        score = jnp.arange(P, dtype=jnp.float32)
        return pbt.Fitness(score, finite, jnp.full(P, 100, jnp.int32))

    return selection.pbt_step_of(settings(), fitness_fn, lambda state, *_: state)


def test_pbt_copies_learners_and_no_byte_of_a_memory(tiny, together):
    """Member 0 goes on with the learner of member 3, its own memory, key and slots."""
    run, states = together
    before = states[-1]
    after, _, _, record = jax.jit(make_pbt_step())(before, run.hp, pbt.init(P), None)
    np.testing.assert_array_equal(record.source, [3, 1, 2, 3])
    expected = tree.take(before.learner, record.source)
    assert not tiny.differs(after.learner, expected)
    assert tiny.differs(after.learner, before.learner)
    rest = lambda state: state._replace(learner=())  # noqa: E731
    assert not tiny.differs(rest(after), rest(before))


def test_a_round_of_pbt_moves_no_memory(tiny):
    """Donated, the four of 64 MB stay where they are."""
    run = make(tiny, ROWS, WIDTH)
    state = jax.eval_shape(run.runner.init, random.roots(0, P), run.hp)
    jitted = jax.jit(make_pbt_step(), donate_argnums=0)
    compiled = jitted.lower(state, run.hp, pbt.init(P), None).compile()
    analysis = compiled.memory_analysis()
    assert analysis.temp_size_in_bytes < LARGE / 8
    assert analysis.alias_size_in_bytes >= P * LARGE


def test_evaluating_takes_no_memory(tiny, together):
    """The same numbers where there is none to be had."""
    run, states = together
    config = namespaces.SimpleNamespace(evaluation=schema.EvaluationConfig(max_steps=6))
    test = tiny.env(P, 3)
    both = environments.World(
        "fused", run.env, test, test.spec, test.batch, True, lambda: None
    )
    evaluate = selection.make_evaluate(config, run.agent, both)
    result = evaluate(states[-1], run.hp)
    assert np.asarray(result.complete).all()
    without = states[-1]._replace(memory=object())
    assert not tiny.differs(result, evaluate(without, run.hp))


def test_frozen_weights_have_no_memory(tiny, together):
    """In context the learner is all there is."""
    run, states = together
    runner = context_runner.make(run.agent, run.env, episodes=2, steps_per_chunk=6)
    state = jax.jit(runner.init)(states[0].key, states[-1].learner)
    after, _ = jax.jit(runner.chunk)(state, run.hp)
    assert "memory" not in context_runner.ContextState._fields
    assert not tiny.differs(after.learner, states[-1].learner)


def test_a_run_with_a_memory_is_resumed_bit_for_bit(tiny, together, tmp_path):
    """Saved after two chunks and read into a fresh state, it goes on as it would have."""
    run, states = together
    manager = checkpoint.open_manager(tmp_path, keep=1)
    checkpoint.save(manager, 6, states[2], {})
    checkpoint.wait(manager)
    _, state, _ = checkpoint.restore(manager, run.start())
    checkpoint.close(manager)
    assert not tiny.differs(state, states[2])
    chunk = jax.jit(run.runner.chunk)
    for _ in range(2):
        state, _ = chunk(state, run.hp)
    assert not tiny.differs(state, states[4])


def test_the_host_runner_has_the_memories_of_the_fused_runner():
    """Same keys, rows and batches: where steps happen changes nothing."""
    env = envs.make("probe/memory", (P, 3))
    agent, hp = probe.make(env.spec, 32), probe.Hparams(jnp.linspace(0.05, 0.2, P))
    lengths = {"unroll_length": T, "updates_per_chunk": K}
    fused = fused_runner.make(agent, env, **lengths)
    keys = random.roots(0, P)
    half = mixture.host_from_pure(env, random.at(keys, 0, random.ENV))
    hosted = host_runner.make(agent, [half], **lengths)
    ends = []
    for runner, chunk in ((fused, jax.jit(fused.chunk)), (hosted, hosted.chunk)):
        state = runner.init(keys, hp)
        for _ in range(2):
            state, _ = chunk(state, hp)
        ends.append(jax.device_get((state.learner, state.memory)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, 1e-5, 1e-6), *ends)
    assert ends[0][1].error.any()


@pytest.mark.parametrize("at_once", [1, pytest.param(None, marks=pytest.mark.slow)])
def test_memories_are_split_over_devices_with_their_members(at_once, tiny, together):
    """Four members on four devices: the same numbers, and no device asks another."""
    run, (start, *_) = together
    mesh = sharding.make_mesh(P, 2 * SLOTS, jax.devices()[:P])
    assert dict(mesh.shape) == {"pop": P, "slot": 1}
    shared = make(tiny, mesh=mesh, at_once=at_once)
    layout = sharding.run_state_shardings(start, mesh, P)
    spec = jax.sharding.PartitionSpec("pop")
    assert {x.spec for x in jax.tree.leaves(layout.memory)} == {spec}
    hp = jax.device_put(run.hp, sharding.shardings(run.hp, mesh, P))
    jitted = jax.jit(shared.runner.chunk, out_shardings=(layout, None))
    state = jax.device_put(start, layout)
    text = jitted.lower(state, hp).compile().as_text()
    assert not any(x in text for x in ("all-gather", "all-to-all", "permute("))
    # Environments ask whether any slot is to be reset, which is no number of a memory.
    reduced = [line for line in text.splitlines() if " all-reduce(" in line]
    assert not any("f32[" in line or "s32[" in line for line in reduced)
    for _ in range(4):
        state, _ = jitted(state, hp)
    x, y = tiny.leaves(state), tiny.leaves(together[1][-1])
    for path in x:
        np.testing.assert_allclose(x[path], y[path], 1e-5, 1e-5, err_msg=path)


def test_a_donated_state_is_gone_and_its_memory_with_it(tiny):
    """Nothing in a fresh state shares a buffer: all of it can be donated at once."""
    run = make(tiny)
    state = run.start()
    jax.jit(run.runner.chunk, donate_argnums=0)(state, run.hp)
    assert all(x.is_deleted() for x in jax.tree.leaves(state.memory))
