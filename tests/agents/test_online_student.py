"""A student that follows its teacher: when it is scored, whom it follows, what it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import config, envs, errors, hparams, random, types
from mtrl_jax.agents import pqn
from mtrl_jax.agents.common import learning, online_student
from mtrl_jax.engine import fused_runner
from mtrl_jax.networks import q_network

SLOTS, EVERY, CHUNKS = 4, 5, 12
KIND = q_network.QNetworkConfig(hidden=(8,))


def rollout(task, last, reward):
    """Returns a rollout [T + 1, B] of these ``[T, B]``; what comes last is not counted."""
    more = np.zeros((1, *np.shape(task)[1:]))
    task, last, reward = (np.concatenate([x, more]) for x in (task, last, reward))
    first = np.zeros_like(last)
    ts = types.TimeStep(
        (), jnp.float32(reward), (), first > 0, last > 0, jnp.int32(task), ()
    )
    return types.Rollout(ts, (), (), ())


def state(scores=0, score=0.0):
    none = jnp.zeros(2)
    teacher = {"w": jnp.zeros(())}
    return online_student.State(
        (), teacher, jnp.float32(score), jnp.int32(scores), none, none
    )


def scored(before, returns, due, name=1.0, tasks=(0, 1)):
    """Returns the state after an update in which each task's slot ended one episode."""
    ended = [[x is not None for x in returns]]
    given = np.array([[x or 0.0 for x in returns]])
    made = rollout(np.array([tasks]), np.array(ended), np.zeros_like(given))
    return online_student.scored(
        before, {"w": jnp.float32(name)}, made, jnp.asarray(given), jnp.bool_(due)
    )


def test_the_best_teacher_is_the_one_of_the_highest_score():
    """The first score counts whatever it is; a lower one changes nothing but the count."""
    now = scored(state(), (-4.0, -2.0), due=False)
    assert now.scores == 0 and now.best["w"] == 0
    now = scored(now, (-2.0, -2.0), due=True)
    # Means of the tasks' means: (-3 and -2) / 2.
    assert (now.scores, now.score, now.best["w"]) == (1, -2.5, 1)
    assert not now.episodes.any() and not now.returns.any()
    worse = scored(now, (-3.0, -3.0), due=True, name=2.0)
    assert (worse.scores, worse.score, worse.best["w"]) == (2, -2.5, 1)
    better = scored(worse, (0.0, 1.0), due=True, name=3.0)
    assert (better.scores, better.score, better.best["w"]) == (3, 0.5, 3)


def test_a_score_waits_for_an_episode_of_every_task_that_is_played():
    """Else a mixture would be judged by its shortest episodes."""
    now = scored(state(), (5.0, None), due=True)
    assert now.scores == 0 and now.episodes.tolist() == [1, 0]
    now = scored(now, (None, 1.0), due=True)
    assert (now.scores, now.score) == (1, 3.0)
    alone = scored(state(), (5.0, 7.0), due=True, tasks=(1, 1))
    assert (alone.scores, alone.score) == (1, 6.0)


def test_a_return_is_that_of_the_episode_so_far():
    """The reward of a first step is of no episode."""
    ts = types.TimeStep((), jnp.array([1.0, 2.0]), (), jnp.array([False, True]), *"abc")
    assert online_student.returned(jnp.array([3.0, 3.0]), ts).tolist() == [4.0, 0.0]


@functools.cache
def run(student):
    """Returns (env, agent, learners in the end, metrics [CHUNKS, P]) of two members."""
    env = envs.make("probe/both", (2, SLOTS))
    settings = pqn.Config(
        network=q_network.QNetworkConfig(hidden=(16,)), student=student
    )
    agent = pqn.make(env.spec, settings)
    runner = fused_runner.make(agent, env, unroll_length=8, updates_per_chunk=EVERY)
    given = {"learning_rate": 1e-2, "student_learning_rate": 1e-2}
    given |= {"score_period": EVERY, "epsilon_updates": 20.0}
    hp = hparams.override(pqn.Hparams(), given)
    hp = jax.tree.map(lambda x: jnp.full(2, x, jnp.float32), hp)
    start = jax.jit(runner.init)(random.roots(0, 2), hp)
    chunk, found = jax.jit(runner.chunk), []
    for _ in range(CHUNKS):
        start, out = chunk(start, hp)
        found.append(jax.device_get(out.metrics))
        if student is not None:
            best, newest = start.learner.stats.best, start.learner.params
            same = jax.tree.map(np.array_equal, best, newest)
            found[-1]["is_newest"] = all(jax.tree.leaves(same))
    metrics = {name: np.stack([x[name] for x in found]) for name in found[0]}
    return env, agent, jax.device_get(start.learner), metrics


def test_the_student_learns_what_the_best_teacher_does():
    """It agrees with it in nearly every state in the end, and is still no copy of it."""
    _, _, learner, metrics = run(KIND)
    follows = learner.stats
    assert (follows.scores == CHUNKS).all()
    best = metrics["best_score"]
    assert (np.diff(best, axis=0)[1:] >= 0).all() and (best[-1] <= follows.score).all()
    # The first score comes with the last update of the first chunk, of what played.
    assert not metrics["is_newest"].any()
    kl = metrics["student_kl"]
    assert (kl[-3:].mean(0) < 0.5 * kl[1:3].mean(0)).all()
    assert metrics["student_accuracy"][-1].mean() > 0.9
    own, teacher, best = (
        sum(x.size for x in jax.tree.leaves(params))
        for params in (follows.learner.params, learner.params, follows.best)
    )
    assert own < teacher == best


def test_it_follows_the_best_teacher_from_the_first_score_on():
    """KL(softmax(q* / τ) ‖ softmax(s)) at its own rate, whatever the newest teacher."""

    def apply(params, obs, task, legal):
        return jnp.broadcast_to(params[None], legal.shape)[..., None]

    network = q_network.QNetwork(lambda key: jnp.array([0.0, 1.0, 5.0]), apply, None)
    follower = online_student.Student(
        network, lambda *args: apply(*args)[..., 0], 2, "adam"
    )
    given = {"student_tau": 0.5, "student_learning_rate": 0.25, "learning_rate": 9.0}
    hp = hparams.override(pqn.Hparams(), given | {"adam_eps": 1e-8})
    live = np.array([True, True, False])
    legal = np.array([[True, True, False]] * 3)
    rows = pqn.Batch((), np.zeros(3, int), legal, np.zeros(3, int), np.zeros(3), live)
    none = np.zeros((1, 2))

    @jax.jit
    def followed(scores):
        before = follower.init(jax.random.key(0), jnp.array([2.0, 0.0, 0.0]), hp)
        after, metrics = follower.follow(
            before._replace(scores=scores), jnp.array([-9.0, 9.0, 0.0]), jnp.int32(1),
            rollout(none, none, none), none[..., None][0].T, rows,
            jax.random.key(0), hp, epochs=1, minibatches=1,
        )  # fmt: skip
        return after.learner.params, metrics

    params, metrics = followed(jnp.int32(0))
    assert params.tolist() == [0, 1, 5] and metrics["student_kl"] == 0
    params, metrics = followed(jnp.int32(1))
    p, own = (np.exp(x) / np.exp(x).sum() for x in (np.array([4, 0]), np.array([0, 1])))
    expected = np.sum(p * np.log(p / own))
    np.testing.assert_allclose(metrics["student_kl"], expected, rtol=1e-5)
    assert metrics["student_accuracy"] == 0
    np.testing.assert_allclose(params, [0.25, 0.75, 5.0], rtol=1e-4)


def test_in_a_test_the_student_may_act():
    """From 0.5 on; what is noted down is what the one that acts says, but for the value,
    which the teacher learns from."""
    env, agent, learner, _ = run(KIND)
    one = jax.tree.map(lambda x: jnp.asarray(x[0]), learner)
    _, ts = env.reset(random.roots(0, 2), env.params)
    ts = jax.tree.map(lambda x: x[0], ts)
    key, carry, values = jax.random.key(0), agent.carry(SLOTS), []
    for acts, (params, kind) in {
        0.4: (one.params, q_network.QNetworkConfig(hidden=(16,))),
        0.5: (one.stats.learner.params, KIND),
    }.items():
        hp = hparams.override(pqn.Hparams(), {"student": acts})
        _, _, noted = agent.act(one, carry, ts, key, hp)
        made = q_network.make(env.spec, kind, env.spec.action.n)
        q = made.apply(params, ts.obs, ts.task, ts.action_mask)[..., 0]
        np.testing.assert_allclose(noted.q, q, rtol=1e-5, atol=1e-6)
        values.append(noted.value)
    np.testing.assert_array_equal(*values)


@pytest.mark.slow
def test_a_student_changes_nothing_of_its_teacher():
    """Learned with and without one, the teacher is the same to the bit."""
    (*_, alone, found), (*_, followed, more) = run(None), run(KIND)
    assert isinstance(alone, learning.Learner) and alone.stats == ()
    jax.tree.map(np.testing.assert_array_equal, alone.params, followed.params)
    np.testing.assert_array_equal(found["loss"], more["loss"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"hparams": {"student_tau": 0.1}},
            "agent.hparams.student_tau=0.1 agent.config.student={} 0.01",
        ),
        (
            {"config": {"student": {}}, "hparams": {"student_tau": 0.0}},
            "student_tau=0 1e-06",
        ),
        ({"config": {"student": {"hidden": []}}}, "student.hidden positive size"),
        ({"config": {"student": {"core": "lstm"}}}, "student.core unknown"),
    ],
)
def test_a_student_that_cannot_be_is_refused(given, words):
    """One line: the field, what was given, what would work."""
    from mtrl_jax.experiments import online

    settings = {"tasks": [{"env": "probe/both"}], "agent": {"name": "pqn", **given}}
    with pytest.raises(errors.ConfigError) as caught:
        online.make_program(config.from_dict(settings))
    missing = [word for word in words.split() if word not in str(caught.value)]
    assert not missing, caught.value
