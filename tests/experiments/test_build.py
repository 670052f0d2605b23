"""From settings to program: what is made, on whose seeds, and what is refused early."""

import collections
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import running

from mtrl_jax import checkpoint, config, envs, errors, hparams, metrics, random, tree
from mtrl_jax.checkpoint import store
from mtrl_jax.engine import fused_runner, statistics
from mtrl_jax.envs import curriculum, envpool_pool
from mtrl_jax.experiments import environments, online, selection
from mtrl_jax.training import saved_state
from mtrl_jax.types import Agent

CARTPOLE = {
    **running.TINY,
    "tasks": [{"env": "envpool/CartPole-v1", "slots": 4}],
    "population": {"size": 2},
    "evaluation": {"every_updates": 0, "episodes": 2, "max_steps": 20},
}


def _settings(*changes, base=running.TINY):
    return config.from_dict(config.override(base, changes))


# Environments.


def test_the_halves_of_a_host_run_have_the_seeds_that_are_recorded(monkeypatch):
    """Slot by slot: what a run folder says is enough to make the same pools again."""
    calls, real = [], envs.make_host

    def make_host(name, batch, options, seed, first_slot):
        calls.append((batch, seed, first_slot))
        return real(name, batch, options, seed, first_slot)

    monkeypatch.setattr(envs, "make_host", make_host)
    settings = _settings("training.runner=host", base=CARTPOLE)
    environments.make_world(settings, f"{settings.seed}/0").close()
    halves = [
        np.reshape(envpool_pool.seeds("CartPole-v1", *call), call[0])
        for call in calls[:2]
    ]
    (record,) = environments.describe(settings).values()
    assert np.concatenate(halves, axis=1).ravel().tolist() == record["seeds"]


def test_environments_are_closed_even_if_others_cannot_be(monkeypatch):
    """Both halves and the test's: a pool that stays open holds its threads and memory."""
    closed, real = [], envs.make_host

    def make_host(*given):
        def close():
            closed.append(given[1])
            raise OSError("it does not close")

        return real(*given)._replace(close=close)

    monkeypatch.setattr(envs, "make_host", make_host)
    settings = _settings("training.runner=host")
    world = environments.make_world(settings, "0/0")
    with pytest.raises(OSError, match="does not close"):
        world.close()
    assert len(closed) == 3 * len(settings.tasks)


def test_every_test_of_a_host_run_has_episodes_of_its_own():
    """By the update it is after; a resumed run's, whose pools have others, has the same."""
    settings = _settings("training.runner=host")
    state = types.SimpleNamespace(learner=jnp.zeros(4), key=random.roots(1, 4))
    seen = []
    for restart, step in ((0, 8), (0, 16), (8, 16)):
        world = environments.make_world(settings, f"{settings.seed}/{restart}")
        restarted = world.test.restart
        watched = world.test._replace(
            restart=lambda key, begin=restarted: seen.append(begin(key)) or seen[-1]
        )
        idle = _idle(world.spec)
        evaluate = selection.make_evaluate(settings, idle, world._replace(test=watched))
        state.step = jnp.int32(step)
        evaluate(state, collections.namedtuple("Hparams", ())())
    first, second, again = (np.asarray(ts.obs["vector"]) for ts in seen)
    assert (first != second).any()
    np.testing.assert_array_equal(second, again)


def test_recent_returns_stay_with_their_tasks_under_another_runner():
    """Slots are task by task in the program and half by half from Python."""
    worlds = [
        environments.make_world(_settings(f"training.runner={runner}"), "0/0")
        for runner in ("host", "fused")
    ]
    host, fused = (world.spec.slot_tasks for world in worlds)
    assert (host, fused) == ((0, 1, 0, 1), (0, 0, 1, 1))
    counts = jnp.asarray([[2, 1, 2, 1]] * 4)
    recent = jnp.asarray([[[1.0, 2.0], [9.0, 0.0], [3.0, 4.0], [8.0, 0.0]]] * 4)
    zeros = jnp.zeros((4, 4), jnp.int32)
    stats = statistics.EpisodeStats(zeros, zeros, zeros, recent, counts, {})
    run = fused_runner.RunState._make([()] * len(fused_runner.RunState._fields))
    level = jnp.ones((4, 1))
    levels = curriculum.Levels(level, zeros + 2.0, zeros + 3, zeros > 0)
    saved = saved_state.Saved(run._replace(stats=stats, curriculum=levels), (), ())
    fresh = saved_state.World((), (), ())
    for was, now in ((host, fused), (host, host)):
        run = saved_state.with_world(saved, fresh, was, now).run
        found = run.stats
        mean, number = statistics.recent_mean(found, jnp.asarray([now] * 4), 2)
        np.testing.assert_array_equal(mean, [[2.5, 8.5]] * 4)
        np.testing.assert_array_equal(number, [[4, 2]] * 4)
    # The fresh episodes are of the first level: levels stay, and count from the next.
    forgotten = curriculum.Levels(level, zeros, zeros, zeros == 0)
    jax.tree.map(np.testing.assert_array_equal, run.curriculum, forgotten)


def test_a_checkpoint_says_which_slot_has_which_task(finished):
    """What a run that goes on under another runner puts its slots in order by."""
    manager = checkpoint.open_manager(finished / "checkpoints", 3, read_only=True)
    step = checkpoint.latest_step(manager)
    meta = store.read_meta(manager.orbax, step)["meta"]
    checkpoint.close(manager)
    assert meta["slot_tasks"] == [0, 0, 1, 1]


def _idle(spec):
    """Returns an agent that always does the first there is to do."""

    def act(learner, carry, ts, key, hp):
        return jnp.zeros(ts.task.shape, jnp.int32), carry, ()

    return Agent(lambda key, hp: (), lambda slots: (), act, lambda s, *_: (s, {}, ()))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            ["population.fitness.source=evaluation", "evaluation.episodes=2"],
            "min_episodes",
        ),
        (["agent={name: dqn, config: {learning_starts: 900}}"], "learn nothing"),
    ],
)
def test_what_only_plays_may_be_too_short_to_train(changes, words):
    """``mtrl evaluate --episodes 2`` of a run whose rounds ask for 4, or of old settings."""
    settings = _settings("population.pbt.min_episodes=4", *changes)
    online.make_program(settings, -1, check=False).close()
    with pytest.raises(errors.ConfigError, match=words):
        online.make_program(settings, check=False)


@pytest.mark.parametrize(
    "runner", ["fused", pytest.param("host", marks=pytest.mark.slow)]
)
def test_envpool_trains_and_resumes_at_fresh_episodes(tmp_path, runner):
    """Through the command line: saved without its world, and a line says so."""
    path, run = tmp_path / "cartpole.yaml", tmp_path / "run"
    path.write_text(config.dump(_settings(f"training.runner={runner}", base=CARTPOLE)))
    outcome = running.mtrl("train", path, "training.env_steps=320", "--run-dir", run)
    assert outcome.code == 0, outcome.err
    outcome = running.mtrl("resume", run, "training.env_steps=640")
    assert outcome.code == 0, outcome.err
    assert "cannot be restored" in outcome.err
    rows = running.rows(run)
    assert [row["update"] for row in rows] == list(range(2, running.UPDATES + 1, 2))
    summary = metrics.read_summary(run)
    assert summary["totals"]["runner"] == runner
    # CartPole pays 1 a step, so a return is a length.
    returns = metrics.read_metrics(run).returns["envpool/CartPole-v1"]
    assert np.nanmin(returns) >= 8
    assert np.nanmax(returns) < 200
    # It goes on at update 20 with other seeds than at 0.
    (record,) = summary["environments"].values()
    (first,) = environments.describe(_settings(base=CARTPOLE)).values()
    assert record["seeds"] != first["seeds"]
    assert record.keys() == first.keys()


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["fused", "host"])
def test_minigrid_and_gymnax_train_together(tmp_path, runner):
    """Pixels of a pool and vectors of a pure task are one mixture, whatever steps it."""
    path, run = tmp_path / "mixture.yaml", tmp_path / "run"
    tasks = [
        {"env": "envpool/MiniGrid-Empty-5x5-v0", "slots": 2},
        {"env": "gymnax/Catch-bsuite", "slots": 2},
    ]
    settings = _settings(f"training.runner={runner}", base={**CARTPOLE, "tasks": tasks})
    path.write_text(config.dump(settings))
    outcome = running.mtrl("train", path, "training.env_steps=320", "--run-dir", run)
    assert outcome.code == 0, outcome.err
    assert np.isfinite(metrics.read_metrics(run).returns["gymnax/Catch-bsuite"]).any()


def test_minigrid_and_gymnax_are_one_mixture():
    """Observations are padded over both, actions to the most, masks say whose is whose."""
    tasks = [
        {"env": "envpool/MiniGrid-Empty-5x5-v0", "slots": 2},
        {"env": "gymnax/Catch-bsuite", "slots": 3},
    ]
    settings = _settings(base={**CARTPOLE, "tasks": tasks})
    env = environments.make_env(settings, environments.tasks_of(settings), "seed")
    assert env.batch == (2, 5)
    assert not env.pure
    assert [task.name for task in env.spec.tasks] == [task["env"] for task in tasks]
    _, ts = env.reset(random.roots(0, 2), env.params)
    np.testing.assert_array_equal(ts.task[0], [0, 0, 1, 1, 1])
    assert ts.action_mask.sum(-1)[0].tolist() == [7, 7, 3, 3, 3]
    assert {name: x.shape[2:] for name, x in ts.obs.items()} == {
        name: leaf.shape for name, leaf in env.spec.obs.items()
    }


def test_a_suite_is_its_environments():
    """Every one of them gets the slots and options of the suite's line."""
    settings = _settings("tasks=[{suite: minatar, slots: 3}, {env: probe/action}]")
    tasks = environments.tasks_of(settings)
    assert [task.env for task in tasks] == [*envs.suite("minatar"), "probe/action"]
    assert [task.slots for task in tasks] == [3, 3, 3, 3, 32]
    assert tasks[0].field == "tasks.0"


def test_training_and_testing_have_seeds_of_their_own(monkeypatch):
    """So have the tasks of a mixture, two runs, and a run that is resumed."""
    seeds, make = [], envs.make

    def noted(env, batch, options, seed):
        seeds.append(seed)
        return make(env, batch, options, seed)

    monkeypatch.setattr(envs, "make", noted)
    # As where nothing is pure: keys decide there, seeds do not.
    monkeypatch.setattr(envs, "pure_task", lambda *_: None)
    for seed in (0, 1):
        for restart in (0, 20):
            online.make_program(_settings(f"seed={seed}"), restart, check=False)
    # Two runs begun or resumed, two tasks, to train on and to test on.
    assert len(set(seeds)) == len(seeds) == 16


def test_pure_tasks_that_are_mixed_with_envpool_do_not_begin_again_either():
    """They are not restored: a run that goes on plays others, one that begins the same."""
    tasks = [
        {"env": f"{family}/CartPole-v1", "slots": 4} for family in ("gymnax", "envpool")
    ]
    settings = _settings(base=CARTPOLE | {"tasks": tasks})
    seen = {}
    for restart in (0, 2, -1):
        program = online.make_program(settings, restart, make_agent=_idle, check=False)
        ts = program.init(program.hparams).ts
        seen[restart] = np.asarray(ts.obs["vector"])[:, :4]
    assert (seen[0] != seen[2]).any(axis=-1).all()
    np.testing.assert_array_equal(seen[0], seen[-1])


def test_cpus_step_everything_inside_the_program():
    """auto is fused on a CPU; on an accelerator envpool is stepped by the host."""
    settings = _settings(base=CARTPOLE)
    tasks = environments.tasks_of(settings)
    assert environments.runner_kind(settings, tasks) == "fused"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(environments.jax, "default_backend", lambda: "gpu")
        assert environments.runner_kind(settings, tasks) == "host"
        pure = _settings()
        assert environments.runner_kind(pure, environments.tasks_of(pure)) == "fused"


# Pieces.


@pytest.fixture(scope="module")
def program():
    return online.make_program(_settings())


@pytest.fixture
def state(program):
    """The first state of the program."""
    return program.init(program.hparams)


def test_an_agent_is_traced_before_anything_is_written():
    """What an agent finds out about its sizes is a ConfigError that names the field."""
    changes = ["agent={name: ppo, config: {minibatches: 3}}"]
    with pytest.raises(
        errors.ConfigError, match=r"^agent\.config\.minibatches: 3 does not"
    ):
        online.make_program(_settings(*changes))
    online.make_program(_settings(*changes, "training.unroll_length=3"))


def test_shapes_are_those_of_the_first_state(program, state):
    """Names, dtypes and devices, without making it: what a run is restored by."""
    made, known = checkpoint.abstract(state), program.shapes(program.hparams)
    assert jax.tree.structure(made) == jax.tree.structure(known)
    for x, y in zip(jax.tree.leaves(made), jax.tree.leaves(known)):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
        assert x.sharding.is_equivalent_to(y.sharding, len(x.shape))


def test_a_members_state_does_not_depend_on_the_others(program, state):
    """Member p's keys, hyperparameters and weights are those of a smaller population."""
    small = online.make_program(_settings("population.size=2", "population.pbt=null"))
    fewer = small.init(small.hparams)
    for few, many in zip(
        jax.tree.leaves(fewer.learner), jax.tree.leaves(state.learner)
    ):
        np.testing.assert_allclose(few, many[:2], rtol=1e-6)
    np.testing.assert_array_equal(
        jax.random.key_data(fewer.key), jax.random.key_data(state.key)[:2]
    )
    np.testing.assert_allclose(
        hparams.flatten(small.hparams)["learning_rate"],
        hparams.flatten(program.hparams)["learning_rate"][:2],
        rtol=1e-6,
    )


def test_evaluation_hparams_act_in_evaluations_alone(program, state):
    """They replace the members' values there: temperature 0 makes the policy greedy."""
    greedy = online.make_program(_settings("evaluation.hparams.temperature=0"))
    cold = hparams.override(program.hparams, {"temperature": 0.0})
    expected = program.evaluate(state, cold)
    given = greedy.evaluate(state, greedy.hparams)
    np.testing.assert_array_equal(given.returns, expected.returns)
    warm = program.evaluate(state, program.hparams)
    assert np.any(np.asarray(warm.returns) != np.asarray(expected.returns))
    np.testing.assert_array_equal(
        hparams.flatten(greedy.hparams)["temperature"], np.ones(4)
    )


def test_evaluations_draw_from_keys_of_their_own(program, state):
    """The same update gives the same episodes, the next one others."""
    first = program.evaluate(state, program.hparams).returns
    np.testing.assert_array_equal(
        first, program.evaluate(state, program.hparams).returns
    )
    later = state._replace(step=state.step + 1)
    assert np.any(
        np.asarray(first)
        != np.asarray(program.evaluate(later, program.hparams).returns)
    )


@pytest.mark.parametrize(
    ("limits", "given", "steps"),
    [
        ([3, 9], None, 9),
        ([3, None], None, 10_000),
        ([3, 9], 4, 4),
        ([3, 9], 2**31 - 1, 9),
        ([3, None], 20_000, 20_000),
    ],
)
def test_an_evaluation_has_the_steps_of_its_longest_task(
    limits, given, steps, monkeypatch
):
    """Of those that have one; others are cut, and all where a setting says so."""
    made = []
    monkeypatch.setattr(
        selection.evaluate, "make", lambda agent, env, *given: made.append(given)
    )
    changes = [f"evaluation.max_steps={given}"] if given else []
    selection.make_evaluate(_settings(*changes), None, _limited(limits))
    assert made == [(steps, 1)]


def _limited(limits):
    """Returns a world of tasks with these limits that nobody plays in."""
    tasks = [types.SimpleNamespace(name="x", max_steps=limit) for limit in limits]
    spec = types.SimpleNamespace(tasks=tasks)
    env = types.SimpleNamespace(spec=spec, pure=True, reset=lambda *_: None)
    return types.SimpleNamespace(kind="fused", test=env)


@pytest.mark.parametrize(
    ("limits", "given", "said"),
    [
        ([3, 9], None, None),
        ([3, 9], 9, None),
        (
            [3, 9],
            8,
            "x may last 9 steps, .*give evaluation.max_steps=9 or more, or rou",
        ),
        ([3, None], None, "x may last any number of steps, .*give rounds=1"),
        ([3, None], 20, "x may last any number of steps, .*give rounds=1"),
        (
            [3, 2**30],
            None,
            "of 1073741824 steps each .*too many to count; give at most 1",
        ),
    ],
)
def test_rounds_are_refused_where_a_slot_may_not_come_to_all_of_them(
    limits, given, said, monkeypatch
):
    """What has not begun has no return, and who was fast would have more than who was slow."""
    made = []
    monkeypatch.setattr(
        selection.evaluate, "make", lambda agent, env, *given: made.append(given)
    )
    changes = [f"evaluation.max_steps={given}"] if given else []
    changes += ["evaluation.episodes=4", "evaluation.rounds=2"]
    if said is None:
        selection.make_evaluate(_settings(*changes), None, _limited(limits))
        assert made == [(9, 2)]
        return
    with pytest.raises(errors.ConfigError, match=rf"evaluation\.rounds=2: .*{said}"):
        selection.make_evaluate(_settings(*changes), None, _limited(limits))
    assert not made


def test_a_replaced_member_takes_nothing_broken_with_it(program, state):
    """Weights come from a finite member, the memory is fresh, keys and slots stay."""
    poison = lambda x: x.at[1].set(jnp.nan) if x.dtype == jnp.float32 else x  # noqa: E731
    begun = state.stats._replace(
        partial_return=jnp.ones_like(state.stats.partial_return),
        recent_count=jnp.ones_like(state.stats.recent_count),
    )
    broken = state._replace(
        learner=jax.tree.map(poison, state.learner),
        carry=jax.tree.map(jnp.ones_like, state.carry),
        stats=begun,
    )
    after, hp, lineage, record = jax.jit(program.pbt_step)(
        broken, program.hparams, program.lineage, None
    )
    assert record.finite.tolist() == [True, False, True, True]
    source = int(record.source[1])
    assert source != 1
    assert bool(tree.all_finite((after.learner, hp)))
    for memory in jax.tree.leaves(after.carry):
        assert np.asarray(memory).reshape(4, -1).any(1).tolist() == [1, 0, 1, 1]
    for old, new in zip(jax.tree.leaves(state.learner), jax.tree.leaves(after.learner)):
        np.testing.assert_array_equal(new[1], old[source])
    # Nor what is known of its episodes.
    copied = np.asarray(record.source) != np.arange(4)
    forgotten = statistics.forget(begun, jnp.asarray(copied))
    jax.tree.map(np.testing.assert_array_equal, after.stats, forgotten)
    assert np.asarray(after.stats.recent_count).any(1).tolist() == (~copied).tolist()
    kept = [(s.key, s.env, s.ts) for s in (state, after)]
    for old, new in zip(*map(jax.tree.leaves, kept)):
        assert bool(jnp.all(old == new))
    assert lineage.ancestor.tolist()[1] == source


@pytest.mark.parametrize(("axis", "devices"), [("slot", 2), ("population", 1)])
def test_members_with_a_task_each_are_on_one_cpu_device(axis, devices):
    """Split over several they would meet at every step of the environments."""
    changes = f"population.axis={axis}", "population.size=2", "population.pbt=null"
    program = online.make_program(_settings(*changes), check=False)
    leaf = jax.tree.leaves(program.hparams)[0]
    assert len(leaf.sharding.device_set) == devices
