"""Normalised observations: the statistics, and that agents act and learn by them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtrl_jax import agents, types
from mtrl_jax.agents.common import observation_scale
from mtrl_jax.engine.batched_draws import batch_draws

KEY = jax.random.key(3)
NAMES = [
    name
    for name in agents.AGENTS
    if issubclass(agents.get(name).Config, observation_scale.Config)
]
TASKS = ("both", "masked")
USED = np.array([[True, False, False], [True, True, True]])  # one entry, three


def moments():
    """Returns what is known of two tasks: four observations of the first, none."""
    mean = jnp.array([[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    variance = jnp.array([[5.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    return observation_scale.Moments(jnp.array([4.0, 0.0]), mean, variance)


def test_moments_are_those_of_all_that_was_seen_of_a_task():
    """[0, 2, 4, 6], then [1, 11]: mean 4 and variance 41/3; the other task its own."""
    x = jnp.array(
        [[1.0, 7.0, 7.0], [10.0, 0.0, -5.0], [11.0, 7.0, 7.0], [20.0, 4.0, -5.0]]
    )
    task = jnp.array([0, 1, 0, 1])
    after = jax.jit(observation_scale.merged)(moments(), x, task, USED)
    np.testing.assert_array_equal(after.seen, [6.0, 2.0])
    np.testing.assert_allclose(after.mean, [[4.0, 0.0, 0.0], [15.0, 2.0, -5.0]], 1e-6)
    np.testing.assert_allclose(
        after.variance, [[41 / 3, 1.0, 1.0], [25.0, 4.0, 0.0]], 1e-6
    )


def test_merging_in_parts_is_merging_at_once():
    """In float32, far from zero, a thousand batches on: as numpy has it in float64."""
    rng = np.random.default_rng(0)
    x = rng.normal(1e3, [1.0, 10.0, 0.1], (1000, 8, 3)).astype(np.float32)
    task = jnp.zeros(8, jnp.int32)
    used = np.ones((1, 3), bool)
    start = observation_scale.Moments(jnp.zeros(1), jnp.zeros((1, 3)), jnp.ones((1, 3)))

    @jax.jit
    def run(x):
        def step(stats, x):
            return observation_scale.merged(stats, x, task, used), None

        return jax.lax.scan(step, start, x)[0]

    found = run(x)
    whole = x.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(found.mean[0], whole.mean(0), 1e-6)
    np.testing.assert_allclose(found.variance[0], whole.var(0), 1e-2)


def test_observations_are_clipped_and_padding_stays_as_it_is():
    """(x − μ)/σ within ±10 of the step's own task; a constant entry gives 0."""
    normaliser = observation_scale.Normaliser({"vector": USED})
    known = observation_scale.Moments(
        jnp.ones(2),
        jnp.array([[1.0, 0.0, 0.0], [1.0, 2.0, 3.0]]),
        jnp.array([[4.0, 1.0, 1.0], [1.0, 1.0, 0.0]]),
    )
    vector = jnp.array([[5.0, 7.0, 0.0], [5.0, -100.0, 3.0]])
    ts = types.TimeStep(
        {"vector": vector, "image": jnp.ones((2, 1))}, *[jnp.zeros(2)] * 4,
        jnp.array([0, 1]), jnp.ones((2, 2), bool),
    )  # fmt: skip
    seen = normaliser.apply({"vector": known}, ts)
    expected = [[2.0, 7.0, 0.0], [4.0, -10.0, 0.0]]
    np.testing.assert_allclose(seen.obs["vector"], expected, 1e-5)
    np.testing.assert_array_equal(seen.obs["image"], ts.obs["image"])


def test_a_tasks_own_entries_are_what_it_has_before_padding(kit):
    """Probes of one number and of two: the second entry of the first is padding."""
    spec = kit.probe(*TASKS).spec
    sizes = [task.obs["vector"].shape[0] for task in spec.tasks]
    used = observation_scale.make(spec, True).used["vector"]
    assert used.sum(1).tolist() == sizes and used.shape[1] == max(sizes)
    assert observation_scale.make(spec, False).init() == ()


@functools.cache
def made(kit, name):
    """Returns (plain agent's Setup, normalising agent, its learner, a rollout)."""
    one = kit.setup(name, "lstm", TASKS)
    agent = kit.small(name, one.env.spec, "lstm", normalise_observations=True)
    known = {
        "vector": observation_scale.Moments(
            jnp.array([50.0, 20.0]),
            jnp.array([[0.5], [-0.25]]),
            jnp.array([[4.0], [0.25]]),
        )
    }
    fresh = jax.jit(batch_draws(agent.init))(KEY, one.hp)
    assert jax.tree.map(jnp.shape, fresh.observations) == jax.tree.map(jnp.shape, known)
    learner = one.learner._replace(observations=known)
    rollout = kit.collect(
        one._replace(act=jax.jit(agent.act)), learner=learner, tasks=TASKS
    )
    return one, agent, learner, rollout


@pytest.mark.parametrize("name", NAMES)
def test_an_agent_acts_and_learns_as_if_the_environment_were_normalised(name, kit):
    """Under the statistics it acted with; then the rollout is added to them."""
    one, agent, learner, rollout = made(kit, name)
    normaliser = observation_scale.make(one.env.spec, True)
    ts = normaliser.apply(learner.observations, rollout.ts)
    assert not np.allclose(ts.obs["vector"], rollout.ts.obs["vector"])
    plain = learner._replace(observations=())

    key, first = jax.random.fold_in(KEY, 1), jax.tree.map(lambda x: x[0], ts)
    expected = one.act(plain, one.rollout.carry, first, key, one.hp)
    raw = jax.tree.map(lambda x: x[0], rollout.ts)
    close(jax.jit(agent.act)(learner, one.rollout.carry, raw, key, one.hp), expected)

    after, metrics = kit.updater(agent)(learner, rollout, KEY, one.hp)
    expected = one.update(plain, rollout._replace(ts=ts), KEY, one.hp)
    close((after._replace(observations=()), metrics), expected)
    found = after.observations["vector"]
    vector, task = np.asarray(rollout.ts.obs["vector"])[:-1, :, 0], rollout.ts.task[:-1]
    for i, (mean, variance, count) in enumerate(((0.5, 4.0, 50), (-0.25, 0.25, 20))):
        mine = vector[np.asarray(task) == i].astype(np.float64)
        total = count + len(mine)
        new = (count * mean + mine.sum()) / total
        squares = count * (variance + mean**2) + np.square(mine).sum()
        np.testing.assert_allclose(found.seen[i], total)
        np.testing.assert_allclose(found.mean[i, 0], new, 1e-4, 1e-6)
        np.testing.assert_allclose(found.variance[i, 0], squares / total - new**2, 1e-4)


def test_without_a_vector_there_is_nothing_to_normalise(kit):
    """Refused when the agent is made, by the field's name."""
    spec = kit.probe("both_image").spec
    config = agents.get("ppo").Config(normalise_observations=True)
    with pytest.raises(
        ValueError, match=r"normalise_observations: true .*image.* false"
    ):
        agents.get("ppo").make(spec, config)


def close(x, y):
    """Asserts that two trees are the same to rounding."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-4, 1e-5), x, y)
