"""A trained run from Python: what its members do is what the run's own environments saw."""

import importlib.util
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import running
import staged_runs
import yaml

import mtrl_jax
from mtrl_jax import envs, errors, hparams, metrics, random, types
from mtrl_jax.engine import population
from mtrl_jax.experiments import environments, kinds, policies, reading
from mtrl_jax.plots import run_series

pytestmark = pytest.mark.usefixtures("cached")
# Two tasks of other sizes and spaces, a memory, and a run that plays greedily in tests;
# 3 members live on one device of 8: programs of several are compiled for longer.
MIXED = {
    "tasks": [
        {"env": "probe/memory", "slots": 2},
        {"env": "probe/action_factorised", "slots": 2},
    ],
    "agent": {
        "name": "impala",
        "config": {"optimiser": "adam", "network": {"hidden": [8], "core": "gru"}},
    },
    "population": {"size": 3},
    "training": {"env_steps": 64, "unroll_length": 4, "updates_per_chunk": 2},
    "evaluation": {"every_updates": 0, "episodes": 4, "hparams": {"temperature": 0.0}},
    "logging": {"tensorboard": False, "plots": False},
}


@pytest.fixture(name="mixed", scope="module")
def _mixed(tmp_path_factory):
    """The folder of a run of both tasks."""
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "mixed.yaml").write_text(yaml.safe_dump(MIXED))
    outcome = running.mtrl("train", folder / "mixed.yaml", "--run-dir", folder / "run")
    assert outcome.code == 0, outcome.err
    return folder / "run"


@pytest.fixture(name="played", scope="module")
def _played(mixed):
    """Time steps and padded actions [B, ...] of member 1 at greedy play in the mixture."""
    run, config = reading.with_environments(mixed)
    with kinds.restored(run, config) as (_, program, saved):
        tasks = environments.tasks_of(config)
        env = environments.make_env(config, tasks, "played")
        agents = population.population(program.agent, env.batch[0])
        hp = hparams.override(saved.hparams, {"temperature": 0.0})
        roots = random.roots(1, env.batch[0])
        state, ts = jax.jit(env.reset)(roots, env.params)
        carry, seen = agents.carry(env.batch[1]), []
        act, step = jax.jit(agents.act), jax.jit(env.step)
        for t in range(7):
            action, carry, _ = act(
                saved.run.learner, carry, ts, random.fold(roots, t), hp
            )
            seen.append((ts, action))
            state, ts = step(state, action, env.params)
    return [jax.tree.map(lambda x: np.asarray(x)[1], one) for one in seen]


@pytest.mark.parametrize(("task", "slot"), [(0, 1), (1, 2)])
def test_a_policy_acts_as_the_member_does_in_the_mixture(mixed, played, task, slot):
    """On the task's own observations, with its memory; actions are the task's own."""
    run = mtrl_jax.load(mixed)
    policy = run.policy(1, run.tasks[task])
    own = run.spec.tasks[task]
    twins = run.policy(1, run.tasks[task], batch=2)
    for ts, action in played:
        obs = {n: ts.obs[n][slot][: x.shape[0]] for n, x in own.obs.items()}
        given = ts.reward[slot], bool(ts.last[slot])
        found = policy(obs, *given)
        assert found.shape == types.action_shape(own.action).shape
        is_discrete = isinstance(own.action, types.Discrete)
        expected = action[slot][0] if is_discrete else action[slot]
        np.testing.assert_array_equal(found, expected)
        both = twins(jax.tree.map(lambda x: np.stack([x, x]), obs), *given)
        np.testing.assert_array_equal(both, np.stack([expected] * 2))


def test_the_pure_form_is_scanned_and_gives_what_calls_give(mixed):
    """A carry goes in and comes out; reset forgets."""
    run = mtrl_jax.load(mixed)
    policy = run.policy(0, "probe/memory")
    shown = jnp.asarray([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])

    def step(carry, x):
        obs, first = x
        action, carry = policy.act(carry, obs, jax.random.key(0), first)
        return carry, (action, jax.tree.leaves(carry)[0])

    first = jnp.arange(4) == 0
    _, (scanned, memories) = jax.lax.scan(step, policy.carry(), (shown, first))
    assert np.ptp(np.asarray(memories), axis=0).max() > 0
    for _ in range(2):
        np.testing.assert_array_equal([policy(obs) for obs in shown], scanned)
        policy.reset()


@pytest.mark.parametrize("batch", [None, 2])
def test_an_agent_is_shown_what_came_with_an_observation(batch):
    """A limit of time is no end of all returns; a first step has no reward."""
    spec = envs.make("probe/memory", (1, 1)).spec

    def act(learner, carry, ts, key, hp):
        del learner, carry, hp
        return ts.task, (ts._replace(obs=()), jax.random.key_data(key)), ()

    agent = types.Agent(None, lambda slots: (), act, None)
    policy = policies.Policy(agent, spec, 0, (), (), batch=batch)
    obs, keys = np.zeros((batch or 1, 2))[0 if batch is None else ...], []
    ended = True  # Of nothing: the first observation is an episode's first.
    for terminated, truncated in ((0, 0), (0, 1), (0, 0), (1, 0), (0, 0), (0, 0)):
        policy(obs, 5.0, bool(terminated), bool(truncated))
        ts, key = policy._carry
        keys.append(tuple(np.ravel(key)))
        for name, expected in (
            ("first", ended),
            ("reward", 0.0 if ended else 5.0),
            ("discount", 1.0 - terminated),
            ("last", bool(terminated or truncated)),
        ):
            np.testing.assert_array_equal(getattr(ts, name), [expected] * (batch or 1))
        ended = bool(terminated or truncated)
    assert len(set(keys)) == len(keys)
    other = policies.Policy(agent, spec, 0, (), (), batch=batch, seed=1)
    other(obs)
    assert tuple(np.ravel(other._carry[1])) not in keys
    other(obs, action_mask=[False, True])
    mask = other._carry[0].action_mask
    np.testing.assert_array_equal(mask, [[False, True]] * (batch or 1))


def test_a_run_gives_what_its_members_learned(finished):
    """Parameters, hyperparameters and rows of each member; the best by default."""
    run = mtrl_jax.load(finished)
    summary = json.loads((finished / "summary.json").read_text())
    assert run.best == summary["best_member"]
    assert run.update == running.UPDATES and run.members == 4
    assert run.tasks == ("probe/action", "probe/memory")
    best, others = run.params(), [run.params(i) for i in range(4)]
    for x, y in zip(jax.tree.leaves(best), jax.tree.leaves(others[run.best])):
        np.testing.assert_array_equal(x, y)
    assert all(x.shape == y.shape for x, y in zip(*map(jax.tree.leaves, others[:2])))
    last = running.rows(finished)[-1]["hparams"]["learning_rate"]
    found = [run.hparams(i)["learning_rate"] for i in range(4)]
    assert min(found) > 1e-4 and len(set(found)) > 1
    # A round of PBT after the last row may have changed some of them.
    assert any(np.isclose(found, last, rtol=1e-6))
    assert run.folder.name in repr(run) and "best" in repr(run)


def test_a_summary_of_older_weights_does_not_say_who_is_best(finished, tmp_path):
    """Of a run that goes on: those that are saved now have the episodes of now."""
    run = shutil.copytree(finished, tmp_path / "run")
    summary = metrics.read_summary(run)
    best = summary["best_member"]
    other = (best + 1) % 4
    for updates, expected in ((running.UPDATES, other), (running.UPDATES - 2, best)):
        totals = {**summary["totals"], "updates": updates}
        metrics.write_summary(run, {**summary, "totals": totals, "best_member": other})
        assert mtrl_jax.load(run).best == expected
        assert (run_series.load(run).best == other) == (expected == other)


def test_metrics_are_a_frame(finished):
    """One row for each chunk and member, columns by what they measure."""
    pytest.importorskip("pandas")
    frame = mtrl_jax.load(finished).metrics()
    rows = running.rows(finished)
    assert frame.index.names == ["update", "member"] and len(frame) == 4 * len(rows)
    at = rows[3]["update"]
    expected = rows[3]["returns"]["probe/action"]
    found = frame.loc[at]["return/probe/action"]
    np.testing.assert_allclose(found, np.array(expected, float))
    assert frame.loc[(at, 2), "hparams/learning_rate"] == pytest.approx(
        rows[3]["hparams"]["learning_rate"][2]
    )
    assert frame["evaluation/probe/memory"].notna().any()


def test_without_pandas_it_is_named(finished, monkeypatch):
    """With what to install, and what does without."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == "pandas" else found(name),
    )
    with pytest.raises(errors.ConfigError, match=r"pip install mtrl-jax\[pandas\]"):
        mtrl_jax.load(finished).metrics()


@pytest.mark.parametrize("stage", staged_runs.NAMES)
def test_every_kind_of_stage_is_loaded_by_its_folder(staged, stage):
    """Learners of a collect stage, what was made of their steps, the frozen weights."""
    run = mtrl_jax.load(staged_runs.stage_of(staged, stage))
    assert run.config.name == stage
    policy = run.policy(task=run.tasks[0])
    obs = {n: np.zeros(x.shape, x.dtype) for n, x in policy.task.obs.items()}
    assert 0 <= int(policy(obs)) < policy.task.action.n
    assert jax.tree.leaves(run.params())


def test_what_cannot_be_loaded_or_played_is_one_line(mixed, staged, tmp_path):
    """It names what would work."""
    for folder, said in (
        (tmp_path, "no run here"),
        (staged, "of source, model, in_context"),
        (staged_runs.stage_of(staged, "other"), "no run here"),
    ):
        with pytest.raises(errors.ConfigError, match=said):
            mtrl_jax.load(folder)
    shutil.copy(mixed / "config.yaml", tmp_path / "config.yaml")
    with pytest.raises(errors.ConfigError, match="there is no checkpoint"):
        mtrl_jax.load(tmp_path)
    run = mtrl_jax.load(mixed)
    for ask, said in (
        (lambda: run.policy(3, "probe/memory"), "member=3: the run has members 0 to 2"),
        (lambda: run.policy("0", "probe/memory"), "member='0': the run has members 0"),
        (lambda: run.policy(task="probe/memory", seed=2**70), "seed=.*give 0 to"),
        (lambda: run.policy(), "task=None: give one of probe/memory, probe/action_f"),
        (lambda: run.policy(task="probe/memori"), "did you mean"),
        (lambda: run.policy(task="probe/memory", batch=0), "batch=0: give at least 1"),
    ):
        with pytest.raises(errors.ConfigError, match=said):
            ask()
    # As argmax gives it.
    same = jax.tree.map(np.array_equal, run.learner(np.int64(1)), run.learner(1))
    assert all(jax.tree.leaves(same))
    policy = run.policy(task="probe/memory", batch=2)
    for given, said in (
        (np.zeros(2), r"probe/memory shows vector float32\[2\]"),
        (np.zeros((3, 2)), "a batch of 2 has it in front"),
        (np.zeros((2, 2, 2, 2)), "got image"),
        (None, "obs: got no arrays; give vector$"),
        ("left", "obs: got no arrays; give vector$"),
    ):
        with pytest.raises(ValueError, match=said):
            policy(given)
    with pytest.raises(ValueError, match=r"action_mask: got \[5\]"):
        policy(np.zeros((2, 2)), action_mask=np.ones(5))
